"""The run that is disturbed: tiny, but with all that a run does, and in several variants."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import rm_experiments

ROOT = Path(rm_experiments.__file__).resolve().parent.parent
"""What PYTHONPATH must hold so that every process runs the package that is imported here."""
MAX_STEPS, SAVE_EVERY, EVALUATE_EVERY, KEEP_LAST = 14, 3, 5, 2
# The windows of training metrics, the evaluations and the checkpoints fall apart, and the last step is none of theirs.
COMMAND = (
    "run_dir=run", f"train.max_steps={MAX_STEPS}", "train.batch_size=4", "train.log_every_steps=4",
    "eval=steps", f"eval.every_steps={EVALUATE_EVERY}", f"checkpoint.every_steps={SAVE_EVERY}",
    f"checkpoint.keep_last={KEEP_LAST}", "tracking=none", "train.device=cpu", "train.precision=fp32",
    "data.sandbox.num_train_pairs=40", "data.sandbox.num_eval_pairs=20", "model.scratch.hidden_size=16",
    "model.scratch.intermediate_size=32", "model.scratch.num_heads=2", "model.scratch.num_kv_heads=1",
    "model.scratch.vocab_size=320",
)  # fmt: skip
VARIANTS = {
    "plain": (),
    "dropout": ("model.dropout=0.1",),
    "best": ("model.dropout=0.1", "checkpoint.final=best", "seed=1"),
    "small batches": ("train.layout=padded", "train.micro_batch_tokens=150", "eval.at_start=false", "seed=2"),
    "watched": ("model.dropout=0.1", "train.hang_seconds=5"),
}
ORDINARY = ("plain", "dropout", "best", "small batches")
"""Variants that any trial may take."""
TWO = ("launch=accelerate", "launch.num_processes=2")
PYTHON = (sys.executable, "-m", "rm_experiments")
TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "rm_experiments",
)  # fmt: skip


def environment(cache: Path) -> dict[str, str]:
    """Of every process: one thread, no network, no account, its own cache."""
    values = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    path = os.pathsep.join([str(ROOT), *filter(None, [values.get("PYTHONPATH")])])
    return values | {
        "PYTHONPATH": path,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "ACCELERATE_USE_CPU": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NETRC": "/nonexistent",
        "PYTHONFAULTHANDLER": "1",
        "XDG_CACHE_HOME": str(cache),
    }
