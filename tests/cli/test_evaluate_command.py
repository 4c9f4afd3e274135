"""`rm-eval` on a run of a few steps: the run's own numbers, other data, and wrong inputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rm_experiments
from rm_experiments.cli import evaluate as command
from rm_experiments.config.data_schema import DataConfig, SandboxConfig
from rm_experiments.config.evaluation_data import typed_keys, with_saved
from rm_experiments.evaluation.records import read_records

OVERRIDES = [
    "data.sandbox.num_train_pairs=64", "data.sandbox.num_eval_pairs=40", "data.cache_dir=null", "train.max_steps=4",
    "eval=steps", "eval.every_steps=2", "tracking=none", "data.max_length=60",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluated") / "run"
    rm_experiments.train(rm_experiments.compose([*OVERRIDES, f"run_dir={path}"]))
    return path


def rm_eval(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rm-eval", *arguments])
    try:
        command.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_all_models_of_a_run_have_the_records_that_the_run_measured(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert rm_eval(monkeypatch, f"checkpoint={run / 'checkpoints'}", f"run_dir={out}") == 0
    measured = {line["step"]: line for line in lines(run) if line["kind"] == "eval"}
    found = lines(out)
    assert [line["step"] for line in found] == [2, 4]
    for line in found:
        step = line["step"]
        for key in ("eval_accuracy", "eval_loss", "eval_ece", "eval_accuracy_ci_low", "eval_sum_accuracy"):
            assert line[key] == pytest.approx(measured[step][key], rel=1e-6)
        one, two = (read_records(path / "eval" / f"step_{step:08d}" / "eval.parquet") for path in (run, out))
        assert one["pair_id"].tolist() == two["pair_id"].tolist()
        assert np.abs(one["margin"] - two["margin"]).max() < 1e-6
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["steps"] == 4
    assert (out / "model.yaml").is_file()
    assert (out / "plots" / "calibration.png").is_file()


def test_other_data_a_breakdown_and_the_card(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": f"Add {n} and 1", "chosen": str(n + 1), "rejected": "no" * n, "subset": "x"} for n in range(1, 9)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in (1, 2):
        out = tmp_path / f"out{number}"
        arguments = [
            f"checkpoint={run}",
            f"data.eval={data}",
            "breakdown=[length_difference:2]",
            "card=true",
            f"run_dir={out}",
        ]
        assert rm_eval(monkeypatch, *arguments) == 0
    card = (run / "final" / "README.md").read_text(encoding="utf-8")
    assert card.count("<!-- rm-eval: begin -->") == card.count("## Evaluated on") == 1
    assert "| eval | rows.jsonl" in card or str(data) in card or "rows.jsonl" in card
    assert lines(out)[0]["eval_num_pairs"] == 8
    parts = json.loads((out / "summary.json").read_text())["breakdown"]["eval"]["length_difference:2"]
    assert [part["num_pairs"] for part in parts] == [4, 4]
    assert "By length_difference:2" in capsys.readouterr().out
    # The length limit is the run's.
    assert "max_length: 60" in (out / "config.yaml").read_text()


def test_a_model_of_others_is_evaluated_and_one_without_a_head_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    foreign = tmp_path / "foreign"
    model = AutoModelForSequenceClassification.from_pretrained(run / "final", num_labels=1)
    model.save_pretrained(foreign)
    AutoTokenizer.from_pretrained(run / "final").save_pretrained(foreign)
    assert rm_eval(monkeypatch, f"checkpoint={foreign}") == 2
    assert "does not say what it was evaluated on; type data.eval=FILE, or benchmark=NAME\n" in capsys.readouterr().err
    assert rm_eval(monkeypatch, f"checkpoint={foreign}", f"data.eval={data}", f"run_dir={tmp_path / 'out'}") == 0
    assert lines(tmp_path / "out")[0]["step"] == 0
    headless = tmp_path / "headless"
    model.model.save_pretrained(headless)
    AutoTokenizer.from_pretrained(run / "final").save_pretrained(headless)
    capsys.readouterr()
    assert rm_eval(monkeypatch, f"checkpoint={headless}", f"data.eval={data}", f"run_dir={tmp_path / 'no'}") == 2
    assert f"rm-eval: {headless}: has no reward head, so its rewards would be random" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_two_processes_measure_what_one_does(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    command_line = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", "localhost:0", "-m", "rm_experiments.cli.evaluate", f"checkpoint={run}", f"run_dir={out}",
    ]  # fmt: skip
    done = subprocess.run(command_line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = (read_records(path / "eval" / "step_00000004" / "eval.parquet") for path in (run, out))
    assert one["pair_id"].tolist() == two["pair_id"].tolist()
    assert np.abs(one["margin"] - two["margin"]).max() < 1e-6
    # Said once.
    assert done.stdout.count("eval: 40 pairs") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "checkpoint=null: nothing to evaluate; type checkpoint=DIR, a model directory, run or Hub id"),
        (["checkpoint=./no"], "checkpoint=./no: no such directory; name a model directory, a run or a Hub id"),
        (["checkpoint=x", "data.evl=1"], "data.evl is not a key; did you mean data.eval?"),
        (["checkpoint=x", "data.eval=no.jsonl"], "data.eval=no.jsonl: no such file"),
        (["checkpoint=x", "breakdown=[margin:1]"], "breakdown=margin:1: a column (subset, margin,"),
        (
            ["checkpoint=x", "eval.micro_batch_tokens=0"],
            "eval.micro_batch_tokens=0: must be a whole number of at least 1",
        ),
        (["checkpoint=[x*]"], "checkpoint=x*: no model directory matches this pattern"),
    ],
)
def test_a_wrong_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rm_eval(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"rm-eval: {message}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_keys_that_are_typed_win_over_what_was_saved() -> None:
    assert typed_keys(["data.eval_sets.a.source=x", "+data.max_length=9", "data=local"]) == {
        "data", "data.eval_sets", "data.eval_sets.a", "data.eval_sets.a.source", "data.max_length",
    }  # fmt: skip
    saved = DataConfig(sandbox=SandboxConfig(num_eval_pairs=7), max_length=50, text_as="raw")  # type: ignore[arg-type]
    merged = with_saved(DataConfig(), saved, {"data.max_length"})
    assert merged.sandbox == saved.sandbox
    assert merged.sandbox is not saved.sandbox
    assert (merged.max_length, merged.text_as) == (None, "raw")
    # A source of one's own: only how text is read is the model's.
    own = with_saved(DataConfig(eval="x.jsonl"), saved, {"data", "data.eval"})
    assert (own.sandbox, own.eval, own.max_length) == (None, "x.jsonl", 50)
    assert with_saved(DataConfig(eval="x.jsonl"), None, set()).max_length is None
    # The main set is a file, so training pairs need not be there.
    with_files = with_saved(DataConfig(), DataConfig(train="t.jsonl", eval="e.jsonl"), set())
    assert (with_files.train, with_files.eval) == (None, "e.jsonl")
