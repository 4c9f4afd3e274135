"""What a checkpoint of a run holds, as a function that a thread may call while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.evaluation.records import Records
from rm_experiments.modeling.directory import save_master_weights, write_probe
from rm_experiments.runner.artifacts import Artifacts
from rm_experiments.training.shards import Shards
from rm_experiments.training.state import StateTensors, Tensors, collect_values, write_state
from rm_experiments.training.trainer import Trainer


class Probe(NamedTuple):
    """A few pairs, and what the model gives them now: what a loaded one must give."""

    pairs: TokenizedPairs
    records: Records


def checkpoint_writer(
    artifacts: Artifacts, trainer: Trainer, extra: dict[str, Any], tensors: StateTensors, weights: Tensors,
    shards: Shards | None, probe: Probe | None,
) -> Callable[[Path], None]:  # fmt: skip
    """A function that writes the checkpoint of this moment. What it is given must not change any more.

    Args:
        extra: what the session has to remember.
        tensors: of the trainer's state.
        weights: of the model.
        shards: of a spread optimizer's state, written already.
        probe: to be compared with after loading; None: it is not loaded.
    """
    step = trainer.progress.step
    status, plots = f"in training, step {step} of {trainer.max_steps}", artifacts.recent_plots()
    write_model = artifacts.model_writer(
        weights, step, trainer.epoch, trainer.max_steps, None if probe is None else artifacts.check_elsewhere,
        status=status, plots=plots,
    )  # fmt: skip
    values = collect_values(trainer, extra)

    def write(directory: Path) -> None:
        if probe is not None:
            write_probe(directory, probe.pairs, probe.records["reward_chosen"], probe.records["reward_rejected"])
        write_model(directory)
        write_state(directory / "state", tensors, values)
        if shards is not None:
            shards.move(directory / "state")
        model, adapter = artifacts.for_saving
        save_master_weights(directory / "state", model, artifacts.saved_dtype, adapter is not None, weights)

    return write
