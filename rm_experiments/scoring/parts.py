"""The rewards of each chunk in a file of its own, so that an interrupted command goes on where it stopped."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rm_experiments.errors import CheckpointError, ConfigError
from rm_experiments.runner.lock import Lock
from rm_experiments.runner.run_dir import read_object, write_json, write_text

_JOB_FILE, _FAILED_FILE, _WHOLE_FILE, _DONE = "job.json", "failed", "whole", "done_"
_LOOK_SECONDS = 0.5


class Parts:
    """A directory beside the output, which is gone when the output is whole."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def claim(self) -> Lock:
        """Make the directory, for this process alone.

        Raises:
            ConfigError: when another one writes there, or it cannot be made.
        """
        lock = Lock(self.directory, "output")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock.take()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ConfigError(f"output: {self.directory} cannot be written to ({error.strerror})") from error
        return lock

    def begin(self, job: Mapping[str, str], resume: bool) -> None:
        """Take over what an interrupted command with the same `job` left, or begin.

        Raises:
            CheckpointError: when it was another command.
        """
        before = read_object(self.directory / _JOB_FILE)
        if before and resume and before != job:
            different = next(name for name in job if before.get(name) != job[name])
            raise CheckpointError(
                f"{self.directory}: is left of an interrupted rm-score with another {different}; type resume=never to "
                "begin again, or choose another output"
            )
        if before != job or not resume:
            for one in self.directory.glob("part_*"):
                one.unlink()
        marks = (self.directory / _FAILED_FILE, self.directory / _WHOLE_FILE, *self.directory.glob(f"{_DONE}*"))
        for one in marks:
            one.unlink(missing_ok=True)
        write_json(self.directory / _JOB_FILE, dict(job))

    @property
    def begun(self) -> bool:
        """Whether there is anything to go on with."""
        return (self.directory / _JOB_FILE).exists()

    def has(self, number: int) -> bool:
        """Whether a chunk is done."""
        return self._path(number).exists()

    def write(self, number: int, results: list[dict[str, Any]], counts: Mapping[str, int]) -> None:
        """Keep a chunk: an object per row, and what was counted."""
        write_text(self._path(number), "".join(json.dumps(one) + "\n" for one in (counts, *results)))

    def read(self, count: int) -> Iterator[dict[str, Any]]:
        """The objects of all rows of `count` chunks, in order."""
        for number in range(count):
            with self._path(number).open(encoding="utf-8") as file:
                next(file)
                yield from map(json.loads, file)

    def counts(self, count: int) -> Counter[str]:
        """What was counted in `count` chunks."""
        found: Counter[str] = Counter()
        for number in range(count):
            with self._path(number).open(encoding="utf-8") as file:
                found.update(json.loads(next(file)))
        return found

    def _path(self, number: int) -> Path:
        return self.directory / f"part_{number:08d}.jsonl"

    def fail(self) -> None:
        """Tell the other processes that this one has stopped."""
        (self.directory / _FAILED_FILE).touch()

    def wait_for_all(self, rank: int, world_size: int) -> None:
        """Until every process has done its share, or one has stopped: that may take longer than a collective waits."""
        (self.directory / f"{_DONE}{rank}").touch()
        while not self.failed and sum(1 for _ in self.directory.glob(f"{_DONE}*")) < world_size:
            time.sleep(_LOOK_SECONDS)

    def seal(self) -> None:
        """All that follows is a rename."""
        (self.directory / _WHOLE_FILE).touch()

    def remove_if_sealed(self, waiting: Path) -> None:
        """What is left of a command that was killed when its output was in place.

        Args:
            waiting: the output before it is renamed.
        """
        if (self.directory / _WHOLE_FILE).exists() and not waiting.exists():
            self.remove()

    @property
    def failed(self) -> bool:
        """Whether one of the processes has stopped."""
        return (self.directory / _FAILED_FILE).exists()

    def remove(self) -> None:
        """The output is whole, or there is nothing to go on with."""
        shutil.rmtree(self.directory, ignore_errors=True)
