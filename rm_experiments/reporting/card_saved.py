"""What a model card says of the saved model: the reload check, what rewards depend on, and their scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rm_experiments.reporting.card_inputs import CardInputs
from rm_experiments.reporting.markdown import code, fixed, is_finite, source, table, text

_INVARIANCE = {
    "small_batches_padded_right": "3 at a time, padded on the right",
    "one_batch_padded_right": "all in one batch, padded on the right",
    "one_batch_padded_left": "all in one batch, padded on the left",
    "alone_bf16": "alone, in bfloat16 arithmetic",
}
_NEGLIGIBLE = 1e-3
"""Relative to 1: what no use of a reward notices."""


def reload_section(card: CardInputs) -> str:
    """Whether what was saved is what was measured, and what else a reward depends on."""
    if card.reload_difference is None:
        return "## Reload check\n\nThe rewards of this directory were not compared with those of the run."
    check = (
        "After saving, this directory was loaded as in the snippet above and "
        f"{card.reload_rows:,} answers were scored again. "
        f"Largest absolute difference from the rewards of the run: {card.reload_difference:.2g}"
    )
    how = f" (trained in {text(card.precision)}, saved as {text(card.saved_dtype)}"
    limit = f"; more than {card.reload_tolerance:.2g} would have failed the run" if card.reload_tolerance else ""
    return f"## Reload check\n\n{check}{how}{limit}).{_invariance(card.batch_invariance)}"


def _invariance(found: Mapping[str, float | None] | None) -> str:
    if not found:
        return ""
    rows = [[words, _small(found.get(key))] for key, words in _INVARIANCE.items()]
    lines = [
        "\n\nThe same answers with plain transformers on the CPU, each compared with itself alone in float32:",
        table(["Scored", "Largest difference of a reward"], rows, left=1),
    ]
    left = found.get("one_batch_padded_left")
    if is_finite(left) and left > _NEGLIGIBLE:
        lines.append(
            "**Pad on the right**, as the saved tokenizer does: this architecture counts positions from the first "
            "column, so padding on the left changes rewards."
        )
    return "\n\n".join(lines)


def _small(value: float | None) -> str:
    return f"{value:.1e}" if is_finite(value) else "not measured"


def scale_section(scale: Mapping[str, Any] | None) -> str:
    """Mean and deviation of the rewards, and what was folded into the head; empty where they were not measured."""
    if scale is None:
        return ""
    where = f"the {scale['num_rewards']:,} rewards of {source(str(scale['source']))}"
    lines = [
        f"Over {where}: mean {fixed(scale['mean'])}, standard deviation {fixed(scale['std'])}; in "
        f"{code('config.json')} (with an adapter {code('reward_model.json')}) under {code('reward_normalization')}. "
        f"{code('(reward - mean) / std')} has mean 0 and standard deviation 1 there."
    ]
    folded = scale.get("folded")
    if folded:
        lines.append(_folded(folded))
    return "## Reward scale\n\n" + "\n\n".join(lines)


def _folded(folded: Mapping[str, float]) -> str:
    what = f"divided by {folded['std']:.6g}"
    left = " The mean stays as it is: this architecture's head has no bias to hold it; no comparison depends on it."
    if folded["mean"]:
        what, left = f"lowered by {folded['mean']:.6g} and {what}", ""
    return (
        f"**The head was changed after training**: rewards were {what} (`checkpoint.fold_normalization=true`).{left} "
        "Loss, margins, rewards, calibration and pictures in this card, and the run's metrics, are those from before; "
        "accuracy is the same."
    )
