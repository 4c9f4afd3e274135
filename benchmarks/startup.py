"""Start-up: imports, answers to a command, and the first step of a cached run, each in a fresh process.

    python benchmarks/startup.py
    python benchmarks/startup.py --rounds 5 --json startup.json

The rounds take turns, after one that is not counted (files come into the system's cache). The first step is reached
when its line is in metrics.jsonl; its CPU time is not known apart from the rest of the run.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measuring import Row, machine, median, print_table, run_command, say, spread, write_json

RUN = (
    "tracking=none",
    "eval=none",
    "train.max_steps=2",
    "train.log_every_steps=1",
    "data.sandbox.num_train_pairs=2000",
)
COMPOSE = "from rm_experiments.config.compose import compose_run_config; compose_run_config([])"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    found: Row = {"machine": machine()}
    say(str(found["machine"]))
    with tempfile.TemporaryDirectory() as directory:
        measured = _measured(Path(directory))
        figures: dict[str, list[Row]] = {name: [] for name in measured}
        for number in range(arguments.rounds + 1):
            for name, measure in measured.items():
                row = measure()
                if number:
                    figures[name].append(row)
    rows = [
        {
            "what": name,
            "CPU s": median(one, "cpu"),
            "wall s": median(one, "wall"),
            "spread of wall": spread(one, "wall"),
        }
        for name, one in figures.items()
    ]
    say(f"\nseconds, medians of {arguments.rounds}")
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, {**found, "rows": rows, "rounds": figures})


def _measured(directory: Path) -> dict[str, Callable[[], Row]]:
    """What is measured, by name."""
    command = [sys.executable, "-m", "rm_experiments"]
    cached = [*command, *RUN, f"data.cache_dir={directory / 'cache'}"]
    numbers = itertools.count()

    def python(code: str) -> Callable[[], Row]:
        return lambda: run_command([sys.executable, "-c", code])

    def first_step() -> Row:
        run_dir = directory / f"run{next(numbers)}"
        return run_command([*cached, f"run_dir={run_dir}"], until=run_dir / "metrics.jsonl")

    def whole_run() -> Row:
        return run_command([*cached, f"run_dir={directory / f'run{next(numbers)}'}"])

    return {
        "python alone": python("pass"),
        "import torch": python("import torch"),
        "import transformers' Trainer": python("from transformers import Trainer"),
        "import a model class": python("from transformers import LlamaForSequenceClassification"),
        "import accelerate": python("import accelerate"),
        "import datasets": python("import datasets"),
        "import wandb": python("import wandb"),
        "compose the config": python(COMPOSE),
        "rm-train --help": lambda: run_command([*command, "--help"]),
        "rm-train --cfg job": lambda: run_command([*command, "--cfg", "job"]),
        "rm-train, a misspelt key": lambda: run_command([*command, "train.max_step=1"], code=2),
        "rm-train, imports of a run": python("import rm_experiments.runner.train"),
        "rm-train, cached: to the first step": first_step,
        "rm-train, cached: two steps and the model": whole_run,
    }


if __name__ == "__main__":
    main()
