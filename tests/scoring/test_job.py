"""A file of rows and the same rows with their rewards: what is added, what stays, bad rows, and going on."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_experiments import RewardModel
from rm_experiments.config.score_schema import BadRows, RowKind, ScoreConfig, ScoreResume
from rm_experiments.errors import CheckpointError, ConfigError, DataError
from rm_experiments.scoring import job
from rm_experiments.scoring import plan as plan_module
from rm_experiments.scoring.columns import ranks_of
from rm_experiments.scoring.job import Interrupted, ScoreResult, score_file
from rm_experiments.scoring.parts import Parts

ROWS: list[dict[str, Any]] = [
    {"prompt": "Say hi.", "response": "Hi!", "id": "a"},
    {"prompt": "Say hi.", "responses": ["Hi!", "No.", "Hi!"], "nested": {"one": [1, 2.5, None]}},
    {"messages": [{"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "Hi!"}], "id": None},
    {"prompt": "Say hi.", "chosen": "Hi!", "rejected": "Never.", "label_share": 0.2},
    {"prompt": [{"role": "user", "content": "Say hi."}], "completion": "\u00e9\U0001f600", "id": "e"},
]


@pytest.fixture(scope="module")
def model(trained_run: Path) -> RewardModel:
    return RewardModel.load(trained_run, device="cpu")


@pytest.fixture
def score(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScoreResult]:
    """`score("in.jsonl", "out.jsonl", ...)` in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(source: str, output: str, **more: Any) -> ScoreResult:
        config = ScoreConfig(checkpoint=str(trained_run), input=source, output=output)
        for key, value in more.items():
            place: Any = config
            *above, last = key.split("__")
            for one in above:
                place = getattr(place, one)
            setattr(place, last, value)
        return score_file(config)

    return run


def write(path: Path | str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


def read(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text_of(path).splitlines()]


def text_of(path: Path | str) -> str:
    raw = Path(path).read_bytes()
    return (gzip.decompress(raw) if str(path).endswith(".gz") else raw).decode()


def test_what_is_added_to_each_kind_of_row(score: Callable[..., ScoreResult], model: RewardModel) -> None:
    write("in.jsonl", ROWS)
    result = score("in.jsonl", "out.jsonl")
    hi, no, never = model.score("Say hi.", ["Hi!", "No.", "Never."])
    other = model.score("Say hi.", "\u00e9\U0001f600")
    expected = [
        {"reward": hi},
        {"rewards": [hi, no, hi], "best": 0 if hi >= no else 1, "rank": [1, 3, 1] if hi >= no else [2, 1, 2]},
        {"reward": hi},
        # A share of annotators that prefers the other does not change which is which.
        {"reward_chosen": hi, "reward_rejected": never},
        {"reward": other},
    ]
    found = read("out.jsonl")
    for row, before, added in zip(found, ROWS, expected, strict=True):
        assert list(row) == [*before, *added]
        assert {name: row[name] for name in before} == before
        for name, value in added.items():
            assert row[name] == pytest.approx(value, abs=1e-6)
    rewards = [hi, hi, no, hi, hi, hi, never, other]
    assert result.mean == pytest.approx(sum(rewards) / 8, abs=1e-6)
    assert result.sd == pytest.approx((sum((one - result.mean) ** 2 for one in rewards) / 8) ** 0.5, abs=1e-6)
    assert (result.num_rows, result.num_answers, result.num_bad, result.bad_file) == (5, 8, 0, None)
    assert sorted(os.listdir()) == ["in.jsonl", "out.jsonl"]


def test_lines_stay_as_they_are_letter_by_letter(score: Callable[..., ScoreResult]) -> None:
    lines = [
        '{"prompt":"a" ,  "response":"\\u00e9", "n": 1.50, "big": 123456789012345678901234567890, "e": 1E400}',
        '{ "response" : "b", "x": {"k": [ ]} }  ',
    ]
    Path("in.jsonl").write_text("\ufeff" + lines[0] + "\r\n\n" + lines[1], encoding="utf-8")
    score("in.jsonl", "out.jsonl")
    found = Path("out.jsonl").read_text(encoding="utf-8").splitlines()
    for line, before in zip(found, lines, strict=True):
        head, _, tail = line.partition(', "reward": ')
        assert head == before.strip()[:-1].rstrip()
        assert float(tail[:-1]) == json.loads(line)["reward"]


def test_files_of_all_kinds_give_the_same_rewards(score: Callable[..., ScoreResult]) -> None:
    rows = [{"question": f"Say {number}.", "answer": f'"{number}", yes\nno', "n": number} for number in range(5)]
    write("in.jsonl", rows)
    Path("in.jsonl.gz").write_bytes(gzip.compress(Path("in.jsonl").read_bytes()))
    with Path("in.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer", "n"])
        writer.writeheader()
        writer.writerows(rows)
    table = pa.Table.from_pylist(rows, pa.schema([("question", "string"), ("answer", "string"), ("n", pa.int16())]))
    pq.write_table(table.replace_schema_metadata({"mine": "kept"}), "in.parquet")
    found: dict[str, list[dict[str, Any]]] = {}
    outputs = {
        "in.jsonl": ("jsonl", "jsonl.gz", "csv", "csv.gz", "parquet"), "in.jsonl.gz": ("jsonl.gz",),
        "in.csv": ("csv", "jsonl", "parquet"), "in.parquet": ("parquet", "csv", "jsonl"),
    }  # fmt: skip
    for source, endings in outputs.items():
        for ending in endings:
            output = f"{source}.{ending}"
            score(source, output, data__columns__prompt="question", data__columns__response="answer")
            if ending == "parquet":
                found[output] = pq.read_table(output).to_pylist()
            elif "csv" in ending:
                found[output] = list(csv.DictReader(io.StringIO(text_of(output), newline="")))
            else:
                found[output] = read(output)
    rewards = [row["reward"] for row in found["in.jsonl.jsonl"]]
    assert len(set(rewards)) == 5
    for output, scored in found.items():
        assert [float(row["reward"]) for row in scored] == rewards, output
        assert [(row["question"], row["answer"], int(row["n"])) for row in scored] == [tuple(r.values()) for r in rows]
    schema = pq.read_schema("in.parquet.parquet")
    assert schema.field("n").type == pa.int16()
    assert schema.metadata[b"mine"] == b"kept"


def test_kinds_may_mix_in_tables(score: Callable[..., ScoreResult]) -> None:
    write("in.jsonl", ROWS[:4])
    score("in.jsonl", "out.parquet")
    score("in.jsonl", "out.jsonl")
    score("out.parquet", "again.parquet", suffix="_b")
    for row, plain in zip(pq.read_table("again.parquet").to_pylist(), read("out.jsonl"), strict=True):
        for name in ("reward", "rewards", "best", "rank", "reward_chosen", "reward_rejected"):
            assert row[name] == row[f"{name}_b"] == plain.get(name)
    score("in.jsonl", "out.csv")
    with Path("out.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert json.loads(cells[1]["rewards"]) == read("out.jsonl")[1]["rewards"]
    assert (cells[0]["rewards"], json.loads(cells[1]["nested"])) == ("", ROWS[1]["nested"])
    # A prompt of turns among those of text.
    write("in.jsonl", ROWS)
    with pytest.raises(
        DataError, match=r"output: column 'prompt' does not fit into a Parquet .*; write output=NAME.js"
    ):
        score("in.jsonl", "x.parquet")
    assert not Path("x.parquet.parts").exists()


@pytest.mark.parametrize(
    ("rewards", "ranks"), [([0.5], [1]), ([1.0, 3.0, 2.0], [3, 1, 2]), ([2.0, 1.0, 2.0, 0.0], [1, 3, 1, 4])]
)
def test_ranks_by_hand(rewards: list[float], ranks: list[int]) -> None:
    assert ranks_of(rewards) == ranks


BAD_LINES = ['{"prompt": "a"}', "{broken", '{"prompt": "a", "response": 5}', "[1]", '{"response": "a b c d e f g h i"}']


def test_bad_rows_go_aside_with_their_reason(score: Callable[..., ScoreResult]) -> None:
    good = ['{"prompt": "a", "response": "b"}', '{"prompt": "c", "response": "d"}']
    Path("in.jsonl").write_bytes(
        ("\n".join([good[0], *BAD_LINES, good[1]]) + "\n").encode() + b'{"response": "\xff"}\n'
    )
    result = score("in.jsonl", "out.jsonl", bad_rows=BadRows.aside, data__max_length=12, data__overlength="error")
    assert [line.partition(', "reward"')[0] + "}" for line in Path("out.jsonl").read_text().splitlines()] == good
    assert (result.num_rows, result.num_bad, result.num_answers) == (8, 6, 2)
    assert result.bad_file == Path("out.jsonl.bad.jsonl")
    aside = read("out.jsonl.bad.jsonl")
    assert [(one["number"], one["where"]) for one in aside] == [
        (n, f"in.jsonl line {n + 1}") for n in (1, 2, 3, 4, 5, 7)
    ]
    reasons = (
        "has no answer (columns: prompt)", "broken JSON", "column 'response' is the number 5", "must be an object",
        "tokens exceed data.max_length=12", "byte 0xff at position 15 is not UTF-8",
    )  # fmt: skip
    for one, reason in zip(aside, reasons, strict=True):
        assert reason in one["reason"]
    assert (aside[1]["row"].strip(), aside[2]["row"]) == ("{broken", {"prompt": "a", "response": 5})
    # Once more without bad rows: what was aside is gone.
    write("in.jsonl", ROWS[:1])
    score("in.jsonl", "out.jsonl", bad_rows=BadRows.aside, overwrite=True)
    assert sorted(os.listdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("line", BAD_LINES[:4])
def test_a_bad_row_stops_before_the_model_is_loaded(
    score: Callable[..., ScoreResult], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(RewardModel, "of", lambda *_, **__: pytest.fail("the model was loaded"))
    Path("in.jsonl").write_text('{"response": "a"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"^input: in.jsonl line 2.*; to put such rows .* own type bad_rows=aside$"):
        score("in.jsonl", "out.jsonl")
    assert os.listdir() == ["in.jsonl"]


def test_the_columns_decide_what_is_scored(score: Callable[..., ScoreResult]) -> None:
    write("in.jsonl", [{"prompt": "a", "response": "b", "chosen": "c", "rejected": "d"}])
    with pytest.raises(
        DataError, match=r"line 1: has columns of response and of pair .*; type rows=response or rows=pair;"
    ):
        score("in.jsonl", "out.jsonl")
    score("in.jsonl", "out.jsonl", rows=RowKind.pair)
    assert list(read("out.jsonl")[0])[-2:] == ["reward_chosen", "reward_rejected"]
    with pytest.raises(DataError, match=r"line 1: has a column 'reward_chosen' already, .* type suffix=_new"):
        score("out.jsonl", "again.jsonl", rows=RowKind.pair)
    score("out.jsonl", "again.jsonl", rows=RowKind.pair, suffix="_b")
    (row,) = read("again.jsonl")
    assert row["reward_chosen"] == row["reward_chosen_b"]


DIALOGUE = [{"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "Hi!"}]


def test_a_prompt_is_read_once_wherever_it_stands(score: Callable[..., ScoreResult], model: RewardModel) -> None:
    system = {"role": "system", "content": "Be short."}
    no = [DIALOGUE[0], {"role": "assistant", "content": "No."}]
    rows: list[dict[str, Any]] = [
        {"prompt": "Say hi.", "response": DIALOGUE},
        {"prompt": "", "response": DIALOGUE},
        {"input": "Say hi.", "response": "Hi!"},
        {"prompt": [DIALOGUE[0]], "responses": [DIALOGUE, no]},
        {"prompt": "Say hi.", "response": [system, *DIALOGUE]},
        {"response": "Hi!"},
    ]
    write("in.jsonl", rows)
    result = score("in.jsonl", "out.jsonl")
    hi, other = model.score("Say hi.", ["Hi!", "No."])
    found = read("out.jsonl")
    assert [row["reward"] for row in found[:3]] == pytest.approx([hi] * 3, abs=1e-6)
    assert found[3]["rewards"] == pytest.approx([hi, other], abs=1e-6)
    assert found[4]["reward"] == pytest.approx(model.score_messages([system, *DIALOGUE]), abs=1e-6)
    assert abs(found[4]["reward"] - hi) > 1e-5
    assert result.num_without_prompt == 1
    assert any("1 rows have no prompt" in line for line in result.lines())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": DIALOGUE[:1]}, "ends with a turn of the role user, so there is no answer to score"),
        ({"prompt": "Say hi.", "response": DIALOGUE[:1]}, "an answer holds nothing but the prompt"),
        ({"prompt": "Say hi.", "responses": [DIALOGUE, "No."]}, "only some of its answers begin with the prompt"),
        ({"responses": [DIALOGUE, [{"role": "user", "content": "x"}, DIALOGUE[1]]]}, "that begin differently"),
        ({"prompt": "a", "response": None}, "has no answer"),
    ],
)  # fmt: skip
def test_rows_without_one_answer_to_one_prompt(
    score: Callable[..., ScoreResult], row: dict[str, Any], reason: str
) -> None:
    write("in.jsonl", [row])
    with pytest.raises(DataError, match=reason):
        score("in.jsonl", "out.jsonl")


def test_empty_cells_of_a_table_are_answers(score: Callable[..., ScoreResult], model: RewardModel) -> None:
    Path("in.csv").write_text('\nprompt,chosen,rejected\nSay hi.,Hi!,""\n')
    score("in.csv", "out.csv")
    with Path("out.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["reward_rejected"]) == pytest.approx(model.score("Say hi.", ""), abs=1e-6)


@pytest.mark.parametrize(
    ("rows", "output", "message"),
    [
        ([{"response": "a", "x": {}}], "o.parquet", r"output: .* not fit into a Parquet file"),
        ([{"response": "a", "x": 2**70}], "o.parquet", r"output: column 'x' does not fit into a Parquet file"),
        ([{"response": "a", "x": "\ud800"}], "o.parquet", r"output: column 'x' does not fit into a Parquet file"),
        ([{"response": "a", "x": 2**60}, {"response": "b", "x": 0.5}], "o.parquet", r"output: column 'x' does not fit"),
        (
            [{"response": "a", "rank": 3}, {"responses": ["b"]}],
            "o.csv",
            r"in.jsonl line 1: has a column 'rank'",
        ),
    ],
)
def test_what_a_table_cannot_hold_is_known_before_the_model_is_loaded(
    score: Callable[..., ScoreResult], monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], output: str,
    message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(RewardModel, "of", lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.setattr(plan_module, "_SCHEMA_ROWS", 1)
    write("in.jsonl", rows)
    with pytest.raises(DataError, match=message):
        score("in.jsonl", output)
    assert os.listdir() == ["in.jsonl"]


def test_bad_rows_of_before_and_files_that_change_are_not_lost(
    score: Callable[..., ScoreResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("in.jsonl", many(3))
    Path("out.jsonl.bad.jsonl").write_text("mine\n")
    with pytest.raises(ConfigError, match=r"output=out.jsonl.bad.jsonl: is already there; type overwrite=true"):
        score("in.jsonl", "out.jsonl")
    with pytest.raises(ConfigError, match=r"output=out.jsonl: the input would be replaced"):
        score("out.jsonl.bad.jsonl", "out.jsonl", overwrite=True)
    compute = RewardModel.compute

    def growing(self: RewardModel, *more: Any) -> Any:
        with Path("in.jsonl").open("a") as file:
            file.write('{"response": "more"}\n')
        return compute(self, *more)

    monkeypatch.setattr(RewardModel, "compute", growing)
    with pytest.raises(DataError, match=r"input: in.jsonl changed while it was scored; type the command again"):
        score("in.jsonl", "other.jsonl")


def test_a_command_that_was_killed_when_its_output_was_in_place_leaves_nothing(
    score: Callable[..., ScoreResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("in.jsonl", many(3))
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "remove", lambda self: None)
        score("in.jsonl", "out.jsonl")
    assert Path("out.jsonl.parts").is_dir()
    with pytest.raises(ConfigError, match="is already there"):
        score("in.jsonl", "out.jsonl")
    assert sorted(os.listdir()) == ["in.jsonl", "out.jsonl"]


def test_a_command_that_was_killed_before_its_output_was_renamed_goes_on(
    score: Callable[..., ScoreResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("in.jsonl", many(3))
    replace = os.replace

    def stopping(source: Any, target: Any) -> None:
        if Path(target).name == "out.jsonl":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(job.os, "replace", stopping)
        with pytest.raises(KeyboardInterrupt):
            score("in.jsonl", "out.jsonl")
    assert (Path("out.jsonl.parts") / "whole").exists()
    assert score("in.jsonl", "out.jsonl").num_resumed == 3
    assert len(read("out.jsonl")) == 3
    assert sorted(os.listdir()) == ["in.jsonl", "out.jsonl"]


@pytest.fixture
def chunks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "_CHUNK_ROWS", 4)


def many(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Say {number % 3}.", "response": f"I say {number}"} for number in range(count)]


@pytest.mark.usefixtures("chunks_of_four")
def test_an_interrupted_command_goes_on_to_the_same_bytes(
    score: Callable[..., ScoreResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("in.jsonl", many(18))
    score("in.jsonl", "straight.jsonl")
    compute, computed = RewardModel.compute, list[int]()

    def stopping(self: RewardModel, encoded: Any, *more: Any) -> Any:
        computed.append(len(encoded))
        if len(computed) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(self, encoded, *more)

    monkeypatch.setattr(RewardModel, "compute", stopping)
    with pytest.raises(Interrupted) as stopped:
        score("in.jsonl", "out.jsonl")
    assert stopped.value.exit_code == 143
    assert sorted(os.listdir()) == ["in.jsonl", "out.jsonl.parts", "straight.jsonl"]
    assert computed == [4, 4, 4]
    # Another command may not go on with it.
    with pytest.raises(CheckpointError, match="of an interrupted rm-score with another setting; type resume=never"):
        score("in.jsonl", "out.jsonl", data__max_length=30)
    result = score("in.jsonl", "out.jsonl")
    assert (result.num_resumed, computed) == (8, [4, 4, 4, 4, 4, 2])
    assert Path("out.jsonl").read_bytes() == Path("straight.jsonl").read_bytes()
    assert sorted(os.listdir()) == ["in.jsonl", "out.jsonl", "straight.jsonl"]


@pytest.mark.usefixtures("chunks_of_four")
def test_other_input_and_beginning_again(score: Callable[..., ScoreResult], monkeypatch: pytest.MonkeyPatch) -> None:
    write("in.jsonl", [*many(5), {"response": "wxyz " * 20}])
    with pytest.raises(DataError, match=r"in.jsonl line 6: \d+ tokens exceed data.max_length=60"):
        score("in.jsonl", "out.jsonl", data__max_length=60, data__overlength="error")
    assert len(list(Path("out.jsonl.parts").glob("part_*"))) == 1
    write("in.jsonl", many(5))
    with pytest.raises(CheckpointError, match="with another input; type resume=never to begin again, or choose anoth"):
        score("in.jsonl", "out.jsonl", data__max_length=60, data__overlength="error")
    result = score("in.jsonl", "out.jsonl", resume=ScoreResume.never)
    assert (result.num_resumed, len(read("out.jsonl"))) == (0, 5)


@pytest.mark.usefixtures("chunks_of_four")
def test_after_a_bad_row_the_command_goes_on_with_bad_rows_aside(score: Callable[..., ScoreResult]) -> None:
    write("in.jsonl", [*many(5), {"response": "wxyz " * 20}, *many(2)])
    settings: dict[str, Any] = {"data__max_length": 60, "data__overlength": "error"}
    with pytest.raises(DataError, match=r"in.jsonl line 6: \d+ tokens"):
        score("in.jsonl", "out.jsonl", **settings)
    result = score("in.jsonl", "out.jsonl", bad_rows=BadRows.aside, **settings)
    assert (result.num_resumed, result.num_bad, len(read("out.jsonl"))) == (4, 1, 7)


def test_what_is_there_is_not_lost(score: Callable[..., ScoreResult]) -> None:
    write("in.jsonl", many(2))
    Path("out.jsonl").write_text("mine\n")
    with pytest.raises(
        ConfigError, match=r"output=out.jsonl: is already there; type overwrite=true, or choose another"
    ):
        score("in.jsonl", "out.jsonl")
    assert Path("out.jsonl").read_text() == "mine\n"
    with pytest.raises(ConfigError, match=r"output=in.jsonl: the input would be replaced, which stays as it is; try"):
        score("in.jsonl", "in.jsonl")
    for missing, message in (("no.jsonl", r"no such file"), (".", "must end in .jsonl")):
        with pytest.raises((DataError, ConfigError), match=message):
            score(missing, "x.jsonl")
    Path("empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"input=empty.jsonl: has no rows"):
        score("empty.jsonl", "x.jsonl")
    score("in.jsonl", "new/deep/out.jsonl")
    assert len(read("new/deep/out.jsonl")) == 2


@pytest.mark.long
def test_two_processes_write_the_same_bytes(
    score: Callable[..., ScoreResult], trained_run: Path, tmp_path: Path
) -> None:
    write("in.jsonl", many(2500))
    score("in.jsonl", "one.jsonl")
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "rm_experiments.cli.score"]
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, f"checkpoint={trained_run}", "input=in.jsonl", "output=two.jsonl"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Scored   2,500 rows, 2,500 answers") == 1
    assert Path("two.jsonl").read_bytes() == Path("one.jsonl").read_bytes()
