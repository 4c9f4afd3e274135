"""Whole runs in each layout: the same training to float error, the layout's name said, and an exact resume."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerBase

from rm_experiments import compose, train
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError
from rm_experiments.training.trainer import Trainer

LAYOUTS = ("padded", "packed", "shared_prefix")
TINY = (
    "tracking=none", "train.device=cpu", "train.precision=fp32", "model.scratch.hidden_size=16",
    "model.scratch.intermediate_size=32", "model.scratch.num_heads=2", "model.scratch.num_kv_heads=1",
    "model.scratch.vocab_size=300", "train.batch_size=6", "train.max_steps=6", "train.log_every_steps=1",
    "eval=start_end", "checkpoint.every_steps=2",
    # Adam divides by the gradient's own size, so a tiny eps would magnify the last bits of gradients near 0.
    "optimizer.eps=1e-4", "optimizer.lr=1e-2",
)  # fmt: skip
WALL_CLOCK = ("per_second", "seconds")


def run(directory: Path, *overrides: str) -> Path:
    result = train(compose([*TINY, f"run_dir={directory}", *overrides]))
    assert (result.status, result.exit_code) == ("finished", 0)
    return directory


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def metrics(directory: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if not any(one in key for one in WALL_CLOCK)} for line in lines]


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """They take most of the time of so small a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rm_experiments.reporting.plots.write_plots", lambda *_, **__: [])
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """Overrides for ordinary pairs, and for several responses of a prompt with ties and weights."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [
        {"prompt": f"question {number} " * (1 + number % 4), "responses": ["no", "yes", "well yes", "yes and more"],
         "scores": [number % 2, 1, 2, 3]}
        for number in range(8)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "pairs": ("data.sandbox.num_train_pairs=30", "data.sandbox.num_eval_pairs=12"),
        "responses": ("data=local", f"data.train={path}", f"data.eval={path}"),
    }


@pytest.fixture(scope="module", params=["pairs", "responses"])
def runs(
    request: pytest.FixtureRequest, data: dict[str, tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """One run in each layout; small forward passes, so that a step has several."""
    layouts = LAYOUTS if request.param == "pairs" else ("padded", "shared_prefix")
    root = tmp_path_factory.mktemp(request.param)
    small = ("train.micro_batch_tokens=150", "eval.micro_batch_tokens=400")
    return {name: run(root / name, f"train.layout={name}", *small, *data[request.param]) for name in layouts}


def test_all_layouts_log_the_same_training(runs: dict[str, Path]) -> None:
    expected = metrics(runs["padded"])
    losses = [line["train_loss"] for line in expected if line["kind"] == "train"]
    assert len(losses) == 6
    assert abs(losses[0] - losses[-1]) > 0.01
    for name in list(runs)[1:]:
        found = metrics(runs[name])
        assert len(found) == len(expected)
        for one, two in zip(found, expected, strict=True):
            assert one.keys() == two.keys()
            for key in two:
                assert one[key] == (pytest.approx(two[key], abs=2e-5) if isinstance(two[key], float) else two[key]), key


def test_all_layouts_end_with_the_same_weights_metrics_and_records(runs: dict[str, Path]) -> None:
    expected = load_file(runs["padded"] / "final" / "model.safetensors")
    final = read(runs["padded"] / "summary.json")["final"]
    rewards = pq.read_table(runs["padded"] / "eval" / "step_00000006" / "eval.parquet")["reward_chosen"].to_numpy()
    for name in list(runs)[1:]:
        found = load_file(runs[name] / "final" / "model.safetensors")
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            # A step moves a weight by about 1e-2.
            assert (found[key].float() - value.float()).abs().max() < 2e-5, (name, key)
        summary = read(runs[name] / "summary.json")["final"]
        steady = {key for key in final if not any(one in key for one in WALL_CLOCK)}
        assert {key: summary[key] for key in steady} == pytest.approx({key: final[key] for key in steady}, abs=2e-5)
        other = pq.read_table(runs[name] / "eval" / "step_00000006" / "eval.parquet")["reward_chosen"].to_numpy()
        assert other == pytest.approx(rewards, abs=2e-5)


def test_saved_model_knows_no_layout(runs: dict[str, Path]) -> None:
    configs = {name: json.loads((path / "final" / "config.json").read_text("utf-8")) for name, path in runs.items()}
    # What was measured differs by rounding.
    scales = [one.pop("reward_normalization") for one in configs.values()]
    assert all(one == configs["padded"] for one in configs.values())
    assert "rm_experiments" not in json.dumps(configs["padded"])
    for one in scales:
        assert (one["mean"], one["std"]) == pytest.approx((scales[0]["mean"], scales[0]["std"]), rel=1e-4, abs=1e-6)


def test_run_that_was_stopped_between_checkpoints_goes_on_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    data: dict[str, tuple[str, ...]],
) -> None:  # fmt: skip
    """Without dropout, which another attention computes; several forward passes a step."""
    overrides = ("train.micro_batch_tokens=150", "train.length_window=2", *data["responses"])
    straight = run(tmp_path / "straight", *overrides)
    said = "Layout: shared_prefix (no padding, each prompt once, its last layer at the scored tokens only)."
    assert capsys.readouterr().err.replace("\n", " ").count(said) == 1
    step = Trainer.step

    def stopping(trainer: Trainer) -> bool:
        taken = step(trainer)
        if trainer.progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopping)
        result = train(compose([*TINY, f"run_dir={tmp_path / 'stopped'}", *overrides]))
    assert result.status == "interrupted"
    assert read(tmp_path / "stopped" / "summary.json")["steps"] == 3
    resumed = run(tmp_path / "stopped", *overrides)
    assert metrics(resumed) == metrics(straight)
    for name in ("final/model.safetensors", "eval/step_00000006/eval.parquet"):
        assert (resumed / name).read_bytes() == (straight / name).read_bytes(), name


ENCODER_TINY = [one for one in TINY if not one.startswith("model.")]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A random BERT."""
    directory = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        initializer_range=0.3,
    )  # fmt: skip
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def of_encoder(encoder: Path, directory: Path, layout: str, data: dict[str, tuple[str, ...]]) -> RunConfig:
    return compose(
        [*ENCODER_TINY, "model=pretrained", f"model.name_or_path={encoder}", f"run_dir={directory}",
         f"train.layout={layout}", *data["pairs"]]
    )  # fmt: skip


def test_encoder_trains_the_same_without_padding(
    tmp_path: Path, encoder: Path, data: dict[str, tuple[str, ...]]
) -> None:
    found = {}
    for layout in ("padded", "auto"):
        result = train(of_encoder(encoder, tmp_path / layout, layout, data))
        assert result.status == "finished"
        found[layout] = metrics(tmp_path / layout)
    assert len(found["auto"]) == len(found["padded"])
    for one, two in zip(found["auto"], found["padded"], strict=True):
        for key in two:
            assert one[key] == (pytest.approx(two[key], abs=1e-4) if isinstance(two[key], float) else two[key]), key


def test_layout_that_the_model_cannot_take_is_refused_and_leaves_nothing(
    tmp_path: Path, encoder: Path, data: dict[str, tuple[str, ...]]
) -> None:
    with pytest.raises(ConfigError) as error:
        train(of_encoder(encoder, tmp_path / "run", "shared_prefix", data))
    assert str(error.value) == (
        "train.layout=shared_prefix: the prompt of an encoder sees the answer; try train.layout=auto"
    )
    assert not (tmp_path / "run").exists()
