"""The answers of one request, each by itself, and what they cost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from rm_experiments.data.answers import EncodedAnswers
from rm_experiments.scoring.model import Scores


@dataclass(eq=False)
class Job:
    """The answers of one request, each by itself: those of one prompt share it where they meet in a batch."""

    model: str
    pieces: list[EncodedAnswers]
    prompts: list[bytes]
    """The prompt of each; empty where there is nothing to share."""
    costs: list[int]
    """Tokens of each; the prompt counts with the first answer of its row."""
    done: asyncio.Future[list[Scores]]
    arrived: float
    scores: list[Scores | None]
    waiting: int = 0
    """Number of the first answer that is in no batch yet."""
    dropped: bool = False

    @property
    def tokens_left(self) -> int:
        return sum(cost for cost, scores in zip(self.costs, self.scores, strict=True) if scores is None)


@dataclass
class Batch:
    """Answers that are computed together."""

    answers: list[tuple[Job, int]]
    tokens: int
    """To compute: equal prompts once, whoever sent them."""


def fill(jobs: Sequence[Job], limit: float, most: float) -> Batch:
    """An answer of each request in turn, at least one, until there are `limit` tokens.

    Answers to prompts that are in the batch may come on top, up to as many tokens as the prompts have: a prompt that is
    dearer than the limit is not computed again for each of its answers.

    Args:
        most: tokens that may not be exceeded for that.
    """
    batch = Batch([], 0)
    prompts: set[bytes] = set()
    prompt_tokens = 0
    turns = list(jobs)
    while turns:
        again = []
        for job in turns:
            piece, prompt = job.pieces[job.waiting], job.prompts[job.waiting]
            known = prompt in prompts
            cost = len(piece.ids[0]) - (piece.num_prompt_tokens if known else 0)
            tokens = batch.tokens + cost
            if batch.answers and tokens > limit and not (known and tokens <= min(2 * prompt_tokens, most)):
                continue
            batch.answers.append((job, job.waiting))
            batch.tokens = tokens
            if prompt and not known:
                prompts.add(prompt)
                prompt_tokens += piece.num_prompt_tokens
            job.waiting += 1
            if job.waiting < len(job.pieces):
                again.append(job)
        turns = again
    return batch


def make_job(model: str, rows: Sequence[EncodedAnswers], done: asyncio.Future[list[Scores]], arrived: float) -> Job:
    """Of the rows of a request."""
    pieces, prompts, costs = [], [], []
    for row in rows:
        # The first token alone is not worth sharing, and is not shared.
        prompt = row.ids[0][: row.num_prompt_tokens].tobytes() if row.num_prompt_tokens > 1 else b""
        for number, ids in enumerate(row.ids):
            pieces.append(
                EncodedAnswers(
                    ids=[ids],
                    num_prompt_tokens=row.num_prompt_tokens,
                    full_lengths=[row.full_lengths[number]],
                    cut_prompt=row.cut_prompt,
                    cut_ends=[row.cut_ends[number]],
                )
            )
            prompts.append(prompt)
            costs.append(len(ids) - (row.num_prompt_tokens if number else 0))
    return Job(model, pieces, prompts, costs, done, arrived, [None] * len(pieces))


def tokens_of(row: EncodedAnswers) -> int:
    """Tokens to compute: the shared prompt once."""
    return sum(map(len, row.ids)) - row.num_prompt_tokens * (len(row.ids) - 1)
