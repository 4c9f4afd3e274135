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
from rm_experiments.data.formats.layouts import preference, repeated_turns
from rm_experiments.data.formats.values import from_json
from rm_experiments.data.pairs import Message, Text
from rm_experiments.data.sources import Row
from rm_experiments.data.wording import CsvText, listed

_NAMES: dict[str, str | tuple[str, ...]] = {
    "response": ("response", "completion"),
    "messages": ("messages", "conversation", "conversations"),
    # Which answer is preferred, and by how much, does not change its reward.
    **dict.fromkeys(("label", "label_share", "score_a", "score_b", "margin", "weight", "subset", "id"), ()),
}

_ROLES = {
    RowKind.response: ("response",), RowKind.responses: ("responses",), RowKind.pair: ("chosen", "rejected"),
}  # fmt: skip
_ASKING = ("system", "developer", "user")


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
    """The one kind whose columns a row has. An empty cell of a CSV file is an answer where there is no other one."""
    for empty in (False, True):
        found = [kind for kind, roles in _ROLES.items() if all(_has(cells, role, empty) for role in roles)]
        # Pairs and answers may carry the whole dialogue beside them.
        if not found and _has(cells, "messages", empty):
            found = [RowKind.messages]
        if len(found) == 1:
            return found[0]
        if found:
            raise cells.error(
                f"has columns of {' and of '.join(one.value for one in found)} (columns: {listed(cells.row.values)}); "
                f"type rows={' or rows='.join(one.value for one in found)}"
            )
    raise cells.error(
        f"has no answer (columns: {listed(cells.row.values)}): response, responses, messages, or chosen and rejected "
        "are looked for; for another column type data.columns.response=COLUMN"
    )


def _has(cells: RowCells, role: str, empty: bool) -> bool:
    """Whether the user named the column, or there is one of a usual name that is not null: kinds may mix in a file.

    Args:
        empty: whether an empty cell of a CSV file counts as there.
    """
    if role in cells.columns.named:
        return True
    found = cells.find(role)
    return found is not None and found[1] is not None and (empty or not is_null(found[1]))


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
    """The answers after the row's prompt, which answers of turns may repeat; or hold, where the row has none."""
    prompt = cells.prompt_of(answers)
    turns = [one for one in answers if isinstance(one, list)]
    if not prompt and len(turns) == len(answers):
        parts = [turns_of(one) for one in turns]
        if any(before != parts[0][0] for before, _ in parts):
            raise cells.error("its answers are dialogues that begin differently; put what they share into a prompt")
        prompt, answers = parts[0][0], [answer for _, answer in parts]
    elif prompt:
        prompt, answers = _without_prompt(cells, prompt, answers)
    for one in answers:
        _check_answer(cells, one)
    return Answers(prompt=cells.with_system(prompt or ""), answers=answers, **_common(cells))


def _without_prompt(cells: RowCells, prompt: Text, answers: list[Text]) -> tuple[Text, list[Text]]:
    """Prompt and answers, after the prompt's turns were taken out of answers that repeat them."""
    repeated = [repeated_turns(prompt, one) if isinstance(one, list) else 0 for one in answers]
    if not any(repeated):
        return prompt, answers
    first = answers[0][: repeated[0]]
    if any(count == 0 or one[:count] != first for one, count in zip(answers, repeated, strict=True)):
        raise cells.error("only some of its answers begin with the prompt; all must repeat it alike, or none")
    if any(count == len(one) for one, count in zip(answers, repeated, strict=True)):
        raise cells.error("an answer holds nothing but the prompt; it must go on with an assistant message")
    # With a system message of the answers before it.
    return first, [one[count:] for one, count in zip(answers, repeated, strict=True)]


def _check_answer(cells: RowCells, answer: Text) -> None:
    """An answer of turns ends with one that is somebody's answer."""
    if isinstance(answer, list) and (not answer or answer[-1]["role"] in _ASKING):
        last = f"ends with a turn of the role {answer[-1]['role']}" if answer else "has no turn"
        raise cells.error(f"its dialogue {last}, so there is no answer to score")


def _messages(cells: RowCells) -> Answers:
    column, value = cells.require("messages")
    turns = cells.text_or_messages("messages", column, value)
    if isinstance(turns, str):
        raise cells.error(f"column {column!r} is text; it must be a message list")
    prompt, answer = turns_of(turns)
    _check_answer(cells, answer)
    return Answers(prompt=cells.with_system(prompt), answers=[answer], **_common(cells))


def _pair(cells: RowCells) -> Answers:
    (pair,) = hh_rlhf(cells) if is_hh_rlhf(cells) else preference(cells)
    return answers_of(pair)


_READERS: dict[RowKind, Callable[[RowCells], Answers]] = {
    RowKind.response: _response, RowKind.responses: _responses, RowKind.messages: _messages, RowKind.pair: _pair,
}  # fmt: skip
