"""From rows to preference pairs. A new layout of files is one function here and its entry in `FORMATS`."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rm_experiments.config.schema import ColumnsConfig
from rm_experiments.data.pairs import Message, PreferencePair, Text, answer_text, prompt_messages
from rm_experiments.data.sources import CsvText, Row, data_error, described, listed, read_rows, shown
from rm_experiments.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "instruction", "query"),
    "chosen": ("chosen", "text_chosen", "chosen_response", "preferred"),
    "rejected": ("rejected", "text_rejected", "rejected_response", "dispreferred"),
    "margin": ("margin",),
    "subset": ("subset",),
    "id": ("id",),
}
_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*['"](role|content)['"]\s*:""")


@dataclass(kw_only=True)
class SplitReport:
    """What reading one split found, for the data report."""

    source: str | list[str]
    """As the user typed it."""
    format: str
    """Name of the format, also where `auto` chose it."""
    rows_read: int = 0
    """Rows, each of which became a pair."""
    has_margins: bool = False
    """Whether any row has a margin."""
    missing_margins: int = 0
    """Rows without a margin although others have one."""
    identical_pairs: int = 0
    """Rows whose chosen equals rejected."""
    empty_answers: int = 0
    """Answers, of either side, with nothing but whitespace."""
    subsets: dict[str, int] = field(default_factory=dict)
    """Rows of each subset; those without one are not counted."""


def read_pairs(
    source: str | list[str],
    key: str,
    format: str,
    columns: ColumnsConfig,
    revision: str | None = None,
    limit: int | None = None,
) -> tuple[list[PreferencePair], SplitReport]:
    """All pairs of `source`, in order, and what was found on the way.

    Args:
        source: files, globs, a list of them, or a Hub id with split; see `resolve_source`.
        key: the setting that holds `source`, such as `data.train`, for messages.
        format: `auto` or a name in `FORMATS`.
        columns: names of columns that are not the usual ones.
        revision: branch, tag or commit of Hub data sets.
        limit: read this many rows at most.

    Raises:
        DataError: one line with the file, the row, the column, the value, what is allowed, and what to type.
    """
    if format != "auto" and format not in FORMATS:
        raise _unknown_format(format, key)
    report = SplitReport(source=source, format=format)
    pairs: list[PreferencePair] = []
    for row in read_rows(source, key, revision, limit):
        if report.format == "auto":
            report.format = _recognised(row, columns, key)
        pairs.append(FORMATS[report.format](row, columns, key))
    _count(pairs, report)
    return pairs, report


def _unknown_format(name: str, key: str) -> DataError:
    similar = difflib.get_close_matches(name, ["auto", *FORMATS], n=1)
    setting = _setting(key, "format")
    hint = f"; did you mean {setting}={similar[0]}?" if similar else ""
    return data_error(f"{setting}={name}: allowed are auto, {', '.join(FORMATS)}{hint}")


def _setting(key: str, name: str) -> str:
    """The setting `name` that goes with the source `key`: further evaluation sets have their own."""
    parent = key.removesuffix(".source") if key.startswith("data.eval_sets.") else "data"
    return f"{parent}.{name}"


def _recognised(row: Row, columns: ColumnsConfig, key: str) -> str:
    cells = RowCells(row, columns, key)
    answers = [cells.find("chosen"), cells.find("rejected")]
    dialogues = all(found and isinstance(found[1], str) and found[1].lstrip().startswith("Human:") for found in answers)
    return "hh_rlhf" if dialogues and cells.find("prompt") is None else "preference"


def _count(pairs: list[PreferencePair], report: SplitReport) -> None:
    report.rows_read = len(pairs)
    without = sum(pair.margin is None for pair in pairs)
    report.has_margins = without < len(pairs)
    report.missing_margins = without if report.has_margins else 0
    report.identical_pairs = sum(pair.chosen == pair.rejected for pair in pairs)
    answers = (answer for pair in pairs for answer in (pair.chosen, pair.rejected))
    report.empty_answers = sum(not answer_text(answer).strip() for answer in answers)
    report.subsets = dict(Counter(pair.subset for pair in pairs if pair.subset is not None))


@dataclass(frozen=True, slots=True)
class RowCells:
    """Checked access to one row's columns. All formats take values through it and so refuse the same."""

    row: Row
    columns: ColumnsConfig
    key: str

    def error(self, problem: str) -> DataError:
        """A `DataError` that names the row."""
        return data_error(f"{self.key}: {self.row.where}: {problem}")

    def setting(self, role: str) -> str:
        """What the user types to name the column of `role`, up to the equals sign."""
        return f"{_setting(self.key, 'columns')}.{role}"

    def find(self, role: str) -> tuple[str, Any] | None:
        """Name and value of the column of `role`, or None if the row has none.

        Raises:
            DataError: the user named a column that the row lacks.
        """
        values = self.row.values
        named: str | None = getattr(self.columns, role)
        if named is None:
            for name in USUAL_NAMES[role]:
                if name in values:
                    return name, values[name]
            return None
        if named in values:
            return named, values[named]
        value: Any = values
        for part in named.split("."):
            if not isinstance(value, dict) or part not in value:
                raise self._absent(role, named)
            value = value[part]
        return named, value

    def require(self, role: str) -> tuple[str, Any]:
        """As `find`, but the row must have the column."""
        found = self.find(role)
        if found is None:
            raise self._absent(role, role)
        return found

    def _absent(self, role: str, name: str) -> DataError:
        taken = {usual for other, names in USUAL_NAMES.items() if other != role for usual in names}
        objects = {one: value for one, value in self.row.values.items() if isinstance(value, dict)}
        nested = [f"{one}.{inner}" for one, value in objects.items() for inner in value]
        free = [column for column in [*self.row.values, *nested] if column not in taken]
        similar = difflib.get_close_matches(name, free, n=1) or difflib.get_close_matches(role, free, n=1)
        setting = self.setting(role)
        hint = f"did you mean {setting}={similar[0]}?" if similar else f"type {setting}=COLUMN"
        return self.error(f"column {name!r} is missing (columns: {listed(self.row.values)}); {hint}")

    def text(self, column: str, value: Any) -> str:
        """`value` as plain text that every tokenizer and file format takes."""
        if not isinstance(value, str):
            raise self.error(f"column {column!r} is {described(value)}; it must be text")
        position = value.find("\0")
        if position < 0 and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                position = error.start
        if position >= 0:
            name = "NUL character" if value[position] == "\0" else "lone surrogate"
            near = shown(value[max(0, position - 20) : position + 10])
            place = f"at character {position + 1}, near {near}"
            raise self.error(f"column {column!r} has a {name} {place}; remove it from the row")
        return str(value)

    def messages(self, column: str, value: list[Any]) -> list[Message]:
        """`value` as turns, of each only role and content."""
        if not value:
            raise self.error(f"column {column!r} is an empty list; at least one message is needed")
        return [self._message(f"{column}[{number}]", one) for number, one in enumerate(value)]

    def _message(self, place: str, value: Any) -> Message:
        if not isinstance(value, dict):
            raise self.error(f"{place} is {described(value)}; a message is an object with role and content")
        for name in ("role", "content"):
            if name not in value:
                keys = f"(keys: {listed(value)})"
                raise self.error(f"{place} has no {name!r} {keys}; a message has role and content")
        role = value["role"]
        if role not in ROLES:
            similar = difflib.get_close_matches(str(role).lower(), ROLES, n=1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise self.error(f"{place}.role is {described(role)}; allowed are {', '.join(ROLES)}{hint}")
        return {"role": role, "content": self.text(f"{place}.content", value["content"])}

    def text_or_messages(self, role: str, column: str, value: Any) -> Text:
        """`value` as text or turns, whichever it is."""
        if isinstance(value, list):
            return self.messages(column, value)
        if not isinstance(value, str):
            problem = f"column {column!r} is {described(value)}; it must be text or a message list"
            raise self.error(f"{problem}; for another column type {self.setting(role)}=COLUMN")
        if isinstance(value, CsvText) and _MESSAGES_AS_TEXT.match(value):
            problem = f"column {column!r} is a message list written as text ({shown(value)})"
            raise self.error(f"{problem}; CSV cannot hold lists: write JSONL or Parquet")
        return self.text(column, value)

    def margin(self) -> float | None:
        """The row's margin, if it has one."""
        found = self.find("margin")
        if found is None or found[1] is None or (isinstance(found[1], CsvText) and not found[1].strip()):
            return None
        column, value = found
        try:
            number = float(value) if type(value) in (int, float, CsvText) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            problem = f"column {column!r} is {described(value)}; a margin must be a finite number or null"
            raise self.error(f"{problem}; for another column type {self.setting('margin')}=COLUMN")
        return number

    def label(self, role: str) -> str | None:
        """The row's id or subset as text, if it has one."""
        found = self.find(role)
        if found is None or found[1] is None or found[1] == "":
            return None
        column, value = found
        return self.text(column, value) if isinstance(value, str) else str(value)

    def pair(self, prompt: Text, chosen: Text, rejected: Text) -> PreferencePair:
        """The pair of these texts with the row's id, margin and subset."""
        return PreferencePair(
            id=self.label("id") or str(self.row.number),
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            margin=self.margin(),
            subset=self.label("subset"),
        )


def preference(row: Row, columns: ColumnsConfig, key: str) -> PreferencePair:
    """Columns prompt (optional), chosen and rejected: text or message lists.

    Without a prompt, what both answers begin with becomes the prompt. Message lists that repeat it lose it.

    Raises:
        DataError: a column is missing or holds something else, or chosen and rejected are not of one kind.
    """
    cells = RowCells(row, columns, key)
    chosen_column, chosen_value = cells.require("chosen")
    rejected_column, rejected_value = cells.require("rejected")
    chosen = cells.text_or_messages("chosen", chosen_column, chosen_value)
    rejected = cells.text_or_messages("rejected", rejected_column, rejected_value)
    found = cells.find("prompt")
    prompt = None if found is None or found[1] is None else cells.text_or_messages("prompt", *found)
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            cut = _common_words(chosen, rejected)
            prompt, chosen, rejected = chosen[:cut], chosen[cut:], rejected[cut:]
        return cells.pair(prompt, chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        names = (chosen_column, rejected_column)
        text, turns = names if isinstance(chosen, str) else names[::-1]
        raise cells.error(f"column {text!r} is text, but {turns!r} is a message list; both must be of one kind")
    # An empty text beside message lists says no more than a missing prompt: the dialogue is in the answers.
    if not prompt:
        return cells.pair(*_split_turns(chosen, rejected))
    return cells.pair(*_without_prompt(prompt, chosen, rejected, cells))


def _common_words(first: str, second: str) -> int:
    """How many characters both begin with, cut back to the end of a whitespace so that neither is used up."""
    low, high = 0, max(0, min(len(first), len(second)) - 1)
    while low < high:  # Bisection: comparing slices is far faster than comparing characters one by one.
        middle = (low + high + 1) // 2
        low, high = (middle, high) if first[low:middle] == second[low:middle] else (low, middle - 1)
    return next((end for end in range(low, 0, -1) if first[end - 1].isspace()), 0)


def _split_turns(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], list[Message], list[Message]]:
    """The turns that both dialogues begin with, and the rest of each, which keeps at least the last turn."""
    cut, most = 0, min(len(chosen), len(rejected)) - 1
    while cut < most and chosen[cut] == rejected[cut]:
        cut += 1
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _without_prompt(
    prompt: Text, chosen: list[Message], rejected: list[Message], cells: RowCells
) -> tuple[Text, list[Message], list[Message]]:
    """Prompt and answers, after the prompt's turns were taken out of answers that repeat them."""
    repeated, other = _repeated_turns(prompt, chosen), _repeated_turns(prompt, rejected)
    before = max(0, repeated - len(prompt_messages(prompt)))
    if repeated != other or chosen[:before] != rejected[:before]:
        raise cells.error(
            "only one of chosen and rejected begins with the prompt, or each with another system message; "
            "both must repeat it alike, or neither"
        )
    if repeated and repeated in (len(chosen), len(rejected)):
        raise cells.error("an answer holds nothing but the prompt; it must go on with an assistant message")
    # With a system message of the answers' own, the column is only a part of the prompt.
    whole = chosen[:repeated] if before else prompt
    return whole, chosen[repeated:], rejected[repeated:]


def _repeated_turns(prompt: Text, answer: list[Message]) -> int:
    """With how many turns `answer` repeats the prompt, a system message before it included; 0 if it does not.

    Whitespace around a turn is not compared: some data sets strip one of the two copies.
    """
    turns = prompt_messages(prompt)
    start = int(answer[0]["role"] == "system" and turns[0]["role"] != "system")
    begin = answer[start : start + len(turns)]
    same = len(begin) == len(turns) and all(
        one["role"] == two["role"] and one["content"].strip() == two["content"].strip()
        for one, two in zip(begin, turns, strict=True)
    )
    return start + len(turns) if same else 0


def hh_rlhf(row: Row, columns: ColumnsConfig, key: str) -> PreferencePair:
    """Anthropic's hh-rlhf: chosen and rejected are texts, each a whole dialogue of `Human:` and `Assistant:`.

    Raises:
        DataError: a column is missing, is no such text, or does not end with an assistant turn.
    """
    cells = RowCells(row, columns, key)
    if columns.prompt is not None:
        setting = f"{cells.setting('prompt')}={columns.prompt}"
        raise cells.error(f"format hh_rlhf has no prompt column; remove {setting}")
    return cells.pair(*_split_turns(_hh_turns("chosen", cells), _hh_turns("rejected", cells)))


def _hh_turns(role: str, cells: RowCells) -> list[Message]:
    column, value = cells.require(role)
    text = cells.text(column, value).lstrip()
    # Text before the first turn, then speaker and words of each turn in alternation.
    before, *parts = _HH_TURN.split(text)
    if before or not parts:
        raise cells.error(
            f"column {column!r} does not begin with 'Human:' as format hh_rlhf does, but with {shown(text)}; "
            f"for other layouts type {_setting(cells.key, 'format')}=preference"
        )
    turns = [
        {"role": _HH_ROLES[speaker], "content": words.strip()}
        for speaker, words in zip(parts[::2], parts[1::2], strict=True)
    ]
    if turns[-1]["role"] != "assistant":
        last = shown(turns[-1]["content"])
        raise cells.error(f"column {column!r} ends with the Human turn {last}; hh_rlhf ends with an Assistant turn")
    return turns


FORMATS: dict[str, Callable[[Row, ColumnsConfig, str], PreferencePair]] = {
    "preference": preference,
    "hh_rlhf": hh_rlhf,
}
"""The layouts of rows by their names in `data.format`."""
