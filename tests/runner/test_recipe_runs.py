"""The recipes that take seconds are run, as the command in their first comment says, with a smaller model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rm_experiments
from rm_experiments.config.paths import conf_dir
from rm_experiments.config.schema import RunConfig
from tests.config.recipes import jobs_of

SANDBOX = [path.stem for path in sorted((conf_dir() / "experiment").glob("sandbox_*.yaml"))]


def first_job(name: str) -> list[str]:
    """The overrides of the first run that the command in the comment of a recipe starts."""
    line = (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[1]
    overrides = [one for one in shlex.split(line.removeprefix("# rm-train ")) if one != "--multirun"]
    return [one for one in jobs_of(overrides)[0] if not one.startswith("data.sandbox.num_train_pairs")]


def run(compose: Callable[..., RunConfig], name: str, path: Path, *overrides: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of the first run of a recipe, with a smaller model and fewer pairs."""
    config = compose(*first_job(name), *overrides)
    config.run_dir = str(path)
    assert rm_experiments.train(config).status == "finished"
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of so small a run."""
    monkeypatch.setattr("rm_experiments.reporting.plots.write_plots", lambda *_, **__: [])


@pytest.mark.parametrize("name", SANDBOX)
def test_a_sandbox_experiment_runs(compose: Callable[..., RunConfig], name: str, tmp_path: Path) -> None:
    lines = run(compose, f"experiment/{name}", tmp_path / "run", "train.max_steps=2", "eval=start_end")

    assert [line["step"] for line in lines if line["kind"] == "eval"] == [0, 2]


def test_debug_one_step_takes_one_step_and_evaluates_once(compose: Callable[..., RunConfig], tmp_path: Path) -> None:
    lines = run(compose, "debug/one_step", tmp_path / "run")

    assert [(line["kind"], line["step"]) for line in lines] == [("train", 1), ("eval", 1)]
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


def test_debug_overfit_learns_its_pairs_by_heart(compose: Callable[..., RunConfig], tmp_path: Path) -> None:
    wider = ("model.scratch.hidden_size=64", "model.scratch.intermediate_size=128")
    lines = run(compose, "debug/overfit", tmp_path / "run", *wider, "eval=start_end")

    losses = [line["train_loss"] for line in lines if line["kind"] == "train"]
    assert losses[0] > 0.5
    assert losses[-1] < 0.01


def test_adapters_on_a_base_model_of_16_bits_raise_no_false_alarm(
    compose: Callable[..., RunConfig], trained_run: Path, tmp_path: Path
) -> None:
    """As the recipes with adapters have it. Rounding differs with the neighbours in a forward pass."""
    pytest.importorskip("peft")
    base = ("model=pretrained", f"model.name_or_path={trained_run / 'final'}", "model.dtype=bfloat16")
    config = compose(
        *base, "adapter=lora", "adapter.rank=2", "train.max_steps=2", "eval=start_end", "data.sandbox.num_eval_pairs=32"
    )
    config.run_dir = str(tmp_path / "run")
    assert rm_experiments.train(config).status == "finished"

    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert [one for one in summary["sanity"] if one["severity"] == "serious"] == []
