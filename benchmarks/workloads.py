"""Random pairs in the lengths of two public data sets, model shapes from their configs, and the work they ask for.

Everything follows from a seed; nothing is downloaded. `hh` has the lengths of hh-rlhf's harmless pairs (long shared
dialogue, short answers), `uf` those of UltraFeedback (long answers).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, PreTrainedModel, Qwen2Config

from rm_experiments.data.batching import StepPlan
from rm_experiments.data.tokens import TokenizedPairs

if TYPE_CHECKING:
    import datasets

PAD, EOS, FIRST = 0, 1, 2
"""Ids of the padding token, of the last token of each sequence, and the smallest of all others."""
VOCABULARY = 8192
LONGEST = 1024
"""Of a sequence: what TRL keeps at its default `max_length`."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Lengths in tokens; both parts of a sequence are log-normal."""

    median_prefix: float
    mean_prefix: float
    mean_rest: float
    spread_of_rest: float
    """Standard deviation of the logarithm."""


WORKLOADS = {
    "hh": Workload(median_prefix=98, mean_prefix=130, mean_rest=48, spread_of_rest=0.9),
    "uf": Workload(median_prefix=148, mean_prefix=198, mean_rest=340, spread_of_rest=0.55),
}
"""Means a little above those of the data, since what is longer than `LONGEST` is drawn again."""


def make_pairs(name: str, count: int, seed: int = 0) -> TokenizedPairs:
    """`count` pairs of a workload, as training and evaluation take them."""
    rng, lengths = np.random.default_rng([seed, len(name), ord(name[0])]), WORKLOADS[name]
    spread = math.sqrt(2 * math.log(lengths.mean_prefix / lengths.median_prefix))
    location = math.log(lengths.mean_rest) - lengths.spread_of_rest**2 / 2
    prefixes = np.empty(0, dtype=np.int64)
    rests = np.empty((0, 2), dtype=np.int64)
    while len(prefixes) < count:
        prefix = rng.lognormal(math.log(lengths.median_prefix), spread, count).astype(np.int64).clip(4)
        rest = rng.lognormal(location, lengths.spread_of_rest, (count, 2)).astype(np.int64).clip(2)
        fits = prefix + rest.max(axis=1) <= LONGEST
        prefixes, rests = np.concatenate([prefixes, prefix[fits]]), np.concatenate([rests, rest[fits]])
    prefixes, rests = prefixes[:count], rests[:count]
    pieces = []
    for prefix, (chosen, rejected) in zip(prefixes.tolist(), rests.tolist(), strict=True):
        shared = rng.integers(FIRST, VOCABULARY, prefix)
        sides = [rng.integers(FIRST, VOCABULARY, one) for one in (chosen, rejected)]
        # The answers differ from their first token on, so that the prefix is what both sides share.
        sides[1][0] = FIRST + (sides[0][0] - FIRST + 1) % (VOCABULARY - FIRST)
        for side in sides:
            side[-1] = EOS
            pieces += [shared, side]
    full = (prefixes[:, None] + rests).astype(np.int32)
    ends = np.cumsum(full.astype(np.int64).ravel())
    return TokenizedPairs(
        ids=np.concatenate(pieces).astype(np.uint16), starts=(ends - full.ravel()).reshape(-1, 2), lengths=full,
        num_prompt_tokens=prefixes.astype(np.int32), outcome=np.zeros(count, dtype=np.uint8),
        table=_Table(), rows=np.arange(count),  # type: ignore[arg-type]
    )  # fmt: skip


class _Table:
    """What `TokenizedPairs` asks its table for, without pyarrow: plain pairs, each with a prompt of its own."""

    def values(self, name: str, rows: NDArray[Any]) -> NDArray[Any]:
        if name in ("margin", "weight", "label"):
            return np.full(len(rows), np.nan if name == "margin" else 1.0)
        if name.startswith("num_chars"):
            return np.zeros(len(rows), dtype=np.int64)
        texts = [None if name == "subset" else f"{row:016x}" for row in rows.tolist()]
        return np.array(texts, dtype=object)


def as_dataset(pairs: TokenizedPairs, order: NDArray[Any]) -> datasets.Dataset:
    """The pairs in `order`, tokenized, as TRL's RewardTrainer takes them."""
    import datasets

    return datasets.Dataset.from_dict(
        {
            name: [pairs.sequence(2 * int(one) + side).tolist() for one in order]
            for side, name in enumerate(("chosen_ids", "rejected_ids"))
        }
    )


class FixedPlan(StepPlan):
    """The same steps over and over."""

    def __init__(self, steps: list[NDArray[np.int64]]) -> None:
        self._fixed = steps
        self.num_pairs, self.steps_per_epoch = sum(map(len, steps)), len(steps)

    def step(self, index: int) -> NDArray[np.int64]:
        """Pairs of the step `index`."""
        return self._fixed[index % len(self._fixed)]

    @property
    def order(self) -> NDArray[np.int64]:
        """All pairs, step by step."""
        return np.concatenate(self._fixed)


def make_plan(pairs: TokenizedPairs, pairs_per_step: int, by_length: bool) -> FixedPlan:
    """Steps over all pairs in random order; or, but for the first one, of similar lengths and shuffled as wholes."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(pairs))
    first, rest = order[:pairs_per_step], order[pairs_per_step:]
    if by_length:
        rest = rest[np.argsort(pairs.pair_lengths[rest], kind="stable")]
    steps = [rest[at : at + pairs_per_step] for at in range(0, len(rest), pairs_per_step)]
    return FixedPlan([first, *(steps[one] for one in rng.permutation(len(steps)))])


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of a Qwen2 decoder."""

    hidden: int
    layers: int
    heads: int
    key_heads: int
    intermediate: int
    vocabulary: int = VOCABULARY


SHAPES = {
    "tiny": Shape(hidden=128, layers=4, heads=2, key_heads=1, intermediate=512),
    "small": Shape(hidden=384, layers=6, heads=6, key_heads=2, intermediate=1536),
    "mid": Shape(hidden=512, layers=8, heads=8, key_heads=2, intermediate=2048),
    "0.5B": Shape(hidden=896, layers=24, heads=14, key_heads=2, intermediate=4864, vocabulary=151936),
    "7B": Shape(hidden=3584, layers=28, heads=28, key_heads=4, intermediate=18944, vocabulary=152064),
}
"""The last two are those of Qwen2.5-0.5B and Qwen2.5-7B (their config.json)."""


def make_model(name: str, device: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A sequence classifier with one label and random weights, the same at every call."""
    shape = SHAPES[name]
    config = Qwen2Config(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads, intermediate_size=shape.intermediate, vocab_size=shape.vocabulary,
        max_position_embeddings=2048, num_labels=1, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None,
        attention_dropout=0.0, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, dtype=dtype)
    return model


@dataclass(frozen=True, kw_only=True)
class Work:
    """Floating-point operations of a forward and a backward pass over some pairs, each unique token once."""

    needed: float
    """What the rewards depend on: the last layer has keys and values of all tokens, the rest of scored ones alone."""
    usual: float
    """As model FLOPs are usually counted: every layer at every unique token."""


def work(shape: Shape, pairs: TokenizedPairs, training: bool) -> Work:
    """Operations over all `pairs`: matrix products and attention; the backward pass takes twice the forward pass."""
    size = shape.hidden // shape.heads
    queries_and_output, keys_and_values = 2 * shape.hidden**2, 2 * shape.hidden * shape.key_heads * size
    mlp = 3 * shape.hidden * shape.intermediate
    layer = queries_and_output + keys_and_values + mlp
    prefix, sides = pairs.num_prompt_tokens.astype(float), pairs.lengths.astype(float)
    rest = sides - prefix[:, None]
    tokens, scored = unique_tokens(pairs), 2 * len(pairs)
    seen = _triangle(prefix).sum() + (rest * prefix[:, None] + _triangle(rest)).sum()
    attention = 4 * shape.hidden
    inner = (shape.layers - 1) * (2 * layer * tokens + attention * seen)
    usual = inner + 2 * layer * tokens + attention * seen
    needed = inner + 2 * keys_and_values * tokens + 2 * (layer - keys_and_values) * scored + attention * sides.sum()
    passes = 3 if training else 1
    return Work(needed=float(passes * needed), usual=float(passes * usual))


def _triangle(length: NDArray[np.float64]) -> NDArray[np.float64]:
    return length * (length + 1) / 2


def unique_tokens(pairs: TokenizedPairs) -> int:
    """Tokens, the shared prefix of each pair once."""
    return int(pairs.lengths.sum() - pairs.num_prompt_tokens.sum())


def describe(pairs: TokenizedPairs) -> str:
    """The lengths in one line."""
    prefix, sides = pairs.num_prompt_tokens, pairs.lengths
    median, high = np.percentile(prefix, [50, 95])
    return (
        f"{len(pairs)} pairs; prefix median {median:.0f}, mean {prefix.mean():.0f}, p95 {high:.0f} tokens; "
        f"sequence mean {sides.mean():.0f}"
    )
