"""What is off and what is not: each threshold from both sides."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rm_experiments.evaluation.records import Records
from rm_experiments.evaluation.sanity import Finding, findings, findings_of_set

LN2 = math.log(2)


def make(margin: Any, **columns: Any) -> Records:
    """Records of these margins, made of rewards that have nothing in common with each other."""
    margin = np.array(margin, dtype=float)
    count = len(margin)
    level = np.random.default_rng(count).normal(size=count)
    columns = {
        "prompt_id": [str(number) for number in range(count)], "label": [1.0] * count, "weight": [1.0] * count,
        "num_chars_chosen": [9] * count, "num_chars_rejected": [9] * count, "reward_rejected": level,
        "reward_chosen": level + margin, **columns,
    }  # fmt: skip
    prompts = np.array(columns.pop("prompt_id"), dtype=object)
    return {"margin": margin, "prompt_id": prompts, **{name: np.array(one) for name, one in columns.items()}}


def healthy(count: int = 400, seed: int = 0) -> Records:
    """A calibrated model that is right in 73 % of the pairs and does not look at lengths."""
    generator = np.random.default_rng(seed)
    margin = generator.normal(0, 1.5, count)
    margin = np.where(generator.uniform(size=count) < 1 / (1 + np.exp(-margin)), margin, -margin)
    lengths = generator.integers(10, 200, size=(2, count))
    return make(margin, num_chars_chosen=lengths[0], num_chars_rejected=lengths[1])


def right_of(right: int, count: int = 100) -> np.ndarray:
    """Margins of which `right` have the right sign, small enough to be calibrated whatever the accuracy is."""
    return np.where(np.arange(count) < right, 1.0, -1.0) * np.linspace(0.1, 0.2, count)


def kinds(records: Records, name: str = "eval", best: float | None = None) -> list[str]:
    return [one.kind for one in findings_of_set(records, name, best)]


def evaluation(step: int, **metrics: float) -> dict[str, Any]:
    return {"kind": "eval", "step": step, **{f"eval_{name}": value for name, value in metrics.items()}}


@pytest.mark.parametrize("seed", range(10))
def test_a_healthy_run_has_no_findings(seed: int) -> None:
    history = [
        evaluation(0, loss=0.70, std_reward=0.1, mean_reward=0.0, num_pairs=400),
        {"kind": "train", "step": 5, "train_loss": 0.6},
        evaluation(10, loss=0.55, std_reward=1.5, mean_reward=1.0, num_pairs=400),
    ]
    sets = {"eval": healthy(seed=seed)}
    assert findings(sets, history=history, fresh_head=True, best_achievable={"eval": 0.78}) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ({"loss": LN2 + 0.0499, "std_reward": 0.0}, False),
        ({"loss": LN2 + 0.0501, "std_reward": 0.0}, True),
        ({"loss": LN2 - 0.0501, "std_reward": 0.0}, True),
        # Few pairs: 3 * 1 / sqrt(2 * 8) = 0.75 more.
        ({"loss": LN2 + 0.799, "std_reward": 1.0, "num_pairs": 8}, False),
        ({"loss": LN2 + 0.801, "std_reward": 1.0, "num_pairs": 8}, True),
        ({"loss": math.nan, "std_reward": 1.0}, False),
    ],
)
def test_loss_before_the_first_step(line: dict[str, float], found: bool) -> None:
    history = [evaluation(0, **line), evaluation(10, loss=5.0)]
    seen = findings({}, history=history, fresh_head=True)
    assert [(one.kind, one.severity) for one in seen] == [("start", "serious")] * found
    assert findings({}, history=history, fresh_head=False) == []
    assert findings({}, history=history[1:], fresh_head=True) == []


@pytest.mark.parametrize(("last", "found"), [(3.0, False), (-3.0, False), (3.01, True), (-3.01, True)])
def test_drift_of_the_mean_reward(last: float, found: bool) -> None:
    history = [
        evaluation(0, mean_reward=0.0, std_reward=0.1),
        evaluation(5, mean_reward=last / 2, std_reward=0.5),
        evaluation(10, mean_reward=last, std_reward=1.0),
    ]
    assert [one.kind for one in findings({}, history=history)] == ["drift"] * found
    assert findings({}, history=history[-1:]) == []


def test_a_level_that_went_and_came_back_has_drifted() -> None:
    history = [evaluation(step, mean_reward=mean, std_reward=1.0) for step, mean in enumerate((0.0, 300.0, 0.0))]
    (found,) = findings({}, history=history)
    assert found.line == (
        "Notice: the mean reward moved between 0 and 300, 300.0 standard deviations of the rewards; only differences "
        "are trained. A fixed threshold or 16-bit rewards would suffer; loss=bradley_terry_centered holds the level"
    )


@pytest.mark.parametrize(("spread", "found"), [(0.99e-4, True), (1.01e-4, False), (0.0, True)])
def test_constant_rewards(spread: float, found: bool) -> None:
    rewards = 7 + spread * np.array([1.0, -1.0] * 50)
    records = make(np.zeros(100), reward_chosen=rewards, reward_rejected=rewards[::-1])
    seen = findings_of_set(records)
    # Nothing else is said of a model that says nothing.
    assert ([one.kind for one in seen] == ["constant"]) == found
    if found:
        assert seen[0].severity == "serious"


@pytest.mark.parametrize(("ties", "count", "found"), [(2, 100, False), (3, 301, False), (3, 300, True), (9, 90, True)])
def test_exact_ties(ties: int, count: int, found: bool) -> None:
    margin = np.where(np.arange(count) < ties, 0.0, right_of(80 * count // 100, count))
    assert ("ties" in kinds(make(margin))) == found


def test_saturation_begins_where_float32_has_no_more_digits() -> None:
    limit = 25 * LN2
    for below, share in ((limit - 0.01, 1), (limit + 0.01, 0)):
        assert (1 - np.float32(1 / (1 + np.exp(-below))) > 0) == bool(share)
    signs = np.where(np.arange(100) % 4 > 0, 1, -1)
    half = np.where(np.arange(100) < 50, limit + 0.01, limit - 0.01)
    assert "saturated" not in kinds(make(half * signs))
    half[50] = limit
    (found,) = [one for one in findings_of_set(make(half * signs)) if one.kind == "saturated"]
    assert found.severity == "serious"
    assert found.sentence.startswith("51% of the margins are beyond 17.3, where sigmoid is 0 or 1 in float32")


@pytest.mark.parametrize(("bits", "name"), [(16, "bfloat16"), (13, "float16")])
def test_rewards_that_went_through_sixteen_bits(bits: int, name: str) -> None:
    """Both types are float32 without its last bits, as long as the exponent fits."""
    records = healthy(60)
    for side in ("chosen", "rejected"):
        single = records[f"reward_{side}"].astype(np.float32).view(np.uint32)
        records[f"reward_{side}"] = ((single >> bits) << bits).view(np.float32).astype(np.float64)
    (found,) = [one for one in findings_of_set(records) if one.kind == "rounded"]
    assert f"different rewards are {name} numbers: they are rounded somewhere" in found.sentence
    # A single reward of full precision, and nothing can have been rounded.
    records["reward_chosen"][3] += 2.0**-20
    assert "rounded" not in kinds(records)


@pytest.mark.parametrize(("different", "found"), [(39, True), (40, False)])
def test_few_different_rewards(different: int, found: bool) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=different)[np.arange(80) % different]
    records = make(values[:40] - values[40:], reward_chosen=values[:40], reward_rejected=values[40:])
    assert ("rounded" in kinds(records)) == found


def test_answers_that_stand_in_many_pairs_are_no_sign_of_rounding() -> None:
    # All 36 pairs of 9 answers, for 20 prompts: 1440 rewards, 180 of them different.
    first, second = np.triu_indices(9, 1)
    rewards = np.sort(np.random.default_rng(0).normal(size=(20, 9)), axis=1)
    chosen, rejected = rewards[:, second].ravel(), rewards[:, first].ravel()
    prompts = np.repeat([str(one) for one in range(20)], 36)
    records = make(chosen - rejected, reward_chosen=chosen, reward_rejected=rejected, prompt_id=prompts)
    assert "rounded" not in kinds(records)


@pytest.mark.parametrize(("right", "found"), [(34, True), (36, False)])
def test_accuracy_below_chance(right: int, found: bool) -> None:
    # 3 standard errors of 100 coins are 0.15.
    seen = [one for one in findings_of_set(make(right_of(right))) if one.kind == "below_chance"]
    assert len(seen) == found
    if found:
        assert seen[0].severity == "serious"
        assert "accuracy 0.340 on 100 pairs is below chance beyond doubt" in seen[0].line
        (other,) = [one for one in findings_of_set(make(right_of(right)), "hard") if one.kind == "below_chance"]
        assert (other.severity, other.eval_set) == ("notice", "hard")


def test_pairs_of_one_prompt_do_not_make_chance_unlikely() -> None:
    together = make(right_of(34), prompt_id=np.repeat([str(one) for one in range(10)], 10))
    assert "below_chance" not in kinds(together)


def test_pairs_without_a_right_side_do_not_count() -> None:
    margin = np.concatenate([right_of(80), np.full(300, -0.15)])
    assert "below_chance" in kinds(make(margin))
    assert "below_chance" not in kinds(make(margin, label=np.where(np.arange(400) < 100, 1.0, 0.5)))
    assert kinds(make(right_of(3), label=np.full(100, 0.5))) == []


@pytest.mark.parametrize(("right", "found"), [(91, False), (93, True)])
def test_accuracy_above_what_is_achievable(right: int, found: bool) -> None:
    # 3 standard errors at 0.8 are 0.12.
    records = make(np.where(right_of(right) > 0, 2.0, -0.1) + np.linspace(0, 0.01, 100))
    assert ("leak" in kinds(records, best=0.8)) == found
    assert "leak" not in kinds(records, best=None)
    named = findings({"eval": records, "other": records}, best_achievable={"other": 0.8})
    assert [one.eval_set for one in named if one.kind == "leak"] == ["other"] * found


@pytest.mark.parametrize(
    ("longer", "right", "found"), [(66, 66, True), (66, 67, False), (64, 60, False), (34, 66, True), (34, 67, False)]
)
def test_accuracy_of_a_rule_that_sees_lengths_only(longer: int, right: int, found: bool) -> None:
    """The labels lean to one length beyond doubt from 0.65 on."""
    # Right and longer in no relation to each other.
    order = np.random.default_rng(1).permutation(100)
    chosen = np.where(order < longer, 11, 9)
    records = make(right_of(right), num_chars_chosen=chosen, num_chars_rejected=[10] * 100)
    seen = [one for one in findings_of_set(records) if one.kind == "length"]
    assert len(seen) == found
    if found:
        assert f"of always taking the {'longer' if longer > 50 else 'shorter'} answer" in seen[0].sentence
        assert "accuracy 0.660 is not above the 0.660" in seen[0].sentence


@pytest.mark.parametrize(("share", "found"), [(0.49, False), (0.51, True), (-0.51, True)])
def test_margins_that_follow_lengths(share: float, found: bool) -> None:
    generator = np.random.default_rng(0)
    length, other = generator.normal(size=(2, 1000))
    length = (length * 1000).round()
    # Made uncorrelated, so that the correlation is exactly the share.
    other -= other.mean() + (length - length.mean()) * (np.cov(length, other)[0, 1] / length.var(ddof=1))
    standard = (length - length.mean()) / length.std()
    margin = 0.7 + share * standard + math.sqrt(1 - share**2) * other / other.std()
    records = make(margin, num_chars_chosen=5000 + length, num_chars_rejected=np.full(1000, 5000.0))
    seen = [one for one in findings_of_set(records) if one.kind == "length"]
    assert len(seen) == found
    if found:
        assert f"({share:+.2f}): {'longer' if share > 0 else 'shorter'} answers are rated higher" in seen[0].sentence
        few = {name: column[:12] for name, column in records.items()}
        assert "length" not in kinds(few)


@pytest.mark.parametrize(("error", "count", "found"), [(0.04, 10_000, False), (0.06, 10_000, True), (0.06, 100, False)])
def test_calibration_counts_where_it_is_large_and_no_chance(error: float, count: int, found: bool) -> None:
    # All are 78 % sure, and so many fewer are right.
    margin = np.full(count, math.log(0.78 / 0.22)) + np.linspace(-0.001, 0.001, count)
    right = round((0.78 - error) * count)
    margin[right:] *= -1
    seen = [one for one in findings_of_set(make(margin)) if one.kind == "calibration"]
    assert len(seen) == found
    if found:
        # 3.29 standard errors of sqrt(0.72 * 0.28 / 10,000), larger than that of a calibrated model.
        assert "error 0.060 (a calibrated model stays below 0.015 on these pairs)" in seen[0].sentence
        # ln(78 / 22) / ln(72 / 28)
        assert "too sure of itself; dividing rewards by 1.34 fits" in seen[0].sentence


def test_the_serious_come_first_and_say_where() -> None:
    probe = [Finding(kind="swapped_sides", severity="serious", sentence="no")]
    history = [evaluation(step, mean_reward=9.0 * step, std_reward=1.0) for step in (0, 1)]
    seen = findings({"eval": make(right_of(20)), "other": make(right_of(20))}, history=history, probe=probe)
    assert [(one.kind, one.severity, one.eval_set) for one in seen][:3] == [
        ("swapped_sides", "serious", None), ("below_chance", "serious", "eval"), ("drift", "notice", None),
    ]  # fmt: skip
    assert seen[1].line.startswith("Serious: eval: accuracy 0.200")
    assert seen[0].plain() == {"kind": "swapped_sides", "severity": "serious", "eval_set": None, "sentence": "no"}


def test_sets_of_a_single_pair_say_nothing() -> None:
    for margin in (3.0, -3.0):
        assert kinds(make([margin]), best=0.5) == []
