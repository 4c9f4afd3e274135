"""How far a job is, read from what it writes to metrics.jsonl."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from rm_experiments.config.schema import RunConfig
from rm_experiments.runner.run_dir import METRICS_FILE


class Progress:
    """Follows the metrics.jsonl of a run; each line is read once."""

    def __init__(self, run_dir: Path, config: RunConfig) -> None:
        self._path = run_dir / METRICS_FILE
        self._max_steps, self._num_epochs = config.train.max_steps, config.train.num_epochs
        self._offset = 0
        self._seconds_per_step: float | None = None
        self._seen = time.monotonic()
        self.step = 0
        self.metrics: dict[str, float] = {}
        """The newest value of each metric."""
        self.evaluations: list[tuple[int, dict[str, Any]]] = []
        """Steps and metrics of all evaluations so far."""

    @property
    def max_steps(self) -> int | None:
        """Steps of the whole run; None until that can be told."""
        if self._max_steps is not None:
            return self._max_steps
        epoch = self.metrics.get("train_epoch")
        return round(self.step * self._num_epochs / epoch) if epoch else None

    @property
    def seconds_left(self) -> float | None:
        """At the speed of the last steps; None until that can be told."""
        total = self.max_steps
        if total is None or self._seconds_per_step is None:
            return None
        since = time.monotonic() - self._seen
        return max(0.0, (total - self.step) * self._seconds_per_step - since)

    def read(self) -> None:
        """Take in what was written since the last call."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._offset:
                    # A job that goes on cuts off what it will write again.
                    self._offset, self.evaluations = 0, []
                file.seek(self._offset)
                content = file.read()
        except OSError:
            return
        lines, _, rest = content.rpartition(b"\n")
        self._offset += len(content) - len(rest)
        for text in lines.splitlines():
            # A file that was cut and has grown again since the last look begins in the middle of a line.
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                self._take(json.loads(text))

    def _take(self, line: dict[str, Any]) -> None:
        self.step, self._seen = line["step"], time.monotonic()
        values = {key: value for key, value in line.items() if isinstance(value, int | float)}
        self.metrics |= values
        if line["kind"] == "eval":
            # What comes again was cut off and is made anew.
            self.evaluations = [*(one for one in self.evaluations if one[0] < line["step"]), (line["step"], values)]
        self._seconds_per_step = values.get("train_seconds_per_step", self._seconds_per_step)
