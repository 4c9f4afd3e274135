"""A full disk, a limit on the size of files, a directory that may only be read; then the command is repeated."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.faults.comparing import leftovers, snapshot
from tests.faults.damage import stopped_run
from tests.faults.outcome import Fault, Lost, Skipped, ensure
from tests.faults.processes import Ended
from tests.faults.workbench import Trial

_DISK = 12 * 2**20
_LEAST_LIMIT = 16 * 2**10
"""Bytes that any file may have: what the command prints goes to files as well."""
_PAGE = 4096


def disk_once(trial: Trial) -> str:
    """One of the three, the full disk most often."""
    turn = trial.number % 5
    if turn == 3:
        return _limited(trial)
    return _read_only(trial) if turn == 4 else _full(trial)


def _full(trial: Trial) -> str:
    """The disk is so full at the start that it has no room left at a varying moment of the run."""
    reference = trial.choose_variant()
    needed = used(reference.path)
    free = int(trial.rng.uniform(0.02, 1.1) * needed)
    disk = trial.place / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs"):
        trial.cwd = disk
        _fill(disk / "ballast", free)
        ended = trial.fork().wait()
        if ended.code == 0:
            trial.check(reference)
            where = "had room"
        else:
            where = _refused_for_space(trial, ended)
            (disk / "ballast").unlink()
            trial.finish()
    return where


def _refused_for_space(trial: Trial, ended: Ended) -> str:
    """Whether the run ended in one line that says what is needed and what is free."""
    line = _one_line(ended)
    ensure(re.search(r"no space|not enough space|disk is full", line, re.IGNORECASE), f"does not say why: {line}")
    ensure("free" in line and "need" in line, f"does not say what is needed and what is free: {line}")
    ensure(len(re.findall(r"\d[\d.,]*", line.replace(str(trial.run_dir), ""))) >= 2, f"names no bytes: {line}")
    ensure(not (left := leftovers(trial.run_dir)), f"left over: {left}")
    if ended.code == 2:
        return "refused at the start"
    return f"full in the run, {len(list(trial.run_dir.glob('checkpoints/step_*')))} checkpoints"


def _one_line(ended: Ended) -> str:
    """The line that says why the command failed."""
    ensure(ended.code in (1, 2), f"exit code {ended.code}, not 1 or 2: {ended.last_lines}")
    ensure("Traceback" not in ended.stderr, f"a traceback: {ended.last_lines}")
    lines = [line for line in ended.stderr.splitlines() if line.startswith("rm-train: ")]
    ensure(len(lines) == 1, f"{len(lines)} lines of the command, not 1: {ended.last_lines}")
    ensure(ended.stderr.strip().splitlines()[-1] == lines[0], f"the error is not the last line: {ended.last_lines}")
    return lines[0]


def _limited(trial: Trial) -> str:
    """No file may grow beyond a limit, which some file of a checkpoint does."""
    reference = trial.choose_variant()
    sizes = sorted({path.stat().st_size for path in reference.path.rglob("*") if path.is_file()})
    candidates = [size for size in sizes if size > _LEAST_LIMIT]
    ensure(candidates, "no file is large enough")
    limit = max(_LEAST_LIMIT, trial.rng.choice(candidates) - trial.rng.randrange(1, 9000))
    ended = trial.fork(file_limit=limit).wait()
    if ended.code == 0:
        trial.check(reference)
        return "within the limit"
    line = _one_line(ended)
    ensure("too large" in line.lower() or "limit" in line.lower(), f"does not say why: {line}")
    ensure(not (left := leftovers(trial.run_dir)), f"left over: {left}")
    trial.finish()
    return "a file too large"


def _read_only(trial: Trial) -> str:
    """The directory of a stopped run, or the one that it would be made in, may only be read."""
    trial.variant = "dropout"
    if trial.rng.random() < 0.5:
        trial.cwd = trial.place / "cwd"
        trial.cwd.mkdir()
        shutil.copytree(stopped_run(trial.bench, trial.variant), trial.run_dir, symlinks=True)
        target = trial.run_dir
    else:
        target = trial.cwd = trial.place / "cwd"
        target.mkdir()
    before = snapshot(target)
    with mounted(target, "--bind", str(target)):
        _system("mount", "-o", "remount,ro,bind", str(target))
        ended = trial.fork().wait()
        line = _one_line(ended)
        ensure(ended.code == 2, f"exit code {ended.code}, not 2: {line}")
        ensure("run_dir=run" in line, f"does not name the directory: {line}")
    ensure(snapshot(target) == before, "something changed in a directory that may only be read")
    trial.finish(same_checkpoints=False)
    return "read-only"


def used(directory: Path) -> int:
    """Bytes that a directory takes on a tmpfs."""
    sizes = (path.lstat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(-(-size // _PAGE) * _PAGE for size in sizes)


def _fill(ballast: Path, free: int) -> None:
    """Write a file that leaves only so many bytes."""
    with ballast.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(ballast.parent).free - free)))


@contextlib.contextmanager
def mounted(target: Path, *arguments: str) -> Iterator[None]:
    """`mount ARGUMENTS target` while inside; skips the trial where that is not allowed."""
    if os.geteuid():
        raise Skipped("mounting needs root")
    target.mkdir(exist_ok=True)
    _system("mount", *arguments, str(target))
    try:
        yield
    finally:
        # A process that is still at work there does not keep it.
        _system("umount", "-l", str(target))


def _system(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        refusal = f"{' '.join(command[:1])}: {done.stderr.strip()}"
        raise Skipped(refusal) if command[0] == "mount" else Lost(refusal)


DISK = Fault("disk", "a full disk, a limit on the size of files, a read-only directory", 0.2, disk_once)
