"""Pairs come back from disk as they went there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rm_experiments.data.pairs import PreferencePair, pair_id, prompt_id
from rm_experiments.data.table import open_table, table_of, write_table
from rm_experiments.data.wording import printable

TEXT = st.text(max_size=20)
TURNS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXT}), max_size=3)
VALUES = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(-9, 9) | TEXT, max_size=2)
PAIRS = st.builds(
    PreferencePair,
    id=TEXT, prompt=TEXT | TURNS, chosen=TEXT | TURNS, rejected=TEXT | TURNS,
    margin=st.none() | st.floats(allow_nan=False), subset=st.none() | TEXT, label=st.floats(0.5, 1),
    weight=st.floats(1e-3, 1), tools=st.none() | st.lists(VALUES, max_size=2), template_kwargs=st.none() | VALUES,
    chosen_first=st.none() | st.booleans(), where=TEXT.map(printable),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(PAIRS, min_size=1, max_size=5))
def test_every_field_comes_back(pairs: list[PreferencePair], tmp_path: Path) -> None:
    assert write_table(tmp_path / "pairs.arrow", pairs) == len(pairs)
    table = open_table([tmp_path / "pairs.arrow"])
    assert list(table.pairs()) == pairs == list(table_of(pairs).pairs())
    assert table.values("prompt_id").tolist() == [prompt_id(pair) for pair in pairs]
    assert table.values("pair_id").tolist() == [pair_id(pair) for pair in pairs]


def numbered(count: int, **more: Any) -> list[PreferencePair]:
    return [PreferencePair(id=str(n), prompt=f"q{n}", chosen="a", rejected="b", **more) for n in range(count)]


def test_rows_are_taken_in_the_order_asked_for_over_all_files(tmp_path: Path) -> None:
    write_table(tmp_path / "one.arrow", numbered(5000))
    write_table(tmp_path / "two.arrow", numbered(3, subset="s"))
    table = open_table([tmp_path / "one.arrow", tmp_path / "two.arrow"])
    assert len(table) == 5003
    rows = np.array([5002, 0, 4999, 5000, 4999])
    assert [pair.id for pair in table.pairs(rows)] == ["2", "0", "4999", "0", "4999"]
    assert table.values("subset", rows).tolist() == ["s", None, None, "s", None]
    assert table.part_of(rows).tolist() == [1, 0, 0, 1, 0]
    assert len(list(table.pairs())) == 5003


def test_missing_margins_are_not_numbers() -> None:
    table = table_of([*numbered(1, margin=1.5), *numbered(1)])
    assert np.isnan(table.values("margin")).tolist() == [False, True]


def test_a_file_name_that_is_no_text_is_shown_with_escapes(tmp_path: Path) -> None:
    write_table(tmp_path / "pairs.arrow", numbered(1, where=os.fsdecode(b"caf\xe9.jsonl line 1")))
    assert open_table([tmp_path / "pairs.arrow"]).values("where").tolist() == ["caf\\udce9.jsonl line 1"]
