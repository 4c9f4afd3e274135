"""`rm-compare` as a user meets it: its tables, its exit codes, one line for a wrong input and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rm_experiments.cli import compare as command
from rm_experiments.cli.application import directories_first
from rm_experiments.errors import ConfigError
from tests.cli.typed import exit_code

Run = Callable[..., Path]
FAST = ("num_resamples=1000", "html=false", "output_dir=out")


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of this test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(cwd: Path, evaluated: Callable[..., Any], write_run: Run) -> Run:
    """`run(name, seed, quality, **config)`: a run in the working directory; quality is the mean of its margins."""

    def write(name: str, seed: int = 1, quality: float = 0.5, **config: Any) -> Path:
        margins = quality + np.random.default_rng(seed).normal(size=40)
        # The working directory has no data: texts are not looked for.
        return write_run(
            cwd / name, {10: {"eval": evaluated(margins)}}, {"seed": seed, **config}, {"status": "finished"}, final=10
        )

    return write


def rm_compare(monkeypatch: pytest.MonkeyPatch, *arguments: str, columns: int = 100) -> int:
    """The command in this process; its exit code."""
    monkeypatch.setenv("COLUMNS", str(columns))
    return exit_code(monkeypatch, command.main, "rm-compare", *arguments)


def contents(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def table(out: str, title: str) -> list[str]:
    """The lines below a title, to the next empty one."""
    lines = out.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(title))
    return lines[start + 1 : lines.index("", start)]


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_it_answers_with_a_ranking_and_the_differences(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2, 3):
        run(f"good{seed}", seed, 2.0, optimizer={"lr": 0.001})
        run(f"bad{seed}", seed + 10, -2.0, optimizer={"lr": 10})
    names = [f"{kind}{seed}" for kind in ("bad", "good") for seed in (1, 2, 3)]
    assert rm_compare(monkeypatch, *names, *FAST) == 0
    out = capsys.readouterr().out
    found = json.loads(Path("out/compare.json").read_text(encoding="utf-8"))
    bad, good = (one["metrics"]["eval"] for one in found["groups"])

    assert out.splitlines()[0] == "Best on eval: B lr=0.001, surely better than all others."
    head, first, second, _ = table(out, "eval: 40 pairs of 20 prompts")
    assert cells(head) == ["Place", "Candidate", "Seeds", "Sd", "Accuracy", "95% interval", "Loss"]

    def row(place: int, name: str, values: dict[str, Any]) -> list[str]:
        one = values["accuracy"]
        return [str(place), name, "3", f"{one['sd']:.4f}", f"{one['mean']:.4f}",
                f"{one['low']:.3f} to {one['high']:.3f}", f"{values['loss']['mean']:.4f}"]  # fmt: skip

    assert cells(first) == row(1, "B lr=0.001", good)
    assert cells(second) == row(2, "A lr=10", bad)

    assert [cells(one) for one in table(out, "What differs in their configs")] == [
        ["Setting", "A", "B"], ["optimizer.lr", "10", "0.001"]
    ]  # fmt: skip
    lines = [cells(one) for one in table(out, "Differences")]
    whole = [one for one in found["comparisons"] if one["subset"] is None]
    assert lines[1][:4] == ["eval", "B - A", "accuracy", f"{whole[0]['difference']:+.4f}"]
    assert lines[1][4] == f"{whole[0]['low']:+.3f} to {whole[0]['high']:+.3f}"
    assert (lines[1][5:], lines[2][-1]) == (
        ["< .001", f"{whole[0]['smallest_detectable']:.3f}", "B is better"], "B is better"
    )  # fmt: skip
    # A smaller loss is better.
    assert lines[2][3].startswith("-")
    assert lines[3][0].startswith("Uncertainty from prompts and the variance between seeds.")
    subsets = [cells(one) for one in table(out, "Accuracy of B minus A by subset of eval")]
    assert {one[0] for one in subsets[1:]} == {"list", "sum"}
    assert all(one[1] == "20" and one[-1] == "B is better" for one in subsets[1:])
    assert out.splitlines()[-1] == "Numbers  out/compare.json"
    assert contents(Path("out")) == {"compare.json"}


def test_models_that_are_alike_are_not_called_different(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [run(f"run{seed}", seed, 0.5, lr=seed).name for seed in (1, 2)]
    assert rm_compare(monkeypatch, *names, *FAST) == 0
    out = capsys.readouterr().out
    verdict, *_ = out.splitlines()
    assert re.fullmatch(
        r"On eval no candidate is surely better .* highest accuracy has [AB] lr=[12] seed=[12]\.", verdict
    )
    assert [cells(one)[0] for one in table(out, "eval: 40")[1:3]] == ["1-2", "1-2"]
    assert {cells(one)[-1] for one in table(out, "Differences")[1:3]} == {"not different"}
    assert "alone: with one seed each, what another seed would change is not counted." in out
    assert "Places that overlap are statistically the same." in out


def test_seeds_of_one_config_are_listed(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [run(f"run{seed}", seed).name for seed in (1, 2)]
    assert rm_compare(monkeypatch, *names, *FAST) == 0
    out = capsys.readouterr().out
    found = json.loads(Path("out/compare.json").read_text(encoding="utf-8"))
    assert out.startswith("One config, 2 seeds: they differ by chance.\n")
    rows = [cells(one) for one in table(out, "eval: 40")[1:3]]
    accuracies = [one["metrics"]["eval"]["accuracy"] for one in found["runs"]]
    assert [(one[0], one[1]) for one in rows] == [
        (f"seed={seed}", f"{accuracy:.4f}") for seed, accuracy in zip((1, 2), accuracies, strict=True)
    ]
    sd = np.std(accuracies, ddof=1)
    assert f"Mean accuracy {np.mean(accuracies):.4f}, standard deviation between seeds {sd:.4f}." in out
    assert "Note: All runs have one config and differ in their seed only" in out


def test_one_run_has_nothing_to_be_compared_with(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("alone")
    assert rm_compare(monkeypatch, "alone", *FAST) == 0
    assert capsys.readouterr().out.startswith("One run: nothing to compare it with on eval.\n")


# What may be longer than the terminal is wide: sentences and paths.
_PROSE = ("Uncertainty", "Note:", "Numbers", "Page", "On eval", "Highest", "Best on", "Places", "Accuracy of")


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("many", [False, True])
def test_tables_fit_the_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int, many: bool
) -> None:
    if many:
        for seed in range(33):
            run(f"sweep/{seed}", seed, seed / 10, optimizer={"lr": seed / 7, "name": "[bold]adam[/bold]"})
        names = ["sweep"]
    else:
        for seed in range(4):
            path = f"/a/very/long/path/of/a/model/that/has/no/end/{seed}"
            run(f"run{seed}", seed, 0.4, model={"name_or_path": path, "a_long_name_of_a_setting": path}, lr=seed)
        names = [f"run{seed}" for seed in range(4)]
    assert rm_compare(monkeypatch, *names, *FAST, columns=columns) == 0
    lines = [one for one in capsys.readouterr().out.splitlines() if not one.startswith(_PROSE)]
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    # Numbers are never cut.
    intervals = re.findall(r"\b[01]\.\d{3} to [01]\.\d{3}\b", text)
    assert len(intervals) >= (30 if many else 4)
    if many:
        assert "... and 3 more in compare.json" in text
        assert re.search(r"\bA1 lr=3\.71429", text)
        assert re.search(r"\.\.\. and \d+ more in compare\.json", text)
    else:
        assert len(re.findall(r"not different|is better", text)) >= 12


def test_a_wide_terminal_shows_what_could_have_been_detected(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [run(f"run{seed}", seed, lr=seed).name for seed in (1, 2)]
    heads = []
    for columns in (95, 96):
        assert rm_compare(monkeypatch, *names, *FAST, columns=columns) == 0
        heads.append(cells(table(capsys.readouterr().out, "Differences")[0]))
    assert heads == [
        ["Set", "Pair", "Metric", "Difference", "95% interval", "p (Holm)"],
        ["Set", "Pair", "Metric", "Difference", "95% interval", "p (Holm)", "Detectable"],
    ]


def test_names_of_directories_may_hold_anything(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [
        "a b", "it's", 'say "x"', "a,b", "größe 🙂", "[c]{d}(e)", "x${y}", "lr=0.1,seed=2", "back\\slash", "end\\",
        "<i>", "null", "1", "#", "a:b",
    ]  # fmt: skip
    for seed, name in enumerate(names):
        run(name, seed, lr=seed)
    assert rm_compare(monkeypatch, *names, *FAST) == 0
    found = json.loads(Path("out/compare.json").read_text(encoding="utf-8"))
    assert [one["path"] for one in found["runs"]] == names
    assert "A lr=0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a", "b", "x=1"], ["directories=['a','b']", "x=1"]),
        (["a"], ["directories=['a']"]),
        (["--cfg", "job", "a", "b", "x=1", "~y"], ["--cfg", "job", "directories=['a','b']", "x=1", "~y"]),
        (["a", "b", "x=1", "--cfg", "job"], ["directories=['a','b']", "x=1", "--cfg", "job"]),
        (["x=1"], ["x=1"]),
        (["~/runs"], ["directories=['~/runs']"]),
        ([], []),
    ],
)
def test_directories_become_a_setting(cwd: Path, arguments: list[str], expected: list[str]) -> None:
    assert directories_first("rm-compare", "directories", arguments) == expected


@pytest.mark.parametrize(
    "arguments", [["a", "x y", "html=false", "--cfg", "job"], ["--cfg", "job", "a", "x y", "html=false"]]
)
def test_the_composed_config_is_shown(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert rm_compare(monkeypatch, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["name: compare", "directories:", "- a", "- x y"]
    assert "html: false" in lines
    assert contents(cwd) == set()


def test_directories_come_first(cwd: Path) -> None:
    with pytest.raises(ConfigError, match=r"^b: directories come first, settings after, as in rm-compare b key=value$"):
        directories_first("rm-compare", "directories", ["a", "html=false", "b"])


REFUSED: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "no directory was named; type rm-compare DIR [DIR ...], each a run, a sweep or a checkpoint"),
    "no such directory": (["nowhere"], "nowhere: no such directory; name a run, a sweep or a checkpoint"),
    "no run": (["full"], "full: holds no run (a directory with metrics.jsonl and eval/)"),
    "a mistyped key": (["one", "basline=one"], "basline is not a key; did you mean baseline?"),
    "an added key": (["one", "+x=1"], "x is not a key; rm-compare --help lists all keys"),
    "a wrong choice": (["one", "rows=all"], "rows: Invalid value 'all', expected one of [same, common]"),
    "a wrong type": (["one", "num_resamples=many"], "num_resamples: Value 'many' of type 'str' could not be converted "
                                                    "to Integer"),
    "a wrong value": (["one", "at=frist"], "at=frist: allowed are final, best, last, or the number of a step; "
                                           "try at=final"),
    "a directory after a setting": (
        ["one", "at=last", "two"], "two: directories come first, settings after, as in rm-compare two key=value"
    ),
    "a sweep": (["one", "-m"], "--multirun: rm-compare has no sweeps; leave it out"),
    "a set that is not there": (["one", "two", "sets=hard"], "sets=hard: 2 of the runs must have this set; they share "
                                                             "eval"),
    "other rows": (["one", "other"], "eval: different rows: one has 40 pairs, other 30, and 30 are the same; evaluate "
                                     "both on one set with rm-eval, or compare what they share with rows=common"),
    "a baseline that is not there": (
        ["one", "two", "baseline=three"],
        "baseline=three: is none of the compared runs; their labels are 'lr=1', 'lr=2'",
    ),
    "a place that is taken": (["one", "output_dir=full/mine.txt"], "output_dir=full/mine.txt: is a file; choose a "
                                                                   "directory"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_input_is_one_line_on_stderr_and_leaves_nothing(
    cwd: Path, run: Run, evaluated: Callable[..., Any], write_run: Run, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str,
) -> None:  # fmt: skip
    run("one", lr=1)
    run("two", lr=2)
    write_run(cwd / "other", {10: {"eval": evaluated(range(30), range(10, 40))}}, {"lr": 3}, {"status": "finished"})
    (cwd / "full").mkdir()
    (cwd / "full" / "mine.txt").touch()
    before = contents(cwd)
    assert rm_compare(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"rm-compare: {message}\n")
    assert contents(cwd) == before


def test_the_command_of_its_own_imports_no_torch_and_writes_both_files(run: Run, cwd: Path) -> None:
    run("one", 1, lr=1)
    run("two", 2, lr=2)
    code = (
        "import sys; from rm_experiments.cli.compare import main; main(); "
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    command_line = [sys.executable, "-c", code, "one", "two", "num_resamples=1000"]
    done = subprocess.run(command_line, cwd=cwd, capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "False False"
    (directory,) = (cwd / "outputs" / "compare").iterdir()
    assert contents(directory) == {"compare.json", "compare.html"}
    page, numbers = done.stdout.splitlines()[-3:-1]
    assert page == f"Page     outputs/compare/{directory.name}/compare.html"
    assert numbers == f"Numbers  outputs/compare/{directory.name}/compare.json"
    assert contents(cwd / "outputs") == {
        "compare", f"compare/{directory.name}", *(f"compare/{directory.name}/compare.{one}" for one in ("json", "html"))
    }  # fmt: skip
