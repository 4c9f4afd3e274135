"""A sweep of small runs: the pool, Hydra's basic launcher, and a process for each run.

    python benchmarks/sweep.py                      # 24 runs, two at once, on sandbox pairs
    python benchmarks/sweep.py --runs 8 --at-once 4

Every job does the same: it reads and tokenizes (no cache), trains, evaluates, draws, saves and loads its model again.
`--at-once` jobs of the pool, and as many separate processes, run at a time with the cores divided; the basic launcher
runs one after the other in one process with all cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measuring import Row, machine, median, print_table, run_command, say, spread, write_json

PROGRAM = [sys.executable, "-m", "rm_experiments"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=24, help="jobs of the sweep")
    parser.add_argument("--at-once", type=int, default=2, help="jobs at a time")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of each")
    parser.add_argument("--rounds", type=int, default=2, help="how often each way is measured")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    say(str(machine()))
    ways = Ways(arguments.runs, arguments.at_once, arguments.steps)
    names: dict[str, Callable[[Path], Row]] = {
        "pool": ways.pool, "basic launcher": ways.basic, f"processes, {arguments.at_once} at once": ways.processes,
        "processes, one after the other": ways.one_by_one,
    }  # fmt: skip
    timed: dict[str, list[Row]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name, way in names.items():
            with tempfile.TemporaryDirectory() as directory:
                timed[name].append(way(Path(directory)))
                found = len(list(Path(directory).rglob("final/model.safetensors")))
                assert found == arguments.runs, (name, found)
            say(f"{name}: {timed[name][-1]}")
    pool = median(timed["pool"], "wall")
    rows = [
        {
            "way": name, "wall s": median(one, "wall"), "spread": spread(one, "wall"),
            "CPU s": median(one, "cpu"), "x pool (wall)": median(one, "wall") / pool,
        }
        for name, one in timed.items()
    ]  # fmt: skip
    say(f"\n{arguments.runs} runs of {arguments.steps} steps, medians of {arguments.rounds}")
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, {"machine": machine(), "rows": rows})


class Ways:
    """The same jobs in different ways."""

    def __init__(self, runs: int, at_once: int, steps: int) -> None:
        self._runs, self._at_once = runs, at_once
        self._cores = len(os.sched_getaffinity(0))
        self._options = [
            f"train.max_steps={steps}", "data.sandbox.num_train_pairs=400", "data.sandbox.num_eval_pairs=100",
            "eval=start_end", "tracking=none", "data.cache_dir=null",
        ]  # fmt: skip
        self._seeds = "seed=" + ",".join(map(str, range(runs)))

    def pool(self, place: Path) -> Row:
        """`rm-train --multirun`."""
        return self._sweep(place, [f"launch.concurrent_runs={self._at_once}"])

    def basic(self, place: Path) -> Row:
        """Hydra's own."""
        return self._sweep(place, ["hydra/launcher=basic"])

    def _sweep(self, place: Path, options: list[str]) -> Row:
        where = f"hydra.sweep.dir={place / 'sweep'}"
        return run_command([*PROGRAM, "--multirun", self._seeds, *self._options, *options, where])

    def one_by_one(self, place: Path) -> Row:
        """`rm-train` for each seed, with all cores."""
        rows = [run_command(self._alone(place, seed)) for seed in range(self._runs)]
        return {key: sum(row[key] for row in rows) for key in ("cpu", "wall")}

    def processes(self, place: Path) -> Row:
        """`rm-train` for each seed, several at a time, which share the cores."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, self._cores // self._at_once))}
        start, waiting, running = time.perf_counter(), list(range(self._runs)), []
        cpu = 0.0
        while waiting or running:
            while waiting and len(running) < self._at_once:
                command = self._alone(place, waiting.pop(0))
                child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                running.append(child.pid)
            pid, status, usage = os.wait3(0)
            assert status == 0, status
            cpu += usage.ru_utime + usage.ru_stime
            running.remove(pid)
        return {"cpu": cpu, "wall": time.perf_counter() - start}

    def _alone(self, place: Path, seed: int) -> list[str]:
        return [*PROGRAM, f"seed={seed}", *self._options, f"run_dir={place / str(seed)}"]


if __name__ == "__main__":
    main()
