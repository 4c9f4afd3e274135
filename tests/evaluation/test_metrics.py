"""Every metric by hand on six records, and what no metric may depend on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.errors import DataError
from rm_experiments.evaluation.evaluate import objective_of
from rm_experiments.evaluation.metrics import (
    calibration,
    core_metrics,
    interval,
    length_bias,
    metrics,
    negative_log_sigmoid,
    prefixed,
    select,
    slug,
)
from rm_experiments.evaluation.records import COLUMNS, Records

PLAIN = objective_of(LossConfig())
LN3 = math.log(3)
"""sigmoid(ln 3) = 3/4"""


def make(chosen: list[float], rejected: list[float], **columns: Any) -> Records:
    """Records of these rewards; other columns have plain values unless given."""
    count = len(chosen)
    columns = {
        "id": [str(number) for number in range(count)],
        "prompt_id": [str(number) for number in range(count)],
        "pair_id": [str(number) for number in range(count)],
        "subset": [None] * count,
        "target_margin": [0.0] * count,
        "weight": [1.0] * count,
        "label": [1.0] * count,
        "num_tokens_chosen": [5] * count,
        "num_tokens_rejected": [5] * count,
        "num_chars_chosen": [9] * count,
        "num_chars_rejected": [9] * count,
        "truncated_chosen": [False] * count,
        "truncated_rejected": [False] * count,
        "group": list(range(count)),
        "answer_chosen": [0] * count,
        "answer_rejected": [1] * count,
        "reward_chosen": chosen,
        "reward_rejected": rejected,
        "margin": [one - two for one, two in zip(chosen, rejected, strict=True)],
        **columns,
    }
    text = ("id", "prompt_id", "pair_id", "subset")
    return {name: np.array(columns[name], dtype=object if name in text else None) for name in COLUMNS}


@pytest.fixture
def records() -> Records:
    """Margins ln 3, -ln 3, 0, ln 3, 0, 2 ln 3."""
    return make(
        [LN3, 0.0, 2.0, LN3 + 1, -1.0, LN3],
        [0.0, LN3, 2.0, 1.0, -1.0, -LN3],
        subset=["a b", "a b", None, "c", "c", "c"],
        num_chars_chosen=[10, 10, 10, 5, 20, 7],
        num_chars_rejected=[5, 20, 10, 10, 10, 10],
        target_margin=[1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    )


def nls(x: float) -> float:
    return math.log(1 + math.exp(-x))


LOSS = (2 * nls(LN3) + nls(-LN3) + 2 * math.log(2) + nls(2 * LN3)) / 6
CORE = {
    "loss": LOSS,
    "accuracy": 3 / 6,
    "ties": 2 / 6,
    "margin": 3 * LN3 / 6,
    "min_reward": -LN3,
    "max_reward": LN3 + 1,
    "mean_reward": (3 * LN3 + 4) / 12,
    "mean_chosen_reward": (3 * LN3 + 2) / 6,
    "mean_rejected_reward": 2 / 6,
}


def test_core_metrics_by_hand(records: Records) -> None:
    values = core_metrics(records)
    rewards = [LN3, 0, 2, LN3 + 1, -1, LN3, 0, LN3, 2, 1, -1, -LN3]
    mean = sum(rewards) / 12
    spread = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / 12)
    assert values == pytest.approx({**CORE, "std_reward": spread}, rel=1e-12)


def test_calibration_by_hand(records: Records) -> None:
    # Confidences 3/4 (right, wrong, right), 1/2 (two ties, half right) and 9/10 (right), in bins of their own.
    gap = abs(2 - 3 * 0.75) + abs(1 - 2 * 0.5) + abs(1 - 0.9)
    brier = (2 * 0.25**2 + 0.75**2 + 2 * 0.5**2 + 0.1**2) / 6
    values = calibration(records)
    assert 1.04 < values.pop("temperature") < 1.06
    assert values == pytest.approx({"ece": gap / 6, "brier": brier}, rel=1e-12)


@pytest.mark.parametrize(("bins", "expected"), [(1, abs(3 + 1 - (3 * 0.75 + 1 + 0.9)) / 6), (2, (0.0 + 0.15) / 6)])
def test_calibration_adds_up_inside_a_bin(records: Records, bins: int, expected: float) -> None:
    # Of two bins, the first holds the ties only; 3/4 falls into the second with 9/10.
    assert calibration(records, bins)["ece"] == pytest.approx(expected, abs=1e-12)


def test_calibration_of_certain_and_wrong_predictions() -> None:
    assert calibration(make([1e4], [-1e4])) == pytest.approx({"ece": 0, "brier": 0})
    assert calibration(make([-1e4], [1e4])) == pytest.approx({"ece": 1, "brier": 1})


def test_length_metrics_by_hand(records: Records) -> None:
    # Differences 5, -10, 0, -5, 10, -3 of margins 1, -1, 0, 1, 0, 2 (times ln 3).
    difference, margin = [5, -10, 0, -5, 10, -3], [1, -1, 0, 1, 0, 2]
    mean_difference, mean_margin = sum(difference) / 6, sum(margin) / 6
    pairs = [(d - mean_difference, m - mean_margin) for d, m in zip(difference, margin, strict=True)]
    correlation = sum(d * m for d, m in pairs) / math.sqrt(sum(d * d for d, _ in pairs) * sum(m * m for _, m in pairs))
    assert length_bias(records) == pytest.approx(
        {
            "pick_longest": 2.5 / 6,
            "accuracy_chosen_shorter": 2 / 3,
            "accuracy_chosen_longer": 1 / 2,
            "length_controlled_accuracy": (2 / 3 + 1 / 2) / 2,
            "length_correlation": correlation,
        },
        rel=1e-12,
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "rewards", "names"),
    [
        ([5, 5], [5, 5], [1.0, 2.0], {"pick_longest"}),
        ([9, 8], [5, 5], [1.0, 2.0], {"pick_longest", "accuracy_chosen_longer", "length_correlation"}),
        ([3, 2], [5, 5], [1.0, 2.0], {"pick_longest", "accuracy_chosen_shorter", "length_correlation"}),
        ([3, 2], [5, 5], [1.0, 1.0], {"pick_longest", "accuracy_chosen_shorter"}),
    ],
)
def test_length_metrics_that_are_not_defined_are_left_out(
    chosen: list[int], rejected: list[int], rewards: list[float], names: set[str]
) -> None:
    records = make(rewards, [0.0, 0.0], num_chars_chosen=chosen, num_chars_rejected=rejected)
    assert set(length_bias(records)) == names


def test_a_rule_that_knows_lengths_only_has_a_length_controlled_accuracy_of_one_half() -> None:
    chosen, rejected = [9, 9, 9, 2], [5, 5, 5, 5]
    records = make([9.0, 9.0, 9.0, 2.0], [5.0] * 4, num_chars_chosen=chosen, num_chars_rejected=rejected)
    values = core_metrics(records) | length_bias(records)
    assert values["accuracy"] == values["pick_longest"] == 0.75
    assert values["length_controlled_accuracy"] == 0.5


@pytest.mark.parametrize("sign", [1, -1])
def test_length_correlation_of_a_model_that_only_measures_length(sign: int) -> None:
    records = make([3.0, 1.0, -4.0], [0.0] * 3, num_chars_chosen=[9 + sign * 3, 9 + sign, 9 - sign * 4])
    assert length_bias(records)["length_correlation"] == pytest.approx(sign, rel=1e-12)


def test_all_metrics_of_a_set(records: Records) -> None:
    values = metrics(records, objective_of(LossConfig(use_margin=True)), resamples=50)
    own_loss = (nls(LN3 - 1) + nls(-LN3) + 2 * math.log(2) + nls(LN3) + nls(2 * LN3)) / 6
    # Resampled: both of a prompt of its own, one right; three of which one is wrong.
    of_subsets = {
        f"{name}_{key}": value
        for name, subset in (("a-b", "a b"), ("c", "c"))
        for key, value in interval(select(records, records["subset"] == subset), 50).items()
    }
    subsets = {
        **of_subsets,
        "a-b_accuracy": 0.5,
        "a-b_loss": (nls(LN3) + nls(-LN3)) / 2,
        "a-b_margin": 0.0,
        "a-b_num_pairs": 2,
        "c_accuracy": 2 / 3,
        "c_loss": (nls(LN3) + math.log(2) + nls(2 * LN3)) / 3,
        "c_margin": LN3,
        "c_num_pairs": 3,
    }
    rest = {**core_metrics(records), **calibration(records), **length_bias(records), **interval(records, 50)}
    expected = {**rest, **subsets, "objective": own_loss, "num_pairs": 6}
    assert values == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    "loss", [LossConfig(label_smoothing=0.1), LossConfig(center_coefficient=0.5), LossConfig(use_margin=True)]
)
def test_objective_is_the_training_loss_and_loss_is_the_plain_one(records: Records, loss: LossConfig) -> None:
    values = metrics(records, objective_of(loss), resamples=5)
    assert values["loss"] == pytest.approx(LOSS, rel=1e-12)
    assert abs(values["objective"] - LOSS) > 1e-3
    assert metrics(records, PLAIN, resamples=5)["objective"] == pytest.approx(LOSS, rel=1e-12)


def repeated(records: Records, times: list[int]) -> Records:
    return {name: np.repeat(column, times) for name, column in records.items()}


def test_whole_weights_count_as_that_many_rows(records: Records) -> None:
    times = [3, 1, 2, 1, 4, 1]
    weighted = {**records, "weight": np.array(times, dtype=np.float64)}
    values, expected = metrics(weighted, PLAIN, 50), metrics(repeated(records, times), PLAIN, 50)
    counts = [name for name in values if name.endswith("num_pairs")]
    assert {name: values.pop(name) for name in counts} == {"num_pairs": 6, "a-b_num_pairs": 2, "c_num_pairs": 3}
    assert values == pytest.approx({name: expected[name] for name in values}, rel=1e-12, abs=1e-15)


def random_records(seed: int, count: int = 60) -> Records:
    generator = np.random.default_rng(seed)
    chosen, rejected = generator.normal(size=(2, count)).round(1).tolist()
    return make(
        chosen,
        rejected,
        prompt_id=[str(one) for one in generator.integers(count // 3, size=count)],
        subset=[("x", "y", None)[one] for one in generator.integers(3, size=count)],
        weight=generator.uniform(0.5, 2, size=count),
        num_chars_chosen=generator.integers(1, 50, size=count),
        num_chars_rejected=generator.integers(1, 50, size=count),
    )


@pytest.mark.parametrize("seed", range(5))
def test_metrics_do_not_depend_on_the_order_of_the_rows(seed: int) -> None:
    records = random_records(seed)
    order = np.random.default_rng(seed + 100).permutation(60)
    shuffled = select(records, order)  # type: ignore[arg-type]
    assert shuffled["id"].tolist() != records["id"].tolist()
    assert metrics(shuffled, PLAIN, 200) == pytest.approx(metrics(records, PLAIN, 200), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_do_not_depend_on_the_order_of_the_rows_to_the_last_bit(seed: int) -> None:
    # Weights whose sums round by the order of adding, and few enough outcomes that these are drawn, not the prompts.
    generator = np.random.default_rng(seed)
    margins = np.where(generator.random(900) < 0.7, 1.0, -1.0)
    records = make(
        margins.tolist(), [0.0] * 900, prompt_id=[str(one // 3) for one in range(900)],
        subset=["x" if one < 600 else "y" for one in range(900)], weight=generator.choice([0.1, 0.2, 0.3], 900),
    )  # fmt: skip
    order = generator.permutation(900)
    values, expected = (metrics(one, PLAIN, 300) for one in (select(records, order), records))  # type: ignore[arg-type]
    names = [f"{subset}accuracy_ci_{end}" for subset in ("", "x_", "y_") for end in ("low", "high")]
    assert {name: values[name] for name in names} == {name: expected[name] for name in names}


def test_intervals_of_subsets_resample_their_own_prompts() -> None:
    # Prompts of four pairs that are right or wrong together; all of the second subset are right.
    right = np.r_[np.arange(160) < 120, np.ones(80, dtype=bool)]
    records = make(
        np.where(right, 1.0, -1.0).tolist(), [0.0] * 240, subset=["some"] * 160 + ["all"] * 80,
        prompt_id=[str(one // 4) for one in range(240)],
    )  # fmt: skip
    values = metrics(records, PLAIN)
    spread = 1.96 * math.sqrt(0.75 * 0.25 / 40)
    assert values["some_accuracy_ci_low"] == pytest.approx(0.75 - spread, abs=0.02)
    assert values["some_accuracy_ci_high"] == pytest.approx(0.75 + spread, abs=0.02)
    assert (values["all_accuracy_ci_low"], values["all_accuracy_ci_high"]) == (1.0, 1.0)


def test_subset_of_ties_has_no_accuracy_and_no_interval() -> None:
    records = make([1.0, 2.0, 3.0], [0.0] * 3, subset=["x", "x", "y"], label=[1.0, 1.0, 0.5])
    values = metrics(records, PLAIN, 50)
    assert {name for name in values if name.startswith("y_")} == {"y_loss", "y_margin", "y_num_pairs"}
    assert {name for name in values if name.startswith("x_")} == {
        "x_accuracy", "x_accuracy_ci_low", "x_accuracy_ci_high", "x_loss", "x_margin", "x_num_pairs"
    }  # fmt: skip


def test_length_controlled_accuracy_weighs_both_sides_alike() -> None:
    # Chosen longer: three of four right by weight; shorter: one of two. Equal lengths and ties do not count.
    records = make(
        [1.0, -1.0, 1.0, -1.0, 1.0, 1.0], [0.0] * 6, num_chars_chosen=[9, 9, 2, 2, 5, 9], num_chars_rejected=[5] * 6,
        weight=[3.0, 1.0, 1.0, 1.0, 7.0, 7.0], label=[1.0, 1.0, 1.0, 1.0, 1.0, 0.5],
    )  # fmt: skip
    assert length_bias(records)["length_controlled_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2, rel=1e-12)


@pytest.mark.parametrize("shift", [-5.0, 2.5])
def test_a_constant_added_to_all_rewards_changes_their_level_only(shift: float) -> None:
    records = random_records(0)
    # The margin is kept: subtracting anew would round.
    moved = {**records, **{name: records[name] + shift for name in ("reward_chosen", "reward_rejected")}}
    values, expected = metrics(moved, PLAIN, 50), metrics(records, PLAIN, 50)
    for name in ("min_reward", "mean_reward", "max_reward", "mean_chosen_reward", "mean_rejected_reward"):
        expected[name] += shift
    assert values == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_interval_is_that_of_the_binomial_for_independent_prompts() -> None:
    right = np.arange(400) < 300
    records = make(np.where(right, 1.0, -1.0).tolist(), [0.0] * 400)
    values = interval(records)
    spread = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert values["accuracy_ci_low"] == pytest.approx(0.75 - spread, abs=0.005)
    assert values["accuracy_ci_high"] == pytest.approx(0.75 + spread, abs=0.005)


def test_interval_resamples_prompts_not_pairs() -> None:
    # Four pairs of each prompt that are right or wrong together say no more than one.
    right = np.arange(400) < 300
    alone = make(np.where(right, 1.0, -1.0).tolist(), [0.0] * 400)
    prompts = [str(number) for number in range(400)]
    together = repeated({**alone, "prompt_id": np.array(prompts, dtype=object)}, [4] * 400)
    assert interval(together) == interval(alone)


def test_interval_of_a_single_prompt_or_of_equal_outcomes_is_a_point(records: Records) -> None:
    one = {**records, "prompt_id": np.array(["x"] * 6, dtype=object)}
    assert interval(one, 100) == {"accuracy_ci_low": 0.5, "accuracy_ci_high": 0.5}
    assert interval(make([1.0] * 5, [0.0] * 5), 100) == {"accuracy_ci_low": 1.0, "accuracy_ci_high": 1.0}


def test_interval_does_not_depend_on_the_chunk_that_bounds_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    records = random_records(1)
    whole = interval(records, 500)
    monkeypatch.setattr("rm_experiments.evaluation.statistics._CHUNK", 64)
    assert interval(records, 500) == whole


@pytest.mark.parametrize("value", [0.0, 3.5, -3.5, 1e4, -1e4])
def test_negative_log_sigmoid_does_not_overflow(value: float) -> None:
    with np.errstate(all="raise", under="ignore"):
        result = float(negative_log_sigmoid(np.array([value]))[0])
    assert result == pytest.approx(nls(value) if abs(value) < 100 else max(0.0, -value), rel=1e-12)


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        ("alpacaeval-easy", "alpacaeval-easy"),
        ("math prm", "math-prm"),
        ("a_b/c:d", "a-b-c-d"),
        ("v1.5", "v1.5"),
        ("Ü", "-"),
    ],
)
def test_slug_keeps_letters_digits_dots_and_dashes(subset: str, expected: str) -> None:
    assert slug(subset) == expected


def test_subsets_whose_names_make_one_metric_are_refused(records: Records) -> None:
    records["subset"][3:] = "a_b"
    with pytest.raises(DataError, match=r"the subset 'a_b' would make a second metric 'a-b_accuracy'; rename it"):
        metrics(records, PLAIN, 5)


@pytest.mark.parametrize(("name", "expected"), [(None, "eval_accuracy"), ("llmbar", "eval_llmbar_accuracy")])
def test_prefix_names_the_set(name: str | None, expected: str) -> None:
    assert prefixed({"accuracy": 0.5}, name) == {expected: 0.5}


def test_select_takes_the_rows_of_every_column(records: Records) -> None:
    part = select(records, records["margin"] == 0)
    assert part["id"].tolist() == ["2", "4"]
    assert {len(column) for column in part.values()} == {2}
