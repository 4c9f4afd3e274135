"""Which weights are trained: all of them, or low-rank adapters and the reward head."""

from __future__ import annotations

from typing import Any

from rm_experiments.config.adapter_schema import AdapterConfig
from rm_experiments.errors import ConfigError
from rm_experiments.modeling.reward_model import BuiltModel


def add_adapter(built: BuiltModel, config: AdapterConfig) -> Any | None:
    """Insert the adapter's layers into the model in place.

    Returns:
        The peft model around it, which saves and loads the adapter; None with `adapter=none`.

    Raises:
        ConfigError: when peft is not installed or finds no module to adapt.
    """
    if config.name == "none":
        return None
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise ConfigError("adapter=lora needs peft; type pip install 'rm_experiments[lora]'") from error
    targets = config.target_modules
    try:
        return get_peft_model(
            built.reward_model.model,
            LoraConfig(
                task_type=TaskType.SEQ_CLS,
                r=int(config.rank or 0),
                lora_alpha=config.alpha,  # type: ignore[arg-type]
                lora_dropout=float(config.dropout or 0.0),
                target_modules=targets,
                # Whatever does not come from the base model's checkpoint must be trained and saved with the adapter.
                modules_to_save=built.own_modules,
            ),
        )
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"adapter.target_modules={targets}: {reason}; try adapter.target_modules=all-linear"
        ) from error
