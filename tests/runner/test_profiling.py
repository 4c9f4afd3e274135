"""`train.profile_steps`: what it leaves, that it changes nothing else, and that it ends with what it watches."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import rm_experiments
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError
from rm_experiments.launch.watchdog import Watchdog
from rm_experiments.runner.profiling import StepProfiler
from rm_experiments.runner.train import RunResult

Compose = Callable[..., RunConfig]
CLOCK = ("train_pairs_per_second", "train_tokens_per_second", "train_seconds_per_step", "eval_seconds")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of so small a run."""
    monkeypatch.setattr("rm_experiments.reporting.plots.write_plots", lambda *_, **__: [])


@pytest.fixture
def run(compose: Compose, tmp_path: Path) -> Callable[..., RunResult]:
    """`run(name, *overrides)`: six steps in a directory of that name, evaluated after the third and the last."""

    def start(name: str, *overrides: str) -> RunResult:
        schedule = ("train.max_steps=6", "train.batch_size=6", "eval=steps", "eval.every_steps=3", "model.dropout=0.1")
        config = compose(*schedule, "train.log_every_steps=2", *overrides)
        config.run_dir = str(tmp_path / name)
        return rm_experiments.train(config)

    return start


def outcome(path: Path) -> tuple[Any, ...]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    metrics = [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]
    return (path / "final" / "model.safetensors").read_bytes(), metrics


def recorded(run_dir: Path) -> list[int]:
    """The steps of the profiler in the trace, in its own count from the first step of the process."""
    with gzip.open(run_dir / "profile" / "trace.json.gz", "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    marks = {one["name"] for one in events if str(one.get("name", "")).startswith("ProfilerStep#")}
    assert any(one.get("name") == "aten::mm" for one in events)
    return sorted(int(one.partition("#")[2]) for one in marks)


def test_steps_after_the_warm_up_are_recorded_and_nothing_else_changes(
    run: Callable[..., RunResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("plain")
    capsys.readouterr()
    run("profiled", "train.profile_steps=3")

    assert outcome(tmp_path / "profiled") == outcome(tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()
    assert recorded(tmp_path / "profiled") == [2, 3, 4]
    table = (tmp_path / "profiled" / "profile" / "operators.txt").read_text(encoding="utf-8")
    assert table.startswith("steps 3 to 5, 0.")
    assert "aten::mm" in table
    assert "Self CPU" in table
    assert "Profiled steps 3 to 5, 0." in capsys.readouterr().err
    assert list((tmp_path / "profiled").glob(".*.partial")) == []


def test_without_it_there_is_no_profiler(run: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> None:
        raise AssertionError("a profiler was made")

    monkeypatch.setattr("rm_experiments.runner.profiling.profile", refused)
    assert run("plain").status == "finished"
    with pytest.raises(AssertionError, match="a profiler was made"):
        run("profiled", "train.profile_steps=1")


def test_a_run_that_goes_on_profiles_its_own_first_steps(
    run: Callable[..., RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # Killed after the evaluation at step 3.
        step = rm_experiments.training.trainer.Trainer.step

        def killed(self: Any) -> bool:
            if self.progress.step == 4:
                raise KeyboardInterrupt
            return step(self)

        patch.setattr(rm_experiments.training.trainer.Trainer, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            run("half", "train.profile_steps=2")
    assert recorded(tmp_path / "half") == [2, 3]

    assert run("half", "train.profile_steps=4").status == "finished"

    # Three steps were left: two to warm up, one to record.
    assert recorded(tmp_path / "half") == [2]
    assert (tmp_path / "half" / "profile" / "operators.txt").read_text(encoding="utf-8").startswith("steps 6 to 6, ")
    run("plain")
    assert outcome(tmp_path / "half") == outcome(tmp_path / "plain")


def test_more_steps_than_the_run_has_are_refused_and_nothing_is_written(
    run: Callable[..., RunResult], tmp_path: Path
) -> None:
    # 24 pairs in steps of 6.
    with pytest.raises(
        ConfigError, match=r"^train.profile_steps=3: the run has 4 steps, of which 2 warm up; try train"
    ):
        run("short", "train.max_steps=null", "train.profile_steps=3")
    assert not (tmp_path / "short").exists()


@pytest.fixture
def watchdog(tmp_path: Path) -> Any:
    one = Watchdog(None, tmp_path / "hang")
    yield one
    one.close()


def add() -> bool:
    return bool((torch.ones(4) + 1).sum() > 0)


def test_training_that_ends_before_the_first_recorded_step_says_so(
    tmp_path: Path, accelerator: Accelerator, watchdog: Watchdog
) -> None:
    said: list[str] = []
    profiler = StepProfiler(3, tmp_path, accelerator, watchdog, said.append)
    assert profiler.watch(add, 1)
    assert profiler.watch(add, 2)
    profiler.finish()

    assert said == ["No step was profiled: the first 2 of a process warm up, and no other came."]
    assert not (tmp_path / "profile").exists()


def test_a_step_that_is_given_up_does_not_count(tmp_path: Path, accelerator: Accelerator, watchdog: Watchdog) -> None:
    said: list[str] = []
    profiler = StepProfiler(1, tmp_path, accelerator, watchdog, said.append)
    taken = [profiler.watch(step, number) for step, number in ((add, 7), (lambda: False, 8), (add, 8), (add, 9))]

    assert taken == [True, False, True, True]
    assert [one.partition(",")[0] for one in said] == ["Profiled steps 9 to 9"]


def test_a_step_that_fails_leaves_no_profiler_behind(
    tmp_path: Path, accelerator: Accelerator, watchdog: Watchdog
) -> None:
    def fails() -> bool:
        raise ValueError("no")

    for _ in range(2):
        profiler = StepProfiler(1, tmp_path, accelerator, watchdog, lambda line: None)
        profiler.watch(add, 1)
        with pytest.raises(ValueError, match="no"):
            profiler.watch(fails, 2)
        profiler.stop()
        assert not torch.autograd._profiler_enabled()
    assert not (tmp_path / "profile").exists()


def test_of_several_processes_the_main_one_is_recorded(
    tmp_path: Path, accelerator: Accelerator, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(accelerator), "is_main_process", False)
    waited: list[None] = []
    monkeypatch.setattr(accelerator, "wait_for_everyone", lambda: waited.append(None))
    profiler = StepProfiler(1, tmp_path, accelerator, watchdog, lambda line: None)
    for number in range(1, 6):
        assert profiler.watch(add, number)

    assert len(waited) == 1
    assert not (tmp_path / "profile").exists()
