"""The probe with swapped sides passes what rewards texts, in every layout, and finds what rewards places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from accelerate import Accelerator

from rm_experiments.config.schema import Attention, Layout, RunConfig
from rm_experiments.data.tokens import TRUNCATED_CHOSEN, TRUNCATED_PROMPT, TRUNCATED_REJECTED, TokenizedPairs
from rm_experiments.evaluation.evaluate import evaluate
from rm_experiments.evaluation.records import Records, make_records
from rm_experiments.evaluation.swapped import findings_of_swap, swapped, swapped_probe
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.reward_model import build_reward_model
from rm_experiments.runner.prepare import Prepared, prepare


@pytest.fixture(scope="module")
def config(compose: Callable[..., RunConfig]) -> RunConfig:
    return compose("data.sandbox.num_eval_pairs=40")


@pytest.fixture(scope="module")
def prepared(config: RunConfig) -> Prepared:
    return prepare(config)


@pytest.fixture(scope="module")
def pairs(prepared: Prepared) -> TokenizedPairs:
    return prepared.evaluation["eval"]


def by_text(pairs: TokenizedPairs) -> Records:
    """A reward that is a function of the tokens."""
    return make_records(pairs, np.array([np.sin(pairs.sequence(one)).sum() for one in range(2 * len(pairs))]))


@pytest.mark.parametrize("layout", [Layout.padded, Layout.packed, Layout.shared_prefix])
def test_a_real_model_passes_in_every_layout(
    accelerator: Accelerator, config: RunConfig, prepared: Prepared, pairs: TokenizedPairs, layout: Layout
) -> None:
    model = build_reward_model(config.model, prepared.model_config, 0).reward_model
    pad_id = int(prepared.tokenizer.pad_token_id)
    batcher, _ = choose_layout(model, layout, pad_id, config.model.attention is not Attention.auto)
    seen: list[Records] = []

    def measure(few: TokenizedPairs) -> Records:
        seen.append(evaluate(accelerator, model, few, batcher, 700))
        return seen[-1]

    assert swapped_probe(pairs, measure, "fp32") == []
    before, after = seen
    assert len(before["margin"]) == 32
    assert np.ptp(before["margin"]) > 0.01
    assert after["margin"] == pytest.approx(-before["margin"], abs=1e-5)


def test_swapped_pairs_have_each_others_tokens(pairs: TokenizedPairs) -> None:
    few = pairs.first(3)
    few.outcome = np.array([TRUNCATED_CHOSEN, TRUNCATED_REJECTED, TRUNCATED_PROMPT | TRUNCATED_CHOSEN], dtype=np.uint8)
    other = swapped(few)
    for pair in range(3):
        assert other.sequence(2 * pair).tolist() == few.sequence(2 * pair + 1).tolist()
        assert other.sequence(2 * pair + 1).tolist() == few.sequence(2 * pair).tolist()
    assert other.outcome.tolist() == [TRUNCATED_REJECTED, TRUNCATED_CHOSEN, TRUNCATED_PROMPT | TRUNCATED_REJECTED]
    back = swapped(other)
    assert back.outcome.tolist() == few.outcome.tolist()
    assert back.lengths.tolist() == few.lengths.tolist()
    assert few.sequence(0).tolist() != few.sequence(1).tolist()


@pytest.mark.parametrize(("count", "probed"), [(1, 1), (7, 7), (40, 40), (100, 40)])
def test_the_probe_takes_pairs_from_all_of_the_set(pairs: TokenizedPairs, count: int, probed: int) -> None:
    asked: list[TokenizedPairs] = []

    def measure(few: TokenizedPairs) -> Records:
        asked.append(few)
        return by_text(few)

    assert swapped_probe(pairs, measure, "fp32", count) == []
    assert [len(one) for one in asked] == [probed] * 2
    assert asked[0].rows[0] == pairs.rows[0]
    if probed > 1:
        assert asked[0].rows[-1] == pairs.rows[-1]
    assert len(set(asked[0].rows.tolist())) == probed


def test_a_reward_for_the_place_is_found(pairs: TokenizedPairs) -> None:
    def measure(few: TokenizedPairs) -> Records:
        return make_records(few, np.tile([2.0, 1.0], len(few)))

    (found,) = swapped_probe(pairs, measure, "fp32", 10)
    assert (found.kind, found.severity) == ("swapped_sides", "serious")
    assert found.sentence == (
        "with chosen and rejected in each other's place, 10 of 10 pairs get other rewards (by up to 1), and the "
        "accuracy goes from 1.00 to 1.00 instead of 0.00: a reward depends on more than its text, so no number of this "
        "run can be trusted"
    )


def records(chosen: list[float], rejected: list[float]) -> Records:
    one, other = np.array(chosen), np.array(rejected)
    return {"reward_chosen": one, "reward_rejected": other, "margin": one - other}


@pytest.mark.parametrize(
    ("scale", "off", "found"), [(1, 0.009, 0), (1, 0.011, 1), (100, 0.9, 0), (100, 1.1, 1), (0.1, 0.009, 0)]
)
def test_float_noise_is_relative_to_the_largest_reward_or_one(scale: float, off: float, found: int) -> None:
    before, after = records([scale, 0.0], [0.0, 0.0]), records([0.0, 0.0], [scale, off])
    seen = findings_of_swap(before, after, tolerance=0.01)
    assert len(seen) == found
    if found:
        assert "1 of 2 pairs" in seen[0].sentence
        # One right, one tie: neither is right the other way round.
        assert "from 0.50 to 0.00 instead of 0.00" in seen[0].sentence


def test_a_reward_that_is_no_number_is_found() -> None:
    assert len(findings_of_swap(records([1.0], [0.0]), records([np.nan], [1.0]), 0.1)) == 1
