"""The results section of a model card: numbers with their sets, counts and intervals, and the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from rm_experiments.reporting.card_inputs import CardInputs
from rm_experiments.reporting.markdown import fixed, is_finite, source, table, text

_PICTURES = {
    "training": "Loss and accuracy over the steps",
    "rewards": "Rewards",
    "margins": "Reward margins",
    "calibration": "Calibration: how often the model is right where it is so sure",
    "length": "Accuracy by difference in length, beside always taking the longer answer",
    "subsets": "Accuracy by subset",
}
_BIAS = {
    "ece": "ECE",
    "brier": "Brier",
    "temperature": "Temperature",
    "length_correlation": "Length correlation",
    "accuracy_chosen_shorter": "Chosen shorter",
    "accuracy_chosen_longer": "Chosen longer",
    "length_controlled_accuracy": "Length-controlled",
    "pick_longest": "Pick longest",
}
"""Metrics of the second table. Those that no set has make no column."""

_DEFINITIONS = """\
* Accuracy: share of pairs whose chosen answer gets the strictly higher reward; chance is 0.5.
  Where given, the 95% interval stands in brackets; it resamples prompts.
* Loss: mean of -log sigmoid(margin), whatever the training loss was; equal rewards give ln 2 = 0.693.
* Margin: mean of reward(chosen) - reward(rejected).
* Mean, min, max reward: over all chosen and rejected answers.
* Ties: share of pairs with two equal rewards; they count as wrong in the accuracy."""
_EXPLAINED = {
    "ece": """\
* ECE: mean distance of the confidence sigmoid(|margin|) from the share that is right, in 15 bins; 0 is perfect, and
  few pairs make it larger by chance.""",
    "brier": "* Brier: mean of (1 - sigmoid(margin)) squared; 0.25 for a coin.",
    "temperature": """\
* Temperature: the rewards divided by it fit these labels best as probabilities; above 1 the model is too sure of
  itself. Fitted on the set that it is shown for.""",
    "length_correlation": "* Length correlation: of margin and difference in characters; 0 is no bias of the margins.",
    "accuracy_chosen_shorter": "* Chosen shorter, chosen longer: accuracy on the pairs where that is so.",
    "length_controlled_accuracy": "* Length-controlled: mean of these two; 0.5 for any rule that sees lengths only.",
    "pick_longest": "* Pick longest: the accuracy of always taking the longer answer.",
}
"""Beside the definitions of the first table, for the columns that are there."""
_KEYS = """\
In metrics.jsonl and summary.json the keys are `eval_accuracy` and so on; for a further set,
`eval_<set>_accuracy`."""


def results_section(card: CardInputs) -> str:
    """Tables of the sets, of their subsets, of calibration and length bias; definitions; pictures."""
    if not card.eval_sets:
        return "## Results\n\nThe model was not evaluated."
    rows, subsets, biases = [], [], []
    bias_keys = [key for key in _BIAS if any(is_finite(entry["metrics"].get(key)) for entry in card.eval_sets)]
    for entry in card.eval_sets:
        metrics, name = entry["metrics"], text(entry["name"])
        loss, ties = fixed(metrics.get("loss")), fixed(metrics.get("ties"))
        keys = ("margin", "mean_reward", "min_reward", "max_reward")
        rewards = [fixed(metrics.get(key), 3) for key in keys]
        pairs = f"{entry['num_pairs']:,}"
        rows.append([name, source(entry["source"]), pairs, _accuracy(metrics), loss, *rewards, ties])
        for key in metrics:
            subset = key.removesuffix("_num_pairs")
            if subset != key and f"{subset}_accuracy" in metrics:
                subsets.append([name, text(subset), f"{metrics[key]:,.0f}", _accuracy(metrics, f"{subset}_")])
        biases.append([name, pairs, *(fixed(metrics.get(key), 3) for key in bias_keys)])
    header = ["Set", "Data", "Pairs", "Accuracy", "Loss", "Margin", "Mean reward", "Min", "Max", "Ties"]
    parts = ["## Results", table(header, rows, left=2)]
    if subsets:
        parts.append(table(["Set", "Subset", "Pairs", "Accuracy"], subsets, left=2))
    if bias_keys:
        parts.append(table(["Set", "Pairs", *(_BIAS[key] for key in bias_keys)], biases))
    parts.append("\n".join([_DEFINITIONS, *(_EXPLAINED[key] for key in bias_keys if key in _EXPLAINED)]))
    parts.append(_KEYS)
    for path in card.plots:
        parts.append(f"![{text(_PICTURES.get(path.stem, path.stem))}](plots/{quote(path.name)})")
    return "\n\n".join(parts)


def _accuracy(metrics: Mapping[str, float], prefix: str = "") -> str:
    """Of the set, or with a prefix of a subset, with its interval where there is one."""
    low, high = metrics.get(f"{prefix}accuracy_ci_low"), metrics.get(f"{prefix}accuracy_ci_high")
    interval = f" [{fixed(low, 3)}, {fixed(high, 3)}]" if is_finite(low) and is_finite(high) else ""
    return fixed(metrics.get(f"{prefix}accuracy")) + interval
