"""`rm-score` as a user meets it: what it prints, exit codes, one line for a wrong input and nothing left behind."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rm_experiments.cli.score import main
from tests.cli.typed import exit_code

ROW = '{"prompt": "Say hi.", "response": "Hi!"}\n'


def rm_score(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return exit_code(monkeypatch, main, "rm-score", *arguments)


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(ROW * 3)
    return tmp_path


def test_a_file_is_scored_and_told(
    cwd: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"checkpoint={trained_run}", "input=rows.jsonl", "train.device=cpu"]
    assert rm_score(monkeypatch, *arguments, "output=out.jsonl", "data.max_length=12") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Scored   3 rows, 3 answers in ")
    assert lines[1].startswith("Rewards  mean ")
    assert lines[2].startswith("Cut      the oldest tokens of 3 prompts, the end of ")
    assert lines[2].endswith(" answers (data.max_length=12)")
    assert lines[3:] == ["Output   out.jsonl"]
    assert {one.name for one in cwd.iterdir()} == {"rows.jsonl", "out.jsonl"}
    assert rm_score(monkeypatch, *arguments, "output=out.jsonl") == 2
    assert capsys.readouterr().err == (
        "rm-score: output=out.jsonl: is already there; type overwrite=true, or choose another name\n"
    )
    (cwd / "rows.jsonl").write_text(ROW + "{}\n")
    assert rm_score(monkeypatch, *arguments, "output=out.jsonl", "overwrite=true", "bad_rows=aside") == 0
    assert "Aside    1 rows that cannot be scored: out.jsonl.bad.jsonl" in capsys.readouterr().out


def test_standard_input_to_standard_output(
    cwd: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    class Piped:
        buffer = io.BytesIO((ROW * 2).encode())

        @staticmethod
        def isatty() -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", Piped)
    assert rm_score(monkeypatch, f"checkpoint={trained_run}", "input=-", "output=-", "train.device=cpu") == 0
    captured = capfdbinary.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [list(row) for row in rows] == [["prompt", "response", "reward"]] * 2
    assert b"Scored   2 rows, 2 answers in " in captured.err
    assert {one.name for one in cwd.iterdir()} == {"rows.jsonl"}


REFUSED: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "checkpoint is not set: a model directory, a run or a Hub id is needed; type checkpoint=DIR"),
    "no input": (["checkpoint=x"], "input is not set: a file of rows is needed; type input=rows.jsonl"),
    "no output": (["checkpoint=x", "input=rows.jsonl"],
                  "output is not set: a file for the scored rows is needed; type output=scored.jsonl"),
    "an unknown kind": (["checkpoint=x", "input=rows.txt", "output=o.jsonl"],
                        "input=rows.txt: must end in .jsonl, .jsonl.gz, .csv, .csv.gz, .parquet, or be '-'"),
    "no such file": (["checkpoint=RUN", "input=row.csv", "output=o.jsonl"],
                     "input=row.csv: no such file (working directory: CWD)"),
    "no such model": (["checkpoint=./no", "input=rows.jsonl", "output=o.jsonl"],
                      "checkpoint=./no: no such directory; name a model directory, a run or a Hub id"),
    "a mistyped key": (["checkpoint=RUN", "inptu=rows.jsonl"], "inptu is not a key; did you mean input?"),
    "a wrong choice": (["rows=pairs"], "rows: Invalid value 'pairs', expected one of [auto, response, responses, "
                                       "messages, pair]"),
    "nowhere to put bad rows": (["checkpoint=x", "input=rows.jsonl", "output=-", "bad_rows=aside"],
                                "bad_rows=aside: needs a file to lie beside, not standard output; try "
                                "output=scored.jsonl"),
    "a suffix of signs": (["checkpoint=x", "input=rows.jsonl", "output=o.jsonl", "suffix=' b'"],
                          "suffix= b: must be letters or digits, with '_' and '-'; try suffix=_b"),
    "a short limit": (["checkpoint=x", "input=rows.jsonl", "output=o.jsonl", "data.max_length=3"],
                      "data.max_length=3: must be a whole number of at least 4, or null"),
    "heads of one": (["checkpoint=RUN", "input=rows.jsonl", "output=o.jsonl", "heads=true"],
                     "heads=true: the model has one head, whose reward is there anyway; leave it out"),
    "a column that is not there": (
        ["checkpoint=RUN", "input=rows.jsonl", "output=o.jsonl", "data.columns.response=respnse"],
        "input: rows.jsonl line 1: column 'respnse' is missing (columns: prompt, response); did you mean "
        "data.columns.response=response?; to put such rows into a file of their own type bad_rows=aside",
    ),
    "a sweep": (["checkpoint=RUN", "-m"], "--multirun: rm-score has no sweeps; leave it out"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_input_is_one_line_on_stderr_and_leaves_nothing(
    cwd: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    typed = [one.replace("RUN", str(trained_run)) for one in arguments]
    assert rm_score(monkeypatch, *typed) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"rm-score: {message}\n".replace("CWD", str(cwd)))
    assert [one.name for one in cwd.iterdir()] == ["rows.jsonl"]


def test_help_and_the_composed_config_need_no_torch(cwd: Path) -> None:
    code = "import sys; from rm_experiments.cli.score import main; main(); print('torch' in sys.modules)"
    shown = [
        subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=True
        ).stdout
        for arguments in (["--help"], ["checkpoint=a", "input=b.csv", "output=c.csv", "--cfg", "job"])
    ]
    assert shown[0].startswith("rm-score: the rewards that a saved model gives the answers in a file.")
    assert "bad_rows: stop" in shown[0]
    assert shown[1].splitlines()[:4] == ["checkpoint: a", "input: b.csv", "output: c.csv", "rows: auto"]
    assert shown[1].splitlines()[-1] == "False"
