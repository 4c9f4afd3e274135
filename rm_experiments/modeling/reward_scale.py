"""Mean and standard deviation of a model's rewards on a reference set, and a head that takes them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rm_experiments.errors import TrainingError
from rm_experiments.modeling.reward_model import RewardModel, last_linear

_TOLERANCE = {"fp32": 1e-3, "bf16": 0.05, "fp16": 0.01}
"""By the backbone's arithmetic: how far from 0 and 1 the folded rewards may be."""


@dataclass(kw_only=True)
class RewardScale:
    """Of all chosen and rejected rewards of a reference set."""

    mean: float
    std: float
    num_rewards: int
    source: str
    """Where the pairs come from."""
    folded: dict[str, float] | None = None
    """What was taken out of the rewards by way of the head: `mean` was subtracted, then they were divided by `std`."""

    @property
    def unit(self) -> float:
        """What a reward of 1 in training is now."""
        return 1.0 if self.folded is None else 1 / self.folded["std"]

    def plain(self) -> dict[str, Any]:
        """For config.json."""
        values = {"mean": self.mean, "std": self.std, "num_rewards": self.num_rewards, "source": self.source}
        return values if self.folded is None else {**values, "folded": self.folded}


def scale_of(chosen: NDArray[Any], rejected: NDArray[Any], weight: NDArray[Any], source: str) -> RewardScale:
    """Weighted mean and (population) standard deviation, as `eval_mean_reward` and `eval_std_reward` are.

    Args:
        chosen, rejected, weight: [n] of the pairs.
    """
    rewards, weights = np.concatenate([chosen, rejected]), np.concatenate([weight, weight])
    total = weights.sum()
    mean = float((rewards * weights).sum() / total)
    variance = float((np.square(rewards - mean) * weights).sum() / total)
    return RewardScale(mean=mean, std=variance**0.5, num_rewards=len(rewards), source=source)


def fold(reward_model: RewardModel, scale: RewardScale) -> dict[str, float]:
    """Change the head so that rewards become (reward - mean) / std, or reward / std where the head has no bias.

    The heads of decoders in transformers are without: then rewards keep a mean, which changes no comparison.

    Returns:
        What was taken out: `mean` and `std`.

    Raises:
        TrainingError: when all rewards are the same.
    """
    if not scale.std > 0:
        raise TrainingError(
            f"checkpoint.fold_normalization=true: all rewards of {scale.source} are {scale.mean:.4g}, which cannot be "
            "given a standard deviation of 1; try checkpoint.fold_normalization=false"
        )
    head = last_linear(reward_model)
    # Of several heads the reward is a weighted sum: what each of them gives away adds up to the mean.
    total = sum(reward_model.heads.weights)
    mean = 0.0 if head.bias is None or not total else scale.mean
    with torch.no_grad():
        head.weight.div_(scale.std)
        if head.bias is not None:
            head.bias.sub_(mean / (total or 1)).div_(scale.std)
    return {"mean": mean, "std": scale.std}


def check_folded(measured: RewardScale, folded: dict[str, float], precision: str) -> None:
    """Refuse rewards that, measured again with the folded head, have not the mean and deviation that they must have.

    Raises:
        TrainingError: with what was measured.
    """
    limit = _TOLERANCE[precision]
    off = abs(measured.std - 1)
    if folded["mean"]:
        off = max(off, abs(measured.mean))
    if not off <= limit:
        raise TrainingError(
            f"checkpoint.fold_normalization=true: with the folded head rewards have mean {measured.mean:.4g} and "
            f"standard deviation {measured.std:.4g}"
        )
