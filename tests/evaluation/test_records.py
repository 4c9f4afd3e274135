"""Records: columns, their order and types, and a round trip through Parquet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerBase

from rm_experiments.config.data_schema import DataConfig
from rm_experiments.data.pairs import PreferencePair, pair_id, prompt_id
from rm_experiments.data.tokenization import tokenize_pairs
from rm_experiments.evaluation.records import COLUMNS, Records, make_records, read_records, write_records


@pytest.fixture
def rewards(pairs: list[PreferencePair]) -> np.ndarray:
    """Values that have no short decimal form."""
    return np.random.default_rng(0).normal(size=2 * len(pairs))


@pytest.fixture
def records(pairs: list[PreferencePair], tokenizer: PreTrainedTokenizerBase, rewards: np.ndarray) -> Records:
    tokenized, _ = tokenize_pairs(pairs, tokenizer, DataConfig(), 20, "data.eval")
    return make_records(tokenized, rewards)


def test_records_hold_one_row_per_pair_in_the_order_of_the_data(
    pairs: list[PreferencePair], tokenizer: PreTrainedTokenizerBase, records: Records, rewards: np.ndarray
) -> None:
    tokenized, _ = tokenize_pairs(pairs, tokenizer, DataConfig(), 20, "data.eval")
    assert list(records) == list(COLUMNS)
    assert records["id"].tolist() == [pair.id for pair in pairs]
    assert records["prompt_id"].tolist() == [prompt_id(pair) for pair in pairs]
    assert records["pair_id"].tolist() == [pair_id(pair) for pair in pairs]
    assert records["subset"].tolist() == [pair.subset for pair in pairs]
    assert records["target_margin"].tolist() == [pair.margin or 0.0 for pair in pairs]
    assert records["reward_chosen"].tolist() == rewards[0::2].tolist()
    assert records["reward_rejected"].tolist() == rewards[1::2].tolist()
    assert records["margin"].tolist() == (rewards[0::2] - rewards[1::2]).tolist()
    assert records["num_tokens_chosen"].tolist() == [len(tokenized.sequence(2 * n)) for n in range(len(pairs))]
    assert records["num_tokens_rejected"].tolist() == [len(tokenized.sequence(2 * n + 1)) for n in range(len(pairs))]
    assert records["num_chars_chosen"].tolist() == [len(pair.chosen) for pair in pairs]
    for name in ("weight", "label", "truncated_chosen", "truncated_rejected"):
        assert records[name].tolist() == tokenized.columns[name].tolist()
    # The last answer alone is longer than the limit.
    assert records["truncated_rejected"][-1]


def test_file_gives_back_every_value(records: Records, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.parquet"
    write_records(records, path)
    again = read_records(path)
    assert list(again) == list(records)
    for name, column in records.items():
        assert again[name].tolist() == column.tolist(), name


def test_file_has_this_schema(records: Records, tmp_path: Path) -> None:
    write_records(records, tmp_path / "records.parquet")
    schema = pq.read_schema(tmp_path / "records.parquet")
    assert [(field.name, str(field.type)) for field in schema] == [
        ("id", "string"),
        ("prompt_id", "string"),
        ("pair_id", "string"),
        ("subset", "string"),
        ("reward_chosen", "double"),
        ("reward_rejected", "double"),
        ("margin", "double"),
        ("target_margin", "double"),
        ("weight", "double"),
        ("label", "double"),
        ("num_tokens_chosen", "int32"),
        ("num_tokens_rejected", "int32"),
        ("num_chars_chosen", "int64"),
        ("num_chars_rejected", "int64"),
        ("truncated_chosen", "bool"),
        ("truncated_rejected", "bool"),
        ("group", "int64"),
        ("answer_chosen", "int64"),
        ("answer_rejected", "int64"),
    ]


def test_records_of_earlier_versions_are_of_preferred_pairs_that_stand_for_themselves(
    records: Records, tmp_path: Path
) -> None:
    write_records(records, tmp_path / "records.parquet")
    added = ["label", "group", "answer_chosen", "answer_rejected"]
    table = pq.read_table(tmp_path / "records.parquet").drop_columns(added)
    pq.write_table(table, tmp_path / "old.parquet")
    old, count = read_records(tmp_path / "old.parquet"), len(records["id"])
    assert list(old) == list(COLUMNS)
    expected = [[1.0] * count, list(range(count)), [0] * count, [1] * count]
    assert [old[name].tolist() for name in added] == expected


def test_nan_stays_a_value_and_a_missing_subset_is_null(records: Records, tmp_path: Path) -> None:
    records["reward_chosen"] = records["reward_chosen"].copy()
    records["reward_chosen"][0] = np.nan
    records["subset"] = np.array([None] * len(records["id"]), dtype=object)
    write_records(records, tmp_path / "records.parquet")
    table = pq.read_table(tmp_path / "records.parquet")
    assert table["reward_chosen"].null_count == 0
    assert np.isnan(read_records(tmp_path / "records.parquet")["reward_chosen"][0])
    assert table["subset"].null_count == len(records["id"])
    assert read_records(tmp_path / "records.parquet")["subset"].tolist() == [None] * len(records["id"])
