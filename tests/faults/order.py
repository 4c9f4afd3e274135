"""In which order a save reaches the disk, as the system was asked."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.faults.outcome import Fault, Skipped, ensure
from tests.faults.strace import STRACE, Call, Tracer, calls
from tests.faults.workbench import Trial

_RENAMES = ("rename", "renameat", "renameat2")
_FLUSHES = ("fsync", "fdatasync")
_QUOTED = re.compile(r'"([^"]*)"')
_DESCRIPTOR = re.compile(r"^\d+<([^>]*)>")
_SAVED = re.compile(r"(?:^|/)checkpoints/step_\d+$")


def order_once(trial: Trial) -> str:
    """Follow a whole run and look at each of its saves, and at the model it hands over."""
    if not STRACE:
        raise Skipped("strace is missing")
    trial.variant = "dropout"
    trial.extra = ()
    go, log = trial.place / "go", trial.place / "order.strace"
    child = trial.fork("checkpoint.keep_last=99", hold=go)
    tracer = Tracer(child, log)
    go.touch()
    ended = child.wait()
    tracer.close()
    ensure(ended.code == 0, f"the run under strace ended with {ended.code}: {ended.last_lines}")
    found = [one for one in calls(log) if not one.failed]
    commits = [at for at, one in enumerate(found) if one.name in _RENAMES and _is_commit(_renamed(one)[1])]
    ensure(len(commits) >= 5, f"only {len(commits)} directories were renamed into place")
    for at in commits:
        check_commit(trial.cwd, found, at)
    return f"{len(commits)} commits"


def _is_commit(target: str) -> bool:
    return bool(_SAVED.search(target)) or target.endswith("run/final")


def _renamed(call: Call) -> tuple[str, str]:
    """From where to where."""
    names = _QUOTED.findall(call.text)
    return names[0], names[1]


def check_commit(cwd: Path, found: list[Call], at: int) -> None:
    """Raise Lost unless all of a directory was flushed before it was renamed, and its parent after that."""
    aside, target = ((cwd / name).as_posix() for name in _renamed(found[at]))
    files = {path.relative_to(target).as_posix() for path in Path(target).rglob("*") if path.is_file()}
    listed = set(json.loads((Path(target) / "MANIFEST.json").read_text(encoding="utf-8"))["files"])
    ensure(files == listed | {"MANIFEST.json"}, f"{target}: the manifest does not list {files ^ listed}")
    directories = {Path(aside, name).parent.as_posix() for name in files}
    flushed = {path: number for number, path in _flushes(found[:at])}
    for path in (*(f"{aside}/{name}" for name in sorted(files)), *sorted(directories)):
        ensure(path in flushed, f"{path}: renamed into place without a flush")
    manifest = flushed[f"{aside}/MANIFEST.json"]
    for name in sorted(listed):
        ensure(flushed[f"{aside}/{name}"] < manifest, f"{target}: {name} was flushed after the manifest")
    ensure(flushed[aside] > manifest, f"{target}: the directory was flushed before the manifest")
    written = {path: number for number, path in _writes(found[:at])}
    late = [name for name in sorted(files) if written.get(f"{aside}/{name}", -1) > flushed[f"{aside}/{name}"]]
    ensure(not late, f"{target}: written after the flush: {late}")
    parent = Path(target).parent.as_posix()
    after = [path for _, path in _flushes(found[at + 1 :])]
    ensure(parent in after, f"{target}: {parent} was not flushed after the rename")


def _flushes(found: list[Call]) -> list[tuple[int, str]]:
    """(position, path) of each flush."""
    return [
        (number, match[1]) for number, one in enumerate(found)
        if one.name in _FLUSHES and (match := _DESCRIPTOR.match(one.text))
    ]  # fmt: skip


def _writes(found: list[Call]) -> list[tuple[int, str]]:
    """(position, path) of each write."""
    return [
        (number, match[1]) for number, one in enumerate(found)
        if one.name in ("write", "writev", "pwrite64", "ftruncate") and (match := _DESCRIPTOR.match(one.text))
    ]  # fmt: skip


ORDER = Fault("order", "every file flushed, the manifest last, then the rename, then the parent", 0.005, order_once)
