"""Makes first_run.png: the learning curves of a run, as the run itself draws them.

python docs/pictures/first_run.py         # bare rm-train in a temporary directory
python docs/pictures/first_run.py RUN     # a finished run
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main(asked: list[str]) -> None:
    """Copy `plots/training.png` of the run beside this file."""
    with tempfile.TemporaryDirectory() as root:
        run = Path(asked[0]) if asked else Path(root) / "run"
        if not asked:
            subprocess.run([sys.executable, "-m", "rm_experiments", f"run_dir={run}", "tracking=none"], check=True)
        shutil.copy(run / "plots" / "training.png", Path(__file__).with_name("first_run.png"))


if __name__ == "__main__":
    main(sys.argv[1:])
