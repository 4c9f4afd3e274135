"""AdamW without a schedule: what is evaluated and saved is an average of the weights over the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_SCALARS = ("step", "weight_sum", "lr_max")


class ScheduleFreeAdamW(torch.optim.Optimizer):
    """Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682, algorithm 1).

    Gradients are taken at y = (1 - b1) z + b1 x, where z are the weights that AdamW moves (without a first moment), and
    x is their average, weighted by the square of the largest rate so far. `eval` puts x into the model, `train` y. Both
    are kept, so that y is the same to the bit however often a run is evaluated: 12 bytes of state a weight.
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._shows_average = False

    @torch.no_grad()
    def eval(self) -> None:
        """Put the averages into the model."""
        if not self._shows_average:
            self._put(lambda state, group: state["average"])
        self._shows_average = True

    @torch.no_grad()
    def train(self) -> None:
        """Put the weights into the model at which gradients are taken."""
        if self._shows_average:
            self._put(_between)
        self._shows_average = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's. What is saved with a state are the averages, which then are in the model."""
        super().load_state_dict(state_dict)
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for number, values in state_dict["state"].items():
            # torch has made them float32, on the weights' device.
            self.state[weights[number]] |= {key: values[key].to("cpu", torch.float64) for key in _SCALARS}
        self._shows_average = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of all weights that have a gradient; in the mode of `train`."""
        assert closure is None
        assert not self._shows_average
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        state, lr, (_, second) = self.state[weight], float(group["lr"]), group["betas"]
        if not state:
            state |= {key: torch.zeros((), dtype=torch.float64) for key in _SCALARS}
            state["fast"], state["average"] = weight.detach().clone(), weight.detach().clone()
            state["exp_avg_sq"] = torch.zeros_like(weight)
        state["step"] += 1
        state["lr_max"].clamp_(min=lr)
        share = float(state["lr_max"]) ** 2
        state["weight_sum"] += share
        state["exp_avg_sq"].mul_(second).addcmul_(weight.grad, weight.grad, value=1 - second)
        size = (state["exp_avg_sq"] / (1 - second ** float(state["step"]))).sqrt_().add_(group["eps"])
        direction = (weight.grad / size).add_(weight, alpha=group["weight_decay"])
        state["fast"].sub_(direction, alpha=lr)
        state["average"].lerp_(state["fast"], share / float(state["weight_sum"]))
        weight.copy_(_between(state, group))

    def _put(self, value: Callable[[dict[str, Tensor], dict[str, Any]], Tensor]) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight in self.state:
                    weight.copy_(value(self.state[weight], group))


def _between(state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
    return torch.lerp(state["fast"], state["average"], group["betas"][0])
