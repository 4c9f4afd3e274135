"""Training metrics over the steps since the last log line: sums on the device, read once per line."""

from __future__ import annotations

import torch
from torch import Tensor

_SUMS = (
    "loss", "margin", "chosen", "rejected", "weight", "accuracy", "decided", "count", "grad_norm", "steps", "tokens",
)  # fmt: skip
"""What is added up, in the order of the vector. The first seven are weighted sums over pairs; `decided` is the weight
of the pairs whose label is no tie."""


class MetricWindow:
    """Exact weighted means, minimum and maximum over all pairs of the window, on any number of processes."""

    def __init__(self, device: torch.device, language: bool = False) -> None:
        """`language`: whether pairs have a loss of a language-model term, too."""
        # MPS has no float64.
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._device = device
        self._names = (*_SUMS, "lm_loss") if language else _SUMS
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.sums = torch.zeros(len(self._names), dtype=self._dtype, device=self._device)
        self.extrema = torch.full((2,), float("-inf"), dtype=self._dtype, device=self._device)
        """[2]: maximum of -reward, maximum of reward."""

    def add_pairs(
        self, losses: Tensor, chosen: Tensor, rejected: Tensor, weight: Tensor, label: Tensor, tokens: int,
        lm_losses: Tensor | None = None,
    ) -> None:  # fmt: skip
        """A micro-batch: losses, rewards, weights and labels [n], its number of real tokens, and the term's losses."""
        losses, chosen, rejected, weight = (
            value.detach().to(self._dtype) for value in (losses, chosen, rejected, weight)
        )
        margin, decided = chosen - rejected, (label != 0.5).to(self._dtype)
        one = torch.ones_like(margin)
        columns = torch.stack([losses, margin, chosen, rejected, one, (margin > 0) * decided, decided])
        self.sums[:7] += (columns * weight).sum(dim=1)
        self.sums[7] += len(margin)
        self.sums[10] += tokens
        if lm_losses is not None:
            self.sums[11] += (lm_losses.detach().to(self._dtype) * weight).sum()
        rewards = torch.cat([chosen, rejected])
        self.extrema = torch.maximum(self.extrema, torch.stack([(-rewards).max(), rewards.max()]))

    def add_step(self, grad_norm: Tensor | None) -> None:
        """An optimizer step, the same on all processes."""
        self.sums[9] += 1
        if grad_norm is not None:
            self.sums[8] += grad_norm.to(self._dtype)

    def read(self) -> dict[str, float]:
        """The metrics with prefix `train_`, over all processes; empty when there was no step. Waits for the device."""
        sums, extrema = self.sums.clone(), self.extrema.clone()
        world_size = 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            world_size = torch.distributed.get_world_size()
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(extrema, op=torch.distributed.ReduceOp.MAX)
        total = dict(zip(self._names, sums.tolist(), strict=True))
        if not total["count"]:
            return {}
        low, high = extrema.tolist()
        weight, steps = total["weight"], total["steps"] / world_size
        # Pairs whose label is a tie have no right side.
        accuracy = {"train_accuracy": total["accuracy"] / total["decided"]} if total["decided"] else {}
        language = {"train_lm_loss": total["lm_loss"] / weight} if "lm_loss" in total else {}
        return {
            "train_loss": total["loss"] / weight,
            **language,
            **accuracy,
            "train_margin": total["margin"] / weight,
            "train_min_reward": -low,
            "train_mean_reward": (total["chosen"] + total["rejected"]) / (2 * weight),
            "train_max_reward": high,
            "train_mean_chosen_reward": total["chosen"] / weight,
            "train_mean_rejected_reward": total["rejected"] / weight,
            "train_grad_norm": total["grad_norm"] / world_size / steps if steps else float("nan"),
            "train_num_pairs": total["count"],
            "train_num_tokens": total["tokens"],
        }
