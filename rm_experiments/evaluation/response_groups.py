"""From the records of pairs back to the rewards of all responses of a prompt, by the ids that the formats give.

A prompt of which pairs are missing (cut off by a limit, dropped as too long, or as ties) has no score by any published
rule, so it is an error here and not an average over what is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rm_experiments.errors import DataError
from rm_experiments.evaluation.records import Records

Vector = NDArray[np.float64]

_BEST_OF = re.compile(r"(.*)-(\d+)-(\d+)", re.DOTALL)
_RM_BENCH = re.compile(r"(.*)-c(\d+)r(\d+)", re.DOTALL)
_BEST_OF_N = re.compile(r"(.*)-b(\d+)o(\d+)", re.DOTALL)
_REMEDY = "leave data.max_eval_pairs, data.ties and data.overlength alone, or type benchmark=null in the set"


@dataclass(frozen=True, kw_only=True)
class AnswerGrid:
    """The rewards of a row of chosen and rejected answers, each of which met each."""

    id: str
    """Of the row in the data."""
    subset: str | None
    chosen: Vector
    """[i]"""
    rejected: Vector
    """[j]"""


@dataclass(frozen=True, kw_only=True)
class MarginGrid:
    """The margins of a row whose chosen answers met its rejected ones."""

    id: str
    subset: str | None
    margin: Vector
    """[i, j] reward of chosen answer i less that of rejected answer j."""


@dataclass(frozen=True, kw_only=True)
class RatedResponses:
    """All responses to a prompt."""

    id: str
    subset: str | None
    rewards: Vector
    """[n]"""
    gold: Vector
    """[n] gold scores less the best one: 0 and below."""


def answer_grids(records: Records, benchmark: str) -> list[AnswerGrid]:
    """The rewards of the answers in rows of the format `best_of` (RewardBench 2): ids `row-i-j`, or `row` of one pair.

    Args:
        benchmark: its name, for messages.

    Raises:
        DataError: a pair of a prompt is missing, or there twice.
    """
    grids = []
    for row, cells in _groups(records, _BEST_OF, benchmark, alone=True):
        _grid_shape(row, cells, benchmark)
        chosen, rejected = (
            [_reward(records[name], [rows for cell, rows in cells.items() if cell[side] == place])
             for place in range(1 + max(cell[side] for cell in cells))]
            for side, name in enumerate(("reward_chosen", "reward_rejected"))
        )  # fmt: skip
        subset = records["subset"][next(iter(cells.values()))]
        grids.append(AnswerGrid(id=row, subset=subset, chosen=np.array(chosen), rejected=np.array(rejected)))
    return grids


def margin_grids(records: Records, benchmark: str) -> list[MarginGrid]:
    """The margins of rows of the format `rm_bench`: ids `row-cIrJ`.

    Raises:
        DataError: as `answer_grids`; and when a row is not three by three.
    """
    grids = []
    for row, cells in _groups(records, _RM_BENCH, benchmark):
        if _grid_shape(row, cells, benchmark) != (3, 3):
            raise _problem(benchmark, f"prompt {row} has {len(cells)} of 9 pairs")
        margin = np.array([[records["margin"][cells[i, j]] for j in range(3)] for i in range(3)])
        grids.append(MarginGrid(id=row, subset=records["subset"][cells[0, 0]], margin=margin))
    return grids


def rated_responses(records: Records, benchmark: str) -> list[RatedResponses]:
    """The rewards and gold scores of rows of the format `best_of_n`: ids `row-bIoJ`, sorted by prompt.

    Raises:
        DataError: a pair of a prompt is missing, or there twice.
    """
    found = []
    for row, cells in _groups(records, _BEST_OF_N, benchmark):
        count = 1 + len(cells)
        bests = {best for best, _ in cells}
        if len(bests) != 1 or {*bests, *(other for _, other in cells)} != set(range(count)):
            raise _problem(benchmark, f"prompt {row} has {len(cells)} pairs that do not name {count} responses")
        best, rewards, gold = bests.pop(), np.empty(count), np.zeros(count)
        rewards[best] = _reward(records["reward_chosen"], list(cells.values()))
        for (_, other), place in cells.items():
            rewards[other] = records["reward_rejected"][place]
            gold[other] = -records["target_margin"][place]
        subset = records["subset"][next(iter(cells.values()))]
        found.append(RatedResponses(id=row, subset=subset, rewards=rewards, gold=gold))
    return found


def _groups(
    records: Records, pattern: re.Pattern[str], benchmark: str, alone: bool = False
) -> Iterator[tuple[str, dict[tuple[int, int], int]]]:
    """(id of the row, places of its pairs in the records by their two numbers) of each prompt, sorted by prompt.

    Args:
        pattern: of ids: the row's, and two numbers.
        alone: whether an id without numbers is that of a row's only pair.
    """
    groups: dict[tuple[str, str], dict[tuple[int, int], int]] = {}
    for place, (name, prompt) in enumerate(zip(records["id"], records["prompt_id"], strict=True)):
        match = pattern.fullmatch(name)
        if match is None and not alone:
            format = "rm_bench" if pattern is _RM_BENCH else "best_of_n"
            raise _problem(benchmark, f"the id {name!r} is none of the format {format}", "name it as the set's format")
        row, cell = (match[1], (int(match[2]), int(match[3]))) if match else (name, (0, 0))
        cells = groups.setdefault((prompt, row), {})
        if cell in cells:
            raise _problem(benchmark, f"prompt {row} has the pair {name} twice", "give each row an id of its own")
        cells[cell] = place
    for (_, row), cells in sorted(groups.items()):
        # The pairs of a row share the weight 1, so that what they lack is missing.
        weight = float(records["weight"][list(cells.values())].sum())
        if abs(weight - 1) > 1e-6:
            problem = f"prompt {row} has {len(cells)} pairs of weight {weight:.3g} in all, not 1: some are missing"
            raise _problem(benchmark, problem)
        yield row, cells


def _grid_shape(row: str, cells: dict[tuple[int, int], int], benchmark: str) -> tuple[int, int]:
    """Numbers of chosen and rejected answers, of which no pair may be missing."""
    shape = (1 + max(i for i, _ in cells), 1 + max(j for _, j in cells))
    if len(cells) != shape[0] * shape[1]:
        raise _problem(benchmark, f"prompt {row} has {len(cells)} of {shape[0] * shape[1]} pairs")
    return shape


def _reward(rewards: Vector, places: list[int]) -> float:
    """The reward of an answer that is in several pairs.

    Batches may compute it with rounding errors of their own. The median of equal numbers is that number, which their
    mean need not be; so ties stay ties.
    """
    return float(np.median(rewards[places]))


def _problem(benchmark: str, problem: str, remedy: str = _REMEDY) -> DataError:
    return DataError(f"benchmark {benchmark}: {problem}; {remedy}")
