"""Whether the statistics keep what they promise: simulated evaluations whose truth is known.

    python benchmarks/coverage.py
    python benchmarks/coverage.py --simulations 5000 --prompts 50

Prompts have difficulties of their own; a set has one pair per prompt, or one to four that share the prompt's
difficulty. 95% intervals should contain the truth 95% of the time, and tests of two equal models should find a
difference 5% of the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rm_experiments.evaluation.comparing import Scores
from rm_experiments.evaluation.statistics import mean_interval, paired_difference

Floats = NDArray[np.float64]
LEVEL = 0.05
_RESAMPLES = 2000


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=2000, help="(default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=200, help="(default: %(default)s)")
    arguments = parser.parse_args()
    print(f"{arguments.simulations} simulations of {arguments.prompts} prompts; the standard error of a share of .05 "
          f"is {np.sqrt(0.05 * 0.95 / arguments.simulations):.4f}")  # fmt: skip
    print(f"{'95% intervals that contain the truth':60} pairs per prompt: one, 1 to 4")
    rows: list[tuple[str, Callable[[np.random.Generator, int, bool], bool]]] = [
        ("accuracy", lambda rng, prompts, shared: _covers(rng, prompts, shared, loss=False)),
        ("loss", lambda rng, prompts, shared: _covers(rng, prompts, shared, loss=True)),
    ]
    _print(rows, arguments.simulations, arguments.prompts)
    print("Equal models that are called different")
    rows = [
        ("accuracy, paired bootstrap", lambda rng, prompts, shared: _errs(rng, prompts, shared, False)),
        ("accuracy, most pairs right or wrong for both",
         lambda rng, prompts, shared: _errs(rng, prompts, shared, False, spread=0.15)),
        ("loss, paired bootstrap", lambda rng, prompts, shared: _errs(rng, prompts, shared, True)),
        ("accuracy, exact McNemar (conservative; one pair per prompt)", _mcnemar_errs),
        *((f"two configs, {seeds} seeds each, seeds vary by {sd:g}", _seeds_err(seeds, sd))
          for seeds in (2, 3, 5) for sd in (0.0, 0.02, 0.05)),
    ]  # fmt: skip
    _print(rows, arguments.simulations, arguments.prompts)


def _print(
    rows: list[tuple[str, Callable[[np.random.Generator, int, bool], bool]]], simulations: int, prompts: int
) -> None:
    for name, one in rows:
        shares = []
        for shared in (False, True):
            rng = np.random.default_rng(7)
            shares.append(np.mean([one(rng, prompts, shared) for _ in range(simulations)]))
        print(f"  {name:60} {shares[0]:.4f}  {shares[1]:.4f}", flush=True)


def _prompts(rng: np.random.Generator, prompts: int, shared: bool) -> NDArray[np.int64]:
    """[n] the prompt of each pair."""
    return np.repeat(np.arange(prompts), rng.integers(1, 5, prompts) if shared else 1)


_SPREAD = 1.0


def _difficulties(rng: np.random.Generator, prompts: int, spread: float = _SPREAD) -> Floats:
    """[prompts] the chance that a model of the simulation is right. Their mean is known: beta distributed."""
    return rng.beta(0.7 * spread, 0.3 * spread, prompts)


def _covers(rng: np.random.Generator, prompts: int, shared: bool, loss: bool) -> bool:
    prompt = _prompts(rng, prompts, shared)
    weight = np.ones(len(prompt))
    if loss:
        # A prompt's own level and each pair's: log-normal, with a known mean.
        values = np.exp(0.5 * rng.normal(size=prompts)[prompt] + 0.5 * rng.normal(size=len(prompt)))
        truth = float(np.exp(0.25))
    else:
        values = (rng.random(len(prompt)) < _difficulties(rng, prompts)[prompt]).astype(float)
        truth = 0.7
    low, high = mean_interval(prompt, values, weight, _RESAMPLES)
    return low <= truth <= high


def _two(rng: np.random.Generator, prompts: int, shared: bool, loss: bool, spread: float = _SPREAD):  # type: ignore[no-untyped-def]
    prompt = _prompts(rng, prompts, shared)
    if loss:
        level = rng.normal(size=prompts)[prompt]
        values = [
            np.exp(0.5 * level + 0.4 * rng.normal(size=prompts)[prompt] + 0.4 * rng.normal(size=len(prompt)))
            for _ in range(2)
        ]
    else:
        chance = _difficulties(rng, prompts, spread)[prompt]
        values = [(rng.random(len(prompt)) < chance).astype(float) for _ in range(2)]
    return prompt, values


def _errs(rng: np.random.Generator, prompts: int, shared: bool, loss: bool, spread: float = _SPREAD) -> bool:
    prompt, (a, b) = _two(rng, prompts, shared, loss, spread)
    return paired_difference(prompt, a, b, np.ones(len(prompt)), _RESAMPLES).p < LEVEL


def _mcnemar_errs(rng: np.random.Generator, prompts: int, shared: bool) -> bool:
    prompt, (a, b) = _two(rng, prompts, False, False)
    p = paired_difference(prompt, a, b, np.ones(len(prompt)), 10).mcnemar_p
    assert p is not None
    return p < LEVEL


def _seeds_err(seeds: int, sd: float) -> Callable[[np.random.Generator, int, bool], bool]:
    def errs(rng: np.random.Generator, prompts: int, shared: bool) -> bool:
        prompt = _prompts(rng, prompts, shared)
        chance = _difficulties(rng, prompts)[prompt]
        candidates = []
        for _ in range(2):
            shifts = rng.normal(scale=sd, size=(seeds, 1))
            candidates.append((rng.random((seeds, len(prompt))) < np.clip(chance + shifts, 0, 1)).astype(float))
        result, counted = Scores(prompt, np.ones(len(prompt)), candidates, _RESAMPLES).difference(0, 1)
        assert counted
        return result.p < LEVEL

    return errs


if __name__ == "__main__":
    main()
