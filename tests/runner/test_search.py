"""Searches over an executor whose runs learn as a formula says: which points, when, and what is kept over a kill."""

from __future__ import annotations

import copy
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import rm_experiments
from rm_experiments.config.schema import RunConfig
from rm_experiments.config.search_schema import OptunaSettings
from rm_experiments.config.search_space import Choices, Numbers, Space
from rm_experiments.errors import ConfigError
from rm_experiments.launch.jobs import Ended, Job
from rm_experiments.launch.signals import StopRequest
from rm_experiments.runner.random_points import RandomPoints
from rm_experiments.runner.search import Search, Source
from rm_experiments.runner.study import Study
from rm_experiments.runner.sweep import Sweep

EVALUATIONS = 4
LR = "optimizer.lr"
SPACE: Space = {LR: Numbers(1e-5, 1e-1, log=True), "seed": Choices(("0", "1"))}
Value = Callable[[dict[str, Any], int], float | int | str]


class Killed(BaseException):
    """The process of the search is gone."""


def best_at_a_thousandth(config: dict[str, Any], evaluation: int) -> float:
    """Accuracy after so many evaluations: highest for lr=1e-3, and growing."""
    distance = abs(math.log10(config["optimizer"]["lr"]) + 3)
    return (0.9 - 0.1 * distance) * (0.6 + 0.1 * evaluation)


class Learning:
    """An executor whose runs evaluate once per poll; they go on where their directory says.

    `value` gives the objective at an evaluation, or how the run ends there: an exit code, or a line that refuses it.
    """

    def __init__(self, value: Value = best_at_a_thousandth, slots: int = 1, polls: int | None = None) -> None:
        self.slots, self._value, self._polls = slots, value, polls
        self._queue: list[Job] = []
        self._running: dict[int, Job] = {}
        self._signalled: set[int] = set()
        self.started: list[int] = []
        self.most = 0
        self.evaluated: list[tuple[int, int]] = []

    def submit(self, jobs: list[Job]) -> None:
        self._queue += jobs

    def poll(self, seconds: float) -> tuple[list[int], list[Ended]]:
        if self._polls is not None:
            self._polls -= 1
            if self._polls < 0:
                raise Killed
        started = []
        while self._queue and len(self._running) < self.slots:
            job = self._queue.pop(0)
            self._running[job.number] = job
            started.append(job.number)
        self.started += started
        self.most = max(self.most, len(self._running))
        codes = {number: self._advance(job) for number, job in self._running.items() if number not in started}
        ended = [Ended(number=number, exit_code=code) for number, code in codes.items() if code is not None]
        for one in ended:
            del self._running[one.number]
        return started, ended

    def _advance(self, job: Job) -> int | None:
        job.run_dir.mkdir(parents=True, exist_ok=True)
        path = job.run_dir / "metrics.jsonl"
        evaluation = len(path.read_text().splitlines()) + 1 if path.exists() else 1
        if job.number in self._signalled:
            leave(job, "interrupted")
            return 143
        value = self._value(job.payload["config"], evaluation)
        if isinstance(value, int):
            leave(job, "failed", error="it broke")
            return value
        if isinstance(value, str):
            leave(job, "failed", error=f"ConfigError: {value}")
            return 2
        self.evaluated.append((job.number, evaluation))
        with path.open("a") as file:
            file.write(json.dumps({"step": evaluation * 10, "kind": "eval", "eval_accuracy": value}) + "\n")
        if evaluation < EVALUATIONS:
            return None
        leave(job, "finished", final={"eval_accuracy": value, "eval_loss": 0.5})
        return 0

    def stop(self, number: int, signal_number: int) -> None:
        self._signalled.add(number)

    def close(self) -> None:
        pass


def leave(job: Job, status: str, **values: Any) -> None:
    (job.run_dir / "summary.json").write_text(json.dumps({"status": status, "steps": 40, **values}))


@pytest.fixture(scope="module")
def compose() -> Callable[[list[str]], RunConfig]:
    base = rm_experiments.compose(["train.max_steps=40"])

    def composed(overrides: list[str]) -> RunConfig:
        config: Any = copy.deepcopy(base)
        for one in overrides:
            key, _, text = one.partition("=")
            *sections, name = key.split(".")
            section = config
            for part in sections:
                section = getattr(section, part)
            value = yaml.safe_load(text)
            setattr(section, name, float(text) if key == LR else value)
        if config.seed == 13:
            raise ConfigError("seed=13: refused")
        found: RunConfig = config
        return found

    return composed


Composer = Callable[[list[str]], RunConfig]
SourceOf = Callable[[Path], Source]


def run(
    place: Path, compose: Composer, source: SourceOf, executor: Learning, n_trials: int,
    objective: str = "eval_accuracy", repeat_failed: bool = False, stop: StopRequest | None = None,
    timeout_hours: float | None = None,
) -> dict[int, dict[str, Any]]:  # fmt: skip
    """A whole command; its rows of sweep.json by number. A kill ends it in the middle."""
    base = compose([])
    base.objective, base.launch.repeat_failed = objective, repeat_failed
    try:
        with Sweep(place, executor, base, ["rm-train"], stop or StopRequest()) as sweep:
            search = Search(sweep, source(place), compose, ["train.max_steps=40"], n_trials, objective, timeout_hours)
            search.run()
    except Killed:
        pass
    return {row["number"]: row for row in json.loads((place / "sweep.json").read_text())["jobs"]}


def random(space: Space = SPACE, seed: int = 0) -> SourceOf:
    return lambda place: RandomPoints(space, seed)


def optuna(space: Space = SPACE, minimize: bool = False, **settings: Any) -> SourceOf:
    pytest.importorskip("optuna", reason="optuna is not installed")
    return lambda place: Study(place, space, OptunaSettings(**settings), minimize)


def trials(place: Path) -> list[Any]:
    """As Optuna itself reads them."""
    found = pytest.importorskip("optuna")
    backend = found.storages.journal.JournalFileBackend(str(place / "study.journal"))
    study = found.load_study(study_name="search", storage=found.storages.JournalStorage(backend))
    return list(study.get_trials())


def states(place: Path) -> list[str]:
    return [one.state.name for one in trials(place)]


def lrs(found: dict[int, dict[str, Any]]) -> list[str]:
    return [row["swept"][0] for row in found.values()]


BOTH = pytest.mark.parametrize("kind", [random, optuna], ids=["random", "optuna"])


@BOTH
def test_as_many_runs_as_there_are_slots_and_the_next_starts_as_one_ends(
    tmp_path: Path, compose: Composer, kind: Callable[..., SourceOf]
) -> None:
    lengths = {0: 1, 1: 9}

    def uneven(config: dict[str, Any], evaluation: int) -> float | int:
        # The first run breaks at once; the others learn.
        number = int(Path(config["run_dir"]).name)
        return 1 if evaluation >= lengths.get(number, 9) else best_at_a_thousandth(config, evaluation)

    executor = Learning(uneven, slots=2)
    found = run(tmp_path, compose, kind(), executor, 6)

    assert [row["status"] for row in found.values()] == ["failed"] + ["finished"] * 5
    assert executor.most == 2
    # The third began while the second was still running.
    assert executor.evaluated.index((2, 1)) < executor.evaluated.index((1, EVALUATIONS))
    assert len({tuple(row["swept"]) for row in found.values()}) == 6
    assert found[0]["overrides"] == ["train.max_steps=40", *found[0]["swept"]]


@BOTH
def test_a_search_that_is_killed_anywhere_goes_on_as_if_it_had_not_been(
    tmp_path: Path, compose: Composer, kind: Callable[..., SourceOf]
) -> None:
    undisturbed = run(tmp_path / "a", compose, kind(), Learning(), 5)
    evaluated: list[tuple[int, int]] = []
    for polls in (1, 4, 7, 2, 100):
        executor = Learning(polls=polls)
        found = run(tmp_path / "b", compose, kind(), executor, 5)
        evaluated += executor.evaluated

    assert [(row["swept"], row["status"], row["objective"]) for row in found.values()] == [
        (row["swept"], "finished", row["objective"]) for row in undisturbed.values()
    ]
    # Nothing was computed twice.
    assert sorted(evaluated) == [(number, one) for number in range(5) for one in range(1, EVALUATIONS + 1)]


@BOTH
def test_n_trials_is_the_total_and_a_repeated_command_runs_nothing_again(
    tmp_path: Path, compose: Composer, kind: Callable[..., SourceOf]
) -> None:
    first = run(tmp_path, compose, kind(), Learning(), 3)
    again = Learning()
    run(tmp_path, compose, kind(), again, 3)
    more = Learning()
    found = run(tmp_path, compose, kind(), more, 5)

    assert again.started == []
    assert more.started == [3, 4]
    assert {number: found[number]["swept"] for number in range(3)} == {n: row["swept"] for n, row in first.items()}
    assert len({tuple(row["swept"]) for row in found.values()}) == 5


@BOTH
def test_a_small_space_is_tried_once_and_then_all_is_done(
    tmp_path: Path, compose: Composer, kind: Callable[..., SourceOf], capsys: pytest.CaptureFixture[str]
) -> None:
    executor = Learning()
    found = run(
        tmp_path, compose, kind({"seed": Numbers(0, 2, integer=True), LR: Choices(("0.1", "0.2"))}), executor, 50
    )

    assert sorted(row["swept"] for row in found.values()) == [
        [f"seed={seed}", f"optimizer.lr={lr}"] for seed in range(3) for lr in ("0.1", "0.2")
    ]
    assert executor.started == list(range(6))
    assert "rm-train: all points have been tried: 6" in capsys.readouterr().err


@BOTH
def test_failed_and_refused_points_do_not_end_a_search(
    tmp_path: Path, compose: Composer, kind: Callable[..., SourceOf]
) -> None:
    def breaks(config: dict[str, Any], evaluation: int) -> float | int:
        return -signal.SIGSEGV if config["seed"] == 1 else best_at_a_thousandth(config, evaluation)

    # 13 is refused when it is composed.
    space = {LR: SPACE[LR], "seed": Choices(("0", "1", "13"))}
    found = run(tmp_path, compose, kind(space), Learning(breaks), 12)

    assert len(found) == 12
    assert {row["swept"][1]: row["status"] for row in found.values()} == {"seed=0": "finished", "seed=1": "failed"}


@BOTH
def test_what_is_wrong_with_every_run_ends_a_search(
    tmp_path: Path, compose: Composer, kind: Callable[..., SourceOf], capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(tmp_path, compose, kind(), Learning(lambda config, evaluation: "data.train=x: no such file"), 40)

    assert [row["error"] for row in found.values()] == ["data.train=x: no such file"] * 5
    assert "all 5 runs so far were refused for the same reason: no more start" in capsys.readouterr().err


def test_a_stopped_search_starts_nothing_more(tmp_path: Path, compose: Composer) -> None:
    stop = StopRequest()

    def stopping(config: dict[str, Any], evaluation: int) -> float:
        if evaluation == 2:
            stop.signal_number = signal.SIGINT
        return best_at_a_thousandth(config, evaluation)

    source = optuna()
    found = run(tmp_path, compose, source, Learning(stopping), 5, stop=stop)
    assert ([row["status"] for row in found.values()], states(tmp_path)) == (["interrupted"], ["RUNNING"])

    found = run(tmp_path, compose, source, Learning(), 2)
    assert ([row["status"] for row in found.values()], states(tmp_path)) == (["finished"] * 2, ["COMPLETE"] * 2)


def test_after_the_time_no_run_starts(
    tmp_path: Path, compose: Composer, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    run(tmp_path, compose, random(), Learning(), 2)
    executor = Learning()
    run(tmp_path, compose, random(), executor, 5, timeout_hours=1e-12)

    assert executor.started == []
    assert "hydra.sweeper.timeout_hours=1e-12 are over: no more runs start" in capsys.readouterr().err


def test_an_objective_that_is_not_measured_names_what_is(
    tmp_path: Path, compose: Composer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, compose, optuna(), Learning(), 1, objective="eval_x_accuracy")

    assert (
        "job 0: eval_x_accuracy is not among its metrics; there are eval_accuracy, eval_loss" in capsys.readouterr().err
    )
    assert states(tmp_path) == ["FAIL"]


def test_an_objective_that_is_no_number_is_a_failed_trial_and_not_the_end(tmp_path: Path, compose: Composer) -> None:
    def bad(config: dict[str, Any], evaluation: int) -> float:
        return math.nan if Path(config["run_dir"]).name == "0" else best_at_a_thousandth(config, evaluation)

    run(tmp_path, compose, optuna(), Learning(bad), 3)

    assert states(tmp_path) == ["FAIL", "COMPLETE", "COMPLETE"]


def test_the_points_of_a_random_search_depend_on_the_seed_and_their_number_only() -> None:
    def ask(seed: int, more: Space | None = None) -> list[str]:
        points = RandomPoints({**(more or {}), LR: Numbers(0.0, 1.0)}, seed)
        return [point.values[LR] for _ in range(4) if (point := points.ask())]

    # Fixed: a search that a former version began goes on with the same points.
    assert ask(0) == ["0.1471", "0.2926", "0.5502", "0.2453"]
    assert ask(0, {"seed": Choices(("1", "2"))}) == ask(0)
    assert not set(ask(1)) & set(ask(0))


def test_a_random_search_covers_its_space_evenly() -> None:
    points = RandomPoints({LR: Numbers(1e-5, 1e-1, log=True), "seed": Choices(("a", "b"))}, 5)
    asked = [point.values for _ in range(400) if (point := points.ask())]

    # Four standard deviations around a half.
    assert 160 <= sum(one["seed"] == "a" for one in asked) <= 240
    assert 160 <= sum(float(one[LR]) < 1e-3 for one in asked) <= 240
    assert 60 <= sum(float(one[LR]) < 1e-3 and one["seed"] == "a" for one in asked) <= 140


@pytest.mark.parametrize(("sampler", "n_trials", "startup"), [("tpe", 20, 6), ("gp", 10, 5)])
def test_a_sampler_comes_nearer_to_the_best_than_random_points_do(
    tmp_path: Path, compose: Composer, sampler: str, n_trials: int, startup: int
) -> None:
    def late(found: dict[int, dict[str, Any]]) -> float:
        lrs = [float(row["swept"][0].partition("=")[2]) for row in list(found.values())[n_trials // 2 :]]
        return sum(abs(math.log10(lr) + 3) for lr in lrs) / len(lrs)

    at_random = run(tmp_path / "r", compose, optuna(sampler="random"), Learning(), n_trials)
    learned = run(tmp_path / "l", compose, optuna(sampler=sampler, n_startup_trials=startup), Learning(), n_trials)

    assert late(learned) < 0.9 * late(at_random)


def test_a_loss_is_minimized(tmp_path: Path, compose: Composer) -> None:
    def loss(config: dict[str, Any], evaluation: int) -> float:
        return abs(math.log10(config["optimizer"]["lr"]) + 3)

    found = run(tmp_path, compose, optuna(minimize=True, n_startup_trials=6), Learning(loss), 20)

    late = [float(row["objective"]) for row in list(found.values())[10:]]
    early = [float(row["objective"]) for row in list(found.values())[:6]]
    assert sum(late) / 10 < sum(early) / 6


@pytest.mark.parametrize("pruner", ["median", "successive_halving", "hyperband"])
def test_a_pruner_stops_runs_that_are_behind_and_the_best_one_is_not_among_them(
    tmp_path: Path, compose: Composer, pruner: str
) -> None:
    settings = {"sampler": "random", "pruner": pruner, "pruner_evaluations": 2}
    if pruner == "median":
        settings["n_startup_trials"] = 3
    executor = Learning(slots=2)
    found = run(tmp_path, compose, optuna(**settings), executor, 14)

    by_status: dict[str, list[float]] = {}
    for row in found.values():
        distance = abs(math.log10(float(row["swept"][0].partition("=")[2])) + 3)
        by_status.setdefault(row["status"], []).append(distance)
    assert set(by_status) == {"finished", "pruned"}
    assert min(by_status["finished"]) < min(by_status["pruned"])
    assert sorted({one.state.name: one for one in trials(tmp_path)}) == ["COMPLETE", "PRUNED"]
    # None of them before its second evaluation.
    assert all((number, 2) in executor.evaluated for number in found)
    pruned = next(row for row in found.values() if row["status"] == "pruned")
    assert pruned["error"].endswith(f"at evaluation 2: stopped by pruner={pruner}") or "evaluation 3" in pruned["error"]
    assert pruned["error"].startswith("eval_accuracy 0.")

    # They stay as they are.
    again = Learning()
    run(tmp_path, compose, optuna(**settings), again, 14)
    assert again.started == []


def test_without_a_pruner_no_run_is_stopped(tmp_path: Path, compose: Composer) -> None:
    found = run(tmp_path, compose, optuna(sampler="random"), Learning(), 14)

    assert {row["status"] for row in found.values()} == {"finished"}
    assert [list(one.intermediate_values) for one in trials(tmp_path)] == [[1, 2, 3, 4]] * 14


def test_the_first_evaluations_count_as_nothing_before_training(tmp_path: Path, compose: Composer) -> None:
    class AtStart(Learning):
        def _advance(self, job: Job) -> int | None:
            path = job.run_dir / "metrics.jsonl"
            code = super()._advance(job)
            lines = path.read_text().splitlines()
            path.write_text(
                "".join(json.dumps({**json.loads(one), "step": 10 * at}) + "\n" for at, one in enumerate(lines))
            )
            return code

    run(tmp_path, compose, optuna(), AtStart(), 1)

    (trial,) = trials(tmp_path)
    assert list(trial.intermediate_values) == [1, 2, 3]
    assert trial.intermediate_values[1] == pytest.approx(trial.value * 0.8)


def test_a_failed_run_that_is_repeated_counts_once_it_has_a_result(tmp_path: Path, compose: Composer) -> None:
    run(tmp_path, compose, optuna(), Learning(lambda config, evaluation: 1), 1)
    assert states(tmp_path) == ["FAIL"]
    executor = Learning()
    run(tmp_path, compose, optuna(), executor, 1)
    assert executor.started == []

    found = run(tmp_path, compose, optuna(), executor, 1, repeat_failed=True)
    assert executor.started == [0]
    failed, repeated = trials(tmp_path)
    assert (failed.state.name, repeated.state.name, repeated.value) == ("FAIL", "COMPLETE", found[0]["objective"])
    assert repeated.params == failed.params or float(repeated.params[LR]) == pytest.approx(failed.params[LR], rel=1e-3)

    run(tmp_path, compose, optuna(), executor, 1, repeat_failed=True)
    assert len(trials(tmp_path)) == 2


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path: Path, compose: Composer) -> None:
    run(tmp_path, compose, optuna(), Learning(polls=3), 2)
    journal = tmp_path / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code":5,"wor')

    found = run(tmp_path, compose, optuna(), Learning(), 2)

    assert [row["status"] for row in found.values()] == ["finished"] * 2
    assert states(tmp_path) == ["COMPLETE"] * 2


def test_a_trial_that_was_killed_before_it_had_its_values_has_failed(tmp_path: Path, compose: Composer) -> None:
    run(tmp_path, compose, optuna(), Learning(polls=1), 1)
    journal = tmp_path / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    # Without the value of `seed`.
    journal.write_bytes(b"".join(one for one in lines if b'"param_name":"seed"' not in one))

    run(tmp_path, compose, optuna(), Learning(), 1)

    assert states(tmp_path) == ["FAIL", "COMPLETE"]


def test_importances_say_what_made_the_difference(tmp_path: Path, compose: Composer) -> None:
    source = optuna(sampler="random")
    run(tmp_path, compose, source, Learning(), 5)
    study = source(tmp_path)
    assert isinstance(study, Study)
    assert study.importances() == {}

    run(tmp_path, compose, source, Learning(), 20)
    study = source(tmp_path)
    assert isinstance(study, Study)
    found = study.importances()
    assert found[LR] > 0.7
    assert sum(found.values()) == pytest.approx(1)
