"""The language-model head of a base model beside the reward head, on the same hidden states: for training only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rm_experiments.modeling.above import logits_above

_LOGITS = 2**26
"""Of one part of the tokens, which are computed again in the backward pass: a vocabulary has up to 260,000."""


class LanguageHead(nn.Module):
    """What a causal language model computes above its backbone, by its own code: caps, scales and biases included."""

    def __init__(self, model: PreTrainedModel) -> None:
        """`model`: loses its backbone."""
        super().__init__()
        setattr(model, model.base_model_prefix, nn.Identity())
        self.model = model

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities [m], float32 or wider, of tokens `targets` [m] after hidden states [m, d]."""
        size = max(1, _LOGITS // self.model.config.get_text_config().vocab_size)
        if len(hidden) <= size:
            return self._log_probabilities(hidden, targets)
        parts: list[Any] = [
            checkpoint(self._log_probabilities, *part, use_reentrant=False)
            for part in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        return torch.cat(parts)

    def _log_probabilities(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = logits_above(self.model, hidden)[:, 0]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return -cross_entropy(logits, targets, reduction="none")

    def own_weights(self, others: nn.Module) -> dict[str, Tensor]:
        """Its trained weights by name, but for those that it shares with `others`."""
        shared = {id(one) for one in others.parameters()}
        return {name: one for name, one in self.named_parameters() if one.requires_grad and id(one) not in shared}
