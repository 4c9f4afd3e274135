"""Learning-rate factors at chosen steps, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rm_experiments.config.optimizer_schema import SchedulerConfig
from rm_experiments.config.optimizer_validation import SCHEDULE_NAMES
from rm_experiments.training.schedules import SCHEDULES, lr_factor, num_warmup_steps


def half_cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        # Of 10 steps; step 10 is the one that is not taken any more.
        ({"name": "constant"}, {0: 1, 5: 1, 9: 1, 10: 1}),
        ({"name": "constant", "warmup_steps": 4}, {0: 0.25, 1: 0.5, 2: 0.75, 3: 1, 4: 1, 9: 1}),
        ({"name": "linear"}, {0: 1, 1: 0.9, 5: 0.5, 9: 0.1, 10: 0}),
        ({"name": "linear", "warmup_ratio": 0.2}, {0: 0.5, 1: 1, 2: 1, 3: 0.875, 6: 0.5, 9: 0.125, 10: 0}),
        ({"name": "linear", "warmup_ratio": 0.11}, {0: 0.5, 1: 1, 2: 1, 6: 0.5}),
        ({"name": "linear", "min_lr_ratio": 0.2}, {0: 1, 5: 0.6, 10: 0.2}),
        ({"name": "linear", "warmup_steps": 0}, {0: 1, 5: 0.5}),
        ({"name": "linear", "warmup_steps": 10}, {0: 0.1, 4: 0.5, 9: 1}),
        ({"name": "linear", "warmup_steps": 20}, {0: 0.05, 9: 0.5}),
        ({"name": "linear", "warmup_ratio": 1.0}, {0: 0.1, 9: 1}),
        ({"name": "cosine"}, {0: 1, 2: half_cosine(0.2), 5: 0.5, 9: half_cosine(0.9), 10: 0}),
        ({"name": "cosine", "warmup_steps": 2}, {0: 0.5, 1: 1, 2: 1, 4: half_cosine(0.25), 6: 0.5, 10: 0}),
        ({"name": "cosine", "min_lr_ratio": 0.1}, {0: 1, 5: 0.55, 10: 0.1}),
        ({"name": "warmup_stable_decay", "decay_ratio": 0.4}, {0: 1, 5: 1, 6: 1, 7: 0.75, 8: 0.5, 9: 0.25, 10: 0}),
        (
            {"name": "warmup_stable_decay", "decay_ratio": 0.4, "warmup_ratio": 0.2, "min_lr_ratio": 0.5},
            {0: 0.5, 1: 1, 2: 1, 6: 1, 7: 0.875, 8: 0.75, 9: 0.625, 10: 0.5},
        ),
        ({"name": "warmup_stable_decay", "decay_ratio": 1.0}, {0: 1, 5: 0.5, 10: 0}),
        # The decay cannot take more than what the warm-up leaves.
        ({"name": "warmup_stable_decay", "decay_ratio": 0.5, "warmup_steps": 6}, {5: 1, 6: 1, 8: 0.5, 10: 0}),
    ],
)
def test_factor_by_hand(settings: dict[str, Any], factors: dict[int, float]) -> None:
    config = SchedulerConfig(**settings)
    assert {step: lr_factor(config, step, 10) for step in factors} == pytest.approx(factors, abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "max_steps", "expected"),
    [
        ({}, 100, 0),
        ({"warmup_ratio": 0.05}, 100, 5),
        ({"warmup_ratio": 0.05}, 101, 6),
        ({"warmup_ratio": 0.001}, 10, 1),
        ({"warmup_ratio": 1.0}, 7, 7),
        ({"warmup_steps": 3}, 100, 3),
        ({"warmup_steps": 0}, 100, 0),
    ],
)
def test_warmup_is_as_set_or_its_share_rounded_up(settings: dict[str, Any], max_steps: int, expected: int) -> None:
    assert num_warmup_steps(SchedulerConfig(**settings), max_steps) == expected


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
@pytest.mark.parametrize("max_steps", [1, 2, 3, 17, 1000])
@pytest.mark.parametrize("warmup", [{}, {"warmup_ratio": 0.1}, {"warmup_steps": 5}])
@pytest.mark.parametrize("end", [0.0, 0.3])
def test_no_step_is_wasted_and_the_rate_rises_once_then_falls(
    name: str, max_steps: int, warmup: dict[str, Any], end: float
) -> None:
    decay_ratio = 0.2 if name == "warmup_stable_decay" else None
    config = SchedulerConfig(name=name, min_lr_ratio=end, decay_ratio=decay_ratio, **warmup)
    factors = [lr_factor(config, step, max_steps) for step in range(max_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    warmed = num_warmup_steps(config, max_steps)
    assert factors[:warmed] == sorted(factors[:warmed])
    assert factors[warmed:] == sorted(factors[warmed:], reverse=True)
    # The peak is reached by every run that is as long as its warm-up, and nothing after it falls below the end.
    assert warmed > max_steps or max(factors) == 1
    assert all(factor >= end for factor in factors[warmed:])


def test_names_that_the_config_allows_are_those_that_exist() -> None:
    assert set(SCHEDULE_NAMES) == set(SCHEDULES)
