"""What is wrong with a run although it ended well: pure functions of its evaluation records and logged metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rm_experiments.data.audit.kinds import NOTICE, SERIOUS
from rm_experiments.data.splits import MAIN_SET
from rm_experiments.evaluation.calibration import calibration, ece_of_chance, num_observations, wilson
from rm_experiments.evaluation.pairs import sided, weighted_mean
from rm_experiments.evaluation.records import Records

_Z = 3.0
"""Standard errors from which on a difference counts: chance alone gives one false alarm in some 700 looks."""
_START_TOLERANCE = 0.05
"""Nats. Margins of standard deviation s add about s^2 / 8 to ln 2. A fresh head gives s below 0.3, so 0.01; to be off
by 0.05 takes an s of 0.63, rewards that already say something about answers that nothing is known of."""
_CONSTANT = 1e-4
"""Logits. A margin of this size means a probability of 0.500025: no preference that anybody could measure."""
_TIES_SHARE, _TIES_COUNT = 0.01, 3
"""Two different texts hardly ever get the very same float32; a few pairs may be cut to the same tokens."""
_SATURATED = 25 * math.log(2)
"""Logits. From here on, 17.3, sigmoid(margin) is exactly 1 in float32 (1 - 2^-25 rounds up)."""
_FEW_PROMPTS = 20
"""Fewer prompts say nothing about how many different rewards there are, or about calibration."""
_DRIFT = 3.0
"""Standard deviations of the rewards. A level that moves by more moves further than answers differ from each other."""
_CORRELATION = 0.5
"""Length differences then explain a quarter of the variance of the margins."""
_CALIBRATION = 0.05
"""An error in probability that a reader would care about; below it, being significant is a matter of enough pairs."""
_CHANCE_QUANTILE = 0.999


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a person should look at."""

    kind: str
    """`start`, `constant`, `ties`, `saturated`, `rounded`, `drift`, `below_chance`, `length`, `calibration`, `leak` or
    `swapped_sides`."""
    severity: str
    """`serious` (the numbers or the model cannot be used as they are) or `notice`."""
    eval_set: str | None = None
    """The evaluation set that it was found on; None: of the whole run."""
    sentence: str
    """What was found, with its numbers, and what it may mean."""

    @property
    def line(self) -> str:
        """For a terminal."""
        return f"{self.severity.capitalize()}: {'' if self.eval_set is None else self.eval_set + ': '}{self.sentence}"

    def plain(self) -> dict[str, Any]:
        """As in summary.json."""
        return asdict(self)


def findings(
    sets: Mapping[str, Records], *, history: Sequence[Mapping[str, Any]] = (), fresh_head: bool = False,
    best_achievable: Mapping[str, float] | None = None, probe: Sequence[Finding] = (),
) -> list[Finding]:  # fmt: skip
    """Everything that is off, the serious first.

    Args:
        sets: the records of each evaluation set; the main one is named `eval`.
        history: the parsed lines of metrics.jsonl.
        fresh_head: whether training began with a new reward head.
        best_achievable: of the sets where it is known, the accuracy that no model can exceed but by chance.
        probe: what the probe with swapped sides found.
    """
    found = [*probe, *_start(history, fresh_head), *_drift(history)]
    for name, records in sets.items():
        found += findings_of_set(records, name, (best_achievable or {}).get(name))
    return sorted(found, key=lambda one: one.severity != SERIOUS)


def findings_of_set(records: Records, name: str = MAIN_SET, best_achievable: float | None = None) -> list[Finding]:
    """What the records of one evaluation set say."""
    found = _constant(records, name)
    if found:
        # Everything else would follow from it.
        return found
    found = [*_ties(records, name), *_saturated(records, name), *_rounded(records, name)]
    return [*found, *_accuracy(records, name, best_achievable), *_length(records, name), *_calibration(records, name)]


def _start(history: Sequence[Mapping[str, Any]], fresh_head: bool) -> list[Finding]:
    """A fresh head knows nothing, so the loss before the first step is near ln 2; a head that was kept may differ."""
    line = next((one for one in history if one.get("kind") == "eval" and one.get("step") == 0), None)
    loss = _finite(line, "eval_loss")
    if not fresh_head or line is None or loss is None:
        return []
    # -log sigmoid has slope 1/2 at 0, and a margin the spread of two rewards.
    noise = (_finite(line, "eval_std_reward") or 0.0) / math.sqrt(2 * max(1.0, _finite(line, "eval_num_pairs") or 1.0))
    if abs(loss - math.log(2)) <= _START_TOLERANCE + _Z * noise:
        return []
    sentence = (
        f"the loss before the first step was {loss:.3f}, not near ln 2 = 0.693; a fresh head should know nothing. "
        "Its weights are too large, or the hidden states are"
    )
    return [Finding(kind="start", severity=SERIOUS, sentence=sentence)]


def _drift(history: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Differences do not fix the level of the rewards, so it may wander (huggingface/trl issue 937: beyond 300)."""
    lines = [one for one in history if one.get("kind") == "eval"]
    means = [mean for mean in (_finite(one, "eval_mean_reward") for one in lines) if mean is not None]
    spread = _finite(lines[-1], "eval_std_reward") if lines else None
    if len(means) < 2 or not spread:
        return []
    moved = max(means) - min(means)
    if moved <= _DRIFT * spread:
        return []
    sentence = (
        f"the mean reward moved between {min(means):.3g} and {max(means):.3g}, {moved / spread:.1f} standard "
        "deviations of the rewards; only differences are trained. A fixed threshold or 16-bit rewards would suffer; "
        "loss=bradley_terry_centered holds the level"
    )
    return [Finding(kind="drift", severity=NOTICE, sentence=sentence)]


def _constant(records: Records, name: str) -> list[Finding]:
    rewards = _rewards(records)
    spread = float(rewards.std()) if len(rewards) else math.inf
    if spread >= _CONSTANT:
        return []
    sentence = (
        f"all {len(rewards):,} rewards are the same but for {spread:.1g} (standard deviation): the model tells no "
        "answers apart. A learning rate of 0, or one so high that the model died?"
    )
    return [Finding(kind="constant", severity=SERIOUS, eval_set=name, sentence=sentence)]


def _ties(records: Records, name: str) -> list[Finding]:
    ties = int((records["margin"] == 0).sum())
    share = ties / max(1, len(records["margin"]))
    if share < _TIES_SHARE or ties < _TIES_COUNT:
        return []
    sentence = (
        f"{ties:,} pairs ({share:.1%}) have exactly equal rewards and count as wrong: their texts are cut to the same "
        "tokens (see data_report.json), or the rewards are rounded"
    )
    return [Finding(kind="ties", severity=NOTICE, eval_set=name, sentence=sentence)]


def _saturated(records: Records, name: str) -> list[Finding]:
    share = float((np.abs(records["margin"]) >= _SATURATED).mean())
    if share <= 0.5:
        return []
    sentence = (
        f"{share:.0%} of the margins are beyond {_SATURATED:.1f}, where sigmoid is 0 or 1 in float32: as probabilities "
        "the rewards say nothing any more. Train for less, with a lower learning rate or loss.label_smoothing"
    )
    return [Finding(kind="saturated", severity=SERIOUS, eval_set=name, sentence=sentence)]


def _rounded(records: Records, name: str) -> list[Finding]:
    """Rewards that went through 16 bits: few different values, or all of them values of that type."""
    rewards = _rewards(records)
    prompts, different = len(np.unique(records["prompt_id"].astype(str))), len(np.unique(rewards))
    if prompts < _FEW_PROMPTS:
        return []
    as_type = _sixteen_bits(rewards) if different >= _FEW_PROMPTS else None
    # Each prompt has two answers or more, whatever pairs they are in.
    if as_type is None and different >= prompts:
        return []
    what = f"all {different:,} different rewards are {as_type} numbers"
    if as_type is None:
        what = f"the answers to {prompts:,} prompts have only {different:,} different rewards"
    sentence = f"{what}: they are rounded somewhere, which makes ties and hides small differences"
    return [Finding(kind="rounded", severity=NOTICE, eval_set=name, sentence=sentence)]


def _sixteen_bits(rewards: NDArray[np.float64]) -> str | None:
    """The 16-bit type that holds every reward exactly."""
    with np.errstate(over="ignore"):
        single = rewards.astype(np.float32)
        if not (single == rewards).all():
            return None
        if not (single.view(np.uint32) & 0xFFFF).any():
            return "bfloat16"
        return "float16" if (rewards.astype(np.float16) == rewards).all() else None


def _accuracy(records: Records, name: str, best_achievable: float | None) -> list[Finding]:
    records = sided(records)
    weight, prompts = records["weight"], records["prompt_id"]
    if not len(weight):
        return []
    # Ties count half: a model that tells nothing apart is at chance, not below it.
    right = np.where(records["margin"] == 0, 0.5, records["margin"] > 0)
    accuracy, strict = weighted_mean(right, weight), weighted_mean(records["margin"] > 0, weight)
    found = []
    if wilson(accuracy, num_observations(prompts, right, weight), _Z)[1] < 0.5:
        # Benchmarks are made to be hard in ways that a model may well fall for; the main set is not.
        main = name == MAIN_SET
        why = "Are chosen and rejected swapped?" if main else "It falls for what the set was made to test, or swapped?"
        sentence = f"accuracy {accuracy:.3f} on {len(weight):,} pairs is below chance beyond doubt. {why}"
        found.append(
            Finding(kind="below_chance", severity=SERIOUS if main else NOTICE, eval_set=name, sentence=sentence)
        )
    number = num_observations(prompts, (records["margin"] > 0).astype(np.float64), weight)
    if best_achievable is not None and wilson(strict, number, _Z)[0] > best_achievable:
        sentence = (
            f"accuracy {strict:.3f} on {len(weight):,} pairs is above the {best_achievable:.3f} that is achievable: "
            "the model has seen these labels, or something else that gives them away"
        )
        found.append(Finding(kind="leak", severity=SERIOUS, eval_set=name, sentence=sentence))
    return found


def _length(records: Records, name: str) -> list[Finding]:
    records = sided(records)
    margin, weight = records["margin"], records["weight"]
    difference = (records["num_chars_chosen"] - records["num_chars_rejected"]).astype(np.float64)
    if not len(weight):
        return []
    found = []
    sides = {"longer": difference > 0, "shorter": difference < 0}
    rules = {name: np.where(difference == 0, 0.5, side) for name, side in sides.items()}
    rule = max(rules, key=lambda one: weighted_mean(rules[one], weight))
    by_rule, number = weighted_mean(rules[rule], weight), num_observations(records["prompt_id"], rules[rule], weight)
    accuracy = weighted_mean(np.where(margin == 0, 0.5, margin > 0), weight)
    # Where the labels do not lean to one side beyond doubt, the rule is as good as a coin.
    if wilson(by_rule, number, _Z)[0] > 0.5 and accuracy <= by_rule:
        sentence = (
            f"accuracy {accuracy:.3f} is not above the {by_rule:.3f} of always taking the {rule} answer; "
            "nothing shows that the model reads more than the length"
        )
        found.append(Finding(kind="length", severity=NOTICE, eval_set=name, sentence=sentence))
    correlation = _correlation(margin, difference, weight)
    # Fisher's transform has standard error 1 / sqrt(n - 3).
    certain = number > 3 and math.atanh(min(abs(correlation), 1 - 1e-12)) > _Z / math.sqrt(number - 3)
    if certain and abs(correlation) >= _CORRELATION:
        longer = "longer" if correlation > 0 else "shorter"
        sentence = (
            f"margins correlate with the difference in length ({correlation:+.2f}): {longer} answers are rated "
            f"higher, which explains {correlation**2:.0%} of the variance"
        )
        found.append(Finding(kind="length", severity=NOTICE, eval_set=name, sentence=sentence))
    return found


def _calibration(records: Records, name: str) -> list[Finding]:
    values = calibration(records)
    # The error of chance is only known for sums of several pairs.
    if values.get("ece", 0.0) < _CALIBRATION or len(np.unique(records["prompt_id"].astype(str))) < _FEW_PROMPTS:
        return []
    chance = ece_of_chance(records, _CHANCE_QUANTILE)
    if values["ece"] <= chance:
        return []
    fitted = values.get("temperature")
    advice = "no temperature would mend it"
    if fitted is not None:
        advice = (
            f"the model is too {'sure' if fitted > 1 else 'unsure'} of itself; dividing rewards by {fitted:.3g} fits"
        )
    sentence = (
        f"calibration error {values['ece']:.3f} (a calibrated model stays below {chance:.3f} on these pairs): {advice}"
    )
    return [Finding(kind="calibration", severity=NOTICE, eval_set=name, sentence=sentence)]


def _rewards(records: Records) -> NDArray[np.float64]:
    return np.concatenate([records["reward_chosen"], records["reward_rejected"]])


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """Pearson's; 0 where one of them does not vary."""
    one, other = one - weighted_mean(one, weight), other - weighted_mean(other, weight)
    spread = weighted_mean(one**2, weight) * weighted_mean(other**2, weight)
    return weighted_mean(one * other, weight) / spread**0.5 if spread > 0 else 0.0


def _finite(line: Mapping[str, Any] | None, key: str) -> float | None:
    value = None if line is None else line.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
