"""Where a format finds its columns, and what the values of its label column mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rm_experiments.config.data_schema import ColumnsConfig
from rm_experiments.config.data_validation import label_key
from rm_experiments.data.pairs import Text

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "instruction", "query"),
    "system": ("system", "system_prompt"),
    "chosen": ("chosen", "text_chosen", "chosen_response", "preferred"),
    "rejected": ("rejected", "text_rejected", "rejected_response", "dispreferred"),
    "label": ("label", "preference", "preferred", "winner", "choice"),
    "label_share": ("label_share",),
    "score_a": ("score_chosen", "chosen_score", "chosen_rating", "chosen-rating"),
    "score_b": ("score_rejected", "rejected_score", "rejected_rating", "rejected-rating"),
    "responses": ("responses", "completions", "answers", "outputs", "candidates"),
    "scores": ("scores", "ratings", "rewards"),
    "ranks": ("ranks", "ranking", "rank"),
    "margin": ("margin",),
    "weight": ("weight",),
    "subset": ("subset",),
    "id": ("id",),
    "tools": ("tools",),
    "chat_template_kwargs": ("chat_template_kwargs",),
}
"""Names that people give their columns; of several that a row has, the first counts."""

MAY_LACK = frozenset(
    ("system", "label_share", "score_a", "score_b", "margin", "weight", "subset", "id", "tools", "chat_template_kwargs")
)
"""What rows may be without: a named column that a later row lacks is null there."""

_ANSWER_STEMS = ("response", "answer", "output", "completion")
ANSWER_PAIRS: tuple[tuple[str, str, str, str], ...] = tuple(
    (f"{stem}{mark}{first}", f"{stem}{mark}{second}", f"score{mark}{first}", f"score{mark}{second}")
    for stem in _ANSWER_STEMS
    for mark in ("_", " ", "")
    for first, second in (("a", "b"), ("A", "B"), ("1", "2"), ("0", "1"))
)
"""Usual names of two answers whose order says nothing, and of the scores beside them."""

MISSING: Any = object()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """What the values of a label column mean."""

    first: tuple[Any, ...] = ()
    second: tuple[Any, ...] = ()
    tie: tuple[Any, ...] = ()


_OBVIOUS = {
    ("a", "b"): Labels(first=("a", "model_a", "a>b", "a>>b"), second=("b", "model_b", "b>a", "b>>a"), tie=("a=b",)),
    ("1", "2"): Labels(first=(1, "first", "model_1"), second=(2, "second", "model_2")),
    ("0", "1"): Labels(first=(0,), second=(1,)),
}
"""Label values that leave no doubt, by how the names of the two answers end."""


class Columns:
    """Where the value of each role is: as the user named it, else as the format calls it."""

    __slots__ = ("_given", "_labels", "_verdicts", "attributes", "named", "parse", "usual")

    def __init__(
        self,
        config: ColumnsConfig,
        names: Mapping[str, str | tuple[str, ...]] | None = None,
        labels: Labels | None = None,
        parse: Callable[[str], Text] | None = None,
    ) -> None:
        """
        Args:
            config: what the user named.
            names: the format's own names of columns, instead of the usual ones of the same role.
            labels: the meaning of the format's label values.
            parse: makes turns of the format's text prompts.
        """
        own = {role: (name,) if isinstance(name, str) else name for role, name in (names or {}).items()}
        values: dict[str, Any] = dataclasses.asdict(config)
        self._given = {name: values.pop(name) for name in ("first_wins", "second_wins", "tie")}
        self.attributes: tuple[str, ...] = tuple(values.pop("attributes") or ())
        self.named: dict[str, str] = {role: name for role, name in values.items() if name is not None}
        self.usual: dict[str, tuple[str, ...]] = USUAL_NAMES | own
        self.parse = parse
        self._labels = labels
        self._verdicts: dict[tuple[str, str], dict[str, float]] = {}

    def verdicts(self, first: str, second: str) -> dict[str, float]:
        """The share of the first answer by `label_key` of the label, for answers in columns of these names."""
        known = self._verdicts.get((first, second))
        if known is None:
            ends = (first[-1:].lower(), second[-1:].lower())
            labels = self._labels or _OBVIOUS.get(ends, Labels())
            meant = {
                1.0: _either(self._given["first_wins"], (*labels.first, first)),
                0.0: _either(self._given["second_wins"], (*labels.second, second)),
                0.5: _either(self._given["tie"], (*labels.tie, "tie")),
            }
            # A value that the user gave one meaning keeps no other one.
            asked = {label_key(one) for given in self._given.values() for one in given or ()}
            known = {}
            for given, (share, meaning) in zip(self._given.values(), meant.items(), strict=True):
                for one in meaning:
                    if given is not None or label_key(one) not in asked:
                        known[label_key(one)] = share
            self._verdicts[first, second] = known
        return known


def _either(given: list[Any] | None, usual: Iterable[Any]) -> list[Any]:
    return list(usual) if given is None else given


def reach(values: Any, path: str) -> Any:
    """What the dotted path leads to, or `MISSING`. A number is an index into a list; a name, the field of each item.

    What is below a null is null, and so is the field of an item that lacks it where other items have it.
    """
    return _reach(values, path.split("."))


def _reach(value: Any, parts: list[str]) -> Any:
    for position, part in enumerate(parts):
        if value is None:
            return None
        if isinstance(value, dict):
            if part not in value:
                return MISSING
            value = value[part]
        elif not isinstance(value, list):
            return MISSING
        elif part.isdecimal():
            if int(part) >= len(value):
                return MISSING
            value = value[int(part)]
        else:
            items = [_reach(item, parts[position:]) for item in value]
            if items and all(item is MISSING for item in items):
                return MISSING
            return [None if item is MISSING else item for item in items]
    return value
