"""sweep.json: which jobs a sweep has, which number each has, and how each stands."""

from __future__ import annotations

import datetime
import signal
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rm_experiments.errors import ConfigError
from rm_experiments.reporting.run_names import run_name
from rm_experiments.runner.run_dir import SUMMARY_FILE, read_object, write_json

SWEEP_FILE = "sweep.json"
SEARCH_FILE, STUDY_FILE = "search.json", "study.journal"
"""What a search keeps beside it: what is searched, and what Optuna knows."""
QUEUED, RUNNING, FINISHED, FAILED, INTERRUPTED, PRUNED = (
    "queued", "running", "finished", "failed", "interrupted", "pruned",
)  # fmt: skip


@dataclass(kw_only=True)
class SweepJob:
    """A row of sweep.json."""

    number: int
    config_hash: str
    """Of the settings that decide the result: what a job is known by when the sweep is repeated."""
    overrides: list[str]
    swept: list[str] = field(default_factory=list)
    """Those of the overrides that differ between the jobs."""
    status: str = QUEUED
    objective: float | None = None
    """The value of the sweep's objective, of the model handed over."""
    steps: int = 0
    exit_code: int | None = None
    error: str | None = None
    attempts: int = 0
    started: str | None = None
    seconds: float = 0.0
    """Over all attempts."""

    @property
    def title(self) -> str:
        """What makes it different, in short."""
        return run_name(self.swept, "no override varies")

    @property
    def was_killed(self) -> bool:
        """Ended from outside, without a say: what a repeated command resumes unasked."""
        return self.exit_code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP)


class SweepFile:
    """The jobs of a sweep by number, kept in its directory."""

    def __init__(self, directory: Path) -> None:
        """Raises ConfigError when the directory holds something else."""
        self.path = directory / SWEEP_FILE
        self.directory = directory
        self.jobs: dict[int, SweepJob] = {}
        if directory.exists() and not directory.is_dir():
            raise ConfigError(f"hydra.sweep.dir={directory}: is a file; choose another directory")
        self.header: dict[str, Any] = {}
        values = read_object(self.path)
        known = {one.name for one in fields(SweepJob)}
        try:
            if self.path.exists() and not values:
                raise ValueError("no object")
            for row in values.pop("jobs", []):
                job = SweepJob(**{key: value for key, value in row.items() if key in known})
                self.jobs[int(job.number)] = job
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"hydra.sweep.dir={directory}: its {SWEEP_FILE} is damaged; choose another directory, or delete that "
                "file to number the jobs anew"
            ) from error
        self.header = values
        if not self.jobs and directory.is_dir() and (strangers := self._strangers()):
            raise ConfigError(
                f"hydra.sweep.dir={directory}: is not empty and holds no sweep ({strangers[0]}, ...); "
                "choose another directory"
            )

    def find(self, config_hash: str) -> SweepJob | None:
        """The job with this config."""
        return next((one for one in self.jobs.values() if one.config_hash == config_hash), None)

    def add(self, config_hash: str, overrides: list[str], swept: list[str]) -> SweepJob:
        """A new job, with the next number."""
        number = max(self.jobs, default=-1) + 1
        self.jobs[number] = SweepJob(number=number, config_hash=config_hash, overrides=overrides, swept=swept)
        return self.jobs[number]

    def run_dir(self, number: int) -> Path:
        """Where a job writes."""
        return self.directory / str(number)

    def summary(self, number: int) -> dict[str, Any]:
        """summary.json of a job; empty when there is none."""
        return read_object(self.run_dir(number) / SUMMARY_FILE)

    def write(self) -> None:
        """Replace sweep.json."""
        rows = [asdict(self.jobs[number]) for number in sorted(self.jobs)]
        write_json(self.path, {**self.header, "jobs": rows})

    def _strangers(self) -> list[str]:
        own = {
            "multirun.yaml",
            ".lock",
            f".{SWEEP_FILE}.partial",
            "wandb",
            SEARCH_FILE,
            f".{SEARCH_FILE}.partial",
            STUDY_FILE,
            "slurm",
        }
        return sorted(one.name for one in self.directory.iterdir() if one.name not in own)


def now() -> str:
    """The time, with its zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
