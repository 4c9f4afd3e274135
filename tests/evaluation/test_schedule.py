"""The steps after which evaluation happens, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from rm_experiments.config.schema import EvalConfig
from rm_experiments.evaluation.schedule import evaluation_steps


@pytest.mark.parametrize(
    ("settings", "max_steps", "steps_per_epoch", "expected"),
    [
        ({"at_end": False}, 10, 5, []),
        ({}, 10, 5, [10]),
        ({"at_start": True}, 10, 5, [0, 10]),
        ({"at_start": True, "at_end": False}, 10, 5, [0]),
        ({"every_steps": 3}, 10, 5, [3, 6, 9, 10]),
        ({"every_steps": 3, "at_end": False}, 10, 5, [3, 6, 9]),
        ({"every_steps": 5}, 10, 5, [5, 10]),
        ({"every_steps": 20}, 10, 5, [10]),
        ({"every_steps": 20, "at_end": False}, 10, 5, []),
        ({"every_fraction": 0.1}, 10, 5, list(range(1, 11))),
        ({"every_fraction": 0.1}, 1000, 5, list(range(100, 1001, 100))),
        ({"every_fraction": 0.25}, 10, 5, [2, 5, 8, 10]),
        ({"every_fraction": 0.3, "at_end": False}, 10, 5, [3, 6, 9]),
        ({"every_fraction": 1.0, "at_end": False}, 7, 5, [7]),
        # More fractions than steps: every step, never step 0.
        ({"every_fraction": 0.1}, 4, 5, [1, 2, 3, 4]),
        ({"every_fraction": 0.1}, 1, 5, [1]),
        ({"every_epochs": 1}, 10, 5, [5, 10]),
        ({"every_epochs": 1}, 12, 5, [5, 10, 12]),
        ({"every_epochs": 1, "at_end": False}, 12, 5, [5, 10]),
        ({"every_epochs": 0.4, "at_end": False}, 10, 5, [2, 4, 6, 8, 10]),
        ({"every_epochs": 3}, 10, 5, [10]),
        ({"log_spaced": 4, "at_end": False}, 1000, 5, [1, 10, 100, 1000]),
        ({"log_spaced": 3, "at_end": False}, 64, 5, [1, 8, 64]),
        ({"log_spaced": 2, "at_end": False}, 7, 5, [1, 7]),
        ({"log_spaced": 1, "at_end": False}, 7, 5, [7]),
        ({"log_spaced": 12}, 1, 5, [1]),
        # Together.
        ({"every_steps": 4, "every_epochs": 1, "at_start": True}, 10, 5, [0, 4, 5, 8, 10]),
        ({"every_fraction": 0.5, "log_spaced": 3}, 100, 5, [1, 10, 50, 100]),
    ],
)
def test_due_steps(settings: dict[str, Any], max_steps: int, steps_per_epoch: int, expected: list[int]) -> None:
    assert sorted(evaluation_steps(EvalConfig(**settings), max_steps, steps_per_epoch)) == expected


@pytest.mark.parametrize("max_steps", [*range(1, 40), 1500])
@pytest.mark.parametrize("fraction", [0.1, 0.05, 1 / 3, 0.7, 1.0])
def test_fractions_hit_the_end_when_they_divide_it_and_never_leave_the_run(max_steps: int, fraction: float) -> None:
    steps = evaluation_steps(EvalConfig(every_fraction=fraction, at_end=False), max_steps, 5)
    assert all(1 <= step <= max_steps for step in steps)
    assert (max_steps in steps) == (fraction != 0.7 or round(0.7 * max_steps) == max_steps or max_steps == 1)
    assert len(steps) == min(max_steps, int(1 / fraction + 1e-9))
