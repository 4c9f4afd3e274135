"""What a model card says against the model: what was found to be off, and what was not tested."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rm_experiments.reporting.card_inputs import CardInputs, EvalSet
from rm_experiments.reporting.markdown import is_finite, source, text

_DOMAINS = (
    "instruction following", "safety", "mathematics or reasoning", "code", "factual correctness",
    "languages other than English",
)  # fmt: skip
_BENCHMARKS: dict[str, tuple[str, tuple[int, ...]]] = {
    "rewardbench": ("RewardBench", (1, 2, 3)),  # arXiv:2403.13787: chat, chat hard, safety, reasoning (with code)
    "rewardbench2": ("RewardBench 2", (0, 1, 2, 4)),  # arXiv:2506.01937: factuality, precise IF, math, safety, ...
    "rmbench": ("RM-Bench", (1, 2, 3)),  # arXiv:2410.16184: chat, code, math, safety
    "judgebench": ("JudgeBench", (2, 3, 4)),  # arXiv:2410.12784: knowledge, reasoning, math, coding
    "llmbar": ("LLMBar", (0,)),  # arXiv:2310.07641
    "hhh": ("HHH alignment", (1,)),  # arXiv:2112.00861: helpful, honest, harmless
    "ppe": ("PPE", (0, 2, 3)),  # arXiv:2410.14872: human preference; MMLU-Pro, MATH, GPQA, MBPP Plus, IFEval
    "mrewardbench": ("M-RewardBench", (5,)),  # arXiv:2410.15522
}
"""By name without separators: what it is called, and which of _DOMAINS it tests."""


def sanity_section(findings: Sequence[Mapping[str, Any]] | None) -> str:
    """What the checks at the end of the run found; empty where they were not made."""
    if findings is None:
        return ""
    looked = (
        "the loss before the first step, where there is an evaluation of it; constant, tied, saturated and rounded "
        "rewards; drift of their mean; accuracy below chance or above what is achievable; length; calibration; and "
        "rewards with the sides of some pairs swapped"
    )
    if not findings:
        return f"## Sanity checks\n\nNothing was found. Looked at: {looked}."
    lines = []
    for one in findings:
        where = f", {text(one['eval_set'])}" if one.get("eval_set") else ""
        severity = "Serious" if one.get("severity") == "serious" else "Notice"
        kind = text(str(one.get("kind", "")).replace("_", " "))
        lines.append(f"* **{severity}** ({kind}{where}): {text(one.get('sentence', ''))}.")
    return "## Sanity checks\n\n" + "\n".join(lines) + f"\n\nLooked at: {looked}."


def limits_section(card: CardInputs) -> str:
    """What the numbers do not say."""
    lines = ["Tested on nothing."]
    if card.eval_sets:
        tested = ", ".join(f"{text(entry['name'])} ({source(entry['source'])})" for entry in card.eval_sets)
        lines = [
            f"Tested on: {tested}. Not tested on any other data, domain, language or benchmark.",
            *_not_tested(card.eval_sets),
            "An evaluation set that was drawn like the training data measures accuracy on such data only.",
        ]
        metrics, pairs = card.eval_sets[0]["metrics"], card.eval_sets[0]["num_pairs"]
        accuracy = metrics.get("accuracy")
        if is_finite(accuracy) and pairs > 0:
            error = 1.96 * math.sqrt(max(accuracy * (1 - accuracy), 0) / pairs)
            spread = f"about ±{error:.3f} (95%)"
            lines.append(f"Drawing another {pairs:,} pairs would move the first accuracy by {spread}.")
    lines += [
        f"One run, with seed {card.seed}: another seed gives other weights and another accuracy.",
        "Rewards are comparable between answers to one prompt only: training sees nothing but differences.",
        "A preference for length, style or confidence over content is not ruled out by these numbers.",
        "A policy that is optimised against this reward finds its errors; watch an independent measure, too.",
    ]
    return "## Limits\n\n" + "\n".join(f"* {line}" for line in lines)


def _not_tested(eval_sets: Iterable[EvalSet]) -> list[str]:
    """Known benchmarks that were not run, and what then nothing known tests. Other sets may test it: hence `known`."""
    found = {key for entry in eval_sets if (key := _benchmark(entry)) is not None}
    absent = [name for key, (name, _) in _BENCHMARKS.items() if key not in found]
    tested = {domain for key in found for domain in _BENCHMARKS[key][1]}
    missing = [name for number, name in enumerate(_DOMAINS) if number not in tested]
    lines = [f"Benchmarks that were not run: {', '.join(absent)}."] if absent else []
    if missing:
        lines.append(f"None of the sets is a known benchmark of {_listed(missing)}.")
    return lines


def _benchmark(entry: EvalSet) -> str | None:
    """The benchmark that a set is by its own name or its name on the Hub: the longest that it begins with."""
    names = [entry["name"], (entry.get("hub_id") or "").split("/")[-1]]
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names]
    fitting = [key for key in _BENCHMARKS if any(name.startswith(key) for name in plain)]
    return max(fitting, key=len, default=None)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
