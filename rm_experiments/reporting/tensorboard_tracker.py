"""TensorBoard: event files in the run directory, with the hyperparameters that its HParams page compares runs by."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rm_experiments.evaluation.records import Records
from rm_experiments.reporting.panel_names import panel_name, picture_name

_COMPARED = ("eval_accuracy", "eval_loss", "eval_margin")
"""Metrics that the HParams page shows, of the last evaluation and of the best one."""
_SUMMARY = "summary/"


class TensorBoardTracker:
    """Event files in the run directory."""

    run_id: str | None = None

    def __init__(self, run_dir: Path, set_names: tuple[str, ...], hyperparameters: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self._writer = SummaryWriter(str(run_dir / "tensorboard"))
        self._set_names = set_names
        metrics = [*(panel_name(key) for key in _COMPARED), *(f"{_SUMMARY}best/{key}" for key in _COMPARED)]
        # Not `add_hparams`: it makes a second run of every run, without the curves.
        experiment, begin, self._end = hparams(_plain(hyperparameters), dict.fromkeys(metrics, 0.0))
        for one in (experiment, begin):
            self._writer._get_file_writer().add_summary(one)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(panel_name(key, self._set_names), value, step)

    def log_records(self, step: int, records: Records, worst: list[dict[str, Any]]) -> None:
        for side in ("chosen", "rejected"):
            self._writer.add_histogram(f"eval/rewards_{side}", records[f"reward_{side}"], step)
        if worst:
            text = "\n".join(f"    {row}" for row in worst[:10])
            self._writer.add_text("eval/most_wrong_pairs", text, step)

    def log_pictures(self, step: int, pictures: list[Path]) -> None:
        for one in pictures:
            with Image.open(one) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._writer.add_image(picture_name(one), pixels, step, dataformats="HWC")

    def log_model(self, path: Path, step: int, *, final: bool, best: bool = False) -> None: ...

    def summarise(self, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"{_SUMMARY}{key}", value, 0)

    def finish(self, exit_code: int) -> list[str]:
        self._writer._get_file_writer().add_summary(self._end)
        self._writer.close()
        return []


def _plain(hyperparameters: dict[str, Any]) -> dict[str, bool | int | float | str]:
    """What HParams can hold: a list is its text, and what is not set is left out."""
    found: dict[str, bool | int | float | str] = {}
    for key, value in hyperparameters.items():
        if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            found[key] = value
        elif value is not None:
            found[key] = json.dumps(value)
    return found
