"""Disturb real runs in every way that is promised to do no harm, and count what was lost.

    python -m tests.faults --trials 200
    python -m tests.faults --trials kill=50,stop=20 --only kill,stop --seed 1 --out faults/

Exits with 1 if anything was lost. Linux only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.running import FAULTS, number_of_trials, run_trials
from tests.faults.table import results, table
from tests.faults.workbench import workbench


def arguments() -> argparse.Namespace:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__.partition("\n")[0])
    shares = ", ".join(f"{one.name} {one.share:g}" for one in FAULTS.values())
    parser.add_argument("--trials", default="200", help=f"N (shares: {shares}), or FAULT=N,FAULT=N")
    parser.add_argument("--only", default="", help=f"of {','.join(FAULTS)}; all unless given")
    parser.add_argument("--seed", type=int, default=0, help="decides what is random")
    parser.add_argument("--trial", type=int, help="do this one trial only, of one fault")
    parser.add_argument("--jobs", type=int, default=1, help="trials at once")
    parser.add_argument("--out", type=Path, help="directory for faults.json and what lost trials left")
    return parser.parse_args()


def main() -> int:
    """Run what was asked for; the exit code."""
    asked = arguments()
    names = [one for one in asked.only.split(",") if one] or list(FAULTS)
    unknown = [one for one in names if one not in FAULTS]
    if unknown:
        print(f"--only {','.join(unknown)}: allowed are {','.join(FAULTS)}", file=sys.stderr)
        return 2
    numbers = {
        name: [asked.trial] if asked.trial is not None else list(range(number_of_trials(asked.trials, name)))
        for name in names
    }
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rm_experiments_faults_") as scratch:
        root = asked.out / "trials" if asked.out else Path(scratch)
        with workbench(root.resolve(), asked.seed) as bench:
            outcomes = run_trials(bench, numbers, asked.jobs, keep=asked.out is not None)
    for line in table(outcomes, asked.seed):
        print(line)
    print(f"{len(outcomes)} trials in {time.monotonic() - began:.0f} s, seed {asked.seed}")
    if asked.out:
        text = json.dumps(results(outcomes, asked.seed), indent=1)
        (asked.out / "faults.json").write_text(text + "\n", encoding="utf-8")
    return 1 if any(one.status == "lost" for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
