"""Which weights are trained: all of them, low-rank adapters and the head, the top of the model, or the head."""

from __future__ import annotations

import re
import warnings
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rm_experiments.config.adapter_schema import AdapterConfig
from rm_experiments.config.adapter_validation import LORA_NAMES
from rm_experiments.errors import ConfigError
from rm_experiments.modeling.features import freeze_backbone
from rm_experiments.modeling.freezing import freeze_below
from rm_experiments.modeling.quantising import check_quantising
from rm_experiments.modeling.reward_model import BuiltModel

ALL_LINEAR = "all-linear"


def check_packages(config: AdapterConfig, device: torch.device) -> None:
    """Refuse an adapter whose packages are not there, before a model is loaded.

    Raises:
        ConfigError: with what to type.
    """
    if config.name in LORA_NAMES and find_spec("peft") is None:
        raise ConfigError(f"adapter={config.name} needs peft; type pip install 'rm_experiments[lora]'")
    check_quantising(config, device)


def add_adapter(built: BuiltModel, config: AdapterConfig, revision: str | None = None) -> Any | None:
    """Insert the adapter's layers into the model in place, or freeze what is not to be trained.

    What was decided is added to the notes of `built`.

    Args:
        revision: of the base model on the Hub, which the adapter's directory names.

    Returns:
        The peft model around it, which saves and loads the adapter; None where there is none.

    Raises:
        ConfigError: when the settings do not fit the model.
    """
    if config.name == "none":
        return None
    if config.name == "probe":
        built.notes.append(freeze_backbone(built))
        return None
    if config.name == "last_layers":
        # A copy without weights is told what is trained.
        if built.reward_model.model.device.type != "meta":
            built.notes.append(freeze_below(built, int(config.num_layers or 0)))
        return None
    from peft import get_peft_model

    model = built.reward_model.model
    _check_layers(built, config)
    targets = _targets(built, config)
    try:
        with warnings.catch_warnings():
            # peft asks transformers for names that are on their way out.
            warnings.simplefilter("ignore", FutureWarning)
            adapter = get_peft_model(model, _lora_config(built, config, targets), revision=revision)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"adapter.target_modules={config.target_modules}: {reason}; try adapter.target_modules={ALL_LINEAR}"
        ) from error
    total = sum(one.numel() for one in model.parameters())
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    built.notes.append(
        f"Adapter: {config.name}, and {', '.join(built.own_modules)} whole; {trained:,} of {total:,} weights trained."
    )
    return adapter


def _lora_config(built: BuiltModel, config: AdapterConfig, targets: Any) -> Any:
    from peft import LoraConfig, TaskType

    start: Any = config.init_lora_weights or "default"
    return LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=int(config.rank or 0),
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=float(config.dropout or 0.0),
        target_modules=targets,
        exclude_modules=config.exclude_modules,
        layers_to_transform=config.layers_to_transform,
        bias=config.bias or "none",  # type: ignore[arg-type]
        use_rslora=config.name == "rslora",
        use_dora=config.name == "dora",
        init_lora_weights=True if start == "default" else start,
        # Whatever does not come from the base model's checkpoint must be trained and saved with the adapter.
        modules_to_save=list(built.own_modules),
    )


def _check_layers(built: BuiltModel, config: AdapterConfig) -> None:
    """peft passes over layers that are not there."""
    number = built.reward_model.model.config.get_text_config().num_hidden_layers
    beyond = [one for one in config.layers_to_transform or () if one >= number]
    if beyond:
        raise ConfigError(
            f"adapter.layers_to_transform={config.layers_to_transform}: the model has {number} layers, from 0 to "
            f"{number - 1}"
        )


def _targets(built: BuiltModel, config: AdapterConfig) -> Any:
    """`adapter.target_modules` without what names nothing but the reward head, which is trained whole.

    Raises:
        ConfigError: for a name that nothing in the model has, or when only the head is named.
    """
    targets, excluded = config.target_modules, config.exclude_modules
    names = [name for name, _ in built.reward_model.model.named_modules() if name]
    own = [one for one in names if set(one.split(".")) & set(built.own_modules)]
    body = [one for one in names if one not in set(own)]
    for target in excluded if isinstance(excluded, list) else [excluded] if excluded else []:
        if not _matched(target, names, isinstance(excluded, str)):
            raise _unknown("exclude_modules", target, built, isinstance(excluded, str))
    if targets is None or (isinstance(targets, str) and targets.lower() == ALL_LINEAR):
        return targets
    kept, heads = [], []
    for target in targets if isinstance(targets, list) else [targets]:
        in_body, in_head = (_matched(target, where, isinstance(targets, str)) for where in (body, own))
        if not in_body and not in_head:
            raise _unknown("target_modules", target, built, isinstance(targets, str))
        if in_head:
            heads.append(in_head[0])
        if in_body:
            kept.append(target)
    if not kept:
        raise ConfigError(
            f"adapter.target_modules={targets}: names the reward head only, which is trained whole in any case; name "
            f"what gets an adapter: {_shown(_kinds(built))}, or {ALL_LINEAR}"
        )
    if heads:
        built.notes.append(f"Adapter: {', '.join(heads)} gets none, since it is trained whole.")
    return kept if isinstance(targets, list) else targets


def _matched(target: str, names: list[str], is_pattern: bool) -> list[str]:
    """As peft matches: a pattern the whole name, a name the whole or its end."""
    if is_pattern:
        return [one for one in names if re.fullmatch(target, one)]
    return [one for one in names if one == target or one.endswith(f".{target}")]


def _unknown(key: str, target: str, built: BuiltModel, is_pattern: bool) -> ConfigError:
    what = "as a pattern for whole names it" if is_pattern else "it"
    named = f"[{target}]" if not is_pattern else target
    return ConfigError(
        f"adapter.{key}={named}: {what} matches nothing in {type(built.reward_model.model).__name__}, which has "
        f"{_shown(_kinds(built))}; try adapter.{key}=[{_kinds(built)[0]}]"
    )


def _kinds(built: BuiltModel) -> list[str]:
    """The last parts of the names of all linear layers outside of the head."""
    found = [
        name.rpartition(".")[2] for name, module in built.reward_model.model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not set(name.split(".")) & set(built.own_modules)
    ]  # fmt: skip
    return list(dict.fromkeys(found))


def _shown(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
