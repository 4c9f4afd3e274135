"""The generated prompts with several answers and gold rewards: honest, repeatable, and refused when impossible."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from rm_experiments.config.data_schema import ColumnsConfig, SandboxConfig
from rm_experiments.data.cache import DataCache
from rm_experiments.data.formats import read_pairs
from rm_experiments.data.loading import load_source
from rm_experiments.data.sandbox import gold_reward, iter_train
from rm_experiments.data.sandbox.best_of_n import SandboxAnswers, sandbox_answers
from rm_experiments.data.sources import read_rows, resolve_source
from rm_experiments.data.table import open_table
from rm_experiments.errors import DataError

KEY = "data.eval_sets.x.source"


def values(spec: str) -> list[dict[str, Any]]:
    return [row.values for row in read_rows(spec, KEY)]


def test_every_prompt_has_different_answers_with_their_gold_rewards() -> None:
    rows = values("sandbox:best_of_n")

    assert len(rows) == len({row["prompt"] for row in rows}) == 100
    assert [row["id"] for row in rows] == [str(number) for number in range(100)]
    assert [row["subset"] for row in rows[:5]] == ["mention", "list", "sum", "refuse", "mention"]
    for row in rows:
        assert len(row["responses"]) == len(set(row["responses"])) == 16
        assert row["scores"] == [gold_reward(row["prompt"], one) for one in row["responses"]]
    # Something to choose from everywhere, and no order in it.
    assert all(len(set(row["scores"])) >= 3 for row in rows)
    firsts = [row["scores"][0] == max(row["scores"]) for row in rows]
    assert 0 < sum(firsts) < 50


def test_no_prompt_is_one_that_a_world_trains_on() -> None:
    prompts = {row["prompt"] for row in values("sandbox:best_of_n")}
    trained = {
        str(pair.prompt) for seed in (0, 1) for pair in iter_train(SandboxConfig(num_train_pairs=4000, world_seed=seed))
    }

    assert not prompts & trained


def test_equal_settings_give_equal_rows_and_fewer_are_the_first_ones() -> None:
    assert values("sandbox:best_of_n:prompts=7") == values("sandbox:best_of_n")[:7]
    assert values("sandbox:best_of_n:prompts=7,world_seed=1") != values("sandbox:best_of_n:prompts=7")


def test_options() -> None:
    spec = "sandbox:best_of_n:prompts=6,answers=4,tasks=order+format,vocabulary=200,sequence_length=30,world_seed=3"
    assert resolve_source(spec, KEY) == [
        SandboxAnswers(
            prompts=6, answers=4, tasks=("order", "format"), vocabulary=200, sequence_length=30, world_seed=3, spec=spec
        )
    ]  # fmt: skip
    rows = values(spec)
    assert [(row["subset"], len(row["responses"])) for row in rows] == [("order", 4), ("format", 4)] * 3
    for row in rows:
        assert row["scores"] == [gold_reward(row["prompt"], one) for one in row["responses"]]
        assert all(len(text.split()) >= 15 for text in (row["prompt"], *row["responses"]))
    assert str(sandbox_answers(spec, KEY)) == spec


REFUSED = {
    "promts=3": "'promts' is no option; allowed are tasks, prompts, answers, vocabulary, sequence_length, world_seed",
    "": "'' is no option; allowed are",
    "prompts=3,": "'' is no option",
    "prompts": "prompts=: must be a whole number from 1 to 100000",
    "prompts=0": "prompts=0: must be a whole number from 1 to 100000",
    "answers=1": "answers=1: must be a whole number from 2 to 1000",
    "answers=²": "answers=²: must be a whole number",
    "vocabulary=-5": "vocabulary=-5: must be a whole number from 5 to 50000",
    "prompts=3,prompts=4": "prompts is there twice; leave one of them out",
    "tasks=": "tasks=: must be different ones of mention, list,",
    "tasks=list+list": "tasks=list+list: must be different ones of",
    "tasks=list+poems": "tasks=list+poems: must be different ones of",
}


@pytest.mark.parametrize(("options", "message"), REFUSED.items(), ids=REFUSED)
def test_an_option_is_refused(options: str, message: str) -> None:
    spec = f"sandbox:best_of_n:{options}"
    with pytest.raises(DataError, match="^" + re.escape(f"{KEY}={spec}: {message}")):
        resolve_source(spec, KEY)


def test_more_than_the_world_has_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"the world has no further prompt of the task list after \d+ prompts in all; lower"
    ):
        values("sandbox:best_of_n:tasks=list,prompts=90")
    with pytest.raises(
        DataError, match=r"only \d+ different answers were found to a prompt of the task refuse; lower ans"
    ):
        values("sandbox:best_of_n:tasks=refuse,answers=1000")


def test_it_is_a_source_like_others(tmp_path: Any) -> None:
    pairs, report = read_pairs(["sandbox:best_of_n:prompts=3,answers=5"], KEY, "best_of_n", ColumnsConfig())

    assert (report.rows_read, len(pairs), pairs[0].where) == (3, 12, "sandbox:best_of_n:prompts=3,answers=5 prompt 1")
    with pytest.raises(DataError, match=r"sandbox:best_of_n is reached twice"):
        resolve_source(["sandbox:best_of_n", "sandbox:best_of_n"], KEY)
    with pytest.raises(DataError, match=r"sandbox:best_of_m: no such file"):
        resolve_source("sandbox:best_of_m", KEY)
    cache = DataCache(str(tmp_path))
    load = lambda spec: load_source(cache, spec, KEY, "best_of_n", ColumnsConfig(), None)  # noqa: E731
    first, again, other = (
        load("sandbox:best_of_n:prompts=3"),
        load("sandbox:best_of_n:prompts=3"),
        load("sandbox:best_of_n:prompts=4"),
    )
    assert first.path == again.path != other.path
    assert (len(open_table([first.path])), len(open_table([other.path]))) == (45, 60)


def test_defaults_are_those_of_the_world() -> None:
    world, mine = SandboxConfig(), SandboxAnswers()
    for field in dataclasses.fields(mine):
        if hasattr(world, field.name):
            given = getattr(mine, field.name)
            assert (list(given) if isinstance(given, tuple) else given) == getattr(world, field.name)
