"""`merge_models(config)`: one full model of an adapter, or of several reward models, checked by a plain reload."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from rm_experiments.config.merge_schema import MergeConfig, check_merge
from rm_experiments.config.schema import Dtype
from rm_experiments.errors import CheckpointError, ConfigError, TrainingError
from rm_experiments.modeling.heads import HEADS_FILE
from rm_experiments.modeling.layouts.batch import padded_batch
from rm_experiments.modeling.loading import SavedModel, load_saved, open_saved, own_file
from rm_experiments.modeling.merging import (
    WeightFiles,
    average,
    check_difference,
    check_shapes,
    has_weight_files,
    merge_adapter,
    save_full,
)
from rm_experiments.modeling.probe_rows import Row, measure, read_rows, rows_of_dialogues, with_rewards, write_rows
from rm_experiments.modeling.quiet import quiet
from rm_experiments.modeling.reward_model import DTYPES, empty_reward_model
from rm_experiments.reporting.merge_card import MergeCard, render_merge_card
from rm_experiments.runner.environment import versions
from rm_experiments.runner.run_dir import CONFIG_FILE
from rm_experiments.runner.saved_models import find_checkpoints
from rm_experiments.training.checkpoints import commit_directory, free_bytes

_BESIDE = 2**22
"""Bytes of tokenizer, card and the like."""
_NOT_SHAPE = (
    "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "id2label", "label2id",
    "reward_normalization", "reward_model", "bos_token_id", "eos_token_id", "problem_type",
)  # fmt: skip
"""Of config.json: what may differ between models that are averaged; tokens are compared in the tokenizers."""


@dataclass(kw_only=True)
class MergeResult:
    """The new model."""

    directory: Path
    ingredients: list[str]
    shares: list[float]
    dtype: torch.dtype
    difference: float
    """Largest absolute difference of a probe reward after loading."""
    notes: list[str]

    def lines(self) -> list[str]:
        """For people."""
        dtype = str(self.dtype).removeprefix("torch.")
        what = "Merged   " + self.ingredients[0]
        if len(self.ingredients) > 1:
            what = f"Averaged {len(self.ingredients)} models"
        return [
            *(f"Note: {note}" for note in self.notes),
            f"{what}, weights in {dtype}",
            f"Reload   largest difference of a reward {self.difference:.2g}",
            f"Model    {self.directory}",
        ]


def merge_models(config: MergeConfig) -> MergeResult:
    """Make one model of those that `config.directories` name.

    Raises:
        ConfigError, CheckpointError: one line each; nothing was written.
        TrainingError: when the new model gives other rewards than it must.
    """
    check_merge(config)
    transformers_logging.disable_progress_bar()
    output = _output(str(config.output))
    models, notes = _models(config)
    shares = _shares(config, len(models))
    if len(models) > 1:
        _check_alike(models)
    dtype = _dtype(config.dtype, models)
    _check_space(output, models, dtype)
    found: list[float] = []

    def write(directory: Path) -> None:
        work = _merge_one if len(models) == 1 else _average
        found.append(work(directory, models, shares, dtype))

    facts = {"merged_from": [one.name for one in models], "shares": shares}
    try:
        commit_directory(output, write, facts)
    except TrainingError as error:
        if error.__cause__ is not None:
            # The disk was full after all.
            raise ConfigError(f"output={config.output}: {error}") from error
        raise
    return MergeResult(
        directory=output, ingredients=[one.name for one in models], shares=shares, dtype=dtype, difference=found[0],
        notes=notes,
    )  # fmt: skip


def _output(name: str) -> Path:
    path = Path(os.path.expanduser(name))
    if path.exists() or path.is_symlink():
        raise ConfigError(f"output={name}: exists already; choose another directory")
    parent = next(one for one in path.absolute().parents if one.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"output={name}: {parent} is not a directory that can be written to; choose another")
    return path


def _models(config: MergeConfig) -> tuple[list[SavedModel], list[str]]:
    try:
        found, notes = find_checkpoints(config.directories)
        models = [open_saved(one.name, None, config.trust_remote_code) for one in found]
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("checkpoint=", "")) from error
    if len(models) == 1 and not models[0].is_adapter:
        raise ConfigError(
            f"{models[0].name}: is a full model already, and there is nothing to merge; name an adapter, or several "
            "models to average"
        )
    for model in models:
        if model.model_config.num_labels != 1:
            raise CheckpointError(f"{model.name}: gives {model.model_config.num_labels} numbers, not one reward")
        if len(models) > 1 and own_file(model.name, model.revision, HEADS_FILE) is not None:
            notes.append(f"{model.name}: its further heads ({HEADS_FILE}) are left out; the average has one")
    return models, notes


def _shares(config: MergeConfig, number: int) -> list[float]:
    weights = config.weights
    if weights is None:
        return [1 / number] * number
    if len(weights) != number:
        raise ConfigError(f"weights={weights}: {len(weights)} numbers for {number} models; give one for each")
    return [one / sum(weights) for one in weights]


def _check_alike(models: Sequence[SavedModel]) -> None:
    """Refuse models of different architectures or tokenizers."""
    first = models[0]
    for other in models[1:]:
        pair = f"{first.name} and {other.name}"
        one, two = (_architecture(model) for model in (first, other))
        for key in sorted({*one, *two}):
            if one.get(key) != two.get(key):
                raise ConfigError(
                    f"{pair}: different architectures ({key} is {one.get(key)!r} and {two.get(key)!r}); models of one "
                    "architecture are averaged"
                )
        reason = _tokenizer_difference(first, other)
        if reason is not None:
            raise ConfigError(f"{pair}: different {reason}, so they do not read the same; they are not averaged")


def _architecture(model: SavedModel) -> dict[str, Any]:
    values = model.model_config.to_dict()
    return {key: value for key, value in values.items() if key not in _NOT_SHAPE and not key.startswith("_")}


def _tokenizer_difference(one: SavedModel, two: SavedModel) -> str | None:
    first, second = one.tokenizer, two.tokenizer
    if first.get_vocab() != second.get_vocab():
        return "tokenizers (their vocabularies)"
    if first.chat_template != second.chat_template:
        return "chat templates"
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(first, key) != getattr(second, key):
            return f"tokenizers ({key} is {getattr(first, key)} and {getattr(second, key)})"
    text = "Is 3 + 4 = 7?  Yes:\n\tüñ 你好 🙂 don't STOP"
    if first(text)["input_ids"] != second(text)["input_ids"]:
        return "tokenizers (they cut text differently)"
    return None


def _dtype(setting: Dtype, models: Sequence[SavedModel]) -> torch.dtype:
    if setting is not Dtype.auto:
        return DTYPES[setting]
    own = {getattr(model.model_config, "dtype", None) or torch.float32 for model in models}
    dtype = own.pop() if len(own) == 1 else torch.float32
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _check_space(output: Path, models: Sequence[SavedModel], dtype: torch.dtype) -> None:
    shape = empty_reward_model(models[0].base, models[0].model_config)
    weights = sum(one.numel() for one in shape.parameters())
    # What has no files to read tensor by tensor is written aside first, in float32.
    aside = sum(len(models) > 1 and _needs_copy(model) for model in models)
    needed, free = weights * (dtype.itemsize + 4 * aside) + _BESIDE, free_bytes(output)
    if needed > free:
        raise ConfigError(
            f"output={output}: no space: {needed:,} bytes are needed, {free:,} are free; make room or choose another"
        )


def _needs_copy(model: SavedModel) -> bool:
    return model.is_adapter or not has_weight_files(Path(os.path.expanduser(model.name)))


def _rows(models: Sequence[SavedModel]) -> list[Row]:
    """The probe rows of the first model that has some."""
    for model in models:
        rows = read_rows(Path(os.path.expanduser(model.name)))
        if rows is not None:
            return rows
    return rows_of_dialogues(models[0].tokenizer)


def _merge_one(directory: Path, models: Sequence[SavedModel], shares: Sequence[float], dtype: torch.dtype) -> float:
    (model,) = models
    rows = _rows(models)
    found = merge_adapter(model, rows)
    save_full(directory, found.reward_model, model, dtype)
    heads = own_file(model.name, model.revision, HEADS_FILE)
    if heads is not None:
        shutil.copy(heads, directory)
    del found.reward_model
    rows = with_rewards(rows, found.rewards)
    return _finish(directory, models, shares, dtype, rows, found.rewards)


def _average(directory: Path, models: Sequence[SavedModel], shares: Sequence[float], dtype: torch.dtype) -> float:
    aside = directory / ".ingredients"
    aside.mkdir()
    places = [_place(model, aside / str(number)) for number, model in enumerate(models)]
    sources = [WeightFiles(place) for place in places]
    check_shapes(sources, [model.name for model in models])
    _check_head(sources[0], models)
    average(sources, shares, dtype, directory)
    values = json.loads((places[0] / "config.json").read_text(encoding="utf-8"))
    # The average has a scale of its own.
    values.pop("reward_normalization", None)
    values |= {"dtype": str(dtype).removeprefix("torch."), "pad_token_id": models[0].tokenizer.pad_token_id}
    (directory / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    models[0].tokenizer.save_pretrained(directory)
    shutil.rmtree(aside)
    rows = _rows(models)
    rewards = _own_rewards(directory, rows)
    return _finish(directory, models, shares, dtype, with_rewards(rows, rewards), rewards)


def _place(model: SavedModel, aside: Path) -> Path:
    """Where the weights of a full model lie; of an adapter, a full model in float32 is written aside."""
    if not _needs_copy(model):
        return Path(os.path.expanduser(model.name))
    aside.mkdir()
    save_full(aside, load_saved(model), model, torch.float32)
    return aside


def _check_head(source: WeightFiles, models: Sequence[SavedModel]) -> None:
    model = empty_reward_model(models[0].base, models[0].model_config).model
    heads = [key for key in model.state_dict() if not key.startswith(model.base_model_prefix + ".")]
    lost = [key for key in heads if key not in source.shapes]
    if lost:
        raise CheckpointError(f"{models[0].name}: has no reward head ({lost[0]}), so its rewards would be random")


def _own_rewards(directory: Path, rows: list[Row]) -> NDArray[Any]:
    """[2, n] as training, evaluation and `rm-eval` compute them."""
    model = load_saved(open_saved(str(directory))).eval()
    pad_id = int(model.model.config.pad_token_id)
    with torch.inference_mode():
        sides = [
            model(padded_batch([np.array(row[f"input_ids_{side}"]) for row in rows], pad_id)).double().numpy()
            for side in ("chosen", "rejected")
        ]
    return np.stack(sides)


def _plain_rewards(directory: Path, rows: list[Row]) -> NDArray[Any]:
    """[2, n] as plain transformers gives them, in float32 arithmetic."""
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(directory)
            model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1, dtype=torch.float32)
    except Exception as error:  # whatever a library says, the saved model is not usable
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(f"the new model does not load with plain transformers: {reason}") from None
    return measure(model, tokenizer, rows)


def _finish(
    directory: Path, models: Sequence[SavedModel], shares: Sequence[float], dtype: torch.dtype, rows: list[Row],
    rewards: NDArray[Any],
) -> float:  # fmt: skip
    """Probe rows, settings of the data and the card; the largest difference of a reward after a plain reload."""
    write_rows(directory, rows)
    settings = Path(os.path.expanduser(models[0].name)) / CONFIG_FILE
    if settings.is_file():
        # How texts become tokens, which rm-eval takes from here.
        shutil.copyfile(settings, directory / CONFIG_FILE)
    found = _plain_rewards(directory, rows)
    if not np.isfinite(found).all():
        raise TrainingError("the new model gives rewards that are not finite")
    difference = float(np.abs(found - rewards).max())
    if dtype == torch.float32:
        check_difference(difference, rewards, "the new model gives other rewards after loading")
    card = MergeCard(
        name=directory.name.removeprefix(".").removesuffix(".partial"), ingredients=[_described(one) for one in models],
        shares=list(shares), dtype=str(dtype).removeprefix("torch."), architecture=_class_name(models[0]),
        chat=models[0].tokenizer.chat_template is not None, difference=difference, num_rows=2 * len(rows),
        environment=versions(),
    )  # fmt: skip
    (directory / "README.md").write_text(render_merge_card(card), encoding="utf-8", errors="replace", newline="\n")
    return difference


def _described(model: SavedModel) -> dict[str, Any]:
    path = Path(os.path.expanduser(model.name))
    shown = "/".join(path.resolve().parts[-3:]) if path.is_dir() else model.name
    base = str(model.base.name_or_path) if model.is_adapter else None
    name = None if model.saved is None else model.saved.name
    kind = "full model" if not model.is_adapter else "adapter"
    return {"shown": shown, "is_local": path.is_dir(), "kind": kind, "base": base, "run": name,
            "seed": None if model.saved is None else model.saved.seed}  # fmt: skip


def _class_name(model: SavedModel) -> str:
    return type(empty_reward_model(model.base, model.model_config).model).__name__
