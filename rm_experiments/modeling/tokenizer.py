"""The tokenizer: the base model's own, or a byte-level BPE trained on the spot."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rm_experiments.config.schema import ModelConfig
from rm_experiments.errors import CheckpointError


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE trained on `texts`, with pad, bos and eos tokens. Deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|bos|>", "<|eos|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=special[0], bos_token=special[1], eos_token=special[2]
    )


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The pretrained model's tokenizer.

    Raises:
        CheckpointError: when the directory or Hub id has none, or cannot be reached.
    """
    assert config.name_or_path is not None
    name = os.path.expanduser(config.name_or_path)
    try:
        return AutoTokenizer.from_pretrained(name, revision=config.revision, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # OSError, ValueError, and the Hub client's own errors, which are no OSErrors
        raise CheckpointError(unreadable_model(config, "tokenizer", error)) from error


def unreadable_model(config: ModelConfig, what: str, error: Exception) -> str:
    """One line for a model or tokenizer that cannot be loaded."""
    name = str(config.name_or_path)
    if Path(os.path.expanduser(name)).is_dir():
        reason = " ".join(str(error).split())[:200]
        return f"model.name_or_path={name}: the directory holds no usable {what} ({type(error).__name__}: {reason})"
    if "trust_remote_code" in str(error):
        return (
            f"model.name_or_path={name}: needs code from its repository; to run it, type model.trust_remote_code=true"
        )
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    why = (
        "HF_HUB_OFFLINE is set and it is not in the cache"
        if offline
        else "not found on the Hub, or the Hub cannot be reached"
    )
    return f"model.name_or_path={name}: no such directory, and {why}; try model.name_or_path=DIR, or model=tiny"
