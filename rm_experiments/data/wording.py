"""How messages about data quote names and values: on one line, and not too long."""

from __future__ import annotations

import json
from collections.abc import Iterable

from rm_experiments.errors import DataError


class CsvText(str):
    """A cell of a CSV file, which has no types: unlike in other text, formats may read a number from it."""

    __slots__ = ()


def data_error(message: str) -> DataError:
    """A `DataError` whose message is one printable line, whatever names and values it quotes."""
    return DataError(printable(message))


def printable(text: str) -> str:
    """`text` with an escape for every character that cannot be printed, line breaks included."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def shown(value: object) -> str:
    """`value` as messages quote it: about 60 characters at most."""
    if isinstance(value, str):
        value = value[:200]
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def described(value: object) -> str:
    """What `value` is, for messages: `null`, `the number 5`, `the text 'abc'`."""
    kinds = {bool: "boolean", int: "number", float: "number", str: "text", CsvText: "text", list: "list"}
    kind = {**kinds, dict: "object"}.get(type(value), type(value).__name__)
    return "null" if value is None else f"the {kind} {shown(value)}"


def listed(names: Iterable[object]) -> str:
    """Column names for messages; of very many only the first."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:15]) + (f", ... ({len(texts)} in all)" if len(texts) > 15 else "")


def one_line(error: BaseException) -> str:
    """The message of another library's exception, on one line and at most 200 characters."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= 200 else line[:197] + "..."
