"""What the heads of an ensemble agree on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from rm_experiments.config.data_schema import DataConfig
from rm_experiments.config.heads import Heads, heads_of
from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.schema import RunConfig
from rm_experiments.data.pairs import PreferencePair
from rm_experiments.data.tokenization import tokenize_pairs
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.evaluation.ensemble import ensemble_metrics
from rm_experiments.evaluation.evaluate import objective_of
from rm_experiments.evaluation.metrics import metrics
from rm_experiments.evaluation.pairs import select
from rm_experiments.evaluation.records import has_heads, make_records, read_records, write_records

THREE = heads_of(RunConfig(loss=LossConfig(num_heads=3)))


@pytest.fixture
def tokenized(pairs: list[PreferencePair], tokenizer: PreTrainedTokenizerBase) -> TokenizedPairs:
    return tokenize_pairs(pairs, tokenizer, DataConfig(), 20, "data.eval")[0]


@pytest.fixture
def given(tokenized: TokenizedPairs) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(size=(2 * len(tokenized), 3))


def test_the_reward_is_the_heads_mean_and_all_is_kept_in_a_file(
    tokenized: TokenizedPairs, given: np.ndarray, tmp_path: Path
) -> None:
    records = make_records(tokenized, given, THREE)
    assert records["reward_chosen"] == pytest.approx(given[::2].mean(axis=1))
    assert records["margin"] == pytest.approx((given[::2] - given[1::2]).mean(axis=1))
    assert records["spread_rejected"] == pytest.approx(given[1::2].std(axis=1))
    write_records(records, tmp_path / "eval.parquet")
    again = read_records(tmp_path / "eval.parquet")
    assert again.keys() == records.keys()
    for name in ("heads_chosen", "heads_rejected", "spread_chosen", "spread_rejected"):
        assert np.array_equal(again[name], records[name])
    assert again["heads_chosen"].shape == (len(tokenized), 3)
    assert metrics(again, objective_of(LossConfig(num_heads=3)), 100) == metrics(
        records, objective_of(LossConfig(num_heads=3)), 100
    )


def test_of_one_head_there_is_nothing_to_agree_on(tokenized: TokenizedPairs, given: np.ndarray) -> None:
    records = make_records(tokenized, given[:, 0])
    assert not has_heads(records)
    assert ensemble_metrics(records) == {}
    two = Heads(kind="quality_and_length", names=("quality", "length"), weights=(1.0, 0.0))
    records = make_records(tokenized, given[:, :2], two)
    assert np.array_equal(records["reward_chosen"], given[::2, 0])
    assert has_heads(records)
    assert ensemble_metrics(records) == {}


def test_metrics_by_hand(tokenized: TokenizedPairs) -> None:
    """Two pairs, heads of which the mean is right and wrong."""
    rewards = np.array([[2.0, 4.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 4.0, -2.0]])
    records = make_records(tokenized.first(2), rewards, THREE)
    weight = np.array([1.0, 3.0])
    records = {**records, "weight": weight, "label": np.ones(2)}
    spreads = rewards.std(axis=1)
    found = ensemble_metrics(records)
    assert found["disagreement"] == pytest.approx((spreads[0] + spreads[1] + 3 * spreads[2] + 3 * spreads[3]) / 8)
    # Lowest rewards 0 against 1, and 0 against -2.
    assert found["worst_case_accuracy"] == 3 / 4
    # 2 - .5 * 8/3 = .667 against 1; 0 against 1 - .5 * 6 = -2.
    assert found["uncertainty_weighted_accuracy"] == 3 / 4
    assert found["disagreement_right"] == pytest.approx(np.std([1, 3, -1]))
    assert found["disagreement_wrong"] == pytest.approx(np.std([-1, -4, 2]))
    only = ensemble_metrics(select(records, np.array([True, False])))
    assert "disagreement_wrong" not in only
    tie = ensemble_metrics({**records, "label": np.full(2, 0.5)})
    assert list(tie) == ["disagreement"]


def test_the_objective_is_that_of_the_heads(tokenized: TokenizedPairs, given: np.ndarray) -> None:
    records = make_records(tokenized, given, THREE)
    # Whatever the resamples in training: these are other pairs, and all of them count.
    config = LossConfig(num_heads=3)
    each = np.logaddexp(0, given[1::2] - given[::2])
    assert objective_of(config)(records) == pytest.approx(each.mean(axis=1), rel=1e-12)
