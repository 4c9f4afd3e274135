"""A probe's features: computed in one pass over the data, kept on disk, and shared by all runs on the same ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from rm_experiments.config.schema import RunConfig
from rm_experiments.data.cache import DataCache
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.evaluation.feature_pass import feature_batches
from rm_experiments.modeling.feature_batches import FeatureBatcher, FeatureTable, KnownSequences, sequence_digests
from rm_experiments.modeling.features import backbone_digest
from rm_experiments.runner.building import ReadyModel
from rm_experiments.runner.prepare import Prepared
from rm_experiments.training.budget import evaluation_budget, training_budget

_VECTORS, _FACTS = "vectors.bin", "vectors.json"


def use_features(
    config: RunConfig, prepared: Prepared, ready: ReadyModel, accelerator: Accelerator,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:  # fmt: skip
    """Let `ready` compute its head alone, of features of all sequences of the run. Called on every process.

    One process computes those that are not in the cache, while others that need the same wait for it; without a cache
    each computes its own. The sets that come from one source share an entry, whichever pairs are split off for
    evaluation. `on_progress` is told how many sequences of how many are done.

    Returns:
        A sentence that tells what was computed.

    Raises:
        OutOfMemoryError: when a single sequence does not fit into memory.
    """
    cache, known, fresh, before = DataCache(config.data.cache_dir), list[KnownSequences](), 0, 0
    model, sources = _model_key(ready, accelerator), _by_source(prepared)
    found = [np.unique(_digests(sets), return_inverse=True) for sets in sources]
    total = sum(len(unique) for unique, _ in found)
    for sets, (unique, inverse) in zip(sources, found, strict=True):
        rows = inverse.reshape(-1, 2)
        # On every process, which agree on it: in the cache the others wait.
        budget = _budget(config, ready, accelerator, sets)

        def build(
            directory: Path, sets: Any = sets, rows: Any = rows, number: int = len(unique), budget: int = budget,
            before: int = before,
        ) -> None:  # fmt: skip
            nonlocal fresh
            fresh += number
            _write(
                directory, ready, accelerator, sets, rows, number, budget,
                lambda done: on_progress(before + done, total),
            )  # fmt: skip

        directory = cache.entry("features", {**model, "sequences": hashlib.sha256(unique.tobytes()).hexdigest()}, build)
        table, at = _open(directory, len(unique)), 0
        for one in sets:
            known.append(KnownSequences.of(one, rows[at : at + len(one)], table))
            at += len(one)
        before += len(unique)
    base = ready.batcher
    ready.batcher = FeatureBatcher(
        layout=base.layout, pad_id=base.pad_id, first_position=base.first_position, read_first=base.read_first,
        known=tuple(known),
    )  # fmt: skip
    assert ready.pooling is not None
    what = f"Features: of {total:,} sequences ({ready.pooling.value} token), "
    if ready.pooling.value == "mean":
        what = f"Features: of {total:,} sequences (mean of the tokens), "
    return what + ("from the cache." if not fresh else f"{fresh:,} of them computed now.")


def _digests(sets: list[TokenizedPairs]) -> NDArray[Any]:
    """[2 n] of the sequences of all sets."""
    return np.concatenate([sequence_digests(one) for one in sets]).ravel()


def _by_source(prepared: Prepared) -> list[list[TokenizedPairs]]:
    sources: dict[str, list[TokenizedPairs]] = {}
    splits = prepared.splits
    for split, pairs in ((splits.train, prepared.train), *(
        (splits.evaluation[name], pairs) for name, pairs in prepared.evaluation.items()
    )):  # fmt: skip
        sources.setdefault(split.identity, []).append(pairs)
    return list(sources.values())


def _model_key(ready: ReadyModel, accelerator: Accelerator) -> dict[str, str]:
    """What decides features, apart from the tokens. Budgets do not: they change rounding only."""
    assert ready.pooling is not None
    reward_model = ready.built.reward_model
    return {
        "backbone": backbone_digest(reward_model), "pooling": ready.pooling.value, "layout": ready.batcher.layout.value,
        "attention": str(reward_model.model.config._attn_implementation), "precision": accelerator.mixed_precision,
        "device": accelerator.device.type,
    }  # fmt: skip


def _budget(config: RunConfig, ready: ReadyModel, accelerator: Accelerator, sets: list[TokenizedPairs]) -> int:
    """Tokens of a forward pass."""
    longest = max(int(one.lengths.max()) for one in sets)
    of_training = training_budget(
        config.train.micro_batch_tokens, accelerator, ready.built.reward_model, ready.batcher, longest
    )
    return evaluation_budget(config.eval.micro_batch_tokens, of_training, accelerator.device.type)


def _write(
    directory: Path, ready: ReadyModel, accelerator: Accelerator, sets: list[TokenizedPairs],
    rows: NDArray[np.int64], number: int, budget: int, on_progress: Callable[[int], None],
) -> None:  # fmt: skip
    """The vectors of `number` sequences, each computed once."""
    reward_model, batcher = ready.built.reward_model, ready.batcher
    assert ready.pooling is not None
    vectors: NDArray[Any] | None = None
    done, at = np.zeros(number, dtype=bool), 0
    for pairs in sets:
        own = rows[at : at + len(pairs)]
        at += len(pairs)
        members = np.flatnonzero(~done[own].all(axis=1))
        for sequences, features in feature_batches(
            accelerator, reward_model, pairs, members, batcher, budget, ready.pooling
        ):
            places = own.ravel()[sequences]
            plain = _plain(features)
            if vectors is None:
                dtype = str(features.dtype).removeprefix("torch.")
                facts = {"dtype": dtype, "stored": plain.dtype.str, "width": plain.shape[1]}
                (directory / _FACTS).write_text(json.dumps(facts))
                shape = (number, plain.shape[1])
                vectors = np.memmap(directory / _VECTORS, dtype=plain.dtype, mode="w+", shape=shape)
            vectors[places] = plain
            done[places] = True
            on_progress(int(done.sum()))
    assert vectors is not None
    assert done.all()
    vectors.flush()  # type: ignore[attr-defined]


def _plain(features: torch.Tensor) -> NDArray[Any]:
    features = features.cpu()
    found: NDArray[Any] = (features.view(torch.int16) if features.dtype is torch.bfloat16 else features).numpy()
    return found


def _open(directory: Path, number: int) -> FeatureTable:
    facts = json.loads((directory / _FACTS).read_text())
    vectors = np.memmap(directory / _VECTORS, dtype=facts["stored"], mode="r", shape=(number, facts["width"]))
    return FeatureTable(vectors=vectors, dtype=getattr(torch, facts["dtype"]))
