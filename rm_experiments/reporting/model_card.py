"""The model card: README.md of every saved model. Front matter for the Hub, then what a person needs to know.

Names, sources, commands and configs come from users. They go through `_text`, `_code` or `_fence`, so that
they cannot end a table, a fence or the front matter, or bring HTML into the page.
"""

from __future__ import annotations

import dataclasses
import html
import math
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeGuard
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData

_BADGE = "https://raw.githubusercontent.com/wandb/assets/main/wandb-github-badge-28.svg"
_URL_SAFE = ":/?#@!$&*+,;=%~"  # no parentheses, quotes or angle brackets, which end a link
_PICTURES = {
    "training": "Loss and accuracy over the steps",
    "rewards": "Rewards",
    "margins": "Reward margins",
}
_MOST_ROWS = 12
_ABSOLUTE_PATH = re.compile(r"(?:file://|(?<![\w:/.\\-])(?:~?/|[A-Za-z]:[\\/]))[^\s,;'\"]+")


class EvalSet(TypedDict):
    """One evaluation set. Keys of its metrics carry no prefix: `accuracy`, `loss`, `<subset>_accuracy`."""

    name: str
    source: str
    num_pairs: int
    metrics: Mapping[str, float]
    hub_id: NotRequired[str | None]  # the data set on the Hub that the pairs come from, for the front matter
    hub_split: NotRequired[str | None]


@dataclass(kw_only=True)
class CardInputs:
    """All that a card says, as plain values."""

    name: str
    status: str = "finished"  # or what is true of a checkpoint: `in training, step 100 of 500`
    tags: list[str] = field(default_factory=list)
    wandb_url: str | None = None
    base_model: str | None  # Hub id or directory; None: random weights
    base_model_is_local: bool = False  # a directory: only its name is shown, and nothing links to the Hub
    architecture: str
    model_kind: str  # `decoder` or `encoder`
    num_parameters: int
    num_trainable_parameters: int
    adapter: str | None = None
    text_as: str = "chat"
    chat_template_note: str = ""
    bos_token: str | None = None  # what stands in front of raw text; None where nothing does
    eos_token: str  # the last token, which is scored
    pad_token: str
    max_length: int
    overlength: str
    datasets: list[str] = field(default_factory=list)  # Hub ids of the training data
    train_source: str
    num_train_pairs: int
    data_counts: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # split -> `rows_read`, `kept` ...
    eval_sets: list[EvalSet] = field(default_factory=list)  # the main set first; it is named `eval`
    best_achievable_accuracy: float | None = None
    step: int
    max_steps: int
    epochs: float
    batch_size: int
    seed: int
    loss: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    precision: str
    saved_dtype: str
    training_seconds: float | None = None
    history: Sequence[Mapping[str, Any]] = ()  # the parsed lines of metrics.jsonl
    plots: list[Path] = field(default_factory=list)
    command: list[str] | str
    config_yaml: str
    environment: Mapping[str, Any] = field(default_factory=dict)
    reload_difference: float | None = None  # largest absolute difference of a reward; None: not measured
    reload_rows: int = 0
    max_precision_note: str | None = None


_SNIPPET = """import torch
{imports}

path = "."  # this directory, or its id on the Hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = {loader}.from_pretrained(path, num_labels=1).eval()

prompt = "What is the capital of France?"
for name, answer in [("chosen", "The capital of France is Paris."), ("rejected", "I will not say.")]:
    {inputs}
    with torch.no_grad():
        print(name, model(**inputs).logits[0, 0].item())"""

_CHAT_INPUTS = """messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    inputs = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt"
    )"""

_DEFINITIONS = """* Accuracy: share of pairs whose chosen answer gets the strictly higher reward; chance is 0.5.
  Where given, the 95% interval stands in brackets.
* Loss: mean of -log sigmoid(margin), whatever the training loss was; equal rewards give ln 2 = 0.693.
* Margin: mean of reward(chosen) - reward(rejected).
* Mean, min, max reward: over all chosen and rejected answers.
* Ties: share of pairs with two equal rewards; they count as wrong in the accuracy.

In metrics.jsonl and summary.json the keys are `eval_accuracy` and so on; for a further set,
`eval_<set>_accuracy`."""

_TO_FILL_IN = """## To fill in

A run cannot know these. Put `license:` and `language:` into the front matter, too: the Hub reads them there.

* License of the model:
* Language of the data:
* Licence and origin of the data:
* Intended use, and uses that are out of scope:
* Contact:"""

_CITATION = """Trained with the framework rm_experiments. The model of preferences is Bradley and Terry's:

```bibtex
@article{bradley1952rank,
  title   = {Rank Analysis of Incomplete Block Designs: I. The Method of Paired Comparisons},
  author  = {Bradley, Ralph Allan and Terry, Milton E.},
  journal = {Biometrika},
  volume  = {39},
  number  = {3/4},
  pages   = {324--345},
  year    = {1952}
}
```"""
_CITE_LORA = (
    "\n\nThe adapter is LoRA: Hu et al., ICLR 2022, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685)."
)


def write_model_card(directory: Path, card: CardInputs) -> None:
    """Write `directory/README.md`, and copy those plots that exist into `directory/plots/`."""
    plots = [path for path in card.plots if path.is_file()]
    for path in plots:
        target = directory / "plots" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.resolve() != path.resolve():
            shutil.copyfile(path, target)
    content = render_model_card(dataclasses.replace(card, plots=plots))
    (directory / "README.md").write_text(content, encoding="utf-8", errors="replace", newline="\n")


def render_model_card(card: CardInputs) -> str:
    """The whole README.md. A metric that is not finite is `n/a` in the text and not in the front matter."""
    sections = (
        f"---\n{_front_matter(card).to_yaml()}\n---",
        f"# {_text(card.name)}",
        _summary(card),
        _score_a_pair(card),
        _results(card),
        _training(card),
        _provenance(card),
        _limits(card),
        _TO_FILL_IN,
        f"## Citation\n\n{_CITATION}" + (_CITE_LORA if card.adapter == "lora" else ""),
    )
    return "\n\n".join(sections) + "\n"


def _front_matter(card: CardInputs) -> ModelCardData:
    """What the Hub reads. Licence and language are the user's to state and not guessed."""
    base = card.base_model if card.base_model and not card.base_model_is_local else None
    return ModelCardData(
        model_name=_one_line(card.name),
        library_name="peft" if card.adapter else "transformers",
        pipeline_tag="text-classification",
        base_model=base if base and _is_hub_id(base) else None,
        datasets=[name for name in card.datasets if _is_hub_id(name)] or None,
        tags=["reward-model", "rm_experiments", *map(_one_line, card.tags)],
        metrics=["accuracy"],
        eval_results=_eval_results(card.eval_sets) or None,
    )


def _eval_results(eval_sets: Iterable[EvalSet]) -> list[EvalResult]:
    results, taken = [], set()
    for entry in eval_sets:
        name, hub_id = _one_line(entry["name"]), entry.get("hub_id")
        hub_id = hub_id if hub_id and _is_hub_id(hub_id) else None
        split = _one_line(entry.get("hub_split") or "") or None if hub_id else None
        # Results of equal type, config and split would be merged into one data set.
        config = name if hub_id is None or (hub_id, split) in taken else None
        taken.add((hub_id, split))
        prefix = "eval" if name == "eval" else f"eval_{name}"
        for key in ("accuracy", "loss", "margin"):
            value = entry["metrics"].get(key)
            if not _is_finite(value):
                continue
            result = EvalResult(
                task_type="text-classification", task_name="Reward modeling on preference pairs",
                dataset_type=hub_id or "preference-pairs", dataset_name=name, dataset_config=config,
                dataset_split=split, dataset_args={"num_pairs": int(entry["num_pairs"])},
                metric_type=key, metric_name=f"{prefix}_{key}", metric_value=float(value),
            )  # fmt: skip
            results.append(result)
    return results


def _summary(card: CardInputs) -> str:
    trained = "Its LoRA adapter and reward head were" if card.adapter == "lora" else "It was"
    start = f", starting from {_base_model(card)}," if card.base_model else " from random weights"
    pairs = f"{card.num_train_pairs:,}"
    sentences = [
        "A reward model: it reads a dialogue and rates its last answer with one number, higher for better.",
        f"{trained} trained{start} on {pairs} preference pairs: {_source(card.train_source)}.",
    ]
    if card.eval_sets:
        main, best = card.eval_sets[0], card.best_achievable_accuracy
        accuracy = _fixed(main["metrics"].get("accuracy"))
        sentences.append(f"**Accuracy: {accuracy} on {main['num_pairs']:,} evaluation pairs**")
        limit = f"; the best achievable, given the noise in the labels, is {_fixed(best)}."
        sentences[-1] += limit if _is_finite(best) else "."
    if card.status != "finished":
        sentences.append(f"**Not the end of the run:** {_text(card.status)}.")
    return " ".join(sentences)


def _score_a_pair(card: CardInputs) -> str:
    if card.adapter:
        loader = "AutoPeftModelForSequenceClassification"
        imports = f"from peft import {loader}\nfrom transformers import AutoTokenizer"
    else:
        loader = "AutoModelForSequenceClassification"
        imports = f"from transformers import {loader}, AutoTokenizer"
    inputs = _CHAT_INPUTS
    if card.text_as == "raw":
        first = f"{card.bos_token!r} + " if card.bos_token else ""
        inputs = (
            f"text = {first}prompt + answer + {card.eos_token!r}\n"
            '    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")'
        )
    code = _SNIPPET.format(imports=imports, loader=loader, inputs=inputs)
    return (
        f"## Score a pair\n\n{_fence(code, 'python')}\n\n"
        "The answer with the higher number is preferred. Training and evaluation read at most "
        f"{card.max_length:,} tokens of prompt and answer together; the snippet does not cut."
    )


def _results(card: CardInputs) -> str:
    if not card.eval_sets:
        return "## Results\n\nThe model was not evaluated."
    rows, subsets = [], []
    for entry in card.eval_sets:
        metrics, name = entry["metrics"], _text(entry["name"])
        loss, ties = _fixed(metrics.get("loss")), _fixed(metrics.get("ties"))
        keys = ("margin", "mean_reward", "min_reward", "max_reward")
        rewards = [_fixed(metrics.get(key), 3) for key in keys]
        pairs = f"{entry['num_pairs']:,}"
        rows.append([name, _source(entry["source"]), pairs, _accuracy(metrics), loss, *rewards, ties])
        for key in metrics:
            subset = key.removesuffix("_num_pairs")
            if subset != key and f"{subset}_accuracy" in metrics:
                accuracy = _fixed(metrics[f"{subset}_accuracy"])
                subsets.append([name, _text(subset), _fixed(metrics[key], 0), accuracy])
    header = ["Set", "Data", "Pairs", "Accuracy", "Loss", "Margin", "Mean reward", "Min", "Max", "Ties"]
    parts = ["## Results", _table(header, rows, left=2)]
    if subsets:
        parts.append(_table(["Set", "Subset", "Pairs", "Accuracy"], subsets, left=2))
    parts.append(_DEFINITIONS)
    for path in card.plots:
        parts.append(f"![{_text(_PICTURES.get(path.stem, path.stem))}](plots/{quote(path.name)})")
    return "\n\n".join(parts)


def _training(card: CardInputs) -> str:
    parts = ["## Training"]
    if card.wandb_url and re.match(r"https?://[^/]", card.wandb_url):
        parts.append(f"[![Visualize in Weights & Biases]({_BADGE})]({quote(card.wandb_url, safe=_URL_SAFE)})")
    parts.append(_table(["Setting", "Value"], _training_rows(card), left=2))
    if card.data_counts:
        parts.append(_count_table(card.data_counts))
    evaluations = {line["step"]: line for line in card.history if line.get("kind") == "eval"}
    steps = _thinned(sorted(evaluations))
    if steps:
        keys = ("eval_accuracy", "eval_loss", "eval_margin")
        rows = [[f"{step:,}", *(_fixed(evaluations[step].get(key)) for key in keys)] for step in steps]
        parts.append(_table(["Evaluated after step", "Accuracy", "Loss", "Margin"], rows, left=0))
    return "\n\n".join(parts)


def _count_table(data_counts: Mapping[str, Mapping[str, Any]]) -> str:
    """What became of the rows of each split. Facts that are no counts stand elsewhere in the card."""
    splits = list(data_counts.values())
    keys = dict.fromkeys(key for counts in splits for key, value in counts.items() if type(value) is int)
    keys.pop("max_length", None)
    rows = [
        [_text(key.replace("_", " ")), *(_plain(counts.get(key, "")) for counts in splits)] for key in keys
    ]
    return _table(["Rows and tokens", *map(_text, data_counts)], rows)


def _training_rows(card: CardInputs) -> list[list[str]]:
    trained = "all trained"
    if card.num_trainable_parameters != card.num_parameters:
        share = card.num_trainable_parameters / max(card.num_parameters, 1)
        trained = f"{card.num_trainable_parameters:,} trained ({share:.2%})"
    adapter = f", adapter: {_text(card.adapter)}" if card.adapter else ""
    tokens = f"reward read at {_code(card.eos_token)}, padding {_code(card.pad_token)}"
    return [
        ["Base model", _base_model(card) if card.base_model else "none: random weights"],
        ["Architecture", f"{_code(card.architecture)} ({_text(card.model_kind)})"],
        ["Parameters", f"{card.num_parameters:,}, {trained}{adapter}"],
        ["Training data", f"{card.num_train_pairs:,} pairs: {_source(card.train_source)}"],
        ["Text", f"{_code(card.text_as)}; {tokens}. {_text(card.chat_template_note)}".strip()],
        ["Length", f"at most {card.max_length:,} tokens, beyond that {_code(card.overlength)}"],
        ["Steps", f"{card.step:,} of {card.max_steps:,}"],
        ["Epochs", f"{card.epochs:.4g}"],
        ["Batch", f"{card.batch_size:,} pairs per step"],
        ["Loss", _settings(card.loss)],
        ["Optimizer", _settings(card.optimizer)],
        ["Schedule", _settings(card.scheduler)],
        ["Precision", f"{_text(card.precision)}; weights saved as {_text(card.saved_dtype)}"],
        ["Seed", str(card.seed)],
        ["Training time", _duration(card.training_seconds)],
    ]  # fmt: skip


def _thinned(steps: list[int]) -> list[int]:
    """At most `_MOST_ROWS` of them, evenly, the first and the last included."""
    last = len(steps) - 1
    if len(steps) <= _MOST_ROWS:
        return steps
    return [steps[round(row * last / (_MOST_ROWS - 1))] for row in range(_MOST_ROWS)]


def _provenance(card: CardInputs) -> str:
    """How the model was made, where, and whether what was saved is what was measured."""
    command = card.command
    if not isinstance(command, str):
        # The directory of the executable is this machine's; the name is enough to type.
        command = shlex.join([Path(part).name if i == 0 else part for i, part in enumerate(command)])
    rows = [[_text(key), _plain(value)] for key, value in card.environment.items() if value is not None]
    check = "The rewards of this directory were not compared with those of the run."
    if card.reload_difference is not None:
        check = (
            "After saving, this directory was loaded as in the snippet above and "
            f"{card.reload_rows:,} answers were scored again. "
            f"Largest absolute difference from the rewards of the run: {card.reload_difference:.2g}"
        )
        check += f" ({_text(card.max_precision_note)})." if card.max_precision_note else "."
    config = _fence(card.config_yaml, "yaml")
    sections = (
        "## Exact command",
        _fence(command, "bash"),
        f"<details><summary>The whole config</summary>\n\n{config}\n\n</details>",
        "## Environment",
        _table(["What", "Value"], rows, left=2) if rows else "Not recorded.",
        "## Reload check",
        check,
    )
    return "\n\n".join(sections)


def _limits(card: CardInputs) -> str:
    lines = ["Tested on nothing."]
    if card.eval_sets:
        tested = ", ".join(f"{_text(entry['name'])} ({_source(entry['source'])})" for entry in card.eval_sets)
        lines = [
            f"Tested on: {tested}. Not tested on any other data, domain, language or benchmark.",
            "An evaluation set that was drawn like the training data measures accuracy on such data only.",
        ]
        accuracy, pairs = card.eval_sets[0]["metrics"].get("accuracy"), card.eval_sets[0]["num_pairs"]
        if _is_finite(accuracy) and pairs > 0:
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


def _base_model(card: CardInputs) -> str:
    base = str(card.base_model)
    if not card.base_model_is_local and _is_hub_id(base):
        return f"[{_text(base)}](https://huggingface.co/{base})"
    return f"the local model {_code(_last_part(base))}"


def _is_hub_id(name: str) -> bool:
    return len(name) <= 96 and re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name, re.ASCII) is not None


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _fixed(value: float | None, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if _is_finite(value) else "n/a"


def _accuracy(metrics: Mapping[str, float]) -> str:
    low, high = metrics.get("accuracy_ci_low"), metrics.get("accuracy_ci_high")
    interval = f" [{_fixed(low, 3)}, {_fixed(high, 3)}]" if _is_finite(low) and _is_finite(high) else ""
    return _fixed(metrics.get("accuracy")) + interval


def _plain(value: object) -> str:
    """A count, a fact or a list of facts."""
    if isinstance(value, Mapping):
        return _settings(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return f"{value:,}" if type(value) is int else _source(str(value))


def _settings(values: Mapping[str, Any]) -> str:
    """`{"name": "adamw", "lr": 1e-05}` as `adamw, lr 1e-05`. What is null is not in use."""
    shown = {
        key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in values.items()
    }
    first = [_source(shown.pop("name"))] if "name" in shown else []
    return ", ".join(
        first + [f"{_text(key)} {_source(shown[key])}" for key in shown if values[key] is not None]
    )


def _source(value: str) -> str:
    """Where data comes from. Of a path on this machine only the last part: the rest is nobody's business."""
    return _text(_ABSOLUTE_PATH.sub(lambda path: _last_part(path[0]), value))


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _duration(seconds: float | None) -> str:
    if not _is_finite(seconds):
        return "n/a"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _one_line(value: object) -> str:
    """Without line breaks, control characters and marks that reverse the direction of writing."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def _text(value: object) -> str:
    """`value` as prose: HTML and Markdown in it are shown, not obeyed (`a_b` needs no escape)."""
    escaped = html.escape(_one_line(value), quote=False)
    return re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|^[#+=-])", r"\\\1", escaped)


def _code(value: object) -> str:
    """`value` as code within a line or a table cell."""
    text = _one_line(value)
    # Backticks keep neither themselves nor, in a table, a backslash before a pipe.
    return f"<code>{_text(text)}</code>" if set(text) & set("`|\\") or not text else f"`{text}`"


def _fence(text: str, language: str) -> str:
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table of escaped cells; the first `left` columns are text, the others numbers."""
    rule = ["---" if column < left else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])
