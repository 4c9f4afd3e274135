"""What a model computes above its backbone, from one vector per sequence that the backbone gave before."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class _Output(BaseModelOutputWithPooling):
    """Of a backbone that keeps nothing else: whatever more a model asks for is None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class _Given(nn.Module):
    """In the place of a backbone: sequences of one token, of which it knows the vectors."""

    def __init__(self, features: Tensor, pooler: nn.Module | None) -> None:
        super().__init__()
        self.hidden = features[:, None]
        self.pooler = pooler

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPooling:
        pooled = None if self.pooler is None else self.pooler(self.hidden)
        return _Output(last_hidden_state=self.hidden, pooler_output=pooled)


def logits_above(model: PreTrainedModel, features: Tensor) -> Tensor:
    """Logits [n, labels] of features [n, d]: by the model's own code and weights, but for its backbone.

    A pooler inside of the backbone is computed, since its weights may be trained.
    """
    prefix = model.base_model_prefix
    pooler = getattr(getattr(model, prefix), "pooler", None)
    # Shares all modules with the model; that has the same backbone as before, also in another thread.
    above = copy.copy(model)
    above.__dict__["_modules"] = {**model._modules, prefix: _Given(features, pooler)}
    ids = torch.zeros(len(features), 1, dtype=torch.long, device=features.device)
    logits: Tensor = above(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits
