"""Runs that train a part of the weights: the rest stays, state is of what is trained, and a run goes on exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import rm_experiments
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError

STEPS = ("train.batch_size=8", "eval=none", "optimizer.lr=0.01", "checkpoint.every_steps=2", "checkpoint.keep_last=3")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rm_experiments.reporting.plots.write_plots", lambda *_: [])


@pytest.fixture
def base(tokenizer: Any, tmp_path: Path) -> Path:
    """A decoder of three layers without a reward head, in bfloat16."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize(
    "adapter",
    [
        ("adapter=last_layers", "adapter.num_layers=1"),
        ("adapter=rslora", "adapter.rank=2", "adapter.init_lora_weights=pissa", "adapter.bias=all"),
        ("adapter=qlora", "adapter.rank=2"),
    ],
    ids=["last_layers", "pissa", "qlora"],
)
def test_a_run_goes_on_to_the_bit(
    base: Path, compose: Callable[..., RunConfig], tmp_path: Path, adapter: tuple[str, ...]
) -> None:
    if adapter[0] == "adapter=qlora":
        pytest.importorskip("bitsandbytes")

    def run(name: str, *more: str) -> Path:
        model = ("model=pretrained", f"model.name_or_path={base}", f"run_dir={tmp_path / name}")
        assert rm_experiments.train(compose(*model, *STEPS, *adapter, "train.max_steps=4", *more)).status == "finished"
        return tmp_path / name

    whole = run("whole")
    middle = whole / "checkpoints" / "step_00000002"
    again = run("again", f"resume={middle}")
    for name in ("model.safetensors", "adapter_model.safetensors"):
        if (whole / "final" / name).exists():
            one, two = load_file(whole / "final" / name), load_file(again / "final" / name)
            assert one.keys() == two.keys()
            assert all(torch.equal(one[key], two[key]) for key in one)
    state = load_file(middle / "state" / "optimizer.safetensors")
    moments = {key.removesuffix("/exp_avg") for key in state if key.endswith("/exp_avg")}
    assert not any("embed_tokens" in name or ".base_layer.weight" in name for name in moments)
    if adapter[0] != "adapter=last_layers":
        assert any("lora_A" in name for name in moments)
        return
    assert {".".join(name.split(".")[1:4]) for name in moments} == {
        "model.layers.2",
        "model.norm.weight",
        "score.weight",
    }
    before, after = load_file(base / "model.safetensors"), load_file(whole / "final" / "model.safetensors")
    changed = {name for name, value in after.items() if name not in before or not torch.equal(before[name], value)}
    assert "score.weight" in changed
    assert all(name.startswith(("model.layers.2.", "model.norm", "score")) for name in changed)
    assert any(name.startswith("model.layers.2.mlp") for name in changed)
    config = json.loads((whole / "final" / "config.json").read_text(encoding="utf-8"))
    assert (config["architectures"], config["dtype"]) == (["LlamaForSequenceClassification"], "bfloat16")
    card = (whole / "final" / "README.md").read_text(encoding="utf-8")
    assert "Its top layer and reward head were trained" in card
    assert "library_name: transformers" in card


def test_more_layers_than_the_model_has_leave_nothing(
    base: Path, compose: Callable[..., RunConfig], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    config = compose(
        "model=pretrained", f"model.name_or_path={base}", "adapter=last_layers", "adapter.num_layers=9",
        f"run_dir={run_dir}",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"^adapter\.num_layers=9: the model has 3 layers; try adapter\.num_layers=3"):
        rm_experiments.train(config)
    assert not run_dir.exists()
