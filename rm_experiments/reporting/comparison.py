"""A comparison as plain values: compare.json, from which the page is drawn."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rm_experiments.evaluation.calibration import reliability
from rm_experiments.evaluation.comparing import Comparison, Standing
from rm_experiments.evaluation.metrics import record_metrics, slug
from rm_experiments.evaluation.records import Records

MAIN_SET = "eval"
_MOST_ROWS, _MOST_SPREAD = 600, 300
"""Pairs of a set on the page, and how many of them are those on which the models disagree most."""
_OF_SUBSETS = ("accuracy", "accuracy_ci_low", "accuracy_ci_high", "loss", "margin", "num_pairs")
_MOST_STEPS = 400
"""Points of a curve."""
_CURVES = {"accuracy": "accuracy", "low": "accuracy_ci_low", "high": "accuracy_ci_high", "loss": "loss"}

Texts = Callable[[str, list[str]], Mapping[str, tuple[str, str, str]]]
"""Set and pair ids -> prompt, chosen and rejected by pair id."""


@dataclass(kw_only=True)
class RunView:
    """One model of a comparison."""

    label: str
    path: str
    group: int
    seed: int | None
    status: str
    step: int
    seconds: float | None
    options: Mapping[str, Any]
    """Settings in which the runs differ."""
    records: Mapping[str, Records]
    lines: Sequence[Mapping[str, Any]]
    """metrics.jsonl."""


@dataclass(kw_only=True)
class GroupView:
    """Runs of one config."""

    label: str
    runs: list[int]


@dataclass(kw_only=True)
class CompareInputs:
    """What was compared and found."""

    title: str
    runs: Sequence[RunView]
    groups: Sequence[GroupView]
    options: Sequence[str]
    by_set: Mapping[str, Sequence[Sequence[Records]]]
    """Of each set the aligned records of each group by seed."""
    standings: Mapping[str, Mapping[str, Sequence[Standing | None]]]
    """Of each set and metric the standing of each group."""
    comparisons: Sequence[Comparison]
    sources: Mapping[str, str]
    """Where each set comes from, for people."""
    notes: Sequence[str]


def comparison_json(inputs: CompareInputs, texts: Texts) -> dict[str, Any]:
    """The content of compare.json. Numbers that are not finite are null."""
    chosen = {name: _chosen_rows(inputs.runs, name) for name in inputs.by_set}
    found = {
        "version": 1,
        "title": inputs.title,
        "created": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        "set": next(iter(inputs.by_set)),
        "sets": [_set(name, inputs) for name in inputs.by_set],
        "options": list(inputs.options),
        "runs": [_run(number, one, inputs, chosen) for number, one in enumerate(inputs.runs)],
        "groups": [_group(number, one, inputs) for number, one in enumerate(inputs.groups)],
        "comparisons": [_comparison(one) for one in inputs.comparisons],
        "rows": {name: _rows(name, inputs, rows, texts) for name, rows in chosen.items()},
        # Last: reading the texts may add one.
        "notes": list(inputs.notes),
    }
    plain: dict[str, Any] = _finite(found)
    return plain


def _finite(value: Any) -> Any:
    """The same with None for NaN and infinities, and Python's own numbers."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _first(inputs: CompareInputs, name: str) -> Records:
    return next(one[0] for one in inputs.by_set[name] if one)


def _set(name: str, inputs: CompareInputs) -> dict[str, Any]:
    records = _first(inputs, name)
    num_prompts = len(np.unique(records["prompt_id"].astype(str)))
    return {
        "name": name, "num_pairs": len(records["weight"]), "num_prompts": num_prompts,
        "source": inputs.sources.get(name, ""),
        "subsets": sorted({str(one) for one in records["subset"] if one is not None}),
    }  # fmt: skip


def _run(number: int, run: RunView, inputs: CompareInputs, chosen: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:
    sets = [name for name in inputs.by_set if name in run.records]
    return {
        "id": number, "label": run.label, "path": run.path, "group": run.group, "seed": run.seed,
        "status": run.status, "step": run.step, "seconds": run.seconds, "options": dict(run.options),
        "metrics": {name: _metrics(run.records[name]) for name in sets},
        "curves": _curves(run.lines, sets),
        "calibration": {
            name: [[one.confidence, one.right, one.num_pairs] for one in reliability(run.records[name])]
            for name in sets
        },
        "margins": {name: [float(f"{one:.5g}") for one in run.records[name]["margin"][chosen[name]]] for name in sets},
    }  # fmt: skip


def _metrics(records: Records) -> dict[str, float]:
    """The metrics, those of subsets under the subset's own name, which metrics.jsonl cannot always have."""
    values = record_metrics(records, resamples=2000)
    for subset in {str(one) for one in records["subset"] if one is not None}:
        for key in _OF_SUBSETS:
            if f"{slug(subset)}_{key}" in values:
                values[f"{subset}_{key}"] = values[f"{slug(subset)}_{key}"]
    return values


def _curves(lines: Sequence[Mapping[str, Any]], sets: Sequence[str]) -> dict[str, Any]:
    # Where a step occurs twice, a continued run wrote the later line.
    evaluations = {line["step"]: line for line in lines if line.get("kind") == "eval"}
    training = {line["step"]: line for line in lines if line.get("kind") == "train"}
    curves: dict[str, Any] = {}
    for name in sets:
        prefix = "eval_" if name == MAIN_SET else f"eval_{name}_"
        curve = _curve(evaluations, {key: prefix + metric for key, metric in _CURVES.items()}, "loss")
        if curve["step"]:
            curves[name] = curve
    train = _curve(training, {"loss": "train_loss", "accuracy": "train_accuracy"}, "loss")
    return curves | ({"train": train} if train["step"] else {})


def _curve(lines: Mapping[int, Mapping[str, Any]], keys: Mapping[str, str], needed: str) -> dict[str, list[Any]]:
    steps = sorted(step for step, line in lines.items() if keys[needed] in line)
    if len(steps) > _MOST_STEPS:
        steps = [steps[round(one * (len(steps) - 1) / (_MOST_STEPS - 1))] for one in range(_MOST_STEPS)]
    return {"step": steps, **{name: [lines[step].get(key) for step in steps] for name, key in keys.items()}}


def _group(number: int, group: GroupView, inputs: CompareInputs) -> dict[str, Any]:
    metrics: dict[str, dict[str, Any]] = {}
    places = {}
    for name, by_metric in inputs.standings.items():
        for metric, standings in by_metric.items():
            one = standings[number]
            if one is not None:
                values = {"mean": one.mean, "sd": one.sd, "low": one.low, "high": one.high}
                metrics.setdefault(name, {})[metric] = values
                if name not in places:
                    places[name] = [one.first, one.last]
    return {"id": number, "label": group.label, "runs": group.runs, "metrics": metrics, "places": places}


def _comparison(one: Comparison) -> dict[str, Any]:
    result = one.result
    return {
        "a": one.a, "b": one.b, "set": one.set, "subset": one.subset, "metric": one.metric,
        "num_pairs": result.num_pairs, "num_prompts": result.num_prompts, "difference": result.difference,
        "low": result.low, "high": result.high, "p": result.p, "p_holm": one.p_holm, "different": one.different,
        "smallest_detectable": result.smallest_detectable, "mcnemar_p": result.mcnemar_p,
        "seeds_counted": one.seeds_counted,
    }  # fmt: skip


def _chosen_rows(runs: Sequence[RunView], name: str) -> NDArray[np.int64]:
    """Rows for the page, ascending: those on which the models disagree most, and others evenly."""
    margins = np.stack([run.records[name]["margin"] for run in runs if name in run.records])
    count = margins.shape[1]
    if count <= _MOST_ROWS:
        return np.arange(count)
    # Models have scales of their own.
    scale = np.sqrt((margins**2).mean(axis=1, keepdims=True))
    spread = (margins / np.where(scale > 0, scale, 1)).std(axis=0)
    most = np.argsort(-spread, kind="stable")[:_MOST_SPREAD]
    even = np.linspace(0, count - 1, _MOST_ROWS - _MOST_SPREAD).round().astype(np.int64)
    return np.unique(np.concatenate([most, even]))


def _rows(name: str, inputs: CompareInputs, rows: NDArray[np.int64], texts: Texts) -> list[dict[str, Any]]:
    records = _first(inputs, name)
    known = texts(name, [str(one) for one in records["pair_id"][rows]])
    found = []
    for row in rows:
        prompt, chosen, rejected = known.get(str(records["pair_id"][row]), (None, None, None))
        found.append({
            "id": str(records["id"][row]), "subset": records["subset"][row], "label": records["label"][row],
            "weight": records["weight"][row], "prompt": prompt, "chosen": chosen, "rejected": rejected,
            "length_difference": int(records["num_chars_chosen"][row]) - int(records["num_chars_rejected"][row]),
        })  # fmt: skip
    return found
