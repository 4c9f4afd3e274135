"""Saved models that a command names: a directory, a run, a folder or glob of checkpoints, a sweep, a Hub id."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rm_experiments.config.schema import Device, Precision, TrainConfig
from rm_experiments.data.cache import digest
from rm_experiments.errors import CheckpointError
from rm_experiments.modeling.loading import SavedModel
from rm_experiments.runner.finished import find_runs, is_run, manifest_step


@dataclass(kw_only=True)
class Checkpoint:
    """A saved model."""

    name: str
    """Directory or Hub id."""
    run: Path | None = None
    """The directory of the run that made it, where that is known."""
    step: int = 0


def find_checkpoints(setting: Any) -> tuple[list[Checkpoint], list[str]]:
    """The saved models that `checkpoint` names, those of a run in the order of their steps; and what was passed over.

    Raises:
        CheckpointError: when one is not there, or holds no model.
    """
    found: dict[str, Checkpoint] = {}
    notes: list[str] = []
    for name in [setting] if isinstance(setting, str) else setting:
        for one in _checkpoints_of(name, notes):
            found.setdefault(one.name, one)
    return list(found.values()), notes


def computing_of(asked: TrainConfig, models: Sequence[SavedModel]) -> TrainConfig:
    """Device and precision as asked; a precision of `auto` is what all were trained with, where possible."""
    saved = {one.saved.train.precision for one in models if one.saved is not None}
    if asked.precision is not Precision.auto or len(saved) != 1:
        return asked
    (only,) = saved
    # fp16 is possible on CUDA only.
    if only is Precision.fp16 and (asked.device is Device.cpu or not torch.cuda.is_available()):
        return asked
    return dataclasses.replace(asked, precision=only)


def weights_identity(model: SavedModel) -> str:
    """Equal for equal weights, as far as that is known without reading them."""
    places = {model.name, str(model.base.name_or_path)}
    return digest([_identity_of(one, model) for one in sorted(places)])


def _identity_of(name: str, model: SavedModel) -> list[Any]:
    directory = Path(os.path.expanduser(name))
    if not directory.is_dir():
        return [name, model.revision, getattr(model.model_config, "_commit_hash", None)]
    manifest = directory / "MANIFEST.json"
    if manifest.is_file():
        return [manifest.read_text(encoding="utf-8")]
    files = sorted(one for one in directory.iterdir() if one.suffix in (".safetensors", ".bin", ".json"))
    return [[one.name, one.stat().st_size, one.stat().st_mtime_ns] for one in files]


def _checkpoints_of(name: str, notes: list[str]) -> list[Checkpoint]:
    path = Path(os.path.expanduser(name))
    if not path.exists() and glob.has_magic(name):
        models = [one for one in sorted(glob.glob(str(path))) if _is_model(Path(one))]
        if not models:
            raise CheckpointError(f"checkpoint={name}: no model directory matches this pattern")
        return sorted((_checkpoint(Path(one)) for one in models), key=lambda one: (str(one.run), one.step))
    if not path.exists():
        if name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise CheckpointError(f"checkpoint={name}: no such directory; name a model directory, a run or a Hub id")
        return [Checkpoint(name=name)]
    if _is_model(path):
        return [_checkpoint(path)]
    if is_run(path):
        return [_checkpoint(_final_of(path, name))]
    below = [_checkpoint(one) for one in sorted(path.iterdir())
             if one.is_dir() and not one.is_symlink() and _is_model(one)] if path.is_dir() else []  # fmt: skip
    if below:
        return sorted(below, key=lambda one: one.step)
    try:
        runs = find_runs(str(path))
    except CheckpointError as error:
        raise CheckpointError(
            f"checkpoint={name}: holds no model (config.json or adapter_config.json) and no run"
        ) from error
    finals = [_checkpoint(run.path / "final") for run in runs if _is_model(run.path / "final")]
    if not finals:
        raise CheckpointError(f"checkpoint={name}: none of its {len(runs)} runs has a final model; name a checkpoint")
    notes += [f"{run.path}: passed over, it has no final model" for run in runs if not _is_model(run.path / "final")]
    return finals


def _final_of(run: Path, name: str) -> Path:
    if not _is_model(run / "final"):
        raise CheckpointError(
            f"checkpoint={name}: {run} has no final model yet; try checkpoint={run / 'checkpoints' / 'last'}"
        )
    return run / "final"


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file() or (path / "adapter_config.json").is_file()


def _checkpoint(path: Path) -> Checkpoint:
    resolved = path.resolve()
    above = next((one for one in (resolved.parent, resolved.parent.parent) if is_run(one)), None)
    step = manifest_step(path)
    if above is None or step is None:
        return Checkpoint(name=str(path), step=step or 0)
    return Checkpoint(name=str(path), run=above, step=step)
