"""Every setting of a run, with its meaning. Torch-free: composing and refusing a config must answer at once.

Below this layer nobody sees OmegaConf: the runner gets a `RunConfig` whose values were checked by `validation.check`.
Fields typed `Any` hold a string or a list of strings, which OmegaConf cannot express; `validation.check`
holds them to that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from rm_experiments.config.adapter_schema import AdapterConfig
from rm_experiments.config.data_schema import DataConfig
from rm_experiments.config.hub_schema import HubConfig
from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.optimizer_schema import OptimizerConfig, SchedulerConfig


class ModelSource(str, Enum):
    scratch = "scratch"
    pretrained = "pretrained"


class Dtype(str, Enum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Attention(str, Enum):
    auto = "auto"
    eager = "eager"
    sdpa = "sdpa"
    flash_attention_2 = "flash_attention_2"


class Device(str, Enum):
    auto = "auto"
    cuda = "cuda"
    mps = "mps"
    cpu = "cpu"


class Precision(str, Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Layout(str, Enum):
    auto = "auto"
    padded = "padded"
    packed = "packed"
    shared_prefix = "shared_prefix"


class Mode(str, Enum):
    max = "max"
    min = "min"


class FinalModel(str, Enum):
    last = "last"
    best = "best"


class TrackingBackend(str, Enum):
    wandb = "wandb"
    tensorboard = "tensorboard"
    none = "none"


class TrackingMode(str, Enum):
    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


class LogModel(str, Enum):
    none = "none"
    final = "final"
    checkpoints = "checkpoints"


@dataclass(kw_only=True)
class ScratchConfig:
    """The shape of a Llama-style decoder that starts from random weights, and of its tokenizer."""

    hidden_size: int = 64
    """Width of the residual stream; a multiple of `num_heads`."""
    intermediate_size: int = 192
    """Width of the gated MLP."""
    num_layers: int = 2
    """Decoder layers."""
    num_heads: int = 4
    """Attention heads."""
    num_kv_heads: int = 4
    """Key and value heads; divides `num_heads`."""
    vocab_size: int = 1024
    """Upper bound for the byte-level BPE trained on the training texts; at least 260 (256 bytes, 4 special tokens)."""
    max_positions: int = 512
    """Longest sequence in tokens."""


@dataclass(kw_only=True)
class ModelConfig:
    """The base model that gets a reward head."""

    source: ModelSource = ModelSource.pretrained
    """`scratch`: random weights in the shape of `model.scratch`; `pretrained`: `model.name_or_path`."""
    name_or_path: str | None = None
    """Directory or Hub id of any model that transformers can load for sequence classification."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; null: the default branch."""
    dtype: Dtype = Dtype.auto
    """Type of the trained weights. `auto`: float32, because small updates vanish in 16 bits."""
    attention: Attention = Attention.auto
    """Attention implementation of transformers, with `train.layout=padded`; `auto`: that of the layout."""
    trust_remote_code: bool = False
    """Whether code from the model's repository may run on this machine."""
    dropout: float = 0.0
    """Every dropout probability of the model, attention dropout included; 0 to below 1. 0: really off."""
    suggested_lr: float = 1e-5
    """Peak learning rate that suits training all weights of this model; `optimizer.lr` is this unless it is set."""
    scratch: ScratchConfig | None = None
    """Shape of the model with `source=scratch`; null otherwise."""


@dataclass(kw_only=True)
class TrainConfig:
    """The training loop."""

    max_steps: int | None = None
    """Optimizer steps; when set it decides and data repeats as needed. Null: `num_epochs` decides."""
    num_epochs: float = 1.0
    """Passes over the training pairs; fractions are allowed."""
    batch_size: int = 16
    """Preference pairs per optimizer step, over all processes."""
    micro_batch_tokens: int | str = "auto"
    """Token budget of one forward pass, padding included; does not change the result. `auto`: measured on CUDA, by the
    width of the model on a CPU."""
    length_window: int = 8
    """Steps whose pairs are sorted by length together before they are cut into steps and shuffled again; 1: off."""
    layout: Layout = Layout.auto
    """How sequences become a forward pass; does not change the result. `padded`: rows of equal length; `packed`: no
    padding; `shared_prefix`: no padding, and what the answers to a prompt share is computed once; `auto`: the fastest
    that the model supports."""
    device: Device = Device.auto
    """`auto`: CUDA, else MPS, else CPU."""
    precision: Precision = Precision.auto
    """Of the backbone's arithmetic; rewards and loss are float32. `auto`: bf16 on GPUs that have it, else fp32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more arithmetic."""
    compile: bool = False
    """torch.compile on the backbone."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this norm; null: off."""
    log_every_steps: int = 10
    """Training metrics are logged over windows of this many steps."""
    early_stopping_patience: int | None = None
    """Stop after this many evaluations without improvement of `checkpoint.metric`; null: off."""
    max_hours: float | None = None
    """Save and stop in time for this command to take no longer, with exit code 143; the same command goes on. Null:
    off. The end of a job under SLURM counts in any case."""
    profile_steps: int | None = None
    """Record so many optimizer steps, after 2 that warm up, with torch.profiler: `profile/operators.txt` and a trace in
    the run's directory. Does not change the result. Null: off, at no cost."""
    hang_seconds: float | None = None
    """End a run that makes no progress for this long, with the stacks of all processes and exit code 124. Null: a
    minute, or 10 times what a forward and backward pass takes; at least 10 minutes before the first one."""


@dataclass(kw_only=True)
class EvalConfig:
    """When evaluation happens, and how big its batches are. All that are set apply together."""

    every_steps: int | None = None
    """After every n optimizer steps."""
    every_fraction: float | None = None
    """After every such fraction of training, above 0 to 1."""
    every_epochs: float | None = None
    """After every so many passes over the training pairs; fractions are allowed."""
    log_spaced: int | None = None
    """This many times, at steps spaced evenly on a logarithmic scale."""
    at_start: bool = False
    """Before the first step."""
    at_end: bool = True
    """After the last step."""
    micro_batch_tokens: int | str = "auto"
    """Token budget of one forward pass; does not change the result. `auto`: that of training, on CUDA 4 times of it."""


@dataclass(kw_only=True)
class CheckpointConfig:
    """What is kept, and which model is handed over."""

    every_steps: int | None = None
    """Save after every n steps; null: after every evaluation."""
    keep_last: int = 2
    """Checkpoints kept beside the best one; at least 1."""
    keep_best: bool = True
    """Keep the checkpoint with the best `metric`; `checkpoints/best` links to it."""
    metric: str = "eval_accuracy"
    """The metric that decides, as written in metrics.jsonl."""
    mode: Mode = Mode.max
    """Whether higher (`max`) or lower (`min`) is better."""
    final: FinalModel = FinalModel.last
    """Which weights go to `final/`: those after the last step, or the best checkpoint's."""
    dtype: Dtype = Dtype.auto
    """Type of saved weights; `auto`: the base model's own."""
    verify: bool = False
    """Load every checkpoint with plain transformers in a process of its own before it counts, and fail when 16 probe
    rewards differ; `final/` is checked in any case."""
    fold_normalization: bool = False
    """Change the head of `final/` so that its rewards have mean 0 and standard deviation 1 on the main evaluation set
    (without one, the first 1,024 training pairs); heads without a bias (decoders): standard deviation 1, the mean
    stays. The run's metrics are those from before."""


@dataclass(kw_only=True)
class TrackingConfig:
    """Where metrics go beside metrics.jsonl."""

    backend: TrackingBackend = TrackingBackend.wandb
    """`wandb`, `tensorboard` or `none`."""
    mode: TrackingMode = TrackingMode.auto
    """W&B: `auto` (online when logged in, else offline), `online`, `offline`, `disabled`."""
    project: str = "rm_experiments"
    """W&B project."""
    entity: str | None = None
    """W&B user or team; null: the account's default."""
    group: str | None = None
    """W&B group; null: the sweep in a sweep."""
    job_type: str = "train"
    """W&B job type."""
    tags: list[str] = field(default_factory=list)
    """W&B tags, each 1 to 64 characters. The overrides of the command are added."""
    notes: str | None = None
    """W&B notes."""
    log_model: LogModel = LogModel.none
    """What W&B gets as an artifact: nothing (`none`), the `final` model, or the `checkpoints`, too, without what
    resuming needs. Offline, `final` is uploaded by `wandb sync`, and `checkpoints` is refused."""


@dataclass(kw_only=True)
class LaunchConfig:
    """Where one run executes."""

    name: str = "inline"
    """`inline`: this process; `accelerate`: `num_processes` ranks started from the resolved config; `torchrun`: started
    by torchrun, on one machine or several."""
    num_processes: int = 1
    """Processes of one run."""
    concurrent_runs: int | None = None
    """Jobs of a sweep at once on this machine; null: as many as there are GPUs for, without GPUs one per two cores."""
    gpus_per_run: int | None = None
    """GPUs that each job of a sweep sees, 0 or more; null: one per process of the run, or none where there are none.
    Where they do not suffice for `concurrent_runs`, jobs share them."""
    repeat_failed: bool = False
    """Whether a sweep that is repeated in its directory runs the jobs again that failed there."""
    strategy: str = "ddp"
    """What each process holds. `ddp`: the whole model; `fsdp`: a slice of every weight, gradient and moment (FSDP2)."""
    fsdp_reshard_after_forward: bool = True
    """Let a layer's weights go after its forward pass and gather them again for the backward pass: less memory, half as
    much communication again."""
    fsdp_cpu_offload: bool = False
    """Keep slices, gradients and moments in the host's memory, where the optimizer runs: far slower."""


FOR_SWEEPS = ("concurrent_runs", "gpus_per_run", "repeat_failed")
"""Settings of `launch` that are the sweep's, and say nothing to a run."""


@dataclass(kw_only=True)
class RunConfig:
    """A whole run."""

    name: str = "rm"
    """Name of the run: letters, digits, `.`, `_`, `-`; at most 80."""
    seed: int = 0
    """The one seed: initial weights, order of the data, dropout."""
    run_dir: str | None = None
    """Where the run writes; null: `outputs/<name>/<date>_<time>`."""
    resume: str = "auto"
    """`auto`: go on from the newest good checkpoint of `run_dir`; `never`; or a checkpoint directory."""
    allow_changes: list[str] = field(default_factory=list)
    """Settings that may differ from those that the run to go on with began with, by their keys; recorded. `data`,
    `tokenizer`: their content may differ under the same name."""
    objective: str = "eval_accuracy"
    """The metric that the command returns to a sweeper."""
    dry_run: bool = False
    """Print steps, tokens, memory and disk that the run would need, and stop."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
