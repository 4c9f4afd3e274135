"""Saved models of any origin on any data: the numbers are those of the run, and of plain transformers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import rm_experiments
from rm_experiments.config.compare_schema import CompareConfig
from rm_experiments.config.data_schema import DataConfig, EvalSetConfig, SandboxConfig
from rm_experiments.config.evaluation_schema import EvaluationConfig
from rm_experiments.config.schema import Device, Precision, RunConfig
from rm_experiments.errors import CheckpointError, ConfigError, DataError
from rm_experiments.evaluation.breakdown import breakdown
from rm_experiments.evaluation.records import COLUMNS, Records, read_records
from rm_experiments.modeling.loading import load_saved
from rm_experiments.runner.evaluate import EvaluationResult, evaluate_models
from rm_experiments.runner.pair_texts import pair_texts
from rm_experiments.runner.saved_models import find_checkpoints
from rm_experiments.training.checkpoints import verify_directory


def evaluate(checkpoint: Any, out: Path, data: DataConfig | None = None, **more: Any) -> EvaluationResult:
    names = [str(one) for one in checkpoint] if isinstance(checkpoint, list) else str(checkpoint)
    config = EvaluationConfig(checkpoint=names, run_dir=str(out), data=data or DataConfig(), **more)
    config.train.device = Device.cpu
    # The batches of the run: the sums of others are rounded differently.
    config.eval.micro_batch_tokens = 300
    return rm_experiments.evaluate(config)


def lines(directory: Path) -> list[dict[str, Any]]:
    """The evaluations in metrics.jsonl."""
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [one for one in found if one["kind"] == "eval"]


def measured(line: dict[str, Any]) -> dict[str, float]:
    """The metrics of a line of metrics.jsonl, without what the clock says."""
    return {key: value for key, value in line.items() if key.startswith("eval_") and key != "eval_seconds"}


def summary(directory: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    return values


def yaml_of(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def records_of(directory: Path, step: int, name: str = "eval") -> Records:
    return read_records(directory / "eval" / f"step_{step:08d}" / f"{name}.parquet")


def assert_same(found: Records, expected: Records) -> None:
    """To the bit."""
    for name in COLUMNS:
        assert found[name].tolist() == expected[name].tolist(), name


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time; those of `whole` are drawn."""

    def touch(path: Path, *_: Any) -> None:
        (path / "plots").mkdir()
        (path / "plots" / "training.png").touch()

    monkeypatch.setattr("rm_experiments.runner.evaluate.write_plots", touch)


@pytest.fixture(scope="module")
def data(preferences: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", preferences)


@pytest.fixture(scope="module")
def whole(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvaluationResult]:
    """All checkpoints of the run, on what it was evaluated on."""
    out = tmp_path_factory.mktemp("whole") / "out"
    result = evaluate(trained_run / "checkpoints", out, breakdown=["subset", "length_difference:2"])
    return out, result


def test_the_checkpoints_of_a_run_give_its_records_to_the_bit(
    trained_run: Path, whole: tuple[Path, EvaluationResult]
) -> None:
    out, result = whole
    assert [(Path(one.checkpoint.name).name, one.checkpoint.step) for one in result.evaluated] == [
        ("step_00000002", 2), ("step_00000004", 4)
    ]  # fmt: skip
    assert [line["step"] for line in lines(out)] == [2, 4]
    expected = {line["step"]: line for line in lines(trained_run)}
    for line, one in zip(lines(out), result.evaluated, strict=True):
        step = line["step"]
        assert_same(records_of(out, step), records_of(trained_run, step))
        assert measured(line) == measured(expected[step])
        assert {f"eval_{key}": value for key, value in one.metrics["eval"].items()} == measured(line)
        assert line["checkpoint"] == one.checkpoint.name == str(trained_run / "checkpoints" / f"step_{step:08d}")
    assert measured(lines(out)[0]) != measured(lines(out)[1])


def test_an_evaluation_leaves_the_files_of_a_run(trained_run: Path, whole: tuple[Path, EvaluationResult]) -> None:
    out, result = whole
    assert result.directory == out
    last = summary(out)
    assert (last["status"], last["steps"]) == ("finished", 4)
    assert last["checkpoints"] == [line["checkpoint"] for line in lines(out)]
    assert last["final"] == measured(lines(out)[1])
    assert last["seconds"] > 0
    config = yaml_of(out / "config.yaml")
    assert (config["seed"], config["data"]["sandbox"]["num_eval_pairs"], config["data"]["max_length"]) == (3, 21, 40)
    assert yaml_of(out / "model.yaml") == yaml_of(trained_run / "config.yaml")
    assert json.loads((out / "environment.json").read_text(encoding="utf-8"))["working_directory"] == os.getcwd()
    assert {one.name for one in (out / "plots").iterdir()} >= {"calibration.png", "margins.png", "training.png"}


def test_a_breakdown_is_that_of_the_records(trained_run: Path, whole: tuple[Path, EvaluationResult]) -> None:
    out, result = whole
    records = records_of(trained_run, 4)
    bins = breakdown(records, "length_difference", 2)
    expected = {"subset": breakdown(records, "subset"), "length_difference:2": bins}
    assert len(bins) == 2
    assert result.evaluated[1].breakdowns == {"eval": expected}
    assert summary(out)["breakdown"] == {
        "eval": {setting: [vars(part) for part in parts] for setting, parts in expected.items()}
    }


def test_a_run_is_its_final_model(trained_run: Path, tmp_path: Path) -> None:
    evaluate(trained_run, tmp_path / "out")
    (line,) = lines(tmp_path / "out")
    assert (line["checkpoint"], line["step"]) == (str(trained_run / "final"), 4)
    assert_same(records_of(tmp_path / "out", 4), records_of(trained_run, 4))
    assert "breakdown" not in summary(tmp_path / "out")


def test_texts_of_what_was_evaluated_are_found_again(whole: tuple[Path, EvaluationResult], trained_run: Path) -> None:
    ids = records_of(trained_run, 4)["pair_id"].tolist()
    for directory in (whole[0], trained_run):
        found = pair_texts(directory, "eval", ids[:5])
        assert isinstance(found, dict)
        assert set(found) == set(ids[:5])
    assert pair_texts(trained_run, "hard", ids) == f"{trained_run} does not say where this set comes from"


def plain_rewards(directory: Path, rows: list[dict[str, str]]) -> dict[str, list[float]]:
    """Of both sides, by transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    found: dict[str, list[float]] = {"chosen": [], "rejected": []}
    for row in rows:
        for side, rewards in found.items():
            messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]
            ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=False)
            with torch.inference_mode():
                rewards.append(model(input_ids=ids).logits.item())
    return found


def test_other_data_are_scored_as_plain_transformers_does(
    trained_run: Path, data: Path, preferences: list[dict[str, str]], tmp_path: Path
) -> None:
    short = write_rows(tmp_path / "short.jsonl", preferences[:6])
    settings = DataConfig(
        eval=str(short), max_length=60, eval_sets={"more": EvalSetConfig(source=str(data))}, max_eval_pairs=9
    )
    (one,) = evaluate(trained_run / "final", tmp_path / "out", settings).evaluated
    assert one.sources == {"eval": str(short), "more": str(data)}
    expected = plain_rewards(trained_run / "final", preferences[:9])
    for name, number in (("eval", 6), ("more", 9)):
        found = records_of(tmp_path / "out", 4, name)
        assert found["id"].tolist() == [str(at) for at in range(number)]
        assert not found["truncated_chosen"].any()
        for side, rewards in expected.items():
            assert found[f"reward_{side}"] == pytest.approx(np.array(rewards[:number]), abs=1e-5)
        accuracy = np.mean(np.array(expected["chosen"][:number]) > np.array(expected["rejected"][:number]))
        assert one.metrics[name]["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    (line,) = lines(tmp_path / "out")
    assert (line["eval_num_pairs"], line["eval_more_num_pairs"]) == (6, 9)


def test_a_named_set_alone_is_enough(trained_run: Path, data: Path, tmp_path: Path) -> None:
    evaluate(trained_run, tmp_path / "out", DataConfig(eval_sets={"more": EvalSetConfig(source=str(data))}))
    (line,) = lines(tmp_path / "out")
    assert line["eval_more_num_pairs"] == 40
    assert all(key.startswith("eval_more_") for key in measured(line))
    assert [one.name for one in (tmp_path / "out" / "eval" / "step_00000004").iterdir()] == ["more.parquet"]


def test_texts_become_tokens_as_in_the_run_unless_asked_otherwise(trained_run: Path, tmp_path: Path) -> None:
    long = write_rows(tmp_path / "long.jsonl", [{"prompt": "word " * 90, "chosen": "yes", "rejected": "no"}])
    for name, limit, tokens in (("run", None, 40), ("own", 25, 25)):
        evaluate(trained_run / "final", tmp_path / name, DataConfig(eval=str(long), max_length=limit))
        found = records_of(tmp_path / name, 4)
        assert (found["num_tokens_chosen"].max(), found["truncated_chosen"].tolist()) == (tokens, [True])


@pytest.fixture(scope="module")
def foreign(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights and the tokenizer alone, as another program saves them."""
    path = tmp_path_factory.mktemp("foreign") / "model"
    AutoModelForSequenceClassification.from_pretrained(trained_run / "final", num_labels=1).save_pretrained(path)
    AutoTokenizer.from_pretrained(trained_run / "final").save_pretrained(path)
    return path


def test_a_classifier_of_another_program_is_evaluated(
    foreign: Path, trained_run: Path, data: Path, tmp_path: Path
) -> None:
    settings = DataConfig(eval=str(data), max_length=40)
    evaluate(foreign, tmp_path / "foreign", settings)
    evaluate(trained_run / "final", tmp_path / "own", settings)
    (line,) = lines(tmp_path / "foreign")
    assert (line["step"], line["checkpoint"]) == (0, str(foreign))
    assert_same(records_of(tmp_path / "foreign", 0), records_of(tmp_path / "own", 4))
    assert yaml_of(tmp_path / "foreign" / "model.yaml") == {"checkpoint": str(foreign)}


def test_without_data_a_model_of_unknown_origin_is_refused(foreign: Path, tmp_path: Path) -> None:
    message = r"^data: .*model does not say what it was evaluated on; type data\.eval=FILE, or benchmark=NAME$"
    with pytest.raises(ConfigError, match=message):
        evaluate(foreign, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_seed_splits_the_main_set_off(foreign: Path, data: Path, tmp_path: Path) -> None:
    taken = []
    for seed in (None, 5):
        out = tmp_path / str(seed)
        evaluate(foreign, out, DataConfig(train=str(data), eval_fraction=0.3), seed=seed)
        records = records_of(out, 0)
        assert len(set(records["prompt_id"])) == 6
        assert yaml_of(out / "config.yaml")["seed"] == (seed or 0)
        # The same pairs are split off when their texts are wanted.
        texts = pair_texts(out, "eval", records["pair_id"].tolist())
        assert isinstance(texts, dict)
        assert set(texts) == set(records["pair_id"])
        taken.append({prompt for prompt, _, _ in texts.values()})
    assert taken[0] != taken[1]


def small_decoder(path: Path, tokenizer: Any, labels: int | None = None) -> Path:
    """Without a head, or with one of several labels."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
    }  # fmt: skip
    if labels is None:
        LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(path)
    else:
        config = LlamaConfig(**shape, num_labels=labels, pad_token_id=0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_models_whose_rewards_would_mean_nothing_are_refused(
    tokenizer: Any, data: Path, trained_run: Path, tmp_path: Path
) -> None:
    settings = DataConfig(eval=str(data))
    out = tmp_path / "out"
    base = small_decoder(tmp_path / "base", tokenizer)
    with pytest.raises(CheckpointError, match=r"^.*base: has no reward head, so its rewards would be random; train"):
        evaluate(base, out, settings)
    three = small_decoder(tmp_path / "three", tokenizer, labels=3)
    with pytest.raises(CheckpointError, match=r"^checkpoint=.*three: its weights do not fit a reward head of one "):
        evaluate(three, out, settings)
    broken = shutil.copytree(trained_run / "final", tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["score.weight"] *= torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"broken: 40 pairs of eval have rewards that are not finite \(row 0\)$"):
        evaluate(broken, out, settings)
    assert not out.exists()


def test_directories_that_hold_no_usable_model_are_refused(
    trained_run: Path, data: Path, tmp_path: Path, tokenizer: Any
) -> None:
    settings, out = DataConfig(eval=str(data)), tmp_path / "out"
    damaged = shutil.copytree(trained_run / "final", tmp_path / "damaged")
    (damaged / "config.yaml").write_text("optimizer: 3\n")
    with pytest.raises(CheckpointError, match=r"^.*damaged/config\.yaml: is not the config of a run \("):
        evaluate(damaged, out, settings)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"^checkpoint=.*bare: the directory holds no usable tokenizer "):
        evaluate(tmp_path / "bare", out, settings)
    tokenizer.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"^.*adapter: adapter_config\.json names no base model \(KeyError\); "):
        evaluate(tmp_path / "adapter", out, settings)
    assert not out.exists()


@pytest.fixture(scope="module")
def adapter_run(tokenizer: Any, compose: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that trains low-rank adapters of a decoder without a head."""
    folder = tmp_path_factory.mktemp("adapter")
    base = small_decoder(folder / "base", tokenizer)
    overrides = (
        "model=pretrained", f"model.name_or_path={base}", "adapter=lora", "adapter.rank=2", f"run_dir={folder / 'run'}",
        "train.max_steps=2", "train.batch_size=8", "eval=start_end", "optimizer.lr=0.01",
    )  # fmt: skip
    assert rm_experiments.train(compose(*overrides)).status == "finished"
    return folder / "run"


def test_an_adapter_is_evaluated_with_its_base_model(adapter_run: Path, tmp_path: Path) -> None:
    evaluate(adapter_run / "final", tmp_path / "out")
    found, expected = records_of(tmp_path / "out", 2), records_of(adapter_run, 2)
    assert found["pair_id"].tolist() == expected["pair_id"].tolist()
    for name in ("reward_chosen", "reward_rejected", "margin"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5)
    # It was trained: neither the base model nor the start gives these.
    assert np.abs(records_of(adapter_run, 0)["margin"] - expected["margin"]).max() > 1e-3


def test_an_adapter_without_a_head_or_its_weights_is_refused(adapter_run: Path, tmp_path: Path) -> None:
    model = shutil.copytree(adapter_run / "final", tmp_path / "model")
    path, out = model / "adapter_model.safetensors", tmp_path / "out"
    config, weights = json.loads((model / "adapter_config.json").read_text()), load_file(path)
    save_file({key: value for key, value in weights.items() if ".score." not in key}, path)
    for saved in (config["modules_to_save"], None):
        (model / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": saved}))
        with pytest.raises(CheckpointError, match=r"model: neither the adapter nor its base model holds score, so its"):
            evaluate(model, out)
    (model / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"model: the adapter does not load \(SafetensorError: "):
        evaluate(model, out)
    (model / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/nowhere/base"}))
    with pytest.raises(CheckpointError, match=r"^checkpoint=/nowhere/base: no such directory, .*; name a model dir"):
        evaluate(model, out)
    assert not out.exists()


def test_models_of_several_runs_have_folders_of_their_own_and_can_be_compared(
    trained_run: Path, adapter_run: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    names = [trained_run / "final", adapter_run / "final", trained_run / "checkpoints" / "step_00000002"]
    result = evaluate(names, out, DataConfig(eval=str(data)))
    assert [Path(one.checkpoint.name) for one in result.evaluated] == names
    assert sorted(one.name for one in out.iterdir()) == ["0_run", "1_run"]
    assert [line["step"] for line in lines(out / "0_run")] == [4, 2]
    assert [line["step"] for line in lines(out / "1_run")] == [2]
    found = rm_experiments.compare(
        CompareConfig(directories=[str(out)], output_dir=str(tmp_path / "compared"), html=False, num_resamples=1000)
    ).comparison
    assert [one["seed"] for one in found["runs"]] == [3, yaml_of(adapter_run / "config.yaml")["seed"]]
    assert "adapter.name" in found["options"]
    assert found["sets"][0]["num_pairs"] == 40
    assert found["rows"]["eval"][0]["prompt"] == "What is 0?"


def test_the_card_of_a_model_gets_a_section_that_is_replaced(trained_run: Path, data: Path, tmp_path: Path) -> None:
    model = shutil.copytree(trained_run / "final", tmp_path / "model")
    before = (model / "README.md").read_text(encoding="utf-8")
    evaluate(model, tmp_path / "one", DataConfig(eval=str(data)), card=True)
    first = (model / "README.md").read_text(encoding="utf-8")
    assert first.startswith(before.rstrip())
    # A person wrote something below.
    (model / "README.md").write_text(first + "\nMy own notes.\n", encoding="utf-8")
    result = evaluate(model, tmp_path / "two", DataConfig(eval=str(data), max_eval_pairs=7), card=True)
    second = (model / "README.md").read_text(encoding="utf-8")
    rows = []
    for text in (first, second):
        assert text.count("<!-- rm-eval: begin -->") == text.count("<!-- rm-eval: end -->") == 1
        section = text.partition("<!-- rm-eval: begin -->")[2]
        rows.append(next(line for line in section.splitlines() if line.startswith("| eval |")))
    assert second.endswith("\nMy own notes.\n")
    values = result.evaluated[0].metrics["eval"]
    assert "| 40 |" in rows[0]
    assert f"| 7 | {values['accuracy']:.4f} |" in rows[1]
    for subset in ("list", "sum"):
        pairs, accuracy = values[f"{subset}_num_pairs"], values[f"{subset}_accuracy"]
        assert f"| eval | {subset} | {pairs} | {accuracy:.4f} |" in second
    # The model is as it was saved, but for what people read.
    verify_directory(model)
    assert sorted(one.name for one in model.iterdir()) == sorted(one.name for one in (trained_run / "final").iterdir())


def test_a_card_on_the_hub_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^card=true: org/model is no directory, so it has no card to write; leave"):
        evaluate("org/model", tmp_path / "out", card=True)


def test_a_place_that_is_taken_is_refused_and_left_alone(trained_run: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"^run_dir=.*full: is not empty \(mine\.txt, \.\.\.\); choose another run_"):
        evaluate(trained_run, full)
    with pytest.raises(ConfigError, match=r"^run_dir=.*mine\.txt: is a file; choose a directory$"):
        evaluate(trained_run, full / "mine.txt")
    assert [one.name for one in full.iterdir()] == ["mine.txt"]
    with pytest.raises(ConfigError, match=r"^run_dir=.*run: is not empty \("):
        evaluate(trained_run, trained_run)


def test_a_breakdown_of_too_many_values_is_refused(trained_run: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{at}?", "chosen": "a" * at, "rejected": "no"} for at in range(60)]
    settings = DataConfig(eval=str(write_rows(tmp_path / "many.jsonl", rows)))
    with pytest.raises(ConfigError, match=r"^breakdown: num_chars_chosen has 60 values; give it a number of bins, as"):
        evaluate(trained_run, tmp_path / "out", settings, breakdown=["num_chars_chosen"])
    assert not (tmp_path / "out").exists()


def test_data_that_cannot_be_read_are_refused_before_weights_are(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rm_experiments.runner.evaluate.load_saved", pytest.fail)
    with pytest.raises(DataError, match=r"^data\.eval=.*nowhere\.jsonl: no such file"):
        evaluate(trained_run, tmp_path / "out", DataConfig(eval=str(tmp_path / "nowhere.jsonl")))
    assert not (tmp_path / "out").exists()


def test_what_was_measured_before_another_model_was_refused_says_what_it_is(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = sorted((trained_run / "checkpoints").glob("step_*"))
    load, loaded = load_saved, []

    def second_is_damaged(model: Any, all_heads: bool) -> Any:
        loaded.append(model.name)
        if len(loaded) == 2:
            raise CheckpointError("checkpoint=b: is damaged")
        return load(model, all_heads)

    monkeypatch.setattr("rm_experiments.runner.evaluate.load_saved", second_is_damaged)
    with pytest.raises(CheckpointError, match=r"^checkpoint=b: is damaged$"):
        evaluate(steps[:2], tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "failed"
    assert summary["error"] == "CheckpointError: checkpoint=b: is damaged"
    assert summary["checkpoints"] == [str(steps[0])]
    assert len(lines(tmp_path / "out")) == 1


def names(setting: Any, root: Path) -> list[tuple[str, int, str | None]]:
    return [
        (str(Path(one.name).relative_to(root)), one.step, None if one.run is None else one.run.name)
        for one in find_checkpoints(setting)[0]
    ]


def model_at(path: Path, step: int | None = None) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    if step is not None:
        (path / "MANIFEST.json").write_text(json.dumps({"step": step}))
    return path


def test_models_that_a_setting_names(tmp_path: Path) -> None:
    for run in ("a", "b", "c"):
        (tmp_path / "sweep" / run).mkdir(parents=True)
        (tmp_path / "sweep" / run / "metrics.jsonl").touch()
    a = tmp_path / "sweep" / "a"
    for step in (100000000, 20, 3):
        model_at(a / "checkpoints" / f"step_{step:08d}", step)
    (a / "checkpoints" / "best").symlink_to("step_00000003")
    (a / "checkpoints" / "half").mkdir()
    model_at(a / "final", 20)
    model_at(tmp_path / "sweep" / "b" / "final", 9)
    other = model_at(tmp_path / "other")
    for name, step in (("x", 20), ("y", 3)):
        model_at(tmp_path / "copies" / name, step)

    steps = [(f"sweep/a/checkpoints/step_{step:08d}", step, "a") for step in (3, 20, 100000000)]
    assert names(str(a / "checkpoints"), tmp_path) == steps
    assert names(str(a / "checkpoints" / "step_*"), tmp_path) == steps
    assert names(str(a / "checkpoints" / "step_00000020"), tmp_path) == steps[1:2]
    assert names(str(a / "checkpoints" / "best"), tmp_path) == [("sweep/a/checkpoints/best", 3, "a")]
    # By step, not by name.
    assert names(str(tmp_path / "copies"), tmp_path) == [("copies/y", 3, None), ("copies/x", 20, None)]
    finals = [("sweep/a/final", 20, "a"), ("sweep/b/final", 9, "b")]
    assert names(str(a), tmp_path) == finals[:1]
    # The third run has none, which is said.
    assert names(str(tmp_path / "sweep"), tmp_path) == finals
    passed_over = find_checkpoints(str(tmp_path / "sweep"))[1]
    assert passed_over == [f"{tmp_path / 'sweep' / 'c'}: passed over, it has no final model"]
    assert names([str(other), str(a), str(a / "final")], tmp_path) == [("other", 0, None), *finals[:1]]
    assert [(one.name, one.step) for one in find_checkpoints("org/model")[0]] == [("org/model", 0)]


def test_settings_that_name_no_model_are_refused(tmp_path: Path) -> None:
    def refuses(setting: str) -> str:
        with pytest.raises(CheckpointError) as caught:
            find_checkpoints(setting)
        return str(caught.value).replace(str(tmp_path), "ROOT")

    run = tmp_path / "runs" / "c"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").touch()
    assert refuses(str(run)) == (
        "checkpoint=ROOT/runs/c: ROOT/runs/c has no final model yet; try checkpoint=ROOT/runs/c/checkpoints/last"
    )
    assert refuses(f"{tmp_path}/runs") == (
        "checkpoint=ROOT/runs: none of its 1 runs has a final model; name a checkpoint"
    )
    for nowhere in (f"{tmp_path}/nowhere", "./nowhere", "nowhere", "a/b/c"):
        shown = nowhere.replace(str(tmp_path), "ROOT")
        assert refuses(nowhere) == f"checkpoint={shown}: no such directory; name a model directory, a run or a Hub id"
    assert refuses(f"{tmp_path}/no*") == "checkpoint=ROOT/no*: no model directory matches this pattern"
    (tmp_path / "empty").mkdir()
    assert refuses(f"{tmp_path}/empty") == (
        "checkpoint=ROOT/empty: holds no model (config.json or adapter_config.json) and no run"
    )


def test_an_unnamed_evaluation_gets_a_place_of_its_own(
    trained_run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = EvaluationConfig(
        checkpoint=str(trained_run), name="mine", data=DataConfig(eval=str(data), max_eval_pairs=2, cache_dir=None)
    )
    one, two = (evaluate_models(config, {"data.eval", "data.max_eval_pairs"}).directory for _ in range(2))
    assert one.parent == two.parent == Path("outputs/eval/mine")
    assert one != two


@pytest.mark.parametrize(
    ("checkpoints", "asked", "expected"),
    [(["half"], "auto", "bf16"), (["whole"], "auto", "fp32"), (["whole", "half"], "auto", "auto"),
     (["half"], "fp32", "fp32")],
)  # fmt: skip
def test_the_precision_is_that_of_the_training_unless_asked_otherwise(
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoints: list[str],
    asked: str,
    expected: str,
) -> None:
    seen = []

    def noted(config: Any) -> Any:
        seen.append(config.precision)
        raise ConfigError("enough")

    monkeypatch.setattr("rm_experiments.runner.evaluate.make_accelerator", noted)
    for name in checkpoints:
        model = shutil.copytree(trained_run / "final", tmp_path / name)
        if name == "half":
            text = (model / "config.yaml").read_text()
            (model / "config.yaml").write_text(text.replace("precision: fp32", "precision: bf16"))
    config = EvaluationConfig(checkpoint=[str(tmp_path / name) for name in checkpoints])
    config.train.precision = Precision(asked)
    with pytest.raises(ConfigError, match=r"^enough$"):
        evaluate_models(config)
    assert [one.value for one in seen] == [expected]


def test_the_world_of_the_sandbox_can_be_another(trained_run: Path, tmp_path: Path) -> None:
    settings = DataConfig(sandbox=SandboxConfig(num_train_pairs=1, num_eval_pairs=5, world_seed=9))
    result = evaluate(trained_run, tmp_path / "out", settings)
    assert result.evaluated[0].sources == {"eval": "sandbox world 9"}
    assert result.evaluated[0].metrics["eval"]["num_pairs"] == 5
