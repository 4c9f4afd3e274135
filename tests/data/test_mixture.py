"""Shares of a mixture, by hand and for any weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rm_experiments.config.data_schema import MixturePartConfig
from rm_experiments.data.mixture import apportion, mix
from rm_experiments.errors import DataError

ROWS = {"a": np.arange(100), "b": np.arange(100, 120)}


def parts(**settings: dict[str, float | int | None]) -> dict[str, MixturePartConfig]:
    return {name: MixturePartConfig(source="x", **one) for name, one in settings.items()}  # type: ignore[arg-type]


def counts(rows: np.ndarray) -> list[int]:
    return np.bincount(np.asarray(rows), minlength=120).tolist()


def test_without_weights_every_pair_is_used_once_in_order() -> None:
    assert mix(parts(a={}, b={}), ROWS, 0).tolist() == list(range(120))


def test_a_small_part_is_repeated_whole_and_a_large_one_is_drawn_from() -> None:
    rows = mix(parts(a={"weight": 1}, b={"weight": 1}), ROWS, 0)
    used = counts(rows)
    assert sum(used[:100]) == 60
    assert set(used[:100]) == {0, 1}
    # 60 of 20: each three times.
    assert used[100:] == [3] * 20


def test_the_rest_of_a_repeated_part_is_drawn_without_repeats() -> None:
    used = counts(mix(parts(a={"weight": 3}, b={"weight": 1}), ROWS, 0))
    assert sum(used[:100]) == 90
    assert sorted(used[100:]) == [1] * 10 + [2] * 10


def test_caps_come_before_weights() -> None:
    used = counts(mix(parts(a={"max_pairs": 30}, b={"max_pairs": 50}), ROWS, 0))
    assert (sum(used[:100]), max(used[:100]), used[100:]) == (30, 1, [1] * 20)
    used = counts(mix(parts(a={"max_pairs": 20, "weight": 1}, b={"weight": 3}), ROWS, 0))
    assert (sum(used[:100]), sum(used[100:])) == (10, 30)


def test_draw_depends_on_the_seed_and_the_parts_name_only() -> None:
    def drawn(seed: int, **more: dict[str, float | int | None]) -> list[int]:
        rows = mix(parts(a={"max_pairs": 30}, **more), {**ROWS, "c": np.arange(120, 130)}, seed)
        return [row for row in rows.tolist() if row < 100]

    assert drawn(0, b={}) == drawn(0, c={}, b={})
    assert drawn(0, b={}) != drawn(1, b={})


def test_part_without_pairs_is_refused() -> None:
    with pytest.raises(DataError, match=r"^data\.mixture\.b: no pair is left of this part; leave it out$"):
        mix(parts(a={}, b={}), {"a": ROWS["a"], "b": np.array([], dtype=np.int64)}, 0)


def test_weight_that_gives_no_pair_is_refused() -> None:
    message = (
        r"^data\.mixture\.b\.weight=0\.001: gives none of the 120 pairs of an epoch beside the other weights; "
        r"raise it, or leave the part out$"
    )
    with pytest.raises(DataError, match=message):
        mix(parts(a={"weight": 1}, b={"weight": 0.001}), ROWS, 0)


@pytest.mark.parametrize(
    ("weights", "total", "expected"),
    [
        ({"a": 1.0, "b": 1.0}, 5, [3, 2]),
        ({"a": 0.7, "b": 0.3}, 10, [7, 3]),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, 11, [4, 4, 3]),
        ({"a": 1e-9, "b": 1.0}, 3, [0, 3]),
        ({"a": 2.5, "b": 1.0}, 4, [3, 1]),
    ],
)
def test_apportionment_by_hand(weights: dict[str, float], total: int, expected: list[int]) -> None:
    assert list(apportion(weights, total).values()) == expected


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), st.integers(1, 10_000))
def test_apportionment_adds_up_and_is_within_one_of_the_share(weights: list[float], total: int) -> None:
    named = {str(number): weight for number, weight in enumerate(weights)}
    shared = apportion(named, total)
    assert sum(shared.values()) == total
    for name, count in shared.items():
        assert abs(count - total * named[name] / sum(weights)) < 1 + 1e-6
