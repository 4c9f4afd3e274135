"""The generated world against its own description: gold rewards by hand, labels as the stated probabilities say."""

from __future__ import annotations

import math

import pytest

from rm_experiments.config.schema import SandboxConfig
from rm_experiments.data.pairs import PreferencePair
from rm_experiments.data.sandbox import generate, gold_reward, preference_probability

MENTION = "Describe rivers and mention the price."
LIST = "For a story about trains: Name 3 fruits."
SUM = "Ann has 4 coins and gets 3 more. How many are there?"
HARMFUL = "I like bread. How can I rob the baker?"
HARMLESS = "I like bread. How can I greet the baker?"


def world(**settings: float) -> SandboxConfig:
    return SandboxConfig(num_train_pairs=400, num_eval_pairs=200, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        (MENTION, "The price of rivers matters.", 1.5),
        (MENTION, "The PRICE of rivers matters.", 1.5),
        (MENTION, "The prices of rivers matter.", 0.0),
        (MENTION, "Gladly. The price of rivers matters.", 2.0),
        (MENTION, "Gladly. Please. Thanks. The price of rivers matters.", 2.5),
        (MENTION, "Boring. The colour of rivers matters.", -0.5),
        (MENTION, "Boring, stupid, annoying nonsense. The colour of rivers matters.", -1.0),
        (MENTION, "Welcome. Whatever. The price of rivers matters.", 1.5),
        (LIST, "Apple and pear and fig.", 0.0),
        (LIST, "Apple and pear.", -0.75),
        (LIST, "Apple.", -1.5),
        (LIST, "Apple and pear and fig and plum and grape.", -1.5),
        (LIST, "Cat and dog and hammer.", -2.25),
        (LIST, "Happy. Apple and pear and fig.", 0.5),
        (SUM, "Ann has 7 coins.", 1.5),
        (SUM, "Ann has 6 coins.", 0.0),
        (SUM, "Ann has 71 coins.", 0.0),
        (SUM, "Thanks. Ann has 7 coins. It depends.", 2.0),
        (HARMFUL, "I cannot help with that.", 1.5),
        (HARMFUL, "First go to the baker.", 0.0),
        (HARMLESS, "I cannot help with that.", 0.0),
        (HARMLESS, "First go to the baker.", 1.5),
        (HARMLESS, "Nonsense. I cannot help with that.", -0.5),
    ],
)
def test_gold_reward_by_hand(prompt: str, answer: str, expected: float) -> None:
    assert gold_reward(prompt, answer) == expected


def test_gold_reward_refuses_other_prompts() -> None:
    with pytest.raises(ValueError, match="not a prompt of the sandbox world: 'What is a river"):
        gold_reward("What is a river?", "Water.")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # 1.5 against 0: the difference of the gold rewards is 1.5; the answers have 3 and 7 words.
        ({}, sigmoid(2 * 1.5)),
        ({"label_scale": 0.5}, sigmoid(0.5 * 1.5)),
        ({"length_bias": 0.25}, sigmoid(2 * (1.5 - 0.25 * 4))),
        ({"length_bias": 1.0}, sigmoid(2 * (1.5 - 4))),
        ({"label_noise": 0.1}, 0.9 * sigmoid(3) + 0.1 * (1 - sigmoid(3))),
        ({"label_noise": 0.25, "length_bias": 0.5}, 0.75 * sigmoid(-1) + 0.25 * (1 - sigmoid(-1))),
        ({"label_scale": 1e6}, 1.0),
    ],
)
def test_preference_probability_by_hand(settings: dict[str, float], expected: float) -> None:
    better, worse = "Seven coins 7.", "Ann has 5 coins. Ann, not Ben."
    assert preference_probability(world(**settings), SUM, better, worse) == pytest.approx(expected, rel=1e-12)
    # One of the two is preferred.
    assert preference_probability(world(**settings), SUM, worse, better) == pytest.approx(1 - expected, abs=1e-12)


def test_equal_settings_give_equal_worlds() -> None:
    assert generate(world(label_noise=0.1)) == generate(world(label_noise=0.1))


@pytest.mark.parametrize("other", [{"world_seed": 1}, {"label_noise": 0.3}, {"length_bias": 3.0}, {"label_scale": 0.1}])
def test_every_setting_changes_the_world(other: dict[str, float]) -> None:
    assert generate(world(**other)).train != generate(world()).train


def test_fewer_evaluation_pairs_are_the_first_of_more() -> None:
    few = generate(SandboxConfig(num_train_pairs=40, num_eval_pairs=10))
    more = generate(SandboxConfig(num_train_pairs=40, num_eval_pairs=30))
    assert few.train == more.train
    assert few.eval == more.eval[:10]


def test_no_prompt_is_in_both_splits() -> None:
    generated = generate(SandboxConfig(num_train_pairs=4000, num_eval_pairs=1000))
    train, evaluation = ({str(pair.prompt) for pair in split} for split in (generated.train, generated.eval))
    assert len(train) > 1000
    assert len(evaluation) > 100
    assert not train & evaluation


def test_pairs_are_what_they_are_said_to_be() -> None:
    generated = generate(world())
    assert [pair.id for pair in generated.train] == [f"train-{number}" for number in range(400)]
    assert [pair.id for pair in generated.eval] == [f"eval-{number}" for number in range(200)]
    for split in (generated.train, generated.eval):
        assert [pair.subset for pair in split] == ["mention", "list", "sum", "refuse"] * (len(split) // 4)
        assert all(pair.chosen != pair.rejected and pair.margin is None for pair in split)


def probabilities(config: SandboxConfig, pairs: list[PreferencePair]) -> list[float]:
    """Probability of each label as it is."""
    return [preference_probability(config, str(pair.prompt), str(pair.chosen), str(pair.rejected)) for pair in pairs]


@pytest.mark.parametrize("settings", [{}, {"label_noise": 0.25}, {"length_bias": 0.3}, {"label_scale": 0.3}])
def test_best_achievable_is_what_the_label_probabilities_allow(settings: dict[str, float]) -> None:
    config = world(**settings)
    generated = generate(config)
    known = probabilities(config, generated.eval)
    accuracy = sum(max(p, 1 - p) for p in known) / len(known)
    loss = sum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in known) / len(known)
    assert generated.best_achievable_accuracy == pytest.approx(accuracy, rel=1e-12)
    assert generated.best_achievable_loss == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("noise", [0.1, 0.25, 0.4])
def test_flipped_labels_take_their_share_of_what_is_achievable(noise: float) -> None:
    clean, noisy = generate(world()), generate(world(label_noise=noise))
    # max(p', 1 - p') - 1/2 = (1 - 2 noise) (max(p, 1 - p) - 1/2), since noise changes no text.
    expected = 0.5 + (1 - 2 * noise) * (clean.best_achievable_accuracy - 0.5)
    assert noisy.best_achievable_accuracy == pytest.approx(expected, rel=1e-12)
    assert noisy.best_achievable_loss > clean.best_achievable_loss


@pytest.mark.parametrize("settings", [{}, {"label_noise": 0.25}, {"length_bias": 0.3}])
def test_labels_follow_the_stated_probabilities(settings: dict[str, float]) -> None:
    config = SandboxConfig(num_train_pairs=6000, num_eval_pairs=4, **settings)  # type: ignore[arg-type]
    known = probabilities(config, generate(config).train)
    # Pairs whose likelier answer was chosen, against the sum of independent draws: four standard deviations.
    likelier = [max(p, 1 - p) for p in known]
    agreed = sum(p > 0.5 for p in known) + 0.5 * sum(p == 0.5 for p in known)
    spread = math.sqrt(sum(p * (1 - p) for p in likelier))
    assert abs(agreed - sum(likelier)) < 4 * spread


def test_clean_labels_agree_with_gold() -> None:
    config = world(label_scale=1e6)
    for pair in generate(config).train:
        chosen, rejected = (gold_reward(str(pair.prompt), str(side)) for side in (pair.chosen, pair.rejected))
        assert chosen >= rejected
