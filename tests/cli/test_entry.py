"""A signal while a command still imports."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

_WHILE_IMPORTING_HYDRA = """
import os, sys
class Signals:
    def find_spec(self, name, path=None, target=None):
        if name == "hydra":
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Signals())
from rm_experiments.cli import entry
assert "hydra" not in sys.modules
entry.{entry}()
print("went on")
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "{}: interrupted\n"), (signal.SIGTERM, 143, ""), (signal.SIGUSR1, 143, "")],
)
@pytest.mark.parametrize(
    "program",
    ["rm-train", "rm-data", "rm-eval", "rm-score", "rm-compare", "rm-merge", "rm-push", "rm-serve", "rm-dashboard"],
)
def test_a_signal_while_the_command_is_imported_gives_its_code(
    program: str, number: signal.Signals, code: int, said: str
) -> None:
    text = _WHILE_IMPORTING_HYDRA.format(number=int(number), entry=program.replace("-", "_"))

    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (code, "", said.format(program))


_A_JOB_THAT_IS_STOPPED_AT_ONCE = """
import os, signal
from rm_experiments.launch.signals import HANDLED
signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
os.kill(os.getpid(), {number})
from rm_experiments.cli.job import in_child
in_child({{"command": ["rm-train"], "config": {{"run_dir": "run"}}}}, {log!r}, {{**os.environ, "PWD": os.getcwd()}})
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_a_job_that_is_stopped_before_it_can_answer_ends_as_stopped(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    text = _A_JOB_THAT_IS_STOPPED_AT_ONCE.format(number=int(number), log=str(tmp_path / "job.log"))

    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
