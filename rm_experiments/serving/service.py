"""From what a request says to its rewards: texts become token ids in a thread, rows go through the batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from rm_experiments.config.score_schema import RowKind, ScoreColumnsConfig
from rm_experiments.config.serve_schema import LimitsConfig
from rm_experiments.data.answers import Answers, EncodedAnswers
from rm_experiments.errors import DataError
from rm_experiments.scoring.columns import NewColumns
from rm_experiments.scoring.model import OpenedModel, RewardModel, Scores
from rm_experiments.scoring.rows import columns_of, read_row
from rm_experiments.serving.batching import Batcher, ComputeFailed, QueueFull
from rm_experiments.serving.errors import RequestError
from rm_experiments.serving.jobs import tokens_of
from rm_experiments.serving.rendered import RenderedTexts
from rm_experiments.serving.requests import Row

_REPEATS = 4
"""How often as many characters as a body may have are rendered for one request: its prompts, with every answer."""
_FAILURES = 3
"""Requests that fail one after the other, until a request of our own shows whether the model still computes."""
BROKEN = "batches are not computed any more"
_SNIPPET = 120
"""Characters that show where something was cut."""


@dataclass(kw_only=True)
class ServedModel:
    """A model, and how it is called."""

    name: str
    opened: OpenedModel
    model: RewardModel
    created: int
    """When it was loaded, as `time.time()` counts."""
    rendered: RenderedTexts = field(init=False)

    def __post_init__(self) -> None:
        self.rendered = RenderedTexts(self.opened)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The rows of a request with their rewards."""

    model: ServedModel
    encoded: list[EncodedAnswers]
    scores: list[Scores]

    @property
    def rewards(self) -> list[float]:
        """Of all answers of all rows."""
        return [reward for one in self.scores for reward in one.rewards]

    @property
    def num_tokens(self) -> int:
        """That were read."""
        return sum(len(ids) for one in self.encoded for ids in one.ids)


PROBE = Answers(prompt="a", answers=["b"])
"""What any model can compute."""
Encode = Callable[[ServedModel], Sequence[EncodedAnswers | DataError]]


class Service:
    """All served models, and what scoring with them has in common for every route."""

    def __init__(self, models: Sequence[ServedModel], batcher: Batcher, limits: LimitsConfig) -> None:
        self.models = {one.name: one for one in models}
        self.batcher, self._limits = batcher, limits
        # One thread: tokenizers are not meant for several, and use several of their own where that helps.
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encoding")
        self._columns = columns_of(ScoreColumnsConfig())

    def model(self, name: str | None) -> ServedModel:
        """
        Raises:
            RequestError: when there is no such model.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise RequestError(404, f"model {name!r} is not served; there is {', '.join(self.models)}")
        return self.models[name]

    async def score(self, name: str | None, num_answers: int, encode: Encode, repeated_characters: int = 0) -> Scored:
        """The rewards of one request.

        Args:
            repeated_characters: of the prompts, as often as they are rendered.
            encode: its rows as token ids; called in another thread.

        Raises:
            RequestError: for an unknown model, too much, a row that cannot be read, a full queue or a failed model.
        """
        model = self.model(name)
        if num_answers > self._limits.answers:
            raise RequestError(
                422, f"{num_answers} answers are more than limits.answers={self._limits.answers}; send several requests"
            )
        most = _REPEATS * self._limits.body_bytes
        if repeated_characters > most:
            raise RequestError(
                422,
                f"the prompts, each with every answer, have {repeated_characters} characters, more than {_REPEATS} "
                f"times limits.body_bytes, {most}; send fewer answers at a time",
            )
        if not self.batcher.alive:
            raise RequestError(503, BROKEN)
        try:
            self.batcher.check_room()
            with self.batcher.coming():
                loop = asyncio.get_running_loop()
                encoded = _all_good(await loop.run_in_executor(self._encoding, encode, model))
                self._check_tokens(encoded)
                job = self.batcher.submit(model.name, encoded)
            singles = iter(await self.batcher.result(job))
        except QueueFull as error:
            raise RequestError(429, str(error), {"Retry-After": str(error.retry_after)}) from error
        except ComputeFailed as error:
            raise RequestError(500, "the model failed on this request; the server's log says why") from error
        scores = [_joined([next(singles) for _ in one.ids]) for one in encoded]
        scored = Scored(model=model, encoded=encoded, scores=scores)
        if not np.isfinite(scored.rewards).all():
            raise RequestError(500, "a reward is not finite; the server can be started with train.precision=fp32")
        return scored

    async def trouble(self) -> str | None:
        """Why no more requests should be sent here; None: they should."""
        if not self.batcher.alive:
            return BROKEN
        for name in self.models:
            if self.batcher.failures(name) >= _FAILURES:
                try:
                    await self.score(name, 1, lambda model: model.model.encode([PROBE]))
                except RequestError as error:
                    if error.status >= 500:
                        return f"model {name} fails on every request; the server's log says why"
        return None

    async def in_thread(self, work: Callable[[], list[dict[str, object]]]) -> list[dict[str, object]]:
        """Work with a tokenizer that is not instant."""
        return await asyncio.get_running_loop().run_in_executor(self._encoding, work)

    def encode_rows(
        self, model: ServedModel, rows: Sequence[Row], numbered: bool = False
    ) -> list[EncodedAnswers | DataError]:
        """The rows of a request by the model's template; what cannot be read keeps its place.

        Args:
            numbered: whether they are called by their numbers in messages.
        """
        read: list[Answers | DataError] = []
        for number, row in enumerate(rows):
            try:
                read.append(self._read(row, f"rows[{number}]" if numbered else "the row"))
            except DataError as error:
                read.append(error)
        encoded = iter(model.model.encode([one for one in read if isinstance(one, Answers)]))
        return [one if isinstance(one, DataError) else next(encoded) for one in read]

    def _read(self, row: Row, where: str) -> Answers:
        return read_row(row.values(), 0, where, row.kind(), self._columns, "request").answers

    def _check_tokens(self, encoded: Sequence[EncodedAnswers]) -> None:
        tokens = sum(map(tokens_of, encoded))
        if tokens > self._limits.request_tokens:
            raise RequestError(
                422,
                f"{tokens} tokens are more than limits.request_tokens={self._limits.request_tokens}; "
                "send several requests",
            )

    def close(self) -> None:
        """Compute what waits, and end the threads."""
        self.batcher.close()
        self._encoding.shutdown(wait=False, cancel_futures=True)


def row_answer(scored: Scored, number: int, row: Row, kind: RowKind) -> dict[str, object]:
    """The answer to one row, as `RowAnswer` describes it."""
    encoded, scores = scored.encoded[number], scored.scores[number]
    added: dict[str, object] = {} if row.id is None else {"id": row.id}
    added |= NewColumns(suffix="", heads=scored.model.model.heads, with_heads=False).of(kind, scores)
    added |= {
        "num_tokens": encoded.full_lengths,
        "num_prompt_tokens": encoded.num_prompt_tokens + encoded.cut_prompt,
        "cut_prompt": encoded.cut_prompt,
        "cut_ends": encoded.cut_ends,
    }
    decode = scored.model.model.tokenizer.decode
    if encoded.cut_prompt:
        # BOS stays before the cut.
        left = encoded.ids[0][: encoded.num_prompt_tokens]
        added["reads_from"] = str(decode(left[:_SNIPPET], skip_special_tokens=True))[:_SNIPPET]
    if any(encoded.cut_ends):
        added["reads_until"] = [
            str(decode(ids[encoded.num_prompt_tokens :][-_SNIPPET:-1]))[-_SNIPPET:] if cut else None
            for ids, cut in zip(encoded.ids, encoded.cut_ends, strict=True)
        ]
    return added


def _all_good(encoded: Sequence[EncodedAnswers | DataError]) -> list[EncodedAnswers]:
    bad = [one for one in encoded if isinstance(one, DataError)]
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise RequestError(422, _without_remedy(str(bad[0]).removeprefix("request: ")) + more)
    return [one for one in encoded if isinstance(one, EncodedAnswers)]


def _without_remedy(message: str) -> str:
    """What to type in a command does not help a client."""
    problem, _, remedy = message.rpartition("; ")
    return problem if problem and ("COLUMN" in remedy or "data." in remedy) else message


def _joined(singles: Sequence[Scores]) -> Scores:
    """The scores of a row's answers, which were computed one by one."""
    sds = [sd for one in singles for sd in one.sds or ()]
    return Scores(rewards=[one.rewards[0] for one in singles], heads=[one.heads[0] for one in singles], sds=sds or None)
