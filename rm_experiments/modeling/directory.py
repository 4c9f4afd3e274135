"""An ordinary Hugging Face model directory: written, put back into a model, and checked by a plain reload."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import CheckpointError
from rm_experiments.modeling.heads import HEADS_FILE, as_one_head, head_names, load_heads, save_heads
from rm_experiments.modeling.quiet import quiet
from rm_experiments.modeling.reward_model import RewardModel
from rm_experiments.modeling.sharding import gathered, put

PROBE_FILE = "probe.jsonl"
FACTS_FILE = "reward_model.json"
"""What of an adapter's directory cannot stand in config.json: with one, transformers would look there for the weights
of the base model."""
READING, SCALE = "reward_model", "reward_normalization"
"""Keys of config.json: how dialogues become what the model reads, and the rewards' mean and standard deviation."""
NUM_PROBES = 8
_UNRELATED_SEED = 982_451_653
MASTER_FILE = "weights.safetensors"


def copied_weights(reward_model: RewardModel, adapter: Any | None, keep: bool = True) -> dict[str, Tensor]:
    """Copies on the host of what `save_model` and `save_master_weights` write, which training does not change.

    All weights and buffers by the model's names; with an adapter those that are trained, by the adapter's names too.
    A sharded model is gathered, weight by weight: then it is called on every process.

    Args:
        keep: whether this process shall have them; else it only takes part, and gets nothing.
    """
    model = reward_model.model
    named = model.state_dict(keep_vars=True)
    if adapter is not None:
        named = {**named, **adapter.state_dict(keep_vars=True)}
        named = {name: value for name, value in named.items() if value.requires_grad}
    # Tied weights stay tied.
    copies: dict[int, Tensor | None] = {}
    for value in named.values():
        if id(value) not in copies:
            copies[id(value)] = gathered(value, keep)
    found = {name: copies[id(value)] for name, value in named.items()}
    return {name: value for name, value in found.items() if value is not None}


def save_model(
    directory: Path, reward_model: RewardModel, adapter: Any | None, tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype, weights: dict[str, Tensor], facts: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write weights, config.json and tokenizer so that plain transformers (peft for an adapter) loads them.

    Args:
        weights: from `copied_weights`.
        facts: what else config.json says (of an adapter, reward_model.json): `READING`, `SCALE`.
    """
    model = reward_model.model
    tokenizer.save_pretrained(directory)
    save_heads(directory, reward_model, weights)
    weights = as_one_head(reward_model, weights)
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": _eos(model, tokenizer)}
    if adapter is not None:
        names = [name for name, _ in adapter.named_parameters()]
        adapter.save_pretrained(directory, state_dict={name: weights[name] for name in names if name in weights})
        _write_json(directory / FACTS_FILE, {"num_labels": 1, **tokens, **(facts or {})})
        return
    # `to` keeps tied weights tied when it changes nothing.
    saved = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
    model.save_pretrained(directory, state_dict=saved)
    path = directory / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    # A base model that is itself a reward model brings its own.
    values = {key: value for key, value in values.items() if key not in (READING, SCALE)}
    values |= {"dtype": str(dtype).removeprefix("torch."), **tokens, **(facts or {})}
    _write_json(path, values)


def read_facts(directory: Path) -> dict[str, Any]:
    """`READING` and `SCALE` of a model directory, as far as it has them."""
    for name in (FACTS_FILE, "config.json"):
        if (directory / name).is_file():
            values = json.loads((directory / name).read_text(encoding="utf-8"))
            return {key: values[key] for key in (READING, SCALE) if isinstance(values.get(key), dict)}
    return {}


def _eos(model: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The architecture's own where the tokenizer's is among them; else the tokenizer's."""
    own, used = getattr(model.config, "eos_token_id", None), tokenizer.eos_token_id
    return own if used is None or used in (own if isinstance(own, list) else [own]) else used


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_master_weights(
    directory: Path, reward_model: RewardModel, dtype: torch.dtype, has_adapter: bool, weights: dict[str, Tensor]
) -> None:
    """In state/: the trained weights in the training's own type, where the model directory has not got them."""
    named = reward_model.model.named_parameters()
    trained = {name: weights[name] for name, value in named if value.requires_grad}
    # Some families are saved under other names than the model's own (mixtures of experts).
    saved = directory.parent / "model.safetensors"
    complete = not has_adapter and saved.exists() and trained.keys() <= _names(saved)
    if not complete or any(value.dtype != dtype for value in trained.values()):
        save_file({name: value.contiguous() for name, value in trained.items()}, directory / MASTER_FILE)


def _names(path: Path) -> set[str]:
    with safe_open(path, framework="pt") as file:
        return set(file.keys())


def load_weights(checkpoint: Path, reward_model: RewardModel) -> None:
    """Put the weights of a checkpoint back into a model of the same architecture.

    Raises:
        CheckpointError: when they are those of another model.
    """
    master = checkpoint / "state" / MASTER_FILE
    # Also lets gathered weights of a sharded model go.
    parameters = reward_model.model.state_dict(keep_vars=True)
    # Of several heads the model's file has only the sum.
    elsewhere = set() if master.exists() or len(reward_model.heads) == 1 else set(head_names(reward_model))
    with safe_open(master if master.exists() else checkpoint / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
        for name in names - elsewhere:
            if name not in parameters or list(parameters[name].shape) != weights.get_slice(name).get_shape():
                raise CheckpointError(f"{checkpoint}: {name} does not fit the model of this run")
            put(parameters[name], weights, name)
    if elsewhere:
        load_heads(checkpoint / HEADS_FILE, reward_model)
    lost = [name for name, value in reward_model.model.named_parameters() if value.requires_grad and name not in names]
    if lost:
        raise CheckpointError(f"{checkpoint}: {lost[0]} is missing")


def write_probe(directory: Path, pairs: TokenizedPairs, chosen: NDArray[Any], rejected: NDArray[Any]) -> None:
    """The first rows with their token ids and rewards [n]: what a loaded model must reproduce."""
    with (directory / PROBE_FILE).open("w", encoding="utf-8") as file:
        for pair in range(min(NUM_PROBES, len(pairs))):
            row = {
                "input_ids_chosen": pairs.sequence(2 * pair).tolist(),
                "input_ids_rejected": pairs.sequence(2 * pair + 1).tolist(),
                "reward_chosen": float(chosen[pair]),
                "reward_rejected": float(rejected[pair]),
            }
            file.write(json.dumps(row) + "\n")


def reload_difference(directory: Path, adapter: bool, loading: dict[str, Any] | None = None) -> float:
    """Load `directory` with plain transformers and compare with its probe rows.

    Args:
        loading: more arguments of `from_pretrained`, which a base model of 4 bits needs.

    Returns:
        The largest absolute difference of a reward, in float32 arithmetic on the CPU, each side in a padded batch; with
        a base model of 4 bits in its arithmetic, on its device.

    Raises:
        CheckpointError: when the directory does not load.
    """
    model, tokenizer = plain_model(directory, adapter, loading)
    rows = [json.loads(line) for line in (directory / PROBE_FILE).read_text(encoding="utf-8").splitlines()]
    difference = 0.0
    for side in ("chosen", "rejected"):
        rewards = plain_rewards(model, tokenizer, [row[f"input_ids_{side}"] for row in rows])
        measured = np.array([row[f"reward_{side}"] for row in rows])
        difference = max(difference, float(np.abs(rewards - measured).max()))
    return difference


def plain_model(
    directory: Path, adapter: bool, loading: dict[str, Any] | None = None
) -> tuple[Any, PreTrainedTokenizerBase]:
    """A fresh model of a directory by plain transformers (peft for an adapter), in float32, and its tokenizer.

    Raises:
        CheckpointError: when it does not load.
    """
    try:
        # Weights that were not saved would be drawn at random: not from the state that the run began with.
        with quiet(), torch.random.fork_rng():
            tokenizer = AutoTokenizer.from_pretrained(directory)
            torch.manual_seed(_UNRELATED_SEED)
            return _load_plain(directory, adapter, tokenizer.pad_token_id, loading or {}).eval(), tokenizer
    except Exception as error:  # whatever a library says, the saved model is not usable
        raise CheckpointError(f"{directory}: does not load with plain transformers: {error}") from error


def plain_rewards(
    model: Any, tokenizer: PreTrainedTokenizerBase, sequences: list[list[int]], size: int = 0, side: str = "right"
) -> NDArray[Any]:
    """Rewards [n] of token ids by a plain model, `size` rows at a time (0: all), padded on `side` by the tokenizer."""
    found = []
    with torch.inference_mode():
        for first in range(0, len(sequences), size or len(sequences)):
            part = {"input_ids": sequences[first : first + (size or len(sequences))]}
            batch = tokenizer.pad(part, padding_side=side, return_tensors="pt").to(model.device)
            found.append(model(**batch).logits[:, 0].double().cpu().numpy())
    return np.concatenate(found)


def _load_plain(directory: Path, adapter: bool, pad_id: int, loading: dict[str, Any]) -> Any:
    if not adapter:
        return AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1, dtype=torch.float32)
    from peft import AutoPeftModelForSequenceClassification

    return AutoPeftModelForSequenceClassification.from_pretrained(
        directory, num_labels=1, dtype=torch.float32, pad_token_id=pad_id, **loading
    )
