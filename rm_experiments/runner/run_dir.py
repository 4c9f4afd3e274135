"""The directory of a run: its name, its lock, whose it is, and the files that grow in it."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from rm_experiments.config.changes import allowed_changes, shown
from rm_experiments.config.compose import config_yaml, load_config_yaml, to_plain
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import CheckpointError, ConfigError
from rm_experiments.runner.command import repeat_command, typed_command
from rm_experiments.runner.environment import environment
from rm_experiments.runner.lock import LOCK_FILE, Lock
from rm_experiments.training.checkpoints import remove

CONFIG_FILE, SUMMARY_FILE, METRICS_FILE, ENVIRONMENT_FILE, REPORT_FILE = (
    "config.yaml", "summary.json", "metrics.jsonl", "environment.json", "data_report.json",
)  # fmt: skip
LOG_FILE = "job.log"
"""What a job of a sweep prints."""


class RunDir:
    """Found or named first (nothing is written), claimed when all input is known to be good."""

    def __init__(self, config: RunConfig) -> None:
        """Raises ConfigError when the directory belongs to another run or another config."""
        self._config = config
        self._named = config.run_dir is not None
        unnamed = Path("outputs", config.name, time_stamp())
        self.path = Path(os.path.expanduser(config.run_dir)) if config.run_dir else unnamed
        self.run_id = uuid.uuid4().hex
        self._lock: Lock | None = None
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"run_dir={self.path}: is a file; choose another run_dir")
        parent = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise ConfigError(
                f"run_dir={self.path}: {parent} is not a directory that can be written to; choose another"
            )
        self.changes: list[dict[str, Any]] = []
        """Settings that differ from those that the run in this directory began with, as allowed: key, old, new."""
        self.branch: list[dict[str, Any]] = []
        """The same against the run of another directory, whose checkpoint this one begins with."""
        self.exists = self._named and (self.path / CONFIG_FILE).is_file()
        if self._named and not self.exists and self.path.is_dir() and self._strangers():
            raise ConfigError(
                f"run_dir={self.path}: is not empty and holds no run ({self._strangers()[0]}, ...); "
                "choose another run_dir"
            )
        if self.exists:
            self._check_identity()

    @property
    def finished(self) -> bool:
        """Whether the run in this directory is complete, and nothing was changed that would let it go on."""
        done = self.summary().get("status") == "finished"
        return bool(done and not self.changes)

    def summary(self) -> dict[str, Any]:
        """The content of summary.json, empty when there is none."""
        return read_object(self.path / SUMMARY_FILE)

    def claim(self) -> tuple[Path, str]:
        """Make the directory and lock it; an unnamed one that was just taken gets `_2`, `_3`, ... appended.

        Returns:
            The directory and the run's id, which an earlier attempt may have given.

        Raises:
            ConfigError: when another process writes to it.
        """
        if not self._named:
            base, number = self.path, 1
            while True:
                try:
                    self.path.mkdir(parents=True)
                    break
                except FileExistsError:
                    number += 1
                    self.path = base.with_name(f"{base.name}_{number}")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.path)
        self._lock.take()
        if not self.exists and (self.path / CONFIG_FILE).is_file():
            # Another process began here, and perhaps ended, while this one read its data.
            self.exists = True
            self._check_identity()
        if self.finished:
            self.release()
            raise ConfigError(f"run_dir={self.path}: was finished by another process meanwhile; nothing was done")
        if self.exists:
            self.run_id = read_object(self.path / ENVIRONMENT_FILE).get("run_id", self.run_id)
        return self.path, self.run_id

    def record(self) -> None:
        """Write config.yaml and environment.json: the run begins, or goes on, with what was changed."""
        if self.changes and self.summary().get("status") == "finished":
            # It is not, from here on: what says so goes first.
            (self.path / SUMMARY_FILE).unlink()
            remove(self.path / "final")
        # Of an attempt that failed, or was killed.
        for path in (self.path / "error.txt", self.path / "hang", *self.path.glob(".*.partial")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        current = environment(typed_command())
        changes = [*self.changes, *self.branch]
        current |= {"changes": changes} if changes else {}
        before = read_object(self.path / ENVIRONMENT_FILE) if self.exists else {}
        if before:
            current = {**before, "continued": [*before.get("continued", []), current]}
        current["repeat"] = repeat_command(str(self.path))
        current["run_id"] = self.run_id
        # Before the settings: once those are there, nothing is different any more, and what was would be lost.
        write_json(self.path / ENVIRONMENT_FILE, current)
        if not self.exists or self.changes:
            write_text(self.path / CONFIG_FILE, config_yaml(self._config))

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def tracker_id(self) -> str | None:
        """The id of this run at W&B, once it has one."""
        found = read_object(self.path / ENVIRONMENT_FILE).get("wandb_run_id")
        return None if found is None else str(found)

    def remember_tracker(self, run_id: str) -> None:
        """So that every attempt goes on with the same run at W&B."""
        values = read_object(self.path / ENVIRONMENT_FILE)
        write_json(self.path / ENVIRONMENT_FILE, {**values, "wandb_run_id": run_id})

    def start_over(self) -> dict[str, int]:
        """Forget what an earlier attempt left that ended before its first checkpoint; returns as `MetricsLog.cut`."""
        dropped = MetricsLog(self.path / METRICS_FILE).cut(0)
        for name in ("eval", "plots", "final"):
            remove(self.path / name)
        for name in (METRICS_FILE, SUMMARY_FILE):
            (self.path / name).unlink(missing_ok=True)
        return dropped

    def _strangers(self) -> list[str]:
        """What lies in the directory beside what a sweep's launcher or an interrupted start may have left."""
        own = {
            LOCK_FILE,
            LOG_FILE,
            SUMMARY_FILE,
            *(f".{name}.partial" for name in (CONFIG_FILE, ENVIRONMENT_FILE)),
            ENVIRONMENT_FILE,
        }
        # The other ranks of a job print beside the first one.
        logs = {path.name for path in self.path.glob(f"{Path(LOG_FILE).stem}_rank_*{Path(LOG_FILE).suffix}")}
        return sorted(path.name for path in self.path.iterdir() if path.name not in own | logs)

    def _check_identity(self) -> None:
        if self._config.resume == "never":
            raise ConfigError(
                f"run_dir={self.path}: already holds a run and resume=never; choose another run_dir, or resume=auto"
            )
        before = to_plain(load_config_yaml(self.path / CONFIG_FILE))
        self.changes = allowed_changes(before, self._config, f"the run in run_dir={self.path}")
        steps = ("train.max_steps", "train.num_epochs")
        if self.changes and self.summary().get("status") == "finished":
            longer = [one for one in self.changes if one["key"] in steps]
            if not longer:
                raise ConfigError(
                    f"{self.changes[0]['key']}={shown(self.changes[0]['new'])}: the run in run_dir={self.path} is "
                    "finished; it goes on only with a larger train.max_steps or train.num_epochs"
                )


def time_stamp() -> str:
    """Now, as directories are named."""
    return datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def new_directory(parent: Path) -> Path:
    """A path in `parent` that is not there, named by the time."""
    stamp, number = time_stamp(), 1
    path = parent / stamp
    while path.exists():
        number += 1
        path = parent / f"{stamp}_{number}"
    return path


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty when there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step, so that a loss of power leaves the old content or the new one."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_json(path: Path, values: Any) -> None:
    """Replace a JSON file in one step. NaN and infinities are refused: JSON has none."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def leave_failure(run_dir: Path, error: str) -> None:
    """Say in summary.json what a run could not say itself: it was refused before it began, or killed."""
    path = run_dir / SUMMARY_FILE
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(path, {"steps": 0, **read_object(path), "status": "failed", "error": error})


class MetricsLog:
    """metrics.jsonl: one object per event."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, line: dict[str, Any]) -> None:
        """Add an event; a value that is not finite becomes null."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(line), allow_nan=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All events so far."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line]

    def cut(self, size: int) -> dict[str, int]:
        """Drop all but the first `size` bytes: a continued run writes the rest again.

        Returns:
            The newest step of each kind of line that was dropped.
        """
        dropped: dict[str, int] = {}
        if self.size > size:
            with self.path.open("rb") as file:
                file.seek(size)
                rest = file.read().decode("utf-8", "replace")
            for text in rest.splitlines():
                # The last line may have been cut off.
                with contextlib.suppress(ValueError):
                    line = json.loads(text)
                    dropped[line["kind"]] = line["step"]
            os.truncate(self.path, size)
        return dropped


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """The same with None for NaN and infinities."""

    def bad(value: Any) -> bool:
        return isinstance(value, float) and (value != value or value in (float("inf"), float("-inf")))

    return {key: None if bad(value) else value for key, value in values.items()}


def resume_directory(config: RunConfig) -> Path | None:
    """The checkpoint that `resume` names, or None for `auto` and `never`.

    Raises:
        CheckpointError: when it is no checkpoint with state.
    """
    if config.resume in ("auto", "never"):
        return None
    path = Path(os.path.expanduser(config.resume))
    if not (path / "state" / "trainer.json").is_file():
        raise CheckpointError(
            f"resume={config.resume}: no checkpoint with a state/ directory; resume is auto, never or such a directory"
        )
    return path.resolve()
