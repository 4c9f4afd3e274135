"""The check of a saved model: loaded in a fresh object by plain transformers, it must give the rewards of the run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rm_experiments.errors import CheckpointError, TrainingError
from rm_experiments.modeling.directory import PROBE_FILE, plain_model, plain_rewards

_EXACT = 1e-4
"""Relative to the largest reward: what the order of sums in float32 may change."""
_MARGIN = 4
"""A difference may be so many times what rounding makes us expect."""
_SMALL_BATCH = 3
_PATIENCE = 2.0
"""Seconds of a pass over the probe rows, up to which batch invariance is measured in any case."""
_SHARE = 100
"""A pass may take one part in so many of the run's time, too."""


@dataclass(kw_only=True)
class Reloaded:
    """How a saved model compares with the run's."""

    difference: float
    """Largest absolute difference of a reward of the probe rows."""
    tolerance: float
    """More than this is no rounding."""
    num_rows: int
    """Rows that were compared."""
    invariance: dict[str, float | None] = field(default_factory=dict)
    """What `batch_invariance` found; empty where it was not measured."""


def tolerance(narrowest: torch.dtype, num_layers: int, scale: float) -> float:
    """What of a reward's difference rounding explains.

    In float32 the order of sums moves rewards by far less than `1e-4` of the largest. A type of 16 bits rounds by half
    its `eps` (bfloat16: 2^-8) relative to a value; on its way to the reward a token passes two such roundings per layer
    and one of the head, which are independent and so add up as `sqrt(2 L + 1)`; four times that is allowed.

    Args:
        narrowest: of the types of saved weights, trained weights and arithmetic.
        scale: the largest reward, at least what 1 was in training.
    """
    if narrowest in (torch.float32, torch.float64):
        return _EXACT * scale
    return _MARGIN * math.sqrt(2 * num_layers + 1) * torch.finfo(narrowest).eps / 2 * scale


def narrowest_of(*dtypes: torch.dtype) -> torch.dtype:
    """The type that rounds most."""
    return max(dtypes, key=lambda one: torch.finfo(one).eps)


def check_reload(
    directory: Path, *, adapter: bool, loading: dict[str, Any] | None, narrowest: torch.dtype,
    saved: torch.dtype, weights: Mapping[str, Tensor] | None = None, seconds: float | None = None, unit: float = 1.0,
) -> Reloaded:  # fmt: skip
    """Load `directory` by plain transformers (peft) in a fresh object and compare it with its probe rows.

    Args:
        narrowest: type that decides the tolerance.
        saved: type of the saved weights.
        weights: what was saved, by the names of the loaded model; None: rewards alone are compared.
        seconds: that the run took so far, for which batch invariance is measured; None: it is not.
        unit: what a reward of 1 in training is in this model; scaled rewards have scaled errors.

    Raises:
        TrainingError: when it does not load, or weights or rewards are others than those of the run.
    """
    try:
        model, tokenizer = plain_model(directory, adapter, loading)
    except CheckpointError as error:
        reason = " ".join(str(error.__cause__).split())[:300]
        raise TrainingError(f"the saved model does not load with plain transformers: {reason}") from error
    if weights is not None:
        _compare_weights(model, weights, saved)
    rows = [json.loads(line) for line in (directory / PROBE_FILE).read_text(encoding="utf-8").splitlines()]
    sequences, measured = _flat(rows)
    difference = 0.0
    began = time.monotonic()
    for side in (0, 1):
        rewards = plain_rewards(model, tokenizer, sequences[side::2])
        # Rewards that are no numbers are no agreement either.
        difference = float(np.maximum(difference, np.abs(rewards - measured[side::2]).max()))
    took = time.monotonic() - began
    scale = max(unit, float(np.abs(measured).max()))
    found = Reloaded(
        difference=difference, num_rows=len(sequences),
        tolerance=tolerance(narrowest, model.config.get_text_config().num_hidden_layers, scale),
    )  # fmt: skip
    if not difference <= found.tolerance:
        raise TrainingError(
            f"the saved model gives other rewards after loading (by {difference:.2g}, where rounding explains "
            f"{found.tolerance:.2g})"
        )
    if seconds is not None and took <= max(_PATIENCE, seconds / _SHARE):
        narrow = took <= max(_PATIENCE, seconds / _SHARE) / 4
        found.invariance = batch_invariance(model, tokenizer, sequences, narrow)
    return found


def batch_invariance(
    model: Any, tokenizer: PreTrainedTokenizerBase, sequences: list[list[int]], narrow: bool
) -> dict[str, float | None]:
    """How much a plain model's rewards depend on neighbours, padding and precision: largest absolute differences.

    Each row alone, unpadded and in float32, is compared with the same rows in small batches and all together, padded on
    the right and on the left, and alone in bfloat16 arithmetic.

    Args:
        narrow: whether to measure bfloat16, which some CPUs compute slowly; else it is None.
    """
    alone = plain_rewards(model, tokenizer, sequences, 1)

    def off(rewards: NDArray[Any]) -> float:
        return float(np.abs(rewards - alone).max())

    found: dict[str, float | None] = {
        "small_batches_padded_right": off(plain_rewards(model, tokenizer, sequences, _SMALL_BATCH)),
        "one_batch_padded_right": off(plain_rewards(model, tokenizer, sequences)),
        "one_batch_padded_left": off(plain_rewards(model, tokenizer, sequences, side="left")),
        "alone_bf16": None,
    }
    if narrow:
        # Weights that were rounded are not kept: a second copy of a large model may not fit.
        with torch.autocast(model.device.type, torch.bfloat16, cache_enabled=False):
            found["alone_bf16"] = off(plain_rewards(model, tokenizer, sequences, 1))
    return found


def _flat(rows: list[dict[str, Any]]) -> tuple[list[list[int]], NDArray[Any]]:
    """Token ids and measured rewards [2 n]: chosen, rejected, chosen ..."""
    sides = ("chosen", "rejected")
    sequences = [row[f"input_ids_{side}"] for row in rows for side in sides]
    return sequences, np.array([row[f"reward_{side}"] for row in rows for side in sides], dtype=np.float64)


def _compare_weights(model: Any, weights: Mapping[str, Tensor], saved: torch.dtype) -> None:
    """Refuse a loaded model one of whose weights is not, to the bit, what was saved."""
    for name, loaded in model.state_dict().items():
        value = weights.get(name)
        # What is saved in another form (several heads as one) is compared by its rewards.
        if value is None or value.shape != loaded.shape or not value.is_floating_point():
            continue
        if not torch.equal(value.to(saved).to(loaded.dtype), loaded.cpu()):
            raise TrainingError(f"the saved model has another {name} after loading than the run")
