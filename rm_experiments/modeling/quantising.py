"""Base models of 4 bits (QLoRA, arXiv:2305.14314), by bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from rm_experiments.config.adapter_schema import AdapterConfig
from rm_experiments.errors import ConfigError


def check_quantising(config: AdapterConfig, device: torch.device) -> None:
    """Refuse weights of 4 bits where bitsandbytes is not installed or has no code for the device.

    Raises:
        ConfigError: one line.
    """
    if config.name != "qlora":
        return
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    except ImportError as error:
        raise ConfigError("adapter=qlora needs bitsandbytes; type pip install 'rm_experiments[qlora]'") from error
    try:
        dequantize_4bit(*quantize_4bit(torch.ones(64, 64, device=device), quant_type=config.quant_type))
    except Exception as error:  # whatever the library says of a device that it does not know
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"adapter=qlora: this bitsandbytes does not compute on {device.type} ({reason}); try adapter=lora, or "
            "pip install -U bitsandbytes"
        ) from error


def loading_arguments(
    config: AdapterConfig, model_config: PretrainedConfig, device: torch.device, narrow: bool
) -> dict[str, Any]:
    """What makes `from_pretrained` load the base model in 4 bits on `device`; empty for other adapters.

    The head, and poolers, which may be fresh, keep their type.

    Args:
        narrow: whether arithmetic is of 16 bits (`train.precision=bf16`), which decides `compute_dtype=auto`.
    """
    if config.name != "qlora":
        return {}
    from transformers import BitsAndBytesConfig

    with torch.device("meta"):
        shape = AutoModelForSequenceClassification.from_config(model_config)
    skipped = [name for name, _ in shape.named_children() if name != shape.base_model_prefix]
    skipped += [name for name, _ in shape.named_modules() if name.rpartition(".")[2] == "pooler"]
    compute = config.compute_dtype
    if compute == "auto":
        compute = "bfloat16" if narrow else "float32"
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=config.quant_type, bnb_4bit_use_double_quant=config.double_quant,
            bnb_4bit_compute_dtype=compute, llm_int8_skip_modules=skipped,
        ),
        "device_map": {"": device},
    }  # fmt: skip


def quantization_text(loading: dict[str, Any]) -> str | None:
    """The `quantization_config` as it is written in Python; None without one."""
    found = loading.get("quantization_config")
    if found is None:
        return None
    keys = ("load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype",
            "llm_int8_skip_modules")  # fmt: skip
    values = {key: getattr(found, key) for key in keys}
    values["bnb_4bit_compute_dtype"] = str(found.bnb_4bit_compute_dtype).removeprefix("torch.")
    return f"BitsAndBytesConfig({', '.join(f'{key}={value!r}' for key, value in values.items())})"


def arithmetic_dtype(model: Any) -> torch.dtype:
    """The narrowest type that a model's weights are multiplied in, as far as they say."""
    quantised = getattr(model.config, "quantization_config", None)
    found = getattr(quantised, "bnb_4bit_compute_dtype", None)
    return found if isinstance(found, torch.dtype) else model.dtype


def dequantise(model: nn.Module) -> None:
    """Put ordinary linear layers in the place of those of 4 bits, with the weights that these compute with."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Linear4bit

    for name, module in list(model.named_modules()):
        if not isinstance(module, Linear4bit):
            continue
        with torch.device("meta"):
            plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
        packed: Any = module.weight
        weight = dequantize_4bit(packed.data, packed.quant_state)
        plain.weight = nn.Parameter(weight.to(torch.float32))
        plain.bias = module.bias
        model.set_submodule(name, plain)
    model.config.__dict__.pop("quantization_config", None)
    for key in ("is_quantized", "is_loaded_in_4bit", "hf_quantizer", "quantization_method"):
        model.__dict__.pop(key, None)
