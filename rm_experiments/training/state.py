"""All that resuming needs beside the model directory, as safetensors and JSON: no pickle is written or read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor

from rm_experiments.errors import CheckpointError
from rm_experiments.modeling.sharding import is_sharded
from rm_experiments.training.optimizers.build import trained_parameters
from rm_experiments.training.optimizers.state import load_optimizer_tensors, optimizer_tensors
from rm_experiments.training.shards import read_optimizer
from rm_experiments.training.trainer import Progress, Trainer

Tensors = dict[str, Tensor]
_LANGUAGE_HEAD = "language_head"
StateTensors = dict[str, Tensors]
"""File name without suffix -> tensors."""


def collect_state(trainer: Trainer) -> StateTensors:
    """The tensors of state/: optimizer, metric window, random states of all processes. Called on every process.

    They are copies, which training does not change. The optimizer's are with the main process, or, of a sharded model,
    with each process its own (`rm_experiments.training.shards`).
    """
    window = {"sums": trainer.window.sums, "extrema": trainer.window.extrema}
    mine = {
        "torch": torch.get_rng_state(),
        **{f"window_{name}": value.to("cpu", copy=True) for name, value in window.items()},
    }
    if trainer.accelerator.device.type == "cuda":
        mine["cuda"] = torch.cuda.get_rng_state()
    per_process = gather_object([mine])
    processes = {f"{rank}/{name}": value for rank, tensors in enumerate(per_process) for name, value in tensors.items()}
    # One process writes; the others need no copy on the host.
    wanted = trainer.accelerator.is_main_process or is_sharded(trainer.reward_model)
    optimizer = optimizer_tensors(trainer.built) if wanted else {}
    found = {"optimizer": optimizer, "processes": processes}
    language_head = trainer.reward_model.language_head
    if language_head is not None and wanted:
        own = language_head.own_weights(trainer.reward_model.model)
        if own:
            found[_LANGUAGE_HEAD] = {name: one.detach().to("cpu", copy=True) for name, one in own.items()}
    return found


def collect_values(trainer: Trainer, extra: dict[str, Any]) -> dict[str, Any]:
    """The plain values of state/; `extra` holds those of the runner (best metric and so on)."""
    scaler = trainer.accelerator.scaler
    return {
        "progress": dataclasses.asdict(trainer.progress),
        "max_steps": trainer.max_steps,
        "token_budget": trainer.token_budget,
        "num_processes": trainer.accelerator.num_processes,
        "strategy": trainer.strategy,
        "optimizer": trainer.optimizer_name,
        "grad_scaler": None if scaler is None else scaler.state_dict(),
        **extra,
    }


def write_state(directory: Path, tensors: StateTensors, values: dict[str, Any]) -> None:
    """Write state/ from what `collect_state` and `collect_values` gave. On one process, in any thread."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in tensors.items():
        save_file(content, directory / f"{name}.safetensors")
    (directory / "trainer.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def read_extra(directory: Path) -> dict[str, Any]:
    """The plain values of a state/ directory."""
    values = json.loads((directory / "trainer.json").read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def load_state(directory: Path, trainer: Trainer) -> list[str]:
    """Put optimizer, progress, metric window and random state back. Called on every process.

    Returns:
        What could not be restored exactly, one sentence each.

    Raises:
        CheckpointError: when the state belongs to another model.
    """
    values = read_extra(directory)
    of = values.get("optimizer", trainer.optimizer_name)
    if of != trainer.optimizer_name:
        raise CheckpointError(
            f"{directory}: is the state of optimizer={of}, which optimizer={trainer.optimizer_name} cannot go on with; "
            "start another run from its weights: model=pretrained model.name_or_path=CHECKPOINT"
        )
    _load_language_head(directory, trainer)
    load_optimizer_tensors(trainer.built, read_optimizer(directory, trained_parameters(trainer.built)))
    trainer.progress = Progress(**values["progress"])
    trainer.resume_budget(values["token_budget"])
    scaler = trainer.accelerator.scaler
    if scaler is not None and values["grad_scaler"] is not None:
        scaler.load_state_dict(values["grad_scaler"])
    processes = load_file(directory / "processes.safetensors")
    rank, world_size = trainer.accelerator.process_index, trainer.accelerator.num_processes
    if values["num_processes"] != world_size:
        return [
            f"saved by {values['num_processes']} processes, continued by {world_size}: the order of the data is the "
            "same, bits may differ, and the current window of training metrics starts anew"
        ]
    try:
        torch.set_rng_state(processes[f"{rank}/torch"])
        device = trainer.accelerator.device
        sums = processes[f"{rank}/window_sums"]
        # A language-model term that was switched on or off since has one sum more or less.
        same = sums.shape == trainer.window.sums.shape
        if same:
            trainer.window.sums = sums.to(device)
            trainer.window.extrema = processes[f"{rank}/window_extrema"].to(device)
        if f"{rank}/cuda" in processes and device.type == "cuda":
            torch.cuda.set_rng_state(processes[f"{rank}/cuda"])
    except KeyError as error:
        raise CheckpointError(f"{directory}: the state of process {rank} is missing ({error})") from error
    if not same:
        return ["the loss has other terms than before, and the current window of training metrics starts anew"]
    before = values.get("strategy", trainer.strategy)
    if before != trainer.strategy and world_size > 1:
        return [f"saved with launch.strategy={before}, continued with {trainer.strategy}: bits may differ"]
    return []


def _load_language_head(directory: Path, trainer: Trainer) -> None:
    """A trained language-model head, of which the model directory has nothing."""
    head = trainer.reward_model.language_head
    own = {} if head is None else head.own_weights(trainer.reward_model.model)
    if not own:
        return
    path = directory / f"{_LANGUAGE_HEAD}.safetensors"
    found = load_file(path) if path.exists() else {}
    if {name: one.shape for name, one in found.items()} != {name: one.shape for name, one in own.items()}:
        raise CheckpointError(f"{directory}: has no language-model head of this model, which loss.lm_coefficient needs")
    with torch.no_grad():
        for name, one in own.items():
            one.copy_(found[name])
