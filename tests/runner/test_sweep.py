"""A sweep over an executor that does what a test says: numbers, what is run again, and what is kept."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rm_experiments
from rm_experiments.cli.sweep import check_different
from rm_experiments.config.compose import from_plain
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError
from rm_experiments.launch.jobs import Ended, Job
from rm_experiments.launch.signals import StopRequest
from rm_experiments.runner.lock import Lock
from rm_experiments.runner.progress import Progress
from rm_experiments.runner.run_dir import leave_failure, read_object, write_json
from rm_experiments.runner.sweep import Sweep
from rm_experiments.runner.sweep_file import SweepFile

Act = Callable[[Job], int]


class Scripted:
    """An executor whose jobs end at once, one per poll, with the code that `act` returns."""

    def __init__(self, act: Act, slots: int = 1) -> None:
        self.slots, self._act = slots, act
        self.queue: list[Job] = []
        self.ran: list[Job] = []
        self.signals: list[tuple[int, int]] = []
        self._dropped: list[Ended] = []

    def submit(self, jobs: list[Job]) -> None:
        self.queue += jobs

    def poll(self, seconds: float) -> tuple[list[int], list[Ended]]:
        if self._dropped:
            dropped, self._dropped = self._dropped, []
            return [], dropped
        if not self.queue:
            return [], []
        job = self.queue.pop(0)
        self.ran.append(job)
        return [job.number], [Ended(number=job.number, exit_code=self._act(job))]

    def stop(self, number: int, signal_number: int) -> None:
        self.signals.append((number, signal_number))
        for job in [one for one in self.queue if one.number == number]:
            self.queue.remove(job)
            self._dropped.append(Ended(number=number, exit_code=-signal_number))

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def configs() -> dict[int, RunConfig]:
    return {seed: rm_experiments.compose([f"seed={seed}", "train.max_steps=20"]) for seed in range(5)}


def finishes(accuracy: float = 0.5) -> Act:
    """Each job with a higher accuracy than the one before."""

    def act(job: Job) -> int:
        seed = job.payload["config"]["seed"]
        leave(job, "finished", final={"eval_accuracy": accuracy + seed / 100})
        return 0

    return act


def leave(job: Job, status: str, **values: Any) -> None:
    job.run_dir.mkdir(parents=True, exist_ok=True)
    (job.run_dir / "summary.json").write_text(json.dumps({"status": status, "steps": 20, **values}))


def run(
    place: Path, executor: Scripted, configs: list[RunConfig], *, stop: StopRequest | None = None, **settings: Any
) -> tuple[int, dict[int, dict[str, Any]]]:
    """A whole sweep; its exit code and its rows of sweep.json by number."""
    base = from_plain(rm_experiments.config.compose.to_plain(configs[0]))
    for key, value in settings.items():
        setattr(base.launch, key, value)
    with Sweep(place, executor, base, ["rm-train", "--multirun"], stop or StopRequest()) as sweep:
        for config in configs:
            seed = f"seed={config.seed}"
            sweep.add([seed, "train.max_steps=20", "launch.concurrent_runs=2"], [seed], config)
        sweep.step(0)
        while sweep.open:
            sweep.step(0)
        code = sweep.close()
    return code, rows(place)


def rows(place: Path) -> dict[int, dict[str, Any]]:
    return {row["number"]: row for row in json.loads((place / "sweep.json").read_text())["jobs"]}


def seeds(executor: Scripted) -> list[int]:
    return [job.payload["config"]["seed"] for job in executor.ran]


def test_jobs_get_numbers_and_directories_and_leave_their_results(
    tmp_path: Path, configs: dict[int, RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    executor = Scripted(finishes(), slots=2)

    code, found = run(tmp_path / "s", executor, [configs[3], configs[1]], concurrent_runs=2)

    assert code == 0
    keys = ("status", "objective", "steps", "exit_code", "attempts", "overrides")
    assert [[row[key] for key in keys] for row in found.values()] == [
        ["finished", 0.53, 20, 0, 1, ["seed=3", "train.max_steps=20"]],
        ["finished", 0.51, 20, 0, 1, ["seed=1", "train.max_steps=20"]],
    ]
    first = executor.ran[0]
    assert (first.run_dir, first.log) == (tmp_path / "s" / "0", tmp_path / "s" / "0" / "job.log")
    assert first.payload["config"]["run_dir"] == str(tmp_path / "s" / "0")
    # The sweep's own settings would be refused in a run that is repeated alone.
    assert first.payload["config"]["launch"]["concurrent_runs"] is None
    assert first.payload["command"] == ["rm-train", "seed=3", "train.max_steps=20"]
    assert first.payload["swept"] == ["seed=3"]
    out = capsys.readouterr().out
    assert out.index("seed=3") < out.index("seed=1")


def test_an_extended_grid_runs_what_is_new_only(tmp_path: Path, configs: dict[int, RunConfig]) -> None:
    run(tmp_path, Scripted(finishes()), [configs[0], configs[2]])
    executor = Scripted(finishes())

    # In another order, with others between, and with settings that do not decide the result.
    again = rm_experiments.compose(["seed=2", "train.max_steps=20", "tracking=none", "train.layout=padded"])
    code, found = run(tmp_path, executor, [configs[1], again, configs[0]])

    assert (code, seeds(executor)) == (0, [1])
    assert {number: row["overrides"][0] for number, row in found.items()} == {0: "seed=0", 1: "seed=2", 2: "seed=1"}
    assert [row["attempts"] for row in found.values()] == [1, 1, 1]
    commands = json.loads((tmp_path / "sweep.json").read_text())["commands"]
    assert [one["command"] for one in commands] == [["rm-train", "--multirun"]] * 2


def test_a_config_that_is_there_twice_is_run_once(tmp_path: Path, configs: dict[int, RunConfig]) -> None:
    executor = Scripted(finishes())

    _, found = run(tmp_path, executor, [configs[1], configs[1]])

    assert (len(executor.ran), list(found)) == (1, [0])


def failing(codes: dict[int, int]) -> Act:
    def act(job: Job) -> int:
        seed = job.payload["config"]["seed"]
        if seed not in codes:
            return finishes()(job)
        if codes[seed] == 1:
            leave(job, "failed", error="TrainingError: step 3: the loss is nan")
        if codes[seed] == 2:
            leave(job, "failed", error="DataError: data.train=gone.jsonl: no such file")
        if codes[seed] == 143:
            leave(job, "interrupted")
        return codes[seed]

    return act


def test_failed_jobs_are_explained_and_run_again_only_when_asked(
    tmp_path: Path, configs: dict[int, RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [configs[seed] for seed in range(5)]
    codes = {0: 1, 1: 2, 2: -signal.SIGSEGV, 3: -signal.SIGKILL}

    code, found = run(tmp_path, Scripted(failing(codes)), jobs)

    assert code == 1
    errors = {
        0: "step 3: the loss is nan", 1: "data.train=gone.jsonl: no such file",
        2: "killed by SIGSEGV", 3: "killed by SIGKILL (the system does that when memory runs out)", 4: None,
    }  # fmt: skip
    assert {number: row["error"] for number, row in found.items()} == errors
    assert [row["status"] for row in found.values()] == ["failed"] * 4 + ["finished"]
    said = json.loads((tmp_path / "3" / "summary.json").read_text())
    assert said == {"steps": 0, "status": "failed", "error": errors[3]}
    out = capsys.readouterr().out
    assert "4 failed, 1 finished" in out
    assert f"job 1 failed (seed=1): {errors[1]}" in out

    # What was ended from outside goes on unasked.
    executor = Scripted(finishes())
    code, found = run(tmp_path, executor, jobs)
    assert (code, seeds(executor)) == (1, [3])
    assert {number: row["error"] for number, row in found.items()} == {**errors, 3: None}

    executor = Scripted(finishes())
    code, found = run(tmp_path, executor, jobs, repeat_failed=True)
    assert (code, seeds(executor)) == (0, [0, 1, 2])
    assert [row["status"] for row in found.values()] == ["finished"] * 5
    assert [row["attempts"] for row in found.values()] == [2, 2, 2, 2, 1]


def test_an_interrupted_job_goes_on_and_its_sweep_is_not_done(tmp_path: Path, configs: dict[int, RunConfig]) -> None:
    code, found = run(tmp_path, Scripted(failing({0: 143})), [configs[0], configs[1]])
    assert (code, found[0]["status"], found[1]["status"]) == (143, "interrupted", "finished")

    executor = Scripted(finishes())
    code, found = run(tmp_path, executor, [configs[0], configs[1]])
    assert (code, seeds(executor), found[0]["status"]) == (0, [0], "finished")


def test_a_stop_reaches_all_jobs_and_the_rest_is_left_for_later(tmp_path: Path, configs: dict[int, RunConfig]) -> None:
    stop = StopRequest()

    def act(job: Job) -> int:
        if job.payload["config"]["seed"] == 1:
            stop.signal_number = signal.SIGINT
        return finishes()(job)

    executor = Scripted(act)
    code, found = run(tmp_path, executor, [configs[seed] for seed in range(4)], stop=stop)

    assert code == 130
    assert [row["status"] for row in found.values()] == ["finished", "finished", "queued", "queued"]
    assert executor.signals == [(2, signal.SIGINT), (3, signal.SIGINT)]
    assert not (tmp_path / "2").exists()

    executor = Scripted(finishes())
    assert run(tmp_path, executor, [configs[seed] for seed in range(4)])[0] == 0
    assert seeds(executor) == [2, 3]


def test_a_job_that_ran_when_the_sweep_was_killed_goes_on(tmp_path: Path, configs: dict[int, RunConfig]) -> None:
    run(tmp_path, Scripted(finishes()), [configs[0], configs[1]])
    values = json.loads((tmp_path / "sweep.json").read_text())
    values["jobs"][1]["status"] = "running"
    (tmp_path / "sweep.json").write_text(json.dumps(values))
    (tmp_path / "1" / "summary.json").unlink()

    executor = Scripted(finishes())
    _, found = run(tmp_path, executor, [configs[0], configs[1]])

    assert (seeds(executor), found[1]["status"]) == ([1], "finished")


def test_a_pruned_job_stays_pruned(tmp_path: Path, configs: dict[int, RunConfig]) -> None:
    executor = Scripted(failing({0: 143}))
    with Sweep(tmp_path, executor, configs[0], ["rm-train"], StopRequest()) as sweep:
        number = sweep.add(["seed=0"], ["seed=0"], configs[0])
        sweep.prune(number, "below the median at step 4")
        assert executor.signals == [(0, signal.SIGTERM)]
        while sweep.open:
            sweep.step(0)
        assert sweep.close() == 0
    assert (rows(tmp_path)[0]["status"], rows(tmp_path)[0]["error"]) == ("pruned", "below the median at step 4")

    executor = Scripted(finishes())
    code, found = run(tmp_path, executor, [configs[0]], repeat_failed=True)
    assert (code, executor.ran, found[0]["status"]) == (0, [], "pruned")


def test_a_sweep_follows_the_evaluations_of_its_jobs(tmp_path: Path, configs: dict[int, RunConfig]) -> None:
    def act(job: Job) -> int:
        lines = [
            {"step": 4, "kind": "train", "train_loss": 0.7, "train_seconds_per_step": 2.0, "train_epoch": 0.5},
            {"step": 4, "kind": "eval", "eval_accuracy": 0.25},
            {"step": 8, "kind": "eval", "eval_accuracy": 0.75},
        ]
        job.run_dir.mkdir(parents=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        # The last line is only half written.
        (job.run_dir / "metrics.jsonl").write_text(text + '{"step": 12, "ki')
        return finishes()(job)

    with Sweep(tmp_path, Scripted(act), configs[0], ["rm-train"], StopRequest()) as sweep:
        number = sweep.add(["seed=0"], [], configs[0])
        assert sweep.values(number) == []
        while sweep.open:
            sweep.step(0)
        assert sweep.values(number) == [(4, 0.25), (8, 0.75)]


def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path, configs: dict[int, RunConfig]) -> None:
    (tmp_path / "notes.txt").touch()

    with pytest.raises(ConfigError, match=r"is not empty and holds no sweep \(notes\.txt, \.\.\.\); choose another"):
        run(tmp_path, Scripted(finishes()), [configs[0]])

    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]


def test_two_sweeps_do_not_share_a_directory(tmp_path: Path, configs: dict[int, RunConfig]) -> None:
    first = Sweep(tmp_path, Scripted(finishes()), configs[0], ["rm-train"], StopRequest())
    with first, pytest.raises(ConfigError, match=r"^hydra\.sweep\.dir=.*: is being written by process \d+ on "):
        run(tmp_path, Scripted(finishes()), [configs[1]])


def test_a_job_that_has_finished_may_die_on_its_way_out(tmp_path: Path, configs: dict[int, RunConfig]) -> None:
    def act(job: Job) -> int:
        finishes()(job)
        return -signal.SIGABRT

    code, found = run(tmp_path, Scripted(act), [configs[1]])

    assert (code, found[0]["status"], found[0]["objective"], found[0]["error"]) == (0, "finished", 0.51, None)
    assert json.loads((tmp_path / "0" / "summary.json").read_text())["status"] == "finished"


def test_a_job_that_was_asked_to_stop_is_interrupted_however_it_ends(
    tmp_path: Path, configs: dict[int, RunConfig]
) -> None:
    stop = StopRequest()

    class Late(Scripted):
        """The first job has started when the stop comes, and has no handlers yet."""

        def poll(self, seconds: float) -> tuple[list[int], list[Ended]]:
            if not self.ran:
                self.ran.append(self.queue.pop(0))
                stop.signal_number = signal.SIGUSR1
                return [0], []
            if self.signals:
                return [], [Ended(number=0, exit_code=-signal.SIGUSR1)]
            return [], []

    code, found = run(tmp_path, Late(finishes()), [configs[0]], stop=stop)

    assert (code, found[0]["status"], found[0]["error"]) == (143, "interrupted", None)


def test_a_disk_that_is_full_ends_no_job(
    tmp_path: Path, configs: dict[int, RunConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: SweepFile) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run(tmp_path, Scripted(finishes()), [configs[0]])
    monkeypatch.setattr(SweepFile, "write", full)
    executor = Scripted(finishes())
    code, _ = run(tmp_path, executor, [configs[0], configs[1], configs[2]])

    assert (code, seeds(executor)) == (0, [1, 2])
    said = f"{tmp_path / 'sweep.json'}: No space left on device; the jobs go on"
    assert capsys.readouterr().err.splitlines().count(said) == 1


@pytest.mark.parametrize("text", ["", "{", '{"jobs": null}', '{"jobs": [{"number": 0}]}', '{"jobs": [3]}'])
def test_a_damaged_file_is_refused(tmp_path: Path, configs: dict[int, RunConfig], text: str) -> None:
    (tmp_path / "sweep.json").write_text(text)

    with pytest.raises(ConfigError, match=r"its sweep\.json is damaged; choose another directory, or delete that file"):
        run(tmp_path, Scripted(finishes()), [configs[0]])

    assert (tmp_path / "sweep.json").read_text() == text


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path, configs: dict[int, RunConfig]) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r"^hydra\.sweep\.dir=.*: Not a directory; choose another directory$"):
        run(tmp_path / "file" / "s", Scripted(finishes()), [configs[0]])


def test_a_job_that_another_process_still_writes_is_not_touched(tmp_path: Path, configs: dict[int, RunConfig]) -> None:
    run(tmp_path, Scripted(failing({0: 143})), [configs[0]])
    lock = Lock(tmp_path / "0")
    lock.take()
    try:
        with pytest.raises(ConfigError, match=r"^run_dir=.*0: is being written by process \d+ on "):
            run(tmp_path, Scripted(finishes()), [configs[0]])
    finally:
        lock.release()

    assert json.loads((tmp_path / "0" / "summary.json").read_text())["status"] == "interrupted"


def test_jobs_that_would_be_one_run_are_refused() -> None:
    jobs = [rm_experiments.compose([f"train.compile={one}"]) for one in ("true", "false")]

    with pytest.raises(
        ConfigError, match=r"^train\.compile=true,false: does not change what a run gives, so these jobs"
    ):
        check_different(jobs)
    # Twice the same is one job, and no mistake.
    check_different([jobs[0], jobs[0]])


def line(step: int, accuracy: float) -> str:
    return json.dumps({"step": step, "kind": "eval", "eval_accuracy": accuracy}) + "\n"


def test_progress_outlives_what_a_resumed_run_cuts_off(tmp_path: Path, configs: dict[int, RunConfig]) -> None:
    path, progress = tmp_path / "metrics.jsonl", Progress(tmp_path, configs[0])
    path.write_text(line(2, 0.1) + line(4, 0.2) + line(6, 0.3))
    progress.read()
    assert progress.step == 6

    # Cut and grown past where it was read to: the first look meets the middle of a line.
    path.write_text(line(2, 0.1) + line(4, 0.25) + line(6, 0.35)[:-1] + " " * 40 + "\n" + line(8, 0.4))
    progress.read()
    path.write_text(path.read_text() + "[1]\n{}\n" + line(10, 0.5))
    progress.read()

    assert [step for step, _ in progress.evaluations][-2:] == [8, 10]
    assert (progress.step, progress.max_steps) == (10, 20)

    # Cut to less.
    path.write_text(line(2, 0.1) + line(4, 0.6))
    progress.read()
    assert [(step, one["eval_accuracy"]) for step, one in progress.evaluations] == [(2, 0.1), (4, 0.6)]
    assert progress.step == 4


def test_the_newest_reason_of_a_failure_counts(tmp_path: Path) -> None:
    leave_failure(tmp_path, "DataError: first")
    write_json(tmp_path / "summary.json", {**read_object(tmp_path / "summary.json"), "steps": 7})
    leave_failure(tmp_path, "DataError: second")

    assert read_object(tmp_path / "summary.json") == {"steps": 7, "status": "failed", "error": "DataError: second"}
