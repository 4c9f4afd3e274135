"""Which pairs are trained on and which are evaluated: the sources of a config, split by prompt and limited as asked."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rm_experiments.config.schema import DataConfig
from rm_experiments.data.formats import read_pairs
from rm_experiments.data.pairs import PreferencePair, prompt_id
from rm_experiments.data.sandbox import generate
from rm_experiments.errors import DataError

MAIN_SET = "eval"


@dataclass(kw_only=True)
class Split:
    """The pairs of one split, before tokenization."""

    pairs: list[PreferencePair]
    source: str
    """For people: where the pairs come from."""
    key: str
    """The override that names the source, for messages."""
    counts: dict[str, Any]
    """What was read, and what was noticed."""


@dataclass(kw_only=True)
class Splits:
    train: Split
    evaluation: dict[str, Split] = field(default_factory=dict)
    """The main set under `eval`, then the named ones; empty when the run does not evaluate."""
    best_achievable_accuracy: float | None = None
    best_achievable_loss: float | None = None


def load_splits(config: DataConfig, seed: int, evaluates: bool) -> Splits:
    """Read or generate everything that `config` names. Nothing is dropped but by an explicit limit.

    Raises:
        DataError: naming file, line and column of the first row that is not a pair.
    """
    splits = _sandbox(config, evaluates) if config.sandbox is not None else _files(config, seed, evaluates)
    _limit_train(splits.train, config.max_train_pairs, seed)
    if evaluates:
        for name, one in config.eval_sets.items():
            key = f"data.eval_sets.{name}.source"
            splits.evaluation[name] = _read(one.source, key, one.format, one.columns, None, config.max_eval_pairs)
    return splits


def _sandbox(config: DataConfig, evaluates: bool) -> Splits:
    assert config.sandbox is not None
    sandbox = config.sandbox
    if config.max_eval_pairs is not None:
        sandbox = dataclasses.replace(sandbox, num_eval_pairs=min(sandbox.num_eval_pairs, config.max_eval_pairs))
    world = generate(sandbox)
    source = f"sandbox world {sandbox.world_seed}"

    def split(pairs: list[PreferencePair]) -> Split:
        return Split(
            pairs=pairs,
            source=source,
            key="data.sandbox",
            counts={"format": "sandbox", "rows_read": len(pairs)},
        )

    return Splits(
        train=split(world.train),
        evaluation={MAIN_SET: split(world.eval)} if evaluates else {},
        best_achievable_accuracy=world.best_achievable_accuracy if evaluates else None,
        best_achievable_loss=world.best_achievable_loss if evaluates else None,
    )


def _files(config: DataConfig, seed: int, evaluates: bool) -> Splits:
    train = _read(config.train, "data.train", config.format, config.columns, config.revision, None)
    if not evaluates:
        return Splits(train=train)
    if config.eval is not None:
        main = _read(config.eval, "data.eval", config.format, config.columns, config.revision, config.max_eval_pairs)
    else:
        main = _split_off(train, config.eval_fraction, seed)
        main.pairs = main.pairs[: config.max_eval_pairs]
    return Splits(train=train, evaluation={MAIN_SET: main})


def _read(source: Any, key: str, format: str, columns: Any, revision: str | None, limit: int | None) -> Split:
    pairs, report = read_pairs(source, key, format, columns, revision, limit)
    shown = source if isinstance(source, str) else ", ".join(source)
    return Split(pairs=pairs, source=shown, key=key, counts=dataclasses.asdict(report))


def _split_off(train: Split, fraction: float, seed: int) -> Split:
    """Take a share of the prompts, with all their pairs, out of `train`. Which ones depends on the seed only."""
    prompts = [prompt_id(pair) for pair in train.pairs]
    ranked = sorted(set(prompts), key=lambda prompt: hashlib.sha256(f"{seed} {prompt}".encode()).digest())
    count = max(1, math.floor(fraction * len(ranked)))
    if count >= len(ranked):
        raise DataError(
            f"{train.key}: {len(ranked)} prompt cannot be split into training and evaluation; "
            "add data.eval=FILE, or eval=none"
        )
    held_out = set(ranked[:count])
    taken = [pair for pair, prompt in zip(train.pairs, prompts, strict=True) if prompt in held_out]
    train.pairs = [pair for pair, prompt in zip(train.pairs, prompts, strict=True) if prompt not in held_out]
    train.counts["split_off_for_evaluation"] = len(taken)
    return Split(
        pairs=taken,
        source=f"{fraction:.0%} of the prompts of {train.source}",
        key=train.key,
        counts={"format": train.counts["format"], "rows_read": len(taken)},
    )


def _limit_train(train: Split, limit: int | None, seed: int) -> None:
    if limit is None or limit >= len(train.pairs):
        return
    train.counts["beyond_max_train_pairs"] = len(train.pairs) - limit
    chosen = np.random.default_rng(seed).choice(len(train.pairs), size=limit, replace=False)
    train.pairs = [train.pairs[index] for index in sorted(chosen)]
