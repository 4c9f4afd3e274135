"""Several answers to one prompt with gold scores, of which every one is kept: what best-of-n is measured on."""

from __future__ import annotations

from typing import Any

from rm_experiments.data.formats.cells import NoPreference, RowCells, is_null
from rm_experiments.data.formats.layouts import SCORE, compared
from rm_experiments.data.formats.messages import is_message
from rm_experiments.data.pairs import PreferencePair, Text
from rm_experiments.data.wording import described, listed


def best_of_n(cells: RowCells) -> list[PreferencePair]:
    """A list of responses and a list of their gold scores (the higher is better): the best against each other one.

    The n - 1 pairs of n responses name all of them once: the id `x-b3o0` says that response 3, the first of the best by
    gold, meets response 0. The margin is the difference of their gold scores, an equal score a tie; the pairs share the
    weight of the row. So a record of each pair is enough to know the reward and the gold score of every response, the
    latter up to a constant per prompt.

    Raises:
        NoPreference: fewer than two responses.
        DataError: the lists differ in length, or hold something else, or a score is missing.
    """
    column, value = cells.require("responses")
    if value is None or (isinstance(value, list) and len(value) < 2):
        raise NoPreference("fewer than two responses")
    if not isinstance(value, list) or is_message(value[0]):
        raise cells.error(f"column {column!r} is {described(value)}; it must be a list of responses")
    answers = [cells.answer("responses", f"{column}[{place}]", one) for place, one in enumerate(value)]
    name, scores = cells.require("scores")
    if not isinstance(scores, list) or len(scores) != len(answers):
        found = f"has {len(scores)} items" if isinstance(scores, list) else f"is {described(scores)}"
        raise cells.error(f"column {name!r} {found}; it must be a list of as many numbers as {column!r} has responses")
    return star(cells, answers, [_gold(cells, f"{name}[{place}]", one) for place, one in enumerate(scores)], column)


def _gold(cells: RowCells, place: str, score: Any) -> float:
    if is_null(score):
        raise cells.error(f"column {place!r} is null; every response needs a gold score")
    return cells.number("scores", place, score, SCORE)


def star(cells: RowCells, answers: list[Text], gold: list[float], column: str) -> list[PreferencePair]:
    """The pairs of the first best answer by `gold` and each other one; `column` is where they are, for messages."""
    best = gold.index(max(gold))
    pairs: list[tuple[str, Text, Text, float, float | None]] = [
        (f"b{best}o{place}", answers[best], one, 0.5 if score == gold[best] else 1.0, gold[best] - score)
        for place, (one, score) in enumerate(zip(answers, gold, strict=True))
        if place != best
    ]
    found = compared(cells, cells.prompt(), pairs, (column, column), len(pairs))
    for pair, (place, *_, margin) in zip(found, pairs, strict=True):
        # Also of two responses, whose one pair `compared` calls by the row's id; and a margin column has no say here.
        pair.id, pair.margin = f"{cells.common()['id']}-{place}", margin
    return found


def ppe_best_of_k(cells: RowCells) -> list[PreferencePair]:
    """PPE's correctness sets: `response_1` to `response_k`, and whether each is correct in `scores`."""
    scores = cells.column("scores")
    if (
        not isinstance(scores, list)
        or len(scores) < 2
        or not all(isinstance(one, bool | int | float) for one in scores)
    ):
        raise cells.error(
            f"column 'scores' is {described(scores)}; it must be a list of two or more booleans or numbers"
        )
    names = [f"response_{number}" for number in range(1, len(scores) + 1)]
    if len(scores) < sum(name.startswith("response_") for name in cells.row.values):
        raise cells.error(
            f"'scores' has {len(scores)} items, but there are more responses ({listed(cells.row.values)})"
        )
    answers: list[Text] = [cells.text(name, cells.column(name)) for name in names]
    return star(cells, answers, [float(one) for one in scores], names[0])
