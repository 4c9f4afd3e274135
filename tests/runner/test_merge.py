"""Models made of others: an adapter as a full model, averages, what is refused, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import rm_experiments
from rm_experiments.config.merge_schema import MergeConfig
from rm_experiments.config.schema import Dtype, RunConfig
from rm_experiments.errors import CheckpointError, ConfigError, TrainingError, UserError
from rm_experiments.modeling import merging
from rm_experiments.modeling.layouts.batch import padded_batch
from rm_experiments.modeling.loading import load_saved, open_saved
from rm_experiments.modeling.merging import WeightFiles, average
from rm_experiments.runner import merge as merge_module
from rm_experiments.runner.merge import MergeResult
from rm_experiments.training.checkpoints import verify_directory

Weights = dict[str, Tensor]
FAST = ("train.max_steps=3", "train.batch_size=8", "eval=none", "optimizer.lr=0.01", "checkpoint.keep_last=1")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rm_experiments.reporting.plots.write_plots", lambda *_: [])


@pytest.fixture(scope="module")
def base(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of two layers without a reward head."""
    path = tmp_path_factory.mktemp("base") / "model"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def run(base: Path, compose: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`run(name, overrides)`: the directory of a run of three steps, made once."""
    folder = tmp_path_factory.mktemp("runs")

    def make(name: str, *overrides: str) -> Path:
        path = folder / name
        if not path.exists():
            config = compose("model=pretrained", f"model.name_or_path={base}", f"run_dir={path}", *FAST, *overrides)
            assert rm_experiments.train(config).status == "finished"
        return path

    return make


@pytest.fixture
def whole(run: Callable[..., Path]) -> list[Path]:
    """Two full models."""
    return [run(f"whole{seed}", f"seed={seed}") for seed in (1, 2)]


@pytest.fixture
def adapter(run: Callable[..., Path]) -> Path:
    return run("adapter", "adapter=lora", "adapter.rank=2", "seed=3")


def merge(output: Path, *directories: Path, **settings: Any) -> MergeResult:
    return rm_experiments.merge(
        MergeConfig(directories=[str(one) for one in directories], output=str(output), **settings)
    )


def rows(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(one) for one in (directory / "probe.jsonl").read_text(encoding="utf-8").splitlines()]


def plain(directory: Path, ids: list[int]) -> float:
    """As a stranger would load it."""
    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1, dtype=torch.float32).eval()
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids])).logits[0, 0])


def weights(run: Path) -> Weights:
    return load_file(run / "final" / "model.safetensors")


def test_an_adapter_becomes_a_full_model_with_its_rewards(adapter: Path, tmp_path: Path) -> None:
    result = merge(tmp_path / "out", adapter)
    assert result.directory == tmp_path / "out"
    assert result.difference < 1e-6
    verify_directory(result.directory)
    names = {one.name for one in result.directory.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "probe.jsonl", "config.yaml"} <= names
    assert not any(name.startswith((".", "adapter")) for name in names)
    source = AutoPeftModelForSequenceClassification.from_pretrained(
        adapter / "final", num_labels=1, dtype=torch.float32, pad_token_id=0
    ).eval()
    for row, before in zip(rows(result.directory), rows(adapter / "final"), strict=True):
        ids = row["input_ids_chosen"]
        assert ids == before["input_ids_chosen"]
        with torch.no_grad():
            expected = float(source(input_ids=torch.tensor([ids])).logits[0, 0])
        assert row["reward_chosen"] == pytest.approx(expected, abs=1e-6)
        assert row["reward_chosen"] == pytest.approx(before["reward_chosen"], abs=1e-5)
        assert plain(result.directory, ids) == pytest.approx(expected, abs=1e-6)
    assert AutoTokenizer.from_pretrained(result.directory).chat_template
    card = (result.directory / "README.md").read_text(encoding="utf-8")
    assert "low-rank adapter, added to the weights of its base model" in card
    assert "adapter/final` | adapter of model | rm | 3 | 1 |" in card


def test_the_type_is_as_asked_and_else_that_of_the_base_model(adapter: Path, tmp_path: Path) -> None:
    for setting, dtype in ((Dtype.auto, torch.float32), (Dtype.bfloat16, torch.bfloat16)):
        result = merge(tmp_path / setting.value, adapter, dtype=setting)
        assert result.dtype is dtype
        saved = load_file(result.directory / "model.safetensors")
        assert {one.dtype for one in saved.values()} == {dtype}
        values = json.loads((result.directory / "config.json").read_text(encoding="utf-8"))
        assert values["dtype"] == str(dtype).removeprefix("torch.")
    # Rounding shows, and is told.
    assert 1e-6 < result.difference < 1e-1


def test_the_average_has_the_mean_of_all_weights_and_its_own_rewards(whole: list[Path], tmp_path: Path) -> None:
    result = merge(tmp_path / "out", *whole)
    one, two = map(weights, whole)
    found = load_file(result.directory / "model.safetensors")
    assert found.keys() == one.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, (one[name] + two[name]) / 2, rtol=1e-6, atol=1e-8)
    before, after = rows(whole[0] / "final"), rows(result.directory)
    assert [row["input_ids_chosen"] for row in after] == [row["input_ids_chosen"] for row in before]
    assert all(row["reward_chosen"] != old["reward_chosen"] for row, old in zip(after, before, strict=True))
    for row in after[:3]:
        assert plain(result.directory, row["input_ids_chosen"]) == pytest.approx(row["reward_chosen"], abs=1e-6)
    card = (result.directory / "README.md").read_text(encoding="utf-8")
    assert "Its weights are the mean of those of 2 reward models" in card
    assert "whole1/final` | full model | rm | 1 | 0.5 |" in card
    assert "whole2/final` | full model | rm | 2 | 0.5 |" in card
    manifest = json.loads((result.directory / "MANIFEST.json").read_text(encoding="utf-8"))
    assert manifest["merged_from"] == [str(one / "final") for one in whole]


def test_a_scale_that_was_one_models_is_not_the_averages(whole: list[Path], tmp_path: Path) -> None:
    scaled = other_config(whole[1], tmp_path / "scaled", reward_normalization={"mean": 1.0, "std": 2.0})
    for order in ([scaled, whole[0]], [whole[0], scaled]):
        result = merge(tmp_path / f"out_{order[0].name}", *order)
        assert "reward_normalization" not in json.loads((result.directory / "config.json").read_text(encoding="utf-8"))


def test_shares_are_relative_and_adapters_are_merged_first(whole: list[Path], adapter: Path, tmp_path: Path) -> None:
    alone = merge(tmp_path / "alone", adapter)
    result = merge(tmp_path / "out", whole[0], adapter, weights=[3.0, 1.0])
    assert result.shares == [0.75, 0.25]
    one, two = weights(whole[0]), load_file(alone.directory / "model.safetensors")
    for name, value in load_file(result.directory / "model.safetensors").items():
        torch.testing.assert_close(value, 0.75 * one[name] + 0.25 * two[name], rtol=1e-5, atol=1e-7)
    assert "0.75 |" in (result.directory / "README.md").read_text(encoding="utf-8")


def test_a_folder_of_runs_is_all_their_models(whole: list[Path], adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    for number, path in enumerate(whole):
        shutil.copytree(path, folder / str(number))
    result = merge(tmp_path / "out", folder)
    assert result.ingredients == [str(folder / "0" / "final"), str(folder / "1" / "final")]


def test_our_loading_reads_what_was_merged(whole: list[Path], tmp_path: Path) -> None:
    result = merge(tmp_path / "out", *whole)
    saved = open_saved(str(result.directory))
    assert saved.saved is not None
    assert saved.saved.data.sandbox is not None
    row = rows(result.directory)[0]
    with torch.no_grad():
        (found,) = load_saved(saved).eval()(padded_batch([np.array(row["input_ids_chosen"])], 0)).tolist()
    assert found == pytest.approx(row["reward_chosen"], abs=1e-6)


def test_averaging_is_in_float32_in_shards_and_one_tensor_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sixteen-bit numbers whose sums would be rounded; files of at most 12 bytes."""
    values = (1.0, 1.0, 1.0078125)
    for number, value in enumerate(values):
        (tmp_path / str(number)).mkdir()
        tensors = {
            "a": torch.full((2,), value, dtype=torch.bfloat16), "b": torch.tensor([value, 256.0], dtype=torch.bfloat16),
            "c": torch.full((2, 2), value, dtype=torch.bfloat16), "n": torch.tensor([3]),
        }  # fmt: skip
        save_file(tensors, tmp_path / str(number) / "model.safetensors")
    (tmp_path / "out").mkdir()
    sources = [WeightFiles(tmp_path / str(number)) for number in range(3)]
    read: list[str] = []
    whole_read = WeightFiles.read

    def reading(self: WeightFiles, key: str) -> Tensor:
        read.append(f"{self.directory.name}{key}")
        return whole_read(self, key)

    monkeypatch.setattr(WeightFiles, "read", reading)
    average(sources, [1 / 3] * 3, torch.float32, tmp_path / "out", shard=12)
    assert read == [f"{number}{key}" for key in "abcn" for number in range(3)]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["weight_map"] == {
        "a": "model-00001-of-00004.safetensors", "b": "model-00002-of-00004.safetensors",
        "c": "model-00003-of-00004.safetensors", "n": "model-00004-of-00004.safetensors",
    }  # fmt: skip
    found = WeightFiles(tmp_path / "out")
    assert found.read("a").tolist() == pytest.approx([1.0026041666] * 2, rel=1e-6)
    assert found.read("b").tolist() == pytest.approx([1.0026041666, 256], rel=1e-6)
    assert found.read("n").tolist() == [3]

    save_file({"n": torch.tensor([4])}, tmp_path / "1" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1: n holds other whole numbers, which have no mean$"):
        merging._mean([WeightFiles(tmp_path / one) for one in "01"], [0.5, 0.5], torch.float32, "n")


def other_config(path: Path, target: Path, **values: Any) -> Path:
    shutil.copytree(path / "final", target)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")
    return target


def other_template(path: Path, target: Path) -> Path:
    shutil.copytree(path / "final", target)
    (target / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    return target


def without_head(path: Path, target: Path) -> Path:
    shutil.copytree(path / "final", target)
    saved = load_file(target / "model.safetensors")
    del saved["score.weight"]
    save_file(saved, target / "model.safetensors", metadata={"format": "pt"})
    return target


def wider(path: Path, target: Path) -> Path:
    shutil.copytree(path / "final", target)
    saved = load_file(target / "model.safetensors")
    saved["score.weight"] = torch.zeros(1, 20)
    save_file(saved, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_models_that_do_not_go_together_are_refused_and_nothing_is_left(
    whole: list[Path], adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = whole[0]
    cases: list[tuple[list[Path], dict[str, Any], str]] = [
        ([one], {}, r"whole1/final: is a full model already, and there is nothing to merge; name an adapter, or"),
        ([one, one], {}, r"whole1/final: is a full model already"),
        (whole, {"weights": [1.0, 1.0, 1.0]}, r"^weights=\[1\.0, 1\.0, 1\.0\]: 3 numbers for 2 models; give one for"),
        (
            [one, other_config(whole[1], tmp_path / "theta", rms_norm_eps=0.25)], {},
            r"whole1/final and .*theta: different architectures \(rms_norm_eps is 1e-06 and 0\.25\); models of one",
        ),
        ([one, other_template(whole[1], tmp_path / "words")], {}, r"words: different chat templates, so they do"),
        ([one, without_head(whole[1], tmp_path / "bare")], {}, r"bare: lacks score\.weight, which .*whole1/final has"),
        ([wider(whole[1], tmp_path / "wide"), one], {}, r"score\.weight has the shape \[1, 16\], in .*wide \[1, 20\]"),
        (
            [without_head(one, tmp_path / "bare1"), tmp_path / "bare"], {},
            r"bare1: has no reward head \(score\.weight\), so its rewards would be random",
        ),
        ([tmp_path / "nowhere"], {}, r"^[^=]*nowhere: no such directory; name a model directory, a run or a Hub id$"),
    ]  # fmt: skip
    before = {str(path) for path in tmp_path.rglob("*")}
    for directories, settings, message in cases:
        with pytest.raises(UserError, match=message):
            merge(tmp_path / "out", *directories, **settings)
        assert {str(path) for path in tmp_path.rglob("*")} == before, message
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^output=.*file: exists already; choose another directory$"):
        merge(tmp_path / "file", adapter)
    monkeypatch.setattr(merge_module, "free_bytes", lambda path: 1000)
    with pytest.raises(ConfigError, match=r"^output=.*out: no space: 4,\d{3},\d{3} bytes are needed, 1,000 are free; "):
        merge(tmp_path / "out", *whole)
    assert not (tmp_path / "out").exists()


def test_a_merge_that_changes_the_rewards_fails_and_leaves_nothing(
    adapter: Path, whole: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(adapted: Any) -> Any:
        model = merging_merged(adapted)
        with torch.no_grad():
            model.model.score.weight += 0.1
        return model

    merging_merged = merging.merged
    monkeypatch.setattr(merging, "merged", spoilt)
    with pytest.raises(TrainingError, match=r"^merging the adapter changes the rewards \(by 0\.\d+\)$"):
        merge(tmp_path / "out", adapter)
    monkeypatch.undo()
    real = merge_module.average

    def interrupted(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(merge_module, "average", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path / "out", *whole)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_probe_rows_is_measured_on_others(adapter: Path, tmp_path: Path) -> None:
    source = shutil.copytree(adapter / "final", tmp_path / "source")
    (source / "probe.jsonl").unlink()
    (source / "config.yaml").unlink()
    result = merge(tmp_path / "out", source)
    assert len(rows(result.directory)) == 4
    assert result.difference < 1e-6
    assert not (result.directory / "config.yaml").exists()


@pytest.mark.parametrize(("kind", "dtype"), [("dora", "bfloat16"), ("qlora", "float32")])
def test_a_run_can_hand_over_the_merged_model_and_go_on_from_adapters(
    run: Callable[..., Path], base: Path, compose: Callable[..., RunConfig], kind: str, dtype: str
) -> None:
    if kind == "qlora":
        pytest.importorskip("bitsandbytes")
    overrides = (f"adapter={kind}", "adapter.rank=2", "adapter.merge=true", f"checkpoint.dtype={dtype}")
    path = run(kind, *overrides)
    final, checkpoint = path / "final", path / "checkpoints" / "last"
    assert (checkpoint / "adapter_model.safetensors").is_file()
    assert not (final / "adapter_model.safetensors").exists()
    assert {one.dtype for one in weights(path).values()} == {getattr(torch, dtype)}
    for row in rows(final)[:3]:
        tolerance = 1e-5 if dtype == "float32" else 1e-2
        assert plain(final, row["input_ids_chosen"]) == pytest.approx(row["reward_chosen"], abs=tolerance)
    card = (final / "README.md").read_text(encoding="utf-8")
    assert "adapter, since merged into the weights, and reward head were trained" in card
    assert "library_name: transformers" in card
    assert f"(trained in fp32, saved as {dtype}; more than " in card
    assert "BitsAndBytesConfig" not in card
    assert ("BitsAndBytesConfig(load_in_4bit=True" in (checkpoint / "README.md").read_text("utf-8")) == (
        kind == "qlora"
    )
    # As long as the run of three steps, and then one more.
    longer = compose(
        "model=pretrained", f"model.name_or_path={base}", f"run_dir={path}", *FAST, *overrides, "train.max_steps=4",
        "allow_changes=[train.max_steps]",
    )  # fmt: skip
    assert rm_experiments.train(longer).status == "finished"
    assert json.loads((path / "summary.json").read_text("utf-8"))["steps"] == 4
