"""Jobs on a real cluster: submitted, watched, disturbed, and compared with ones that nothing happens to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rm_experiments
from rm_experiments.config.compose import to_plain
from rm_experiments.launch.jobs import Ended, Job
from rm_experiments.launch.slurm import FOLDER, SlurmExecutor
from rm_experiments.launch.slurm_settings import SlurmSettings
from tests.faults.comparing import differences, summary
from tests.faults.settings import ROOT, environment

_STEPS = 120
_COMMAND = (
    f"train.max_steps={_STEPS}", "train.batch_size=4", "train.log_every_steps=4", "eval=steps", "eval.every_steps=70",
    "checkpoint.every_steps=40", "checkpoint.keep_last=1", "tracking=none", "train.device=cpu", "train.precision=fp32",
    "data.sandbox.num_train_pairs=40", "data.sandbox.num_eval_pairs=20", "model.scratch.hidden_size=16",
    "model.scratch.intermediate_size=32", "model.scratch.num_heads=2", "model.scratch.num_kv_heads=1",
    "model.scratch.vocab_size=320", "model.dropout=0.1",
)  # fmt: skip
TWO = ("launch=accelerate", "launch.num_processes=2")
_PATIENCE = 240.0
"""Seconds for anything to happen."""


class Bench:
    """A sweep directory on a cluster, and what came of its jobs. Leaves nothing running at the end of its block."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.executor = SlurmExecutor(folder, SlurmSettings(**{"poll_seconds": 1.0, **settings}))
        self.started: list[int] = []
        self.ended: dict[int, Ended] = {}
        self.most_at_once = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *raised: object) -> None:
        self.executor.close()

    def submit(self, *jobs: tuple[int, tuple[str, ...]]) -> None:
        """Jobs by number, with overrides beside those of all."""
        self.executor.submit([self._job(number, overrides) for number, overrides in jobs])

    def run_dir(self, number: int) -> Path:
        """Where a job writes."""
        return self.folder / str(number)

    def log(self, number: int) -> str:
        """What the first rank of a job printed."""
        path = self.run_dir(number) / "job.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def slurm_id(self, number: int) -> str:
        """SLURM's id of a job."""
        return str(json.loads((self.folder / FOLDER / "jobs.json").read_text())[str(number)])

    def watch(self, until: Callable[[], bool]) -> None:
        """Let things happen until something holds."""
        over = time.monotonic() + _PATIENCE
        while not until():
            assert time.monotonic() < over, f"waited {_PATIENCE:.0f} s\n{clients('squeue', '--array')}\n{self._tails()}"
            started, ended = self.executor.poll(0.2)
            self.started += started
            self.ended |= {one.number: one for one in ended}
            self.most_at_once = max(self.most_at_once, len(set(self.started) - set(self.ended)))

    def watch_to_the_end(self) -> None:
        """Until no job is left."""
        self.watch(lambda: not self.executor._known)

    def watch_the_queue(self) -> None:
        """Until it is empty."""
        self.watch(lambda: not clients("squeue", "--noheader"))

    def until_training(self, number: int, step: int = 8) -> None:
        """Until a job has taken some steps, of the attempt that goes on now."""
        before = self.steps(number)
        self.watch(lambda: self.steps(number) >= max(step, before + 4) or number in self.ended)
        assert number not in self.ended, f"ended before it could be disturbed: {self.ended[number]}"

    def steps(self, number: int) -> int:
        """The newest one in metrics.jsonl."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            line = (self.run_dir(number) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
            return int(json.loads(line)["step"])
        return 0

    def attempts(self, number: int) -> int:
        """How often a job began."""
        return len(re.findall(r"^SLURM job .*, attempt \d+$", self.log(number), re.MULTILINE))

    def preempt(self, number: int) -> None:
        """What SLURM sends ahead of a preemption, to all ranks of a job."""
        clients("scancel", "--signal=USR2", f"{self.slurm_id(number)}.0")

    def kill(self, number: int, rank: int) -> None:
        """SIGKILL to a rank of a job."""
        holder = int(re.findall(r"process (\d+)", (self.run_dir(number) / ".lock").read_text())[0])
        job = {one for one in _environment(holder) if one.startswith("SLURM_JOB_ID=")}
        # Their children have the same environment, and a later number.
        wanted = job | {f"SLURM_PROCID={rank}", "SLURM_STEP_ID=0"}
        found = [int(one.name) for one in Path("/proc").glob("[0-9]*") if wanted <= _environment(int(one.name))]
        assert found, "no process of that rank"
        os.kill(min(found), signal.SIGKILL)

    def expect(self, number: int, exit_code: int, *, status: str | None = None, reason: str | None = None) -> None:
        """How a job ended: its exit code, the status of its summary.json, and what its reason matches."""
        one = self.ended[number]
        assert one.exit_code == exit_code, f"{one}\n{self._tails()}"
        if status is not None:
            assert summary(self.run_dir(number)).get("status") == status
        assert re.fullmatch(reason or "None", str(one.reason)), one

    def equal(self, disturbed: int, undisturbed: int) -> None:
        """Weights, metrics and records are the same to the bit."""
        found = differences(self.run_dir(undisturbed), self.run_dir(disturbed), same_checkpoints=False)
        # It holds the name of the directory.
        assert set(found) <= {"final/training_args.bin differs"}, found

    def _job(self, number: int, overrides: tuple[str, ...]) -> Job:
        run_dir = self.run_dir(number)
        ours = [one for one in _COMMAND if "data=local" not in overrides or not one.startswith("data.")]
        config = rm_experiments.compose([*ours, *overrides, f"run_dir={run_dir}"])
        payload = {
            "config": to_plain(config), "sweep_dir": str(self.folder), "overrides": list(overrides), "swept": [],
            "command": ["rm-train", *overrides],
        }  # fmt: skip
        return Job(number=number, run_dir=run_dir, log=run_dir / "job.log", payload=payload)

    def _tails(self) -> str:
        files = [*self.folder.glob("*/job*.log"), *(self.folder / FOLDER).glob("*.err")]
        return "\n".join(f"{one}: {one.read_text(errors='replace')[-600:]}" for one in sorted(files))


def _environment(process: int) -> set[str]:
    """With which a process began; empty when it is gone."""
    with contextlib.suppress(OSError):
        return set(Path(f"/proc/{process}/environ").read_text(errors="replace").split("\0"))
    return set()


def clients(*command: str) -> str:
    """What a program of SLURM says."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


@contextlib.contextmanager
def environment_of_jobs(cluster: dict[str, str], cache: Path) -> Iterator[None]:
    """This process and the jobs that it submits: on the cluster, no network, one thread, a cache of their own."""
    before = dict(os.environ)
    os.environ.update({**environment(cache), **cluster, "PYTHONPATH": f"{ROOT}:{before.get('PYTHONPATH', '')}"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
