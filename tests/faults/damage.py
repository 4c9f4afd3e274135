"""Bit rot, truncation and loss of a file of a checkpoint; then the command is repeated."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.comparing import broken_files, checkpoint, checkpoint_steps, damageable, snapshot
from tests.faults.outcome import Fault, Skipped, ensure
from tests.faults.workbench import Trial, Workbench


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _one_less(content: bytes) -> bytes:
    return content[:-1]


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def _zero_tail(content: bytes) -> bytes:
    kept = len(content) - min(4096, max(1, len(content) // 2))
    return content[:kept] + bytes(len(content) - kept)


WAYS: dict[str, Callable[[bytes], bytes] | None] = {
    "deleted": None, "emptied": lambda content: b"", "halved": _half, "one byte shorter": _one_less,
    "a bit flipped": _flip, "the tail zeroed": _zero_tail,
}  # fmt: skip


def damage(path: Path, way: str) -> None:
    """Damage a file."""
    change = WAYS[way]
    if change is None:
        path.unlink()
        return
    content = path.read_bytes()
    path.write_bytes(change(content))
    ensure(path.read_bytes() != content, f"{path} is too small to be damaged so")


def stopped_run(bench: Workbench, variant: str) -> Path:
    """The directory of a run that SIGTERM stopped after several checkpoints."""

    def make() -> Path:
        trial = bench.trial(f"stopped_{variant.replace(' ', '_')}", 0)
        trial.variant = variant
        child = trial.fork()
        while child.running and not checkpoint(trial.run_dir, 9).exists():
            time.sleep(0.001)
        child.send(signal.SIGTERM)
        ended = child.wait()
        steps = checkpoint_steps(trial.run_dir)
        ensure(ended.code == 143 and len(steps) >= 2, f"stopped with {ended.code} and checkpoints {steps}")
        ensure(not any(broken_files(checkpoint(trial.run_dir, step)) for step in steps), "a checkpoint is broken")
        return trial.run_dir

    return bench.once(f"stopped {variant}", make)


def damage_once(trial: Trial) -> str:
    """Damage one file of the newest checkpoint; every tenth trial, one of each checkpoint."""
    trial.variant = "dropout"
    source = stopped_run(trial.bench, trial.variant)
    shutil.copytree(source, trial.run_dir, symlinks=True)
    if trial.number % 10 == 9:
        return _all_damaged(trial)
    newest = checkpoint(trial.run_dir, checkpoint_steps(trial.run_dir)[-1])
    every = [(name, way) for name in damageable(newest) for way in WAYS]
    at = trial.number - trial.number // 10
    if at >= len(every):
        raise Skipped(f"all {len(every)} damages were done")
    name, way = every[at]
    damage(newest / name, way)
    ended = trial.fork().wait()
    said = f"{newest.name}/{name} {way}"
    ensure(ended.code == 0, f"{said}: ended with {ended.code}: {ended.last_lines}")
    named = [line for line in ended.stderr.splitlines() if newest.name in line and name in line]
    ensure(named, f"{said}: not noticed, or not named")
    ensure(f"{newest.name} (step" not in ended.stderr, f"{said}: went on from the damaged checkpoint")
    # The checkpoint that the stop made is not made again, so another may be kept.
    trial.check(trial.bench.reference(trial.variant), same_checkpoints=False)
    return way


def _all_damaged(trial: Trial) -> str:
    """With no good checkpoint the command refuses and leaves everything as it is."""
    for step in checkpoint_steps(trial.run_dir):
        directory = checkpoint(trial.run_dir, step)
        damage(directory / trial.rng.choice(damageable(directory)), trial.rng.choice(["deleted", "halved", "emptied"]))
    before = snapshot(trial.run_dir)
    ended = trial.fork().wait()
    ensure(ended.code == 2, f"all checkpoints damaged: exit code {ended.code}, not 2: {ended.last_lines}")
    lines = ended.stderr.strip().splitlines()
    ensure(len(lines) == 1, f"all checkpoints damaged: {len(lines)} lines: {ended.last_lines}")
    after = snapshot(trial.run_dir)
    gone = sorted(before.keys() - after.keys())
    ensure(not gone, f"all checkpoints damaged: {gone[:3]} were deleted")
    contents = {name: (entry.kind, entry.content) for name, entry in before.items()}
    changed = sorted(name for name, entry in after.items() if contents.get(name) != (entry.kind, entry.content))
    ensure(not changed, f"all checkpoints damaged: the refused command left or changed {', '.join(changed[:3])}")
    return "all checkpoints"


DAMAGE = Fault("damage", "a file of the newest checkpoint damaged in six ways, the manifest too", 0.5, damage_once)
