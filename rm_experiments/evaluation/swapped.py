"""The probe with swapped sides: rewards must belong to texts, not to the places of texts in a batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rm_experiments.data.audit.kinds import SERIOUS
from rm_experiments.data.tokens import TRUNCATED_CHOSEN, TRUNCATED_REJECTED, TokenizedPairs
from rm_experiments.evaluation.records import Records
from rm_experiments.evaluation.sanity import Finding

NUM_PROBED = 32
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05, "fp16": 0.01}
"""By the backbone's arithmetic, relative to the largest reward (1 if all are smaller): some ten times what other
neighbours in a forward pass change. A reward that went to the wrong text is off by as much as answers differ."""


def swapped_probe(
    pairs: TokenizedPairs, measure: Callable[[TokenizedPairs], Records], precision: str, count: int = NUM_PROBED
) -> list[Finding]:
    """Measure up to `count` pairs of a set, as they are and with their sides swapped.

    An evaluation that rewards the place instead of the text keeps its accuracy when chosen and rejected change places
    (modelscope/ms-swift issue 9370: 1.0 before and after).

    Args:
        measure: the evaluation to be tried; it is called twice, on every process.
        precision: a key of `TOLERANCE`.
    """
    few = pairs.select(np.unique(np.linspace(0, len(pairs) - 1, min(count, len(pairs))).astype(np.int64)))
    return findings_of_swap(measure(few), measure(swapped(few)), TOLERANCE[precision])


def swapped(pairs: TokenizedPairs) -> TokenizedPairs:
    """The same tokens with chosen and rejected in each other's place. What the table says of the pairs stays."""
    cut = TRUNCATED_CHOSEN | TRUNCATED_REJECTED
    sides = np.where(pairs.outcome & TRUNCATED_CHOSEN, TRUNCATED_REJECTED, 0)
    sides |= np.where(pairs.outcome & TRUNCATED_REJECTED, TRUNCATED_CHOSEN, 0)
    return TokenizedPairs(
        ids=pairs.ids, starts=pairs.starts[:, ::-1], lengths=pairs.lengths[:, ::-1],
        num_prompt_tokens=pairs.num_prompt_tokens, outcome=(pairs.outcome & ~np.uint8(cut)) | sides.astype(np.uint8),
        table=pairs.table, rows=pairs.rows,
    )  # fmt: skip


def findings_of_swap(records: Records, exchanged: Records, tolerance: float) -> list[Finding]:
    """What is wrong when the same pairs are measured again with swapped sides: each margin must change its sign only.

    Args:
        records, exchanged: of the pairs as they are and with swapped sides, in the same order.
        tolerance: relative to the largest reward, or to 1 if all are smaller.
    """
    before = np.stack([records["reward_chosen"], records["reward_rejected"]])
    after = np.stack([exchanged["reward_rejected"], exchanged["reward_chosen"]])
    off = np.abs(after - before)
    scale = max(1.0, float(np.abs(before).max(initial=0.0)))
    # NaN is no agreement either.
    wrong = ~(off.max(axis=0, initial=0.0) <= tolerance * scale)
    if not wrong.any():
        return []
    accuracy, again = float((records["margin"] > 0).mean()), float((exchanged["margin"] > 0).mean())
    ties = float((records["margin"] == 0).mean())
    sentence = (
        f"with chosen and rejected in each other's place, {int(wrong.sum())} of {len(wrong)} pairs get other rewards "
        f"(by up to {float(off.max()):.2g}), and the accuracy goes from {accuracy:.2f} to {again:.2f} instead of "
        f"{1 - accuracy - ties:.2f}: a reward depends on more than its text, so no number of this run can be trusted"
    )
    return [Finding(kind="swapped_sides", severity=SERIOUS, sentence=sentence)]
