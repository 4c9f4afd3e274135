"""From preference pairs to token ids: the template, the ids of both sides, and the length policy."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rm_experiments.config.data_schema import DataConfig, Overlength, TextAs
from rm_experiments.data import tokens
from rm_experiments.data.answers import answers_of
from rm_experiments.data.cache import DataCache, digest, file_digest
from rm_experiments.data.length_policy import Problem, cutter_of, refusal, shared_prompt
from rm_experiments.data.pairs import PreferencePair
from rm_experiments.data.rendering import Renderer, backend_of, ids_of
from rm_experiments.data.splits import Split
from rm_experiments.data.table import PairTable, table_of
from rm_experiments.data.tokens import Ids, TokenizedPairs, TokenStore, TokenWriter
from rm_experiments.errors import DataError

_CHUNK = 1024
"""Pairs rendered and tokenized at a time: enough for the tokenizer's own threads, small in memory."""


@dataclass(kw_only=True)
class LengthReport:
    """What the length policy did to one split. Every dropped or cut row is counted."""

    max_length: int
    overlength: str
    pairs: int = 0
    """Pairs that came in."""
    kept: int = 0
    overlength_chosen: int = 0
    """Pairs whose chosen side was longer than `max_length`."""
    overlength_rejected: int = 0
    dropped_overlength: int = 0
    truncated_prompts: int = 0
    """Pairs whose prompt lost its oldest tokens (the same ones on both sides)."""
    truncated_chosen: int = 0
    """Pairs whose chosen answer lost its end."""
    truncated_rejected: int = 0
    read_alike: int = 0
    """Pairs whose two sides are the same token ids: no model can tell them apart."""
    longest: int = 0
    """Tokens of the longest sequence before any cut."""
    tokens: int = 0
    """Tokens of all kept sequences."""
    by_subset: dict[str, dict[str, int]] = field(default_factory=dict)
    """The counts of pairs above for each subset that lost something."""


def tokenize_pairs(
    pairs: Sequence[PreferencePair], tokenizer: PreTrainedTokenizerBase, config: DataConfig, max_length: int, key: str
) -> tuple[TokenizedPairs, LengthReport]:
    """Render, tokenize and, where too long, cut or drop pairs that are in memory. As `tokenize_table`, `fit_split`."""
    table = table_of(pairs)
    with TemporaryDirectory() as directory:
        tokenize_table(Path(directory), table, None, tokenizer, config, max_length, key)
        store = TokenStore.open(Path(directory))
        store.ids = np.array(store.ids)
    everything = np.arange(len(table))
    return fit_split(store, table, everything, everything, config, max_length, key)


def tokenize_split(
    split: Split, tokenizer: PreTrainedTokenizerBase, config: DataConfig, max_length: int, cache: DataCache
) -> tuple[TokenizedPairs, LengthReport]:
    """The token ids of a split, from the cache if they are there. As `tokenize_table` and `fit_split`.

    The whole table is tokenized, so that another seed, limit or audit reads the same entry; but only the split's rows
    where they are less than half of it.
    """
    whole = len(split.rows) > len(split.table) / 2
    rows = None if whole else np.unique(split.rows)
    key = {
        "pairs": split.identity,
        "rows": None if rows is None else hashlib.sha256(rows.tobytes()).hexdigest(),
        "tokenizer": tokenizer_digest(tokenizer),
        "text_as": config.text_as.value, "max_length": max_length, "overlength": config.overlength.value,
    }  # fmt: skip

    def build(directory: Path) -> None:
        tokenize_table(directory, split.table, rows, tokenizer, config, max_length, split.key)

    store = TokenStore.open(cache.entry("tokens", key, build))
    positions = split.rows if rows is None else np.searchsorted(rows, split.rows)
    return fit_split(store, split.table, split.rows, positions, config, max_length, split.key)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of everything in a prepared tokenizer that decides about ids."""
    backend = backend_of(tokenizer)
    vocabulary = _files_digest(tokenizer) if backend is None else backend.to_str()
    parts = [vocabulary, type(tokenizer).__name__, tokenizer.chat_template, tokenizer.special_tokens_map]
    return digest([str(part) for part in parts])


def _files_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    with TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        return digest([(one.name, file_digest(one)) for one in sorted(Path(directory).iterdir())])


def tokenize_table(
    directory: Path, table: PairTable, rows: NDArray[np.int64] | None, tokenizer: PreTrainedTokenizerBase,
    config: DataConfig, max_length: int, key: str,
) -> None:  # fmt: skip
    """Write the `TokenStore` of the table's pairs, or of some rows, into `directory`.

    Args:
        tokenizer: from `prepare_tokenizer`.

    Raises:
        DataError: naming the row, when the template refuses it.
    """
    writer = TokenWriter(directory, len(tokenizer))
    cutter = cutter_of(tokenizer, max_length, config.overlength)
    for prompt_ids, chosen_ids, rejected_ids in _encoded(table.pairs(rows), tokenizer, config.text_as, key):
        full = len(chosen_ids), len(rejected_ids)
        cut = cutter.cut(shared_prompt(prompt_ids, (chosen_ids, rejected_ids)), [chosen_ids, rejected_ids])
        chosen_ids, rejected_ids = cut.sequences
        alike = len(chosen_ids) == len(rejected_ids) and np.array_equal(chosen_ids, rejected_ids)
        outcome = _OUTCOMES[cut.problem] | (tokens.ALIKE if alike else 0)
        outcome |= tokens.TRUNCATED_PROMPT if cut.prompt else 0
        outcome |= tokens.TRUNCATED_CHOSEN if cut.ends[0] else 0
        outcome |= tokens.TRUNCATED_REJECTED if cut.ends[1] else 0
        writer.add(chosen_ids, rejected_ids, full, cut.num_prompt_tokens, outcome)
    writer.close()


_OUTCOMES = {
    None: 0,
    Problem.dropped: tokens.DROPPED,
    Problem.too_long: tokens.TOO_LONG,
    Problem.no_room: tokens.NO_ROOM,
}


def fit_split(
    store: TokenStore, table: PairTable, rows: NDArray[np.int64], positions: NDArray[np.int64], config: DataConfig,
    max_length: int, key: str,
) -> tuple[TokenizedPairs, LengthReport]:  # fmt: skip
    """The pairs of a split and what the length policy did to them.

    Args:
        rows: [n] the split's rows in `table`.
        positions: [n] where they are in `store`.

    Raises:
        DataError: when `data.overlength=error` and a pair is too long, or when nothing is left.
    """
    outcome, full = store.outcome[positions], store.full_lengths[positions]
    for bit, problem in ((tokens.TOO_LONG, Problem.too_long), (tokens.NO_ROOM, Problem.no_room)):
        bad = np.flatnonzero(outcome & bit)
        if len(bad):
            at = int(bad[0])
            where, own_id = (table.values(name, rows[at : at + 1])[0] for name in ("where", "id"))
            place = where or f"row {own_id}"
            prompt = int(store.num_prompt_tokens[positions[at]])
            raise refusal(f"{key}: {place}", problem, int(full[at].max()), prompt, max_length)
    report = _report(outcome, full, table.values("subset", rows), config.overlength, max_length)
    kept = np.flatnonzero((outcome & tokens.DROPPED) == 0)
    if not len(kept):
        raise DataError(
            f"{key}: no pair is left, all {len(rows)} are longer than data.max_length={max_length}; "
            "raise data.max_length or try data.overlength=truncate_prompt"
        )
    pairs = tokens.pairs_of_store(store, table, rows[kept], positions[kept])
    report.tokens = int(pairs.lengths.sum())
    return pairs, report


def _report(
    outcome: NDArray[np.uint8], full: NDArray[np.int32], subsets: NDArray[Any], policy: Overlength, limit: int
) -> LengthReport:
    def counts(part: NDArray[Any]) -> dict[str, Any]:
        inside, over = outcome[part], full[part] > limit
        return {
            "pairs": len(inside),
            "kept": int(((inside & tokens.DROPPED) == 0).sum()),
            "overlength_chosen": int(over[:, 0].sum()),
            "overlength_rejected": int(over[:, 1].sum()),
            "dropped_overlength": int(((inside & tokens.DROPPED) > 0).sum()),
            "truncated_prompts": int(((inside & tokens.TRUNCATED_PROMPT) > 0).sum()),
            "truncated_chosen": int(((inside & tokens.TRUNCATED_CHOSEN) > 0).sum()),
            "truncated_rejected": int(((inside & tokens.TRUNCATED_REJECTED) > 0).sum()),
            "read_alike": int(((inside & (tokens.ALIKE | tokens.DROPPED)) == tokens.ALIKE).sum()),
        }

    report = LengthReport(
        max_length=limit, overlength=policy.value, longest=int(full.max()), **counts(np.ones(len(outcome), dtype=bool))
    )
    touched = (full > limit).any(axis=1)
    for subset in sorted({str(name) for name in subsets[touched] if name is not None}):
        report.by_subset[subset] = counts(subsets == subset)
    return report


def summary(report: LengthReport) -> dict[str, Any]:
    """The report as plain values."""
    return dataclasses.asdict(report)


def _encoded(
    pairs: Iterable[PreferencePair], tokenizer: PreTrainedTokenizerBase, text_as: TextAs, key: str
) -> Iterator[list[Ids]]:
    """Of each pair the ids of the prompt (as far as it ends before the answer), of the chosen and the rejected side.

    The next chunk is rendered while the tokenizer's threads, which need no Python, are at work on this one.
    """
    renderer = Renderer(tokenizer, text_as)
    iterator = iter(pairs)

    def rendered() -> list[str]:
        texts: list[str] = []
        for pair in islice(iterator, _CHUNK):
            texts += renderer.texts(answers_of(pair), f"{key}: {pair.where or f'row {pair.id}'}")
        return texts

    with ThreadPoolExecutor(1) as pool:
        texts = rendered()
        while texts:
            coming = pool.submit(rendered)
            ids = ids_of(texts, tokenizer)
            yield from (ids[at : at + 3] for at in range(0, len(ids), 3))
            texts = coming.result()
