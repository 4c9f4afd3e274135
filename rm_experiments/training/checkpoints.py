"""Directories that are either whole or not there: written aside, listed in a manifest, renamed into place.

The manifest (size and SHA-256 of every file) is written last, so a directory without one was never finished; one whose
files do not match it is damaged. Committed checkpoints are never written to again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rm_experiments.errors import CheckpointError, TrainingError

MANIFEST = "MANIFEST.json"
FORMAT = 2
"""Of checkpoints: what is in state/."""
_FOR_PEOPLE = ("README.md",)
"""The card has fields for the user to fill in, and no number is read from it."""
PARTIAL = ".partial"
"""End of the names of what is being written or deleted."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME = re.compile(r"step_(\d{8,})")


def commit_directory(target: Path, write: Callable[[Path], None], facts: dict[str, Any]) -> None:
    """Let `write` fill a directory aside, seal it with a manifest that also holds `facts`, and rename it to `target`.

    Files and directories are flushed to the disk before the rename, and the rename itself after it, so that a loss of
    power leaves the old state or the new one. A failure leaves nothing behind.

    Raises:
        TrainingError: when the disk is full.
    """
    assert not target.exists(), target
    aside = target.with_name(f".{target.name}{PARTIAL}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
        write(aside)
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        listed = {}
        for path in files:
            flush(path)
            listed[path.relative_to(aside).as_posix()] = {
                "size": path.stat().st_size,
                "sha256": _sha256(path),
            }
        (aside / MANIFEST).write_text(_sealed({"format": FORMAT, **facts, "files": listed}), encoding="utf-8")
        flush(aside / MANIFEST)
        for directory in sorted({path.parent for path in files} | {aside}, reverse=True):
            flush(directory)
        aside.rename(target)
        flush(target.parent)
    except BaseException as error:
        written = size_of(aside)
        shutil.rmtree(aside, ignore_errors=True)
        if is_disk_full(error):
            raise no_space(target, written, error) from error
        raise


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a committed directory, which is as it was written; its files are not looked at.

    Raises:
        CheckpointError: when it is missing or was changed.
    """
    try:
        text = (directory / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
        if text != _sealed(manifest):
            raise ValueError("is not what was written")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{directory}: {MANIFEST} is missing or unreadable, the save was never finished"
        ) from error
    assert isinstance(manifest, dict)
    return manifest


def resealed(manifest: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """The text of a manifest that says the same of other files."""
    return _sealed({**manifest, "files": dict(files)})


def verify_directory(directory: Path) -> dict[str, Any]:
    """The manifest of a committed directory whose files, but the card and its pictures, are as they were written.

    Raises:
        CheckpointError: naming the file that is missing or differs.
    """
    manifest = read_manifest(directory)
    for name, entry in manifest["files"].items():
        size, sha256 = entry["size"], entry["sha256"]
        if name in _FOR_PEOPLE or name.startswith("plots/"):
            continue
        file = directory / name
        if not file.is_file():
            raise CheckpointError(f"{directory}: {name} is missing")
        if file.stat().st_size != size:
            raise CheckpointError(f"{file}: {file.stat().st_size} bytes, {size} were written")
        if _sha256(file) != sha256:
            raise CheckpointError(f"{file}: its content is not what was written (SHA-256 differs)")
    return manifest


class CheckpointStore:
    """The `checkpoints/` of one run."""

    def __init__(self, run_dir: Path, run_id: str, identity: Mapping[str, str] | None = None) -> None:
        """`identity`: what the run is made of, name -> hash or version; written into every manifest."""
        self.root = run_dir / "checkpoints"
        self.run_id = run_id
        self.identity = dict(identity or {})

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
        """Commit a checkpoint and point `last` to it. What is committed stays as it is; a damaged one is replaced."""
        if not self._is_good(step):
            remove(self.path(step))
            facts = {"step": step, "run_id": self.run_id, "identity": self.identity}
            commit_directory(self.path(step), write, facts)
        self._link("last", step)

    def settle(self, step: int, best: int | None) -> None:
        """As after the save of `step`: point `last` and `best` to where they belong, whatever a kill left."""
        self._link("last", step)
        if best is not None and self.path(best).exists():
            self._link("best", best)

    def link_best(self, step: int) -> None:
        """Point `best` to the checkpoint of `step`."""
        self._link("best", step)

    def best(self) -> int | None:
        """The step that `best` points to."""
        return self._linked("best")

    def last(self) -> int | None:
        """The step that `last` points to."""
        return self._linked("last")

    def _linked(self, name: str) -> int | None:
        link = self.root / name
        match = _NAME.fullmatch(os.readlink(link)) if link.is_symlink() else None
        return int(match[1]) if match else None

    def rotate(self, keep_last: int) -> None:
        """Delete all but the newest `keep_last` checkpoints, the best one and the last one that was saved."""
        keep = {*self.steps()[-keep_last:], self.best(), self.last()}
        for step in self.steps():
            if step not in keep:
                remove(self.path(step))

    def discard_after(self, step: int) -> None:
        """Delete checkpoints beyond `step`: damaged ones, which training is about to write again."""
        for newer in [number for number in self.steps() if number > step]:
            remove(self.path(newer))

    def clear_partial(self) -> None:
        """Delete what a process that was killed left half-written or half-deleted."""
        for path in self.root.glob(f".*{PARTIAL}"):
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)

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

    def _is_good(self, step: int) -> bool:
        try:
            return bool(verify_directory(self.path(step)).get("run_id") == self.run_id)
        except CheckpointError:
            return False

    def _link(self, name: str, step: int) -> None:
        aside = self.root / f".{name}{PARTIAL}"
        aside.unlink(missing_ok=True)
        aside.symlink_to(self.path(step).name)
        aside.rename(self.root / name)
        flush(self.root)


def _sealed(manifest: Mapping[str, Any]) -> str:
    """The text of a manifest, with a hash of all the rest of it."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1) + "\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Wait until the content of a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(directory: Path) -> None:
    """Delete a directory so that no part of it is ever there under its name."""
    if directory.exists():
        aside = directory.with_name(f".{directory.name}{PARTIAL}")
        shutil.rmtree(aside, ignore_errors=True)
        directory.rename(aside)
        shutil.rmtree(aside)


def size_of(directory: Path) -> int:
    """Bytes of the files in a directory; 0 when there is none."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())


def free_bytes(path: Path) -> int:
    """What this user may still write where `path` is or will be."""
    return shutil.disk_usage(next(one for one in (path, *path.absolute().parents) if one.exists())).free


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of space; the libraries that write weights say so in words only."""
    return getattr(error, "errno", None) in _FULL or any(
        os.strerror(number) in str(error) or f"os error {number}" in str(error) for number in _FULL
    )


def no_space(target: Path, needed: int, error: BaseException | None = None) -> TrainingError:
    """What to tell when `target` cannot be written, for want of space or because files may not be so large."""
    limited = error is not None and (getattr(error, "errno", None) == errno.EFBIG or "too large" in str(error))
    why = "no space" if not limited else "a file may not be so large here (ulimit -f, or the file system)"
    return TrainingError(
        f"{target}: {why}: at least {needed:,} bytes are needed, {free_bytes(target):,} are free; what was committed "
        "before is whole: make room and repeat the command"
    )
