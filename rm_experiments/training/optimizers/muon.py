"""Muon for matrices, together with AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """The matrices inside the layers by Muon (Jordan et al. 2024), the rest by AdamW: embeddings, head, norms, biases.

    Muon's steps have the size of AdamW's (0.2 sqrt(max(rows, columns)), Liu et al. 2025, arXiv:2502.16982), so that one
    learning rate and one decay suit both. Groups with `by_muon` are Muon's.
    """

    def __init__(self, params: Any, lr: float, momentum: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0, "by_muon": False})
        self._parts: list[torch.optim.Optimizer] = []
        for by_muon in (True, False):
            groups = [group for group in self.param_groups if group["by_muon"] == by_muon]
            if groups and by_muon:
                self._parts.append(torch.optim.Muon(groups, lr=lr, momentum=momentum, adjust_lr_fn="match_rms_adamw"))
            elif groups:
                self._parts.append(torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True))
        self._share()

    def _share(self) -> None:
        """Let the parts work on the groups and the state of this optimizer."""
        for part in self._parts:
            by_muon = isinstance(part, torch.optim.Muon)
            part.param_groups = [group for group in self.param_groups if group["by_muon"] == by_muon]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; the parts go on with it."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of all weights that have a gradient."""
        assert closure is None
        for part in self._parts:
            part.step()
