"""The labels of the generated world, and what can be achieved on them, against the stated probabilities."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from rm_experiments.config.data_schema import SANDBOX_TASKS, SandboxConfig
from rm_experiments.data.pairs import PreferencePair
from rm_experiments.data.sandbox import (
    SandboxWorld,
    best_achievable,
    generate,
    gold_reward,
    iter_train,
    label_probabilities,
    preference_probability,
)
from rm_experiments.evaluation.metrics import calibration

ALL = list(SANDBOX_TASKS)

MENTION = "Describe rivers and mention the price."
SUM = "Ann has 4 coins and gets 3 more. How many are there?"


def world(**settings: Any) -> SandboxConfig:
    return SandboxConfig(**{"num_train_pairs": 400, "num_eval_pairs": 200, **settings})


def sides(pair: PreferencePair) -> tuple[str, str, str]:
    return str(pair.prompt), str(pair.chosen), str(pair.rejected)


def gaps(pairs: list[PreferencePair]) -> list[float]:
    """Gold reward of chosen minus rejected."""
    return [gold_reward(prompt, a) - gold_reward(prompt, b) for prompt, a, b in map(sides, pairs)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


BETTER, WORSE = "Seven coins 7.", "Ann has 5 coins. Ann, not Ben."
"""1.5 against 0: the difference of the gold rewards is 1.5; the answers have 3 and 7 words."""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, sigmoid(2 * 1.5)),
        ({"label_scale": 0.5}, sigmoid(0.5 * 1.5)),
        ({"length_bias": 0.25}, sigmoid(2 * (1.5 - 0.25 * 4))),
        ({"length_bias": 1.0}, sigmoid(2 * (1.5 - 4))),
        ({"label_noise": 0.1}, 0.9 * sigmoid(3) + 0.1 * (1 - sigmoid(3))),
        ({"label_noise": 0.25, "length_bias": 0.5}, 0.75 * sigmoid(-1) + 0.25 * (1 - sigmoid(-1))),
        ({"label_scale": 1e6}, 1.0),
        ({"style_confound": 0.9}, sigmoid(3)),
        ({"ties": 0.5}, sigmoid(2) / (sigmoid(2) + sigmoid(-4))),
    ],
)
def test_preference_probability_by_hand(settings: dict[str, float], expected: float) -> None:
    assert preference_probability(world(**settings), SUM, BETTER, WORSE) == pytest.approx(expected, rel=1e-12)
    # One of the two is preferred.
    assert preference_probability(world(**settings), SUM, WORSE, BETTER) == pytest.approx(1 - expected, abs=1e-12)


def test_label_probabilities_with_ties_by_hand() -> None:
    assert label_probabilities(world(ties=0.5), SUM, BETTER, WORSE) == pytest.approx((sigmoid(2), sigmoid(-4)))
    assert label_probabilities(world(ties=1.5), SUM, BETTER, WORSE)[0] == pytest.approx(0.5)
    noisy = label_probabilities(world(ties=0.5, label_noise=0.2), SUM, BETTER, WORSE)
    assert noisy == pytest.approx((0.8 * sigmoid(2) + 0.2 * sigmoid(-4), 0.2 * sigmoid(2) + 0.8 * sigmoid(-4)))


@pytest.mark.parametrize("ties", [0.0, 0.5])
def test_label_probabilities_once_the_style_marker_is_seen_by_hand(ties: float) -> None:
    config = world(ties=ties, style_confound=0.6)
    first, second = sigmoid(2 * (1.5 - ties)), sigmoid(2 * (-1.5 - ties))
    # The marker is on the preferred answer with probability 0.8, on either one of a tie with 0.5.
    on_first = 0.8 * first, 0.2 * second, 0.5 * (1 - first - second)
    on_second = 0.2 * first, 0.8 * second, 0.5 * (1 - first - second)
    marked_better, marked_worse = BETTER[:-1] + "!", WORSE[:-1] + "!"
    seen_first = label_probabilities(config, SUM, marked_better, WORSE)
    seen_second = label_probabilities(config, SUM, BETTER, marked_worse)
    assert seen_first == pytest.approx((on_first[0] / sum(on_first), on_first[1] / sum(on_first)))
    assert seen_second == pytest.approx((on_second[0] / sum(on_second), on_second[1] / sum(on_second)))
    assert label_probabilities(config, SUM, marked_better, marked_worse) == pytest.approx((first, second))


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"label_noise": 0.25}, {"length_bias": 0.3}, {"style_confound": 0.5}, {"ties": 0.4},
        {"ties": 0.4, "style_confound": 0.5, "label_noise": 0.1, "length_bias": 0.1, "tasks": ALL},
    ],
)  # fmt: skip
def test_labels_follow_the_stated_probabilities(settings: dict[str, Any]) -> None:
    config = world(num_train_pairs=6000, **settings)
    pairs = list(iter_train(config))
    known = [label_probabilities(config, *sides(pair)) for pair in pairs]
    tied = [max(0.0, 1 - first - second) for first, second in known]
    num_ties = sum(pair.label == 0.5 for pair in pairs)
    assert {pair.label for pair in pairs} == ({0.5, 1.0} if config.ties else {1.0})
    assert abs(num_ties - sum(tied)) <= 5 * math.sqrt(sum(p * (1 - p) for p in tied)) + 1e-9
    # Pairs whose likelier answer was chosen, against the sum of independent draws: five standard deviations.
    decided = [first / (first + second) for pair, (first, second) in zip(pairs, known, strict=True) if pair.label == 1]
    likelier = [max(p, 1 - p) for p in decided]
    agreed = sum(p > 0.5 for p in decided) + 0.5 * sum(p == 0.5 for p in decided)
    assert abs(agreed - sum(likelier)) < 5 * math.sqrt(sum(p * (1 - p) for p in likelier))


def test_clean_labels_agree_with_gold() -> None:
    for pair in iter_train(world(label_scale=1e6, tasks=ALL)):
        prompt, chosen, rejected = sides(pair)
        assert gold_reward(prompt, chosen) >= gold_reward(prompt, rejected)


# What can be achieved.


@pytest.mark.parametrize("settings", [{}, {"label_noise": 0.25}, {"length_bias": 0.3}, {"style_confound": 0.7}])
def test_best_achievable_is_what_the_label_probabilities_allow(settings: dict[str, float]) -> None:
    config = world(**settings)
    generated = generate(config)
    known = [preference_probability(config, *sides(pair)) for pair in generated.eval]
    accuracy = sum(max(p, 1 - p) for p in known) / len(known)
    loss = sum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in known) / len(known)
    assert generated.best_achievable_accuracy == pytest.approx(accuracy, rel=1e-12)
    assert generated.best_achievable_loss == pytest.approx(loss, rel=1e-12)
    # Brier: p (1 - p)^2 + (1 - p) p^2 = p (1 - p).
    assert generated.best_achievable["brier"] == pytest.approx(sum(p * (1 - p) for p in known) / len(known), rel=1e-12)


def pair_of(prompt: str, chosen: str, rejected: str, label: float = 1.0) -> PreferencePair:
    return PreferencePair(id="", prompt=prompt, chosen=chosen, rejected=rejected, label=label)


def test_best_achievable_of_a_small_world_by_hand() -> None:
    # A scale at which a difference of 1.5 has the odds 3 to 1. The probabilities of the chosen answers are 0.75 of the
    # first pair, `second` for 0 against 2, and 0.5 for 0 against 0.
    config = world(label_scale=math.log(3) / 1.5)
    pairs = [
        pair_of(SUM, "Ann has 7.", "Ann has 5."),
        pair_of(MENTION, "The smell matters.", "Thanks. Please. The price matters. Whatever."),
        pair_of(SUM, "Ann has 5.", "Ann has 6."),
    ]
    second = 1 / (1 + 3 ** (2 / 1.5))
    best = best_achievable(config, pairs)

    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    assert best["accuracy"] == pytest.approx((0.75 + (1 - second) + 0.5) / 3)
    assert best["loss"] == pytest.approx((entropy(0.75) + entropy(second) + math.log(2)) / 3)
    assert best["brier"] == pytest.approx((0.75 * 0.25 + second * (1 - second) + 0.25) / 3)
    # Each pair is alone in its bin: right with 0.75, wrong with 1 - second, half right with 0.5.
    assert best["ece"] == pytest.approx((0.25 + (1 - second) + 0) / 3)


def test_best_achievable_with_a_tie_by_hand() -> None:
    config = world(ties=0.5)
    first, other = sigmoid(2), sigmoid(-4)
    best = best_achievable(config, [pair_of(SUM, BETTER, WORSE), pair_of(SUM, BETTER, WORSE, label=0.5)])
    p = first / (first + other)
    q = first + (1 - first - other) / 2
    assert best["accuracy"] == pytest.approx(p)
    assert best["brier"] == pytest.approx(p * (1 - p))
    assert best["loss"] == pytest.approx(-q * math.log(q) - (1 - q) * math.log(1 - q))
    assert best["loss_without_ties"] == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))


def test_no_accuracy_is_achievable_where_all_are_ties() -> None:
    best = best_achievable(world(ties=20.0), [pair_of(SUM, BETTER, WORSE, label=0.5)])
    assert best == pytest.approx({"loss": math.log(2)})
    generated = generate(world(ties=20.0, num_eval_pairs=4))
    assert math.isnan(generated.best_achievable_accuracy)


@pytest.mark.parametrize("settings", [{}, {"label_noise": 0.3}, {"style_confound": 0.8, "tasks": ALL}])
def test_the_calibration_error_is_that_of_the_metrics(settings: dict[str, Any]) -> None:
    config = world(**settings)
    generated = generate(config)
    known = np.array([preference_probability(config, *sides(pair)) for pair in generated.eval])
    records = {"margin": np.log(known / (1 - known)), "weight": np.ones(200), "label": np.ones(200)}
    assert generated.best_achievable["ece"] == pytest.approx(calibration(records)["ece"], abs=1e-9)


@pytest.mark.parametrize("noise", [0.1, 0.25, 0.4])
def test_flipped_labels_take_their_share_of_what_is_achievable(noise: float) -> None:
    clean, noisy = generate(world()), generate(world(label_noise=noise))
    # max(p', 1 - p') - 1/2 = (1 - 2 noise) (max(p, 1 - p) - 1/2), since noise changes no text.
    expected = 0.5 + (1 - 2 * noise) * (clean.best_achievable_accuracy - 0.5)
    assert noisy.best_achievable_accuracy == pytest.approx(expected, rel=1e-12)
    assert noisy.best_achievable_loss > clean.best_achievable_loss


# The shifted set.


@pytest.mark.parametrize("settings", [{}, {"label_noise": 0.2}, {"ties": 0.3, "contradictions": 0.5}])
def test_without_a_confound_there_is_no_shifted_set(settings: dict[str, float]) -> None:
    generated = generate(world(**settings))
    assert (generated.shifted, generated.shifted_best_achievable) == ([], {})


def bare(text: object) -> str:
    return str(text)[:-1]


@pytest.mark.parametrize("settings", [{"length_bias": 0.3}, {"style_confound": 0.9, "label_noise": 0.2, "ties": 0.4}])
def test_the_shifted_set_has_the_texts_of_the_evaluation_set(settings: dict[str, float]) -> None:
    generated = generate(world(**settings))
    for one, other in zip(generated.eval, generated.shifted, strict=True):
        assert one.prompt == other.prompt
        assert {bare(one.chosen), bare(one.rejected)} == {bare(other.chosen), bare(other.rejected)}
        assert other.label == 1


def share_within(count: int, total: int, p: float) -> bool:
    """Whether a count is within five standard deviations of a binomial's mean."""
    return abs(count - total * p) < 5 * math.sqrt(total * p * (1 - p))


def marked(pairs: list[PreferencePair]) -> int:
    """Pairs with the marker on the chosen side; every pair has one marker."""
    assert all(str(pair.chosen).endswith("!") != str(pair.rejected).endswith("!") for pair in pairs)
    return sum(str(pair.chosen).endswith("!") for pair in pairs)


def test_the_style_marker_foretells_labels_everywhere_but_in_the_shifted_set() -> None:
    generated = generate(world(num_train_pairs=4000, num_eval_pairs=2000, style_confound=0.8, tasks=ALL))
    assert share_within(marked(generated.train), 4000, 0.9)
    assert share_within(marked(generated.eval), 2000, 0.9)
    assert share_within(marked(generated.shifted), 2000, 0.5)


def test_a_full_style_confound_gives_the_label_away() -> None:
    generated = generate(world(style_confound=1.0))
    assert marked(generated.train) == 400
    best = {"accuracy": 1.0, "loss": 0.0, "loss_without_ties": 0.0, "brier": 0.0, "ece": 0.0}
    assert generated.best_achievable == pytest.approx(best, abs=1e-12)


def test_the_style_marker_is_on_either_side_of_a_tie() -> None:
    config = world(num_train_pairs=4000, style_confound=1.0, ties=0.5)
    ties = [pair for pair in iter_train(config) if pair.label == 0.5]
    assert share_within(marked(ties), len(ties), 0.5)
    assert len(ties) > 500


def test_there_is_no_marker_without_a_style_confound() -> None:
    assert not any("!" in side for pair in iter_train(world(tasks=ALL)) for side in sides(pair))


def longer(pairs: list[PreferencePair]) -> int:
    """Pairs of equal gold reward whose longer answer was chosen, less those whose shorter one was."""
    equal = [pair for pair, gap in zip(pairs, gaps(pairs), strict=True) if gap == 0]
    more = [len(str(pair.chosen).split()) - len(str(pair.rejected).split()) for pair in equal]
    return sum(d > 0 for d in more) - sum(d < 0 for d in more)


def test_length_decides_everywhere_but_in_the_shifted_set() -> None:
    generated = generate(world(num_train_pairs=4000, num_eval_pairs=4000, length_bias=3.0))
    equal = sum(gap == 0 for gap in gaps(generated.shifted))
    assert longer(generated.train) > 300
    assert longer(generated.eval) > 300
    assert abs(longer(generated.shifted)) < 5 * math.sqrt(equal)


def shifted_is_labelled_by_gold(generated: SandboxWorld, config: SandboxConfig) -> None:
    known = [preference_probability(config, *sides(pair)) for pair in generated.shifted]
    likelier = [max(p, 1 - p) for p in known]
    agreed = sum(p > 0.5 for p in known) + 0.5 * sum(p == 0.5 for p in known)
    assert abs(agreed - sum(likelier)) < 5 * math.sqrt(sum(p * (1 - p) for p in likelier))
    assert generated.shifted_best_achievable["accuracy"] == pytest.approx(sum(likelier) / len(known), rel=1e-12)


@pytest.mark.parametrize("settings", [{"length_bias": 1.0}, {"style_confound": 0.9, "label_noise": 0.3, "ties": 0.5}])
def test_the_shifted_set_is_labelled_by_the_gold_reward_alone(settings: dict[str, float]) -> None:
    plain = SandboxConfig(num_train_pairs=4, num_eval_pairs=2000)
    shifted_is_labelled_by_gold(generate(dataclasses.replace(plain, **settings)), plain)  # type: ignore[arg-type]


# Strengths and rankings.


def test_strengths_follow_the_difference_that_annotators_see() -> None:
    settings = {"length_bias": 0.4, "ties": 0.3, "label_scale": 3.0}
    config = world(num_train_pairs=2000, strengths=True, **settings)
    pairs = list(iter_train(config))
    assert [sides(one) for one in pairs] == [sides(one) for one in iter_train(world(num_train_pairs=2000, **settings))]
    for pair in pairs:
        prompt, chosen, rejected = sides(pair)
        words = len(chosen.split()) - len(rejected.split())
        difference = abs(gold_reward(prompt, chosen) - gold_reward(prompt, rejected) + 0.4 * words)
        expected = 0 if pair.label == 0.5 else 1 if difference < 1 else 2 if difference < 2 else 3
        assert pair.margin == expected
    assert {pair.margin for pair in pairs} == {0, 1, 2, 3}


def test_ranked_responses_give_all_pairs_and_any_two_are_ordered_as_if_compared_alone() -> None:
    config = world(num_train_pairs=6 * 4000, num_responses=4, label_scale=1.0)
    pairs = list(iter_train(config))
    assert len(pairs) == 24000
    rows: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        rows.setdefault(pair.where, []).append(pair)
    assert len(rows) == 4000
    for row in list(rows.values())[:50]:
        best, second, third, worst = (str(row[0].chosen), *(str(pair.rejected) for pair in row[:3]))
        found = [(str(pair.chosen), str(pair.rejected)) for pair in row]
        expected = [(best, second), (best, third), (best, worst), (second, third), (second, worst), (third, worst)]
        assert found == expected
        assert len({best, second, third, worst}) == 4
        assert sum(pair.weight for pair in row) == pytest.approx(1)
        assert len({pair.prompt for pair in row}) == len({pair.subset for pair in row}) == 1
    known = [preference_probability(config, *sides(pair)) for pair in pairs]
    likelier = [p > 0.5 for p in known if p != 0.5]
    mean = sum(max(p, 1 - p) for p in known if p != 0.5)
    assert sum(likelier) == pytest.approx(mean, abs=5 * math.sqrt(len(likelier)))


def test_rankings_leave_the_evaluation_pairs_alone_and_are_cut_at_the_number_of_pairs() -> None:
    ranked, plain = (generate(world(num_train_pairs=100, num_responses=count)) for count in (3, 2))
    assert ranked.eval == plain.eval
    assert len(ranked.train) == 100
    assert ranked.train[:99] == generate(world(num_train_pairs=99, num_responses=3)).train
