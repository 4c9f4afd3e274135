"""Lion, which moves every weight by the same amount."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Lion(torch.optim.Optimizer):
    """Sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675, algorithm 2), with decoupled weight decay.

    c = b1 m + (1 - b1) g;  w <- w - lr (sign(c) + decay w);  m <- b2 m + (1 - b2) g

    One moment of 4 bytes a weight. The paper takes a rate 3 to 10 times smaller than AdamW's, and a decay as many times
    larger.
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of all weights that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["exp_avg"] = torch.zeros_like(weight)
                momentum, (first, second) = state["exp_avg"], group["betas"]
                direction = torch.lerp(weight.grad, momentum, first).sign_()
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
                momentum.lerp_(weight.grad, 1 - second)
