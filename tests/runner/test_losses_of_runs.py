"""Runs with losses of the whole step: several processes and sharded models give the numbers of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

import rm_experiments
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import DataError
from rm_experiments.runner.labels import check_labels
from rm_experiments.runner.prepare import prepare

Compose = Callable[..., RunConfig]
FEW = ("data.sandbox.num_train_pairs=40", "data.sandbox.num_eval_pairs=4")
# Rows of four responses, ties among them, whose pairs neither fit into one forward pass nor on one process; the last
# step is a single row.
WORLD = [
    "data=local", "data.train=rows.jsonl", "data.eval=rows.jsonl", "loss=plackett_luce", "train.max_steps=4",
    "train.batch_size=12", "train.log_every_steps=1", "train.micro_batch_tokens=200", "train.layout=padded",
    "eval=start_end", "tracking=none",
    "checkpoint.keep_best=false", "train.device=cpu", "model.scratch.hidden_size=16",
    "model.scratch.intermediate_size=32", "model.scratch.num_heads=2", "model.scratch.num_kv_heads=1",
    "model.scratch.vocab_size=320",
]  # fmt: skip
# What the clock says, and a fit that magnifies rounding.
NOT_COMPARED = {
    "train_pairs_per_second", "train_tokens_per_second", "train_seconds_per_step", "eval_seconds", "eval_temperature",
}  # fmt: skip
RANKS = """
import json, sys
import torch
import rm_experiments
from rm_experiments.launch import ranks
from rm_experiments.modeling.reward_model import RewardModel

forward, graded = RewardModel.forward, []

def full(model, batch):
    # Once, on one process, in the first of several passes that go back, when the loss of the step is known.
    if torch.is_grad_enabled():
        graded.append(None)
        if len(graded) == 1 and ranks.rank() == 1:
            open("refused", "w").close()
            raise torch.OutOfMemoryError("CUDA out of memory")
    return forward(model, batch)

for overrides in json.loads(sys.argv[1]):
    RewardModel.forward = full if "run_dir=memory" in overrides else forward
    assert rm_experiments.train(rm_experiments.compose(overrides)).status == "finished"
ranks.leave()
"""


def write_rows(path: Path, number: int) -> None:
    scores = [[4, 3, 2, 1], [1, 2, 2, 3], [2, 2, 2, 2]]
    rows = [
        {
            "prompt": f"What is {row} and {row}?",
            "responses": [f"It is {row * place}, I would say." + " Yes." * place for place in range(4)],
            "scores": scores[row % 3],
        }
        for row in range(number)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def metrics(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what may differ."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in NOT_COMPARED} for line in lines]


def test_a_ranking_is_known_in_training_and_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", 5)
    config = rm_experiments.compose([*WORLD, "run_dir=run", "train.max_steps=1", "train.batch_size=30", "eval=epochs"])
    assert rm_experiments.train(config).status == "finished"
    records = pyarrow.parquet.read_table(tmp_path / "run" / "eval" / "step_00000001" / "eval.parquet").to_pydict()
    assert records["group"] == [row for row in range(5) for _ in range(6)]
    assert [max(records["answer_chosen"] + records["answer_rejected"]), min(records["answer_chosen"])] == [3, 0]
    train, evaluation = metrics(tmp_path / "run")
    # Before the first update all rewards are nearly 0: three choices, or two and a tie, or ties only.
    assert train["train_loss"] == pytest.approx(evaluation["eval_objective"], abs=0.3)
    assert 0.69 < train["train_loss"] < 1.3
    assert evaluation["eval_objective"] != pytest.approx(evaluation["eval_loss"], abs=0.05)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss=scaled_bradley_terry"], "loss.name=scaled_bradley_terry, but no row has a margin; .* try loss=bradley"),
        (["loss=hinge", "loss.use_margin=true"], "loss.use_margin=true, but no row has a margin; .*use_margin=false"),
    ],
)
def test_a_loss_of_margins_needs_margins(compose: Compose, overrides: list[str], message: str) -> None:
    pairs = prepare(compose(*FEW)).train
    with pytest.raises(DataError, match=f"^data.train: {message}"):
        check_labels(compose(*FEW, *overrides).loss, pairs, "data.train")
    stated = prepare(compose(*FEW, "data.sandbox.strengths=true")).train
    assert check_labels(compose(*FEW, *overrides).loss, stated, "data.train") == []


@pytest.mark.parametrize(
    ("overrides", "notes"),
    [
        (["loss=rao_kupper"], ["Loss: rao_kupper knows ties, but no training pair is one."]),
        (["loss=davidson", "data.sandbox.ties=0.5"], []),
        (
            ["loss=plackett_luce"],
            ["Loss: plackett_luce, but no row has more than two responses, so that it is Bradley-Terry."],
        ),
        (
            ["loss=plackett_luce", "data.sandbox.num_responses=4"],
            ["Loss: plackett_luce; 7 rows have more than two responses."],
        ),
    ],
)
def test_what_the_labels_lack_is_said(compose: Compose, overrides: list[str], notes: list[str]) -> None:
    found = prepare(compose(*FEW, *overrides)).notes
    assert [one for one in found if one.startswith("Loss")] == notes


@pytest.mark.long
def test_two_processes_and_sharded_models_measure_what_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", 7)
    assert rm_experiments.train(rm_experiments.compose([*WORLD, "run_dir=alone"])).status == "finished"
    (tmp_path / "ranks.py").write_text(RANKS, encoding="utf-8")
    strategies = {"ddp": "ddp", "memory": "ddp", "fsdp": "fsdp"}
    jobs = [[*WORLD, f"run_dir={name}", f"launch.strategy={strategy}"] for name, strategy in strategies.items()]
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
    expected = metrics(tmp_path / "alone")
    assert [line["train_total_pairs"] for line in expected if "train_loss" in line] == [12, 24, 36, 42]
    assert (tmp_path / "refused").exists()
    for name in strategies:
        for one, two in zip(expected, metrics(tmp_path / name), strict=True):
            assert two == pytest.approx({**one, "kind": two["kind"]}, abs=1e-5), name
