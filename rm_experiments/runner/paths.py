"""Files and directories that a config names: refused at once when they are not there. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from rm_experiments.config.schema import RunConfig
from rm_experiments.data.sources import resolve_source
from rm_experiments.errors import CheckpointError


def check_paths(config: RunConfig) -> None:
    """Look whether what `config` names exists. Reads no content.

    Raises:
        DataError, CheckpointError: naming the key, the path, and what to type.
    """
    for key, source in (("data.train", config.data.train), ("data.eval", config.data.eval)):
        if source is not None:
            resolve_source(source, key)
    for name, one in config.data.eval_sets.items():
        resolve_source(one.source, f"data.eval_sets.{name}.source")
    name_or_path = config.model.name_or_path
    if name_or_path is None:
        return
    directory = Path(os.path.expanduser(name_or_path))
    typed_as_path = name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1
    if typed_as_path and not directory.is_dir():
        raise CheckpointError(f"model.name_or_path={name_or_path}: no such directory; try a Hub id, or model=tiny")
    if directory.is_dir() and not (directory / "config.json").is_file():
        raise CheckpointError(
            f"model.name_or_path={name_or_path}: holds no config.json, so it is no model; try the folder that has one"
        )
