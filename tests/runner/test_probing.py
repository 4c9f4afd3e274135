"""Runs of a probe: one pass over the data for all of them, exact resuming, an ordinary model at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import rm_experiments
from rm_experiments.config.compose import load_config_yaml
from rm_experiments.config.schema import Layout, RunConfig
from rm_experiments.evaluation.evaluate import evaluate
from rm_experiments.evaluation.records import read_records
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.loading import load_saved, open_saved
from rm_experiments.modeling.reward_model import RewardModel
from rm_experiments.runner.prepare import make_accelerator, prepare

STEPS = (
    "train.batch_size=8", "optimizer.lr=0.05", "train.max_steps=4", "eval=steps", "eval.every_steps=2",
    "checkpoint.every_steps=2", "checkpoint.keep_last=3", "data.sandbox.num_train_pairs=24",
    "data.sandbox.num_eval_pairs=12", "tracking=none", "train.device=cpu", "train.precision=fp32",
)  # fmt: skip
TRIALS = 66
"""Tokens of the batches by which a model's layout and its head are found out, at most."""


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rm_experiments.reporting.plots.write_plots", lambda *_: [])


def a_base(tokenizer: Any, directory: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def run(
    tokenizer: Any, compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Path, int]]:
    """`run(name, *overrides)`: the directory of a finished run, and how many sequences of its data the backbone saw."""
    base, seen = a_base(tokenizer, tmp_path / "base"), [0]
    whole = RewardModel.hidden

    def counted(self: RewardModel, batch: Any) -> Any:
        found = whole(self, batch)
        seen[0] += len(found) if batch.ids.numel() > TRIALS else 0
        return found

    monkeypatch.setattr(RewardModel, "hidden", counted)

    def go(name: str, *more: str) -> tuple[Path, int]:
        seen[0] = 0
        config = compose(
            "model=pretrained", f"model.name_or_path={base}", f"run_dir={tmp_path / name}", *STEPS, "adapter=probe",
            f"data.cache_dir={tmp_path / 'cache'}", *more,
        )  # fmt: skip
        assert rm_experiments.train(config).status == "finished"
        return tmp_path / name, seen[0]

    return go


def features_of(tmp_path: Path) -> list[str]:
    return sorted(one.name for one in (tmp_path / "cache").iterdir() if one.is_dir() and one.name.startswith("feat"))


def test_the_second_run_computes_no_backbone_and_what_decides_features_makes_new_ones(
    run: Callable[..., tuple[Path, int]], tokenizer: Any, tmp_path: Path
) -> None:
    first, computed = run("first")
    assert 48 < computed <= 72
    entries = features_of(tmp_path)
    assert len(entries) == 2

    # As the jobs of a sweep: another learning rate, seed, loss.
    second, again = run("second", "optimizer.lr=0.2", "seed=1", "loss=hinge")
    assert again == 0
    assert features_of(tmp_path) == entries
    one, two = (load_file(path / "final" / "model.safetensors") for path in (first, second))
    assert not torch.equal(one["score.weight"], two["score.weight"])
    assert all(torch.equal(one[name], two[name]) for name in one if name != "score.weight")
    log = (second / "final" / "README.md").read_text(encoding="utf-8")
    assert "Its reward head, on a base model that stayed as it was, was trained" in log

    for number, more in enumerate((
        ["data.max_length=30"], ["data.text_as=raw"], ["train.layout=padded"],
        [f"model.name_or_path={a_base(tokenizer, tmp_path / 'other', seed=1)}"],
    )):  # fmt: skip
        before = features_of(tmp_path)
        assert run(f"other-{number}", *more, "train.max_steps=2")[1] > 40, more
        assert len(set(features_of(tmp_path)) - set(before)) == 2, more


@pytest.mark.parametrize("layout", ["padded", "shared_prefix"])
def test_rewards_are_those_of_the_saved_model_by_the_whole_backbone(
    run: Callable[..., tuple[Path, int]], tokenizer: Any, layout: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("rm_experiments.reporting.console._SECONDS_BETWEEN_LINES", -1.0)
    path, _ = run("run", f"train.layout={layout}", "data.cache_dir=null")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Features of sequences: ")]
    done, _, total = said[-1].removeprefix("Features of sequences: ").partition(" of ")
    assert done == total
    assert 0 < int(said[0].split()[3]) <= int(total) == 72
    records = read_records(path / "eval" / "step_00000004" / "eval.parquet")
    config = load_config_yaml(path / "config.yaml")
    saved = load_saved(open_saved(str(path / "final")))
    batcher = Batcher(layout=Layout.padded, pad_id=tokenizer.pad_token_id)
    pairs = prepare(config).evaluation["eval"]
    other = evaluate(make_accelerator(config.train), saved, pairs, batcher, 300)
    for name in ("reward_chosen", "reward_rejected"):
        assert np.abs(records[name] - other[name]).max() < 1e-6
        assert np.abs(records[name]).max() > 1e-2
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    assert [one for one in summary["sanity"] if one["kind"] == "swapped_sides"] == []


def test_a_run_goes_on_to_the_bit_also_with_a_loss_of_the_whole_step(run: Callable[..., tuple[Path, int]]) -> None:
    for loss in ("bradley_terry", "plackett_luce"):
        whole, _ = run(f"{loss}-whole", f"loss={loss}", "train.micro_batch_tokens=6")
        middle = whole / "checkpoints" / "step_00000002"
        again, computed = run(f"{loss}-again", f"loss={loss}", "train.micro_batch_tokens=6", f"resume={middle}")
        assert computed == 0
        one, two = (load_file(path / "final" / "model.safetensors") for path in (whole, again))
        assert all(torch.equal(one[key], two[key]) for key in one)
        state = load_file(middle / "state" / "optimizer.safetensors")
        assert {name.partition("/")[0] for name in state if name.endswith("/exp_avg")} == {"model.score.weight"}


def test_an_entry_that_was_cut_short_is_computed_again(run: Callable[..., tuple[Path, int]], tmp_path: Path) -> None:
    first, computed = run("first")
    for name in features_of(tmp_path):
        file = tmp_path / "cache" / name / "vectors.bin"
        file.write_bytes(file.read_bytes()[:-4])
    shutil.copytree(tmp_path / "cache" / name, tmp_path / "cache" / f"{name}.tmp-left")
    second, again = run("second")
    assert again == computed
    assert not list((tmp_path / "cache").glob("*.tmp-*"))
    one, two = (load_file(path / "final" / "model.safetensors") for path in (first, second))
    assert all(torch.equal(one[key], two[key]) for key in one)
