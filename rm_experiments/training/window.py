"""Training metrics over the steps since the last log line: sums on the device, read once per line."""

from __future__ import annotations

import torch
from torch import Tensor

_SUMS = ("loss", "accuracy", "margin", "chosen", "rejected", "count", "grad_norm", "steps", "tokens")
"""What is added up, in the order of the vector. All but grad_norm and steps are sums over pairs or tokens."""


class MetricWindow:
    """Exact means, minimum and maximum over all pairs of the window, on any number of processes."""

    def __init__(self, device: torch.device) -> None:
        # MPS has no float64.
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.sums = torch.zeros(len(_SUMS), dtype=self._dtype, device=self._device)
        self.extrema = torch.full((2,), float("-inf"), dtype=self._dtype, device=self._device)
        """[2]: maximum of -reward, maximum of reward."""

    def add_pairs(self, losses: Tensor, chosen: Tensor, rejected: Tensor, tokens: int) -> None:
        """A micro-batch: losses, rewards_chosen and rewards_rejected [n], and its number of real tokens."""
        losses, chosen, rejected = (value.detach().to(self._dtype) for value in (losses, chosen, rejected))
        margin = chosen - rejected
        count = torch.full_like(margin, 1.0)
        columns = torch.stack([losses, (margin > 0).to(self._dtype), margin, chosen, rejected, count])
        self.sums[:6] += columns.sum(dim=1)
        self.sums[8] += tokens
        rewards = torch.cat([chosen, rejected])
        self.extrema = torch.maximum(self.extrema, torch.stack([(-rewards).max(), rewards.max()]))

    def add_step(self, grad_norm: Tensor | None) -> None:
        """An optimizer step, the same on all processes."""
        self.sums[7] += 1
        if grad_norm is not None:
            self.sums[6] += grad_norm.to(self._dtype)

    def read(self) -> dict[str, float]:
        """The metrics with prefix `train_`, over all processes; empty when there was no step. Waits for the device."""
        sums, extrema = self.sums.clone(), self.extrema.clone()
        world_size = 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            world_size = torch.distributed.get_world_size()
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(extrema, op=torch.distributed.ReduceOp.MAX)
        total = dict(zip(_SUMS, sums.tolist(), strict=True))
        if not total["count"]:
            return {}
        low, high = extrema.tolist()
        count, steps = total["count"], total["steps"] / world_size
        return {
            "train_loss": total["loss"] / count,
            "train_accuracy": total["accuracy"] / count,
            "train_margin": total["margin"] / count,
            "train_min_reward": -low,
            "train_mean_reward": (total["chosen"] + total["rejected"]) / (2 * count),
            "train_max_reward": high,
            "train_mean_chosen_reward": total["chosen"] / count,
            "train_mean_rejected_reward": total["rejected"] / count,
            "train_grad_norm": total["grad_norm"] / world_size / steps if steps else float("nan"),
            "train_num_pairs": count,
            "train_num_tokens": total["tokens"],
        }
