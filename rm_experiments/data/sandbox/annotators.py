"""How the annotators of the sandbox world label two answers, and what a predictor that knows this can achieve.

An annotator sees the difference d = gold(A) - gold(B) + length_bias * (words(A) - words(B)) and prefers A with
probability sigmoid(label_scale * (d - ties)), B with sigmoid(label_scale * (-d - ties)), and calls it a tie otherwise:
the model of Rao and Kupper (Ties in paired-comparison experiments, JASA 62, 1967), whose log threshold is
label_scale * ties; Bradley-Terry where ties = 0. Of the preferences, `label_noise` are flipped afterwards.

With a style confound, the full stop at the end of one of the two answers becomes an exclamation mark once the label is
drawn: that of the preferred answer with probability (1 + style_confound) / 2. It causes nothing, yet foretells labels.

Of more than two answers an annotator makes a ranking: at each place one of those that are left is chosen with a
probability proportional to exp(label_scale * view). In this model of Plackett and Luce any two answers are ordered as
if they had been compared alone.
"""

from __future__ import annotations

import math

from rm_experiments.config.data_schema import SandboxConfig
from rm_experiments.data.pairs import PreferencePair
from rm_experiments.data.sandbox.tasks import gold_reward

MARKER = "!"
CALIBRATION_BINS = 15
STRENGTHS = (1.0, 2.0)
"""From which difference on annotators say 2 and 3 when they are asked how much better an answer is."""


def label_probabilities(config: SandboxConfig, prompt: str, a: str, b: str) -> tuple[float, float]:
    """Probabilities that A is preferred and that B is, given both texts; the rest to 1 is that of a tie."""
    difference = _difference(config, prompt, a, b)
    first = _sigmoid(config.label_scale * (difference - config.ties))
    second = _sigmoid(config.label_scale * (-difference - config.ties))
    noise = config.label_noise
    first, second = first + noise * (second - first), second + noise * (first - second)
    if config.style_confound and a.endswith(MARKER) != b.endswith(MARKER):
        return _after_marker(config.style_confound, first, second, a.endswith(MARKER))
    return first, second


def stated_strength(config: SandboxConfig, prompt: str, a: str, b: str) -> float:
    """How strongly they prefer one of two answers, whichever it is: 1, 2 or 3."""
    difference = abs(_difference(config, prompt, a, b))
    return 1.0 + sum(difference >= one for one in STRENGTHS)


def ratings(config: SandboxConfig, prompt: str, answer: str, draw: float) -> list[float | None]:
    """What annotators say of one answer, by a draw from 0 to below 1: its quality, and its length in tens of words.

    The error of the quality has a logistic distribution of scale 1 / label_scale.
    """
    draw = min(max(draw, 1e-12), 1 - 1e-12)
    quality = gold_reward(prompt, answer) + math.log(draw / (1 - draw)) / config.label_scale
    return [round(quality, 3), len(answer.split()) / 10]


def ranking(config: SandboxConfig, prompt: str, answers: list[str], draws: list[float]) -> list[str]:
    """The answers from best to worst, by one of `draws` (0 to below 1) for each."""
    # Who is largest after adding Gumbel noise is distributed as a choice by exp(view) (Yellott 1977).
    noisy = [
        config.label_scale * _difference(config, prompt, answer, answers[0]) - math.log(-math.log(max(draw, 1e-300)))
        for answer, draw in zip(answers, draws, strict=True)
    ]
    return [answers[place] for place in sorted(range(len(answers)), key=lambda place: -noisy[place])]


def preference_probability(config: SandboxConfig, prompt: str, a: str, b: str) -> float:
    """Probability that the annotators of `config` prefer answer `a` to answer `b`, given that they prefer one."""
    first, second = label_probabilities(config, prompt, a, b)
    return first / (first + second)


def best_achievable(config: SandboxConfig, pairs: list[PreferencePair]) -> dict[str, float]:
    """What a predictor that knows the label probabilities achieves on `pairs`, labelled by the annotators of `config`.

    `accuracy` and `brier` are the expected ones over the pairs that are no ties. `loss` is the expected Bradley-Terry
    loss (nats) over all pairs, the mean entropy; a tie is half of either label, and which of its sides is called chosen
    is drawn evenly. `loss_without_ties` is that over the pairs that are no ties. `ece` is the calibration error of the
    true probabilities on the labels as drawn (ties left out), in the definition of
    `rm_experiments.evaluation.calibration`; it is above 0 by chance only. Where all pairs are ties, there is `loss`
    only.
    """
    all_pairs = [label_probabilities(config, str(pair.prompt), str(pair.chosen), str(pair.rejected)) for pair in pairs]
    # A tie counts half for each side, so the best prediction is P(A) + P(tie) / 2.
    loss = [_entropy(0.5 + (first - second) / 2) for first, second in all_pairs]
    decided = [
        first / (first + second) for pair, (first, second) in zip(pairs, all_pairs, strict=True) if pair.label == 1
    ]
    achieved = {"loss": sum(loss) / len(loss)}
    if decided:
        achieved["loss_without_ties"] = sum(map(_entropy, decided)) / len(decided)
        achieved["accuracy"] = sum(max(p, 1 - p) for p in decided) / len(decided)
        achieved["brier"] = sum(p * (1 - p) for p in decided) / len(decided)
        achieved["ece"] = _calibration_error(decided)
    return achieved


def _after_marker(strength: float, first: float, second: float, on_first: bool) -> tuple[float, float]:
    """The probabilities by Bayes' rule, once it is seen which answer has the marker."""
    on_preferred = (1 + strength) / 2
    tie = max(0.0, 1 - first - second) / 2
    first *= on_preferred if on_first else 1 - on_preferred
    second *= 1 - on_preferred if on_first else on_preferred
    total = first + second + tie
    return first / total, second / total


def _calibration_error(probabilities: list[float]) -> float:
    """Expected calibration error of the probabilities of the labels that were drawn."""
    gaps = [0.0] * CALIBRATION_BINS
    for p in probabilities:
        confidence = max(p, 1 - p)
        right = 0.5 if p == 0.5 else float(p > 0.5)
        gaps[min(int((confidence - 0.5) * 2 * CALIBRATION_BINS), CALIBRATION_BINS - 1)] += right - confidence
    return sum(map(abs, gaps)) / len(probabilities)


def _difference(config: SandboxConfig, prompt: str, a: str, b: str) -> float:
    """By how much the annotators find A better, in gold reward units."""
    difference = gold_reward(prompt, a) - gold_reward(prompt, b)
    if config.length_bias:
        difference += config.length_bias * (len(a.split()) - len(b.split()))
    return difference


def _sigmoid(x: float) -> float:
    # Beyond 700 the exponential is no longer a float.
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, x))))


def _entropy(probability: float) -> float:
    return -sum(p * math.log(p) for p in (probability, 1 - probability) if p > 0)
