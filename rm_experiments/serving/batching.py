"""Batches across requests: one thread computes, and what comes meanwhile is the next batch."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rm_experiments.data.answers import EncodedAnswers
from rm_experiments.launch.signals import Stopped
from rm_experiments.scoring.model import Scores
from rm_experiments.serving.jobs import Batch, Job, fill, make_job

_log = logging.getLogger(__name__)
_SMOOTHING = 0.3
"""Weight of the newest batch in the measured speed."""
_LONGEST_RETRY = 60


class Scorer(Protocol):
    """What is needed of a model; `RewardModel` has it."""

    token_budget: int

    def compute(
        self, encoded: Sequence[EncodedAnswers], on_progress: Callable[[int], None] = ...,
        should_stop: Callable[[], bool] = ...,
    ) -> list[Scores]: ...  # fmt: skip


class QueueFull(Exception):
    """No more is taken now."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after
        """Seconds until there is likely to be room."""


class ComputeFailed(Exception):
    """The model could not compute what one request brought; others are not concerned."""


@dataclass(frozen=True)
class BatchFacts:
    """One batch, for the metrics."""

    model: str
    requests: int
    answers: int
    tokens: int
    """That were computed: equal prompts once."""
    seconds: float


@dataclass
class _Lane:
    """What waits for one model, and how fast it is."""

    scorer: Scorer
    jobs: deque[Job] = field(default_factory=deque)
    tokens_per_second: float | None = None
    last_requests: int = 1
    """Requests in its last batch."""
    served: float = 0.0
    """When its last batch ended."""
    failures: int = 0
    """Requests that failed by themselves, one after the other."""

    @property
    def waits_since(self) -> float:
        """When its turn was over, or the oldest request came."""
        return max(self.jobs[0].arrived, self.served)


class Batcher:
    """Takes answers of many requests, computes them together, and gives each request its own scores.

    A batch begins as soon as the model is free, but for at most `wait` seconds while more is on its way: requests that
    were read and are being tokenized, or as many as there were in the batch before. It takes an answer of each request
    in turn until it would last longer than `target` seconds, so that a large request does not hold up small ones;
    further answers to its prompts, which it computes once, may come on top. Models that have work take turns.
    """

    def __init__(
        self, models: Mapping[str, Scorer], *, target: float, wait: float, max_tokens: int | None, queue_tokens: int,
        queue_requests: int, on_batch: Callable[[BatchFacts], None] = lambda facts: None,
    ) -> None:  # fmt: skip
        self._lanes = {name: _Lane(scorer) for name, scorer in models.items()}
        self._target, self._wait, self._max_tokens = target, wait, max_tokens
        self._queue_tokens, self._queue_requests, self._on_batch = queue_tokens, queue_requests, on_batch
        self._changed = threading.Condition()
        self._jobs: set[Job] = set()
        self._tokens = 0
        self._coming = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether batches are computed."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> tuple[int, int]:
        """Requests and tokens that wait or are being computed."""
        with self._changed:
            return len(self._jobs), self._tokens

    @property
    def taken(self) -> int:
        """Requests that are being tokenized, wait or are being computed."""
        with self._changed:
            return len(self._jobs) + self._coming

    def failures(self, model: str) -> int:
        """How many requests to it failed by themselves, one after the other and up to the last one."""
        return self._lanes[model].failures

    @contextmanager
    def coming(self) -> Iterator[None]:
        """While inside, a request is on its way: an idle model gives it a moment."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                self._changed.notify()

    async def result(self, job: Job) -> list[Scores]:
        """The scores of each answer. When the caller is cancelled, what is left of the work is dropped.

        Raises:
            ComputeFailed: when the model could not compute them.
        """
        try:
            return await job.done
        finally:
            self._drop(job)

    def check_room(self) -> None:
        """
        Raises:
            QueueFull: when there is no room for one more request, whatever its size. Those that come are counted.
        """
        with self._changed:
            self._check(0, self._coming)

    def submit(self, model: str, rows: Sequence[EncodedAnswers]) -> Job:
        """Put the rows of one request into the queue; in the loop that awaits `result`.

        Raises:
            QueueFull: when too much waits already.
        """
        job = make_job(model, rows, asyncio.get_running_loop().create_future(), time.monotonic())
        if not job.pieces:
            job.done.set_result([])
            return job
        with self._changed:
            assert not self._closed
            self._check(sum(job.costs), 0)
            self._jobs.add(job)
            self._tokens += sum(job.costs)
            self._lanes[model].jobs.append(job)
            self._changed.notify()
        return job

    def close(self) -> None:
        """Compute what waits, and end. Nothing may be submitted any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _check(self, tokens: int, coming: int) -> None:
        if self._tokens + tokens > self._queue_tokens or len(self._jobs) + coming >= self._queue_requests:
            speeds = [lane.tokens_per_second for lane in self._lanes.values() if lane.tokens_per_second]
            seconds = self._tokens / min(speeds) if speeds else 1.0
            raise QueueFull(max(1, min(_LONGEST_RETRY, math.ceil(seconds))))

    def _drop(self, job: Job) -> None:
        """What is left of its work is not done; what is being computed for it is thrown away."""
        with self._changed:
            job.dropped = True
            if job in self._jobs:
                self._jobs.discard(job)
                self._tokens -= job.tokens_left
                if job.waiting < len(job.pieces):
                    self._lanes[job.model].jobs.remove(job)

    def _work(self) -> None:
        try:
            while (taken := self._next()) is not None:
                lane, batch = taken
                begun = time.monotonic()
                found = self._compute(lane, batch.answers)
                seconds = time.monotonic() - begun
                self._give(lane, batch, found, seconds)
        finally:
            # None, unless the work broke down.
            if self._jobs:
                _tell([(job, RuntimeError("batches are not computed any more")) for job in self._jobs])

    def _next(self) -> tuple[_Lane, Batch] | None:
        """The answers to compute next, of the model that has waited longest; None when closed."""
        with self._changed:
            while True:
                lanes = [lane for lane in self._lanes.values() if lane.jobs]
                if not lanes:
                    if self._closed:
                        return None
                    self._changed.wait()
                    continue
                lane = min(lanes, key=lambda one: one.waits_since)
                left = lane.jobs[0].arrived + self._wait - time.monotonic()
                if left > 0 and not self._closed and self._more_is_likely(lane):
                    self._changed.wait(left)
                    continue
                return lane, self._fill(lane)

    def _more_is_likely(self, lane: _Lane) -> bool:
        tokens = sum(sum(job.costs[job.waiting :]) for job in lane.jobs)
        return tokens < self._limit(lane) and (self._coming > 0 or len(lane.jobs) < lane.last_requests)

    def _limit(self, lane: _Lane) -> float:
        """Tokens of a batch."""
        speed = lane.tokens_per_second
        limit = lane.scorer.token_budget if speed is None else self._target * speed
        return min(limit, self._max_tokens or math.inf)

    def _fill(self, lane: _Lane) -> Batch:
        batch = fill(lane.jobs, self._limit(lane), self._max_tokens or math.inf)
        lane.jobs = deque(job for job in lane.jobs if job.waiting < len(job.pieces))
        return batch

    def _compute(self, lane: _Lane, batch: list[tuple[Job, int]]) -> dict[Job, list[Scores] | BaseException]:
        """The scores of each request's answers, or why there are none."""
        jobs = list(dict.fromkeys(job for job, _ in batch))
        try:
            scores = iter(
                lane.scorer.compute(
                    [job.pieces[number] for job, number in batch], should_stop=lambda: all(job.dropped for job in jobs)
                )
            )
        except Stopped:
            return {}
        except Exception as error:
            if len(jobs) == 1:
                _log.exception("a batch of one request failed")
                lane.failures += 1
                return {jobs[0]: error}
            # What one request brought must not cost the others their answers.
            _log.warning("a batch of %d requests failed (%s); each is computed by itself", len(jobs), error)
            alone: dict[Job, list[Scores] | BaseException] = {}
            for job in jobs:
                alone |= self._compute(lane, [one for one in batch if one[0] is job])
            return alone
        lane.failures = 0
        found: dict[Job, list[Scores] | BaseException] = {job: [] for job in jobs}
        for job, _ in batch:
            given = found[job]
            assert isinstance(given, list)
            given.append(next(scores))
        return found

    def _give(self, lane: _Lane, batch: Batch, found: Mapping[Job, Any], seconds: float) -> None:
        ready: list[tuple[Job, BaseException | None]] = []
        with self._changed:
            lane.last_requests = len({job for job, _ in batch.answers})
            lane.served = time.monotonic()
            # A batch that failed or was broken off says nothing.
            if found and not any(isinstance(given, BaseException) for given in found.values()):
                self._note_speed(lane, batch.tokens, seconds)
            for job, given in found.items():
                if job.dropped:
                    continue
                if isinstance(given, BaseException):
                    self._finish(job)
                    ready.append((job, given))
                    continue
                numbers = [number for one, number in batch.answers if one is job]
                for number, scores in zip(numbers, given, strict=True):
                    job.scores[number] = scores
                    self._tokens -= job.costs[number]
                if None not in job.scores:
                    self._jobs.discard(job)
                    ready.append((job, None))
        if ready:
            _tell(ready)
        self._on_batch(
            BatchFacts(batch.answers[0][0].model, lane.last_requests, len(batch.answers), batch.tokens, seconds)
        )

    def _note_speed(self, lane: _Lane, tokens: int, seconds: float) -> None:
        """A batch that is far from full says only that the model is at least so fast. One outlier says little."""
        speed, known = tokens / max(seconds, 1e-6), lane.tokens_per_second
        if known is None or speed > known:
            lane.tokens_per_second = speed if known is None else min(speed, 2 * known)
        elif tokens > self._limit(lane) / 2:
            lane.tokens_per_second = known + _SMOOTHING * (speed - known)

    def _finish(self, job: Job) -> None:
        """Take a request that failed out of everything."""
        self._jobs.discard(job)
        self._tokens -= job.tokens_left
        if job.waiting < len(job.pieces):
            self._lanes[job.model].jobs.remove(job)


def _tell(ready: list[tuple[Job, BaseException | None]]) -> None:
    """In the loop that waits for them."""

    def tell() -> None:
        for job, error in ready:
            if job.done.done():
                continue
            if error is None:
                job.done.set_result([one for one in job.scores if one is not None])
            else:
                job.done.set_exception(ComputeFailed(str(error) or type(error).__name__))

    ready[0][0].done.get_loop().call_soon_threadsafe(tell)
