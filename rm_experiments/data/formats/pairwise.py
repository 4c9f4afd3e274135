"""Two answers whose order says nothing, and a label, a share of annotators or scores that say which is better."""

from __future__ import annotations

import shlex
from typing import Any

from rm_experiments.config.data_validation import label_key
from rm_experiments.data.formats.cells import NoPreference, RowCells, is_null
from rm_experiments.data.formats.columns import ANSWER_PAIRS
from rm_experiments.data.formats.layouts import SCORE, SHARE, judged, split_answers
from rm_experiments.data.pairs import PreferencePair, Text
from rm_experiments.data.wording import described, listed

_LONGEST_LABEL = 60
_DECIDING = ("label_share", "label", "score_a")


def pairwise(cells: RowCells) -> list[PreferencePair]:
    """Two answers, and a label, a share of annotators, or scores of both (the higher is preferred, equal is a tie).

    Raises:
        NoPreference: the label is null.
        DataError: an answer or all of the others is missing, or the label has no known meaning.
    """
    first, second = answer_pair(cells)
    share = _share(cells, first[0], second[0])
    scores = _scores(cells, first[0], second[0])
    margin = None
    if scores is not None:
        better, other = scores if share >= 0.5 else scores[::-1]
        margin = better - other
    return [decided(cells, first, second, share, margin)]


def decided(
    cells: RowCells, first: tuple[str, Any], second: tuple[str, Any], share: float, margin: float | None = None
) -> PreferencePair:
    """The pair of two answers, given as column and value, of which the share `share` prefers the first.

    Args:
        cells: the row.
        first: column and value of the first answer.
        second: column and value of the second answer.
        share: 0 to 1; a half makes a tie.
        margin: by how much the preferred answer is better, where the row has no margin column.
    """
    one = cells.text_or_messages("response_a", *first)
    two = cells.text_or_messages("response_b", *second)
    parts: tuple[Text, Text, Text] = split_answers(cells, cells.prompt(), one, two, (first[0], second[0]))
    common = cells.common()
    if common["margin"] is None:
        common["margin"] = margin
    return judged(cells, *parts, share, common, ordered=False)


def answer_pair(cells: RowCells) -> tuple[tuple[str, Any], tuple[str, Any]]:
    """Column and value of both answers: as the user or the format names them, else of usual names."""
    first = cells.find("response_a")
    if first is None and "response_b" not in cells.columns.named:
        names = usual_pairs(cells)
        if len(names) > 1:
            several = " and ".join(f"{one}, {two}" for one, two, *_ in names)
            settings = f"{cells.setting('response_a')}=COLUMN {cells.setting('response_b')}=COLUMN"
            raise cells.error(f"several pairs of answers are there ({several}); type {settings}")
        if names:
            one, two, *_ = names[0]
            return (one, cells.row.values[one]), (two, cells.row.values[two])
        for one, two, *_ in ANSWER_PAIRS:
            if one in cells.row.values or two in cells.row.values:
                role, name = ("response_b", two) if one in cells.row.values else ("response_a", one)
                raise cells.absent(role, name)
    return first or cells.require("response_a"), cells.require("response_b")


def usual_pairs(cells: RowCells) -> list[tuple[str, str, str, str]]:
    """The usual names of two answers that the row has, with those of their scores."""
    values = cells.row.values
    return [names for names in ANSWER_PAIRS if names[0] in values and names[1] in values]


def is_pairwise(cells: RowCells) -> bool:
    """Whether the row has just one usual pair of answers, something that says which is better, and no chosen."""
    if "chosen" in cells.row.values or "rejected" in cells.row.values:
        return False
    names = usual_pairs(cells)
    if len(names) != 1:
        return False
    return any(cells.find(role) for role in _DECIDING) or names[0][2] in cells.row.values


def _scores(cells: RowCells, first: str, second: str) -> tuple[float, float] | None:
    """The scores of both answers, of the columns that the user or the format names, else of usual names."""
    found, other = cells.find("score_a"), cells.find("score_b")
    if found is None and other is None:
        values = cells.row.values
        for one, two, score, score_other in ANSWER_PAIRS:
            if (one, two) == (first, second) and score in values and score_other in values:
                found, other = (score, values[score]), (score_other, values[score_other])
    if found is None and other is None:
        return None
    found, other = found or cells.require("score_a"), other or cells.require("score_b")
    if is_null(found[1]) or is_null(other[1]):
        return None
    return cells.number("score_a", *found, SCORE), cells.number("score_b", *other, SCORE)


def _share(cells: RowCells, first: str, second: str) -> float:
    """The share of annotators who prefer the first answer, from what the user named, else from what is there."""
    named = [role for role in _DECIDING if role in cells.columns.named]
    for role in named or _DECIDING:
        if role == "score_a":
            scores = _scores(cells, first, second)
            if scores is not None:
                return 0.5 + 0.5 * ((scores[0] > scores[1]) - (scores[0] < scores[1]))
        elif (found := cells.find(role)) is not None:
            if is_null(found[1]):
                raise NoPreference(f"{role} is null")
            return cells.number(role, *found, SHARE) if role == "label_share" else label_share(cells, first, second)
    if cells.find("score_a") or any(one[2] in cells.row.values for one in usual_pairs(cells)):
        raise NoPreference("a score is null")
    settings = f"{cells.setting('label')}=COLUMN, or {cells.setting('score_a')}=COLUMN and score_b"
    columns = f"(columns: {listed(cells.row.values)})"
    raise cells.error(f"no column says which of {first!r} and {second!r} is better {columns}; type {settings}")


def label_share(cells: RowCells, first: str, second: str) -> float:
    """The share of the first answer that the label means: 1, 0, or a half for a tie."""
    column, value = cells.require("label")
    if is_null(value):
        raise NoPreference("label is null")
    verdicts = cells.columns.verdicts(first, second)
    share = verdicts.get(label_key(value))
    if share is None:
        known = {1.0: first, 0.0: second, 0.5: "a tie"}
        meant = "; ".join(
            f"{', '.join(one for one, meaning in verdicts.items() if meaning == share)} for {name}"
            for share, name in known.items()
        )
        problem = f"column {column!r} is {described(value)}, whose meaning is not known; known are {meant}"
        if not isinstance(value, str | int | float) or len(str(value)) > _LONGEST_LABEL:
            raise cells.error(f"{problem}; for another column type {cells.setting('label')}=COLUMN")
        settings = [_typed(cells.setting(name), value) for name in ("first_wins", "second_wins", "tie")]
        raise cells.error(f"{problem}; type {settings[0]}, {settings[1]} or {settings[2]}")
    return share


def _typed(setting: str, value: str | float) -> str:
    """How a list of this one value is typed in a shell, quoted for it and for Hydra."""
    written = '"' + value.replace('"', '\\"') + '"' if isinstance(value, str) else str(value).lower()
    return shlex.quote(f"{setting}=[{written}]")
