"""Benchmarks as evaluation sets of a run: their scores beside the metrics, and refused before the run trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rm_experiments import train
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import DataError
from rm_experiments.evaluation.benchmarks import BENCHMARKS
from rm_experiments.evaluation.records import read_records
from rm_experiments.runner.prepare import prepare

SETS = (
    "benchmark=[sandbox_best_of_n,llmbar]",
    "data.eval_sets.sandbox_best_of_n.source='sandbox:best_of_n:prompts=4,answers=4'",
)


def llmbar(path: Path, names: tuple[str, ...]) -> str:
    rows = [{"prompt": f"{name}?", "chosen": "yes, it is", "rejected": "no", "subset": name} for name in names]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data.eval_sets.llmbar.source={path}"


def test_a_run_scores_its_benchmarks(tmp_path: Path, compose: Callable[..., RunConfig]) -> None:
    names = ("natural", "adver_neighbor", "adver_gptinst", "adver_gptout", "adver_manual")
    source = llmbar(tmp_path / "llmbar.jsonl", names)
    run_dir = tmp_path / "run"
    config = compose(
        *SETS, source, f"run_dir={run_dir}", "train.max_steps=1", "train.batch_size=4", "eval=start_end",
        "checkpoint.metric=eval_llmbar_score", "objective=eval_sandbox_best_of_n_score",
    )  # fmt: skip
    assert train(config).status == "finished"

    final = json.loads((run_dir / "summary.json").read_text())["final"]
    for name, rule in (("sandbox_best_of_n", "best_of_n"), ("llmbar", "llmbar")):
        scores = BENCHMARKS[rule].score(read_records(run_dir / "eval" / "step_00000001" / f"{name}.parquet"))
        assert {figure: final[f"eval_{name}_{figure}"] for figure in scores} == pytest.approx(scores)
    assert "eval_score" not in final
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert ["eval_llmbar_score" in line for line in lines if line["kind"] == "eval"] == [True, True]


def test_a_benchmark_that_is_not_whole_is_refused_before_training(
    tmp_path: Path, compose: Callable[..., RunConfig]
) -> None:
    source = llmbar(tmp_path / "llmbar.jsonl", ("natural",))
    with pytest.raises(
        DataError, match=r"^benchmark llmbar: no pairs of neighbor and 3 more; its score needs the whole"
    ):
        prepare(compose(*SETS, source))
    with pytest.raises(DataError, match=r"^benchmark best_of_n: prompt 1 has 2 pairs of weight 0\.667 in all, not 1"):
        prepare(compose(SETS[0], SETS[1], source, "data.max_eval_pairs=5"))
    prepare(compose(*SETS, source, "data.eval_sets.llmbar.benchmark=null"))
