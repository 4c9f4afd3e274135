"""Run directories compared bit by bit. Nothing of the package is used: what it wrote is read independently."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

_WALL_CLOCK = re.compile(r"_per_second$|seconds")
_SUMMARY = (
    "status", "steps", "max_steps", "epochs", "final", "best", "best_step", "best_achievable_accuracy",
    "best_achievable_loss", "sanity", "num_train_pairs", "error",
)  # fmt: skip
_TEMPORARY = re.compile(r"\.partial|\.tmp|(^|/)tmp|~$")
_FOR_PEOPLE = re.compile(r"(^|/)(README\.md$|plots/)")
# The manifest holds the run's id and lists the card, in which there are dates.
_DIFFERS = re.compile(r"(^|/)(README\.md|MANIFEST\.json)$|(^|/)plots/")


class Entry(NamedTuple):
    """One file, link or directory, as exactly as can be told."""

    kind: str
    size: int
    changed: int
    """Modification time in nanoseconds."""
    inode: int
    content: str
    """SHA-256, or where a link points."""


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(path: Path) -> str:
    """Of names, types, shapes and bits of all tensors of a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    hasher = hashlib.sha256()
    for name, entry in sorted(header.items()):
        begin, end = entry["data_offsets"]
        hasher.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        hasher.update(content[8 + length + begin : 8 + length + end])
    return hasher.hexdigest()


def snapshot(directory: Path) -> dict[str, Entry]:
    """Everything in a directory, itself included."""
    found = {}
    for path in (directory, *directory.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            kind, content = "link", os.readlink(path)
        elif path.is_dir():
            kind, content = "directory", ""
        else:
            kind, content = "file", sha256(path)
        name = path.relative_to(directory).as_posix()
        found[name] = Entry(kind, status.st_size, status.st_mtime_ns, status.st_ino, content)
    return found


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if not _WALL_CLOCK.search(key)} for line in lines]


def summary(run_dir: Path) -> dict[str, Any]:
    """summary.json; empty when there is none."""
    path = run_dir / "summary.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def leftovers(run_dir: Path) -> list[str]:
    """Names of what was begun and neither completed nor taken away."""
    names = (path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*"))
    return sorted(name for name in names if _TEMPORARY.search(name))


def checkpoint_steps(run_dir: Path) -> list[int]:
    """Steps of all checkpoints that were renamed into place, ascending."""
    return sorted(int(path.name.removeprefix("step_")) for path in (run_dir / "checkpoints").glob("step_*"))


def checkpoint(run_dir: Path, step: int) -> Path:
    """The directory of one checkpoint."""
    return run_dir / "checkpoints" / f"step_{step:08d}"


def broken_files(directory: Path) -> list[str]:
    """What a directory with a manifest lacks, or holds in another form than the manifest says."""
    manifest = directory / "MANIFEST.json"
    if not manifest.is_file():
        return [str(manifest)]
    listed = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    broken = []
    for name, entry in listed.items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != entry["size"] or sha256(path) != entry["sha256"]:
            broken.append(str(path))
    present = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    return broken + [f"{directory}/{name} (not listed)" for name in sorted(present - listed.keys() - {"MANIFEST.json"})]


def differences(expected: Path, found: Path, *, same_checkpoints: bool = True) -> list[str]:
    """In what a finished run differs from one that nothing happened to, a sentence each.

    Args:
        same_checkpoints: whether checkpoints must be of the same steps; one that a stop has made may push another out.
    """
    said = []
    said += _different_summary(summary(expected), summary(found))
    if not (found / "final" / "model.safetensors").is_file():
        return [*said, "there is no final/model.safetensors"]
    weights = [tensors_sha256(path / "final" / "model.safetensors") for path in (expected, found)]
    if weights[0] != weights[1]:
        said.append(f"final weights differ: {weights[1][:12]}, not {weights[0][:12]}")
    said += _different_lines(metrics(expected), metrics(found))
    for name in ("eval", "final"):
        said += _different_files(expected / name, found / name)
    said += [f"left over: {name}" for name in leftovers(found)]
    said += _different_names(expected, found, same_checkpoints)
    steps = checkpoint_steps(found)
    for directory in (*(checkpoint(found, step) for step in steps), found / "final"):
        said += [f"not as its manifest says: {path}" for path in broken_files(directory)]
    last = summary(expected).get("steps", 0)
    if last in steps:
        said += _different_tensors(checkpoint(expected, last), checkpoint(found, last))
    else:
        said.append(f"there is no checkpoint of step {last}, the last one")
    for link in ("last", "best"):
        targets = [os.readlink(path / "checkpoints" / link) for path in (expected, found)]
        if targets[0] != targets[1]:
            said.append(f"checkpoints/{link} points to {targets[1]}, not {targets[0]}")
    return said


def _different_summary(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        f"summary.json: {key} is {found.get(key)!r}, not {expected.get(key)!r}"
        for key in _SUMMARY
        if found.get(key) != expected.get(key)
    ]


def _different_lines(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[str]:
    if expected == found:
        return []
    for at, (one, other) in enumerate(zip(expected, found, strict=False)):
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                return [f"metrics.jsonl, line {at + 1}: {key} is {other.get(key)!r}, not {one.get(key)!r}"]
    return [f"metrics.jsonl has {len(found)} lines, not {len(expected)}"]


def _different_files(expected: Path, found: Path) -> list[str]:
    """All files but those in which there is a date."""
    said = []
    for path in sorted(expected.rglob("*")):
        name = path.relative_to(expected).as_posix()
        if not path.is_file() or _DIFFERS.search(name):
            continue
        if not (found / name).is_file():
            said.append(f"{found.name}/{name} is missing")
        elif path.read_bytes() != (found / name).read_bytes():
            said.append(f"{found.name}/{name} differs")
    return said


def _different_names(expected: Path, found: Path, same_checkpoints: bool) -> list[str]:
    """Files that one has and the other has not. Which pictures a checkpoint shows depends on the time they take."""

    def names(run_dir: Path) -> set[str]:
        files = (path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if not path.is_dir())
        return {
            name for name in files
            if not (name.startswith("checkpoints/step_") and (not same_checkpoints or "/plots/" in name))
        }  # fmt: skip

    one, other = names(expected), names(found)
    return [f"is missing: {name}" for name in sorted(one - other)] + [f"is too much: {name}" for name in other - one]


def _different_tensors(expected: Path, found: Path) -> list[str]:
    """Weights, optimizer and random states of the last checkpoint."""
    said = []
    for path in sorted(expected.rglob("*.safetensors")):
        other = found / path.relative_to(expected)
        if not other.is_file():
            said.append(f"{other} is missing")
        elif tensors_sha256(path) != tensors_sha256(other):
            said.append(f"{other} differs")
    return said


def damageable(directory: Path) -> list[str]:
    """Files of a checkpoint that are read by programs, the manifest included."""
    names = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(name for name in names if not _FOR_PEOPLE.search(name))
