"""What a model card says, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict


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
    adapter: Mapping[str, Any] | None = None  # settings of `adapter` unless all weights were trained
    merged: bool = False  # whether a low-rank adapter was added to the weights of this directory
    quantization: str | None = None  # of a base model of 4 bits: its quantization_config as written in Python
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
    data_counts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # split -> `rows_read`, `kept` ...
    data_audit: Mapping[str, Any] | None = None  # `audit` of data_report.json: its `findings`
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
    in_sweep: bool = False  # whether that command started several runs
    config_yaml: str
    environment: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Mapping[str, Any]] | None = None  # `sanity` of summary.json; None: not looked for yet
    reload_difference: float | None = None  # largest absolute difference of a reward; None: not measured
    reload_rows: int = 0
    reload_tolerance: float | None = None  # more than this would have failed the run
    batch_invariance: Mapping[str, float | None] | None = None  # as `reload.batch_invariance` found; None: not measured
    reward_normalization: Mapping[str, Any] | None = None  # as in config.json; None: not measured

    @property
    def is_adapter(self) -> bool:
        """Whether the directory is peft's, and needs its base model."""
        return self.adapter is not None and self.adapter["name"] not in ("last_layers", "probe") and not self.merged
