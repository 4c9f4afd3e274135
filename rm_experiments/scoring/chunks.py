"""The rewards of a chunk of rows, while the next one is read and tokenized."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from rm_experiments.config.score_schema import BadRows, ScoreConfig
from rm_experiments.data.answers import AnswerEncoder, EncodedAnswers
from rm_experiments.data.prefetch import prefetched
from rm_experiments.data.wording import data_error
from rm_experiments.errors import DataError
from rm_experiments.launch import ranks
from rm_experiments.launch.signals import Stopped
from rm_experiments.reporting.scoring_progress import ScoringProgress
from rm_experiments.scoring.columns import NewColumns
from rm_experiments.scoring.files import InputFile, InputRow
from rm_experiments.scoring.model import RewardModel
from rm_experiments.scoring.parts import Parts
from rm_experiments.scoring.plan import Plan, RowReader, remedy
from rm_experiments.scoring.rows import ScoredRow

PROBLEM = "problem"
"""In a part, of a row that cannot be scored: the reason. No new column has that name."""


class _Chunk(NamedTuple):
    number: int
    rows: list[ScoredRow | DataError]
    encoded: list[EncodedAnswers | DataError]


class ChunkScorer:
    """Scores chunks of a file and keeps them as parts."""

    def __init__(
        self, config: ScoreConfig, source: InputFile, plan: Plan, parts: Parts, new: NewColumns,
        progress: ScoringProgress,
    ) -> None:  # fmt: skip
        self._config, self._source, self._plan, self._parts = config, source, plan, parts
        self._new, self._progress, self._reader = new, progress, RowReader(config)

    def wanted(self, rank: int, world_size: int) -> list[int]:
        """The chunks of one of several processes that are not there yet."""
        numbers = range(rank, len(self._plan.ends), world_size)
        return [number for number in numbers if not self._parts.has(number)]

    def score(self, model: RewardModel, wanted: list[int], should_stop: Callable[[], bool]) -> None:
        """Score these chunks, in order.

        Raises:
            DataError: for a bad row, unless those go aside; chunks before it are kept.
            Stopped: when `should_stop` says so, or another process has stopped.
        """
        for chunk in prefetched(self._chunks(model.encoder, set(wanted))):
            if self._parts.failed:
                raise Stopped
            results = self._results(chunk, model, should_stop)
            self._parts.write(chunk.number, results, _counts(chunk, results))

    def _chunks(self, encoder: AnswerEncoder, wanted: set[int]) -> Iterator[_Chunk]:
        """The rows of the chunks that are wanted, and their token ids."""
        ends = self._plan.ends
        number, rows = 0, list[InputRow]()
        for row in self._source.rows():
            if number == len(ends):
                break
            if number in wanted:
                rows.append(row)
            if row.number + 1 < ends[number]:
                continue
            if number in wanted:
                yield self._chunk(encoder, number, rows)
            number, rows = number + 1, []
        self._source.check_unchanged()

    def _chunk(self, encoder: AnswerEncoder, number: int, rows: list[InputRow]) -> _Chunk:
        read = [self._reader.read(row) for row in rows]
        encoded = iter(encoder.encode([one.answers for one in read if isinstance(one, ScoredRow)]))
        return _Chunk(number, read, [next(encoded) if isinstance(one, ScoredRow) else one for one in read])

    def _results(self, chunk: _Chunk, model: RewardModel, should_stop: Callable[[], bool]) -> list[dict[str, Any]]:
        for one in chunk.encoded:
            self._check(one)
        good = [one for one in chunk.encoded if isinstance(one, EncodedAnswers)]
        scores = iter(model.compute(good, self._advance, should_stop))
        results: list[dict[str, Any]] = []
        for row, encoded in zip(chunk.rows, chunk.encoded, strict=True):
            if isinstance(encoded, DataError) or isinstance(row, DataError):
                results.append({PROBLEM: str(encoded)})
                continue
            given = next(scores)
            if np.isfinite(given.heads).all():
                results.append(self._new.of(row.kind, given))
                continue
            problem = data_error(f"{row.answers.where}: its reward is not a finite number; try train.precision=fp32")
            self._check(problem)
            results.append({PROBLEM: str(problem)})
        return results

    def _advance(self, answers: int) -> None:
        self._progress.advance(answers, ranks.world_size())

    def _check(self, one: EncodedAnswers | DataError) -> None:
        if isinstance(one, DataError) and self._config.bad_rows is BadRows.stop:
            raise data_error(f"{one}; {remedy()}")


def _counts(chunk: _Chunk, results: list[dict[str, Any]]) -> dict[str, int]:
    scored = [
        one for one, result in zip(chunk.encoded, results, strict=True)
        if isinstance(one, EncodedAnswers) and PROBLEM not in result
    ]  # fmt: skip
    return {
        "answers": sum(len(one.ids) for one in scored),
        "cut_prompts": sum(one.cut_prompt > 0 for one in scored),
        "cut_answers": sum(end > 0 for one in scored for end in one.cut_ends),
    }
