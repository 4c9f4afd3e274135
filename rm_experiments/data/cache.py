"""Derived data on disk, made once: a directory per entry, named by a hash of everything that it depends on.

An entry is written aside and renamed, so it is whole or not there. One process fills an entry while others wait for it.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from rm_experiments.errors import ConfigError

_SIZES = "SIZES.json"


class DataCache:
    """Entries under one directory, or under a temporary one that goes with the process."""

    def __init__(self, setting: str | None) -> None:
        """`setting`: `data.cache_dir`: a directory, `auto`, or None.

        Raises:
            ConfigError: when the directory that the user named cannot be written.
        """
        self.hits: list[str] = []
        """Kinds of the entries that were there already."""
        self._root: Path | None = None
        if setting is None:
            return
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        root = Path(f"{base}/rm_experiments" if setting == "auto" else setting).expanduser()
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                self._root = root
        except OSError as error:
            # Without a place that was asked for, a run is as good as with one, only slower the next time.
            if setting != "auto":
                raise ConfigError(
                    f"data.cache_dir={setting}: cannot be written ({error.strerror}); try data.cache_dir=null"
                ) from error

    def entry(self, kind: str, key: Any, build: Callable[[Path], None]) -> Path:
        """The directory of the entry, after `build(directory)` has filled it if it was not there.

        Args:
            kind: what the entry holds, for people.
            key: everything that the content depends on, as plain values. `code_digest` is added.
        """
        name = f"{kind}-{digest([key, code_digest()])[:32]}"
        if self._root is None:
            directory = _temporary_root() / f"{name}-{uuid.uuid4().hex}"
            directory.mkdir()
            build(directory)
            return directory
        directory = self._root / name
        if not _whole(directory):
            with FileLock(self._root / f"{name}.lock"):
                if not _whole(directory):
                    _fill(directory, build)
                    return directory
        self.hits.append(kind)
        with contextlib.suppress(OSError):  # Another user's entry.
            os.utime(directory)  # So that the time of last use can be seen.
        return directory


def digest(key: Any) -> str:
    """Hash of plain values: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


@lru_cache
def code_digest() -> str:
    """Hash of the code that makes entries, so that other code never reads them: pairs, tokenizers and token ids."""
    room = Path(__file__).parent
    hasher = hashlib.sha256()
    for path in (*sorted(room.rglob("*.py")), room.parent / "modeling" / "tokenizer.py"):
        hasher.update(path.name.encode() + path.read_bytes())
    for library in ("tokenizers", "transformers"):
        hasher.update(f"{library} {version(library)}".encode())
    return hasher.hexdigest()


def file_digest(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fill(directory: Path, build: Callable[[Path], None]) -> None:
    # What a killed process left; the lock is ours, so nobody is at work on it.
    for left in directory.parent.glob(f"{directory.name}.tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)
    aside = directory.with_name(f"{directory.name}.tmp-{uuid.uuid4().hex}")
    aside.mkdir()
    try:
        build(aside)
        sizes = {one.name: one.stat().st_size for one in aside.iterdir()}
        (aside / _SIZES).write_text(json.dumps(sizes))
        for one in aside.iterdir():
            _sync(one)
        aside.rename(directory)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _sync(directory.parent)


def _whole(directory: Path) -> bool:
    """Whether every file has the size that it was written with."""
    try:
        sizes = json.loads((directory / _SIZES).read_text())
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@lru_cache
def _temporary_root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="rm_experiments_"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root
