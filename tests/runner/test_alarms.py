"""What is warned of while a run goes on."""

from __future__ import annotations

import pytest

from rm_experiments.runner.alarms import Alarms


def losses(alarms: Alarms, *values: float) -> list[str]:
    lines = []
    for step, value in enumerate(values, 1):
        lines += alarms.of_training(step, {"train_loss": value, "train_mean_reward": 0.0})
    return lines


def test_a_loss_that_jumps_is_said_with_what_is_usual() -> None:
    assert losses(Alarms(), 0.7, 0.6, 0.5, 0.6, 0.6, 1.5) == [
        "Warning: step 6: the loss jumped to 1.5, 2.5 times its usual 0.6; if it stays there, try a lower optimizer.lr "
        "or train.max_grad_norm"
    ]


@pytest.mark.parametrize(
    "values",
    [
        (0.7, 0.6, 0.5, 0.6, 5.0),  # too few lines to know what is usual
        (0.7, 0.6, 0.5, 0.6, 0.6, 1.19),  # less than twice
        (0.01, 0.01, 0.02, 0.01, 0.01, 0.05),  # near 0
    ],
)
def test_ordinary_losses_are_not(values: tuple[float, ...]) -> None:
    assert losses(Alarms(), *values) == []


def test_a_level_that_runs_away_is_said_once() -> None:
    alarms = Alarms()
    lines = [alarms.of_training(step, {"train_loss": 0.5, "train_mean_reward": -150.0}) for step in (1, 2)]
    assert [len(one) for one in lines] == [1, 0]
    assert lines[0][0].startswith("Warning: step 1: the mean reward is -150; only differences are trained")


def test_constant_rewards_are_said_once_and_not_before_training() -> None:
    alarms = Alarms()
    assert alarms.of_evaluation(0, {"eval_std_reward": 0.0}) == []
    assert alarms.of_evaluation(5, {"eval_std_reward": 0.1}) == []
    assert alarms.of_evaluation(10, {"eval_std_reward": 1e-6})[0].startswith(
        "Warning: step 10: all rewards are the same"
    )
    assert alarms.of_evaluation(15, {"eval_std_reward": 1e-6}) == []
