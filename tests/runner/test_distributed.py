"""Several processes give one run directory and the numbers of one process."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

import rm_experiments

# Neither the batches nor the evaluation pairs can be dealt out evenly, and one batch is a single pair.
OVERRIDES = [
    "run_dir=run", "train.max_steps=4", "train.batch_size=5", "train.log_every_steps=2", "eval=start_end",
    "checkpoint.every_steps=4", "checkpoint.keep_best=false", "data.sandbox.num_train_pairs=11",
    "data.sandbox.num_eval_pairs=21", "model.scratch.hidden_size=16", "model.scratch.intermediate_size=32",
    "model.scratch.num_heads=2", "model.scratch.num_kv_heads=1", "model.scratch.vocab_size=320", "tracking=none",
    "train.device=cpu",
]  # fmt: skip
WALL_CLOCK = {"train_pairs_per_second", "train_tokens_per_second", "train_seconds_per_step", "eval_seconds"}
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "rm_experiments"]
COMMANDS = {
    "torchrun": [*TORCHRUN, *OVERRIDES],
    "launch=accelerate": ["rm_experiments", *OVERRIDES, "launch=accelerate"],
}

pytestmark = pytest.mark.slow


def python(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {
        "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "NETRC": "/nonexistent",
    }  # fmt: skip
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def metrics(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in WALL_CLOCK} for line in lines]


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one process."""
    path = tmp_path_factory.mktemp("alone") / "run"
    result = rm_experiments.train(rm_experiments.compose([*OVERRIDES, f"run_dir={path}"]))
    assert result.status == "finished"
    return path


@dataclasses.dataclass
class Several:
    cwd: Path
    done: subprocess.CompletedProcess[str]

    @property
    def path(self) -> Path:
        return self.cwd / "run"


# The second starts the same processes by another program.
_PARAMS = [COMMANDS["torchrun"], pytest.param(COMMANDS["launch=accelerate"], marks=pytest.mark.long)]


@pytest.fixture(scope="module", params=_PARAMS, ids=COMMANDS)
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Several:
    """The run on two processes."""
    cwd = tmp_path_factory.mktemp("several")
    return Several(cwd, python(cwd, *request.param))


def test_two_processes_leave_one_run_directory(alone: Path, several: Several) -> None:
    assert several.done.returncode == 0, several.done.stderr
    assert [path.name for path in several.cwd.iterdir()] == ["run"]
    assert files(several.path) == files(alone)
    summary = json.loads((several.path / "summary.json").read_text(encoding="utf-8"))
    assert (summary["status"], summary["steps"]) == ("finished", 4)


def test_two_processes_speak_once(several: Several) -> None:
    assert several.done.stdout.count("Loaded again with plain transformers") == 1
    assert several.done.stderr.count("step 4/4  eval_loss") == 1


def test_two_processes_measure_what_one_does(alone: Path, several: Several) -> None:
    one, two = metrics(alone), metrics(several.path)

    assert [(line["kind"], line["step"]) for line in two] == [("eval", 0), ("train", 2), ("train", 4), ("eval", 4)]
    for expected, line in zip(one, two, strict=True):
        assert line.pop("kind") == expected.pop("kind")
        assert line == pytest.approx(expected, abs=1e-5)
    assert two[-1]["eval_num_pairs"] == 21
    assert [line["train_total_pairs"] for line in two if "train_loss" in line] == [10.0, 16.0]


def test_two_processes_give_every_pair_the_reward_that_one_gives(alone: Path, several: Several) -> None:
    name = "eval/step_00000004/eval.parquet"
    one, two = (pyarrow.parquet.read_table(path / name).to_pydict() for path in (alone, several.path))

    assert len(two["id"]) == 21
    rewards = ("reward_chosen", "reward_rejected", "margin")
    for column in one:
        expected = pytest.approx(one[column], abs=1e-5) if column in rewards else one[column]
        assert two[column] == expected, column


def test_the_checkpoint_holds_the_state_of_every_process(several: Several) -> None:
    from safetensors import safe_open

    state = several.path / "checkpoints" / "last" / "state"

    assert json.loads((state / "trainer.json").read_text(encoding="utf-8"))["num_processes"] == 2
    with safe_open(state / "processes.safetensors", framework="np") as tensors:
        assert {name.partition("/")[0] for name in tensors.keys()} == {"0", "1"}  # noqa: SIM118


@pytest.mark.parametrize(
    ("override", "code", "outcome"),
    [
        (
            "checkpoint.metric=eval_acuracy",
            2,
            {
                "kind": "user",
                "message": "checkpoint.metric=eval_acuracy: not measured in this run; did you mean eval_accuracy?",
            },
        ),
        (
            "launch.num_processes=3",
            1,
            {"kind": "failed", "message": "launch.num_processes=3, but 1 were started"},
        ),
    ],
)
def test_a_process_that_was_started_reports_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, code: int, outcome: dict[str, str]
) -> None:
    from rm_experiments.cli import worker
    from rm_experiments.config.compose import to_plain
    from rm_experiments.launch.processes import JOB_FILE, OUTCOME_FILE

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["worker"])
    overrides = [*OVERRIDES, "launch=accelerate", "launch.num_processes=1", override]
    job = {
        "config": to_plain(rm_experiments.compose(overrides)),
        "sweep_dir": None,
        "command": overrides,
        "starter": os.getpid(),
        "overrides": overrides,
        "swept": [],
    }
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / JOB_FILE).write_text(json.dumps(job), encoding="utf-8")

    assert worker.main(folder) == code

    assert json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8")) == outcome
    assert [path.name for path in tmp_path.iterdir()] == ["job"]
