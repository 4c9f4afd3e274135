"""Later evaluations in the card of a saved model: a section of its own, replaced each time."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

from rm_experiments.reporting.markdown import fixed, source, table, text

_BEGIN, _END = "<!-- rm-eval: begin -->", "<!-- rm-eval: end -->"


def write_evaluation_into_card(
    directory: Path, sources: Mapping[str, str], measured: Mapping[str, Mapping[str, float]]
) -> None:
    """Put a table of sets and metrics into README.md of a model directory; what was there stays."""
    path = directory / "README.md"
    before = path.read_text(encoding="utf-8") if path.is_file() else f"# {directory.name}\n"
    section = f"{_BEGIN}\n\n{_section(sources, measured)}\n\n{_END}"
    start, end = before.find(_BEGIN), before.find(_END)
    if 0 <= start < end:
        content = before[:start] + section + before[end + len(_END) :]
    else:
        content = f"{before.rstrip()}\n\n{section}\n"
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(content, encoding="utf-8")
    aside.replace(path)


def _section(sources: Mapping[str, str], measured: Mapping[str, Mapping[str, float]]) -> str:
    rows, subsets = [], []
    for name, values in measured.items():
        interval = f"{fixed(values.get('accuracy_ci_low'), 3)} to {fixed(values.get('accuracy_ci_high'), 3)}"
        numbers = [fixed(values.get(key)) for key in ("loss", "ece", "length_correlation")]
        accuracy = fixed(values.get("accuracy"))
        rows.append([text(name), source(sources[name]), f"{values['num_pairs']:,.0f}", accuracy, interval, *numbers])
        for key in values:
            subset = key.removesuffix("_num_pairs")
            if subset != key:
                low, high = (fixed(values.get(f"{subset}_accuracy_ci_{end}"), 3) for end in ("low", "high"))
                accuracy = fixed(values.get(f"{subset}_accuracy"))
                subsets.append([text(name), text(subset), f"{values[key]:,.0f}", accuracy, f"{low} to {high}"])
    head = ["Set", "Data", "Pairs", "Accuracy", "95% interval", "Loss", "ECE", "Length correlation"]
    parts = [f"## Evaluated on {datetime.date.today().isoformat()}", table(head, rows, left=2)]
    if subsets:
        parts.append(table(["Set", "Subset", "Pairs", "Accuracy", "95% interval"], subsets, left=2))
    return "\n\n".join(parts)
