"""A run whose model is spread over two processes (FSDP2) gives the numbers of one process, and goes on bit for bit."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

import rm_experiments

# Several forward passes a step, of which the processes have different numbers; a step and an evaluation set of a single
# pair, fewer than processes; gradients that are scaled down; weights whose rows cannot be dealt out evenly.
WORLD = [
    "train.max_steps=4", "train.batch_size=7", "train.log_every_steps=1", "train.micro_batch_tokens=200",
    "train.max_grad_norm=0.5", "eval=start_end", "eval.micro_batch_tokens=150", "checkpoint.every_steps=2",
    "checkpoint.keep_best=false", "data.sandbox.num_train_pairs=8", "data.sandbox.num_eval_pairs=21", "tracking=none",
    "train.device=cpu",
]  # fmt: skip
SHAPE = [
    "model.scratch.hidden_size=18", "model.scratch.intermediate_size=33", "model.scratch.num_heads=3",
    "model.scratch.num_kv_heads=1", "model.scratch.vocab_size=321",
]  # fmt: skip
WALL_CLOCK = {"train_pairs_per_second", "train_tokens_per_second", "train_seconds_per_step", "eval_seconds"}
ONE_PAIR = '{"prompt": "What is 2+2?", "chosen": "Four it is.", "rejected": "Five, I believe."}\n'

# Runs one after the other on the same processes; of one that is stopped, the last rank asks for it between the first
# and the second forward pass of the third step.
RANKS = """
import json, os, signal, sys
import rm_experiments
from rm_experiments.launch import ranks
from rm_experiments.training.trainer import Trainer

step = Trainer.step

def stopped(trainer):
    asked, should_stop = [], trainer.should_stop
    def ask():
        asked.append(None)
        if trainer.progress.step == 2 and len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return should_stop()
    if ranks.rank() == 1:
        trainer.should_stop = ask
    taken = step(trainer)
    trainer.should_stop = should_stop
    return taken

ended = {}
for job in json.loads(sys.argv[1]):
    Trainer.step = stopped if job["stop"] else step
    result = rm_experiments.train(rm_experiments.compose(job["overrides"]))
    ended[job["name"]] = [result.status, result.exit_code]
if ranks.rank() == 0:
    open("ended.json", "w").write(json.dumps(ended))
ranks.leave()
"""

pytestmark = pytest.mark.long


def on_ranks(cwd: Path, jobs: dict[str, list[str]], stopped: str = "") -> subprocess.CompletedProcess[str]:
    """Run jobs on two processes; the one that is `stopped` ends in its third step."""
    (cwd / "ranks.py").write_text(RANKS, encoding="utf-8")
    plain = [
        {"name": name, "overrides": [*overrides, "launch.strategy=fsdp"], "stop": name == stopped}
        for name, overrides in jobs.items()
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {
        "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "NETRC": "/nonexistent",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "ranks.py", json.dumps(plain)]
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


def alone(overrides: list[str]) -> None:
    assert rm_experiments.train(rm_experiments.compose(overrides)).status == "finished"


def metrics(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in WALL_CLOCK} for line in lines]


def until_step_2(run: Path, copy: Path) -> None:
    """A copy of a finished run as if it had been killed after its second step."""
    shutil.copytree(run, copy, symlinks=True)
    shutil.rmtree(copy / "final")
    shutil.rmtree(copy / "checkpoints" / "step_00000004")
    (copy / "summary.json").unlink()


@dataclasses.dataclass
class Runs:
    path: Path
    done: subprocess.CompletedProcess[str]

    def one(self, name: str) -> Path:
        return self.path / f"{name}_alone"

    def two(self, name: str) -> Path:
        return self.path / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The same runs on one process and on two."""
    path = tmp_path_factory.mktemp("fsdp")
    (path / "one.jsonl").write_text(ONE_PAIR, encoding="utf-8")
    full = [*WORLD, *SHAPE, f"+data.eval_sets.one={path / 'one.jsonl'}"]
    base = path / "full_alone" / "final"
    lora = [*WORLD, "model=pretrained", f"model.name_or_path={base}", "adapter=lora", "adapter.rank=2"]
    alone([*full, f"run_dir={path / 'full_alone'}"])
    alone([*lora, f"run_dir={path / 'lora_alone'}"])
    until_step_2(path / "full_alone", path / "taken_over")
    jobs = {
        "full": [*full, "run_dir=full"], "lora": [*lora, "run_dir=lora"], "stopped": [*full, "run_dir=stopped"],
        "again": [*full, "run_dir=stopped"], "taken_over": [*full, f"run_dir={path / 'taken_over'}"],
    }  # fmt: skip
    done = on_ranks(path, jobs, stopped="stopped")
    until_step_2(path / "full", path / "whole_again")
    alone([*full, f"run_dir={path / 'whole_again'}"])
    return Runs(path, done)


def test_all_runs_end_and_say_what_a_process_holds(runs: Runs) -> None:
    assert runs.done.returncode == 0, runs.done.stderr[-2000:]
    ended = json.loads((runs.path / "ended.json").read_text(encoding="utf-8"))
    assert ended.pop("stopped") == ["interrupted", 143]
    assert set(map(tuple, ended.values())) == {("finished", 0)}
    # Each holds half, but for odd rows (321 of the embedding, 33 in each MLP, 1 of the head): 161 * 18 + 2 * (9 * 18 +
    # 3 * 18 + 3 * 18 + 9 * 18 + 2 * 17 * 18 + 9 * 33 + 2 * 9) + 9 + 18.
    assert "FSDP: 2 layers spread over 2 processes; the first one holds 5,643 of 11,178 weights." in runs.done.stderr
    assert "FSDP2-wrapped module" not in runs.done.stderr


@pytest.mark.parametrize("name", ["full", "lora"])
def test_two_processes_with_half_of_the_model_each_measure_what_one_does(runs: Runs, name: str) -> None:
    one, two = metrics(runs.one(name)), metrics(runs.two(name))

    assert [(line["kind"], line["step"]) for line in two] == [
        ("eval", 0), ("train", 1), ("train", 2), ("train", 3), ("train", 4), ("eval", 4),
    ]  # fmt: skip
    for expected, line in zip(one, two, strict=True):
        assert line.pop("kind") == expected.pop("kind")
        assert line == pytest.approx(expected, abs=1e-5)
    assert two[-1]["eval_num_pairs"] == 21
    if name == "full":
        assert two[-1]["eval_one_num_pairs"] == 1
        assert [line["train_total_pairs"] for line in two if "train_loss" in line] == [7.0, 8.0, 15.0, 16.0]
        # The norm before it is scaled down to 0.5.
        assert max(line["train_grad_norm"] for line in two if "train_loss" in line) > 0.6


@pytest.mark.parametrize("name", ["full", "lora"])
def test_every_pair_has_the_reward_that_one_process_gives(runs: Runs, name: str) -> None:
    file = "eval/step_00000004/eval.parquet"
    one, two = (pyarrow.parquet.read_table(run / file).to_pydict() for run in (runs.one(name), runs.two(name)))

    rewards = ("reward_chosen", "reward_rejected", "margin")
    for column in one:
        expected = pytest.approx(one[column], abs=1e-5) if column in rewards else one[column]
        assert two[column] == expected, column


@pytest.mark.parametrize(("name", "file"), [("full", "model.safetensors"), ("lora", "adapter_model.safetensors")])
@pytest.mark.parametrize("directory", ["final", "checkpoints/step_00000002"])
def test_saved_weights_are_whole_and_those_of_one_process(runs: Runs, name: str, file: str, directory: str) -> None:
    one, two = (load_file(run / directory / file) for run in (runs.one(name), runs.two(name)))

    assert one.keys() == two.keys()
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
    written = [set(run.joinpath(directory).iterdir()) for run in (runs.one(name), runs.two(name))]
    assert {path.name for path in written[0]} == {path.name for path in written[1]}


def test_plain_transformers_gives_the_rewards_that_were_measured(runs: Runs) -> None:
    from transformers import AutoModelForSequenceClassification

    final = runs.two("full") / "final"
    model = AutoModelForSequenceClassification.from_pretrained(final, num_labels=1)

    for line in (final / "probe.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for side in ("chosen", "rejected"):
            ids = torch.tensor([row[f"input_ids_{side}"]])
            assert model(input_ids=ids).logits.item() == pytest.approx(row[f"reward_{side}"], abs=1e-5)


def test_a_stop_that_one_process_is_asked_for_ends_all_in_the_same_step_and_they_go_on_bit_for_bit(runs: Runs) -> None:
    straight, stopped = runs.two("full"), runs.two("stopped")

    assert "Interrupted at step 2; a checkpoint is in stopped/checkpoints/step_00000002." in runs.done.stdout
    assert metrics(stopped) == metrics(straight)
    names = ["final/model.safetensors", *(f"checkpoints/step_00000004/state/{name}.safetensors" for name in (
        "optimizer_00000_of_00002", "optimizer_00001_of_00002", "processes",
    ))]  # fmt: skip
    for name in names:
        assert (stopped / name).read_bytes() == (straight / name).read_bytes(), name


def test_each_process_writes_its_half_of_the_optimizer_state_and_the_manifest_has_all(runs: Runs) -> None:
    from rm_experiments.training.checkpoints import verify_directory

    checkpoint = runs.two("full") / "checkpoints" / "step_00000004"
    listed = verify_directory(checkpoint)["files"]
    halves = [f"state/optimizer_0000{rank}_of_00002.safetensors" for rank in (0, 1)]
    first, second = (load_file(checkpoint / half) for half in halves)
    whole = load_file(runs.one("full") / "checkpoints" / "step_00000004" / "state" / "optimizer.safetensors")

    assert set(halves) < listed.keys()
    assert "state/optimizer.safetensors" not in listed
    assert first.keys() == whole.keys()
    assert [first["model.model.embed_tokens.weight/exp_avg"].shape, second["model.score.weight/exp_avg"].shape] == [
        (161, 18), (0, 18),
    ]  # fmt: skip
    for key, value in whole.items():
        found = torch.cat([first[key], second[key]]) if value.ndim else first[key]
        torch.testing.assert_close(found, value, rtol=0, atol=1e-5)
    assert not list(checkpoint.parent.glob(".*"))


@pytest.mark.parametrize("name", ["taken_over", "whole_again"])
def test_a_run_goes_on_with_another_number_of_processes(runs: Runs, name: str) -> None:
    """From one process to slices on two, and from two to one, moments included."""
    expected, found = metrics(runs.one("full"))[-1], metrics(runs.path / name)[-1]

    assert found.pop("kind") == expected.pop("kind")
    assert found == pytest.approx(expected, abs=1e-5)
    if name == "taken_over":
        assert "saved by 1 processes, continued by 2: the order of the data is the same" in runs.done.stderr
