"""What the program can say: the texts in its source, with a mark for what they are filled with."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

from tests.docs.markdown import ROOT

_FILLED = "\0"
_SHORTEST = 12
"""A shorter text says nothing about where it comes from."""


@functools.cache
def _texts() -> tuple[str, ...]:
    """Every string of the package but docstrings, white space as single spaces."""
    found: list[str] = []
    for folder in ("rm_experiments", "hydra_plugins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found += _strings(ast.parse(path.read_text(encoding="utf-8")))
    return tuple(dict.fromkeys(" ".join(one.split()) for one in found if len(one) >= _SHORTEST))


def _strings(tree: ast.AST) -> Iterator[str]:
    parts = {id(one) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for one in node.values}
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(one.value) if isinstance(one, ast.Constant) else _FILLED for one in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts | documentation:
            yield node.value


def is_said(text: str) -> bool:
    """Whether `text` is one of them, filled; or a piece of one, where `...` stands for what is filled in."""
    shown = " ".join(text.split())
    pieces = [re.escape(one.strip()) for one in shown.split("...")]
    if max(map(len, pieces)) < _SHORTEST:
        return False
    piece = re.compile(".*".join(pieces))
    return any(piece.search(one) or _is_filled(one, shown) for one in _texts())


def _is_filled(source: str, shown: str) -> bool:
    fixed = source.split(_FILLED)
    if (
        sum(map(len, fixed)) < _SHORTEST
        or max(map(len, fixed)) < _SHORTEST / 2
        or not all(one.strip() in shown for one in fixed)
    ):
        return False
    return re.search(".*?".join(map(re.escape, fixed)), shown) is not None
