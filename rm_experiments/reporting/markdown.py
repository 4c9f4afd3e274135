"""Text as Markdown: what users typed is escaped, and numbers look the same everywhere."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

_ABSOLUTE_PATH = re.compile(r"(?:file://|(?<![\w:/.\\-])(?:~?/|[A-Za-z]:[\\/]))[^\s,;'\"]+")


def is_finite(value: float | None) -> TypeGuard[float]:
    """Whether there is a value, neither NaN nor infinite."""
    return value is not None and math.isfinite(value)


def fixed(value: float | None, digits: int = 4) -> str:
    """A number with a fixed count of digits, `n/a` without a finite one."""
    return f"{value:.{digits}f}" if is_finite(value) else "n/a"


def plain(value: object) -> str:
    """A count, a fact or a list of facts."""
    if isinstance(value, Mapping):
        return settings(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value))
    return f"{value:,}" if type(value) is int else source(str(value))


def settings(values: Mapping[str, Any]) -> str:
    """`{"name": "adamw", "lr": 1e-05}` as `adamw, lr 1e-05`. What is null is not in use."""
    shown = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in values.items()}
    first = [source(shown.pop("name"))] if "name" in shown else []
    return ", ".join(first + [f"{text(key)} {source(shown[key])}" for key in shown if values[key] is not None])


def source(value: str) -> str:
    """Where data comes from. Of a path on this machine only the last part: the rest is nobody's business."""
    return text(without_paths(value))


def without_paths(value: str) -> str:
    """The same with the last parts of absolute paths only."""
    return _ABSOLUTE_PATH.sub(lambda path: last_part(path[0]), value)


def last_part(path: str) -> str:
    """The last part of a path of any system."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def duration(seconds: float | None) -> str:
    """Seconds as minutes or hours."""
    if not is_finite(seconds):
        return "n/a"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def one_line(value: object) -> str:
    """Without line breaks, control characters and marks that reverse the direction of writing."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def text(value: object) -> str:
    """`value` as prose: HTML and Markdown in it are shown, not obeyed (`a_b` needs no escape)."""
    escaped = html.escape(one_line(value), quote=False)
    return re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|^[#+=-])", r"\\\1", escaped)


def code(value: object) -> str:
    """`value` as code within a line or a table cell."""
    line = one_line(value)
    # Backticks keep neither themselves nor, in a table, a backslash before a pipe.
    return f"<code>{text(line)}</code>" if set(line) & set("`|\\") or not line else f"`{line}`"


def fence(text: str, language: str) -> str:
    """A code block that its content cannot end."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table of escaped cells; the first `left` columns are text, the others numbers."""
    rule = ["---" if column < left else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])
