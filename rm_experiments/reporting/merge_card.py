"""The card of a model that was made of others: an adapter added to its base model, or an average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from rm_experiments.reporting.markdown import code, last_part, one_line, plain, table, text

_SNIPPET = """```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

path = "."  # this directory, or its id on the Hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1).eval()

prompt, answer = "What is the capital of France?", "The capital of France is Paris."
{inputs}
with torch.no_grad():
    print(model(**inputs).logits[0, 0].item())
```"""
_CHAT = """messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
inputs = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")"""
_RAW = 'inputs = tokenizer(prompt + answer, return_tensors="pt")'


@dataclass(kw_only=True)
class MergeCard:
    """All that the card says, as plain values."""

    name: str
    ingredients: list[dict[str, Any]]  # `shown`, `is_local`, `kind`, `base`, `run` and `seed` of each model
    shares: list[float]
    dtype: str
    architecture: str
    chat: bool
    difference: float
    num_rows: int
    environment: Mapping[str, Any] = field(default_factory=dict)


def render_merge_card(card: MergeCard) -> str:
    """The whole README.md."""
    inputs = _CHAT if card.chat else _RAW
    sections = (
        f"---\n{_front_matter(card).to_yaml()}\n---",
        f"# {text(card.name)}",
        _summary(card),
        "## Score an answer",
        _SNIPPET.format(inputs=inputs),
        "## Ingredients",
        _ingredients(card),
        "## Reload check",
        _check(card),
        "## Environment",
        table(
            ["What", "Value"], [[text(key), plain(value)] for key, value in card.environment.items() if value], left=2
        ),
    )
    return "\n\n".join(sections) + "\n"


def _front_matter(card: MergeCard) -> ModelCardData:
    names = [one["shown"] for one in card.ingredients if not one["is_local"]]
    names += [one["base"] for one in card.ingredients if one["base"] and not _is_directory(one["base"])]
    return ModelCardData(
        model_name=one_line(card.name),
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=list(dict.fromkeys(names)) or None,
        base_model_relation="merge" if names else None,
        tags=["reward-model", "rm_experiments", "merge"],
    )


def _summary(card: MergeCard) -> str:
    start = "A reward model: it reads a dialogue and rates its last answer with one number, higher for better. "
    if len(card.ingredients) == 1:
        return start + "It is a low-rank adapter, added to the weights of its base model."
    return start + (
        f"Its weights are the {'mean' if len(set(card.shares)) == 1 else 'weighted mean'} of those of "
        f"{len(card.ingredients)} reward models (WARM: Ramé et al., 2024, "
        "[arXiv:2401.12187](https://arxiv.org/abs/2401.12187)), computed in float32. **It was not evaluated**: type "
        "`rm-eval checkpoint=DIRECTORY`, and compare it with its ingredients by `rm-compare`."
    )


def _ingredients(card: MergeCard) -> str:
    rows = []
    for one, share in zip(card.ingredients, card.shares, strict=True):
        base = one["base"]
        kind = one["kind"] + ("" if base is None else f" of {last_part(base) if _is_directory(base) else base}")
        seed = "" if one["seed"] is None else str(one["seed"])
        rows.append([code(one["shown"]), text(kind), text(one["run"] or ""), seed, f"{share:.4g}"])
    listed = table(["Model", "What", "Run", "Seed", "Share"], rows, left=3)
    return f"{listed}\n\nArchitecture {code(card.architecture)}, weights saved as {text(card.dtype)}. " + (
        "`config.yaml`, where it is there, is that of the first: it says how texts become tokens."
    )


def _check(card: MergeCard) -> str:
    against = "those of the adapter on its base model, in float32"
    if len(card.ingredients) > 1:
        against = "what rm_experiments computes with these weights"
    return (
        f"After saving, this directory was loaded as in the snippet above, and {card.num_rows} answers (`probe.jsonl`) "
        f"were scored. Largest absolute difference from {against}: {card.difference:.2g}."
    )


def _is_directory(name: str) -> bool:
    return Path(name).expanduser().is_dir() or name.startswith(("/", ".", "~"))
