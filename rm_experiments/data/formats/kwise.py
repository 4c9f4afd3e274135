"""Several answers to one prompt: rated or ranked, in lists or in a row each; and best against worse ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from itertools import combinations
from typing import Any

from rm_experiments.data.formats.cells import NoPreference, RowCells, is_null
from rm_experiments.data.formats.columns import MISSING, reach
from rm_experiments.data.formats.layouts import SCORE, compared
from rm_experiments.data.formats.messages import is_message
from rm_experiments.data.pairs import PreferencePair, Text
from rm_experiments.data.wording import CsvText, described, listed

_RANK = "a rank must be a finite number"
_TOO_FEW = "fewer than two rated responses"
POINTWISE_NAMES = {
    "responses": ("response", "completion", "output", "answer"),
    "scores": ("score", "rating", "reward"),
}
"""What pointwise rows call their one response and its score."""


def responses(cells: RowCells) -> list[PreferencePair]:
    """A list of responses with scores (the higher is preferred) or ranks (the lower is): all pairs, ties included.

    Raises:
        NoPreference: fewer than two of the responses are rated.
        DataError: the lists differ in length, or hold something else.
    """
    column, value = cells.require("responses")
    if value is None or value == []:
        raise NoPreference(_TOO_FEW)
    if not isinstance(value, list) or is_message(value[0]):
        raise cells.error(f"column {column!r} is {described(value)}; it must be a list of responses")
    role, ratings = _ratings(cells, column, value)
    rated = [
        (place, cells.answer("responses", f"{column}[{place}]", one), rating)
        for place, (one, rating) in enumerate(zip(value, ratings, strict=True))
        if one is not None or rating is not None
    ]
    scores = {place: cells.attribute_scores(partial(_of_response, cells, value, place)) for place, *_ in rated}
    return rated_pairs(cells, cells.prompt(), rated, column, lower_is_better=role == "ranks", scores=scores)


def rated_pairs(
    cells: RowCells,
    prompt: Text | None,
    rated: list[tuple[int, Text, float | None]],
    column: str,
    *,
    lower_is_better: bool = False,
    scores: Mapping[int, list[float | None] | None] | None = None,
) -> list[PreferencePair]:
    """All pairs of rated answers to one prompt; those without a rating are left out.

    Args:
        cells: the row.
        prompt: its prompt, if it has one.
        rated: of each answer its place, itself and its rating.
        column: the column of the answers, for messages.
        lower_is_better: the ratings are ranks; else they are scores, whose difference is the margin.
        scores: of each place the answer's attributes.
    """
    known = [(place, answer, one) for place, answer, one in rated if one is not None]
    if len(known) < 2:
        raise NoPreference(_TOO_FEW)
    pairs: list[tuple[str, Text, Text, float, float | None]] = []
    attributes: list[tuple[Any, Any]] = []
    for (i, first, one), (j, second, two) in combinations(known, 2):
        if lower_is_better:
            one, two = -one, -two
        if scores:
            attributes.append((scores[j], scores[i]) if one < two else (scores[i], scores[j]))
        if one < two:
            first, second = second, first
        margin = None if lower_is_better else abs(one - two)
        pairs.append((f"{i}-{j}", first, second, 0.5 if one == two else 1.0, margin))
    return compared(cells, prompt, pairs, (column, column), len(pairs), attributes if scores else None)


def _of_response(cells: RowCells, items: list[Any], place: int, name: str) -> Any:
    """What a field of a response object holds, or a list beside the responses."""
    one = items[place]
    inner = reach(one, name) if isinstance(one, dict) else MISSING
    if inner is not MISSING:
        return inner
    beside = reach(cells.row.values, name)
    if isinstance(beside, list) and len(beside) == len(items):
        return beside[place]
    return MISSING


def _ratings(cells: RowCells, column: str, items: list[Any]) -> tuple[str, list[float | None]]:
    """Whether the responses have scores or ranks, and these, from a list beside them or from a field of each."""
    named = [role for role in ("scores", "ranks") if role in cells.columns.named]
    for role in named or ("scores", "ranks"):
        found = _rating_list(cells, role, items)
        if found is None:
            continue
        name, values = found
        if not isinstance(values, list) or len(values) != len(items):
            length = f"has {len(values)} items" if isinstance(values, list) else f"is {described(values)}"
            must = f"it must be a list of as many numbers as {column!r} has responses ({len(items)})"
            raise cells.error(f"column {name!r} {length}; {must}")
        kind = _RANK if role == "ranks" else SCORE
        return role, [
            None if _is_missing(one) else cells.number(role, f"{name}[{place}]", one, kind)
            for place, one in enumerate(values)
        ]
    settings = f"{cells.setting('scores')}=COLUMN or {cells.setting('ranks')}=COLUMN"
    raise cells.error(f"no column rates the responses (columns: {listed(cells.row.values)}); type {settings}")


def _is_missing(rating: object) -> bool:
    """Whether a rating is null, or the NaN that tables write for it."""
    return is_null(rating) or (isinstance(rating, float) and math.isnan(rating))


def _rating_list(cells: RowCells, role: str, items: list[Any]) -> tuple[str, Any] | None:
    named = cells.columns.named.get(role)
    singular = (*POINTWISE_NAMES["scores"], "overall_score") if role == "scores" else ("rank",)
    # What the user named may be a field of the response objects rather than a column.
    fields = (named,) if named else singular
    if named is None or reach(cells.row.values, named) is MISSING:
        for name in fields:
            inner = reach(items, name) if any(isinstance(one, dict) for one in items) else MISSING
            if inner is not MISSING:
                return name, inner
    return cells.find(role)


def is_responses(cells: RowCells) -> bool:
    """Whether the row has a list of responses under a usual name, scores or ranks of them, and no chosen."""
    found = cells.find("responses")
    if found is None or not isinstance(found[1], list) or "chosen" in cells.row.values or not found[1]:
        return False
    return not is_message(found[1][0]) and any(_rating_list(cells, role, found[1]) for role in ("scores", "ranks"))


def _is_number(value: object) -> bool:
    if isinstance(value, CsvText):
        with suppress(ValueError):
            return math.isfinite(float(value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def best_of(cells: RowCells) -> list[PreferencePair]:
    """Chosen (one answer, or a list of them) against a list of rejected ones: all pairs."""
    chosen, rejected = cells.answers("chosen"), cells.answers("rejected")
    return against(cells, chosen, rejected, "{}-{}")


def against(cells: RowCells, chosen: list[Text], rejected: list[Text], place: str) -> list[PreferencePair]:
    """All pairs of one of `chosen` and one of `rejected`; `place` makes what follows the row's id from their places."""
    pairs: list[tuple[str, Text, Text, float, float | None]] = [
        (place.format(i, j), one, two, 1.0, None) for i, one in enumerate(chosen) for j, two in enumerate(rejected)
    ]
    names = cells.require("chosen")[0], cells.require("rejected")[0]
    return compared(cells, cells.prompt_of([*chosen, *rejected]), pairs, names, len(pairs))


def is_best_of(cells: RowCells) -> bool:
    """Whether the rejected column, or the chosen one, is a list of answers rather than of messages."""
    both = [cells.find("chosen"), cells.find("rejected")]
    return all(both) and any(found and _is_answer_list(found[1]) for found in both)


def _is_answer_list(value: Any) -> bool:
    if not isinstance(value, list) or not value or is_message(value[0]):
        return False
    # One that means to be a message gets the message about messages.
    return isinstance(value[0], list) or all(isinstance(one, str) for one in value)


def pointwise(group: list[RowCells]) -> list[PreferencePair]:
    """Consecutive rows of one prompt, each with a response and its score: all pairs.

    Raises:
        NoPreference: fewer than two of the responses are rated.
    """
    rated: list[tuple[int, Text, float | None]] = []
    for place, cells in enumerate(group):
        column, value = cells.require("responses")
        name, score = cells.require("scores")
        rating = None if _is_missing(score) else cells.number("scores", name, score, SCORE)
        if value is not None or rating is not None:
            rated.append((place, cells.text_or_messages("responses", column, value), rating))
    scores = {
        place: one.attribute_scores(partial(reach, one.row.values)) for place, one in enumerate(group)
    }  # fmt: skip
    return rated_pairs(group[0], group[0].prompt(), rated, column, scores=scores)


def prompt_key(cells: RowCells) -> object:
    """What consecutive rows of one prompt have in common; a row without a prompt has nothing in common with another."""
    system, prompt = cells.find("system"), cells.require("prompt")[1]
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        return cells.row.number
    return prompt, cells.row.values.get("input"), cells.row.values.get("history"), system and system[1]


def is_pointwise(cells: RowCells) -> bool:
    """Whether the row has a prompt, one response as text, and a number or null as its score, of usual names."""
    values = cells.row.values
    if "chosen" in values or cells.find("prompt") is None:
        return False
    response = next((values[name] for name in POINTWISE_NAMES["responses"] if name in values), None)
    score = next((values[name] for name in POINTWISE_NAMES["scores"] if name in values), MISSING)
    return isinstance(response, str) and (is_null(score) or _is_number(score))
