"""The model that a finished run hands over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rm_experiments.config.schema import FinalModel
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import TrainingError
from rm_experiments.evaluation.records import Records
from rm_experiments.evaluation.sanity import findings
from rm_experiments.evaluation.swapped import swapped_probe
from rm_experiments.modeling.directory import NUM_PROBES, load_weights, reload_difference, write_probe
from rm_experiments.modeling.loading import open_saved
from rm_experiments.modeling.merging import merge_adapter, save_full
from rm_experiments.modeling.probe_rows import read_rows
from rm_experiments.runner.session import Session
from rm_experiments.training.checkpoints import commit_directory, remove

_RELOAD_TOLERANCE = 1e-4
"""Relative to the largest probe reward. A float32 model that differs by more after loading was saved wrongly."""


def final_step(session: Session) -> int:
    """The step of the model that is handed over."""
    if session.config.checkpoint.final is FinalModel.last:
        return session.step
    assert session.best_step is not None
    return session.best_step


def save_final(session: Session) -> float:
    """Write `final/` and check that plain transformers gives the same rewards. Called on every process.

    Returns:
        The largest difference of a probe reward after loading.

    Raises:
        TrainingError: when the rewards differ although the weights were saved in full precision.
        CheckpointError: when the directory does not load.
    """
    artifacts, step = session.artifacts, final_step(session)
    with session.watchdog.paused():
        if step != session.step:
            load_weights(session.store.path(step), artifacts.built.reward_model)
            session.recall(step)
        pairs = next(iter(session.evaluation.values()), artifacts.prepared.train)
        probe_pairs = pairs.first(NUM_PROBES)
        probe = session.measure(probe_pairs)
        _look(session, pairs)
        weights, difference = artifacts.weights(), 0.0
        if artifacts.accelerator.is_main_process:
            difference = _write(session, step, probe_pairs, probe, weights)
        artifacts.accelerator.wait_for_everyone()
    return difference


def _write(
    session: Session, step: int, probe_pairs: TokenizedPairs, probe: Records, weights: dict[str, Tensor]
) -> float:
    artifacts, trainer = session.artifacts, session.trainer
    epochs = trainer.plan.pairs_before(step) / trainer.plan.num_pairs
    plots = artifacts.write_plots()
    session.tracker.log_pictures(session.step, plots)
    sanity = [one.plain() for one in session.findings or ()]
    card: dict[str, Any] = {"status": "finished", "plots": plots, "findings": sanity}
    merge = artifacts.config.adapter.merge
    saved_dtype = artifacts.merged_dtype if merge else artifacts.saved_dtype
    dtype = next(artifacts.built.reward_model.parameters()).dtype
    exact = artifacts.precision == "fp32" and saved_dtype == dtype == torch.float32
    scale = max(1.0, float(np.abs([probe["reward_chosen"], probe["reward_rejected"]]).max()))
    result = [0.0]

    def write(directory: Path) -> None:
        write_probe(directory, probe_pairs, probe["reward_chosen"], probe["reward_rejected"])
        artifacts.model_writer(weights, step, epochs, trainer.max_steps, **card)(directory)
        if merge:
            _merge(directory, saved_dtype)
        loading = None if merge else artifacts.loading
        result[0] = reload_difference(directory, artifacts.adapter is not None and not merge, loading)
        if exact and result[0] > _RELOAD_TOLERANCE * scale:
            raise TrainingError(f"the saved model gives other rewards after loading (by {result[0]:.2g})")
        note = None if exact else f"trained in {artifacts.precision}, saved as {saved_dtype}"
        reloaded = {
            "reload_difference": result[0], "reload_rows": 2 * len(probe_pairs), "max_precision_note": note,
        }  # fmt: skip
        artifacts.write_card(directory, step, epochs, trainer.max_steps, merged=merge, **card, **reloaded)

    # A run that ended between this directory and its summary has one already.
    remove(artifacts.run_dir.path / "final")
    facts = {"step": step, "run_id": session.store.run_id, "identity": session.store.identity}
    commit_directory(artifacts.run_dir.path / "final", write, facts)
    return result[0]


def _merge(directory: Path, dtype: torch.dtype) -> None:
    """Make a full model of the adapter in `directory`, from where its base model is.

    Raises:
        TrainingError: when that changes the rewards.
    """
    model = open_saved(str(directory))
    rows = read_rows(directory)
    assert rows is not None
    save_full(directory, merge_adapter(model, rows).reward_model, model, dtype)


def _look(session: Session, pairs: TokenizedPairs) -> None:
    """Look for what is off: in the model that is handed over, its records and what was logged on the way."""
    artifacts = session.artifacts
    main = artifacts.accelerator.is_main_process
    # Weights of 16 bits round as much as arithmetic of 16 bits.
    narrow = any(one.dtype is torch.bfloat16 for one in artifacts.built.reward_model.parameters())
    precision = "bf16" if narrow and artifacts.precision == "fp32" else artifacts.precision
    probe = swapped_probe(pairs, session.measure, precision)
    splits = artifacts.prepared.splits.evaluation
    best = {name: split.counts.get("best_achievable", {}) for name, split in splits.items()}
    session.findings = findings(
        artifacts.records, history=artifacts.metrics_log.read() if main else [],
        fresh_head=artifacts.built.fresh_head, probe=probe,
        best_achievable={name: values["accuracy"] for name, values in best.items() if "accuracy" in values},
    )  # fmt: skip
