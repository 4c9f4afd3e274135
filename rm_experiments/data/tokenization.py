"""From preference pairs to token ids: template, length policy, and the arrays that training and evaluation read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rm_experiments.config.schema import DataConfig, Overlength, TextAs
from rm_experiments.data.pairs import (
    PreferencePair,
    answer_messages,
    answer_text,
    pair_id,
    prompt_id,
    prompt_messages,
)
from rm_experiments.data.templates import first_token, last_token, last_token_id, render, token_id
from rm_experiments.errors import DataError

Ids = NDArray[np.int32]

_CHUNK = 1024
"""Pairs rendered and tokenized at a time: enough for the tokenizer's own threads, small in memory."""


@dataclass(kw_only=True)
class TokenizedPairs:
    """`n` pairs as flat arrays. Sequence `2 * i` is the chosen side of pair `i`, `2 * i + 1` the rejected one."""

    ids: Ids
    """Token ids of all sequences, one after the other."""
    offsets: NDArray[np.int64]
    """[2 n + 1] where each sequence begins in `ids`."""
    num_prompt_tokens: Ids
    """[n] tokens of the prompt that both sides of a pair share, the first token included."""
    columns: dict[str, NDArray[Any]]
    """[n] each: id, prompt_id, pair_id, subset, target_margin, weight, num_chars_*, truncated_*."""

    def __len__(self) -> int:
        return len(self.num_prompt_tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[2 n] tokens of each sequence."""
        return np.diff(self.offsets)

    @property
    def pair_lengths(self) -> NDArray[np.int64]:
        """[n] tokens of the longer side of each pair."""
        return self.lengths.reshape(-1, 2).max(axis=1)

    def sequence(self, index: int) -> Ids:
        """Token ids of one sequence."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def first(self, count: int) -> TokenizedPairs:
        """The first `count` pairs."""
        count = min(count, len(self))
        return TokenizedPairs(
            ids=self.ids[: self.offsets[2 * count]],
            offsets=self.offsets[: 2 * count + 1],
            num_prompt_tokens=self.num_prompt_tokens[:count],
            columns={name: column[:count] for name, column in self.columns.items()},
        )

    def padded(self, indices: Sequence[int] | NDArray[Any], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sequences padded on the right: ids [b, longest] and lengths [b]."""
        rows = [self.sequence(int(index)) for index in indices]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        batch = np.full((len(rows), int(lengths.max())), pad_id, dtype=np.int64)
        for number, row in enumerate(rows):
            batch[number, : len(row)] = row
        return batch, lengths


@dataclass(kw_only=True)
class LengthReport:
    """What the length policy did to one split. Every dropped or cut row is counted."""

    max_length: int
    overlength: str
    pairs: int = 0
    """Pairs that came in."""
    kept: int = 0
    dropped_overlength: int = 0
    truncated_prompts: int = 0
    """Pairs whose prompt lost its oldest tokens (the same ones on both sides)."""
    truncated_chosen: int = 0
    """Pairs whose chosen answer lost its end."""
    truncated_rejected: int = 0
    longest: int = 0
    """Tokens of the longest sequence before any cut."""
    tokens: int = 0
    """Tokens of all kept sequences."""


def tokenize_pairs(
    pairs: Sequence[PreferencePair],
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    max_length: int,
    key: str,
) -> tuple[TokenizedPairs, LengthReport]:
    """Render, tokenize and, where too long, cut or drop `pairs`. `tokenizer` comes from `prepare_tokenizer`.

    Raises:
        DataError: naming the row, when the template refuses it, when `data.overlength=error` and it is too long, or
            when nothing is left.
    """
    report = LengthReport(max_length=max_length, overlength=config.overlength.value, pairs=len(pairs))
    ends = _first_token_id(tokenizer), last_token_id(tokenizer)
    sequences: list[Ids] = []
    prompt_lengths: list[int] = []
    kept: list[PreferencePair] = []
    cut_flags: list[tuple[bool, bool]] = []
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        prompts, chosen, rejected = _encode(chunk, tokenizer, config.text_as, key)
        for pair, prompt_ids, chosen_ids, rejected_ids in zip(chunk, prompts, chosen, rejected, strict=True):
            shared = min(_common_prefix(prompt_ids, chosen_ids), _common_prefix(prompt_ids, rejected_ids))
            report.longest = max(report.longest, len(chosen_ids), len(rejected_ids))
            cut = _fit(pair, shared, chosen_ids, rejected_ids, ends, report, config.overlength, key)
            if cut is None:
                continue
            shared, chosen_ids, rejected_ids, flags = cut
            kept.append(pair)
            sequences += (chosen_ids, rejected_ids)
            prompt_lengths.append(shared)
            cut_flags.append(flags)
    if not kept:
        raise DataError(
            f"{key}: no pair is left, all {len(pairs)} are longer than data.max_length={max_length}; "
            "raise data.max_length or try data.overlength=truncate_prompt"
        )
    report.kept, report.tokens = len(kept), sum(map(len, sequences))
    tokenized = TokenizedPairs(
        ids=np.concatenate(sequences),
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in sequences])]).astype(np.int64),
        num_prompt_tokens=np.array(prompt_lengths, dtype=np.int32),
        columns=_columns(kept, cut_flags),
    )
    return tokenized, report


def summary(report: LengthReport) -> dict[str, Any]:
    """The report as plain values."""
    return dataclasses.asdict(report)


def _encode(
    pairs: Sequence[PreferencePair], tokenizer: PreTrainedTokenizerBase, text_as: TextAs, key: str
) -> tuple[list[Ids], list[Ids], list[Ids]]:
    """Ids of the prompts (as far as they end before the answer), the chosen and the rejected sides."""
    texts: list[str] = []
    for pair in pairs:
        texts += _texts(pair, tokenizer, text_as, key)
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    ids = [np.array(row, dtype=np.int32) for row in encoded]
    return ids[0::3], ids[1::3], ids[2::3]


def _texts(pair: PreferencePair, tokenizer: PreTrainedTokenizerBase, text_as: TextAs, key: str) -> tuple[str, str, str]:
    """Prompt, prompt + chosen and prompt + rejected as the model reads them, first and last token included."""
    if text_as is TextAs.raw and all(isinstance(text, str) for text in (pair.prompt, pair.chosen, pair.rejected)):
        first, last = first_token(tokenizer) or "", last_token(tokenizer)
        prompt = first + str(pair.prompt)
        return prompt, f"{prompt}{pair.chosen}{last}", f"{prompt}{pair.rejected}{last}"
    prompt_turns = prompt_messages(pair.prompt)
    sides = [[*prompt_turns, *answer_messages(answer)] for answer in (pair.chosen, pair.rejected)]
    try:
        chosen, rejected = render(tokenizer, sides)
        # Without a prompt the two sides share what the template begins with.
        no_prompt = first_token(tokenizer) or ""
        prompt = render(tokenizer, [prompt_turns], generation_prompt=True)[0] if prompt_turns else no_prompt
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{key} row {pair.id}: the model's chat template refuses its turns ({reason}); "
            "try data.text_as=raw for plain text"
        ) from error
    return prompt, chosen, rejected


def _first_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    first = first_token(tokenizer)
    return None if first is None else token_id(tokenizer, first)


def _common_prefix(a: Ids, b: Ids) -> int:
    shorter = min(len(a), len(b))
    different = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(different[0]) if len(different) else shorter


def _fit(
    pair: PreferencePair, shared: int, chosen: Ids, rejected: Ids, ends: tuple[int | None, int],
    report: LengthReport, policy: Overlength, key: str,
) -> tuple[int, Ids, Ids, tuple[bool, bool]] | None:  # fmt: skip
    """The pair within `report.max_length`, or None when it is dropped. Both sides lose the same prompt tokens."""
    limit = report.max_length
    excess = max(len(chosen), len(rejected)) - limit
    if excess <= 0:
        return shared, chosen, rejected, (False, False)
    if policy is Overlength.error:
        raise DataError(
            f"{key} row {pair.id}: {limit + excess} tokens exceed data.max_length={limit}; "
            "raise it, or try data.overlength=truncate_prompt"
        )
    if policy is Overlength.drop:
        report.dropped_overlength += 1
        return None
    if policy is Overlength.truncate_response:
        if limit - shared < 2:
            raise DataError(
                f"{key} row {pair.id}: its prompt of {shared} tokens leaves no room for an answer within "
                f"data.max_length={limit}; try data.overlength=truncate_prompt"
            )
        bos = removed = 0
    else:
        bos = int(shared > 0 and chosen[0] == ends[0])
        removed = min(excess, shared - bos)
    if removed:
        report.truncated_prompts += 1
        # BOS stays; the oldest tokens behind it go, the same ones on both sides.
        chosen = np.concatenate([chosen[:bos], chosen[bos + removed :]])
        rejected = np.concatenate([rejected[:bos], rejected[bos + removed :]])
        shared -= removed
    sides, flags = [], []
    for side in (chosen, rejected):
        flags.append(removed > 0 or len(side) > limit)
        sides.append(np.append(side[: limit - 1], np.int32(ends[1])) if len(side) > limit else side)
    report.truncated_chosen += len(chosen) > limit
    report.truncated_rejected += len(rejected) > limit
    return shared, sides[0], sides[1], (flags[0], flags[1])


def _columns(pairs: list[PreferencePair], cut: list[tuple[bool, bool]]) -> dict[str, NDArray[Any]]:
    """Everything about the pairs that evaluation records carry, apart from tokens and rewards."""
    flags = np.array(cut, dtype=bool).reshape(-1, 2)
    return {
        "id": np.array([pair.id for pair in pairs], dtype=object),
        "prompt_id": np.array([prompt_id(pair) for pair in pairs], dtype=object),
        "pair_id": np.array([pair_id(pair) for pair in pairs], dtype=object),
        "subset": np.array([pair.subset for pair in pairs], dtype=object),
        "target_margin": np.array([pair.margin or 0.0 for pair in pairs], dtype=np.float64),
        "weight": np.ones(len(pairs), dtype=np.float64),
        "num_chars_chosen": np.array([len(answer_text(pair.chosen)) for pair in pairs], dtype=np.int64),
        "num_chars_rejected": np.array([len(answer_text(pair.rejected)) for pair in pairs], dtype=np.int64),
        "truncated_chosen": flags[:, 0],
        "truncated_rejected": flags[:, 1],
    }
