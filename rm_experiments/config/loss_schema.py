"""The settings under `loss.`: the training objective."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class LossConfig:
    """The training objective."""

    name: str = "bradley_terry"
    """`bradley_terry`, `scaled_bradley_terry`, `robust_bradley_terry`, `log_exp`, `hinge`, `focal`, `rao_kupper`,
    `davidson`, `plackett_luce`, `odin` or `regression`: see docs/losses.md."""
    use_margin: bool = False
    """Subtract each row's margin from the reward difference (Llama 2, arXiv:2307.09288, eq. 2); none counts as 0."""
    label_smoothing: float = 0.0
    """Probability that a label is wrong, 0 to below 0.5 (conservative Bradley-Terry, arXiv:2305.18290 appendix)."""
    center_coefficient: float = 0.0
    """Weight of (chosen + rejected)^2, which keeps rewards around zero (arXiv:2312.09244); 0: off."""
    barrier_coefficient: float = 0.0
    """Weight of -log(1 - (reward / bound)^2) of both rewards, which keeps them inside of the bound (InternLM2,
    arXiv:2403.17297); 0: off."""
    barrier_bound: float = 5.0
    """The bound of the barrier: rewards stay between minus this and this."""
    hinge_margin: float = 1.0
    """`hinge`: how far apart the two rewards must be to be left alone."""
    focal_gamma: float = 2.0
    """`focal`: how strongly pairs that are right already are passed over; 0 would be Bradley-Terry."""
    tie_probability: float = 0.5
    """`rao_kupper`, `davidson`: how often two equally good answers are called a tie, above 0 and below 1."""
    num_heads: int = 1
    """Reward heads of an ensemble on one backbone, each with this loss; the reward is their mean (docs/losses.md)."""
    bootstrap: bool = True
    """Ensemble: let each head see each prompt as often as in a resample of the data (Poisson with mean 1), so that
    heads differ by more than where they began."""
    length_coefficient: float = 0.1
    """`odin`: weight of the correlation with the answer's length, which the quality head is to have none of and the
    length head all of (arXiv:2402.07319)."""
    orthogonal_coefficient: float = 0.1
    """`odin`: weight of the absolute inner product of the two heads."""
    attribute_weights: list[float] | None = None
    """`regression`, which has a head for each of `data.columns.attributes`: the reward is the sum of the heads by these
    weights, one for each; null: their mean."""
    lm_coefficient: float = 0.0
    """Share a of a language-model term in the objective, (1 - a) * loss + a * term, which keeps the hidden states fit
    to write text (GRM, arXiv:2406.10216); 0: off. For decoders: the base model's language-model head is kept for it."""
    lm_form: str = "sft"
    """What the term is, with log pi the log-probability of an answer's tokens after the prompt: `sft`, -log
    sigmoid(lm_beta * log pi(chosen)); `dpo`, -log sigmoid(lm_beta * (log pi(chosen) - log pi(rejected))), without a
    reference; `cross_entropy`, -log pi(chosen) per token."""
    lm_beta: float = 0.1
    """Factor of log pi in `sft` and `dpo`."""
    noise_rate: float = 0.1
    """`robust_bradley_terry`: share of the labels that are flipped, above 0 and below 0.5."""
