"""Runs with a language-model term: its head is in state/ only, they go on to the bit, and evaluate as others do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import rm_experiments
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError

STEPS = (
    "train.batch_size=8", "train.max_steps=4", "eval=none", "optimizer.lr=0.01", "checkpoint.every_steps=2",
    "checkpoint.keep_last=3", "train.log_every_steps=1", "loss=grm", "loss.lm_coefficient=0.2",
)  # fmt: skip
HEAD = "language_head.safetensors"


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rm_experiments.reporting.plots.write_plots", lambda *_: [])


def a_base(tokenizer: Any, directory: Path, tied: bool) -> Path:
    """A decoder of two layers without a reward head."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def train_lines(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize(
    ("adapter", "tied", "trained"),
    [
        ("adapter=none", False, True),
        pytest.param("adapter=none", True, False, marks=pytest.mark.long),
        pytest.param("adapter=lora", False, False, marks=pytest.mark.long),
    ],
    ids=["head of its own", "embeddings", "lora"],
)
def test_a_run_goes_on_to_the_bit_and_saves_no_language_model_head(
    tokenizer: Any, compose: Callable[..., RunConfig], tmp_path: Path, adapter: str, tied: bool, trained: bool
) -> None:
    base = a_base(tokenizer, tmp_path / "base", tied)

    def run(name: str, *more: str) -> Path:
        model = ("model=pretrained", f"model.name_or_path={base}", f"run_dir={tmp_path / name}")
        assert rm_experiments.train(compose(*model, *STEPS, adapter, *more)).status == "finished"
        return tmp_path / name

    whole = run("whole")
    middle = whole / "checkpoints" / "step_00000002"
    again = run("again", f"resume={middle}")
    name = "adapter_model.safetensors" if adapter == "adapter=lora" else "model.safetensors"
    one, two = load_file(whole / "final" / name), load_file(again / "final" / name)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not any("lm_head" in key for key in one)
    clock = ("train_pairs_per_second", "train_tokens_per_second", "train_seconds_per_step")
    plain = [
        [{key: value for key, value in line.items() if key not in clock} for line in train_lines(path)]
        for path in (whole, again)
    ]
    assert plain[0][2:] == plain[1]
    assert all(line["train_lm_loss"] > 1 for line in plain[0])

    # What is trained is in state/ and nowhere else.
    assert [path.relative_to(whole).as_posix() for path in sorted(whole.rglob(HEAD))] == [
        f"checkpoints/step_{step:08d}/state/{HEAD}" for step in (2, 4) if trained
    ]
    assert not any("lm_head" in key for key in load_file(middle / name))
    moments = load_file(middle / "state" / "optimizer.safetensors")
    assert any("lm_head" in key for key in moments) is trained
    if trained:
        before = AutoModelForCausalLM.from_pretrained(base).lm_head.weight
        saved = load_file(middle / "state" / HEAD)["model.lm_head.weight"]
        assert 1e-4 < float((saved - before).abs().max()) < 0.1
    card = (whole / "final" / "README.md").read_text(encoding="utf-8")
    assert "not part of the saved model" in card
    assert "lm_coefficient" in card


def test_evaluation_knows_nothing_of_the_term(compose: Callable[..., RunConfig], tmp_path: Path) -> None:
    lines = {}
    for share in (0.0, 0.2):
        run_dir = f"run_dir={tmp_path / str(share)}"
        config = compose(*STEPS, f"loss.lm_coefficient={share}", run_dir, "train.max_steps=1", "eval=start_end")
        assert rm_experiments.train(config).status == "finished"
        text = (tmp_path / str(share) / "metrics.jsonl").read_text(encoding="utf-8")
        lines[share] = next(line for line in map(json.loads, text.splitlines()) if line["kind"] == "eval")
    # Before the first step the backbone and the reward head are the same ones.
    for one in lines.values():
        del one["eval_seconds"], one["kind"]
    assert lines[0.0] == pytest.approx(lines[0.2], rel=1e-4, abs=1e-6)
    assert lines[0.2]["eval_objective"] == pytest.approx(lines[0.2]["eval_loss"])


def test_a_model_without_a_language_model_head_leaves_nothing(
    compose: Callable[..., RunConfig], tokenizer: Any, tmp_path: Path
) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    run = compose(*STEPS, "model=pretrained", f"model.name_or_path={tmp_path / 'bert'}", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(ConfigError, match=r"^loss\.lm_coefficient: BertForSequenceClassification is an encoder"):
        rm_experiments.train(run)
    assert not (tmp_path / "run").exists()


RANKS = """
import json, sys
import rm_experiments
from rm_experiments.launch import ranks

for overrides in json.loads(sys.argv[1]):
    assert rm_experiments.train(rm_experiments.compose(overrides)).status == "finished"
ranks.leave()
"""


@pytest.mark.long
def test_two_processes_train_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = [
        "tracking=none", "train.device=cpu", "train.max_steps=3", "train.batch_size=5", "train.log_every_steps=1",
        "eval=start_end", "data.sandbox.num_train_pairs=11", "data.sandbox.num_eval_pairs=12",
        "model.scratch.hidden_size=16", "model.scratch.intermediate_size=32", "model.scratch.num_heads=2",
        "model.scratch.num_kv_heads=1", "model.scratch.vocab_size=320", "loss=grm", "loss.lm_coefficient=0.2",
        "optimizer.eps=1e-4",
    ]  # fmt: skip
    names = {"sft": ["loss.lm_form=sft"], "dpo": ["loss.lm_form=dpo"], "listwise": ["loss.name=plackett_luce"]}
    for name, more in names.items():
        config = rm_experiments.compose([*small, *more, f"run_dir=alone-{name}"])
        assert rm_experiments.train(config).status == "finished"
    (tmp_path / "ranks.py").write_text(RANKS, encoding="utf-8")
    jobs = [[*small, *more, f"run_dir=two-{name}"] for name, more in names.items()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {
        "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "NETRC": "/nonexistent",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "ranks.py", json.dumps(jobs)]
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, [line for line in done.stderr.splitlines() if "Error" in line]
    for name in names:
        one, two = (train_lines(tmp_path / f"{kind}-{name}") for kind in ("alone", "two"))
        for key in ("train_loss", "train_lm_loss", "train_grad_norm", "train_margin"):
            assert [line[key] for line in one] == pytest.approx([line[key] for line in two], abs=1e-5), (name, key)
        heads = [
            load_file(next((tmp_path / f"{kind}-{name}" / "checkpoints").glob("step_*3")) / "state" / HEAD)
            for kind in ("alone", "two")
        ]
        assert torch.allclose(heads[0]["model.lm_head.weight"], heads[1]["model.lm_head.weight"], atol=1e-5)
