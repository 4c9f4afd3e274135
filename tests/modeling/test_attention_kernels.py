"""Attention of flat batches by every kernel that runs here: that of a whole score matrix with a mask."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rm_experiments.data.groups import Group
from rm_experiments.modeling.layouts import blocks, each, flex, rows, varlen
from rm_experiments.modeling.layouts.batch import FlatBatch, Segment, flat_batch
from rm_experiments.modeling.layouts.call import Call

HEADS, KEY_HEADS, DIM = 4, 2, 4
Parts = list[tuple[int, list[int]]]
SOME_PARTS = st.lists(
    st.tuples(st.integers(0, 7), st.lists(st.integers(1, 5), min_size=1, max_size=3)), min_size=1, max_size=4
)


def a_batch(parts: Parts, read_first: bool = False) -> FlatBatch:
    """Groups as (prefix, lengths of the rests)."""
    lengths, groups = [], []
    for prefix, rests in parts:
        groups.append(Group(prefix, tuple(range(len(lengths), len(lengths) + len(rests)))))
        lengths += [prefix + rest for rest in rests]
    return flat_batch(groups, lambda one: np.arange(lengths[one]), read_first=read_first)


def call(**settings: Any) -> Call:
    given: dict[str, Any] = {
        "scale": 0.7, "causal": True, "window": None, "softcap": None, "sinks": None, "dropout": 0.0,
        "only_read": False,
    }  # fmt: skip
    return Call(**{**given, **settings})


def tokens_of(parts: Parts) -> list[tuple[int, int, int]]:
    """(group, sequence or -1 for what is shared, place) of each row, written down from the definition alone."""
    rows = []
    for group, (prefix, rests) in enumerate(parts):
        for number, rest in enumerate(rests):
            if number == 0:
                rows += [(group, -1, place) for place in range(prefix)]
            rows += [(group, number, place) for place in range(prefix, prefix + rest)]
    return rows


def sees(parts: Parts, causal: bool = True, window: int | None = None) -> Tensor:
    """[t, t] which rows see which."""
    rows = tokens_of(parts)
    mask = torch.zeros(len(rows), len(rows), dtype=torch.bool)
    for (one, (group, sequence, place)), (other, (g, s, p)) in itertools.product(enumerate(rows), repeat=2):
        # A prefix does not see what follows it.
        same = group == g and (s == -1 or s == sequence)
        near = window is None or abs(place - p) < window
        mask[one, other] = same and near and (p <= place or not causal)
    return mask


def dense(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, settings: Call) -> Tensor:
    """[1, asked, heads, d] by the textbook."""
    key, value = (one.repeat_interleave(HEADS // KEY_HEADS, dim=1) for one in (key, value))
    scores = query @ key.transpose(2, 3) * settings.scale
    if settings.softcap is not None:
        scores = settings.softcap * torch.tanh(scores / settings.softcap)
    weights = torch.exp(scores) * mask
    total = weights.sum(-1, keepdim=True)
    if settings.sinks is not None:
        total = total + torch.exp(settings.sinks)[None, :, None, None]
    return (weights / total @ value).transpose(1, 2)


def inputs(rows: int, asked: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (HEADS, asked), (KEY_HEADS, rows), (KEY_HEADS, rows)
    one, two, three = (
        torch.randn(1, *shape, DIM, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes
    )
    return one, two, three


@settings(max_examples=60, deadline=None)
@given(
    parts=SOME_PARTS, causal=st.booleans(), only_read=st.booleans(), softcap=st.sampled_from([None, 2.0]),
    window=st.sampled_from([None, 1, 2, 3, 5]), sinks=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_kernel_gives_what_the_whole_score_matrix_gives(
    parts: Parts, causal: bool, only_read: bool, window: int | None, softcap: float | None, sinks: bool, seed: int
) -> None:
    if not causal:
        parts = [(0, [prefix + rest]) for prefix, rests in parts for rest in rests]
    batch = a_batch(parts, read_first=not causal)
    mask = sees(parts, causal, window)
    mask = mask[batch.read] if only_read else mask
    query, key, value = inputs(batch.num_tokens, len(mask), seed)
    extra = torch.linspace(-1, 1, HEADS, dtype=torch.float64).requires_grad_() if sinks else None
    one = call(causal=causal, window=window, softcap=softcap, sinks=extra, only_read=only_read)
    leaves = [query, key, value] + ([] if extra is None else [extra])
    direction = torch.randn(1, len(mask), HEADS, DIM, dtype=torch.float64)
    expected = dense(query, key, value, mask, one)
    expected_gradients = torch.autograd.grad((expected * direction).sum(), leaves)
    plain = window is None and softcap is None and not sinks
    assert blocks.takes(query, value, one) == plain
    assert not varlen.takes(query, value, one)
    assert not flex.takes(query, value, one)
    rows_take_it = softcap is None and not sinks and _padding(parts) <= 2
    assert rows.takes(query, batch, one) == rows_take_it
    kernels = [each, *([rows] if softcap is None and not sinks else []), *([blocks] if plain else [])]
    for kernel in kernels:
        found = kernel.attend(query, key, value, batch, one)
        assert found.shape == (1, len(mask), HEADS, DIM)
        assert torch.allclose(found, expected, rtol=0, atol=1e-12), kernel.__name__
        for gradient, wanted in zip(torch.autograd.grad((found * direction).sum(), leaves), expected_gradients,
                                    strict=True):  # fmt: skip
            assert torch.allclose(gradient, wanted, rtol=0, atol=1e-12), kernel.__name__


def _padding(parts: Parts) -> float:
    """Rows of groups side by side, by their rows. Without a prefix nothing keeps sequences together."""
    lengths = [length for prefix, rests in parts for length in ([prefix + sum(rests)] if prefix else rests)]
    return len(lengths) * max(lengths) / sum(lengths)


@pytest.mark.parametrize(
    ("parts", "heads", "dim", "only_read", "taken"),
    [
        # 40 groups of 26 rows; the other kernel would call three times for each: two segments and one prefix.
        ([(10, [8, 8])] * 40, 4, 16, False, True),
        # 26 * 26 / 3 * 64 = 14,421 per call; 104 times as much is the most.
        ([(10, [8, 8])] * 40, 4, 16 * 104, False, True),
        ([(10, [8, 8])] * 40, 4, 16 * 105, False, False),
        ([(300, [200, 200])] * 3, 4, 64, False, False),
        # Two queries per group of 700 rows, four calls: 350 * 256.
        ([(300, [200, 200])] * 3, 4, 64, True, True),
        # One long group among short ones.
        ([(0, [500]), *[(0, [5])] * 40], 4, 16, True, False),
    ],
    ids=["short", "most", "more", "long", "read", "one long"],
)  # fmt: skip
def test_groups_are_computed_together_where_their_scores_cost_less_than_calls(
    parts: Parts, heads: int, dim: int, only_read: bool, taken: bool
) -> None:
    query = torch.zeros(1, 1, 1, 1).expand(1, heads, 1, dim)
    assert rows.takes(query, a_batch(parts), call(only_read=only_read)) == taken


@pytest.mark.parametrize("changes", [{"dropout": 0.1}, {"softcap": 3.0}, {"sinks": torch.zeros(HEADS)}])
def test_groups_are_computed_one_by_one_where_the_kernel_does_not_know_how(changes: dict[str, Any]) -> None:
    query, batch = torch.zeros(1, HEADS, 3, DIM), a_batch([(1, [1, 1])])
    assert rows.takes(query, batch, call())
    assert not rows.takes(query, batch, call(**changes))
    assert not rows.takes(query.to("meta"), batch, call())


@pytest.mark.parametrize("only_read", [False, True], ids=["all", "read"])
@pytest.mark.parametrize("kernel", [blocks, rows], ids=["blocks", "rows"])
@pytest.mark.parametrize(
    ("parts", "causal"),
    [([(2, [1, 2]), (0, [2])], True), ([(0, [1, 3])], True), ([(0, [3]), (0, [1])], False)],
    ids=["shared", "apart", "both ways"],
)
def test_gradients_of_kernels_are_those_of_differences(
    kernel: Any, parts: Parts, causal: bool, only_read: bool
) -> None:
    batch = a_batch(parts, read_first=not causal)
    one = call(causal=causal, only_read=only_read)
    three = inputs(batch.num_tokens, len(batch.read) if only_read else batch.num_tokens, 0)
    assert torch.autograd.gradcheck(lambda *tensors: kernel.attend(*tensors, batch, one), three)


@pytest.mark.parametrize(
    ("changes", "tensor"),
    [
        ({"dropout": 0.1}, {}),
        ({"window": 3}, {}),
        ({"softcap": 3.0}, {}),
        ({"sinks": torch.zeros(HEADS)}, {}),
        ({}, {"device": "meta"}),
    ],
)
def test_block_kernel_leaves_what_it_cannot_compute(changes: dict[str, Any], tensor: dict[str, Any]) -> None:
    query = torch.zeros(1, HEADS, 3, DIM, **tensor)
    assert not blocks.takes(query, query, call(**changes))
    assert blocks.takes(torch.zeros(1, HEADS, 3, DIM), torch.zeros(1, HEADS, 3, DIM), call())
    assert not blocks.takes(torch.zeros(1, HEADS, 3, DIM), torch.zeros(1, HEADS, 3, DIM + 1), call())


@settings(max_examples=15, deadline=None)
@given(parts=SOME_PARTS, only_read=st.booleans(), window=st.sampled_from([None, 1, 3]))
def test_mask_of_flex_attention_is_who_sees_whom(parts: Parts, only_read: bool, window: int | None) -> None:
    batch = a_batch(parts)
    mask = sees(parts, window=window)
    mask = mask[batch.read] if only_read else mask
    found = flex._block_mask(batch, torch.device("cpu"), only_read, window)
    asked, rows = torch.arange(len(mask))[:, None], torch.arange(batch.num_tokens)[None]
    assert torch.equal(found.mask_mod(torch.tensor(0), torch.tensor(0), asked, rows), mask)


@settings(max_examples=40, deadline=None)
@given(parts=SOME_PARTS, only_read=st.booleans())
def test_lengths_of_the_variable_length_kernel_say_who_sees_whom(parts: Parts, only_read: bool) -> None:
    """Its causality is aligned at the ends: the last query of a segment sees all of its keys."""
    batch = a_batch(parts)
    expected = sees(parts)
    expected = expected[batch.read] if only_read else expected
    lengths = varlen._lengths(batch, only_read, torch.device("cpu"))
    key_rows = np.arange(batch.num_tokens) if lengths.key_rows is None else lengths.key_rows.numpy()
    queries, keys = lengths.ends_of_queries.numpy(), lengths.ends_of_keys.numpy()
    assert lengths.ends_of_queries.dtype is lengths.ends_of_keys.dtype is torch.int32
    assert (lengths.longest_query, lengths.longest_key) == (np.diff(queries).max(), np.diff(keys).max())
    found = torch.zeros_like(expected)
    for segment in range(len(queries) - 1):
        rows = key_rows[keys[segment] : keys[segment + 1]]
        count = queries[segment + 1] - queries[segment]
        for back in range(count):
            found[queries[segment + 1] - 1 - back, rows[: len(rows) - back]] = True
    assert torch.equal(found, expected)


def test_flat_batch_by_hand() -> None:
    sequences = {7: np.array([5, 6, 7]), 2: np.array([5, 6, 8, 9]), 4: np.array([3])}
    batch = flat_batch([Group(2, (7, 2)), Group(0, (4,))], sequences.__getitem__, first_position=1)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9, 3]]
    assert batch.positions.tolist() == [[1, 2, 3, 3, 4, 1]]
    assert batch.read.tolist() == [2, 4, 5]
    assert batch.segments == (Segment(0, 3, 0, 0), Segment(3, 2, 0, 2), Segment(5, 1, 5, 0))
    assert batch.segment_of == (0, 1, 2)
    assert (batch.num_tokens, batch.longest) == (6, 4)
    first = flat_batch([Group(0, (7, 2))], sequences.__getitem__, read_first=True)
    assert first.ids.tolist() == [[5, 6, 7, 5, 6, 8, 9]]
    assert first.read.tolist() == [0, 3]


def test_what_kernels_derive_from_a_batch_is_made_once() -> None:
    batch = a_batch([(2, [1, 2])])
    made: list[int] = []
    for _ in range(2):
        assert batch.cached("key", lambda: made.append(1) or "value") == "value"  # type: ignore[func-returns-value]
    assert made == [1]
    # What was made for one device is not carried to another.
    assert batch.to(torch.device("cpu")).cache == {}
