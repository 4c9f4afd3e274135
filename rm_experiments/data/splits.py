"""Which pairs are trained on and which are evaluated: the sources of a config, split by prompt, audited and limited."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rm_experiments.config.data_schema import Audit, DataConfig, Ties
from rm_experiments.data.audit import AuditReport, AuditSplit, audit, refuse_beyond_limits
from rm_experiments.data.audit.compare import hex_values
from rm_experiments.data.cache import DataCache, digest
from rm_experiments.data.loading import LoadedPairs, load_sandbox, load_source
from rm_experiments.data.mixture import mix
from rm_experiments.data.pairs import PreferencePair
from rm_experiments.data.table import PairTable, open_table
from rm_experiments.errors import DataError

MAIN_SET = "eval"
_COUNTED = ("duplicates", "contradictions", "identical_sides", "empty_answers")
"""Findings of the audit whose counts also stand among those of their split."""


@dataclass(kw_only=True)
class Split:
    """The pairs of one split, before tokenization."""

    table: PairTable
    rows: NDArray[np.int64]
    """The split's pairs in `table`, in order; in a weighted mixture one may occur several times."""
    identity: str
    """Of the whole table: what caches of derived data go by."""
    source: str
    """For people: where the pairs come from."""
    key: str
    """The override that names the source, for messages."""
    counts: dict[str, Any]
    """What was read, and what was noticed."""

    @property
    def pairs(self) -> list[PreferencePair]:
        """All pairs, decoded."""
        return list(self.table.pairs(self.rows))


@dataclass(kw_only=True)
class Splits:
    """All pairs of a run."""

    train: Split
    evaluation: dict[str, Split] = field(default_factory=dict)
    """The main set under `eval`, then the named ones; empty when the run does not evaluate."""
    audit: AuditReport | None = None

    def best_achievable(self, metric: str) -> float | None:
        """What no model can beat on the main evaluation set, where that is known (the sandbox world)."""
        main = self.evaluation.get(MAIN_SET)
        return None if main is None else main.counts.get("best_achievable", {}).get(metric)

    @property
    def best_achievable_accuracy(self) -> float | None:
        """Of the main evaluation set."""
        return self.best_achievable("accuracy")

    @property
    def best_achievable_loss(self) -> float | None:
        """Of the main evaluation set, in nats."""
        return self.best_achievable("loss")


def load_splits(
    config: DataConfig, seed: int, evaluates: bool, cache: DataCache | None = None, split_off: bool = True
) -> Splits:
    """Read or generate everything that `config` names. Nothing is dropped but by an explicit setting, and counted.

    Args:
        evaluates: whether evaluation sets are wanted.
        split_off: whether a part of the training prompts becomes the evaluation set when the config names none.

    Raises:
        DataError: naming file, line and column of the first row that is not a pair, or the finding of the audit that
            is beyond its limit.
    """
    cache = cache or DataCache(None)
    if config.sandbox is not None:
        splits = _sandbox(config, evaluates, cache)
    else:
        splits = _files(config, seed, evaluates, cache, split_off)
    if evaluates:
        splits.evaluation |= _named_sets(config, cache)
    if config.ties is Ties.drop:
        _drop_ties(splits.train)
    _labels(splits.train)
    _finish_evaluation(splits.evaluation, config)
    _audit(splits, config)
    if config.mixture:
        _mix(splits.train, config, seed)
    else:
        _limit_train(splits.train, config.max_train_pairs, seed)
    return splits


def load_evaluation(config: DataConfig, seed: int, cache: DataCache | None = None) -> dict[str, Split]:
    """The evaluation sets of `load_splits` alone. Training pairs are read only where the main set is split off them.

    Raises:
        DataError: as `load_splits`.
    """
    cache = cache or DataCache(None)
    if config.sandbox is not None:
        evaluation = _sandbox(config, True, cache).evaluation
    elif config.eval is not None:
        evaluation = {MAIN_SET: _main_set(config, cache)}
    elif config.train is not None or config.mixture:
        evaluation = _files(config, seed, True, cache, True).evaluation
    else:
        evaluation = {}
    evaluation |= _named_sets(config, cache)
    _finish_evaluation(evaluation, config)
    return evaluation


def _named_sets(config: DataConfig, cache: DataCache) -> dict[str, Split]:
    found = {}
    for name, one in config.eval_sets.items():
        key = f"data.eval_sets.{name}.source"
        found[name] = _split(
            load_source(cache, one.source, key, one.format, one.columns, one.revision), key, one.source
        )
    return found


def _main_set(config: DataConfig, cache: DataCache) -> Split:
    loaded = load_source(cache, config.eval, "data.eval", config.format, config.columns, config.revision)
    return _split(loaded, "data.eval", config.eval)


def _finish_evaluation(evaluation: dict[str, Split], config: DataConfig) -> None:
    for split in evaluation.values():
        if config.ties is Ties.drop:
            _drop_ties(split)
        _limit_evaluation(split, config.max_eval_pairs)
        _labels(split)


def _labels(split: Split) -> None:
    """Count the labels that are no plain preferences."""
    label = split.table.values("label", split.rows)
    split.counts["label_ties"] = int((label == 0.5).sum())
    split.counts["soft_labels"] = int(((label > 0.5) & (label < 1)).sum())


def _split(loaded: LoadedPairs, key: str, source: Any) -> Split:
    table = open_table([loaded.path])
    return Split(
        table=table, rows=np.arange(len(table)), identity=loaded.identity, key=key, counts=dict(loaded.counts),
        source=_named(source),
    )  # fmt: skip


def _named(source: Any) -> str:
    return source if isinstance(source, str) else ", ".join(source)


def _sandbox(config: DataConfig, evaluates: bool, cache: DataCache) -> Splits:
    assert config.sandbox is not None
    sandbox = config.sandbox
    if config.max_eval_pairs is not None:
        # What is achievable belongs to the pairs that are evaluated.
        sandbox = dataclasses.replace(sandbox, num_eval_pairs=min(sandbox.num_eval_pairs, config.max_eval_pairs))
    loaded = load_sandbox(cache, sandbox)
    source = f"sandbox world {sandbox.world_seed}"
    splits = {name: _split(one, "data.sandbox", source) for name, one in loaded.items()}
    train = splits.pop("train")
    return Splits(train=train, evaluation=splits if evaluates else {})


def _files(config: DataConfig, seed: int, evaluates: bool, cache: DataCache, split_off: bool) -> Splits:
    if config.mixture:
        train = _mixture(config, cache)
    else:
        loaded = load_source(cache, config.train, "data.train", config.format, config.columns, config.revision)
        train = _split(loaded, "data.train", config.train)
    if not evaluates:
        return Splits(train=train)
    if config.eval is not None:
        return Splits(train=train, evaluation={MAIN_SET: _main_set(config, cache)})
    if not split_off:
        return Splits(train=train)
    return Splits(train=train, evaluation={MAIN_SET: _split_off(train, config.eval_fraction, seed)})


def _mixture(config: DataConfig, cache: DataCache) -> Split:
    loaded = {
        name: load_source(
            cache, part.source, f"data.mixture.{name}.source", part.format, part.columns, part.revision,
            part.subset or name,
        )
        for name, part in config.mixture.items()
    }  # fmt: skip
    table = open_table([one.path for one in loaded.values()])
    parts = {name: one.counts for name, one in loaded.items()}
    counts: dict[str, Any] = {
        name: sum(one[name] for one in parts.values()) for name in ("rows_read", "pairs_read")
    }  # fmt: skip
    for name in ("skipped", "subsets"):
        counts[name] = dict(sum((Counter(one[name]) for one in parts.values()), Counter()))
    counts["format"] = ", ".join(dict.fromkeys(one["format"] for one in parts.values()))
    counts["has_margins"] = any(one["has_margins"] for one in parts.values())
    # A part without any margin lacks them only beside one that has some.
    missing = (one["missing_margins"] if one["has_margins"] else one["pairs_read"] for one in parts.values())
    counts["missing_margins"] = sum(missing) if counts["has_margins"] else 0
    counts["parts"] = parts
    return Split(
        table=table, rows=np.arange(len(table)), identity=digest([one.identity for one in loaded.values()]),
        source=" + ".join(loaded), key="data.mixture", counts=counts,
    )  # fmt: skip


def _split_off(train: Split, fraction: float, seed: int) -> Split:
    """Take a share of the prompts, with all their pairs, out of `train`. Which ones depends on the seed only.

    Prompts that the audit would call one, which reads them without system messages, case and typography, stay together.
    """
    exact, normal = hex_values(train.table, "prompt_id", train.rows), train.table.values("hash_prompt", train.rows)
    prompt = np.unique(np.where(normal == 0, exact, normal), return_inverse=True)[1]
    # Each group of prompts goes by its smallest id, whatever the order of the rows.
    prompts = np.full(prompt.max() + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(prompts, prompt, exact)
    ranked = sorted(
        range(len(prompts)), key=lambda one: hashlib.sha256(f"{seed} {prompts[one]:016x}".encode()).digest()
    )
    count = max(1, math.floor(fraction * len(ranked)))
    if count >= len(ranked):
        raise DataError(
            f"{train.key}: {len(ranked)} prompt cannot be split into training and evaluation; "
            "add data.eval=FILE, or eval=none"
        )
    held_out = np.zeros(len(prompts), dtype=bool)
    held_out[ranked[:count]] = True
    taken = held_out[prompt]
    main = dataclasses.replace(
        train, rows=train.rows[taken], source=f"{fraction:.0%} of the prompts of {train.source}",
        counts={"format": train.counts["format"], "rows_read": int(taken.sum()), "pairs_read": int(taken.sum())},
    )  # fmt: skip
    train.rows = train.rows[~taken]
    train.counts["split_off_for_evaluation"] = int(taken.sum())
    return main


def _drop_ties(split: Split) -> None:
    tie = split.table.values("label", split.rows) == 0.5
    split.rows = split.rows[~tie]
    split.counts["dropped_ties"] = int(tie.sum())
    if not len(split.rows):
        raise DataError(f"{split.key}: every pair is a tie; try data.ties=keep")
    if best := split.counts.get("best_achievable"):
        split.counts["best_achievable"] = {**best, "loss": best["loss_without_ties"]}


def _limit_evaluation(split: Split, limit: int | None) -> None:
    if limit is not None and limit < len(split.rows):
        split.counts["beyond_max_eval_pairs"] = len(split.rows) - limit
        split.rows = split.rows[:limit]


def _audit(splits: Splits, config: DataConfig) -> None:
    """Look for what is wrong with the pairs, and drop from the training split what the config asks to."""
    train = splits.train
    evaluation = {name: AuditSplit(one.table, one.rows) for name, one in splits.evaluation.items()}
    report = audit(AuditSplit(train.table, train.rows), evaluation, config.audit, config.audit_limits)
    if config.audit is Audit.error:
        refuse_beyond_limits(report)
    splits.audit = report
    for name, split in {"train": train, **splits.evaluation}.items():
        found = [one for one in report.findings if one.split == name]
        for kind in _COUNTED:
            split.counts[kind] = sum(one.count for one in found if one.kind == kind)
    leaks = [one for one in report.findings if one.kind == "leaked_prompts"]
    train.counts["leaks"] = {one.other: one.count for one in leaks}
    if report.drop.any():
        train.counts["dropped_by_audit"] = report.dropped
        train.rows = train.rows[~report.drop]
        if not len(train.rows):
            raise DataError(
                f"{train.key}: data.audit=fix would drop all {len(report.drop)} pairs; try data.audit=report"
            )


def _mix(train: Split, config: DataConfig, seed: int) -> None:
    part = train.table.part_of(train.rows)
    rows = {name: train.rows[part == number] for number, name in enumerate(config.mixture)}
    train.rows = mix(config.mixture, rows, seed)
    _limit_train(train, config.max_train_pairs, seed)
    used = np.bincount(train.table.part_of(train.rows), minlength=len(rows))
    train.counts["mixture"] = {
        name: {
            "source": _named(part.source), "weight": part.weight, "available": len(rows[name]), "used": int(count),
            "share": float(count / used.sum()),
        }
        for (name, part), count in zip(config.mixture.items(), used, strict=True)
    }  # fmt: skip


def _limit_train(train: Split, limit: int | None, seed: int) -> None:
    if limit is None or limit >= len(train.rows):
        return
    train.counts["beyond_max_train_pairs"] = len(train.rows) - limit
    chosen = np.random.default_rng(seed).choice(len(train.rows), size=limit, replace=False)
    train.rows = train.rows[np.sort(chosen)]
