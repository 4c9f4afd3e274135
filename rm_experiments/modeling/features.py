"""Features of sequences: the one vector that all of a reward model above its backbone is computed from.

Of a decoder the hidden state of the last token, of an encoder what its pooling reads: the first token, or the mean of
all. Where the backbone is frozen they are computed once, and every later step computes the head alone.
"""

from __future__ import annotations

import hashlib
import json
from enum import Enum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rm_experiments.errors import ConfigError
from rm_experiments.modeling.layouts.batch import Batch, FeatureBatch, FlatBatch, PaddedBatch, padded_batch
from rm_experiments.modeling.reward_model import BuiltModel, RewardModel, last_linear

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Of what the head's last layer receives, relative to its largest number; 0.02 for types of 16 bits."""


class Pooling(Enum):
    """Which vector of a sequence its reward is computed from."""

    last = "last"
    first = "first"
    mean = "mean"


def freeze_backbone(built: BuiltModel) -> str:
    """Train the reward head, and what else the base checkpoint lacked; nothing else.

    Returns:
        A sentence that tells what is trained.
    """
    model = built.reward_model.model
    heads = [module for name, module in model.named_modules() if name.rpartition(".")[2] in built.own_modules]
    trained = {id(one) for module in heads for one in module.parameters()}
    for one in model.parameters():
        one.requires_grad_(id(one) in trained)
    total = sum(one.numel() for one in model.parameters())
    number = sum(one.numel() for one in model.parameters() if one.requires_grad)
    return f"Trained: {', '.join(built.own_modules)}; {number:,} of {total:,} weights."


def features_of(reward_model: RewardModel, batch: PaddedBatch | FlatBatch, pooling: Pooling) -> Tensor:
    """Features [n, d] of the sequences of a padded or flat batch, by the whole backbone."""
    hidden = reward_model.hidden(batch)
    if pooling is Pooling.last:
        return hidden
    if pooling is Pooling.first:
        return hidden[:, 0]
    assert isinstance(batch, PaddedBatch)
    columns = torch.arange(hidden.shape[1], device=hidden.device)
    mask = (columns[None, :] < batch.lengths[:, None]).to(hidden.dtype)
    return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def find_pooling(reward_model: RewardModel, pad_id: int) -> Pooling:
    """Which vector the model's rewards are computed from, found out by trying. For a model that no layout has changed.

    Raises:
        ConfigError: when they are not a function of one vector.
    """
    random = np.random.default_rng(0)
    model = reward_model.model
    vocabulary = model.config.get_text_config().vocab_size
    sequences = [random.integers(0, vocabulary, length) for length in (9, 4, 7, 2)]
    batch = padded_batch(sequences, pad_id).to(model.device)
    was_training, reason = reward_model.training, ""
    reward_model.eval()
    try:
        with torch.no_grad():
            expected = _received(reward_model, batch, len(sequences))
            tolerance = _TOLERANCE.get(expected.dtype, 0.02) * float(expected.abs().max())
            for pooling in (Pooling.last,) if reward_model.is_decoder else (Pooling.first, Pooling.mean):
                try:
                    features = features_of(reward_model, batch, pooling)
                    found = _received(reward_model, FeatureBatch(features=features), len(sequences))
                except Exception as error:  # Whatever an architecture makes of it, its head needs more than a vector.
                    reason = f" ({' '.join(str(error).split())[:100]})"
                    continue
                if found.shape == expected.shape and float((found - expected).abs().max()) <= tolerance:
                    return pooling
    finally:
        reward_model.train(was_training)
    raise ConfigError(
        f"adapter=probe: the reward of {type(model).__name__} is not computed from one vector of its backbone per "
        f"sequence{reason}; try adapter=last_layers"
    )


def _received(reward_model: RewardModel, batch: Batch, count: int) -> Tensor:
    """What the last layer of the head is given of `count` sequences: tells vectors apart whatever the head's weights.

    A head of zeros gives equal rewards for all of them.
    """
    given: list[Tensor] = []
    hook = last_linear(reward_model).register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    try:
        reward_model(batch)
    finally:
        hook.remove()
    return given[0].reshape(count, -1)


def backbone_digest(reward_model: RewardModel) -> str:
    """Hash of everything in a model that decides features: frozen weights, buffers, settings, and the code here."""
    model = reward_model.model
    settings = json.loads(model.config.to_json_string(use_diff=False))
    for name in ("_name_or_path", "transformers_version"):
        settings.pop(name, None)
    hasher = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    hasher.update(f"{type(model).__name__} {getattr(model.config, '_commit_hash', None)} {torch.__version__}".encode())
    frozen = {name: one for name, one in model.named_parameters() if not one.requires_grad}
    for name, value in sorted({**frozen, **dict(model.named_buffers())}.items()):
        hasher.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        hasher.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    room = Path(__file__).parent
    for path in (Path(__file__), room / "reward_model.py", *sorted((room / "layouts").glob("*.py"))):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()
