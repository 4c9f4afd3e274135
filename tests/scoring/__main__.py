"""Kills `rm-score` at random moments until it has ended: `python -m tests.scoring --trials 20 [--model DIR]`.

Each trial begins a command over a file of rows of all kinds, some of them bad, and kills it (SIGKILL, SIGTERM, SIGINT)
after a random time; the same command is typed again, and again killed, until it ends by itself. Then the output and the
file of bad rows must be, to the byte, those of a command that nobody disturbed, and nothing else may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Python ends itself by SIGINT where that came in the middle of an import in C; a shell shows 130 for it, too.
_ALLOWED = {-signal.SIGKILL, -signal.SIGINT, 130, 143, 0}


def main() -> int:
    """The number of trials that were lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=9000)
    parser.add_argument("--model", help="a run; else a small one is trained first")
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    dice = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        model = arguments.model or str(train(directory / "run"))
        write_rows(directory / "in.jsonl", arguments.rows)
        began = time.monotonic()
        assert subprocess.run(command(model, directory, "straight")).returncode == 0
        took = time.monotonic() - began
        lost = kills = 0
        for trial in range(arguments.trials):
            count, problem = disturbed(model, directory, f"out{trial}", took, dice)
            kills += count
            lost += problem is not None
            print(f"trial {trial}: {count} times stopped, {problem or 'the same bytes'}", flush=True)
        print(f"{arguments.trials} trials, {kills} times stopped, {lost} lost")
    return lost


def train(directory: Path) -> Path:
    """A run of a few steps of the small model from scratch."""
    overrides = [f"run_dir={directory}", "tracking=none", "train.max_steps=4", "data.sandbox.num_train_pairs=64"]
    subprocess.run([sys.executable, "-m", "rm_experiments", *overrides], check=True, stdout=subprocess.DEVNULL)
    return directory


def write_rows(path: Path, count: int) -> None:
    """Rows of all kinds; every hundredth cannot be scored."""
    turns = [{"role": "user", "content": "Hi"}]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            answer = f"answer {number} " * (number % 7 + 1)
            kinds = (
                {"prompt": f"Say {number % 50}", "response": answer},
                {"prompt": "Say", "responses": [answer, "b"]},
                {"messages": [*turns, {"role": "assistant", "content": answer}]},
                {"prompt": "Say", "chosen": answer, "rejected": "no"},
            )
            row = {"prompt": "no answer"} if number % 100 == 99 else kinds[number % 4]
            file.write(json.dumps({"number": number, **row}) + "\n")


def command(model: str, directory: Path, name: str) -> list[str]:
    """What is typed."""
    return [
        sys.executable, "-m", "rm_experiments.cli.score", f"checkpoint={model}", f"input={directory / 'in.jsonl'}",
        f"output={directory / name}.jsonl", "bad_rows=aside", "train.device=cpu",
    ]  # fmt: skip


def disturbed(model: str, directory: Path, name: str, took: float, dice: random.Random) -> tuple[int, str | None]:
    """How often the command was stopped, and what was wrong at its end."""
    for count in range(100):
        child = subprocess.Popen(command(model, directory, name), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            _, errors = child.communicate(timeout=dice.uniform(0.3, 1.0) * took)
        except subprocess.TimeoutExpired:
            child.send_signal(dice.choice(SIGNALS))
            _, errors = child.communicate()
        if b"is already there" in errors:
            # It was killed when its output was in place.
            return count, compared(directory, name)
        if child.returncode not in _ALLOWED:
            return count, f"code {child.returncode}: {errors.decode()[-300:]}"
        if child.returncode == 0:
            return count, compared(directory, name)
    return 100, "it never ended"


def compared(directory: Path, name: str) -> str | None:
    """What is not as in the undisturbed command."""
    for ending in (".jsonl", ".jsonl.bad.jsonl"):
        if (directory / f"{name}{ending}").read_bytes() != (directory / f"straight{ending}").read_bytes():
            return f"{name}{ending} is different"
    left = sorted(one.name for one in directory.glob(f"{name}*"))
    return None if left == [f"{name}.jsonl", f"{name}.jsonl.bad.jsonl"] else f"left behind: {left}"


if __name__ == "__main__":
    sys.exit(main())
