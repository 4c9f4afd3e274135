"""The command of a run as it was typed, and that repeating it gives the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rm_experiments
from rm_experiments.cli.train import main
from rm_experiments.runner.command import hydra_flags, is_sweep, repeat_command, typed_command
from tests.cli.typed import exit_code

PACKAGE = Path(rm_experiments.__file__).parent
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "1"}


@pytest.mark.parametrize(
    ("argv", "environment", "expected"),
    [
        (["/usr/bin/rm-train", "seed=1"], {}, ["rm-train", "seed=1"]),
        ([str(PACKAGE / "__main__.py"), "seed=1"], {}, ["rm-train", "seed=1"]),
        (
            ["rm-train", "--config-dir", "a b", "--config-name", "config", "seed=1"], {},
            ["rm-train", "--config-dir", "a b", "--config-name", "config", "seed=1"],
        ),
        (["rm-train", "-m", "seed=1,2", "sweep=lr"], {}, ["rm-train", "-m", "seed=1,2", "sweep=lr"]),
        (
            [str(PACKAGE / "__main__.py"), "seed=1"], TORCHRUN,
            ["torchrun", "--nproc_per_node=4", "-m", "rm_experiments", "seed=1"],
        ),
        (
            [str(PACKAGE / "__main__.py"), "seed=1"], {**TORCHRUN, "GROUP_WORLD_SIZE": "2"},
            ["torchrun", "--nnodes=2", "--nproc_per_node=4", "-m", "rm_experiments", "seed=1"],
        ),
        # The ranks of launch=accelerate, which torchrun starts too.
        (
            [str(PACKAGE / "cli" / "worker.py"), "seed=1", "launch=accelerate"], TORCHRUN,
            ["rm-train", "seed=1", "launch=accelerate"],
        ),
        # A program of somebody else's, whose arguments are not ours to publish.
        (["/home/me/study.py", "--token", "secret"], {}, ["python", "study.py"]),
    ],
)  # fmt: skip
def test_the_command_is_the_one_that_was_typed(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], environment: dict[str, str], expected: list[str]
) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", argv)

    assert typed_command() == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["rm-train", "seed=1"], False),
        (["rm-train", "--config-dir", "sweep=a", "--config-name", "config"], False),
        (["rm-train", "--multirun", "seed=1,2"], True),
        (["rm-train", "seed=1,2", "-m"], True),
        (["rm-train", "sweep=seeds"], True),
        (["python", "-m"], False),
    ],
)
def test_whether_a_command_starts_several_runs(command: list[str], expected: bool) -> None:
    assert is_sweep(command) is expected


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_run_is_repeated_from_its_directory_and_from_its_model(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rm_experiments.reporting.plots.write_plots", lambda *_, **__: [])
    monkeypatch.chdir(tmp_path)
    weights = (trained_run / "final" / "model.safetensors").read_bytes()
    assert read(trained_run / "environment.json")["repeat"] == repeat_command(str(trained_run))

    for number, source in enumerate((trained_run, trained_run / "final")):
        _, *arguments = [*repeat_command(str(source)), f"run_dir={number}"]
        assert exit_code(monkeypatch, main, "rm-train", *arguments) == 0
        repeated = tmp_path / str(number)
        assert (repeated / "final" / "model.safetensors").read_bytes() == weights
        assert (repeated / "config.yaml").read_text() == (trained_run / "config.yaml").read_text()
        assert read(repeated / "environment.json")["command"] == ["rm-train", *arguments]
        typed = f"rm-train --config-dir {source} --config-name config run_dir={number}"
        assert f"```bash\n{typed}\n```" in (repeated / "final" / "README.md").read_text(encoding="utf-8")


def test_the_flags_that_say_where_a_config_lies_go_with_every_job() -> None:
    typed = ["rm-train", "--multirun", "--config-dir", "a b", "--config-name=config", "seed=1,2"]

    assert hydra_flags(typed) == ["--config-dir", "a b", "--config-name", "config"]
    assert hydra_flags(["rm-train", "-m", "seed=1,2"]) == []
