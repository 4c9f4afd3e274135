"""One real run, and everything that it leaves: files, numbers, model, card, W&B run; then the same command again."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import yaml

import rm_experiments
from rm_experiments.config.compose import config_yaml, to_plain
from rm_experiments.config.data_schema import SandboxConfig
from rm_experiments.data.pairs import PreferencePair, answer_messages, pair_id, prompt_id, prompt_messages
from rm_experiments.data.sandbox import generate
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import ConfigError
from rm_experiments.evaluation.sanity import Finding
from rm_experiments.runner.artifacts import Artifacts
from rm_experiments.training.checkpoints import CheckpointStore, verify_directory

OVERRIDES = [
    "name=real", "seed=1", "data.sandbox.num_train_pairs=200", "data.sandbox.num_eval_pairs=60", "train.max_steps=6",
    "train.log_every_steps=4", "eval=steps", "eval.every_steps=2", "tracking.mode=offline", "tracking.tags=[one,two]",
    "tracking.notes=why", "run_dir=run",
]  # fmt: skip
SUBSETS = ("list", "mention", "refuse", "sum")
OF_SUBSETS = ("accuracy", "accuracy_ci_low", "accuracy_ci_high", "loss", "margin", "num_pairs")
MODEL_FILES = {
    "MANIFEST.json", "README.md", "chat_template.jinja", "config.json", "config.yaml", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json", "training_args.bin",
}  # fmt: skip
PLOTS = {f"plots/{name}.png" for name in ("training", "rewards", "margins", "calibration", "length", "subsets")}
STATE_FILES = {"state/optimizer.safetensors", "state/processes.safetensors", "state/trainer.json"}
# Mean of a whole evaluation set.
EVAL_KEYS = {
    "loss", "objective", "accuracy", "ties", "margin", "min_reward", "mean_reward", "max_reward", "std_reward",
    "mean_chosen_reward", "mean_rejected_reward", "accuracy_ci_low", "accuracy_ci_high", "ece", "brier",
    "length_correlation", "length_controlled_accuracy", "accuracy_chosen_shorter", "accuracy_chosen_longer",
    "pick_longest", "num_pairs",
}  # fmt: skip
TRAIN_KEYS = {
    "loss", "accuracy", "margin", "min_reward", "mean_reward", "max_reward", "mean_chosen_reward",
    "mean_rejected_reward", "grad_norm", "lr", "epoch", "pairs_per_second", "tokens_per_second", "seconds_per_step",
    "total_pairs", "total_tokens",
}  # fmt: skip
COLUMNS = [
    "id", "prompt_id", "pair_id", "subset", "reward_chosen", "reward_rejected", "margin", "target_margin", "weight",
    "label", "num_tokens_chosen", "num_tokens_rejected", "num_chars_chosen", "num_chars_rejected", "truncated_chosen",
    "truncated_rejected", "group", "answer_chosen", "answer_rejected",
]  # fmt: skip


def python(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {
        "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "NETRC": "/nonexistent",
    }  # fmt: skip
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def digests(directory: Path) -> dict[str, str]:
    """Every path, with the SHA-256 of files and the target of links."""
    found = {}
    for path in sorted(directory.rglob("*")):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        link = os.readlink(path) if path.is_symlink() else ""
        found[path.relative_to(directory).as_posix()] = hashlib.sha256(content).hexdigest() + link
    return found


@dataclasses.dataclass
class Run:
    cwd: Path
    stdout: str
    stderr: str

    @property
    def path(self) -> Path:
        return self.cwd / "run"

    @property
    def final(self) -> Path:
        return self.path / "final"

    def lines(self, kind: str) -> list[dict[str, Any]]:
        text = (self.path / "metrics.jsonl").read_text(encoding="utf-8")
        return [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]

    def records(self, step: int) -> dict[str, np.ndarray]:
        table = pyarrow.parquet.read_table(self.path / "eval" / f"step_{step:08d}" / "eval.parquet")
        assert table.column_names == COLUMNS
        return {name: table[name].to_numpy() for name in COLUMNS}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    cwd = tmp_path_factory.mktemp("real_run")
    done = python(cwd, "rm_experiments", *OVERRIDES)
    assert done.returncode == 0, done.stderr
    return Run(cwd, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def eval_pairs() -> list[PreferencePair]:
    return generate(SandboxConfig(num_train_pairs=200, num_eval_pairs=60)).eval


def test_the_run_leaves_exactly_the_files_of_the_contract(run: Run) -> None:
    best = max(run.lines("eval"), key=lambda line: line["eval_accuracy"])["step"]
    kept = {4, 6, best}
    expected = {
        "config.yaml", "environment.json", "metrics.jsonl", "summary.json", "data_report.json", *PLOTS,
    }  # fmt: skip
    expected |= {f"eval/step_{step:08d}/eval.parquet" for step in (0, 2, 4, 6)}
    expected |= {f"checkpoints/step_{step:08d}/{name}" for step in kept for name in MODEL_FILES | STATE_FILES}
    expected |= {f"final/{name}" for name in MODEL_FILES | PLOTS | {"probe.jsonl"}}

    # A checkpoint's pictures are drawn when that takes little of the run's time.
    found = {name for name in files(run.path) if not name.startswith("wandb/")}
    assert {name for name in found if not (name.startswith("checkpoints/") and "/plots/" in name)} == expected
    assert sorted(path.name for path in run.cwd.iterdir()) == ["run"]


def test_the_links_of_the_checkpoints_are_relative_and_lead_to_whole_directories(run: Run) -> None:
    evaluations = run.lines("eval")
    best = max(evaluations, key=lambda line: line["eval_accuracy"])["step"]
    checkpoints = run.path / "checkpoints"

    assert os.readlink(checkpoints / "last") == "step_00000006"
    assert os.readlink(checkpoints / "best") == f"step_{best:08d}"
    for name in ("best", "last"):
        verify_directory(checkpoints / name)


def test_pictures_of_checkpoints_take_a_twentieth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, drawn = [100.0], []
    monkeypatch.setattr("rm_experiments.runner.artifacts.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(Artifacts, "metrics_log", SimpleNamespace(read=lambda: []))

    def draw(*_: Any) -> list[Path]:
        drawn.append(clock[0])
        clock[0] += 2.0
        return [Path(f"{len(drawn)}.png")]

    monkeypatch.setattr("rm_experiments.reporting.plots.write_plots", draw)
    whatever: Any = SimpleNamespace(path=Path(), splits=SimpleNamespace(best_achievable_accuracy=None))
    artifacts = Artifacts(
        config=whatever, run_dir=whatever, prepared=whatever, built=whatever, adapter=None, accelerator=whatever,
        batcher=whatever, started=100.0,
    )  # fmt: skip
    found = []
    for now in (101.0, 159.9, 160.0, 201.9, 202.0):
        clock[0] = now
        found.append([str(path) for path in artifacts.recent_plots()])
    # With the imports it is taken to need 3 s, so 60 s after the start; then it took 2 s, so 40 s after that.
    assert drawn == [160.0, 202.0]
    assert found == [[], [], ["1.png"], ["1.png"], ["2.png"]]
    clock[0] = 205.0
    assert [str(path) for path in artifacts.write_plots()] == ["3.png"]


def test_only_the_newest_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "id")
    for step in (1, 2, 3, 4, 5):
        store.save(step, lambda directory: (directory / "weights").write_text("x") and None)
        if step == 2:
            store.link_best(step)
        store.rotate(keep_last=2)

    assert store.steps() == [2, 4, 5]
    assert os.readlink(tmp_path / "checkpoints" / "best") == "step_00000002"
    assert os.readlink(tmp_path / "checkpoints" / "last") == "step_00000005"


def test_metrics_have_the_keys_of_the_contract_at_the_steps_of_the_schedule(run: Run) -> None:
    evaluations, training = run.lines("eval"), run.lines("train")
    of_subsets = {f"{subset}_{name}" for subset in SUBSETS for name in OF_SUBSETS}

    assert [line["step"] for line in evaluations] == [0, 2, 4, 6]
    assert [line["step"] for line in training] == [4, 6]
    for line in evaluations:
        keys = {"eval_" + name for name in EVAL_KEYS | of_subsets}
        # Rewards that are no better than chance fit no temperature.
        assert set(line) - {"eval_temperature"} == keys | {"step", "kind", "eval_seconds"}
    for line in training:
        assert set(line) == {"train_" + name for name in TRAIN_KEYS} | {"step", "kind"}
    assert [line["train_total_pairs"] for line in training] == [64.0, 96.0]


def test_logged_metrics_are_functions_of_the_records(run: Run) -> None:
    for line in run.lines("eval"):
        records = run.records(line["step"])
        chosen, rejected = records["reward_chosen"], records["reward_rejected"]
        margin, rewards = chosen - rejected, np.concatenate([chosen, rejected])

        np.testing.assert_array_equal(records["margin"], margin)
        assert line["eval_accuracy"] == np.mean(margin > 0)
        assert line["eval_ties"] == np.mean(margin == 0)
        assert line["eval_loss"] == np.mean(np.logaddexp(0.0, -margin))
        assert line["eval_objective"] == pytest.approx(line["eval_loss"], abs=1e-12)
        assert line["eval_margin"] == np.mean(margin)
        assert (line["eval_min_reward"], line["eval_max_reward"]) == (rewards.min(), rewards.max())
        assert line["eval_mean_reward"] == np.mean(rewards)
        assert line["eval_mean_chosen_reward"] == np.mean(chosen)
        assert line["eval_mean_rejected_reward"] == np.mean(rejected)
        assert line["eval_std_reward"] == pytest.approx(np.std(rewards), abs=1e-12)
        assert line["eval_brier"] == pytest.approx(np.mean((1 / (1 + np.exp(margin))) ** 2), abs=1e-12)
        assert line["eval_num_pairs"] == len(margin) == 60
        for subset in SUBSETS:
            part = margin[records["subset"] == subset]
            assert line[f"eval_{subset}_accuracy"] == np.mean(part > 0)
            assert line[f"eval_{subset}_loss"] == np.mean(np.logaddexp(0.0, -part))
            assert line[f"eval_{subset}_num_pairs"] == len(part) == 15


def test_records_describe_the_pairs_of_the_evaluation_set_in_order(run: Run, eval_pairs: list[PreferencePair]) -> None:
    records = run.records(6)

    assert records["id"].tolist() == [pair.id for pair in eval_pairs]
    assert records["subset"].tolist() == [pair.subset for pair in eval_pairs]
    assert records["prompt_id"].tolist() == [prompt_id(pair) for pair in eval_pairs]
    assert records["pair_id"].tolist() == [pair_id(pair) for pair in eval_pairs]
    assert records["num_chars_chosen"].tolist() == [len(pair.chosen) for pair in eval_pairs]
    assert records["num_chars_rejected"].tolist() == [len(pair.rejected) for pair in eval_pairs]
    assert set(records["weight"]) == {1.0}
    assert set(records["target_margin"]) == {0.0}
    assert not records["truncated_chosen"].any()
    assert not records["truncated_rejected"].any()


def test_the_reward_changes_between_the_steps(run: Run) -> None:
    first, last = run.records(0)["reward_chosen"], run.records(6)["reward_chosen"]

    assert np.abs(first - last).max() > 1e-3


def test_plain_transformers_gives_the_measured_rewards(run: Run, eval_pairs: list[PreferencePair]) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.final)
    model = AutoModelForSequenceClassification.from_pretrained(run.final, num_labels=1).eval()
    records = run.records(6)
    probe = [json.loads(line) for line in (run.final / "probe.jsonl").read_text(encoding="utf-8").splitlines()]

    assert len(probe) == 8
    for number, pair in enumerate(eval_pairs):
        for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            messages = [*prompt_messages(pair.prompt), *answer_messages(answer)]
            ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
            assert (ids.count(tokenizer.bos_token_id), ids[0]) == (1, tokenizer.bos_token_id)
            assert (ids.count(tokenizer.eos_token_id), ids[-1]) == (1, tokenizer.eos_token_id)
            assert len(ids) == records[f"num_tokens_{side}"][number]
            with torch.inference_mode():
                reward = model(input_ids=torch.tensor([ids])).logits[0, 0].item()
            assert reward == pytest.approx(records[f"reward_{side}"][number], abs=1e-5)
            if number < len(probe):
                assert probe[number][f"input_ids_{side}"] == ids
                assert probe[number][f"reward_{side}"] == pytest.approx(reward, abs=1e-5)


def test_the_last_checkpoint_and_the_final_model_have_the_same_weights(run: Run) -> None:
    last = run.path / "checkpoints" / "last" / "model.safetensors"

    assert (run.final / "model.safetensors").read_bytes() == last.read_bytes()


def test_the_pad_token_is_not_the_scored_token(run: Run) -> None:
    config, special = read_json(run.final / "config.json"), read_json(run.final / "tokenizer_config.json")

    assert config["pad_token_id"] != config["eos_token_id"]
    assert (special["pad_token"], special["eos_token"]) == ("<|pad|>", "<|eos|>")
    assert config["dtype"] == "float32"


@pytest.mark.parametrize("place", ["final", "checkpoints/last", "checkpoints/best"])
def test_training_args_hold_the_config_as_plain_values(run: Run, place: str) -> None:
    import torch

    stored = torch.load(run.path / place / "training_args.bin", weights_only=True)

    assert stored == to_plain(rm_experiments.compose(OVERRIDES))


@pytest.mark.parametrize("place", [".", "final", "checkpoints/last"])
def test_config_yaml_is_that_of_the_config(run: Run, place: str) -> None:
    text = (run.path / place / "config.yaml").read_text(encoding="utf-8")

    assert text == config_yaml(rm_experiments.compose(OVERRIDES))


@pytest.mark.parametrize("place", ["final", "checkpoints/last", "checkpoints/best"])
def test_the_manifest_lists_every_file_as_it_is(run: Run, place: str) -> None:
    directory = run.path / place

    manifest = verify_directory(directory)

    assert set(manifest["files"]) == files(directory) - {"MANIFEST.json"}
    for name, listed in manifest["files"].items():
        content = (directory / name).read_bytes()
        assert listed == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert manifest["run_id"] == read_json(run.path / "environment.json")["run_id"]


def test_the_card_is_one_that_the_hub_reads_and_carries_the_results(run: Run) -> None:
    from huggingface_hub import ModelCard

    latest = run.lines("eval")[-1]

    card = ModelCard.load(run.final / "README.md")

    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-classification")
    assert {"reward-model", "rm_experiments"} <= set(card.data.tags)
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results["eval_accuracy"] == latest["eval_accuracy"]
    assert results["eval_loss"] == latest["eval_loss"]
    assert "from_pretrained(path, num_labels=1)" in card.text
    checkpoint = ModelCard.load(run.path / "checkpoints" / "last" / "README.md")
    assert "step 6 of 6" in checkpoint.text


def test_the_summary_says_how_the_run_ended_and_what_it_reached(run: Run) -> None:
    evaluations = run.lines("eval")
    best = max(evaluations, key=lambda line: line["eval_accuracy"])

    summary = read_json(run.path / "summary.json")

    assert (summary["status"], summary["error"]) == ("finished", None)
    assert (summary["steps"], summary["max_steps"], summary["epochs"]) == (6, 6, 96 / 200)
    for key, line in (("final", evaluations[-1]), ("best", best)):
        assert summary[key] == {
            name: value for name, value in line.items() if name not in ("step", "kind", "eval_seconds")
        }
    assert summary["best_step"] == best["step"]
    assert summary["num_train_pairs"] == 200
    world = generate(SandboxConfig(num_train_pairs=200, num_eval_pairs=60))
    assert summary["best_achievable_accuracy"] == world.best_achievable_accuracy
    assert summary["peak_memory_mb"] > 0


def test_what_is_off_is_in_the_summary_the_terminal_and_the_card(run: Run) -> None:
    found = read_json(run.path / "summary.json")["sanity"]
    card = (run.final / "README.md").read_text(encoding="utf-8")

    assert isinstance(found, list)
    assert "swapped_sides" not in {one["kind"] for one in found}
    for one in found:
        where = f"{one['eval_set']}: " if one["eval_set"] else ""
        assert f"{one['severity'].capitalize()}: {where}{one['sentence']}" in run.stdout.splitlines()
    section = card.split("## Sanity checks")[1].split("\n## ")[0]
    assert section.count("\n* **") == len(found)
    assert ("Nothing was found." in section) == (not found)
    checkpoint = (run.path / "checkpoints" / "last" / "README.md").read_text(encoding="utf-8")
    assert "## Sanity checks" not in checkpoint


def test_a_finding_reaches_the_summary_the_terminal_and_the_card_of_the_final_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Finding(kind="swapped_sides", severity="serious", sentence="3 of 8 pairs | get other rewards")
    asked = []

    def probe(pairs: TokenizedPairs, measure: Any, precision: str) -> list[Finding]:
        asked.append((len(measure(pairs.first(2))["margin"]), precision))
        return [broken]

    monkeypatch.setattr("rm_experiments.runner.final.swapped_probe", probe)
    overrides = [
        f"run_dir={tmp_path / 'run'}", "tracking=none", "train.device=cpu", "train.max_steps=1",
        "data.sandbox.num_train_pairs=20", "data.sandbox.num_eval_pairs=8",
    ]  # fmt: skip
    rm_experiments.train(rm_experiments.compose(overrides))

    assert asked == [(2, "fp32")]
    assert read_json(tmp_path / "run" / "summary.json")["sanity"][0] == broken.plain()
    assert "Serious: 3 of 8 pairs | get other rewards" in capsys.readouterr().out.splitlines()
    card = (tmp_path / "run" / "final" / "README.md").read_text(encoding="utf-8")
    assert "* **Serious** (swapped sides): 3 of 8 pairs \\| get other rewards." in card


def test_the_data_report_counts_what_was_read(run: Run) -> None:
    splits = read_json(run.path / "data_report.json")["splits"]

    for name, pairs in (("train", 200), ("eval", 60)):
        assert (splits[name]["rows_read"], splits[name]["kept"]) == (pairs, pairs)
        assert splits[name]["dropped_overlength"] == 0


def test_the_environment_says_how_the_run_was_started(run: Run) -> None:
    environment = read_json(run.path / "environment.json")

    assert environment["command"] == ["rm-train", *OVERRIDES]
    assert environment["working_directory"] == str(run.cwd)
    assert {"python", "torch", "transformers", "rm_experiments"} <= set(environment["versions"])
    assert environment["git_commit"] is None


def test_the_closing_words_name_the_result_and_where_it_is(run: Run) -> None:
    accuracy = run.lines("eval")[-1]["eval_accuracy"]

    assert f"Accuracy {accuracy:.4f} on 60 pairs" in run.stdout
    achievable = generate(SandboxConfig(num_train_pairs=200, num_eval_pairs=60)).best_achievable_accuracy
    assert f"Best achievable {achievable:.4f} on this data" in run.stdout
    assert "Model        run/final" in run.stdout
    assert "W&B: offline; upload with  wandb sync run/wandb/offline-run-" in run.stdout


@pytest.fixture(scope="session")
def wandb_records(run: Run) -> list[dict[str, Any]]:
    """What W&B wrote, record by record."""
    (path,) = (run.path / "wandb").glob("offline-run-*-real-*/run-real-*.wandb")
    done = python(run.cwd, "wandb", "leet", "inspect", "--json", str(path))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def content(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]


def test_wandb_holds_the_config_nested(run: Run, wandb_records: list[dict[str, Any]]) -> None:
    (first,) = content(wandb_records, "run")
    config = first["config"]["update"]

    expected = to_plain(rm_experiments.compose(OVERRIDES))
    # An empty mapping leaves no trace in the file.
    expected["data"].pop("eval_sets")
    config["data"].pop("eval_sets", None)
    assert {key: config[key] for key in expected} == expected
    assert (config["run"]["max_steps"], config["run"]["num_train_pairs"]) == (6, 200)
    assert (first["display_name"], first["job_type"], first["project"]) == ("real", "train", "rm_experiments")
    said = ("one", "two", "seed=1", "data.sandbox.num_train_pairs=200", "eval=steps", "eval.every_steps=2")
    assert set(said) <= set(first["tags"])
    assert not [one for one in first["tags"] if one.startswith(("tracking", "run_dir", "name="))]
    assert first["notes"] == "why"


def test_wandb_holds_every_metric_against_global_step(run: Run, wandb_records: list[dict[str, Any]]) -> None:
    history = [record["item"] for record in content(wandb_records, "history")]
    logged = {
        kind: {
            item["global_step"]: {key: value for key, value in item.items() if key.startswith(f"{kind}/")}
            for item in history
            if f"{kind}/loss" in item
        }
        for kind in ("eval", "train")
    }

    for kind in ("eval", "train"):
        for line in run.lines(kind):
            step = line.pop("step")
            values = {key: value for key, value in line.items() if key not in ("kind", "eval_seconds")}
            expected = {key.replace("_", "/", 1): value for key, value in values.items()}
            assert logged[kind][step] == pytest.approx(expected, rel=1e-12)
    assert set(logged["eval"]) == {0, 2, 4, 6}
    metrics = content(wandb_records, "metric")
    assert [one.get("name") or one["glob_name"] for one in metrics] == ["global_step", "*"]
    assert metrics[1]["step_metric"] == "global_step"


def test_wandb_holds_distributions_examples_and_the_exit_code(wandb_records: list[dict[str, Any]]) -> None:
    items = [record["item"] for record in content(wandb_records, "history")]
    named = {key.split(".")[0] for item in items for key in item}

    assert {"eval/rewards_chosen", "eval/rewards_rejected", "eval/most_wrong_pairs"} <= named
    assert {one.removesuffix(".png") for one in PLOTS} <= named
    # A zero leaves no trace in the file.
    (end,) = content(wandb_records, "exit")
    assert end.get("exit_code", 0) == 0


def test_wandb_holds_the_pictures_once_as_they_are(run: Run) -> None:
    (media,) = (run.path / "wandb").glob("offline-run-*/files/media/images/plots")

    # W&B adds its own step and a hash to each name.
    stored = {path.name.split("_")[0]: path.read_bytes() for path in media.iterdir()}
    assert len(list(media.iterdir())) == len(PLOTS)
    assert stored == {Path(name).stem: (run.path / name).read_bytes() for name in PLOTS}


def test_a_finished_run_is_left_as_it_is(run: Run) -> None:
    before = digests(run.path)

    done = python(run.cwd, "rm_experiments", *OVERRIDES)

    assert (done.returncode, done.stdout) == (0, "run is already complete; nothing was done.\n")
    assert digests(run.path) == before


@pytest.fixture
def here(run: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(run.cwd)
    return run.path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            "optimizer.lr=0.01",
            "optimizer.lr=0.01: the run in run_dir=run has optimizer.lr=0.0015; "
            "type optimizer.lr=0.0015 to go on with it, allow_changes=[optimizer.lr] to go on with another, or choose "
            "another run_dir",
        ),
        (
            "seed=2",
            "seed=2: the run in run_dir=run has seed=1; type seed=1 to go on with it, allow_changes=[seed] to go on "
            "with another, or choose another run_dir",
        ),
        (
            "resume=never",
            "run_dir=run: already holds a run and resume=never; choose another run_dir, or resume=auto",
        ),
    ],
)
def test_a_run_directory_is_not_taken_by_another_config(here: Path, changed: str, message: str) -> None:
    before = digests(here)

    with pytest.raises(ConfigError) as caught:
        rm_experiments.train(rm_experiments.compose([*OVERRIDES, changed]))

    assert str(caught.value) == message
    assert digests(here) == before


@pytest.mark.parametrize("changed", ["tracking.mode=auto", "train.log_every_steps=5", "checkpoint.keep_last=3"])
def test_settings_that_do_not_change_the_result_may_differ(here: Path, changed: str) -> None:
    before = digests(here)

    result = rm_experiments.train(rm_experiments.compose([*OVERRIDES, changed]))

    assert (result.status, result.exit_code) == ("finished", 0)
    assert result.metrics["eval_num_pairs"] == 60
    assert digests(here) == before


@pytest.mark.parametrize(("holder", "shown"), [("", "another process"), ("process 7 on box", "process 7 on box")])
def test_a_directory_that_another_process_writes_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: str, shown: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    config = rm_experiments.compose([
        "run_dir=taken", "tracking=none", "data.sandbox.num_train_pairs=20", "data.sandbox.num_eval_pairs=8",
        "train.device=cpu",
    ])  # fmt: skip

    with (tmp_path / "taken" / ".lock").open("w") as lock:
        lock.write(holder)
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError) as caught:
            rm_experiments.train(config)

    assert str(caught.value) == (f"run_dir=taken: is being written by {shown}; wait for it, or choose another run_dir")
    assert [path.name for path in (tmp_path / "taken").iterdir()] == [".lock"]
    assert (tmp_path / "taken" / ".lock").read_text() == holder


def test_unnamed_runs_of_the_same_second_get_directories_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rm_experiments.runner import run_dir

    monkeypatch.chdir(tmp_path)
    config = rm_experiments.compose(["name=twins"])
    claimed = []

    class Clock(run_dir.datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr(run_dir.datetime, "datetime", Clock)
    for _ in range(3):
        one = run_dir.RunDir(config)
        one.claim()
        one.record()
        one.release()
        claimed.append(one.path.as_posix())

    stem = "outputs/twins/2026-01-02_03-04-05"
    assert claimed == [stem, f"{stem}_2", f"{stem}_3"]
    assert yaml.safe_load((tmp_path / claimed[2] / "config.yaml").read_text(encoding="utf-8"))["name"] == "twins"
