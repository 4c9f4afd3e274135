"""The directory of a run: its name, its lock, whose it is, and the files that grow in it."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import functools
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

from rm_experiments.config.compose import config_yaml, load_config_yaml, to_plain
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import CheckpointError, ConfigError

CONFIG_FILE, SUMMARY_FILE, METRICS_FILE, ENVIRONMENT_FILE, REPORT_FILE = (
    "config.yaml", "summary.json", "metrics.jsonl", "environment.json", "data_report.json",
)  # fmt: skip
_LOCK_FILE = ".lock"

# Sections and keys that may differ when a run goes on: they say where and how it computes, not what.
_FREE_SECTIONS = ("tracking", "launch", "run_dir", "resume", "objective", "dry_run")
_FREE_KEYS = (
    "train.micro_batch_tokens", "train.layout", "train.device", "train.log_every_steps", "eval.micro_batch_tokens",
    "train.compile", "train.gradient_checkpointing", "checkpoint.keep_last", "model.attention", "data.cache_dir",
)  # fmt: skip


class RunDir:
    """Found or named first (nothing is written), claimed when all input is known to be good."""

    def __init__(self, config: RunConfig) -> None:
        """Raises ConfigError when the directory belongs to another run or another config."""
        self._config = config
        self._named = config.run_dir is not None
        unnamed = Path("outputs", config.name, time_stamp())
        self.path = Path(os.path.expanduser(config.run_dir)) if config.run_dir else unnamed
        self.run_id = uuid.uuid4().hex
        self._lock: int | None = None
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"run_dir={self.path}: is a file; choose another run_dir")
        parent = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise ConfigError(
                f"run_dir={self.path}: {parent} is not a directory that can be written to; choose another"
            )
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
        """Whether the run in this directory is complete."""
        return bool(self.summary().get("status") == "finished")

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
        self._take_lock()
        if not self.exists and (self.path / CONFIG_FILE).is_file():
            # Another process began here, and perhaps ended, while this one read its data.
            self.exists = True
            self._check_identity()
        if self.finished:
            self.release()
            raise ConfigError(f"run_dir={self.path}: was finished by another process meanwhile; nothing was done")
        if not self.exists:
            write_text(self.path / CONFIG_FILE, config_yaml(self._config))
        current = environment(["rm-train", *sys.argv[1:]])
        if self.exists:
            with contextlib.suppress(OSError, ValueError):
                before = json.loads((self.path / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
                self.run_id = before.get("run_id", self.run_id)
                current = {**before, "continued": [*before.get("continued", []), current]}
        current["run_id"] = self.run_id
        write_json(self.path / ENVIRONMENT_FILE, current)
        return self.path, self.run_id

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            (self.path / _LOCK_FILE).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def start_over(self) -> None:
        """Forget what an earlier attempt left that ended before its first checkpoint."""
        for name in ("eval", "plots", "final"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (METRICS_FILE, SUMMARY_FILE):
            (self.path / name).unlink(missing_ok=True)

    def _strangers(self) -> list[str]:
        """What lies in the directory beside what a sweep's launcher or an interrupted start may have left."""
        own = {_LOCK_FILE, SUMMARY_FILE}
        return sorted(path.name for path in self.path.iterdir() if path.name not in own)

    def _check_identity(self) -> None:
        if self._config.resume == "never":
            raise ConfigError(
                f"run_dir={self.path}: already holds a run and resume=never; choose another run_dir, or resume=auto"
            )
        before = to_plain(load_config_yaml(self.path / CONFIG_FILE))
        for key, *values in _differences(before, to_plain(self._config)):
            old, new = (json.dumps(value) if not isinstance(value, str) else value for value in values)
            raise ConfigError(
                f"{key}={new}: the run in run_dir={self.path} has {key}={old}; type {key}={old} to go on with it, "
                "or choose another run_dir"
            )

    def _take_lock(self) -> None:
        self._lock = os.open(self.path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._lock, 200).decode(errors="replace") or "another process"
            os.close(self._lock)
            self._lock = None
            raise ConfigError(
                f"run_dir={self.path}: is being written by {holder}; wait for it, or choose another run_dir"
            ) from error
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"process {os.getpid()} on {socket.gethostname()}".encode())


def environment(command: list[str]) -> dict[str, Any]:
    """The content of environment.json."""
    return {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command,
        "working_directory": os.getcwd(),
        "versions": versions(),
        "git_commit": git_commit(),
        "hardware": hardware(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    names = (
        "rm_experiments",
        "torch",
        "transformers",
        "accelerate",
        "datasets",
        "tokenizers",
        "wandb",
        "peft",
    )
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@functools.cache
def git_commit() -> str | None:
    """The commit of the working directory, with `-dirty` for uncommitted changes; None outside a repository.

    As it was when first asked: a commit during a run does not change what the run executes.
    """
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if dirty else commit


def hardware() -> dict[str, Any]:
    """What the run computes on."""
    import torch

    found: dict[str, Any] = {
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


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
    """Replace a file in one step."""
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def write_json(path: Path, values: Any) -> None:
    """Replace a JSON file in one step. NaN and infinities are refused: JSON has none."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


class MetricsLog:
    """metrics.jsonl: one object per event."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, line: dict[str, Any]) -> None:
        """Add an event; a value that is not finite becomes null."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(line), allow_nan=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All events so far."""
        if not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines() if line]

    def cut_after(self, step: int) -> None:
        """Drop events beyond `step`, and a last line that was cut off: a continued run writes them again."""
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []:
            with contextlib.suppress(ValueError):
                if json.loads(line)["step"] <= step:
                    kept.append(line)
        write_text(self._path, "".join(f"{line}\n" for line in kept))


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


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old, new) of every setting that decides the result and is not the same."""
    found = []

    def walk(old: Any, new: Any, prefix: str) -> None:
        if prefix.partition(".")[0] in _FREE_SECTIONS or prefix in _FREE_KEYS:
            return
        if isinstance(old, dict) and isinstance(new, dict):
            for key in sorted({*old, *new} - {"defaults"}):
                walk(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        elif old != new:
            found.append((prefix, old, new))

    walk(before, now, "")
    return found
