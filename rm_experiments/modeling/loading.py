"""Saved reward models of any origin: ours, plain sequence classifiers with one label, PEFT adapters."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from rm_experiments.config.adapter_schema import AdapterConfig
from rm_experiments.config.compose import load_config_yaml
from rm_experiments.config.heads import SINGLE, Heads
from rm_experiments.config.schema import ModelConfig, RunConfig
from rm_experiments.errors import CheckpointError, ConfigError
from rm_experiments.modeling.heads import HEADS_FILE, load_heads, read_heads
from rm_experiments.modeling.quantising import check_quantising, dequantise, loading_arguments
from rm_experiments.modeling.reward_model import BuiltModel, RewardModel, build_reward_model, load_model_config
from rm_experiments.modeling.tokenizer import load_tokenizer

_CONFIG_FILE, _ADAPTER_FILE = "config.yaml", "adapter_config.json"


@dataclass(kw_only=True)
class SavedModel:
    """What is known of a saved model before its weights are read."""

    name: str
    """Directory or Hub id."""
    revision: str | None
    """Of the Hub id."""
    tokenizer: PreTrainedTokenizerBase
    model_config: PretrainedConfig
    saved: RunConfig | None
    """The config of the run that made it, if it is ours."""
    base: ModelConfig
    """Where the weights are; of an adapter, those of the base model."""
    is_adapter: bool


def open_saved(name: str, revision: str | None = None, trust_remote_code: bool = False) -> SavedModel:
    """Tokenizer, architecture and settings of a saved model.

    Raises:
        CheckpointError: when it cannot be found, read, or is no model.
    """
    try:
        return _opened(name, revision, trust_remote_code)
    except CheckpointError as error:
        # The messages of a run name its remedies.
        reason = str(_of_checkpoint(error)).partition("; try ")[0]
        raise CheckpointError(f"{reason}; name a model directory, a run or a Hub id") from error


def _of_checkpoint(error: CheckpointError) -> CheckpointError:
    """The messages of a run name its key."""
    return CheckpointError(str(error).replace("model.name_or_path=", "checkpoint="))


def _opened(name: str, revision: str | None, trust_remote_code: bool) -> SavedModel:
    own = ModelConfig(name_or_path=name, revision=revision, trust_remote_code=trust_remote_code)
    adapter = _adapter_file(name, revision)
    base = own
    if adapter is not None:
        where, which = _base_of(adapter, name)
        base = ModelConfig(name_or_path=where, revision=which, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(own)
    saved, config_file = None, own_file(name, revision, _CONFIG_FILE)
    if config_file is not None:
        try:
            saved = load_config_yaml(config_file)
        except (ConfigError, OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{config_file}: is not the config of a run ({error})") from error
    return SavedModel(
        name=name, revision=revision, tokenizer=tokenizer, model_config=load_model_config(base, tokenizer),
        saved=saved, base=base, is_adapter=adapter is not None,
    )  # fmt: skip


def load_saved(model: SavedModel, all_heads: bool = False) -> RewardModel:
    """The model with its weights, in float32, as it computes in evaluation.

    Raises:
        CheckpointError: when weights are missing or damaged, or there is no reward head.
    """
    if model.is_adapter:
        return _with_heads(model, merged(load_adapted(model)), all_heads)
    built = _built(model, {})
    if built.fresh_head:
        raise CheckpointError(
            f"{model.name}: has no reward head, so its rewards would be random; train one with "
            f"rm-train model=pretrained model.name_or_path={model.name}"
        )
    return _with_heads(model, built.reward_model, all_heads)


def load_adapted(model: SavedModel) -> Any:
    """The peft model of a saved adapter, in float32 on the CPU; a base of 4 bits has the weights of these in float32.

    Raises:
        CheckpointError: when weights are missing or damaged, or there is no reward head.
        ConfigError: when a package is not installed.
    """
    settings = AdapterConfig() if model.saved is None else model.saved.adapter
    check_quantising(settings, torch.device("cpu"))
    built = _built(model, loading_arguments(settings, model.model_config, torch.device("cpu"), narrow=False))
    if settings.name == "qlora":
        dequantise(built.reward_model.model)
    return _with_adapter(model, built)


def _with_heads(model: SavedModel, reward_model: RewardModel, wanted: bool) -> RewardModel:
    """With all heads that lie beside the one that gives the reward, if they are wanted."""
    path = own_file(model.name, model.revision, HEADS_FILE) if wanted else None
    if path is not None:
        load_heads(path, reward_model)
    return reward_model


def saved_heads(name: str, revision: str | None) -> Heads:
    """The heads of a saved model.

    Raises:
        CheckpointError: when what lies beside it is damaged.
    """
    path = own_file(name, revision, HEADS_FILE)
    return SINGLE if path is None else read_heads(path)


def merged(adapted: Any) -> RewardModel:
    """One model of plain layers: the layouts know these, and rewards are the same but for rounding."""
    return RewardModel(adapted.merge_and_unload())


def _built(model: SavedModel, loading: dict[str, Any]) -> BuiltModel:
    try:
        return build_reward_model(model.base, model.model_config, 0, loading)
    except CheckpointError as error:
        raise _of_checkpoint(error) from error


def _with_adapter(model: SavedModel, built: BuiltModel) -> Any:
    try:
        from peft import PeftModel
        from peft.utils import load_peft_weights
    except ImportError as error:
        raise ConfigError(f"{model.name}: is an adapter, which needs peft; type pip install 'rm_experiments[lora]'") \
            from error  # fmt: skip
    name = os.path.expanduser(model.name)
    try:
        weights = load_peft_weights(name, device="cpu", revision=model.revision)
        _refuse_without_head(model, built, weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            adapted: Any = PeftModel.from_pretrained(built.reward_model.model, name, revision=model.revision)
    except CheckpointError:
        raise
    except Exception as error:  # whatever peft says, the adapter is not usable
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{model.name}: the adapter does not load ({type(error).__name__}: {reason})") from error
    return adapted


def _refuse_without_head(model: SavedModel, built: BuiltModel, weights: Collection[str]) -> None:
    """The adapter must have what the base model lacks; low-rank changes of a head are no head."""
    whole = [key for key in weights if "lora_" not in key]
    absent = [one for one in built.own_modules if not any(f".{one}." in key for key in whole)]
    if built.fresh_head and absent:
        raise CheckpointError(
            f"{model.name}: neither the adapter nor its base model holds {absent[0]}, so its rewards would be random"
        )


def _adapter_file(name: str, revision: str | None) -> str | None:
    from transformers.utils.peft_utils import find_adapter_config_file

    directory = Path(os.path.expanduser(name))
    if directory.is_dir():
        return str(directory / _ADAPTER_FILE) if (directory / _ADAPTER_FILE).is_file() else None
    try:
        found: str | None = find_adapter_config_file(name, revision=revision)
    except Exception:  # not on the Hub, or no Hub: loading the tokenizer says so
        return None
    return found


def own_file(name: str, revision: str | None, file: str) -> Path | None:
    """A file that lies beside a model of ours, in its directory or on the Hub; None where there is none."""
    directory = Path(os.path.expanduser(name))
    if directory.is_dir():
        return directory / file if (directory / file).is_file() else None
    found = cached_file(
        name, file, revision=revision, _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False, _raise_exceptions_for_gated_repo=False,
    )  # fmt: skip
    return None if found is None else Path(found)


def _base_of(adapter: str, name: str) -> tuple[str, str | None]:
    """Where the base model is, and which revision of it."""
    try:
        values = json.loads(Path(adapter).read_text(encoding="utf-8"))
        base = values["base_model_name_or_path"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{name}: {_ADAPTER_FILE} names no base model ({type(error).__name__})") from error
    return str(base), values.get("revision")
