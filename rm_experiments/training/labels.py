"""What a loss sees: the rewards of pairs beside all that is known of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.modeling.layouts.batch import moved


@dataclass(frozen=True, kw_only=True)
class PairLabels:
    """What is known of `n` pairs apart from their rewards."""

    margin: Tensor
    """[n] by how much chosen is better; 0 where the row does not say."""
    label: Tensor
    """[n] probability that chosen is preferred, 0.5 to 1; 0.5 for a tie."""
    weight: Tensor
    """[n] how much each pair counts."""
    group: Tensor
    """[n] int64 number of the row that a pair came from: the pairs of k responses to one prompt share one."""
    chosen_answer: Tensor
    """[n] int64 number of the chosen answer in its group: equal answers of a group have equal numbers, if asked for."""
    rejected_answer: Tensor
    """[n] int64 the same of the rejected answer."""
    length_chosen: Tensor
    """[n] characters of the chosen answer."""
    length_rejected: Tensor
    """[n] characters of the rejected answer."""
    scores_chosen: Tensor | None = None
    """[n, attributes] scores of the chosen answer, NaN where there is none; None where no row has any."""
    scores_rejected: Tensor | None = None
    """[n, attributes] scores of the rejected answer."""

    def to(self, device: torch.device) -> PairLabels:
        """The same on `device`."""
        there: dict[str, Any] = {
            name: None if value is None else moved(value, device) for name, value in _values(self)
        }  # fmt: skip
        return PairLabels(**there)

    def with_rewards(self, chosen: Tensor, rejected: Tensor) -> LabelledRewards:
        """Beside the rewards [n] or [n, heads] of both sides."""
        return LabelledRewards(rewards_chosen=chosen, rewards_rejected=rejected, **dict(_values(self)))


@dataclass(frozen=True, kw_only=True)
class LabelledRewards(PairLabels):
    """Pairs as a loss sees them: what is known, and the rewards that the model gives."""

    rewards_chosen: Tensor
    """[n], or [n, heads] of a model with several heads."""
    rewards_rejected: Tensor
    """[n] or [n, heads]"""


def _values(labels: PairLabels) -> list[tuple[str, Any]]:
    return [(one.name, getattr(labels, one.name)) for one in fields(labels)]


def labels_of(pairs: TokenizedPairs, members: np.ndarray, answers: bool) -> PairLabels:
    """What is known of the pairs `members` [n], on the host, in float32.

    Args:
        answers: whether a loss asks which answers of a group are equal, for which texts are read once. Otherwise all
            chosen ones are numbered 0 and all rejected ones 1.
    """

    def real(values: Any) -> Tensor:
        return torch.from_numpy(values[members].astype(np.float32))

    numbers = pairs.answers[members] if answers else np.tile(np.arange(2, dtype=np.int64), (len(members), 1))
    chosen, rejected = torch.from_numpy(np.ascontiguousarray(numbers.T))
    return PairLabels(
        margin=real(pairs.target_margin), label=real(pairs.label), weight=real(pairs.weight),
        group=torch.from_numpy(pairs.groups[members]), chosen_answer=chosen, rejected_answer=rejected,
        length_chosen=real(pairs.answer_lengths[:, 0]), length_rejected=real(pairs.answer_lengths[:, 1]),
        scores_chosen=None if pairs.scores is None else real(pairs.scores[:, 0]),
        scores_rejected=None if pairs.scores is None else real(pairs.scores[:, 1]),
    )  # fmt: skip


def labelled(chosen: Tensor, rejected: Tensor, **known: Tensor) -> LabelledRewards:
    """Rewards of pairs of which nothing but `known` is known: each by itself, chosen certainly preferred, weight 1."""
    plain = torch.ones(len(chosen), dtype=chosen.dtype, device=chosen.device)
    number = torch.arange(len(chosen), device=chosen.device)
    labels: dict[str, Tensor] = {
        "margin": 0 * plain, "label": plain, "weight": plain, "group": number, "chosen_answer": 0 * number,
        "rejected_answer": 0 * number + 1, "length_chosen": 0 * plain, "length_rejected": 0 * plain,
    }  # fmt: skip
    return PairLabels(**(labels | known)).with_rewards(chosen, rejected)
