"""`rm-train` searching, as a user meets it: one line for what cannot work, and a search that goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rm_experiments.cli import train
from rm_experiments.errors import ConfigError
from rm_experiments.runner.study import import_optuna
from tests.cli.typed import exit_code

TINY = (
    "model.scratch.hidden_size=16", "model.scratch.intermediate_size=32", "model.scratch.num_heads=2",
    "model.scratch.num_kv_heads=1", "model.scratch.num_layers=1", "model.scratch.vocab_size=260", "tracking=none",
    "train.device=cpu", "data.sandbox.num_train_pairs=24", "data.sandbox.num_eval_pairs=12", "train.max_steps=2",
)  # fmt: skip
# In place of --multirun, which would start the server of the jobs in this process.
SEARCH = ("hydra.mode=MULTIRUN", "hydra/sweeper=random", "hydra.sweep.dir=found")
WRONG: dict[str, tuple[list[str], str]] = {
    "an interval without a bound": (
        ["optimizer.lr=interval(1)"], "optimizer.lr=interval(1): missing a required argument: 'end'"
    ),
    "bounds in the wrong order": (
        ["optimizer.lr=interval(2,1)"],
        "optimizer.lr=interval(2,1): an interval has two finite bounds, the lower one first",
    ),
    "a mistyped key": (["optimizer.lrr=interval(1,2)"], "optimizer.lrr is not a key; did you mean optimizer.lr?"),
    "numbers for whole numbers": (
        ["train.batch_size=interval(8,64)"],
        "train.batch_size=8.0: is a whole number; try 'train.batch_size=int(interval(...))'",
    ),
    "a bound out of range": (
        ["loss.label_smoothing=interval(0.1,0.7)"], "loss.label_smoothing=0.7: must be at least 0 and below 0.5"
    ),
    "a mistyped option": (
        ["optimizer=adamw,adam"],
        "optimizer=adam: allowed are adafactor, adamw, adamw_8bit, lion, muon, schedule_free_adamw; "
        "did you mean optimizer=adamw?",
    ),
    "nothing to search": (
        ["seed=1"], "a search needs something to search; type for example 'optimizer.lr=tag(log,interval(1e-5,1e-3))'"
    ),
    "no evaluation": (
        ["seed=1,2", "eval=none"],
        "a search compares eval_accuracy, and this run never evaluates; choose an eval=...",
    ),
    "a wrong setting": (
        ["seed=1,2", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: a whole number of at least 1"
    ),
    "a wrong setting beside what is searched": (
        ["seed=1,2", "train.batch_size=0"], "train.batch_size=0: must be a whole number of at least 1"
    ),
    "a launcher that knows batches only": (
        ["seed=1,2", "hydra/launcher=basic"],
        "hydra/launcher=basic: runs batches, and a search asks one by one; try hydra/launcher=pool",
    ),
    "a look at one run": (["seed=1,2", "dry_run=true"], "dry_run=true: looks at one run; leave --multirun out"),
    "a space of an option that cannot be read": (
        ["hydra.sweeper.params={seed: 'interval(1)'}"],
        "hydra.sweeper.params: seed=interval(1): missing a required argument: 'end'",
    ),
}  # fmt: skip


def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> str:
    """The line of a command that leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    assert exit_code(monkeypatch, train.main, "rm-train", *arguments) == 2

    shown = capsys.readouterr()
    assert shown.out == ""
    assert sorted(tmp_path.rglob("*")) == before
    return shown.err


@pytest.mark.parametrize("case", WRONG)
def test_what_no_run_could_do_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    arguments, message = WRONG[case]
    assert refused(tmp_path, monkeypatch, capsys, *SEARCH, *arguments) == f"rm-train: {message}\n"


def test_a_grid_of_intervals_and_a_search_of_one_run_are_answered_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(tmp_path, monkeypatch, capsys, "hydra.mode=MULTIRUN", "optimizer.lr=interval(1,2)")
    assert said == "rm-train: optimizer.lr=interval(1,2): a grid has values, not intervals; try hydra/sweeper=random\n"

    said = refused(tmp_path, monkeypatch, capsys, "hydra/sweeper=random", "optimizer.lr=1")
    assert said == "rm-train: hydra/sweeper=random: no effect without --multirun; add --multirun\n"


def test_without_optuna_a_search_by_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)

    with pytest.raises(
        ConfigError, match=r"needs Optuna: pip install 'rm_experiments\[optuna\]', or use hydra/sweeper=r"
    ):
        import_optuna()


def rows(place: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((place / "sweep.json").read_text(encoding="utf-8"))["jobs"]
    return found


@pytest.mark.long
def test_a_search_by_optuna_goes_on_in_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")

    def search(*arguments: str) -> subprocess.CompletedProcess[str]:
        typed = ["sweep=optuna_tpe", *TINY, "launch.concurrent_runs=2", "hydra.sweep.dir=found", *arguments]
        command = [sys.executable, "-m", "rm_experiments", *typed]
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"NETRC": "/nowhere"}, capture_output=True, text=True
        )

    done = search("hydra.sweeper.n_trials=2")
    assert done.returncode == 0, done.stderr
    first = rows(tmp_path / "found")
    done = search("hydra.sweeper.n_trials=3")
    assert done.returncode == 0, done.stderr

    found = rows(tmp_path / "found")
    assert [row["status"] for row in found] == ["finished"] * 3
    assert found[:2] == first
    assert "job 2 started" in done.stderr
    assert "job 0 started" not in done.stderr
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "found" / "study.journal"))
    study = optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(journal))
    assert [one.value for one in study.get_trials()] == [row["objective"] for row in found]
    assert study.direction.name == "MAXIMIZE"
    # The last line is the command that repeats the best run.
    best = max(found, key=lambda row: row["objective"])
    assert f"Best: job {best['number']} with eval_accuracy {best['objective']:.4f}: " in done.stdout
    command = done.stdout.splitlines()[-1].partition("with several seeds: ")[2]
    assert command == f"rm-train --config-dir found/{best['number']} --config-name config --multirun seed=0,1,2,3,4"

    # Results of other settings would mislead it.
    for argument, message in (
        ("train.max_steps=3", "train.max_steps=3: the search in found has train.max_steps=2; type train"),
        ("optimizer.lr=interval(1,2)", "hydra.sweep.dir=found: holds a search with another range of optimizer.lr"),
        ("objective=eval_loss", "hydra.sweep.dir=found: holds a search with objective eval_accuracy; choose another"),
    ):  # fmt: skip
        typed = ["sweep=optuna_tpe", *TINY, "hydra.sweep.dir=found", argument]
        assert refused(tmp_path, monkeypatch, capsys, *typed).startswith(f"rm-train: {message}")
