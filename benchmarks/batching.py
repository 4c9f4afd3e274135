"""A million pairs' worth of batching: whether cutting an epoch into steps and forward passes makes memory grow.

    python benchmarks/batching.py
    python benchmarks/batching.py --pairs 100000 --workload uf

Pairs have random ids in the lengths of `workloads.py`. Every forward pass of an epoch is made, as training makes it,
and thrown away; nothing is computed.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from measuring import print_table, say
from workloads import PAD, WORKLOADS, make_pairs

from rm_experiments.config.schema import Layout
from rm_experiments.data.batching import StepPlan
from rm_experiments.modeling.layouts.layout import Batcher


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--workload", choices=list(WORKLOADS), default="hh", help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="pairs per step (default: %(default)s)")
    parser.add_argument("--budget", type=int, default=8192, help="tokens of a forward pass (default: %(default)s)")
    arguments = parser.parse_args()
    pairs = make_pairs(arguments.workload, arguments.pairs)
    say(f"{len(pairs):,} pairs, {int(pairs.lengths.sum()):,} tokens; resident {_resident():,.0f} MB before")
    plan = StepPlan(pair_lengths=pairs.lengths.max(axis=1), batch_size=arguments.batch_size, length_window=8, seed=0)
    batcher = Batcher(layout=Layout.shared_prefix, pad_id=PAD)
    rows, passes, tokens, began = [], 0, 0, time.perf_counter()
    marks = set(np.linspace(0, plan.steps_per_epoch, 11).astype(int)[1:].tolist())
    for step in range(plan.steps_per_epoch):
        items = batcher.items(pairs, plan.step(step), arguments.budget, keep_pairs=True)
        for one in batcher.bins(pairs, items, arguments.budget):
            tokens += batcher.micro_batch(pairs, one).batch.num_tokens
            passes += 1
        if step + 1 in marks:
            rows.append({
                "pairs": (step + 1) * arguments.batch_size, "passes": passes, "unique tokens": tokens,
                "resident MB": _resident(), "s": time.perf_counter() - began,
            })  # fmt: skip
    print_table(rows)
    say(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


def _resident() -> float:
    """Megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
