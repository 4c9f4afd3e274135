"""A comparison in the terminal: what differs, the ranking, and the differences. Fits 100 columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_MOST_GROUPS, _MOST_DIFFERENCES, _MOST_SUBSETS = 30, 12, 20
_MOST_SETTINGS, _MOST_OPTIONS, _MOST_VALUE = 4, 20, 24
_MOST_LABEL = 60
_WIDE = 96
"""Columns of a terminal from which all are shown."""


def print_comparison(console: Console, comparison: Mapping[str, Any]) -> None:
    """The ranking on the main set, the differences on all sets, and what the subsets say of the first pair."""
    groups, main = comparison["groups"], comparison["set"]
    sizes = {one["name"]: one for one in comparison["sets"]}
    _line(console, verdict(comparison), style="bold")
    _line(console)
    if len(groups) > 1 or len(comparison["runs"]) == 1:
        _ranking(console, groups, main, sizes[main])
    else:
        _seeds(console, comparison, main, sizes[main])
    _settings(console, comparison)
    _differences(console, comparison)
    _subsets(console, comparison)
    for note in comparison["notes"]:
        _line(console, f"Note: {note}", style="dim")


def verdict(comparison: Mapping[str, Any]) -> str:
    """The answer in one sentence."""
    groups, main = comparison["groups"], comparison["set"]
    if len(comparison["runs"]) == 1:
        return f"One run: nothing to compare it with on {main}."
    if len(groups) == 1:
        return f"One config, {len(comparison['runs'])} seeds: they differ by chance."
    ranked = _ranked(groups, main)
    best, others = ranked[0], [one for one in ranked[1:] if one["places"][main][0] == 1]
    name = _label(best, groups)
    if not others:
        return f"Best on {main}: {name}, surely better than all others."
    if len(others) == len(ranked) - 1:
        return f"On {main} no candidate is surely better than another; the highest accuracy has {name}."
    many = "another one" if len(others) == 1 else f"{len(others)} others"
    return f"Highest accuracy on {main}: {name}; {many} may be as good."


def _line(console: Console, text: str = "", style: str | None = None) -> None:
    console.print(text, markup=False, style=style, soft_wrap=True)


def _label(group: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> str:
    label = str(group["label"])
    short = label if len(label) <= _MOST_LABEL else f"{label[: _MOST_LABEL - 3]}..."
    return f"{_letter(groups.index(group))} {short}"


def _letter(number: int) -> str:
    """A, B, ..., Z, A1, B1, ...: a name that fits anywhere."""
    turn, place = divmod(number, 26)
    return chr(ord("A") + place) + (str(turn) if turn else "")


def _ranked(groups: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    having = [one for one in groups if name in one["metrics"]]
    key = "accuracy" if all("accuracy" in one["metrics"][name] for one in having) else "loss"
    sign = -1 if key == "accuracy" else 1
    return sorted(having, key=lambda one: (one["places"][name][0], sign * one["metrics"][name][key]["mean"]))


def _table(console: Console, title: str, columns: Sequence[tuple[str, str]]) -> Table:
    """An empty table under its title, which is printed at once: rich would fold it to the table's width."""
    _line(console, title, style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head, side in columns:
        # Only names give way.
        table.add_column(
            head, justify="right" if side == "r" else "left", no_wrap=side != "name", overflow="fold",
            ratio=1 if side == "name" else None,
        )  # fmt: skip
    return table


def _ranking(console: Console, groups: Sequence[Mapping[str, Any]], name: str, size: Mapping[str, Any]) -> None:
    title = f"{name}: {size['num_pairs']:,} pairs of {size['num_prompts']:,} prompts"
    seeds = any(len(one["runs"]) > 1 for one in groups)
    columns = [("Place", "r"), ("Candidate", "name"), *([("Seeds", "r"), ("Sd", "r")] if seeds else []),
               ("Accuracy", "r"), ("95% interval", "r"), ("Loss", "r")]  # fmt: skip
    table = _table(console, title, columns)
    ranked = _ranked(groups, name)
    for one in ranked[:_MOST_GROUPS]:
        values = one["metrics"][name]
        accuracy, loss = values.get("accuracy"), values.get("loss")
        first, last = one["places"][name]
        place = str(first) if first == last else f"{first}-{last}"
        sd = [str(len(one["runs"])), _number(accuracy and accuracy["sd"])] if seeds else []
        table.add_row(
            place, _plain(_label(one, groups)), *sd, _number(accuracy and accuracy["mean"]),
            "" if not accuracy else f"{_number(accuracy['low'], 3)} to {_number(accuracy['high'], 3)}",
            _number(loss and loss["mean"]),
        )  # fmt: skip
    console.print(table)
    if len(ranked) > _MOST_GROUPS:
        _line(console, f"... and {len(ranked) - _MOST_GROUPS} more in compare.json", style="dim")
    _line(console, "Places that overlap are statistically the same.", style="dim")
    _line(console)


def _seeds(console: Console, comparison: Mapping[str, Any], name: str, size: Mapping[str, Any]) -> None:
    """The runs of the only candidate."""
    group = comparison["groups"][0]
    table = _table(
        console,
        f"{name}: {size['num_pairs']:,} pairs of {size['num_prompts']:,} prompts",
        [("Run", "name"), ("Accuracy", "r"), ("95% interval", "r"), ("Loss", "r")],
    )
    for number in group["runs"][:_MOST_GROUPS]:
        run = comparison["runs"][number]
        values = run["metrics"].get(name)
        if values:
            low, high = values.get("accuracy_ci_low"), values.get("accuracy_ci_high")
            table.add_row(_plain(str(run["label"])), _number(values.get("accuracy")),
                          f"{_number(low, 3)} to {_number(high, 3)}", _number(values.get("loss")))  # fmt: skip
    console.print(table)
    accuracy = group["metrics"][name].get("accuracy")
    if accuracy and accuracy["sd"] is not None:
        _line(console, f"Mean accuracy {_number(accuracy['mean'])}, standard deviation between seeds "
                       f"{_number(accuracy['sd'])}.")  # fmt: skip
    _line(console)


def _settings(console: Console, comparison: Mapping[str, Any]) -> None:
    """What differs in the configs of a few candidates, and only that."""
    groups, options = comparison["groups"], [one for one in comparison["options"] if one != "seed"]
    if not options or not 2 <= len(groups) <= _MOST_SETTINGS:
        return
    columns = [("Setting", "name"), *((_letter(place), "r") for place in range(len(groups)))]
    table = _table(console, "What differs in their configs", columns)
    for option in options[:_MOST_OPTIONS]:
        values = [comparison["runs"][one["runs"][0]]["options"].get(option) for one in groups]
        table.add_row(_plain(option), *(_plain(_short(value)) for value in values))
    console.print(table)
    if len(options) > _MOST_OPTIONS:
        _line(console, f"... and {len(options) - _MOST_OPTIONS} more in compare.json", style="dim")
    _line(console)


def _short(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= _MOST_VALUE else f"...{shown[3 - _MOST_VALUE :]}"


def _differences(console: Console, comparison: Mapping[str, Any]) -> None:
    groups = comparison["groups"]
    whole = [one for one in comparison["comparisons"] if one["subset"] is None]
    if not whole:
        return
    columns = [("Set", "name"), ("Pair", "l"), ("Metric", "l"), ("Difference", "r"), ("95% interval", "r"),
               ("p (Holm)", "r"), ("Detectable", "r"), ("", "l")]  # fmt: skip
    wide = console.width >= _WIDE
    table = _table(console, "Differences", [one for one in columns if wide or one[0] != "Detectable"])
    best = groups.index(_ranked(groups, comparison["set"])[0])
    # Those with the best one first.
    whole.sort(key=lambda one: best not in (one["a"], one["b"]))
    for one in whole[: 2 * _MOST_DIFFERENCES]:
        table.add_row(
            _plain(one["set"]), f"{_letter(one['b'])} - {_letter(one['a'])}", one["metric"],
            _number(one["difference"], 4, sign=True),
            f"{_number(one['low'], 3, sign=True)} to {_number(one['high'], 3, sign=True)}", p_text(one["p_holm"]),
            *([_number(one["smallest_detectable"], 3)] if wide else []), answer(one),
        )  # fmt: skip
    console.print(table)
    if len(whole) > 2 * _MOST_DIFFERENCES:
        _line(console, f"... and {len(whole) - 2 * _MOST_DIFFERENCES} more in compare.json", style="dim")
    _line(console, _how(whole, wide), style="dim")
    _line(console)


def answer(one: Mapping[str, Any]) -> str:
    """Which of the two is better, or that nobody knows."""
    if not one["different"]:
        return "not different"
    better = (one["difference"] > 0) == (one["metric"] == "accuracy")
    return f"{_letter(one['b' if better else 'a'])} is better"


def _how(whole: Sequence[Mapping[str, Any]], wide: bool) -> str:
    if all(one["seeds_counted"] for one in whole):
        counted = "and the variance between seeds"
    elif any(one["seeds_counted"] for one in whole):
        counted = "and, where there are several, the variance between seeds"
    else:
        counted = "alone: with one seed each, what another seed would change is not counted"
    mcnemar = [p_text(one["mcnemar_p"]) for one in whole[:1] if one["mcnemar_p"] is not None]
    exact = f" Exact McNemar of the first row: p = {mcnemar[0]}." if mcnemar else ""
    detectable = "Detectable: the true difference that this set finds in 8 of 10 cases."
    if not wide:
        detectable = "What each set could have detected is in compare.json, and here from 96 columns on."
    return f"Uncertainty from prompts {counted}. {detectable}{exact}"


def _subsets(console: Console, comparison: Mapping[str, Any]) -> None:
    """What kind of prompts makes the difference, for the first pair of candidates on the main set."""
    parts = [one for one in comparison["comparisons"] if one["subset"] is not None and one["set"] == comparison["set"]]
    if not parts:
        return
    a, b = parts[0]["a"], parts[0]["b"]
    rows = [one for one in parts if (one["a"], one["b"]) == (a, b)]
    table = _table(
        console,
        f"Accuracy of {_letter(b)} minus {_letter(a)} by subset of {comparison['set']}",
        [("Subset", "name"), ("Pairs", "r"), ("Difference", "r"), ("95% interval", "r"), ("p (Holm)", "r"), ("", "l")],
    )
    for one in sorted(rows, key=lambda one: -abs(one["difference"]))[:_MOST_SUBSETS]:
        table.add_row(
            _plain(str(one["subset"])), f"{one['num_pairs']:,}", _number(one["difference"], 4, sign=True),
            f"{_number(one['low'], 3, sign=True)} to {_number(one['high'], 3, sign=True)}", p_text(one["p_holm"]),
            answer(one),
        )  # fmt: skip
    console.print(table)
    _line(console)


def p_text(p: float | None) -> str:
    """A p-value; what resamples cannot resolve is a bound."""
    if p is None:
        return "-"
    return "< .001" if p < 0.001 else f"{p:.3f}"


def _number(value: Any, digits: int = 4, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def _plain(text: str) -> str:
    """Text that rich does not take for markup."""
    from rich.markup import escape

    return escape(text)
