"""`rm-eval` as a user meets it: its tables, its exit codes, one line for a wrong input and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rm_experiments.cli import evaluate as command
from rm_experiments.evaluation.records import read_records
from tests.cli.typed import exit_code

FAST = ("train.device=cpu", "run_dir=out")


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preferences: list[dict[str, str]]) -> Path:
    """A working directory with data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    Path("rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in preferences), encoding="utf-8")
    Path("full").mkdir()
    Path("full/mine.txt").touch()
    return tmp_path


def rm_eval(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command in this process; its exit code."""
    return exit_code(monkeypatch, command.main, "rm-eval", *arguments)


def contents(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_one_model_has_its_metrics_its_subsets_and_its_breakdown(
    cwd: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"checkpoint={trained_run}", "data.eval=rows.jsonl", "breakdown=[length_difference:2]", *FAST]
    assert rm_eval(monkeypatch, *arguments) == 0
    captured = capsys.readouterr()
    lines = [cells(line) for line in captured.out.splitlines() if line]
    summary = json.loads(Path("out/summary.json").read_text())
    values = {key.removeprefix("eval_"): one for key, one in summary["final"].items()}

    def interval(prefix: str = "") -> list[str]:
        low, high = (values[f"{prefix}accuracy_ci_{end}"] for end in ("low", "high"))
        return [f"{values[f'{prefix}accuracy']:.4f}", f"{low:.3f} to {high:.3f}"]

    assert lines[0] == ["eval: 40 pairs of rows.jsonl"]
    assert lines[1] == ["Accuracy", "95% interval", "Loss", "ECE", "Margin", "Length-controlled", "Length corr."]
    keys = ("loss", "ece", "margin", "length_controlled_accuracy", "length_correlation")
    assert lines[2] == [*interval(), *(f"{values[key]:.3f}" for key in keys)]
    at = lines.index(["Subset", "Pairs", "Accuracy", "95% interval", "Loss"])
    assert lines[at + 1 : at + 3] == [
        [name, "20", *interval(f"{name}_"), f"{values[f'{name}_loss']:.3f}"] for name in ("list", "sum")
    ]
    at = lines.index(["By length_difference:2", "Pairs", "Accuracy", "95% interval", "Loss", "Margin"])
    parts = summary["breakdown"]["eval"]["length_difference:2"]
    assert [one[:3] for one in lines[at + 1 : at + 1 + len(parts)]] == [
        [one["name"], str(one["num_pairs"]), f"{one['accuracy']:.4f}"] for one in parts
    ]
    assert captured.out.splitlines()[-1] == "Numbers  out"
    assert max(map(len, captured.out.splitlines()[:8])) <= 100


def test_several_models_stand_below_each_other_and_can_be_compared(
    cwd: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = trained_run / "checkpoints"
    assert rm_eval(monkeypatch, f"checkpoint={models}", "data.max_eval_pairs=5", *FAST) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "eval: 5 pairs of sandbox world 0" in lines
    start = next(at for at, line in enumerate(lines) if line.startswith("Model "))
    table = " ".join(" ".join(lines[start + 1 :]).split())
    places = [table.replace(" ", "").index(f"step_{step:08d}") for step in (2, 4)]
    assert places == sorted(places)
    assert lines[-1] == "Compare  rm-compare out"
    evaluations = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert [(one["step"], one["eval_num_pairs"]) for one in evaluations] == [(2, 5), (4, 5)]


@pytest.mark.long
def test_two_processes_measure_what_one_does_and_speak_once(cwd: Path, trained_run: Path) -> None:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "rm_experiments.cli.evaluate"]
    arguments = [f"checkpoint={trained_run}", "eval.micro_batch_tokens=300", *FAST]
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("eval: 21 pairs") == done.stdout.count("Numbers  out") == 1
    found, expected = (
        read_records(path / "eval" / "step_00000004" / "eval.parquet") for path in (cwd / "out", trained_run)
    )
    for name, values in expected.items():
        if name in ("reward_chosen", "reward_rejected", "margin"):
            assert found[name] == pytest.approx(values, abs=1e-6)
        else:
            assert found[name].tolist() == values.tolist(), name
    one, two = (
        json.loads((path / "summary.json").read_text(encoding="utf-8"))["final"] for path in (trained_run, cwd / "out")
    )
    assert two == pytest.approx({key: one[key] for key in two}, rel=1e-5, abs=1e-6)
    assert len([key for key in two if key.endswith("_accuracy_ci_low")]) == 5


BREAKDOWN = "'breakdown=[length_difference:5]'; any other column of the data can be its data.columns.subset"
REFUSED: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "checkpoint=null: nothing to evaluate; type checkpoint=DIR, a model directory, run or Hub id"),
    "no such directory": (["checkpoint=./no"], "checkpoint=./no: no such directory; name a model directory, a run or a "
                                               "Hub id"),
    "no match": (["checkpoint=[x*]"], "checkpoint=x*: no model directory matches this pattern"),
    "no model": (["checkpoint=full"], "checkpoint=full: holds no model (config.json or adapter_config.json) and no "
                                      "run"),
    "a mistyped key": (["checkpoint=RUN", "data.evl=1"], "data.evl is not a key; did you mean data.eval?"),
    "a key of training": (["checkpoint=RUN", "+train.lr=1"], "train.lr is not a key; did you mean train?"),
    "a mistyped group": (["checkpoint=RUN", "benchmrk=llmbar"], "benchmrk is not a key; rm-eval --help lists all keys"),
    "a wrong type": (["checkpoint=RUN", "seed=x"], "seed: Value 'x' of type 'str' could not be converted to Integer"),
    "a missing file": (
        ["checkpoint=RUN", "data.eval=row.jsonl"],
        "data.eval=row.jsonl: no such file; did you mean data.eval=rows.jsonl?",
    ),
    "a missing file of a named set": (
        ["checkpoint=RUN", "+data.eval_sets.x.source=row.jsonl"],
        "data.eval_sets.x.source=row.jsonl: no such file; did you mean data.eval_sets.x.source=rows.jsonl?",
    ),
    "a breakdown of one bin": (
        ["checkpoint=RUN", "breakdown=[weight:1]"],
        "breakdown=weight:1: a column (subset, margin, target_margin, weight, num_tokens_chosen, num_tokens_rejected, "
        "num_chars_chosen, num_chars_rejected, length_difference, truncated_chosen, truncated_rejected), or a column "
        f"and 2 or more bins; try {BREAKDOWN}",
    ),
    "a breakdown of texts": (
        ["checkpoint=RUN", "breakdown=[subset:2]"], "breakdown: subset has no numbers to cut into bins; leave :2 out"
    ),
    "a place that is taken": (["checkpoint=RUN", "run_dir=full"], "run_dir=full: is not empty (mine.txt, ...); choose "
                                                                  "another run_dir"),
    "a batch of nothing": (["checkpoint=RUN", "eval.micro_batch_tokens=0"],
                           "eval.micro_batch_tokens=0: must be a whole number of at least 1, or auto"),
    "a sweep": (["--multirun", "checkpoint=RUN", "seed=1,2"], "--multirun: rm-eval has no sweeps; leave it out"),
    "a card on the Hub": (["checkpoint=org/model", "card=true"], "card=true: org/model is no directory, so it has no "
                                                                 "card to write; leave it out"),
    "a model that is nowhere": (
        ["checkpoint=org/model", "data.eval=rows.jsonl"],
        "checkpoint=org/model: no such directory, and HF_HUB_OFFLINE is set and it is not in the cache; name a model "
        "directory, a run or a Hub id",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_input_is_one_line_on_stderr_and_leaves_nothing(
    cwd: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    before = contents(cwd)
    assert rm_eval(monkeypatch, *(one.replace("RUN", str(trained_run)) for one in arguments)) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"rm-eval: {message}\n")
    assert contents(cwd) == before


def test_the_config_is_shown_without_torch(cwd: Path) -> None:
    code = "import sys; from rm_experiments.cli.evaluate import main; main(); print('torch' in sys.modules)"
    for arguments in (["checkpoint=x", "--cfg", "job"], ["--cfg", "job", "checkpoint=x"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == "False"
        assert "checkpoint: x" in done.stdout.splitlines()
