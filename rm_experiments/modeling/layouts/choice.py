"""Which layout a model can take, found out by trying: a few tokens through the layout and through `padded`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rm_experiments.config.schema import Layout
from rm_experiments.data.groups import Group
from rm_experiments.errors import ConfigError
from rm_experiments.modeling.layouts.attention import NAME, current
from rm_experiments.modeling.layouts.batch import padded_batch
from rm_experiments.modeling.layouts.last_layer import Shape, layers_of, prune_last_layer, restore_last_layer
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.quantising import arithmetic_dtype
from rm_experiments.modeling.reward_model import RewardModel

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.05}
"""Largest difference of a probe's reward, relative to their spread. A wrong layout is off by about 1, perhaps for some
sequences only; the rounding of 16 bits by 0.06 (bfloat16) or 0.01, and by 0.16 where it changes an expert."""
_PROBE_LENGTHS = (9, 7, 4, 11, 2, 6)
_PROBE_GROUPS = (Group(3, (0, 1, 2)), Group(0, (3,)), Group(1, (4, 5)))


def choose_layout(
    reward_model: RewardModel, wanted: Layout, pad_id: int, attention_is_set: bool, all_rows: bool = False
) -> tuple[Batcher, str]:
    """Prepare `reward_model` for a layout: the wanted one, or with `auto` the fastest that gives the same rewards.

    Args:
        attention_is_set: whether the user chose an attention implementation, which flat layouts would replace.
        all_rows: whether more than the rewards is read from the last layer, so that it must compute all rows.

    Returns:
        What cuts pairs into batches, and a sentence that tells what was chosen and why.

    Raises:
        ConfigError: when the model cannot take the layout that was asked for.
    """
    padded = Batcher(layout=Layout.padded, pad_id=pad_id)
    if wanted is Layout.padded:
        return padded, "Layout: padded, as asked."
    reason = _known_reason(reward_model, wanted, attention_is_set)
    for layout, shape in _candidates(reward_model, wanted, all_rows) if reason is None else ():
        batcher = Batcher(
            layout=layout, pad_id=pad_id, first_position=_first_position(reward_model.model),
            read_first=not reward_model.is_decoder,
        )  # fmt: skip
        reason = _try(reward_model, batcher, shape)
        if reason is None:
            last = "" if shape is None else ", its last layer at the scored tokens only"
            shared = ", each prompt once" if layout is Layout.shared_prefix else ""
            return batcher, f"Layout: {layout.value} (no padding{shared}{last})."
    if wanted is not Layout.auto:
        raise ConfigError(f"train.layout={wanted.value}: {reason}; try train.layout=auto")
    return padded, f"Layout: padded, since {reason}."


def adopt_layout(reward_model: RewardModel, batcher: Batcher, shape: Shape | None) -> None:
    """Prepare a model for the layout that was chosen for the same one elsewhere.

    Args:
        shape: what `pruned_shape` says of the other one.
    """
    if batcher.layout is not Layout.padded:
        reward_model.model.set_attn_implementation(NAME)
        _prune(reward_model, shape)


def pruned_shape(reward_model: RewardModel) -> Shape | None:
    """What the model's last layer gives of the scored rows; None when it computes all rows."""
    layers = layers_of(reward_model.model, reward_model.model.config.get_text_config().num_hidden_layers)
    return None if layers is None else getattr(layers[-1], "shape", None)


def _candidates(reward_model: RewardModel, wanted: Layout, all_rows: bool) -> Iterator[tuple[Layout, Shape | None]]:
    """Layouts with what a pruned last layer gives, the fastest first."""
    if not reward_model.is_decoder:
        yield Layout.packed, Shape.one_per_sequence
        return
    for layout in (Layout.shared_prefix, Layout.packed) if wanted is Layout.auto else (wanted,):
        shapes = (None,) if all_rows else (Shape.scored_rows, Shape.all_rows, None)
        yield from ((layout, shape) for shape in shapes)


def _known_reason(reward_model: RewardModel, wanted: Layout, attention_is_set: bool) -> str | None:
    """Why a model cannot be laid out flat, as far as that is known without trying."""
    config, name = reward_model.model.config.get_text_config(), type(reward_model.model).__name__
    kinds = set(getattr(config, "layer_types", None) or _KNOWN_LAYERS) - _KNOWN_LAYERS
    if attention_is_set:
        return "model.attention is set, and the other layouts bring their own"
    if not getattr(reward_model.model, "_supports_attention_backend", False):
        return f"the attention of {name} cannot be replaced"
    if kinds:
        return f"{name} has layers of the kind {min(kinds)}"
    if getattr(config, "attention_chunk_size", None):
        return f"{name} attends in chunks"
    if reward_model.is_decoder and getattr(config, "use_bidirectional_attention", False):
        return f"{name} attends in both directions"
    if not reward_model.is_decoder and wanted is Layout.shared_prefix:
        return "the prompt of an encoder sees the answer"
    return None


def _has_window(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    return bool(getattr(config, "sliding_window", None)) and (kinds is None or "sliding_attention" in kinds)


def _first_position(model: nn.Module) -> int:
    """RoBERTa and its kin count positions from the padding index + 1."""
    for one in model.modules():
        if hasattr(one, "create_position_ids_from_input_ids"):
            return int(str(one.padding_idx)) + 1
    return 0


def _try(reward_model: RewardModel, batcher: Batcher, shape: Shape | None) -> str | None:
    """Set the model up for the layout. None if it gives the rewards of `padded`; else why not, undone."""
    model: Any = reward_model.model
    before, was_training = model.config._attn_implementation, reward_model.training
    random = torch.get_rng_state()
    reward_model.eval()
    try:
        with torch.no_grad():
            sequences = _probe(model)
            padded = padded_batch(sequences, batcher.pad_id)
            expected = reward_model(padded.to(model.device)).cpu()
            model.set_attn_implementation(NAME)
            _prune(reward_model, shape)
            groups = [Group(0, (one,)) for one in range(len(sequences))]
            if batcher.layout is Layout.shared_prefix:
                groups = list(_PROBE_GROUPS)
            batch = batcher.flat(groups, sequences.__getitem__)
            current.told_window = False
            reason = _difference(reward_model(batch.to(model.device)).cpu(), expected, arithmetic_dtype(model))
            if reason is None and _has_window(model.config.get_text_config()) and not current.told_window:
                # It is in the mask alone. The probe is too short to show it.
                reason = "its attention is not told of its window"
    except Exception as error:  # Whatever an architecture makes of a flat batch, there is another layout.
        reason = f"{type(model).__name__} does not take it ({' '.join(str(error).split())[:100]})"
    finally:
        current.batch = None
        reward_model.train(was_training)
        torch.set_rng_state(random)
    if reason is not None:
        model.set_attn_implementation(before)
        _prune(reward_model, None)
    return reason


def _probe(model: Any) -> list[np.ndarray[Any, Any]]:
    """Random token ids; the first three sequences share three tokens, the last two one."""
    rng = np.random.default_rng(0)
    vocabulary = model.config.get_text_config().vocab_size
    sequences = [rng.integers(0, vocabulary, length) for length in _PROBE_LENGTHS]
    for group in _PROBE_GROUPS:
        for one in group.sequences[1:]:
            sequences[one][: group.prefix] = sequences[group.sequences[0]][: group.prefix]
    # The reward is read at the last token, which no loader may take for padding.
    pad = model.config.get_text_config().pad_token_id
    for sequence in sequences:
        sequence[sequence == pad] = (0 if pad is None else pad) + (1 if pad == 0 else -1)
    return sequences


def _difference(found: Tensor, expected: Tensor, dtype: torch.dtype) -> str | None:
    if found.shape != expected.shape:
        return "it does not give one reward per sequence"
    spread = (expected - expected.mean()).abs().mean()
    # A head of zeros gives no spread, and nothing to tell layouts apart by: then equal is equal.
    difference = ((found - expected).abs().max() / (spread if spread > 0 else 1)).item()
    if difference <= _TOLERANCE[dtype]:
        return None
    return f"its rewards would differ (by {difference:.2g} of their spread)"


def _prune(reward_model: RewardModel, shape: Shape | None) -> None:
    """Make the last layer compute scored rows only, or all rows again."""
    model = reward_model.model
    layers = layers_of(model, model.config.get_text_config().num_hidden_layers)
    if layers is not None:
        restore_last_layer(layers[-1])
    reward_model.gives_scored_rows = shape is Shape.scored_rows
    if shape is not None:
        if layers is None:
            raise ValueError("its layers were not found")
        prune_last_layer(layers[-1], shape)
