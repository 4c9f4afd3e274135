"""How many pairs each source of a mixture gives, and which."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rm_experiments.config.data_schema import MixturePartConfig
from rm_experiments.errors import DataError

Rows = NDArray[np.int64]


def mix(parts: dict[str, MixturePartConfig], rows: dict[str, Rows], seed: int) -> Rows:
    """The rows of an epoch.

    A part has its rows, or `max_pairs` of them drawn at random. Without weights an epoch is all of them. With weights
    it has as many pairs, of which a part gives its share: some of its rows, drawn at random, or all of them several
    times and some once more. The draw depends on the seed and the part's name only.

    Args:
        rows: [n] of each part.

    Raises:
        DataError: when a part has no pair left, or a weight so small that it gives none.
    """
    own: dict[str, Rows] = {}
    for name, part in parts.items():
        own[name] = rows[name]
        if part.max_pairs is not None and part.max_pairs < len(rows[name]):
            drawn = _generator(seed, name, 0).choice(len(rows[name]), size=part.max_pairs, replace=False)
            own[name] = rows[name][np.sort(drawn)]
        if not len(own[name]):
            raise DataError(f"data.mixture.{name}: no pair is left of this part; leave it out")
    weights = {name: part.weight for name, part in parts.items() if part.weight is not None}
    if weights:
        total = sum(map(len, own.values()))
        counts = apportion(weights, total)
        for name, count in counts.items():
            if not count:
                raise DataError(
                    f"data.mixture.{name}.weight={weights[name]:g}: gives none of the {total} pairs of an epoch beside "
                    "the other weights; raise it, or leave the part out"
                )
        chosen = {name: _repeated(own[name], counts[name], _generator(seed, name, 1)) for name in parts}
    else:
        chosen = own
    return np.concatenate(list(chosen.values()))


def apportion(weights: dict[str, float], total: int) -> dict[str, int]:
    """`total` shared out by weight in whole numbers: the largest remainders are rounded up, ties in order."""
    exact = {name: total * weight / sum(weights.values()) for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _repeated(rows: Rows, count: int, generator: np.random.Generator) -> Rows:
    passes, rest = divmod(count, len(rows))
    drawn = np.sort(generator.choice(len(rows), size=rest, replace=False))
    return np.concatenate([*[rows] * passes, rows[drawn]]).astype(np.int64)


def _generator(seed: int, name: str, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, *name.encode()])
