"""Whether the training pairs have what the loss asks for."""

from __future__ import annotations

import numpy as np

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.loss_validation import LOSSES_WITH_TIES
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import DataError


def check_labels(loss: LossConfig, pairs: TokenizedPairs, key: str) -> list[str]:
    """What a person should know about the labels of the training pairs, a sentence each.

    Args:
        key: the setting that names the pairs, for messages.

    Raises:
        DataError: when no row has what the loss reads.
    """
    margins = {"loss.use_margin=true": "loss.use_margin=false"} if loss.use_margin else {}
    if loss.name == "scaled_bradley_terry":
        margins = {"loss.name=scaled_bradley_terry": "loss=bradley_terry"}
    for setting, remedy in margins.items():
        if not np.any(pairs.target_margin > 0 if loss.name == "scaled_bradley_terry" else pairs.target_margin):
            raise DataError(
                f"{key}: {setting}, but no row has a margin; name its column with data.columns.margin=NAME, or try "
                f"{remedy}"
            )
    if loss.name == "regression":
        known = 0 if pairs.scores is None else int(np.isfinite(pairs.scores).any(axis=(1, 2)).sum())
        if not known:
            raise DataError(f"{key}: loss.name=regression, but no row has a score; try loss=bradley_terry")
        if known < len(pairs):
            return [f"Loss: regression; {len(pairs) - known:,} of {len(pairs):,} pairs have no score and count as 0."]
    if loss.name in LOSSES_WITH_TIES and not np.any(pairs.label == 0.5):
        return [f"Loss: {loss.name} knows ties, but no training pair is one."]
    if loss.name == "plackett_luce":
        sizes = np.bincount(pairs.groups)
        if sizes.max() == 1:
            return ["Loss: plackett_luce, but no row has more than two responses, so that it is Bradley-Terry."]
        return [f"Loss: plackett_luce; {int((sizes > 1).sum()):,} rows have more than two responses."]
    return []
