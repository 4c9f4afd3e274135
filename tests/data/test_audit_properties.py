"""The audit against brute force: repetitions, contradictions and common runs of words of random small sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_experiments.config.data_schema import Audit
from rm_experiments.data.audit import AuditReport, AuditSplit, audit
from rm_experiments.data.audit.overlap import GRAM_WORDS, MAX_PROMPTS
from rm_experiments.data.normal_form import normal_form, words_of
from rm_experiments.data.pairs import PreferencePair, pair_id
from rm_experiments.data.table import PairTable, table_of


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> PreferencePair:
    return PreferencePair(id="", prompt=prompt, chosen=chosen, rejected=rejected, **more)


def split(pairs: Sequence[PreferencePair]) -> AuditSplit:
    numbered = [dataclasses.replace(one, where=str(row)) for row, one in enumerate(pairs, 1)]
    return AuditSplit(table_of(numbered), np.arange(len(numbered)))


def found(report: AuditReport) -> dict[str, list[int]]:
    return {one.kind: list(map(int, one.rows)) for one in report.findings if one.split == "train"}


def swapped(one: PreferencePair) -> PreferencePair:
    return dataclasses.replace(one, chosen=one.rejected, rejected=one.chosen)


PROMPTS = st.sampled_from(["p", "P.", "q", ""])
ANSWERS = st.sampled_from(["a", "A", "a!", "b", "B", "c"])
PAIRS = st.lists(st.builds(pair, PROMPTS, ANSWERS, ANSWERS, label=st.sampled_from([1.0, 0.7, 0.5])), max_size=14)


@given(PAIRS)
def test_repetitions_and_contradictions_against_brute_force(pairs: list[PreferencePair]) -> None:
    forms = [tuple(normal_form(str(text)) for text in (one.prompt, one.chosen, one.rejected)) for one in pairs]
    # A tie is the same with its sides swapped.
    ids = [(one.label, *sorted((pair_id(one), pair_id(swapped(one)))[: 1 + (one.label == 0.5)])) for one in pairs]
    near = [
        (one.label, prompt, *(sorted(sides) if one.label == 0.5 else sides))
        for one, (prompt, *sides) in zip(pairs, forms, strict=True)
    ]
    expected: dict[str, list[int]] = {"duplicates": [], "near_duplicates": [], "contradictions": []}
    for row, (prompt, chosen, rejected) in enumerate(forms):
        typography = chosen == rejected and pairs[row].chosen != pairs[row].rejected
        if ids[row] in ids[:row]:
            expected["duplicates"].append(row + 1)
        elif near[row] in near[:row] and not typography:
            expected["near_duplicates"].append(row + 1)
        if chosen != rejected and pairs[row].label > 0.5:
            others = [form for form, one in zip(forms, pairs, strict=True) if one.label > 0.5]
            if (prompt, rejected, chosen) in others:
                expected["contradictions"].append(row + 1)
    report = found(audit(split(pairs), {}))
    assert {kind: report.get(kind, []) for kind in expected} == expected


SENTENCES = st.lists(
    st.lists(st.sampled_from(("amber", "birch", "cedar")), min_size=10, max_size=18).map(" ".join), max_size=14
)


def runs(text: str) -> set[tuple[bytes, ...]]:
    words = words_of(normal_form(text))
    return {tuple(words[start : start + GRAM_WORDS]) for start in range(len(words) - GRAM_WORDS + 1)}


@settings(deadline=None)
@given(SENTENCES, SENTENCES, st.integers(1, 3))
def test_overlap_against_sets(train: list[str], other: list[str], many: int) -> None:
    prompts = [f"{text} amber." for text in train for _ in range(many)]
    distinct = {normal_form(prompt) for prompt in prompts}
    theirs = {normal_form(prompt) for prompt in other}
    wanted = set().union(*map(runs, theirs))
    common = {
        run for run in set().union(*map(runs, distinct)) if sum(run in runs(one) for one in distinct) > MAX_PROMPTS
    }
    expected = [
        row
        for row, prompt in enumerate(prompts, 1)
        if normal_form(prompt) not in theirs and runs(prompt) & (wanted - common)
    ]
    sets = {"eval": split([pair(text, "a", "b") for text in other])}
    report = audit(split([pair(prompt, f"a{row}", "b") for row, prompt in enumerate(prompts)]), sets)
    overlap = [one for one in report.findings if one.kind == "overlapping_prompts"]
    assert [one.count for one in overlap] == [len(expected)][: len(overlap)] or (not overlap and not expected)
    assert bool(overlap) == bool(expected)
    if overlap:
        assert list(map(int, overlap[0].rows)) == expected[:20]
        touched = set().union(*(runs(prompts[row - 1]) & (wanted - common) for row in expected))
        assert overlap[0].other_count == sum(bool(runs(text) & touched) for text in other)
        for prompt, example in zip((prompts[row - 1] for row in expected), overlap[0].examples, strict=False):
            assert tuple(word.encode() for word in example.split()) in runs(prompt) & wanted - common


@given(PAIRS, st.integers(0, 14))
def test_the_audit_does_not_depend_on_how_the_pairs_are_stored(pairs: list[PreferencePair], cut: int) -> None:
    numbered = [dataclasses.replace(one, where=str(row)) for row, one in enumerate(pairs, 1)]
    parts = [table_of(numbered[:cut])._table, table_of(numbered[cut:])._table]
    pieces = audit(AuditSplit(PairTable(parts), np.arange(len(pairs))), {}, Audit.fix)
    whole = audit(split(pairs), {}, Audit.fix)
    assert pieces.plain() == whole.plain()
    assert (pieces.drop == whole.drop).all()


@settings(deadline=None)
@given(PAIRS)
def test_fixing_twice_changes_nothing(pairs: list[PreferencePair]) -> None:
    train = split(pairs)
    sets = {"eval": split([pair("q", "x", "y")])}
    first = audit(train, sets, Audit.fix)
    second = audit(AuditSplit(train.table, train.rows[~first.drop]), sets, Audit.fix)
    assert not second.drop.any()
    assert sum(first.dropped.values()) == first.drop.sum()
