"""Everything that is measured on a CUDA machine, by one command that needs nothing from the network.

    python benchmarks/cuda.py --out results/
    python benchmarks/cuda.py --out /tmp/smoke --device cpu --models tiny --pairs-per-step 8      # does it run at all

1. Do the layouts give the rewards and gradients of `padded` on this device: families x layouts x precisions.
2. For each model shape and workload: training steps of ours against TRL's RewardTrainer, or, where TRL is not
   installed, against the same passes written out with transformers (`like TRL`): tokens per second, utilisation of a
   matrix product's speed in the same run, peak memory; and a profile of one of our steps.

Each figure is printed and written to OUT/cuda.jsonl as soon as it is known; what the time limit leaves no room for is
said. Needs torch, transformers, accelerate and numpy only.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

# Of this checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contenders import CHECKED, Ours, Setting, make
from families import compare
from measuring import Row, machine, matrix_product_peak, print_table, say
from profiling import profile
from workloads import SHAPES, WORKLOADS, unique_tokens, work

EQUALITY_SHARE = 0.3
"""Of the time limit, at most."""
LOSS_TOLERANCE = 0.02
"""Of the first step's mean loss in bf16."""


class Report:
    """Prints and writes what is found, and knows how much time is left."""

    def __init__(self, path: Path, limit: float) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._file = (path / "cuda.jsonl").open("w", encoding="utf-8")
        self._start, self._limit = time.perf_counter(), limit

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._start

    def left(self) -> float:
        """Seconds until the limit."""
        return self._limit - self.elapsed()

    def add(self, kind: str, row: Row) -> None:
        """One finding."""
        line = json.dumps({"kind": kind, "at": round(self.elapsed(), 1), **row})
        self._file.write(line + "\n")
        self._file.flush()
        say(line)

    def guarded(self, kind: str, what: Row, measure: Callable[[], Row]) -> Row | None:
        """`measure()`, or a line that says why not; the measurements after it go on."""
        row: Row | None = None
        if self.left() <= 0:
            self.add(kind, {**what, "skipped": "the time limit is reached"})
            return None
        try:
            row = measure()
            self.add(kind, {**what, **row})
        except Exception as error:  # Out of memory, a kernel that this GPU does not have: a finding, too.
            self.add(kind, {**what, "error": f"{type(error).__name__}: {str(error)[:300]}"})
            traceback.print_exc(limit=-8)
        return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for cuda.jsonl")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to see that it runs")
    parser.add_argument("--models", nargs="*", choices=list(SHAPES), default=["0.5B", "7B"], help="shapes to train")
    parser.add_argument("--pairs-per-step", type=int, help="default: 64, and 16 of the 7B shape")
    parser.add_argument("--limit", type=float, default=260, help="seconds after which no measurement begins")
    arguments = parser.parse_args()
    report = Report(arguments.out, arguments.limit)
    report.add("machine", machine(arguments.device))
    device = arguments.device
    peaks = {one: matrix_product_peak(device, one) for one in ("fp32", "bf16")}
    report.add("matrix product", {f"{one} TFLOP/s": peak / 1e12 for one, peak in peaks.items()})
    _equality(report, device)
    for model in arguments.models:
        for workload in WORKLOADS:
            _training(report, device, model, workload, arguments.pairs_per_step, peaks)


def _equality(report: Report, device: str) -> None:
    rows: list[Row] = []
    done: Row = {}
    found = compare(device, ("bf16", "fp32") if device == "cuda" else ("fp32",))
    until = report.elapsed() + EQUALITY_SHARE * report.left()
    while report.elapsed() < until:
        row = report.guarded("equality", {}, lambda: next(found, done))
        if not row:
            break
        rows.append(row)
    if rows:
        print_table(rows)


def _training(report: Report, device: str, model: str, workload: str, pairs_per_step: int | None, peaks: Row) -> None:
    # Few CPUs compute in bf16 faster than in fp32.
    precision = "bf16" if device == "cuda" else "fp32"
    big = model == "7B"
    number = pairs_per_step or (16 if big else 64)
    base: Row = {
        "workload": workload, "model": model, "device": device, "precision": precision, "pairs_per_step": number,
        "steps": 2 if big else 4, "threads": torch.get_num_threads(), "weights": "bf16" if big else "fp32",
        # What fits without checkpointing.
        "pairs_per_pass": min(number, 4 if big else 16),
    }  # fmt: skip
    trl = "TRL" if importlib.util.find_spec("trl") else "like TRL"
    variants: dict[str, Row] = {
        "ours": {"contender": "ours"},
        "ours, passes of the others' pairs": {"contender": "ours", "budget": _tokens_of_a_pass(base)},
        f"{trl} default": {"contender": f"{trl} default"},
        f"{trl} best, sorted by hand": {"contender": f"{trl} best, sorted by hand"},
        f"{trl} best, random order": {"contender": f"{trl} best, random order"},
    }
    if big:
        # Minutes otherwise.
        variants = {name: one for name, one in variants.items() if "random" not in name and "budget" not in one}
    rows: list[Row] = []
    first_loss: float | None = None
    for name, settings in variants.items():
        setting = Setting(**base, **settings)
        what = {"model": model, "workload": workload, "variant": name}
        row = report.guarded("training", what, lambda setting=setting: _timed(setting, peaks[precision], report))
        if row is not None:
            # All take the same pairs in the first step.
            first_loss = row["first losses"][0] if first_loss is None else first_loss
            away = abs(row.pop("first losses")[0] - first_loss)
            rows.append({"variant": name, **row, "first loss away": away})
            if away > LOSS_TOLERANCE:
                report.add("wrong", {**what, "the first loss differs by": away})
        _forget(device)
    if rows:
        say(f"\n{model}, {workload}, {number} pairs per step, {precision}")
        for row in rows:
            row["x ours"] = row["s per 100 pairs"] / rows[0]["s per 100 pairs"]
        print_table(rows)


def _tokens_of_a_pass(base: Row) -> int:
    """Unique tokens of as many pairs as the others compute at once."""
    pairs = Setting(contender="ours", **base).pairs()
    return unique_tokens(pairs) // len(pairs) * base["pairs_per_pass"]


def _timed(setting: Setting, peak: float, report: Report) -> Row:
    contender = make(setting)
    losses = contender.first_losses(CHECKED)
    on_gpu = setting.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    # Until all rounds are done, or the time is up.
    rounds = [contender.train() for _ in _while_time(report, 1 if setting.model == "7B" else 2)]
    seconds = [one.wall if on_gpu else one.cpu for one in rounds]
    timed = contender.pairs.select(contender.plan.order[setting.pairs_per_step :])
    asked, middle = work(SHAPES[setting.model], timed, training=True), sorted(seconds)[len(seconds) // 2]
    row = {
        "s per 100 pairs": 100 * middle / len(timed),
        "unique tokens/s": unique_tokens(timed) / middle,
        "tokens/s": int(timed.lengths.sum()) / middle,
        "utilisation": asked.needed / middle / peak,
        "utilisation, usual count": asked.usual / middle / peak,
        "peak GB": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else float("nan"),
        "computed / unique": contender.computed_tokens() / unique_tokens(contender.pairs),
        "rounds": len(seconds),
        "first losses": losses,
    }
    if isinstance(contender, Ours) and setting.budget is None:
        row["tokens per pass"] = contender.trainer.token_budget
        report.add("layout", {"note": contender.note})
        shares = profile(contender.trainer.step, setting.device)
        report.add("profile", {"model": setting.model, "workload": setting.workload, **shares})
    return row


def _while_time(report: Report, rounds: int) -> Iterator[int]:
    for number in range(rounds):
        if number and report.left() <= 0:
            return
        yield number


def _forget(device: str) -> None:
    """Memory that nothing holds any more."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
