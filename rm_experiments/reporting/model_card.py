"""The model card: README.md of every saved model. Front matter for the Hub, then what a person needs to know.

Names, sources, commands and configs come from users. They go through `text`, `code` or `fence`, so that
they cannot end a table, a fence or the front matter, or bring HTML into the page.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData

from rm_experiments.reporting.card_adapter import citation, loading_snippet, needs, trained_cell, what_was_trained
from rm_experiments.reporting.card_data import data_section
from rm_experiments.reporting.card_inputs import CardInputs, EvalSet
from rm_experiments.reporting.card_limits import limits_section, sanity_section
from rm_experiments.reporting.card_results import results_section
from rm_experiments.reporting.card_saved import reload_section, scale_section
from rm_experiments.reporting.markdown import (
    code,
    duration,
    fence,
    fixed,
    is_finite,
    last_part,
    one_line,
    plain,
    settings,
    source,
    table,
    text,
)

__all__ = ["CardInputs", "EvalSet", "render_model_card", "write_model_card"]

_BADGE = "https://raw.githubusercontent.com/wandb/assets/main/wandb-github-badge-28.svg"
_URL_SAFE = ":/?#@!$&*+,;=%~"  # no parentheses, quotes or angle brackets, which end a link
_MOST_ROWS = 12

_SNIPPET = """import torch
{imports}

path = "."  # this directory, or its id on the Hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = {loader}.from_pretrained(path, num_labels=1{more}).eval()

prompt = "What is the capital of France?"
for name, answer in [("chosen", "The capital of France is Paris."), ("rejected", "I will not say.")]:
    {inputs}
    with torch.no_grad():
        print(name, model(**inputs).logits[0, 0].item())"""

_CHAT_INPUTS = """messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    inputs = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt"
    )"""

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
        f"# {text(card.name)}",
        _summary(card),
        _score_a_pair(card),
        results_section(card),
        *filter(None, [scale_section(card.reward_normalization), sanity_section(card.findings)]),
        _training(card),
        *filter(None, [data_section(card.data_counts, card.data_audit)]),
        _provenance(card),
        limits_section(card),
        _TO_FILL_IN,
        f"## Citation\n\n{_CITATION}{citation(card)}",
    )
    return "\n\n".join(sections) + "\n"


def _front_matter(card: CardInputs) -> ModelCardData:
    """What the Hub reads. Licence and language are the user's to state and not guessed."""
    base = card.base_model if card.base_model and not card.base_model_is_local else None
    return ModelCardData(
        model_name=one_line(card.name),
        library_name="peft" if card.is_adapter else "transformers",
        pipeline_tag="text-classification",
        base_model=base if base and _is_hub_id(base) else None,
        datasets=[name for name in card.datasets if _is_hub_id(name)] or None,
        tags=["reward-model", "rm_experiments", *map(one_line, card.tags)],
        metrics=["accuracy"],
        eval_results=_eval_results(card.eval_sets) or None,
    )


def _eval_results(eval_sets: Iterable[EvalSet]) -> list[EvalResult]:
    results, taken = [], set()
    for entry in eval_sets:
        name, hub_id = one_line(entry["name"]), entry.get("hub_id")
        hub_id = hub_id if hub_id and _is_hub_id(hub_id) else None
        split = one_line(entry.get("hub_split") or "") or None if hub_id else None
        # Results of equal type, config and split would be merged into one data set.
        config = name if hub_id is None or (hub_id, split) in taken else None
        taken.add((hub_id, split))
        prefix = "eval" if name == "eval" else f"eval_{name}"
        for key in ("accuracy", "loss", "margin"):
            value = entry["metrics"].get(key)
            if not is_finite(value):
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
    start = f", starting from {_base_model(card)}," if card.base_model else " from random weights"
    pairs = f"{card.num_train_pairs:,}"
    sentences = [
        "A reward model: it reads a dialogue and rates its last answer with one number, higher for better.",
        f"{what_was_trained(card)} trained{start} on {pairs} preference pairs: {source(card.train_source)}.",
    ]
    if card.eval_sets:
        main, best = card.eval_sets[0], card.best_achievable_accuracy
        accuracy = fixed(main["metrics"].get("accuracy"))
        sentences.append(f"**Accuracy: {accuracy} on {main['num_pairs']:,} evaluation pairs**")
        limit = f"; the best achievable, given the noise in the labels, is {fixed(best)}."
        sentences[-1] += limit if is_finite(best) else "."
    if card.status != "finished":
        sentences.append(f"**Not the end of the run:** {text(card.status)}.")
    return " ".join(sentences)


def _score_a_pair(card: CardInputs) -> str:
    imports, loader, more = loading_snippet(card)
    inputs = _CHAT_INPUTS
    if card.text_as == "raw":
        first = f"{card.bos_token!r} + " if card.bos_token else ""
        inputs = (
            f"text = {first}prompt + answer + {card.eos_token!r}\n"
            '    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")'
        )
    code = _SNIPPET.format(imports=imports, loader=loader, more=more, inputs=inputs)
    return (
        f"## Score a pair\n\n{fence(code, 'python')}\n\n"
        "The answer with the higher number is preferred. Training and evaluation read at most "
        f"{card.max_length:,} tokens of prompt and answer together; the snippet does not cut.{needs(card)}"
    )


def _training(card: CardInputs) -> str:
    parts = ["## Training"]
    if card.wandb_url and re.match(r"https?://[^/]", card.wandb_url):
        parts.append(f"[![Visualize in Weights & Biases]({_BADGE})]({quote(card.wandb_url, safe=_URL_SAFE)})")
    parts.append(table(["Setting", "Value"], _training_rows(card), left=2))
    evaluations = {line["step"]: line for line in card.history if line.get("kind") == "eval"}
    steps = _thinned(sorted(evaluations))
    if steps:
        keys = ("eval_accuracy", "eval_loss", "eval_margin")
        rows = [[f"{step:,}", *(fixed(evaluations[step].get(key)) for key in keys)] for step in steps]
        parts.append(table(["Evaluated after step", "Accuracy", "Loss", "Margin"], rows, left=0))
    return "\n\n".join(parts)


def _training_rows(card: CardInputs) -> list[list[str]]:
    trained = "all trained"
    if card.num_trainable_parameters != card.num_parameters:
        share = card.num_trainable_parameters / max(card.num_parameters, 1)
        trained = f"{card.num_trainable_parameters:,} trained ({share:.2%})"
    tokens = f"reward read at {code(card.eos_token)}, padding {code(card.pad_token)}"
    return [
        ["Base model", _base_model(card) if card.base_model else "none: random weights"],
        ["Architecture", f"{code(card.architecture)} ({text(card.model_kind)})"],
        ["Parameters", f"{card.num_parameters:,}, {trained}{trained_cell(card)}"],
        ["Training data", f"{card.num_train_pairs:,} pairs: {source(card.train_source)}"],
        ["Text", f"{code(card.text_as)}; {tokens}. {text(card.chat_template_note)}".strip()],
        ["Length", f"at most {card.max_length:,} tokens, beyond that {code(card.overlength)}"],
        ["Steps", f"{card.step:,} of {card.max_steps:,}"],
        ["Epochs", f"{card.epochs:.4g}"],
        ["Batch", f"{card.batch_size:,} pairs per step"],
        ["Loss", settings(card.loss)],
        ["Optimizer", settings(card.optimizer)],
        ["Schedule", settings(card.scheduler)],
        ["Precision", f"{text(card.precision)}; weights saved as {text(card.saved_dtype)}"],
        ["Seed", str(card.seed)],
        ["Training time", duration(card.training_seconds)],
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
    rows = [[text(key), plain(value)] for key, value in card.environment.items() if value is not None]
    config = fence(card.config_yaml, "yaml")
    sections = (
        "## Exact command",
        fence(command, "bash"),
        ("It started several runs, of which this is one. " if card.in_sweep else "")
        + "This directory's `config.yaml` repeats the run: `rm-train --config-dir DIRECTORY --config-name config`.",
        f"<details><summary>The whole config</summary>\n\n{config}\n\n</details>",
        "## Environment",
        table(["What", "Value"], rows, left=2) if rows else "Not recorded.",
        reload_section(card),
    )
    return "\n\n".join(sections)


def _base_model(card: CardInputs) -> str:
    base = str(card.base_model)
    if not card.base_model_is_local and _is_hub_id(base):
        return f"[{text(base)}](https://huggingface.co/{base})"
    return f"the local model {code(last_part(base))}"


def _is_hub_id(name: str) -> bool:
    shape = r"(\w([\w.-]*\w)?/)?(?=.{1,96}$)\w([\w.-]*\w)?"
    return re.fullmatch(shape, name, re.ASCII) is not None and ".." not in name and "--" not in name
