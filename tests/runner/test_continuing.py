"""A run goes on exactly wherever it was stopped, only as the run that it was, and only by one process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import rm_experiments
from rm_experiments.config.rules import lower_is_better
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import CheckpointError, ConfigError, TrainingError
from rm_experiments.launch.watchdog import Watchdog
from rm_experiments.reporting.tracking import NoTracker
from rm_experiments.runner.train import RunResult
from rm_experiments.training.trainer import Trainer

Compose = Callable[..., RunConfig]
# Several forward passes per step and per evaluation; dropout; log lines, evaluations and checkpoints at other steps.
SETTINGS = (
    "train.max_steps=6", "train.batch_size=6", "train.micro_batch_tokens=150", "train.log_every_steps=4",
    "eval=steps", "eval.every_steps=3", "checkpoint.every_steps=2", "checkpoint.keep_last=3", "model.dropout=0.1",
)  # fmt: skip
CLOCK = ("train_pairs_per_second", "train_tokens_per_second", "train_seconds_per_step", "eval_seconds")


@pytest.fixture
def run(compose: Compose, tmp_path: Path) -> Callable[..., RunResult]:
    """`run(name, *overrides)`: train in a directory of that name."""

    def start(name: str, *overrides: str) -> RunResult:
        torch.set_num_threads(1)
        config = compose(*SETTINGS, *overrides)
        config.run_dir = str(tmp_path / name)
        return rm_experiments.train(config)

    return start


def outcome(path: Path, best: bool = True) -> dict[str, Any]:
    """Everything that a run leaves but for clocks: weights, logged numbers, records, summary."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    kept = ("status", "steps", "epochs", "final", "best", "best_step", "sanity", "error")
    return {
        "weights": (path / "final" / "model.safetensors").read_bytes(),
        "metrics": [{key: value for key, value in line.items() if key not in CLOCK} for line in lines],
        "records": {one.relative_to(path): one.read_bytes() for one in path.rglob("*.parquet")},
        "summary": {key: summary[key] for key in kept},
        "best": os.readlink(path / "checkpoints" / "best") if best else None,
        "left over": list(path.rglob("*.partial")),
    }


def interrupt_at(monkeypatch: pytest.MonkeyPatch, number: int) -> list[None]:
    """Send SIGTERM to this process at a beat of the watchdog: after that many forward passes."""
    beats: list[None] = []
    beat = Watchdog.beat

    def counted(self: Watchdog) -> None:
        beat(self)
        beats.append(None)
        if len(beats) == number:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Watchdog, "beat", counted)
    return beats


def test_wherever_it_is_stopped_it_goes_on_to_the_same_end(
    run: Callable[..., RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = interrupt_at(monkeypatch, -1)
    assert run("straight").status == "finished"
    expected, total = outcome(tmp_path / "straight"), len(beats)
    assert total > 40
    stopped_in_evaluation = 0
    for number in [*range(1, total, 8), total - 1, total]:
        monkeypatch.undo()
        interrupt_at(monkeypatch, number)
        name = f"stopped_{number}"
        result = run(name)
        if result.status != "finished":
            assert result.exit_code == 143
            assert not (tmp_path / name / "final").exists()
            extra = json.loads((tmp_path / name / "checkpoints" / "last" / "state" / "trainer.json").read_text())
            stopped_in_evaluation += extra["progress"]["step"] in (0, 3, 6) != extra["evaluated_step"]
            monkeypatch.undo()
            assert run(name).status == "finished"
        assert outcome(tmp_path / name) == expected, number
        shutil.rmtree(tmp_path / name)
    assert stopped_in_evaluation


@pytest.mark.long
def test_averaged_weights_go_on_to_the_same_end(
    run: Callable[..., RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are saved are not those that are trained."""
    settings = ("optimizer=schedule_free_adamw", "scheduler=constant", "scheduler.warmup_steps=2")
    beats = interrupt_at(monkeypatch, -1)
    assert run("straight", *settings).status == "finished"
    expected, total = outcome(tmp_path / "straight"), len(beats)
    for number in (2, total // 3, total // 2, 2 * total // 3):
        monkeypatch.undo()
        interrupt_at(monkeypatch, number)
        name = f"stopped_{number}"
        assert run(name, *settings).exit_code == 143
        monkeypatch.undo()
        assert run(name, *settings).status == "finished"
        assert outcome(tmp_path / name) == expected, number


def test_the_state_of_another_optimizer_is_refused(run: Callable[..., RunResult], half: Path) -> None:
    before = everything(half)
    with pytest.raises(
        CheckpointError, match=r"is the state of optimizer=adamw, which optimizer=lion cannot go on with"
    ):
        run("half", "optimizer=lion", "allow_changes=[optimizer.name,optimizer.betas,optimizer.eps,optimizer.lr]")
    assert everything(half) == before


def test_a_metric_of_the_heads_may_decide(run: Callable[..., RunResult]) -> None:
    result = run("ensemble", "loss=ensemble", "objective=eval_worst_case_accuracy", "train.max_steps=2")
    assert "eval_worst_case_accuracy" in result.metrics
    assert lower_is_better("eval_disagreement")


@pytest.fixture
def half(run: Callable[..., RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped after a few steps."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, 20)
        assert run("half").exit_code == 143
    return tmp_path / "half"


def everything(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


def test_other_data_under_the_same_settings_are_refused(
    compose: Compose, run: Callable[..., RunResult], half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(half)
    monkeypatch.setattr("rm_experiments.runner.identity._digest_of_pairs", lambda pairs: "f" * 64)
    with pytest.raises(
        CheckpointError, match=r"data: the pairs of train are not what .*/step_\d+ was trained with"
    ) as error:
        run("half")
    assert "type allow_changes=[data] to go on with these" in str(error.value)
    assert everything(half) == before
    assert run("half", "allow_changes=[data]").status == "finished"


def test_another_learning_rate_is_refused_unless_allowed_and_recorded(
    run: Callable[..., RunResult], half: Path
) -> None:
    before = everything(half)
    with pytest.raises(ConfigError, match=r"^optimizer.lr=0.5: the run in run_dir=.*allow_changes=\[optimizer.lr\]"):
        run("half", "optimizer.lr=0.5")
    assert everything(half) == before
    assert run("half", "optimizer.lr=0.005", "allow_changes=[optimizer.lr]").status == "finished"
    environment = json.loads((half / "environment.json").read_text())
    change = environment["continued"][-1]["changes"]
    assert [(one["key"], one["new"]) for one in change] == [("optimizer.lr", 0.005)]
    assert "lr: 0.005" in (half / "config.yaml").read_text()
    assert "allow_changes" not in (half / "config.yaml").read_text()


def test_a_finished_run_is_extended_only_when_it_is_said(run: Callable[..., RunResult], tmp_path: Path) -> None:
    run("short", "train.max_steps=3", "scheduler=constant")
    short = tmp_path / "short"
    before = everything(short)
    with pytest.raises(ConfigError, match=r"train.max_steps=6: the run in run_dir=.* has train.max_steps=3"):
        run("short", "scheduler=constant")
    with pytest.raises(ConfigError, match=r"optimizer.lr=0.5: the run in run_dir=.* is finished; it goes on only with"):
        run("short", "train.max_steps=3", "scheduler=constant", "optimizer.lr=0.5", "allow_changes=[optimizer.lr]")
    assert everything(short) == before
    assert run("short", "scheduler=constant", "allow_changes=[train.max_steps]").status == "finished"
    run("long", "scheduler=constant")
    assert outcome(short)["weights"] == outcome(tmp_path / "long")["weights"]
    before = everything(short)
    assert run("short", "scheduler=constant", "allow_changes=[train.max_steps]").status == "finished"
    assert everything(short) == before


def test_a_checkpoint_of_another_run_is_taken_only_with_its_settings(
    run: Callable[..., RunResult], half: Path, tmp_path: Path
) -> None:
    checkpoint = (half / "checkpoints" / "last").resolve()
    with pytest.raises(ConfigError, match=r"seed=3: the run of resume=.* has seed=0"):
        run("other", f"resume={checkpoint}", "seed=3")
    assert not (tmp_path / "other").exists()
    assert run("other", f"resume={checkpoint}").status == "finished"


def test_a_time_limit_saves_and_stops(run: Callable[..., RunResult], tmp_path: Path) -> None:
    result = run("limited", "train.max_hours=1e-9")
    assert (result.status, result.exit_code) == ("interrupted", 143)
    assert json.loads((tmp_path / "limited" / "summary.json").read_text())["steps"] == 0
    run("straight")
    assert run("limited").status == "finished"
    assert outcome(tmp_path / "limited") == outcome(tmp_path / "straight")


def test_the_rows_of_a_step_that_is_not_finite_are_kept(run: Callable[..., RunResult], tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"step \d+, rank 0: .*; the pairs are in .*non_finite_step_\d{8}.jsonl"
    ) as error:
        run("broken", "optimizer.lr=1e30", "train.max_grad_norm=null", "scheduler=constant")
    path = Path(str(error.value).rpartition("the pairs are in ")[2])
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert 1 <= len(rows) <= 6
    assert rows[0].keys() == {"id", "prompt", "chosen", "rejected"}
    assert all(row["id"] in str(error.value) or "gradient norm" in str(error.value) for row in rows)
    summary = json.loads((tmp_path / "broken" / "summary.json").read_text())
    assert summary["status"] == "failed"


def test_a_save_that_fails_in_the_background_ends_the_run(
    run: Callable[..., RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rm_experiments.runner import checkpoint_writing

    write = checkpoint_writing.write_state

    def full(directory: Path, *rest: Any) -> None:
        write(directory, *rest)
        if "00000004" in directory.parent.name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writing, "write_state", full)
    with pytest.raises(
        TrainingError, match=r"step_00000004: no space: at least [\d,]+ bytes are needed, [\d,]+ are free"
    ):
        run("full")
    names = [one.name for one in (tmp_path / "full" / "checkpoints").iterdir()]
    assert not [name for name in names if name.endswith(".partial") or name == "step_00000004"]
    monkeypatch.undo()
    run("straight")
    assert run("full").status == "finished"
    assert outcome(tmp_path / "full") == outcome(tmp_path / "straight")


def test_a_run_that_will_not_fit_is_refused(
    run: Callable[..., RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rm_experiments.runner.saving.free_bytes", lambda path: 1_000_000)
    message = r"no space: 6 directories of [\d,]+ bytes need [\d,]+ more, 1,000,000 are free; choose another run_dir"
    with pytest.raises(ConfigError, match=message):
        run("large")
    assert not (tmp_path / "large").exists()


class Recorder(NoTracker):
    """Remembers what it was told, over all attempts of a run."""

    told: ClassVar[list[tuple[int, frozenset[str]]]] = []

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.told.append((step, frozenset(metrics)))


@pytest.mark.parametrize("ends", [3, 5])
def test_a_tracker_is_told_everything_once_also_after_a_kill(
    run: Callable[..., RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: int
) -> None:
    """Before the first checkpoint, which is that of step 4, and after it."""
    from rm_experiments.runner import tracked

    monkeypatch.setattr(tracked, "start_tracker", lambda *rest, **more: (Recorder(), []))
    often = ("train.log_every_steps=1", "eval.every_steps=1", "checkpoint.every_steps=4", "checkpoint.keep_best=false")
    monkeypatch.setattr(Recorder, "told", [])
    run("straight", *often)
    expected = Recorder.told
    assert [step for step, _ in expected] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]

    monkeypatch.setattr(Recorder, "told", [])
    step = Trainer.step

    def killed(trainer: Trainer) -> bool:
        if trainer.progress.step == ends:
            raise RuntimeError("as if by SIGKILL")
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", killed)
        with pytest.raises(RuntimeError, match="as if by SIGKILL"):
            run("killed", *often)
    assert run("killed", *often).status == "finished"
    assert Recorder.told == expected
    assert outcome(tmp_path / "killed", best=False) == outcome(tmp_path / "straight", best=False)


def test_a_run_that_was_killed_before_its_first_file_was_there_begins_again(
    run: Callable[..., RunResult], tmp_path: Path
) -> None:
    (tmp_path / "begun").mkdir()
    for name in (".lock", ".config.yaml.partial"):
        (tmp_path / "begun" / name).write_text("half")
    assert run("begun").status == "finished"
    assert not list((tmp_path / "begun").glob(".*"))


def test_fewer_steps_than_were_taken_are_refused_and_nothing_is_lost(
    run: Callable[..., RunResult], half: Path, tmp_path: Path
) -> None:
    run("done", "train.max_steps=4")
    for name, overrides, message in (
        ("done", ("train.max_steps=3",), r"is at step 4 and would have 3; raise train.max_steps or train.num_epochs"),
        ("done", ("train.max_steps=null",), r"is at step 4 and would have 4; raise train.max_steps"),
        ("half", ("train.max_steps=1",), r"is at step \d and would have 1; raise train.max_steps"),
    ):
        before = everything(tmp_path / name)
        with pytest.raises(ConfigError, match=message):
            run(name, *overrides, "allow_changes=[train.max_steps]")
        assert everything(tmp_path / name) == before


def test_another_architecture_is_refused_and_nothing_is_lost(run: Callable[..., RunResult], tmp_path: Path) -> None:
    run("done", "train.max_steps=2")
    before = everything(tmp_path / "done")
    with pytest.raises(CheckpointError, match="does not fit the model of this run"):
        run("done", "model.scratch.hidden_size=32", "train.max_steps=4", "allow_changes=[train.max_steps,model]")
    assert everything(tmp_path / "done") == before
    assert run("done", "train.max_steps=2").status == "finished"


def test_a_finished_run_without_checkpoints_is_not_begun_again(run: Callable[..., RunResult], tmp_path: Path) -> None:
    run("done", "train.max_steps=2")
    shutil.rmtree(tmp_path / "done" / "checkpoints")
    before = everything(tmp_path / "done")
    with pytest.raises(ConfigError, match="finished and its checkpoints are gone, so it cannot go on"):
        run("done", "train.max_steps=4", "allow_changes=[train.max_steps]")
    assert everything(tmp_path / "done") == before


def test_a_new_evaluation_set_may_come_with_an_extension(
    run: Callable[..., RunResult], tmp_path: Path, preferences: list[dict[str, str]]
) -> None:
    run("done", "train.max_steps=3", "scheduler=constant")
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in preferences))
    more = f"+data.eval_sets.more.source={tmp_path / 'more.jsonl'}"
    allowed = "allow_changes=[train.max_steps,data.eval_sets]"
    result = run("done", "scheduler=constant", more, allowed)
    assert result.metrics["eval_more_num_pairs"] == 40
    assert (tmp_path / "done" / "eval" / "step_00000006" / "more.parquet").exists()


def test_records_that_are_gone_are_named(run: Callable[..., RunResult], half: Path) -> None:
    shutil.rmtree(half / "eval")
    with pytest.raises(CheckpointError, match=r"eval.parquet: is missing or damaged, and the run cannot go on without"):
        run("half")


def test_a_run_that_branched_off_goes_on_with_its_own_checkpoints(
    run: Callable[..., RunResult], half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command, also with a named checkpoint, goes on with what it began."""
    resume = f"resume={(half / 'checkpoints' / 'last').resolve()}"
    other = ("optimizer.lr=2e-3", "allow_changes=[optimizer.lr]", resume)
    assert run("straight", *other).status == "finished"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 15)
        assert run("branch", *other).exit_code == 143
    with pytest.raises(
        ConfigError, match=r"resume=.*: run_dir=.* holds a run that has begun with it, with other settings"
    ):
        run("branch", "optimizer.lr=3e-3", "allow_changes=[optimizer.lr]", resume)
    assert run("branch", *other).status == "finished"
    assert outcome(tmp_path / "branch") == outcome(tmp_path / "straight")


def test_a_run_that_was_stopped_early_goes_on_when_it_is_told_to(run: Callable[..., RunResult], tmp_path: Path) -> None:
    early = ("train.early_stopping_patience=1", "eval.every_steps=1", "optimizer.lr=1e-9", "scheduler=constant")
    run("early", *early)
    at = json.loads((tmp_path / "early" / "summary.json").read_text())["steps"]
    assert at < 6
    run("early", *early, "train.max_steps=20", "allow_changes=[train.max_steps]")
    assert json.loads((tmp_path / "early" / "summary.json").read_text())["steps"] > at


def test_a_tracker_that_fails_does_not_hide_why_a_run_failed(
    run: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rm_experiments.runner import tracked

    class Failing(NoTracker):
        def summarise(self, values: dict[str, Any]) -> None:
            raise OSError("connection lost")

        def finish(self, exit_code: int) -> list[str]:
            raise OSError("connection lost")

    monkeypatch.setattr(tracked, "start_tracker", lambda *rest, **more: (Failing(), []))
    with pytest.raises(TrainingError, match="stopped before the optimizer step"):
        run("broken", "optimizer.lr=1e30", "train.max_grad_norm=null", "scheduler=constant")


def test_the_wait_for_a_save_is_no_hang(run: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails while a checkpoint is being written says why it failed."""
    from rm_experiments.runner import checkpoint_writing

    write = checkpoint_writing.write_state

    def slow(directory: Path, *rest: Any) -> None:
        time.sleep(4)
        write(directory, *rest)

    monkeypatch.setattr(checkpoint_writing, "write_state", slow)
    with pytest.raises(TrainingError, match="stopped before the optimizer step"):
        run("slow", "optimizer.lr=1e30", "train.max_grad_norm=null", "scheduler=constant", "train.hang_seconds=2")
