"""How a saved model is loaded, computes, and reads texts: what all commands have in common that use one. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rm_experiments.config.data_schema import Overlength, TextAs
from rm_experiments.config.data_validation import is_template_variable
from rm_experiments.config.rules import WHOLE, budget, refuse
from rm_experiments.config.schema import Device, Layout, Precision


@dataclass(kw_only=True)
class EvaluatedModelConfig:
    """How the checkpoint is loaded."""

    revision: str | None = None
    """Branch, tag or commit of a checkpoint on the Hub; null: the default branch."""
    trust_remote_code: bool = False
    """Whether code from the model's repository may run on this machine."""


@dataclass(kw_only=True)
class ComputeConfig:
    """How rewards are computed; the keys of a run's `train`."""

    device: Device = Device.auto
    """`auto`: CUDA, else MPS, else CPU."""
    precision: Precision = Precision.auto
    """Of the backbone's arithmetic; `auto`: what the model was trained with, where that is known and possible."""
    layout: Layout = Layout.auto
    """How sequences become a forward pass; does not change the result."""


@dataclass(kw_only=True)
class PassConfig:
    """How big the batches are; the key of a run's `eval`."""

    micro_batch_tokens: int | str = "auto"
    """Token budget of one forward pass; does not change the result."""


@dataclass(kw_only=True)
class ReadingConfig:
    """How texts become tokens. Null: as the model was trained."""

    text_as: TextAs | None = None
    """`chat`: a text prompt is a user turn, a text answer an assistant turn; `raw`: they are concatenated."""
    max_length: int | None = None
    """Tokens of prompt and answer together."""
    overlength: Overlength | None = None
    """What happens past it: `truncate_prompt`, `truncate_response`; with `drop` and `error` it is a bad row."""
    chat_template: str | None = None
    """A name in `conf/chat_templates/` or a file; null: the one that is saved with the model."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables of the template for all texts."""


def check_computing(train: ComputeConfig, passes: PassConfig) -> None:
    """The rules of device, precision and batches.

    Raises:
        ConfigError: one line with the setting, its value, what is allowed and what to type.
    """
    if not budget(passes.micro_batch_tokens):
        raise refuse("eval.micro_batch_tokens", passes.micro_batch_tokens, f"must be {WHOLE}, or auto")
    if train.precision is Precision.fp16 and train.device is Device.cpu:
        raise refuse("train.precision", "fp16", "is not possible with train.device=cpu", "train.precision=bf16")


def check_reading(data: ReadingConfig) -> None:
    """The rules of how texts become tokens.

    Raises:
        ConfigError: as `check_computing`.
    """
    if data.max_length is not None and data.max_length < 4:
        raise refuse("data.max_length", data.max_length, "must be a whole number of at least 4, or null")
    if data.chat_template == "":
        raise refuse("data.chat_template", "", "must not be empty", "data.chat_template=null")
    for name in data.chat_template_kwargs:
        if not is_template_variable(name):
            raise refuse("data.chat_template_kwargs", name, "is no name for a variable of a chat template")
