"""The language-model term of GRM: text-generation losses on the hidden states that rewards are read from.

Regularizing Hidden States Enables Learning Generalizable Reward Model for LLMs (Yang et al. 2024, arXiv:2406.10216):
the objective is (1 - a) * reward loss + a * term, a = `lm_coefficient`. Terms and defaults (a = 0.01, beta = 0.1) are
those of the authors' code, where log pi of an answer is the sum over its tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.training.labels import PairLabels


@dataclass(frozen=True, kw_only=True)
class LanguageForm:
    """A kind of term."""

    function: Callable[[Tensor, Tensor, PairLabels, LossConfig], Tensor]
    """Log-probabilities [n] or [n, 2] and tokens of the answers, labels, settings -> [n], one value per pair."""
    both: bool = False
    """Whether it reads the rejected answers, too."""


def sft(log_pi: Tensor, lengths: Tensor, labels: PairLabels, config: LossConfig) -> Tensor:
    """-log sigmoid(beta * log pi(chosen)), log pi the sum over the tokens: the paper's supervised fine-tuning term.

    For an answer that is not yet likely it is nearly -beta * log pi(chosen); a likely one is left alone.

    Args:
        log_pi: [n] of the chosen answers.
    """
    return softplus(-config.lm_beta * log_pi)


def dpo(log_pi: Tensor, lengths: Tensor, labels: PairLabels, config: LossConfig) -> Tensor:
    """-log sigmoid(beta * (log pi(chosen) - log pi(rejected))): the paper's preference term without a reference model.

    A label p below 1 makes it p * cost(x) + (1 - p) * cost(-x), as for rewards.

    Args:
        log_pi: [n, 2] of chosen and rejected.
    """
    x = config.lm_beta * (log_pi[:, 0] - log_pi[:, 1])
    label = labels.label.to(x.dtype)
    return label * softplus(-x) + (1 - label) * softplus(x)


def cross_entropy(log_pi: Tensor, lengths: Tensor, labels: PairLabels, config: LossConfig) -> Tensor:
    """-log pi(chosen) per token, in nats: what fine-tuning on each chosen answer minimises, whatever its length.

    Args:
        log_pi: [n] of the chosen answers.
        lengths: [n]
    """
    return -log_pi / lengths.clamp(min=1)


LANGUAGE_FORMS: dict[str, LanguageForm] = {
    "sft": LanguageForm(function=sft),
    "dpo": LanguageForm(function=dpo, both=True),
    "cross_entropy": LanguageForm(function=cross_entropy),
}


def language_losses(log_pi: Tensor, lengths: Tensor, labels: PairLabels, config: LossConfig) -> Tensor:
    """The term of each pair [n] by the settings.

    Args:
        log_pi: of the answers of a pass: [n] of the chosen ones, or [2 n] of chosen and rejected in turn.
        lengths: of the same, their tokens.
    """
    form = LANGUAGE_FORMS[config.lm_form]
    if form.both:
        log_pi, lengths = log_pi.view(-1, 2), lengths.view(-1, 2)
    return form.function(log_pi, lengths, labels, config)
