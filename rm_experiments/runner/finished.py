"""Finished runs and what they left: found under a directory, and read as far as a comparison needs it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rm_experiments.config.compose import one_line
from rm_experiments.errors import CheckpointError, DataError
from rm_experiments.evaluation.records import Records, read_records
from rm_experiments.runner.run_dir import CONFIG_FILE, METRICS_FILE, REPORT_FILE, SUMMARY_FILE, read_object

MODEL_CONFIG_FILE = "model.yaml"
"""In what rm-eval writes: the config that the evaluated model was trained with."""
_STEP = re.compile(r"step_(\d{8,})")
_DEPTH = 3
"""Folders below a named directory in which runs are looked for."""


@dataclass(kw_only=True)
class FinishedRun:
    """One run, or one model of it."""

    path: Path
    step: int | None = None
    """The step of the model that was named; None: the run was named."""
    label: str = ""
    """For people; distinct among those that are compared."""
    records: dict[str, Records] = field(default_factory=dict)
    """By set, of the evaluation that counts."""

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json; empty when the run wrote none."""
        return read_object(self.path / SUMMARY_FILE)

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """metrics.jsonl, without a last line that a killed run left unfinished."""
        path = self.path / METRICS_FILE
        found = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [one for one in found if isinstance(one, dict) and "step" in one]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config that the model was trained with, nested; empty when it is not known.

        Raises:
            DataError: when the file is damaged.
        """
        for name in (MODEL_CONFIG_FILE, CONFIG_FILE):
            path = self.path / name
            if path.is_file():
                try:
                    values = dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
                except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
                    raise DataError(f"{path}: is not the config of a run ({type(error).__name__})") from error
                values.pop("defaults", None)
                return values
        return {}

    def source_of(self, name: str) -> str:
        """Where a set comes from, for people; empty when it is not known."""
        report = read_object(self.path / REPORT_FILE).get("splits", {}).get(name, {})
        known = self.summary.get("sources", {}).get(name) or report.get("source")
        return str(known or "")

    @property
    def status(self) -> str:
        """`finished`, `failed`, `interrupted`, or `running` while there is no summary."""
        return str(self.summary.get("status", "running"))

    @property
    def evaluated(self) -> list[int]:
        """Steps whose records are there, ascending."""
        found = (_STEP.fullmatch(one.name) for one in (self.path / "eval").glob("step_*") if any(one.glob("*.parquet")))
        return sorted(int(match[1]) for match in found if match)

    def choose_step(self, at: str) -> int:
        """The step of the evaluation that counts.

        Raises:
            DataError: when there is none.
        """
        steps = self.evaluated
        if not steps:
            raise DataError(f"{self.path}: holds no evaluation; evaluate its model with rm-eval checkpoint={self.path}")
        if self.step is not None:
            wanted: int | None = self.step
        elif at == "last":
            wanted = steps[-1]
        elif at == "best":
            wanted = self.summary.get("best_step")
            wanted = steps[-1] if wanted is None else wanted
        elif at == "final":
            wanted = manifest_step(self.path / "final")
            wanted = steps[-1] if wanted is None else wanted
        else:
            wanted = int(at)
        if wanted not in steps:
            shown = ", ".join(map(str, steps if len(steps) <= 8 else [*steps[:4], "...", *steps[-3:]]))
            raise DataError(f"{self.path}: has no evaluation at step {wanted}, but at {shown}; try at=last")
        return wanted

    def load(self, at: str) -> int:
        """Read the records of the evaluation that counts; its step.

        Raises:
            DataError: when there is none, or its records are damaged.
        """
        step = self.choose_step(at)
        directory = self.path / "eval" / f"step_{step:08d}"
        for path in sorted(directory.glob("*.parquet")):
            try:
                self.records[path.stem] = read_records(path)
            except Exception as error:  # whatever pyarrow says, or a column that is not there
                raise DataError(f"{path}: cannot be read ({type(error).__name__}: {one_line(error)})") from error
            bad = np.count_nonzero(~np.isfinite(self.records[path.stem]["margin"]))
            if bad:
                raise DataError(f"{path}: {bad} pairs have rewards that are not finite; they cannot be compared")
        # The main set first.
        self.records = dict(sorted(self.records.items(), key=lambda item: (item[0] != "eval", item[0])))
        return step


def manifest_step(directory: Path) -> int | None:
    """The step of a saved model of ours."""
    step = read_object(directory / "MANIFEST.json").get("step")
    return step if isinstance(step, int) else None


def find_runs(name: str) -> list[FinishedRun]:
    """The runs that a directory is, or holds: a run, a model of one, a sweep, or a folder of them.

    Raises:
        CheckpointError: when there is no such directory, or no run in it.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        raise CheckpointError(f"{name}: no such directory; name a run, a sweep or a checkpoint")
    if is_run(path):
        return [FinishedRun(path=path)]
    for above in (path.resolve().parent, path.resolve().parent.parent):
        step = manifest_step(path)
        if step is not None and is_run(above):
            return [FinishedRun(path=above, step=step)]
    found = [FinishedRun(path=one) for one in _runs_below(path, _DEPTH)]
    if not found:
        is_model = any((path / one).is_file() for one in ("config.json", "adapter_config.json"))
        remedy = f"; evaluate the model with rm-eval checkpoint={name}" if is_model else ""
        raise CheckpointError(f"{name}: holds no run (a directory with {METRICS_FILE} and eval/){remedy}")
    return found


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run, or of an evaluation."""
    return (path / METRICS_FILE).is_file() or (path / SUMMARY_FILE).is_file()


def _runs_below(path: Path, depth: int) -> Iterator[Path]:
    children = [one for one in path.iterdir() if one.is_dir() and not one.is_symlink() and not one.name.startswith(".")]
    for child in sorted(children, key=lambda one: (not one.name.isdigit(), int(one.name) if one.name.isdigit() else 0,
                                                   one.name)):  # fmt: skip
        if is_run(child):
            yield child
        elif depth > 1:
            yield from _runs_below(child, depth - 1)


_NOT_SCIENCE = (
    "name", "run_dir", "resume", "objective", "dry_run", "tracking", "launch", "data.cache_dir", "train.device",
    "train.log_every_steps", "train.micro_batch_tokens", "eval.micro_batch_tokens", "train.layout", "hub",
)  # fmt: skip
"""Settings that do not change the model."""


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and their values, without the settings that do not change the model."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in _NOT_SCIENCE:
            continue
        if isinstance(value, Mapping) and value:
            found |= flattened(value, f"{name}.")
        else:
            found[name] = value
    return found


def differing(configs: list[dict[str, Any]]) -> list[str]:
    """The keys in which flat configs differ, in the order of the first config; `seed` last."""
    keys = list(dict.fromkeys(key for one in configs for key in one))
    shown = [key for key in keys if len({json.dumps(one.get(key), sort_keys=True, default=str) for one in configs}) > 1]
    return sorted(shown, key=lambda one: one == "seed")
