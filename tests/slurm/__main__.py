"""Everything that can happen to jobs on a SLURM cluster, on one that is started here.

    python -m tests.slurm
    python -m tests.slurm --only array,ranks --out slurm/

About ten minutes; for root on Linux, with `apt-get install slurm-wlm munge`. Exits with 1 if anything went otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.slurm.bench import environment_of_jobs
from tests.slurm.cluster import cluster, missing
from tests.slurm.trials import TRIALS


def main() -> int:
    """Run what was asked for; the exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser("python -m tests.slurm", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(TRIALS), help=f"of {','.join(TRIALS)}; all unless given")
    parser.add_argument("--out", type=Path, help="directory for what the cluster and the jobs leave")
    asked = parser.parse_args()
    names = asked.only.split(",")
    unknown = [one for one in names if one not in TRIALS]
    if unknown or missing():
        print(f"--only {','.join(unknown)}: allowed are {','.join(TRIALS)}" if unknown else missing(), file=sys.stderr)
        return 2
    failed = 0
    with tempfile.TemporaryDirectory(prefix="rm_slurm_") as scratch:
        root = (asked.out or Path(scratch)).resolve()
        with cluster(root / "cluster") as env, environment_of_jobs(env, root / "cache"):
            for name in names:
                began = time.monotonic()
                try:
                    said = TRIALS[name](root / name)
                except Exception:
                    failed += 1
                    said = f"FAILED\n{traceback.format_exc()}"
                print(f"{name:24}{time.monotonic() - began:5.0f} s  {said}", flush=True)
    print(f"{len(names)} trials, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
