"""Checkpoints of one run, written in a thread while training goes on: one at a time, each committed before the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from rm_experiments.config.schema import CheckpointConfig
from rm_experiments.errors import ConfigError
from rm_experiments.training.checkpoints import CheckpointStore, flush, free_bytes, no_space, size_of

_BESIDE = 2**19
"""Bytes of tokenizer, card and the like, at least."""


class Saver:
    """Used on one process. What it is given must not change any more."""

    def __init__(self, store: CheckpointStore, keep_last: int, size: int) -> None:
        """`size`: bytes that a checkpoint needs, at least."""
        self._store, self._keep_last, self._size = store, keep_last, size
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saving")
        self._pending: Future[None] | None = None
        self.committed: Callable[[int, bool], None] = lambda step, is_best: None
        """Called in the background with a checkpoint that is there, before older ones go."""
        self.saved_step: int | None = None
        """The newest step that is committed, or is being written."""
        self.seconds = 0.0
        """What the longest one took to be written."""

    def check_space(self, step: int, already: int = 0) -> None:
        """Raise now what would go wrong later; `already`: bytes of the checkpoint that lie there.

        Raises:
            TrainingError: when there is not enough space.
        """
        if free_bytes(self._store.root) < self._size - already:
            raise no_space(self._store.path(step), self._size - already)

    def save(
        self, step: int, write: Callable[[Path], None], is_best: bool, before: Sequence[Path], already: int = 0
    ) -> None:
        """Commit a checkpoint in the background. The last one is committed before this one begins.

        Args:
            write: fills the directory.
            before: files and directories that must be on the disk before the checkpoint is.
            already: bytes of the checkpoint that lie there.

        Raises:
            TrainingError: when there is not enough space, or the last checkpoint could not be written.
        """
        self.wait()
        self.check_space(step, already)
        self.saved_step = step
        self._pending = self._pool.submit(self._commit, step, write, is_best, list(before))

    def link_best(self, step: int) -> None:
        """Point `best` to a checkpoint that was saved before it was known to be the best."""
        self.wait()
        self._store.link_best(step)

    def check(self) -> None:
        """Raise what went wrong in the background, if it has ended. Does not wait."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until everything is committed; raises what went wrong."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Until the thread has ended."""
        self._pool.shutdown()

    def _commit(self, step: int, write: Callable[[Path], None], is_best: bool, before: list[Path]) -> None:
        began = time.monotonic()
        for path in before:
            flush(path)
        self._store.save(step, write)
        if is_best:
            self._store.link_best(step)
        self.committed(step, is_best)
        self._store.rotate(self._keep_last)
        self.seconds = max(self.seconds, time.monotonic() - began)


def checkpoint_size(model: torch.nn.Module, saved: torch.dtype, has_adapter: bool, state_bytes: int) -> int:
    """Bytes that a checkpoint needs, at least: weights, optimizer state, and the trained weights if they are wider.

    Args:
        state_bytes: of the optimizer's state of a trained weight.
    """
    named = dict(model.named_parameters())
    # Not part of a saved model; a trained one lies in state/ as it is.
    language = [one for name, one in named.items() if name.startswith("language_head.") and one.requires_grad]
    parameters = [one for name, one in named.items() if not name.startswith("language_head.")]
    trained = [one for one in parameters if one.requires_grad]
    weights = sum(one.numel() for one in (trained if has_adapter else parameters)) * saved.itemsize
    wider = has_adapter or any(one.dtype != saved for one in trained)
    masters = sum(one.numel() * one.itemsize for one in trained) if wider else 0
    heads = sum(one.numel() * one.itemsize for one in language)
    moments = state_bytes * sum(one.numel() for one in (*trained, *language))
    return weights + masters + heads + moments + _BESIDE


def check_space(run_dir: Path, size: int, config: CheckpointConfig, saves_once: bool) -> None:
    """Refuse a run whose checkpoints of `size` bytes will not fit.

    Raises:
        ConfigError: with the bytes that are needed and free.
    """
    # One more is written before the oldest goes, and final/ has no optimizer state but may as well be as large.
    number = 2 if saves_once else config.keep_last + config.keep_best + 2
    needed, free = number * size - size_of(run_dir / "checkpoints"), free_bytes(run_dir)
    if needed > free:
        raise ConfigError(
            f"run_dir={run_dir}: no space: {number} directories of {size:,} bytes need {needed:,} more, {free:,} are "
            f"free; choose another run_dir, or lower checkpoint.keep_last (now {config.keep_last})"
        )
