"""`rm-merge` as a user meets it: what it prints, exit codes, one line for a wrong input and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rm_experiments.cli.merge import main
from tests.cli.typed import exit_code


def rm_merge(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return exit_code(monkeypatch, main, "rm-merge", *arguments)


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_full_model_is_written_and_told(
    cwd: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [str(trained_run / "checkpoints" / one) for one in ("step_00000002", "step_00000004")]
    assert rm_merge(monkeypatch, *steps, "output=out", "weights=[1,3]", "dtype=float32") == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "Averaged 2 models, weights in float32"
    assert lines[1].startswith("Reload   largest difference of a reward ")
    assert lines[2:] == ["Model    out"]
    assert (cwd / "out" / "model.safetensors").is_file()
    assert {one.name for one in cwd.iterdir()} == {"out"}

    assert rm_merge(monkeypatch, *steps, "output=out") == 2
    assert capsys.readouterr().err == "rm-merge: output=out: exists already; choose another directory\n"


REFUSED: dict[str, tuple[list[str], str]] = {
    "nothing": (["output=x"], "no directory was named; type rm-merge DIR output=OUT for an adapter, rm-merge DIR DIR "
                              "output=OUT for an average"),
    "no output": (["nowhere"], "output=null: the new model needs a directory; try output=merged"),
    "no such directory": (["./nowhere", "output=x"], "./nowhere: no such directory; name a model directory, a run or a "
                                                     "Hub id"),
    "no model": (["empty", "output=x"], "empty: holds no model (config.json or adapter_config.json) and no run"),
    "a mistyped key": (["empty", "ouput=x"], "ouput is not a key; did you mean output?"),
    "a share for one": (["empty", "output=x", "weights=[1]"], "weights=[1.0]: has no effect with one model; leave it "
                                                               "out"),
    "no share": (["empty", "output=x", "weights=[1,0]"], "weights=[1.0, 0.0]: each must be a finite number above 0"),
    "a wrong type": (["empty", "output=x", "dtype=int8"], "dtype: Invalid value 'int8', expected one of [auto, "
                                                          "float32, bfloat16, float16]"),
    "a directory after a setting": (
        ["output=x", "empty"], "empty: directories come first, settings after, as in rm-merge empty key=value"
    ),
    "a sweep": (["empty", "output=x", "-m"], "--multirun: rm-merge has no sweeps; leave it out"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_input_is_one_line_on_stderr_and_leaves_nothing(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (cwd / "empty").mkdir()
    assert rm_merge(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"rm-merge: {message}\n")
    assert [one.name for one in cwd.iterdir()] == ["empty"]


def test_help_and_the_composed_config_need_no_torch(cwd: Path) -> None:
    code = "import sys; from rm_experiments.cli.merge import main; main(); print('torch' in sys.modules)"
    shown = [
        subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=True
        ).stdout
        for arguments in (["--help"], ["a", "b c", "output=x", "--cfg", "job"])
    ]
    assert shown[0].startswith("rm-merge: one full model of an adapter and its base model, or the average")
    assert "weights: null" in shown[0]
    assert shown[1].splitlines()[:4] == ["directories:", "- a", "- b c", "output: x"]
    assert shown[1].splitlines()[-1] == "False"
    assert list(cwd.iterdir()) == []
