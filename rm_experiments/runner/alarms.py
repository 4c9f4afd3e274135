"""What a person should hear of while a run goes on: pure functions of what is logged, each said once."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping

_LINES = 20
"""Log lines that a loss is compared with."""
_FEWEST = 5
_SPIKE = 2.0
"""Times the median of the lines before. A loss that doubles within a line is not noise: the mean over some hundred
pairs moves by a few hundredths."""
_FLOOR = 0.1
"""Nats. Losses near 0 double easily."""
_CONSTANT = 1e-4
"""Logits, as in `evaluation.sanity`."""
_FAR = 100.0
"""Logits. Half of float16's and bfloat16's differences of answers are lost to rounding from here on."""


class Alarms:
    """Remembers the last losses, and what was said."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_LINES)
        self._said: set[str] = set()

    def of_training(self, step: int, values: Mapping[str, float]) -> list[str]:
        """Lines about a log line: a loss that jumps, rewards whose level runs away.

        A spike is said each time, the rest once.
        """
        lines, loss = [], values["train_loss"]
        usual = statistics.median(self._losses) if len(self._losses) >= _FEWEST else math.inf
        if loss > _SPIKE * usual and loss > usual + _FLOOR:
            lines.append(
                f"Warning: step {step}: the loss jumped to {loss:.3g}, {loss / usual:.1f} times its usual {usual:.3g}; "
                "if it stays there, try a lower optimizer.lr or train.max_grad_norm"
            )
        self._losses.append(loss)
        mean = values["train_mean_reward"]
        if abs(mean) > _FAR:
            lines += self._once(
                "far",
                f"Warning: step {step}: the mean reward is {mean:.3g}; only differences are trained, and their digits "
                "get lost at this level; try loss=bradley_terry_centered",
            )
        return lines

    def of_evaluation(self, step: int, values: Mapping[str, float]) -> list[str]:
        """Lines about the metrics of the main set: rewards that are all the same."""
        spread = values["eval_std_reward"]
        if step == 0 or spread >= _CONSTANT:
            return []
        return self._once(
            "constant",
            f"Warning: step {step}: all rewards are the same but for {spread:.1g}: the model tells no answers "
            "apart; is optimizer.lr too high or too low?",
        )

    def _once(self, kind: str, line: str) -> list[str]:
        if kind in self._said:
            return []
        self._said.add(kind)
        return [line]
