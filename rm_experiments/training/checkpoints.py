"""Directories that are either whole or not there: written aside, listed in a manifest, renamed into place.

The manifest (size and SHA-256 of every file) is written last, so a directory without one was never finished; one whose
files do not match it is damaged. Committed checkpoints are never written to again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rm_experiments.errors import CheckpointError

MANIFEST = "MANIFEST.json"
_FOR_PEOPLE = ("README.md",)
"""The card has fields for the user to fill in, and no number is read from it."""
_NAME = re.compile(r"step_(\d{8,})")


def commit_directory(target: Path, write: Callable[[Path], None], facts: dict[str, Any]) -> None:
    """Let `write` fill a directory aside, seal it with a manifest that also holds `facts`, and rename it to `target`.

    Files and directories are flushed to the disk before the rename, and the rename itself after it, so that a loss of
    power leaves the old state or the new one. A failure leaves nothing behind.
    """
    assert not target.exists(), target
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        write(aside)
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        listed = {}
        for path in files:
            _flush(path)
            listed[path.relative_to(aside).as_posix()] = {
                "size": path.stat().st_size,
                "sha256": _sha256(path),
            }
        text = json.dumps({"format": 1, **facts, "files": listed}, indent=1)
        (aside / MANIFEST).write_text(text + "\n", encoding="utf-8")
        _flush(aside / MANIFEST)
        for directory in sorted({path.parent for path in files} | {aside}, reverse=True):
            _flush(directory)
        aside.rename(target)
        _flush(target.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def verify_directory(directory: Path) -> dict[str, Any]:
    """The manifest of a committed directory whose files, but the card and its pictures, are as they were written.

    Raises:
        CheckpointError: naming the file that is missing or differs.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{directory}: {MANIFEST} is missing or unreadable, the save was never finished"
        ) from error
    for name, (size, sha256) in files.items():
        if name in _FOR_PEOPLE or name.startswith("plots/"):
            continue
        file = directory / name
        if not file.is_file():
            raise CheckpointError(f"{directory}: {name} is missing")
        if file.stat().st_size != size:
            raise CheckpointError(f"{file}: {file.stat().st_size} bytes, {size} were written")
        if _sha256(file) != sha256:
            raise CheckpointError(f"{file}: its content is not what was written (SHA-256 differs)")
    assert isinstance(manifest, dict)
    return manifest


class CheckpointStore:
    """The `checkpoints/` of one run."""

    def __init__(self, run_dir: Path, run_id: str) -> None:
        self.root = run_dir / "checkpoints"
        self.run_id = run_id

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` lies."""
        return self.root / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a directory, ascending."""
        if not self.root.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.root.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Commit a checkpoint and point `last` to it. One of an abandoned continuation of this run is replaced."""
        if self.path(step).exists():
            shutil.rmtree(self.path(step))
        commit_directory(self.path(step), write, {"step": step, "run_id": self.run_id})
        self._link("last", step)

    def link_best(self, step: int) -> None:
        """Point `best` to the checkpoint of `step`."""
        self._link("best", step)

    def best(self) -> int | None:
        """The step that `best` points to."""
        link = self.root / "best"
        match = _NAME.fullmatch(os.readlink(link)) if link.is_symlink() else None
        return int(match[1]) if match else None

    def rotate(self, keep_last: int) -> None:
        """Delete all but the newest `keep_last` checkpoints and the best one."""
        keep = {*self.steps()[-keep_last:], self.best()}
        for step in self.steps():
            if step not in keep:
                shutil.rmtree(self.path(step))

    def discard_after(self, step: int) -> None:
        """Delete checkpoints beyond `step`: damaged ones, which training is about to write again."""
        for newer in [number for number in self.steps() if number > step]:
            shutil.rmtree(self.path(newer))

    def newest_good(self) -> tuple[int | None, list[str]]:
        """The newest step whose checkpoint is whole and of this run, and a line for each that was passed over."""
        skipped = []
        for step in reversed(self.steps()):
            try:
                manifest = verify_directory(self.path(step))
            except CheckpointError as error:
                skipped.append(str(error))
                continue
            if manifest.get("run_id") == self.run_id:
                return step, skipped
            skipped.append(f"{self.path(step)}: belongs to another run ({manifest.get('run_id')})")
        return None, skipped

    def _link(self, name: str, step: int) -> None:
        aside = self.root / f".{name}.partial"
        aside.unlink(missing_ok=True)
        aside.symlink_to(self.path(step).name)
        aside.rename(self.root / name)
        _flush(self.root)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
