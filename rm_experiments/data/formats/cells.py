"""Checked access to the columns of a row. All formats take values through it, and so refuse in the same words."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rm_experiments.config.data_validation import is_template_variable
from rm_experiments.data.formats.columns import ANSWER_PAIRS, MAY_LACK, MISSING, USUAL_NAMES, Columns, reach
from rm_experiments.data.formats.messages import is_message, message
from rm_experiments.data.formats.values import from_json, plain_value
from rm_experiments.data.pairs import Message, PreferencePair, Text, prompt_messages
from rm_experiments.data.sources import Row
from rm_experiments.data.wording import CsvText, data_error, described, listed, shown
from rm_experiments.errors import DataError

_MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*['"](role|content|from|value)['"]\s*:""")
_ANSWERS = {name for names in ANSWER_PAIRS for name in names[:2]}
_TEXT_FIELDS = ("response", "text", "answer", "completion", "output", "content", "summary")


class NoPreference(Exception):
    """A row that holds no preference, such as one whose label is null. It is skipped and counted under the reason."""


def setting_beside(key: str, name: str) -> str:
    """The setting `name` that goes with the source `key`: evaluation sets and parts of a mixture have their own."""
    parent = key.removesuffix(".source") if key.endswith(".source") else "data"
    return f"{parent}.{name}"


@dataclass(frozen=True, slots=True)
class RowCells:
    """Checked access to one row's columns. All formats take values through it and so refuse the same."""

    row: Row
    columns: Columns
    key: str

    def error(self, problem: str) -> DataError:
        """A `DataError` that names the row."""
        return data_error(f"{self.key}: {self.row.where}: {problem}")

    def setting(self, role: str) -> str:
        """What the user types to name the column of `role`, up to the equals sign."""
        return f"{setting_beside(self.key, 'columns')}.{role}"

    def find(self, role: str) -> tuple[str, Any] | None:
        """Name and value of the column of `role`, or None if the row has none.

        Raises:
            DataError: the user named a column that the row lacks, and that it must have or that the first row lacks.
        """
        values = self.row.values
        named = self.columns.named.get(role)
        if named is not None:
            value = values[named] if named in values else reach(values, named)
            if value is not MISSING:
                return named, value
            # A name that no row has is a slip; JSONL files leave out what a row has no value for.
            if role in MAY_LACK and self.row.number > 0:
                return named, None
            raise self.absent(role, named)
        for name in self.columns.usual.get(role, ()):
            if name in values:
                return name, values[name]
            if "." in name and (value := reach(values, name)) is not MISSING:
                return name, value
        return None

    def require(self, role: str) -> tuple[str, Any]:
        """As `find`, but the row must have the column."""
        found = self.find(role)
        if found is None:
            own = self.columns.usual.get(role, ())
            raise self.absent(role, role if not own or own == USUAL_NAMES.get(role) else own[0])
        return found

    def column(self, name: str) -> Any:
        """The value of the column `name`, which the row must have because its format has it."""
        values = self.row.values
        if name not in values:
            raise self.error(f"column {name!r} is missing (columns: {listed(values)}); mend the row")
        return values[name]

    def absent(self, role: str, name: str) -> DataError:
        """The error that the row has no column `name`, which would hold the value of `role`."""
        taken = {usual for other, names in self.columns.usual.items() if other != role for usual in names}
        nested = []
        for one, value in self.row.values.items():
            inner = value[0] if isinstance(value, list) and value else value
            nested += [f"{one}.{key}" for key in inner] if isinstance(inner, dict) else []
        free = [column for column in [*self.row.values, *nested] if column not in taken and column not in _ANSWERS]
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
        """`value` as turns, of each only what templates show."""
        if not value:
            raise self.error(f"column {column!r} is an empty list; at least one message is needed")
        return [message(self, column, number, one) for number, one in enumerate(value)]

    def text_or_messages(self, role: str, column: str, value: Any) -> Text:
        """`value` as text or turns, whichever it is; a single message object is one turn.

        A text that is the JSON of a message list is that list, which CSV cannot hold and other files often do not.
        """
        if isinstance(value, str) and _MESSAGES_AS_TEXT.match(value):
            turns = from_json(value)
            if isinstance(turns, list) and all(map(is_message, turns)):
                value = turns
            elif isinstance(value, CsvText):
                problem = f"column {column!r} is a message list written as text ({shown(value)}), but not as JSON"
                raise self.error(f"{problem}; write JSON, or JSONL or Parquet files")
        if isinstance(value, list):
            return self.messages(column, value)
        if is_message(value):
            return self.messages(column, [value])
        if not isinstance(value, str):
            problem = f"column {column!r} is {described(value)}; it must be text or a message list"
            raise self.error(f"{problem}; for another column type {self.setting(role)}=COLUMN")
        return self.text(column, value)

    def answers(self, role: str) -> list[Text]:
        """All answers in the column of `role`: a list of texts, message lists or objects; or a single one of them."""
        column, value = self.require(role)
        if not isinstance(value, list) or (value and is_message(value[0])):
            return [self.text_or_messages(role, column, value)]
        if not value:
            raise self.error(f"column {column!r} is an empty list; at least one answer is needed")
        return [self.answer(role, f"{column}[{number}]", one) for number, one in enumerate(value)]

    def answer(self, role: str, place: str, value: Any) -> Text:
        """One of several answers: text, a message list, or an object that holds it in a field of a usual name."""
        if isinstance(value, dict) and not is_message(value):
            name = next((one for one in _TEXT_FIELDS if one in value), None)
            if name is None:
                column = place.partition("[")[0]
                raise self.error(
                    f"{place} is an object without one of {', '.join(_TEXT_FIELDS)} (keys: {listed(value)}); "
                    f"type {self.setting(role)}={column}.FIELD"
                )
            return self.text_or_messages(role, f"{place}.{name}", value[name])
        return self.text_or_messages(role, place, value)

    def prompt(self) -> Text | None:
        """The prompt, if the row has one. What Alpaca's rows have as `input` follows their instruction."""
        found = self.find("prompt")
        if found is None or found[1] is None:
            return None
        column, value = found
        prompt = self.text_or_messages("prompt", column, value)
        if isinstance(prompt, list):
            return prompt
        if column == "instruction" and "prompt" not in self.columns.named:
            return self._instruction(prompt)
        return self.columns.parse(prompt) if self.columns.parse else prompt

    def _instruction(self, prompt: str) -> Text:
        """What Alpaca's rows have as `input` after their instruction, and LLaMA-Factory's as `history` before it."""
        values = self.row.values
        more, history = values.get("input"), values.get("history")
        if isinstance(more, str) and more.strip():
            prompt = f"{prompt}\n{self.text('input', more)}"
        if not isinstance(history, list) or not history:
            return prompt
        turns: list[Message] = []
        for number, exchange in enumerate(history):
            if not isinstance(exchange, list) or len(exchange) != 2:
                problem = f"history[{number}] is {described(exchange)}"
                raise self.error(f"{problem}; earlier turns are lists of a question and its answer")
            for role, words in zip(("user", "assistant"), exchange, strict=True):
                turns.append({"role": role, "content": self.text(f"history[{number}]", words)})
        return [*turns, {"role": "user", "content": prompt}]

    def prompt_of(self, answers: list[Text]) -> Text | None:
        """The prompt of answers that hold no dialogue of their own, also from columns that only then can be it.

        Args:
            answers: the chosen and rejected ones.
        """
        if self.find("prompt") or self.columns.usual["prompt"] != USUAL_NAMES["prompt"]:
            return self.prompt()
        if any(isinstance(one, list) and one[0]["role"] != "assistant" for one in answers):
            return None
        for name in ("input", "context", "messages"):
            value = self.row.values.get(name)
            fits = value.strip() if isinstance(value, str) else isinstance(value, list) and all(map(is_message, value))
            if value and fits:
                prompt = self.text_or_messages("prompt", name, value)
                if isinstance(prompt, str) or prompt[-1]["role"] != "assistant":
                    return prompt
        return None

    def number(self, role: str, column: str, value: Any, kind: str) -> float:
        """`value` as a finite number; text only in CSV, which has no other kind."""
        try:
            number = float(value) if type(value) in (int, float, CsvText) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            problem = f"column {column!r} is {described(value)}; {kind}"
            raise self.error(f"{problem}; for another column type {self.setting(role)}=COLUMN")
        return number

    def optional_number(self, role: str, kind: str) -> float | None:
        """The number in the column of `role`; None without the column, and where it is null or an empty CSV cell."""
        found = self.find(role)
        if found is None or is_null(found[1]):
            return None
        return self.number(role, *found, kind)

    def attribute_scores(self, find: Callable[[str], Any]) -> list[float | None] | None:
        """The scores of one answer in the order of `data.columns.attributes`; None where no attributes are asked for.

        Args:
            find: gives the value of an attribute by its name, or `MISSING`.
        """
        if not self.columns.attributes:
            return None
        found: list[float | None] = []
        for name in self.columns.attributes:
            value = find(name)
            if value is MISSING:
                raise self.error(
                    f"no column or field is called {name!r} (columns: {listed(self.row.values)}); "
                    f"type {self.setting('attributes')}=[NAME,...]"
                )
            unknown = is_null(value) or (isinstance(value, float) and math.isnan(value))
            found.append(None if unknown else self.number("attributes", name, value, "a score must be a number"))
        return found

    def margin(self) -> float | None:
        """The row's margin, if it has one."""
        return self.optional_number("margin", "a margin must be a finite number or null")

    def label(self, role: str) -> str | None:
        """The row's id or subset as text, if it has one."""
        found = self.find(role)
        if found is None or found[1] is None or found[1] == "":
            return None
        column, value = found
        return self.text(column, value) if isinstance(value, str) else str(value)

    def _weight(self) -> float:
        weight = self.optional_number("weight", "a weight must be a positive number or null")
        if weight is not None and weight <= 0:
            problem = f"column {self.require('weight')[0]!r} is {described(weight)}; a weight must be a positive number"
            raise self.error(f"{problem}; leave rows that must not count out of the file")
        return 1.0 if weight is None else weight

    def _parsed(self, role: str, what: str, fits: Callable[[Any], bool]) -> Any:
        """The object or list in the column of `role`, also from its JSON text; None where there is none."""
        found = self.find(role)
        if found is None or found[1] is None:
            return None
        column, value = found
        if isinstance(value, str):
            if not value.strip():
                return None
            value = from_json(value)
        if not fits(value):
            raise self.error(f"column {column!r} is {described(found[1])}; it must be {what}, or its JSON text")
        return plain_value(self, column, value) or None

    def _template_kwargs(self) -> dict[str, Any] | None:
        kwargs: dict[str, Any] | None = self._parsed("chat_template_kwargs", "an object", _is_object)
        for name in kwargs or ():
            if not is_template_variable(name):
                column = self.require("chat_template_kwargs")[0]
                problem = f"column {column!r} has {shown(name)}, which is no name for a variable of a chat template"
                raise self.error(f"{problem}; remove it from the row")
        return kwargs

    def common(self) -> dict[str, Any]:
        """What all pairs of the row have in common, as arguments of `PreferencePair`."""
        return {
            "id": self.label("id") or str(self.row.number),
            "margin": self.margin(),
            "subset": self.label("subset"),
            "weight": self._weight(),
            "tools": self._parsed("tools", "a list of tools (objects)", _is_object_list),
            "template_kwargs": self._template_kwargs(),
            "where": self.row.where,
        }

    def with_system(self, prompt: Text) -> Text:
        """`prompt` after the row's system message, if it has one."""
        found = self.find("system")
        if found is None or found[1] is None or found[1] == "":
            return prompt
        column, value = found
        system = self.text(column, value)
        turns = prompt_messages(prompt)
        if turns and turns[0]["role"] == "system":
            if turns[0]["content"] != system:
                problem = f"column {column!r} and the prompt have different system messages"
                raise self.error(f"{problem} ({shown(system)}, {shown(turns[0]['content'])}); remove one of them")
            return prompt
        return [{"role": "system", "content": system}, *turns]

    def pair(self, prompt: Text, chosen: Text, rejected: Text, **others: Any) -> PreferencePair:
        """The pair of these texts with the row's id, margin, subset and so on; `others` win over them."""
        arguments = self.common() | others
        return PreferencePair(prompt=self.with_system(prompt), chosen=chosen, rejected=rejected, **arguments)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_object_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def is_null(value: object) -> bool:
    """Whether a cell is null, or an empty one of a CSV file."""
    return value is None or (isinstance(value, CsvText) and not value.strip())
