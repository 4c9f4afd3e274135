"""`compare(config)`: which of some runs is better, by how much, and how sure. Imports no torch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rm_experiments.config.compare_schema import CompareConfig, GroupBy, Rows, check_compare
from rm_experiments.errors import ConfigError, DataError
from rm_experiments.evaluation.comparing import METRICS, Standing, align, common_rows, compare, scores_of
from rm_experiments.evaluation.records import Records
from rm_experiments.reporting.compare_page import render_compare_page
from rm_experiments.reporting.comparison import CompareInputs, GroupView, RunView, comparison_json
from rm_experiments.runner.finished import FinishedRun, differing, find_runs, flattened
from rm_experiments.runner.pair_texts import pair_texts
from rm_experiments.runner.run_dir import new_directory, write_text

JSON_FILE, PAGE_FILE = "compare.json", "compare.html"
_MOST_PAIRS = 12
"""Groups up to which each is compared with each; beyond, each with the best one and the baseline."""
_MOST_READ = 5
"""Runs whose data are tried for the texts of pairs: the rest will most often lack the same."""


@dataclass(kw_only=True)
class CompareResult:
    """What a comparison found, and where it lies."""

    directory: Path
    comparison: dict[str, Any]
    """The content of compare.json."""


def compare_runs(config: CompareConfig) -> CompareResult:
    """Compare what `config.directories` hold, and write compare.json and compare.html.

    Raises:
        ConfigError, CheckpointError, DataError: one line each; nothing was written.
    """
    check_compare(config)
    notes: list[str] = []
    runs = _runs(config, notes)
    steps = [run.load(config.at) for run in runs]
    sets = _sets(runs, config, notes)
    options = differing([flattened(run.config) for run in runs])
    _label(runs, options)
    groups = _groups(runs, options, config.group_by)
    by_set = {name: [[runs[one].records[name] for one in group if name in runs[one].records] for group in groups]
              for name in sets}  # fmt: skip
    main = next(iter(sets))
    standings = {name: _standings(candidates, config.num_resamples) for name, candidates in by_set.items()}
    baseline = _baseline(config, runs, groups)
    pairs = _pairs(standings[main], len(groups), baseline)
    comparisons = compare(by_set, pairs, config.num_resamples)
    if len(groups) == 1 and len(runs) > 1:
        notes.append(
            "All runs have one config and differ in their seed only: what differs between them is the seed. "
            "To test them as models of their own, type group_by=run."
        )
    inputs = CompareInputs(
        title=config.name, runs=[_view(run, step, place, groups, options) for place, (run, step) in
                                 enumerate(zip(runs, steps, strict=True))],
        groups=[_group_view(group, runs, options) for group in groups], options=options, by_set=by_set,
        standings=standings, comparisons=comparisons, notes=notes,
        sources={name: next((source for run in runs if (source := run.source_of(name))), "") for name in sets},
    )  # fmt: skip
    comparison = comparison_json(inputs, lambda name, ids: _texts(runs, name, ids, notes))
    return CompareResult(directory=_write(config, comparison), comparison=comparison)


def _names(value: Any) -> list[str] | None:
    return None if value is None else [value] if isinstance(value, str) else [str(one) for one in value]


def _runs(config: CompareConfig, notes: list[str]) -> list[FinishedRun]:
    found = [run for name in config.directories for run in find_runs(name)]
    distinct: dict[tuple[Path, int | None], FinishedRun] = {}
    for run in found:
        distinct.setdefault((run.path.resolve(), run.step), run)
    runs = []
    for run in distinct.values():
        if run.evaluated:
            runs.append(run)
            if run.status != "finished":
                notes.append(f"{run.path}: {run.status}; compared by its evaluations so far.")
        elif len(distinct) > 1:
            error = run.summary.get("error")
            notes.append(f"{run.path}: left out, {run.status} without an evaluation" + (f" ({error})" if error else ""))
    if not runs:
        first = next(iter(distinct.values()))
        raise DataError(f"{first.path}: holds no evaluation; evaluate its model with rm-eval checkpoint={first.path}")
    return runs


def _sets(runs: Sequence[FinishedRun], config: CompareConfig, notes: list[str]) -> list[str]:
    """The sets that are compared; the records of all runs on them have their rows in one order afterwards."""
    having = {name: [run for run in runs if name in run.records] for run in runs for name in run.records}
    least = 1 if len(runs) == 1 else 2
    wanted = _names(config.sets)
    for name in wanted or ():
        if len(having.get(name, [])) < least:
            known = ", ".join(one for one, many in having.items() if len(many) >= least) or "none"
            raise ConfigError(f"sets={name}: {least} of the runs must have this set; they share {known}")
    sets = [name for name in (wanted or having) if len(having[name]) >= least]
    if not sets:
        own = "; ".join(f"{run.path} has {', '.join(run.records)}" for run in runs[:3])
        raise DataError(f"no evaluation set is shared by two runs ({own}); evaluate them on one set with rm-eval")
    for name in list(sets):
        by_path = {str(run.path) + ("" if run.step is None else f" step {run.step}"): run for run in having[name]}
        try:
            matched = (common_rows if config.rows == Rows.common else align)(
                {path: run.records[name] for path, run in by_path.items()}
            )
        except DataError as error:
            if wanted is None and name != sets[0] and len(sets) > 1:
                # One set that differs does not take the others away.
                notes.append(f"{name}: left out, {error}")
                sets.remove(name)
                continue
            raise DataError(f"{name}: {error}") from error
        for path, records in matched.items():
            if not len(records["weight"]):
                raise DataError(f"{name}: the runs have no row in common; evaluate them on one set with rm-eval")
            by_path[path].records[name] = records
        if len(having[name]) < len(runs):
            notes.append(f"{name}: {len(having[name])} of {len(runs)} runs were evaluated on it.")
    return sets


def _short_names(options: Sequence[str]) -> dict[str, str]:
    """The last part of a key, or all of it where that is not enough."""
    ends = [one.rpartition(".")[2] for one in options]
    return {one: end if ends.count(end) == 1 else one for one, end in zip(options, ends, strict=True)}


def _settings(run: FinishedRun, options: Sequence[str], names: Mapping[str, str]) -> str:
    values = flattened(run.config)
    return " ".join(f"{names[one]}={_shown(values.get(one))}" for one in options)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _label(runs: Sequence[FinishedRun], options: Sequence[str]) -> None:
    """Short and distinct: what differs in the config, else the path."""
    names = _short_names(options)
    labels = [_settings(run, options, names) for run in runs]
    for run, label in zip(runs, labels, strict=True):
        if not label:
            run.label = run.path.name if len(runs) == 1 or run.step is not None else str(run.path)
        elif len(label) > 100:
            run.label = run.path.name
        else:
            run.label = label
        if run.step is not None:
            run.label = f"{run.label} step {run.step}"
    repeated = [run.label for run in runs]
    for run in runs:
        if repeated.count(run.label) > 1:
            run.label = f"{run.label} ({run.path})"


def _groups(runs: Sequence[FinishedRun], options: Sequence[str], by: GroupBy) -> list[list[int]]:
    """Runs whose configs differ in their seed only, and models of these after as many steps.

    Models of one run, and runs of one seed, are not seeds.
    """
    if by == GroupBy.run:
        return [[one] for one in range(len(runs))]
    groups: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        values = flattened(run.config)
        key = json.dumps([values.get(one) for one in options if one != "seed"], default=str)
        if not run.config:
            key += f" {run.path.resolve()}"
        if run.step is not None:
            key += f" step {run.step}"
        nth = sum(runs[one].config.get("seed") == run.config.get("seed") for one in groups.get(key, ()))
        groups.setdefault(key if nth == 0 else f"{key} {place}", []).append(place)
    return list(groups.values())


def _baseline(config: CompareConfig, runs: Sequence[FinishedRun], groups: Sequence[Sequence[int]]) -> int | None:
    if config.baseline is None:
        return None
    named = find_runs(config.baseline) if Path(config.baseline).expanduser().is_dir() else []
    wanted = (named[0].path.resolve(), named[0].step) if len(named) == 1 else None
    for number, group in enumerate(groups):
        for run in (runs[one] for one in group):
            if config.baseline == run.label or wanted == (run.path.resolve(), run.step):
                return number
    labels = ", ".join(repr(run.label) for run in runs[:6])
    raise ConfigError(f"baseline={config.baseline}: is none of the compared runs; their labels are {labels}")


def _standings(candidates: Sequence[Sequence[Records]], resamples: int) -> dict[str, list[Standing | None]]:
    """Of each metric the standing of each group on one set; None for groups without it."""
    present = [place for place, one in enumerate(candidates) if one]
    found: dict[str, list[Standing | None]] = {}
    for metric in METRICS:
        scores = scores_of([candidates[one] for one in present], metric, None, resamples)
        if scores is not None:
            found[metric] = [None] * len(candidates)
            for place, one in zip(present, scores.standings(metric == "loss"), strict=True):
                found[metric][place] = one
    return found


def _pairs(
    standings: Mapping[str, Sequence[Standing | None]], count: int, baseline: int | None
) -> list[tuple[int, int]]:
    """Which groups are compared one by one: (a, b), where b is measured against a."""
    if baseline is None and count <= _MOST_PAIRS:
        return list(itertools.combinations(range(count), 2))
    # A set of ties has no accuracy.
    metric, sign = ("accuracy", 1) if "accuracy" in standings else ("loss", -1)
    means = {one: sign * found.mean for one, found in enumerate(standings[metric]) if found is not None}
    best = max(means, key=means.__getitem__)
    pairs = [(baseline, one) for one in range(count) if one != baseline] if baseline is not None else []
    pairs += [(one, best) for one in range(count) if best not in (one, baseline) and one != baseline]
    return pairs


def _view(run: FinishedRun, step: int, place: int, groups: Sequence[Sequence[int]], options: Sequence[str]) -> RunView:
    values = flattened(run.config)
    return RunView(
        label=run.label, path=str(run.path), group=next(one for one, group in enumerate(groups) if place in group),
        seed=run.config.get("seed"), status=run.status, step=step, seconds=run.summary.get("seconds"),
        options={key: values.get(key) for key in options}, records=run.records, lines=run.lines,
    )  # fmt: skip


def _group_view(group: Sequence[int], runs: Sequence[FinishedRun], options: Sequence[str]) -> GroupView:
    shown = [one for one in options if one != "seed"]
    label = runs[group[0]].label
    if len(group) > 1:
        first = runs[group[0]]
        step = "" if first.step is None else f"step {first.step}"
        label = f"{_settings(first, shown, _short_names(options))} {step}".strip() or "all runs"
    return GroupView(label=label, runs=list(group))


def _texts(runs: Sequence[FinishedRun], name: str, ids: list[str], notes: list[str]) -> dict[str, tuple[str, str, str]]:
    """Prompt, chosen and rejected of the pairs `ids` of a set, from the data of the first run that still has them."""
    reasons = []
    for run in [one for one in runs if name in one.records and one.config][:_MOST_READ]:
        found = pair_texts(run.path, name, ids)
        if isinstance(found, dict):
            return found
        reasons.append(found)
    if reasons:
        notes.append(f"{name}: texts of pairs are not shown ({reasons[0]})")
    return {}


def _write(config: CompareConfig, comparison: dict[str, Any]) -> Path:
    """Both files, or none: written aside, then renamed."""
    if config.output_dir is not None:
        directory = Path(config.output_dir).expanduser()
        if directory.exists() and not directory.is_dir():
            raise ConfigError(f"output_dir={config.output_dir}: is a file; choose a directory")
    else:
        directory = new_directory(Path("outputs") / "compare")
    page = render_compare_page(comparison) if config.html else None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / JSON_FILE, json.dumps(comparison, indent=1, allow_nan=False) + "\n")
        if page is not None:
            write_text(directory / PAGE_FILE, page)
    except OSError as error:
        raise ConfigError(f"output_dir={directory}: cannot be written ({error.strerror})") from error
    return directory
