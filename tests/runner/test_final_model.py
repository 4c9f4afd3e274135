"""The model that a run hands over: its scale, what config.json says, a head that scales rewards, and its checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import rm_experiments
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError, TrainingError
from rm_experiments.evaluation.records import read_records
from rm_experiments.modeling import verifying
from rm_experiments.modeling.directory import plain_model, plain_rewards, read_facts
from rm_experiments.modeling.reload import Reloaded
from rm_experiments.runner import artifacts, train
from rm_experiments.runner.prepare import prepare

FOLD = "checkpoint.fold_normalization=true"


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rm_experiments.reporting.plots.write_plots", lambda *_: [])


Run = Callable[..., Path]


@pytest.fixture
def run(compose: Callable[..., RunConfig], tmp_path: Path, no_pictures: None) -> Run:
    """`run(name, *overrides)`: the directory of a finished run of 4 steps."""

    def finished(name: str, *overrides: str) -> Path:
        more = ("train.max_steps=4", "train.batch_size=8", f"run_dir={tmp_path / name}")
        assert rm_experiments.train(compose(*more, *overrides)).status == "finished"
        return tmp_path / name

    return finished


def base(directory: Path, tokenizer: Any, kind: str) -> Path:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "max_position_embeddings": 512, "vocab_size": len(tokenizer)}  # fmt: skip
    model = BertModel(BertConfig(**shape)) if kind == "bert" else LlamaForCausalLM(LlamaConfig(**shape))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.normal_(0.0, 0.5)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def rewards_on_evaluation_set(path: Path, config: RunConfig, adapter: bool = False) -> np.ndarray[Any, Any]:
    """[2 n] of the model in `path`, by plain transformers."""
    pairs = prepare(config).evaluation["eval"]
    return plain_rewards(*plain_model(path, adapter), [pairs.sequence(one).tolist() for one in range(2 * len(pairs))])


def probe_difference(path: Path, adapter: bool = False) -> float:
    model, tokenizer = plain_model(path, adapter)
    rows = [json.loads(line) for line in (path / "probe.jsonl").read_text(encoding="utf-8").splitlines()]
    return max(
        abs(float(plain_rewards(model, tokenizer, [row[f"input_ids_{side}"]])[0]) - row[f"reward_{side}"])
        for row in rows for side in ("chosen", "rejected")
    )  # fmt: skip


def test_scale_and_checks_are_in_summary_card_and_config(trained_run: Path) -> None:
    summary, config = read(trained_run / "summary.json"), read(trained_run / "final" / "config.json")
    scale = summary["reward_normalization"]
    assert scale == config["reward_normalization"]
    assert scale["mean"] == pytest.approx(summary["final"]["eval_mean_reward"], abs=1e-12)
    assert scale["std"] == pytest.approx(summary["final"]["eval_std_reward"], abs=1e-12)
    assert (scale["num_rewards"], scale["source"]) == (42, "eval (sandbox world 0)")
    assert config["reward_model"] == {
        "text_as": "chat", "first_token": "<|bos|>", "last_token": "<|eos|>", "last_token_id": 2,
        "reward_at": "last_token", "padding_side": "right", "max_length": 40, "overlength": "truncate_prompt",
        "chat_template_kwargs": {},
    }  # fmt: skip
    assert 0 <= summary["reload_difference"] < 1e-5
    assert summary["reload_tolerance"] == pytest.approx(1e-4)
    found = summary["batch_invariance"]
    assert max(found[one] for one in found if one != "alone_bf16") < 1e-5
    card = (trained_run / "final" / "README.md").read_text(encoding="utf-8")
    assert f"mean {scale['mean']:.4f}, standard deviation {scale['std']:.4f}" in card
    assert f"| all in one batch, padded on the left | {found['one_batch_padded_left']:.1e} |" in card
    assert f"| alone, in bfloat16 arithmetic | {found['alone_bf16']:.1e} |" in card
    # A checkpoint is read the same way, and its rewards were not measured.
    (checkpoint, *_) = sorted((trained_run / "checkpoints").glob("step_*"))
    assert read_facts(checkpoint) == {"reward_model": config["reward_model"]}


def test_folded_decoder_has_deviation_1_and_only_its_head_differs(run: Run, compose: Callable[..., RunConfig]) -> None:
    plain, folded = run("plain", "optimizer.lr=0.01"), run("folded", "optimizer.lr=0.01", FOLD)
    assert read(plain / "summary.json")["final"] == read(folded / "summary.json")["final"]
    before, after = (load_file(one / "final" / "model.safetensors") for one in (plain, folded))
    checkpoint = load_file(folded / "checkpoints" / "last" / "model.safetensors")
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["score.weight"]
    assert all(torch.equal(before[name], checkpoint[name]) for name in before)
    old, new = (read(one / "summary.json")["reward_normalization"] for one in (plain, folded))
    assert new["folded"] == {"mean": 0.0, "std": old["std"]}
    rewards = rewards_on_evaluation_set(folded / "final", compose())
    assert (rewards.std(), rewards.mean()) == (pytest.approx(1, abs=1e-5), pytest.approx(new["mean"], abs=1e-5))
    assert new["mean"] == pytest.approx(old["mean"] / old["std"], abs=1e-5)
    assert probe_difference(folded / "final") < 1e-5
    card = (folded / "final" / "README.md").read_text(encoding="utf-8")
    assert f"rewards were divided by {old['std']:.6g} (`checkpoint.fold_normalization=true`). The mean stays" in card


@pytest.mark.parametrize("adapter", [(), ("adapter=lora", "adapter.rank=2")], ids=["whole", "lora"])
def test_folded_encoder_has_mean_0_and_deviation_1(
    run: Run, compose: Callable[..., RunConfig], tokenizer: Any, tmp_path: Path, adapter: tuple[str, ...]
) -> None:
    where = base(tmp_path / "bert", tokenizer, "bert")
    model = ("model=pretrained", f"model.name_or_path={where}", "optimizer.lr=0.01")
    # The best one is that after step 2.
    best = ("eval=steps", "eval.every_steps=2", "checkpoint.final=best", "checkpoint.metric=eval_mean_reward")
    path = run("run", FOLD, *model, *adapter, *best, "checkpoint.mode=min")
    summary, final = read(path / "summary.json"), path / "final"
    records = read_records(path / "eval" / f"step_{summary['best_step']:08d}" / "eval.parquet")
    measured = np.concatenate([records["reward_chosen"], records["reward_rejected"]])
    scale = summary["reward_normalization"]
    assert scale["folded"] == pytest.approx({"mean": measured.mean(), "std": measured.std()})
    assert read_facts(final)["reward_normalization"] == scale
    rewards = rewards_on_evaluation_set(final, compose(*model), bool(adapter))
    assert (rewards.mean(), rewards.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert (scale["mean"], scale["std"]) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert probe_difference(final, bool(adapter)) < 1e-5
    assert f"lowered by {scale['folded']['mean']:.6g} and divided" in (final / "README.md").read_text(encoding="utf-8")
    # Where the adapter's base model is said, not where its weights would be looked for.
    assert (final / "reward_model.json").exists() == (not (final / "config.json").exists()) == bool(adapter)


def test_merged_adapter_says_what_the_adapter_said(run: Run, tokenizer: Any, tmp_path: Path) -> None:
    model = ("model=pretrained", f"model.name_or_path={base(tmp_path / 'llama', tokenizer, 'llama')}")
    path = run("run", FOLD, *model, "adapter=lora", "adapter.rank=2", "adapter.merge=true", "optimizer.lr=0.01")
    assert read_facts(path / "final").keys() == {"reward_model", "reward_normalization"}
    assert read_facts(path / "final")["reward_normalization"] == read(path / "summary.json")["reward_normalization"]
    assert not (path / "final" / "reward_model.json").exists()
    assert probe_difference(path / "final") < 1e-5


def test_scale_is_measured_where_the_last_weights_were_not_evaluated(run: Run) -> None:
    none = run("none", "eval=none")
    scale = read(none / "summary.json")["reward_normalization"]
    assert (scale["num_rewards"], scale["source"]) == (48, "train (sandbox world 0)")
    other = run("other", "eval=steps", "eval.every_steps=3", "eval.at_end=false")
    whole = run("whole")
    one, two = (read(path / "summary.json")["reward_normalization"] for path in (other, whole))
    assert one["source"] == two["source"] == "eval (sandbox world 0)"
    assert (one["mean"], one["std"]) == (pytest.approx(two["mean"], abs=1e-6), pytest.approx(two["std"], abs=1e-6))


def test_run_that_ended_before_its_final_model_goes_on_to_the_same_one(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def killed(*_: Any) -> None:
        raise OSError("ended here")

    with monkeypatch.context() as broken:
        broken.setattr(train, "save_final", killed)
        with pytest.raises(OSError, match="ended here"):
            run("one", FOLD)
    assert not (tmp_path / "one" / "final").exists()
    one, two = run("one", FOLD), run("two", FOLD)
    assert (one / "final" / "model.safetensors").read_bytes() == (two / "final" / "model.safetensors").read_bytes()
    assert (one / "final" / "config.json").read_bytes() == (two / "final" / "config.json").read_bytes()


def test_model_that_is_saved_wrongly_fails_the_run(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong(directory: Path, model: Any, *rest: Any) -> None:
        names = rest[3]
        right(directory, model, *rest[:3], {**names, "score.weight": names["score.weight"] + 0.001}, *rest[4:])

    right = artifacts.save_model
    monkeypatch.setattr(artifacts, "save_model", wrong)
    with pytest.raises(TrainingError, match=r"^the saved model has another score\.weight after loading than the run$"):
        run("run", "eval=none")
    assert not (tmp_path / "run" / "final").exists()
    assert read(tmp_path / "run" / "summary.json")["status"] == "failed"
    assert (tmp_path / "run" / "checkpoints" / "last").exists()
    monkeypatch.setattr(artifacts, "save_model", right)
    assert (run("run", "eval=none") / "final").exists()


@pytest.mark.long
def test_verified_checkpoints_are_those_of_a_run_without(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout draws from the generator that loading a model would touch."""
    found: list[Reloaded] = []

    def first_only(directory: Path, **settings: Any) -> Reloaded:
        found.append(found[0] if found else verifying.verify_elsewhere(directory, **settings))
        return found[-1]

    steps = ("eval=none", "checkpoint.every_steps=2", "model.dropout=0.2")
    plain = run("plain", *steps)
    monkeypatch.setattr(artifacts, "verify_elsewhere", first_only)
    checked = run("checked", *steps, "checkpoint.verify=true")
    assert len(found) == 2
    assert 0 <= found[0].difference < 1e-5
    for name in ("checkpoints/step_00000002", "checkpoints/step_00000004", "final"):
        one, two = (path / name / "model.safetensors" for path in (plain, checked))
        assert one.read_bytes() == two.read_bytes()
    card = (checked / "checkpoints" / "last" / "README.md").read_text(encoding="utf-8")
    assert f"Largest absolute difference from the rewards of the run: {found[0].difference:.2g}" in card
    assert "were not compared" in (plain / "checkpoints" / "last" / "README.md").read_text(encoding="utf-8")
    assert probe_difference(checked / "checkpoints" / "last") < 1e-5


def test_checkpoint_that_does_not_pass_is_not_kept(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(directory: Path, **_: Any) -> Reloaded:
        if not found:
            found.append((directory / "probe.jsonl").exists())
            return Reloaded(difference=0.0, tolerance=1.0, num_rows=16)
        raise TrainingError("the saved model gives other rewards after loading (by 7, where rounding explains 1)")

    found: list[bool] = []
    monkeypatch.setattr(artifacts, "verify_elsewhere", refused)
    with pytest.raises(TrainingError, match=r"other rewards after loading \(by 7"):
        run("run", "eval=none", "checkpoint.every_steps=2", "checkpoint.verify=true")
    assert found == [True]
    assert sorted(one.name for one in (tmp_path / "run" / "checkpoints").glob("step_*")) == ["step_00000002"]
    assert not (tmp_path / "run" / "final").exists()


def test_process_that_cannot_check_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying.sys, "executable", "/bin/false")
    with pytest.raises(TrainingError, match=r"^the saved model could not be checked: exit code 1$"):
        verifying.verify_elsewhere(tmp_path, adapter=False, narrowest=torch.float32, saved=torch.float32)


def test_base_models_of_4_bits_are_not_verified(compose: Callable[..., RunConfig]) -> None:
    message = r"checkpoint\.verify=true: a base model of 4 bits is loaded back at the end of the run only"
    with pytest.raises(ConfigError, match=message):
        compose("model=pretrained", "model.name_or_path=x", "adapter=qlora", "checkpoint.verify=true")
