"""The model that a finished run hands over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rm_experiments.config.schema import FinalModel
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.evaluation.records import Records
from rm_experiments.evaluation.sanity import findings
from rm_experiments.evaluation.swapped import swapped_probe
from rm_experiments.modeling.directory import load_weights, write_probe
from rm_experiments.modeling.loading import open_saved
from rm_experiments.modeling.merging import merge_adapter, save_full
from rm_experiments.modeling.probe_rows import read_rows
from rm_experiments.modeling.reload import Reloaded
from rm_experiments.modeling.reward_scale import RewardScale, check_folded, fold, scale_of
from rm_experiments.reporting.markdown import without_paths
from rm_experiments.runner.artifacts import Artifacts, in_card
from rm_experiments.runner.session import Session
from rm_experiments.training.checkpoints import commit_directory, remove

_REFERENCE_PAIRS = 1024
"""Of a set that was not evaluated with the final weights."""


@dataclass(kw_only=True)
class HandedOver:
    """What is known of the model in `final/`."""

    reloaded: Reloaded
    scale: RewardScale

    def plain(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            "reload_difference": self.reloaded.difference,
            "reload_tolerance": self.reloaded.tolerance,
            "batch_invariance": self.reloaded.invariance or None,
            "reward_normalization": self.scale.plain(),
        }

    def lines(self) -> list[str]:
        """For people."""
        scale = self.scale
        found = [f"Loaded again with plain transformers: rewards differ by at most {self.reloaded.difference:.1e}"]
        if scale.folded is not None and not scale.folded["mean"]:
            found.append(
                f"Rewards have standard deviation 1 on {scale.source}; their mean there, {scale.mean:.3g}, stays: the "
                "reward head has no bias"
            )
        elif scale.folded is not None:
            found.append(f"Rewards have mean 0 and standard deviation 1 on {scale.source}")
        return found


def final_step(session: Session) -> int:
    """The step of the model that is handed over."""
    if session.config.checkpoint.final is FinalModel.last:
        return session.step
    assert session.best_step is not None
    return session.best_step


def save_final(session: Session) -> HandedOver | None:
    """Write `final/` and check that plain transformers gives the same rewards. Called on every process.

    Returns:
        What was found, on the main process.

    Raises:
        TrainingError: when it does not load, or weights or rewards are others then.
    """
    artifacts, step = session.artifacts, final_step(session)
    found = None
    with session.watchdog.paused():
        if step != session.step:
            load_weights(session.store.path(step), artifacts.built.reward_model)
            session.recall(step)
        _look(session, next(iter(session.evaluation.values()), artifacts.prepared.train))
        scale = _scale(session, step)
        probe_pairs = session.probe_pairs
        probe = session.measure(probe_pairs)
        weights = artifacts.weights()
        if artifacts.accelerator.is_main_process:
            found = _write(session, step, probe_pairs, probe, weights, scale)
        artifacts.accelerator.wait_for_everyone()
    return found


def _scale(session: Session, step: int) -> RewardScale:
    """Mean and deviation of the rewards, which are taken out of them where that is asked for."""
    artifacts, splits = session.artifacts, session.artifacts.prepared.splits
    name = next(iter(session.evaluation), None)
    if name is not None and session.records_step == step:
        pairs, records = session.evaluation[name], artifacts.records[name]
    else:
        pairs = (artifacts.prepared.train if name is None else session.evaluation[name]).first(_REFERENCE_PAIRS)
        records = session.measure(pairs)
    split = splits.train if name is None else splits.evaluation[name]
    source = f"{name or 'train'} ({without_paths(split.source)})"
    scale = _scale_of(records, source)
    if session.config.checkpoint.fold_normalization:
        folded = fold(artifacts.built.reward_model, scale)
        scale = _scale_of(session.measure(pairs), source)
        scale.folded = folded
        check_folded(scale, folded, _precision(artifacts))
    return scale


def _scale_of(records: Records, source: str) -> RewardScale:
    return scale_of(records["reward_chosen"], records["reward_rejected"], records["weight"], source)


def _write(
    session: Session, step: int, probe_pairs: TokenizedPairs, probe: Records, weights: dict[str, Tensor],
    scale: RewardScale,
) -> HandedOver:  # fmt: skip
    artifacts, trainer = session.artifacts, session.trainer
    epochs = trainer.plan.pairs_before(step) / trainer.plan.num_pairs
    plots = artifacts.write_plots()
    session.tracker.log_pictures(session.step, plots)
    merge = artifacts.config.adapter.merge
    found: list[Reloaded] = []

    def check(directory: Path) -> dict[str, Any]:
        if merge:
            _merge(directory, artifacts.merged_dtype)
        reloaded = artifacts.check_reload(directory, weights, merge, scale.unit)
        found.append(reloaded)
        return in_card(reloaded)

    card: dict[str, Any] = {
        "status": "finished", "plots": plots, "findings": [one.plain() for one in session.findings or ()],
        "reward_normalization": scale.plain(), "merged": merge,
    }  # fmt: skip
    write_model = artifacts.model_writer(weights, step, epochs, trainer.max_steps, check, **card)

    def write(directory: Path) -> None:
        write_probe(directory, probe_pairs, probe["reward_chosen"], probe["reward_rejected"])
        write_model(directory)

    # A run that ended between this directory and its summary has one already.
    remove(artifacts.run_dir.path / "final")
    facts = {"step": step, "run_id": session.store.run_id, "identity": session.store.identity}
    commit_directory(artifacts.run_dir.path / "final", write, facts)
    return HandedOver(reloaded=found[0], scale=scale)


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
    probe = swapped_probe(pairs, session.measure, _precision(artifacts))
    splits = artifacts.prepared.splits.evaluation
    best = {name: split.counts.get("best_achievable", {}) for name, split in splits.items()}
    session.findings = findings(
        artifacts.records, history=artifacts.metrics_log.read() if main else [],
        fresh_head=artifacts.built.fresh_head, probe=probe,
        best_achievable={name: values["accuracy"] for name, values in best.items() if "accuracy" in values},
    )  # fmt: skip


def _precision(artifacts: Artifacts) -> str:
    """Weights of 16 bits round as much as arithmetic of 16 bits."""
    narrow = any(one.dtype is torch.bfloat16 for one in artifacts.built.reward_model.parameters())
    return "bf16" if narrow and artifacts.precision == "fp32" else artifacts.precision
