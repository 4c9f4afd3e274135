"""The rows that are scored: which columns hold the prompt and the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rm_experiments.config.data_schema import ColumnsConfig
from rm_experiments.config.score_schema import RowKind, ScoreColumnsConfig
from rm_experiments.data.answers import Answers, answers_of
from rm_experiments.data.formats.cells import RowCells, is_null
from rm_experiments.data.formats.columns import Columns
from rm_experiments.data.formats.hh_rlhf import hh_rlhf, is_hh_rlhf
from rm_experiments.data.formats.layouts import preference
from rm_experiments.data.formats.values import from_json
from rm_experiments.data.pairs import Message, Text
from rm_experiments.data.sources import Row
from rm_experiments.data.wording import CsvText, listed
from rm_experiments.errors import DataError

_NAMES: dict[str, str | tuple[str, ...]] = {
    "response": ("response", "completion"),
    "messages": ("messages", "conversation", "conversations"),
    # Which answer is preferred, and by how much, does not change its reward.
    **dict.fromkeys(("label", "label_share", "score_a", "score_b", "margin", "weight", "subset", "id"), ()),
}


class ScoredRow(NamedTuple):
    """A row's answers, and how it is answered."""

    kind: RowKind
    """Never `auto`."""
    answers: Answers


def columns_of(config: ScoreColumnsConfig) -> Columns:
    """Where the values of a row are."""
    columns = Columns(
        ColumnsConfig(
            prompt=config.prompt, system=config.system, chosen=config.chosen, rejected=config.rejected,
            responses=config.responses, tools=config.tools, chat_template_kwargs=config.chat_template_kwargs,
        ),
        _NAMES,
    )  # fmt: skip
    columns.named |= {role: name for role in ("response", "messages") if (name := getattr(config, role)) is not None}
    return columns


def read_row(values: dict[str, Any], number: int, where: str, kind: RowKind, columns: Columns, key: str) -> ScoredRow:
    """The answers of one row.

    Args:
        number: of the row in its source, from 0.
        where: a person finds it.
        kind: `auto`: as its columns say.
        key: the setting that names the source, for messages.

    Raises:
        DataError: in one line, when a column is missing, or holds something else.
    """
    cells = RowCells(Row(where, number, values), columns, key)
    known = _kind(cells) if kind is RowKind.auto else kind
    return ScoredRow(known, _READERS[known](cells))


def turns_of(turns: list[Message]) -> tuple[list[Message], list[Message]]:
    """The turns before the answer, and the answer: what follows the last turn of the user, else the last turn."""
    asked = [number for number, turn in enumerate(turns) if turn["role"] == "user"]
    cut = asked[-1] + 1 if asked and asked[-1] + 1 < len(turns) else len(turns) - 1
    return turns[:cut], turns[cut:]


def _kind(cells: RowCells) -> RowKind:
    """The one kind whose columns a row has."""
    found = [
        kind
        for kind, roles in (
            (RowKind.responses, ("responses",)), (RowKind.response, ("response",)),
            (RowKind.pair, ("chosen", "rejected")),
        )
        if all(_has(cells, role) for role in roles)
    ]  # fmt: skip
    # Pairs and answers may carry the whole dialogue beside them.
    if not found and _has(cells, "messages"):
        return RowKind.messages
    if len(found) == 1:
        return found[0]
    if found:
        raise cells.error(
            f"has columns of {' and of '.join(one.value for one in found)} (columns: {listed(cells.row.values)}); "
            f"type rows={found[0].value} to score these"
        )
    raise cells.error(
        f"has no answer (columns: {listed(cells.row.values)}): response, responses, messages, or chosen and rejected "
        "are looked for; for another column type data.columns.response=COLUMN"
    )


def _has(cells: RowCells, role: str) -> bool:
    """Whether the user named the column, or there is one of a usual name that is not null: kinds may mix in a file."""
    found = None if role in cells.columns.named else cells.find(role)
    return role in cells.columns.named or (found is not None and not is_null(found[1]))


def _common(cells: RowCells) -> dict[str, Any]:
    values = cells.common()
    return {"tools": values["tools"], "template_kwargs": values["template_kwargs"], "where": cells.row.where}


def _response(cells: RowCells) -> Answers:
    column, value = cells.require("response")
    answer = cells.text_or_messages("response", column, value)
    return _of_prompt(cells, [answer])


def _responses(cells: RowCells) -> Answers:
    column, value = cells.require("responses")
    if isinstance(value, CsvText) and isinstance(listed_in := from_json(value), list):
        value = listed_in
    if not isinstance(value, list):
        raise cells.error(f"column {column!r} must be a list of responses; for one response name it {'response'!r}")
    if not value:
        raise cells.error(f"column {column!r} is an empty list; at least one answer is needed")
    answers = [cells.answer("responses", f"{column}[{number}]", one) for number, one in enumerate(value)]
    return _of_prompt(cells, answers)


def _of_prompt(cells: RowCells, answers: list[Text]) -> Answers:
    """The answers after the row's prompt. Where it has none, an answer of turns is a whole dialogue."""
    prompt = cells.prompt()
    if prompt is None and all(isinstance(one, list) for one in answers):
        parts = [turns_of(one) for one in answers if isinstance(one, list)]
        if all(part[0] == parts[0][0] for part in parts):
            prompt, answers = parts[0][0], [part[1] for part in parts]
    return Answers(prompt=cells.with_system(prompt or ""), answers=answers, **_common(cells))


def _messages(cells: RowCells) -> Answers:
    column, value = cells.require("messages")
    turns = cells.text_or_messages("messages", column, value)
    if isinstance(turns, str):
        raise cells.error(f"column {column!r} is text; it must be a message list")
    prompt, answer = turns_of(turns)
    return Answers(prompt=cells.with_system(prompt), answers=[answer], **_common(cells))


def _pair(cells: RowCells) -> Answers:
    (pair,) = hh_rlhf(cells) if is_hh_rlhf(cells) else preference(cells)
    return answers_of(pair)


_READERS: dict[RowKind, Callable[[RowCells], Answers]] = {
    RowKind.response: _response, RowKind.responses: _responses, RowKind.messages: _messages, RowKind.pair: _pair,
}  # fmt: skip


def row_error(where: str, error: DataError) -> str:
    """The reason without the place, for a file that names the place beside it."""
    return str(error).partition(f"{where}: ")[2] or str(error)
