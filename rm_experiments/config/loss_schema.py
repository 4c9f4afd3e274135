"""The settings under `loss.`: the training objective."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class LossConfig:
    """The training objective."""

    name: str = "bradley_terry"
    """A name in `rm_experiments.training.losses.LOSSES`."""
    use_margin: bool = False
    """Subtract each row's margin from the reward difference (Llama 2, arXiv:2307.09288, eq. 2); none counts as 0."""
    label_smoothing: float = 0.0
    """Probability that a label is wrong, 0 to below 0.5 (conservative Bradley-Terry, arXiv:2305.18290 appendix)."""
    center_coefficient: float = 0.0
    """Weight of (chosen + rejected)^2, which keeps rewards around zero (arXiv:2312.09244); 0: off."""
