"""Metrics as functions of the evaluation records: the same for any batch size, order and number of processes."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from rm_experiments.errors import DataError
from rm_experiments.evaluation.calibration import calibration
from rm_experiments.evaluation.ensemble import ensemble_metrics
from rm_experiments.evaluation.pairs import Vector, has_side, negative_log_sigmoid, select, sided, weighted_mean
from rm_experiments.evaluation.records import Records
from rm_experiments.evaluation.statistics import NUM_RESAMPLES, mean_interval

Objective = Callable[[Records], Vector]
"""The training loss of each pair [n], from the records; NaN where it asks for what is not known of the pair."""


def metrics(records: Records, objective: Objective, resamples: int = NUM_RESAMPLES) -> dict[str, float]:
    """Every metric of one evaluation set, without prefix; subsets as `<subset>_accuracy` and so on.

    Means are weighted by the records' weight. A pair counts as right when its chosen reward is strictly higher;
    equal rewards are wrong there and counted in `ties`. Pairs whose label is a tie have no right side: accuracies and
    calibration leave them out. The objective is over the pairs that the loss can be computed of.

    Raises:
        DataError: when the name of a subset makes a metric's name.
    """
    values, losses = record_metrics(records, resamples), objective(records)
    known = np.isfinite(losses)
    if known.any():
        values["objective"] = weighted_mean(losses[known], records["weight"][known])
    return values


def record_metrics(records: Records, resamples: int = NUM_RESAMPLES) -> dict[str, float]:
    """`metrics` but the objective, which needs to know the loss that the model was trained with."""
    values = core_metrics(records)
    values |= interval(records, resamples) | calibration(records) | length_bias(records) | ensemble_metrics(records)
    values["num_pairs"] = len(records["weight"])
    for subset in sorted({str(name) for name in records["subset"] if name is not None}):
        part = select(records, records["subset"] == subset)
        inside = core_metrics(part) | interval(part, resamples)
        for name in ("accuracy", "accuracy_ci_low", "accuracy_ci_high", "loss", "margin"):
            if name in inside:
                _add(values, f"{slug(subset)}_{name}", inside[name], subset)
        _add(values, f"{slug(subset)}_num_pairs", len(part["weight"]), subset)
    return values


def core_metrics(records: Records) -> dict[str, float]:
    """Loss, accuracy, ties, margin and reward statistics. Without a pair that has a right side, no accuracy."""
    chosen, rejected, margin = records["reward_chosen"], records["reward_rejected"], records["margin"]
    weight = records["weight"]
    rewards = np.concatenate([chosen, rejected])
    both = np.concatenate([weight, weight])
    mean_reward = weighted_mean(rewards, both)
    decided = has_side(records)
    accuracy = {"accuracy": weighted_mean(margin[decided] > 0, weight[decided])} if decided.any() else {}
    return {
        "loss": weighted_mean(negative_log_sigmoid(margin), weight),
        **accuracy,
        "ties": weighted_mean(margin == 0, weight),
        "margin": weighted_mean(margin, weight),
        "min_reward": float(rewards.min()),
        "mean_reward": mean_reward,
        "max_reward": float(rewards.max()),
        "std_reward": float(np.sqrt(weighted_mean((rewards - mean_reward) ** 2, both))),
        "mean_chosen_reward": weighted_mean(chosen, weight),
        "mean_rejected_reward": weighted_mean(rejected, weight),
    }


def interval(records: Records, resamples: int = NUM_RESAMPLES) -> dict[str, float]:
    """95% percentile interval of the accuracy, resampling prompts: pairs of one prompt are not independent.

    Prompts are sorted by their id and the seed is fixed, so the interval depends on the records only.
    """
    records = sided(records)
    if not len(records["weight"]):
        return {}
    right = (records["margin"] > 0).astype(np.float64)
    low, high = mean_interval(records["prompt_id"], right, records["weight"], resamples)
    return {"accuracy_ci_low": low, "accuracy_ci_high": high}


def length_bias(records: Records) -> dict[str, float]:
    """Does the model prefer the longer answer, and is that what the labels do? Length in characters.

    A metric that is not defined for the data (no pair whose chosen side is shorter, say) is left out.
    """
    margin, weight = records["margin"], records["weight"]
    difference = (records["num_chars_chosen"] - records["num_chars_rejected"]).astype(np.float64)
    decided = has_side(records)
    values = {}
    if decided.any():
        longer = np.where(difference == 0, 0.5, difference > 0)
        values["pick_longest"] = weighted_mean(longer[decided], weight[decided])
    by_side = {"shorter": decided & (difference < 0), "longer": decided & (difference > 0)}
    for name, part in by_side.items():
        if part.any():
            values[f"accuracy_chosen_{name}"] = weighted_mean(margin[part] > 0, weight[part])
    if all(part.any() for part in by_side.values()):
        # Any rule that looks at nothing but the lengths has one half here.
        both = (values["accuracy_chosen_shorter"], values["accuracy_chosen_longer"])
        values["length_controlled_accuracy"] = sum(both) / 2
    centred_margin = margin - weighted_mean(margin, weight)
    centred_difference = difference - weighted_mean(difference, weight)
    spread = weighted_mean(centred_margin**2, weight) * weighted_mean(centred_difference**2, weight)
    if spread > 0:
        values["length_correlation"] = weighted_mean(centred_margin * centred_difference, weight) / spread**0.5
    return values


def slug(subset: str) -> str:
    """A subset's name as part of a metric's name."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", subset)


def prefixed(values: dict[str, float], set_name: str | None) -> dict[str, float]:
    """`accuracy` -> `eval_accuracy` of the main set, `eval_<set>_accuracy` of a named one."""
    prefix = "eval_" if set_name is None else f"eval_{set_name}_"
    return {prefix + name: value for name, value in values.items()}


def _add(values: dict[str, float], name: str, value: float, subset: str) -> None:
    if name in values:
        raise DataError(f"the subset {subset!r} would make a second metric {name!r}; rename it in the data")
    values[name] = value
