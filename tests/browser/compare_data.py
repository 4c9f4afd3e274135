"""A made-up comparison of any size, with texts that try to break a page."""

from __future__ import annotations

import math
import random
from typing import Any

AWKWARD = (
    "</script><img src=x onerror=alert(1)>",
    "\"quotes\" & 'more'",
    "emoji \U0001f469\u200d\U0001f680 and \u0645\u0631\u062d",
    "\u202eturned",
    "x" * 500,
    "line\nbreak\ttab",
    "<b>bold</b>",
    "",
)


def comparison(num_runs: int = 200, num_seeds: int = 4, num_rows: int = 300, seed: int = 0) -> dict[str, Any]:
    """The content of a compare.json. Runs differ in learning rate, loss, size and seed."""
    rng = random.Random(seed)
    subsets = ["list", "sum", "a very long name of a subset that does not fit", *AWKWARD[:2]]
    runs, groups = [], []
    for number in range(num_runs):
        group, of_group = divmod(number, num_seeds)
        if of_group == 0:
            groups.append(
                {
                    "id": group,
                    "label": f"lr={10 ** -(2 + group % 5)} {AWKWARD[group % len(AWKWARD)]} #{group}"[:120],
                    "runs": [],
                }
            )
        groups[-1]["runs"].append(number)
        accuracy = 0.55 + 0.2 * rng.random()
        runs.append(_run(rng, number, group, of_group, accuracy, subsets, num_rows))
    for one in groups:
        mean = sum(runs[run]["metrics"]["eval"]["accuracy"] for run in one["runs"]) / len(one["runs"])
        one["metrics"] = {
            "eval": {
                "accuracy": {
                    "mean": mean,
                    "sd": 0.01 if num_seeds > 1 else None,
                    "low": mean - 0.03,
                    "high": mean + 0.03,
                },
                "loss": {"mean": 0.9 - mean / 2, "sd": None, "low": None, "high": None},
            }
        }
    ranked = sorted(groups, key=lambda one: -one["metrics"]["eval"]["accuracy"]["mean"])
    for place, one in enumerate(ranked):
        one["places"] = {"eval": [max(1, place - 2), min(len(groups), place + 4)]}
    pairs = [(0, b["id"]) for b in groups[1:]]
    if len(ranked) > 1 and 0 not in (ranked[0]["id"], ranked[1]["id"]):
        pairs.append((ranked[1]["id"], ranked[0]["id"]))
    return {
        "version": 1,
        "title": AWKWARD[0],
        "created": "2026-01-31 12:00",
        "set": "eval",
        "sets": [
            {"name": "eval", "num_pairs": 1000, "num_prompts": 900, "source": AWKWARD[1], "subsets": subsets},
            {"name": "empty", "num_pairs": 10, "num_prompts": 10, "source": "", "subsets": []},
        ],
        "options": ["optimizer.lr", "loss.name", "model.size", "constant", "seed"],
        "runs": runs,
        "groups": groups,
        "comparisons": [one for a, b in pairs for one in _comparisons(rng, a, b, subsets)],
        "rows": {
            "eval": [
                {
                    "id": str(row),
                    "subset": subsets[row % len(subsets)],
                    "label": 1.0,
                    "weight": 1.0,
                    "length_difference": row - 50,
                    "prompt": AWKWARD[row % len(AWKWARD)],
                    "chosen": f"chosen {row} {AWKWARD[0]}",
                    "rejected": None if row % 7 == 0 else "rejected",
                }
                for row in range(num_rows)
            ]
        },
        "notes": [AWKWARD[0], "plain"],
    }


def _run(
    rng: random.Random, number: int, group: int, seed: int, accuracy: float, subsets: list[str], num_rows: int
) -> dict[str, Any]:
    steps = list(range(0, 1001, 100))
    curve = [0.5 + (accuracy - 0.5) * (1 - math.exp(-step / 300)) for step in steps]
    metrics: dict[str, Any] = {
        "accuracy": accuracy,
        "accuracy_ci_low": accuracy - 0.03,
        "accuracy_ci_high": accuracy + 0.03,
        "loss": 0.9 - accuracy / 2,
        "ece": 0.1 * rng.random(),
        "brier": 0.2,
        "ties": 0.0,
        "length_correlation": rng.uniform(-1, 1),
        "num_pairs": 1000,
    }
    for one in subsets:
        value = min(1.0, accuracy + rng.uniform(-0.1, 0.1))
        metrics |= {
            f"{one}_accuracy": value,
            f"{one}_accuracy_ci_low": value - 0.05,
            f"{one}_accuracy_ci_high": value + 0.05,
            f"{one}_num_pairs": 200,
        }
    curves: dict[str, Any] = {
        "eval": {
            "step": steps,
            "accuracy": curve,
            "low": [one - 0.03 for one in curve],
            "high": [one + 0.03 for one in curve],
            "loss": [0.7 - 0.2 * one for one in curve],
        }
    }
    if number % 10:
        curves["train"] = {
            "step": steps[1:],
            "loss": [0.7 - 0.2 * rng.random() for _ in steps[1:]],
            "accuracy": curve[1:],
        }
    return {
        "id": number,
        "label": f"run {number} {AWKWARD[number % len(AWKWARD)]}"[:120],
        "path": f"/runs/{number}",
        "group": group,
        "seed": seed,
        "status": "finished" if number % 17 else "interrupted",
        "step": 1000,
        "seconds": 12.5,
        "options": {
            "optimizer.lr": 10 ** -(2 + group % 5),
            "loss.name": ["bt", None, AWKWARD[6]][group % 3],
            "model.size": group % 4,
            "constant": 1,
            "seed": seed,
        },
        "metrics": {"eval": metrics},
        "curves": curves,
        "calibration": {"eval": [[0.5 + one / 20, min(1.0, 0.5 + one / 22), 100 - one] for one in range(10)]},
        "margins": {"eval": [None if row % 50 == 49 else rng.gauss(accuracy, 1) for row in range(num_rows)]},
    }


def _comparisons(rng: random.Random, a: int, b: int, subsets: list[str]) -> list[dict[str, Any]]:
    found = []
    for subset, metric in [(None, "accuracy"), (None, "loss"), *((one, "accuracy") for one in subsets)]:
        value = rng.uniform(-0.1, 0.1)
        found.append(
            {
                "a": a,
                "b": b,
                "set": "eval",
                "subset": subset,
                "metric": metric,
                "num_pairs": 1000,
                "num_prompts": 900,
                "difference": value,
                "low": value - 0.04,
                "high": value + 0.04,
                "p": 0.0004 if abs(value) > 0.05 else 0.2,
                "p_holm": 0.004 if abs(value) > 0.05 else 0.6,
                "different": abs(value) > 0.05,
                "smallest_detectable": 0.05,
                "mcnemar_p": None,
                "seeds_counted": True,
            }
        )
    return found
