"""What the heads of an ensemble agree on, as functions of the records."""

from __future__ import annotations

import numpy as np

from rm_experiments.evaluation.pairs import Vector, sided, weighted_mean
from rm_experiments.evaluation.records import OF_HEADS, SPREAD, Records

UNCERTAINTY_PENALTY = 0.5
"""Weight of the variance over heads in the uncertainty-weighted reward (Coste et al., arXiv:2310.02743)."""


def ensemble_metrics(records: Records) -> dict[str, float]:
    """How far heads are apart, and accuracy by two rewards that are careful about it; nothing without an ensemble.

    `disagreement`: mean over all answers of the standard deviation over heads. `disagreement_right` and
    `disagreement_wrong`: of the margin's standard deviation over heads, where the mean reward is right and where it is
    wrong; the second is larger if heads know what they do not know. `worst_case_accuracy`: by each answer's lowest
    reward. `uncertainty_weighted_accuracy`: by mean minus 0.5 times variance.
    """
    if SPREAD[0] not in records:
        return {}
    both = np.concatenate([records["weight"], records["weight"]])
    values = {"disagreement": weighted_mean(np.concatenate([records[name] for name in SPREAD]), both)}
    records = sided(records)
    weight = records["weight"]
    if not len(weight):
        return values
    chosen, rejected = (records[name] for name in OF_HEADS)

    def accuracy(better: Vector, worse: Vector) -> float:
        return weighted_mean(better > worse, weight)

    values["worst_case_accuracy"] = accuracy(chosen.min(axis=1), rejected.min(axis=1))
    careful = [one.mean(axis=1) - UNCERTAINTY_PENALTY * one.var(axis=1) for one in (chosen, rejected)]
    values["uncertainty_weighted_accuracy"] = accuracy(*careful)
    apart, right = (chosen - rejected).std(axis=1), records["margin"] > 0
    for name, part in (("right", right), ("wrong", ~right)):
        if part.any():
            values[f"disagreement_{name}"] = weighted_mean(apart[part], weight[part])
    return values
