"""A tokenizer and a few pairs, as a run has them."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from rm_experiments.config.schema import DataConfig
from rm_experiments.data.pairs import PreferencePair
from rm_experiments.data.templates import prepare_tokenizer
from rm_experiments.data.tokenization import tokenize_pairs
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.modeling.tokenizer import train_tokenizer

MAX_LENGTH = 48
_ROWS = (
    ("What is a river?", "Water that flows to the sea.", "A stone."),
    ("What is a river?", "A stream.", "No idea, and I would rather talk about trains."),
    ("Name two fruits.", "Apple and pear.", "Hammer."),
    ("Say <|pad|> again.", "<|pad|>", "b"),
    ("Repeat: " + "again and " * 9, "again", "and again " * 5),
)
"""One prompt twice, the literal text of the pad token, and a prompt longer than any window."""


def make_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE of 300 entries at most, prepared as a run prepares it."""
    tokenizer = train_tokenizer((text for row in _ROWS for text in row), vocab_size=300)
    prepare_tokenizer(tokenizer)
    return tokenizer


def make_pairs(tokenizer: PreTrainedTokenizerBase) -> TokenizedPairs:
    """The pairs as token ids."""
    pairs = [
        PreferencePair(id=str(number), prompt=prompt, chosen=chosen, rejected=rejected)
        for number, (prompt, chosen, rejected) in enumerate(_ROWS)
    ]
    return tokenize_pairs(pairs, tokenizer, DataConfig(), MAX_LENGTH, "data.eval")[0]
