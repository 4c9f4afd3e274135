"""`rm-data` as a user meets it: what it writes and says, and one line for a wrong input with nothing left behind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rm_experiments.cli import data as command
from rm_experiments.config.compose import load_config_yaml
from tests.cli.typed import exit_code

ROWS = [
    {
        "prompt": f"What is {number}? <script>alert({number})</script>",
        "chosen": f"It is {number}, surely." + " And more." * number,
        "rejected": f"No idea about {number}.",
        "margin": float(number % 3),
        "subset": "even" if number % 2 == 0 else "odd",
    }
    for number in range(20)
]
SMALL = (
    "model=tiny", "model.scratch.vocab_size=300", "data=local", "tracking=none", "data.cache_dir=null",
)  # fmt: skip


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data of this test's own."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    (tmp_path / "held.jsonl").write_text(
        "".join(json.dumps({**row, "prompt": f"And {row['prompt']}"}) + "\n" for row in ROWS[:6]), encoding="utf-8"
    )
    (tmp_path / "broken.jsonl").write_text('{"prompt": "p", "chosen" "a"}\n', encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rm_data(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command in this process; its exit code."""
    return exit_code(monkeypatch, command.main, "rm-data", *arguments)


def contents(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def report_of(directory: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((directory / "data_report.json").read_text(encoding="utf-8"))
    return values


def test_it_writes_report_page_pictures_and_config(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "data.train=rows.jsonl", "data.eval=held.jsonl", "name=mine", "run_dir=out/look"]
    assert rm_data(monkeypatch, *arguments) == 0

    out = cwd / "out" / "look"
    kinds = ("tokens", "prompt_tokens", "length_difference", "margins", "subsets")
    pictures = {f"plots/{split}_{kind}.png" for split in ("train", "eval") for kind in kinds}
    assert contents(cwd / "out") == {
        "look", *(f"look/{one}" for one in ("data.html", "data_report.json", "config.yaml", "plots", *pictures))
    }  # fmt: skip
    assert all((out / one).read_bytes().startswith(b"\x89PNG\r\n") for one in pictures)
    splits = report_of(out)["splits"]
    assert {name: (one["rows_read"], one["kept"]) for name, one in splits.items()} == {
        "train": (20, 20),
        "eval": (6, 6),
    }
    assert splits["train"]["subsets"] == {"even": 10, "odd": 10}
    config = load_config_yaml(out / "config.yaml")
    assert (config.name, config.data.train) == ("mine", "rows.jsonl")
    page = (out / "data.html").read_text(encoding="utf-8")
    assert page.count("<article>") == 16 + 6
    assert page.count("<img ") == len(pictures)
    assert "<script" not in page
    assert "rows.jsonl line 1" in page
    printed = capsys.readouterr().out
    assert "train: 20 rows read, 20 pairs kept" in printed
    assert "eval: 6 rows read, 6 pairs kept" in printed
    assert printed.splitlines()[-3:] == [
        "Page: out/look/data.html", "Numbers: out/look/data_report.json", "Pictures: out/look/plots"
    ]  # fmt: skip


def test_a_name_that_the_terminal_cannot_show_is_escaped(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert rm_data(monkeypatch, *SMALL, "data.train=rows.jsonl", "run_dir='caf\u00e9'") == 0
    sys.stdout.flush()
    assert raw.getvalue().splitlines()[-1] == b"Pictures: caf\\xe9/plots"


def test_without_evaluation_data_all_pairs_are_looked_at(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        assert rm_data(monkeypatch, *SMALL, "data.train=rows.jsonl", "name=mine") == 0
    made = sorted((cwd / "outputs" / "data" / "mine").iterdir())
    assert len(made) == 2, "a name that is taken gets a number"
    assert list(report_of(made[0])["splits"]) == ["train"]
    assert report_of(made[1])["splits"]["train"]["kept"] == 20


def test_a_cut_pair_is_shown_as_cut(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = ["data.max_length=24", "data.train=rows.jsonl", "run_dir=out"]
    assert rm_data(monkeypatch, *SMALL, *limits) == 0
    train = report_of(cwd / "out")["splits"]["train"]
    assert train["truncated_prompts"] > 0
    assert train["truncated_chosen"] > 0
    page = (cwd / "out" / "data.html").read_text(encoding="utf-8")
    assert "older tokens were cut here</mark>" in page
    assert "the answer's end was cut here</mark>" in page


REFUSED: dict[str, tuple[list[str], str]] = {
    "a sweep": (["--multirun", "seed=1,2"], "--multirun: rm-data has no sweeps; leave it out"),
    "a named sweep": (["sweep=seeds"], "sweep=seeds: rm-data has no sweeps; leave it out"),
    "a mistyped key": (["data.trian=x"], "data.trian is not a key; did you mean data.train?"),
    "a missing file": (
        ["data=local", "data.train=row.jsonl"],
        "data.train=row.jsonl: no such file; did you mean data.train=rows.jsonl?",
    ),
    "a dry run": (
        ["data=local", "data.train=rows.jsonl", "dry_run=true"],
        "dry_run=true: rm-data trains nothing anyway; leave it out",
    ),
    "a full directory": (
        ["data=local", "data.train=rows.jsonl", "run_dir=full"],
        "run_dir=full: is not empty (mine.txt, ...); choose another run_dir",
    ),
    "a file as directory": (
        ["data=local", "data.train=rows.jsonl", "run_dir=rows.jsonl"],
        "run_dir=rows.jsonl: is a file; choose another run_dir",
    ),
    "an option that is not there": (["data=locl"], "data=locl: allowed are "),
    "a broken file": (["data=local", "data.train=broken.jsonl", "data.cache_dir=null"], "data.train"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_input_is_one_line_and_leaves_nothing(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = contents(cwd)

    code = rm_data(monkeypatch, *arguments)

    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith(f"rm-data: {message}")
    assert err.count("\n") == 1
    assert contents(cwd) == before


def test_a_failure_while_writing_leaves_nothing(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rm_experiments.runner import look

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(look, "write_json", fail)
    before = contents(cwd)
    with pytest.raises(OSError, match="no space left"):
        rm_data(monkeypatch, *SMALL, "data.train=rows.jsonl", "run_dir=a/b/c")
    assert contents(cwd) == before


def test_help_and_config_import_no_torch(cwd: Path) -> None:
    script = (
        "import sys; from rm_experiments.cli.data import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    before = contents(cwd)
    for flags, expected in ((["--help"], "rm-data: look at preference pairs"), (["--cfg", "job"], "name: rm")):
        done = subprocess.run(
            [sys.executable, "-c", script, *flags], cwd=cwd, env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(expected)
    assert contents(cwd) == before
