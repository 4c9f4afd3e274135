"""`rm-compare` as a user meets it, over run directories that are written by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rm_experiments.cli import compare as command
from rm_experiments.evaluation.records import COLUMNS, Records, write_records

NUM_PAIRS = 120


def some_records(seed: int, mean: float, count: int = NUM_PAIRS) -> Records:
    margin = np.random.default_rng(seed).normal(mean, 1, count)
    ids = [f"{number:04d}" for number in range(count)]
    values: dict[str, Any] = {
        "id": ids, "prompt_id": [f"{one:016x}" for one in range(count)],
        "pair_id": [f"{one + 999:016x}" for one in range(count)],
        "subset": ["odd" if one % 2 else "even" for one in range(count)], "reward_chosen": margin,
        "reward_rejected": np.zeros(count), "margin": margin, "target_margin": np.zeros(count),
        "weight": np.ones(count), "label": np.ones(count), "num_tokens_chosen": [3] * count,
        "num_tokens_rejected": [3] * count,
        "num_chars_chosen": [9 + one % 3 for one in range(count)], "num_chars_rejected": [10] * count,
        "truncated_chosen": [False] * count, "truncated_rejected": [False] * count,
    }  # fmt: skip
    text = ("id", "prompt_id", "pair_id", "subset")
    return {name: np.array(values[name], dtype=object if name in text else None) for name in COLUMNS}


def a_run(path: Path, lr: float, seed: int, mean: float, status: str = "finished", **more: Any) -> Path:
    path.mkdir(parents=True)
    config = {
        "defaults": [],
        "name": path.name,
        "seed": seed,
        "optimizer": {"lr": lr},
        "train": {"layout": path.name},
        **more,
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    summary = {"status": status, "best_step": 10, "seconds": 1.5, "error": None if status == "finished" else "boom"}
    (path / "summary.json").write_text(json.dumps(summary))
    numbers = {"eval_accuracy": 0.5, "eval_accuracy_ci_low": 0.4, "eval_accuracy_ci_high": 0.6}
    lines = [{"step": step, "kind": "eval", "eval_loss": 0.7 - step / 100, **numbers} for step in (10, 20)]
    if status == "finished":
        for step in (10, 20):
            write_records(
                some_records(1000 * seed + step, mean * step / 20), path / "eval" / f"step_{step:08d}" / "eval.parquet"
            )
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3')
    return path


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of two learning rates and two seeds, one job of which failed."""
    for number, (lr, seed, mean) in enumerate([(0.1, 1, 0.1), (0.1, 2, 0.1), (0.001, 1, 1.5), (0.001, 2, 1.5)]):
        a_run(tmp_path / "sweep" / str(number), lr, seed, mean)
    a_run(tmp_path / "sweep" / "4", 0.5, 1, 0, status="failed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def rm_compare(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["rm-compare", *arguments])
    try:
        command.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def written(directory: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((directory / "compare.json").read_text())
    return values


def test_a_sweep_is_ranked_by_config_with_its_seeds(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rm_compare(monkeypatch, "sweep", "output_dir=out") == 0
    found = written(cwd / "out")
    assert found["options"] == ["optimizer.lr", "seed"]
    assert [one["label"] for one in found["runs"]] == [
        "lr=0.1 seed=1", "lr=0.1 seed=2", "lr=0.001 seed=1", "lr=0.001 seed=2",
    ]  # fmt: skip
    assert [(one["label"], one["runs"]) for one in found["groups"]] == [("lr=0.1", [0, 1]), ("lr=0.001", [2, 3])]
    assert [one["places"]["eval"] for one in found["groups"]] == [[2, 2], [1, 1]]
    accuracy = next(one for one in found["comparisons"] if one["metric"] == "accuracy" and one["subset"] is None)
    means = [
        np.mean([(some_records(1000 * seed + 20, mean)["margin"] > 0).mean() for seed in (1, 2)]) for mean in (0.1, 1.5)
    ]
    assert accuracy["difference"] == pytest.approx(means[1] - means[0])
    assert accuracy["different"]
    assert accuracy["seeds_counted"]
    assert {one["subset"] for one in found["comparisons"]} == {None, "even", "odd"}
    assert found["runs"][0]["curves"]["eval"]["step"] == [10, 20]
    assert len(found["rows"]["eval"]) == len(found["runs"][0]["margins"]["eval"]) == NUM_PAIRS
    assert found["notes"][0] == "sweep/4: left out, failed without an evaluation (boom)"
    page = (cwd / "out" / "compare.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    out = capsys.readouterr().out
    assert out.startswith("Best on eval: B lr=0.001, surely better than all others.\n")
    assert max(map(len, out.split("Note:")[0].splitlines())) <= 140
    assert all(len(line) <= 100 for line in out.splitlines() if line[:5] in ("Place", "eval ", "    1", "    2"))


def test_two_seeds_of_one_config_are_not_called_different(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rm_compare(monkeypatch, "sweep/0", "sweep/1", "output_dir=out", "html=false") == 0
    found = written(cwd / "out")
    assert len(found["groups"]) == 1
    assert found["comparisons"] == []
    assert not (cwd / "out" / "compare.html").exists()
    assert capsys.readouterr().out.startswith("One config, 2 seeds: they differ by chance.\n")
    assert rm_compare(monkeypatch, "sweep/0", "sweep/1", "output_dir=out2", "html=false", "group_by=run") == 0
    assert len(written(cwd / "out2")["comparisons"]) == 4


def test_the_evaluation_that_counts(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at, step in (("last", 20), ("best", 10), ("10", 10), ("final", 20)):
        assert rm_compare(monkeypatch, "sweep/0", "sweep/2", f"at={at}", f"output_dir=at_{at}", "html=false") == 0
        assert [one["step"] for one in written(cwd / f"at_{at}")["runs"]] == [step, step]


def test_models_of_one_run_are_candidates_of_their_own(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (10, 20):
        model = cwd / "sweep" / "2" / "checkpoints" / f"step_{step:08d}"
        model.mkdir(parents=True)
        (model / "MANIFEST.json").write_text(json.dumps({"step": step, "files": {}}))
    names = [f"sweep/2/checkpoints/step_{step:08d}" for step in (10, 20)]
    assert rm_compare(monkeypatch, *names, "output_dir=out", "html=false") == 0
    found = written(cwd / "out")
    assert [one["step"] for one in found["runs"]] == [10, 20]
    assert len(found["groups"]) == 2


def test_other_rows_are_refused_and_common_ones_compared(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(some_records(5, 1.0, 50), cwd / "sweep" / "2" / "eval" / "step_00000020" / "eval.parquet")
    assert rm_compare(monkeypatch, "sweep/0", "sweep/2", "output_dir=out") == 2
    error = capsys.readouterr().err
    assert error == (
        "rm-compare: eval: different rows: sweep/0 has 120 pairs, sweep/2 50, and 50 are the same; evaluate both on "
        "one set with rm-eval, or compare what they share with rows=common\n"
    )
    assert not (cwd / "out").exists()
    assert rm_compare(monkeypatch, "sweep/0", "sweep/2", "output_dir=out", "rows=common", "html=false") == 0
    assert written(cwd / "out")["sets"][0]["num_pairs"] == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no directory was named; type rm-compare DIR [DIR ...], each a run, a sweep or a checkpoint"),
        (["nothere"], "nothere: no such directory; name a run, a sweep or a checkpoint"),
        (["sweep", "sets=other"], "sets=other: 2 of the runs must have this set; they share eval"),
        (["sweep", "at=7"], "sweep/0: has no evaluation at step 7, but at 10, 20; try at=last"),
        (["sweep", "at=x"], "at=x: allowed are final, best, last, or the number of a step; try at=final"),
        (["sweep", "num_resamples=10"], "num_resamples=10: must be at least 1000; try num_resamples=10000"),
        (["sweep", "set=eval"], "set is not a key; did you mean sets?"),
        (["html=false", "sweep"], "sweep: directories come first, settings after, as in rm-compare sweep key=value"),
        (["sweep/4"], "sweep/4: holds no evaluation; evaluate its model with rm-eval checkpoint=sweep/4"),
        (["--multirun", "sweep"], "--multirun: rm-compare has no sweeps; leave it out"),
    ],
)
def test_a_wrong_input_is_one_line_and_leaves_nothing(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = sorted(path.name for path in cwd.iterdir())
    assert rm_compare(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err == f"rm-compare: {message}\n"
    assert sorted(path.name for path in cwd.iterdir()) == before


def test_names_of_directories_may_hold_anything(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "it's, [a] run \u00fc"
    a_run(cwd / name, 0.3, 1, 1.0)
    assert rm_compare(monkeypatch, name, "sweep/0", "output_dir=out", "html=false") == 0
    assert [one["path"] for one in written(cwd / "out")["runs"]] == [name, "sweep/0"]


def test_the_baseline_is_compared_with_all_others(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rm_compare(monkeypatch, "sweep", "group_by=run", "baseline=sweep/3", "output_dir=out", "html=false") == 0
    pairs = {(one["a"], one["b"]) for one in written(cwd / "out")["comparisons"]}
    assert {(3, 0), (3, 1), (3, 2)} <= pairs


def test_nothing_of_torch_is_imported(cwd: Path) -> None:
    code = (
        "import sys; sys.argv = ['rm-compare', 'sweep', 'output_dir=out']\n"
        "from rm_experiments.cli.compare import main\nmain()\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=cwd, check=True, capture_output=True)
