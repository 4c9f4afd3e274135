"""Tools, their calls and variables of templates: objects and lists that go into a template as they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rm_experiments.data.wording import described

if TYPE_CHECKING:
    from rm_experiments.data.formats.cells import RowCells

_MOST_LEVELS = 50


def from_json(text: str) -> Any:
    """The value that `text` is the JSON of; None where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def plain_value(cells: RowCells, place: str, value: Any, levels: int = _MOST_LEVELS) -> Any:
    """`value` without fields that are null, which Parquet puts where only another row has the field.

    Raises:
        DataError: something in it is no JSON value, or text that no tokenizer takes, or nested too deeply.
    """
    if isinstance(value, str):
        return cells.text(place, value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if not isinstance(value, dict | list):
        problem = f"column {place!r} is {described(value)}; it must be text, a number, a boolean, a list or an object"
        raise cells.error(f"{problem}: write it as text")
    if not levels:
        raise cells.error(f"column {place[:60]!r} is nested more than {_MOST_LEVELS} levels deep; make it flatter")
    if isinstance(value, list):
        return [plain_value(cells, f"{place}[{number}]", one, levels - 1) for number, one in enumerate(value)]
    return {
        cells.text(f"{place} (a key)", key): plain_value(cells, f"{place}.{key}", one, levels - 1)
        for key, one in value.items()
        if one is not None
    }
