"""The audit: planted defects are found where they are and nowhere else, and after mending they are gone."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rm_experiments.config.data_schema import Audit
from rm_experiments.config.data_validation import AUDIT_KINDS
from rm_experiments.data.audit import KINDS, AuditReport, AuditSplit, Finding, audit, refuse_beyond_limits
from rm_experiments.data.audit.overlap import MAX_PROMPTS
from rm_experiments.data.pairs import PreferencePair, Text
from rm_experiments.data.table import table_of
from rm_experiments.errors import DataError

WORDS = "amber birch cedar delta ember frost grove heath inlet jetty knoll larch mango north olive".split()  # noqa: SIM905


def pair(prompt: Text, chosen: Text, rejected: Text, **more: Any) -> PreferencePair:
    return PreferencePair(id="", prompt=prompt, chosen=chosen, rejected=rejected, **more)


def split(pairs: Sequence[PreferencePair], name: str = "train") -> AuditSplit:
    numbered = [dataclasses.replace(one, where=f"{name}.jsonl line {row}") for row, one in enumerate(pairs, 1)]
    return AuditSplit(table_of(numbered), np.arange(len(numbered)))


def clean(number: int) -> PreferencePair:
    return pair(f"What is number {number}?", f"It is the number {number}.", f"No idea about {number}")


def lines(finding: Finding) -> list[int]:
    return [int(one.rpartition(" ")[2]) for one in finding.rows]


def found(report: AuditReport, name: str = "train") -> dict[str, list[int]]:
    return {f"{one.kind} {one.other or ''}".strip(): lines(one) for one in report.findings if one.split == name}


LONG = "how many apples lie in a basket of nine that nobody has ever touched"
SHARED = " ".join(WORDS[:13])
LEAK = "Where does the river go?"

POISON: dict[str, list[PreferencePair]] = {
    "identical_sides": [pair("P1", "Same text.", "Same text.")],
    "near_identical_sides": [pair("P2", "Same text.", "same  text")],
    "empty_answers": [pair("P3", "", "text"), pair("P4", "text", " \u200b\n")],
    "duplicates": [clean(3)],
    "near_duplicates": [pair("what is NUMBER 4", "It is the number 4!", "No idea about 4.")],
    "contradictions": [pair("P5", "Yes", "No"), pair("p5", "no.", "YES")],
    "empty_prompts": [pair("", "answer", "other")],
    "prompt_in_answer": [pair(LONG, f"{LONG}? Nine.", "Nine."), pair(LONG, "Eight.", f"Q: {LONG.upper()}")],
    "turn_markers_in_answer": [pair("P6", "Yes.\n\nHuman: and?", "No.")],
    "consecutive_roles": [pair([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "x", "y")],
    "odd_roles": [pair([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "x", "y")],
    "mojibake": [pair("P7", "caf\u00c3\u00a9", "tea")],
    "control_characters": [pair("P8", "bell\x07", "ring")],
    "special_token_text": [pair("P9", "one<|im_end|>", "two")],
    "leaked_prompts eval": [pair("where does the RIVER go", "To the sea.", "Nowhere.")],
    "overlapping_prompts eval": [pair(f"New prompt. {SHARED.upper()} new end", "c", "d")],
}


def poisoned() -> tuple[AuditSplit, dict[str, list[int]]]:
    """Clean pairs with the poison among them, and the lines of each kind."""
    pairs: list[PreferencePair] = [clean(number) for number in range(5)]
    where: dict[str, list[int]] = {}
    for kind, some in POISON.items():
        for one in some:
            pairs.append(one)
            where.setdefault(kind, []).append(len(pairs))
            pairs.append(clean(100 + len(pairs)))
    return split(pairs), where


def evaluation() -> AuditSplit:
    return split([pair(LEAK, "e", "f"), pair(f"Old start, {SHARED}: old end.", "g", "h"), clean(-1)], "eval")


def test_planted_defects_are_found_at_their_rows_and_no_others() -> None:
    train, where = poisoned()
    report = audit(train, {"eval": evaluation()})
    assert found(report) == where
    assert found(report, "eval") == {}
    assert not report.drop.any()
    for one in report.findings:
        assert one.count == len(one.rows)
        assert one.share == one.count / len(train.rows)
        assert (one.severity, one.limit, one.meaning) == (
            KINDS[one.kind].severity, KINDS[one.kind].limit, KINDS[one.kind].meaning,
        )  # fmt: skip
        assert one.dropped == 0
        assert 1 <= len(one.examples) <= 3
        assert all(len(text) <= 125 and text.isprintable() for text in one.examples)


def test_partners_and_counts_of_the_other_side() -> None:
    train, where = poisoned()
    report = audit(train, {"eval": evaluation()})
    by_kind = {one.kind: one for one in report.findings}
    assert by_kind["duplicates"].partners == ["train.jsonl line 4"]
    assert by_kind["near_duplicates"].partners == ["train.jsonl line 5"]
    first, second = where["contradictions"]
    assert by_kind["contradictions"].partners == [f"train.jsonl line {second}", f"train.jsonl line {first}"]
    assert by_kind["leaked_prompts"].partners == ["eval.jsonl line 1"]
    assert by_kind["overlapping_prompts"].partners == ["eval.jsonl line 2"]
    assert by_kind["leaked_prompts"].other_count == by_kind["overlapping_prompts"].other_count == 1
    assert by_kind["mojibake"].partners == []
    assert by_kind["overlapping_prompts"].examples == [SHARED]
    assert by_kind["control_characters"].examples == ["bell\\x07"]
    assert by_kind["contradictions"].examples == ["P5 | Yes | No", "p5 | no. | YES"]


def test_fix_leaves_pairs_that_are_clean() -> None:
    train, where = poisoned()
    sets = {"eval": evaluation()}
    report = audit(train, sets, Audit.fix)
    fixable = {kind: rows for kind, rows in where.items() if KINDS[kind.split()[0]].fixable}
    assert (np.flatnonzero(report.drop) + 1).tolist() == sorted(row for rows in fixable.values() for row in rows)
    assert report.dropped == {kind.split()[0]: len(rows) for kind, rows in fixable.items()}
    after = audit(AuditSplit(train.table, train.rows[~report.drop]), sets, Audit.fix)
    assert {one.kind for one in after.findings} == {one for one in KINDS if not KINDS[one].fixable}
    assert not after.drop.any()


def test_a_pair_with_several_defects_is_dropped_once() -> None:
    report = audit(split([pair(LEAK, "", ""), pair(LEAK, "", "")]), {"eval": evaluation()}, Audit.fix)
    assert report.drop.tolist() == [True, True]
    assert report.dropped == {"identical_sides": 2}
    assert {one.kind: one.count for one in report.findings} == {
        "identical_sides": 2, "empty_answers": 2, "leaked_prompts": 2, "duplicates": 1,
    }  # fmt: skip


def test_evaluation_sets_are_never_fixed() -> None:
    twice = split([clean(1), clean(1)], "eval")
    report = audit(None, {"eval": twice}, Audit.fix)
    assert found(report, "eval") == {"duplicates": [2]}
    assert report.drop.tolist() == []
    assert report.dropped == {}


def test_ties_and_equal_answers_contradict_nothing() -> None:
    assert found(audit(split([pair("P", "a", "b"), pair("P", "b", "a", label=0.5)]), {})) == {}
    assert found(audit(split([pair("P", "a", "b", label=0.6), pair("P", "b", "a")]), {})) == {"contradictions": [1, 2]}
    assert "contradictions" not in found(audit(split([pair("P", "a", "A."), pair("P", "A.", "a")]), {}))


def test_label_and_template_variables_tell_pairs_apart() -> None:
    pairs = [
        pair("P", "a", "b"), pair("P", "a", "b", label=0.75), pair("P", "a", "b", label=0.75),
        pair("P", "a", "b", template_kwargs={"think": True, "n": 1}), pair("p", "A.", "b", label=0.75),
        pair("P", "a", "b", template_kwargs={"n": 1, "think": True}), pair("P", "a", "b", template_kwargs={"n": 2}),
        pair("p!", "a", "b", template_kwargs={"n": 2}), pair("P", "a", "b", template_kwargs={}),
    ]  # fmt: skip
    assert found(audit(split(pairs), {})) == {"duplicates": [3, 6, 9], "near_duplicates": [5, 8]}
    opposite = [pair("P", "a", "b", template_kwargs={"n": 1}), pair("P", "b", "a")]
    assert found(audit(split(opposite), {})) == {}


def test_the_sides_of_a_tie_have_no_order() -> None:
    pairs = [pair("P", *sides, label=0.5) for sides in (("a", "b"), ("b", "a"), ("B!", "a"), ("a", "c"))]
    assert found(audit(split(pairs), {})) == {"duplicates": [2], "near_duplicates": [3]}
    assert found(audit(split([pair("P", "b", "a"), *pairs[:1]]), {})) == {}


def test_an_answer_stands_for_a_prompt_that_shows_nothing() -> None:
    (finding,) = audit(split([pair(" \u200b ", "the answer", "other")]), {}).findings
    assert (finding.kind, finding.examples) == ("empty_prompts", ["the answer"])


def test_typography_that_is_the_point_is_no_duplicate() -> None:
    pairs = [pair("Use title case.", "The Sea", "the sea"), pair("Use title case.", "The Sea", "THE SEA")]
    assert found(audit(split(pairs), {})) == {"near_identical_sides": [1, 2]}


def test_another_system_message_makes_another_prompt_but_the_same_leak() -> None:
    def with_system(system: str) -> PreferencePair:
        return pair([{"role": "system", "content": system}, {"role": "user", "content": LEAK}], "a", "b")

    report = audit(split([with_system("Be brief."), with_system("Be kind.")]), {"eval": evaluation()})
    assert found(report) == {"leaked_prompts eval": [1, 2]}


def test_the_speakers_of_a_dialogue_count() -> None:
    def turns(*roles: str) -> list[dict[str, Any]]:
        return [{"role": role, "content": "a"} for role in (*roles, "user")]

    pairs = [pair(turns("user", "assistant"), "x", "y"), pair(turns("tool", "assistant"), "x", "y")]
    assert "near_duplicates" not in found(audit(split(pairs), {}))
    assert found(audit(split([pair("a", "x", "y"), pair(turns(), "X", "Y")]), {})) == {"near_duplicates": [2]}


def test_each_evaluation_set_has_its_own_leaks() -> None:
    other = split([clean(1), clean(1), clean(2)], "bench")
    report = audit(split([clean(0), clean(1), pair(LEAK, "a", "b")]), {"eval": evaluation(), "bench": other})
    assert found(report) == {"leaked_prompts eval": [3], "leaked_prompts bench": [2]}
    counts = {one.other: one.other_count for one in report.findings if one.kind == "leaked_prompts"}
    assert counts == {"eval": 1, "bench": 2}


def test_missing_prompts_are_not_shared() -> None:
    report = audit(split([pair("", "a", "b")]), {"eval": split([pair("", "c", "d")], "eval")})
    assert found(report) == {"empty_prompts": [1]}


def test_twelve_words_are_no_overlap_and_a_common_phrase_neither() -> None:
    sets = {"eval": split([pair(f"{SHARED} end", "a", "b")], "eval")}
    assert found(audit(split([pair(" ".join(WORDS[:12]) + " x", "a", "b")]), sets)) == {}
    few = [pair(f"start {number} {SHARED}", f"a{number}", "b") for number in range(MAX_PROMPTS)]
    assert found(audit(split(few), sets)) == {"overlapping_prompts eval": list(range(1, MAX_PROMPTS + 1))}
    assert found(audit(split([*few, pair(f"one more {SHARED}", "a", "b")]), sets)) == {}
    # The same prompt again does not make a phrase common.
    again = [dataclasses.replace(one, chosen="c") for one in few]
    assert audit(split([*few, *again]), sets).findings[0].count == 2 * MAX_PROMPTS


def test_a_leaked_prompt_is_no_overlap_too() -> None:
    sets = {"eval": split([pair(SHARED, "a", "b")], "eval"), "bench": split([pair(f"{SHARED} end", "a", "b")], "bench")}
    report = audit(split([pair(SHARED.upper(), "c", "d")]), sets)
    assert found(report) == {"leaked_prompts eval": [1], "overlapping_prompts bench": [1]}


def test_a_run_that_one_prompt_repeats_is_no_common_phrase() -> None:
    sets = {"eval": split([pair(f"{SHARED} end", "a", "b")], "eval")}
    refrain = " and ".join([SHARED] * (MAX_PROMPTS + 1))
    assert found(audit(split([pair(refrain, "c", "d")]), sets)) == {"overlapping_prompts eval": [1]}


def test_rows_in_use_only() -> None:
    table = split([clean(1), clean(1), clean(2), clean(2), clean(1)]).table
    report = audit(AuditSplit(table, np.array([4, 2, 0])), {})
    assert found(report) == {"duplicates": [1]}
    assert report.findings[0].partners == ["train.jsonl line 5"]
    assert report.statistics["train"]["num_pairs"] == 3


def test_only_the_first_rows_are_listed() -> None:
    report = audit(split([pair(f"P{number}", "", "x") for number in range(50)]), {})
    (finding,) = report.findings
    assert (finding.count, lines(finding), len(finding.examples)) == (50, list(range(1, 21)), 3)


def test_nothing_to_audit() -> None:
    report = audit(split([]), {"eval": split([], "eval")})
    assert report.findings == []
    assert report.statistics["train"]["longer_side_wins"] is None
    assert report.statistics["train"]["chars"]["prompt"]["mean"] is None


def test_statistics_by_hand() -> None:
    english = "This is the answer that you have been looking for"
    pairs = [
        pair("ab", english, "x" * 10, chosen_first=True),
        pair("ab", "x", "yyyy", chosen_first=True, label=0.75),
        pair("abcd", "x", "y", chosen_first=False),
        pair("abcdef", "xx", "y", chosen_first=False, label=0.5),
        pair("\u4ec0\u4e48", "\u4eca\u5929", "y"),
    ]
    numbers = audit(split(pairs), {}).statistics["train"]
    assert numbers == {
        "num_pairs": 5,
        "num_prompts": 4,
        "max_pairs_per_prompt": 2,
        "languages": {"unknown": 0.6, "en": 0.2, "zh": 0.2},
        "chars": {
            "prompt": {"mean": 3.2, "p5": 2.0, "p50": 2.0, "p95": pytest.approx(5.6), "max": 6},
            "chosen": {"mean": 11.0, "p5": 1.0, "p50": 2.0, "p95": pytest.approx(39.6), "max": 49},
            "rejected": {"mean": 3.4, "p5": 1.0, "p50": 1.0, "p95": pytest.approx(8.8), "max": 10},
        },
        "longer_side_wins": pytest.approx(2 / 3),
        "longer_side_pairs": 3,
        "chosen_first": pytest.approx(2 / 3),
        "chosen_first_pairs": 3,
        "label_ties": 1,
        "soft_labels": 1,
    }


def test_the_report_is_plain_json() -> None:
    train, _ = poisoned()
    plain = audit(train, {"eval": evaluation()}, Audit.fix).plain()
    assert json.loads(json.dumps(plain)) == plain
    assert list(plain) == ["findings", "statistics"]
    assert list(plain["findings"][0]) == [
        "kind", "split", "severity", "count", "share", "limit", "meaning", "other", "other_count", "rows", "partners",
        "examples", "dropped",
    ]  # fmt: skip


def refusal(pairs: Sequence[PreferencePair], sets: dict[str, AuditSplit] | None = None, **limits: float) -> str:
    with pytest.raises(DataError) as error:
        refuse_beyond_limits(audit(split(pairs), sets or {}, Audit.error, limits))
    return str(error.value)


def test_error_mode() -> None:
    pairs = [clean(1), clean(2), clean(1)]
    assert refusal(pairs) == (
        "data.audit=error: train: 1 of 3 pairs (33.33%), first train.jsonl line 3: the same prompt and answers as in "
        "an earlier pair (duplicates, limit 0.00%); type data.audit=fix, or '+data.audit_limits={duplicates: 0.34}'"
    )
    assert refusal(pairs, duplicates=0.2).startswith("data.audit=error: train: 1 of 3 pairs (33.33%)")
    refuse_beyond_limits(audit(split(pairs), {}, Audit.error, {"duplicates": 0.34}))
    refuse_beyond_limits(audit(split([pair("P", "a", "A.")]), {}, Audit.error))
    assert refusal([pair("P", "a", "A.")], near_identical_sides=0.5) == (
        "data.audit=error: train: 1 of 1 pairs (100.00%), first train.jsonl line 1: the answers differ in case, "
        "punctuation or spacing only (near_identical_sides, limit 50.00%); mend the data, "
        "or '+data.audit_limits={near_identical_sides: 1}'"
    )
    assert refusal([clean(1), clean(1), pair(LEAK, "", "b")], {"eval": evaluation()}) == (
        "data.audit=error: train: 1 of 3 pairs (33.33%), first train.jsonl line 3: an answer has no text "
        "(empty_answers, limit 0.00%) and 2 more findings beyond the limits; type data.audit=fix, or "
        "'+data.audit_limits={empty_answers: 0.34, leaked_prompts: 0.34, duplicates: 0.34}'"
    )
    assert refusal([clean(1)], {"eval": split([clean(2), clean(2)], "eval")}) == (
        "data.audit=error: eval: 1 of 2 pairs (50.00%), first eval.jsonl line 2: the same prompt and answers as in an "
        "earlier pair (duplicates, limit 0.00%); mend the data, or '+data.audit_limits={duplicates: 0.5}'"
    )
    assert "the prompt is one of the evaluation set eval (leaked_prompts," in refusal(
        [pair(LEAK, "a", "b")], {"eval": evaluation()}
    )


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_limit_that_is_proposed_is_enough(one: int, other: int) -> None:
    count, total = sorted((one, other))
    finding = Finding(
        kind="duplicates", split="train", severity="serious", count=count, share=count / total, limit=0.0, meaning="",
        rows=["x"], examples=[],
    )  # fmt: skip
    report = AuditReport(findings=[finding], statistics={}, drop=np.zeros(0, dtype=np.bool_))
    with pytest.raises(DataError, match=re.escape(f"{count} of {total} pairs")) as error:
        refuse_beyond_limits(report)
    finding.limit = float(str(error.value).rpartition(": ")[2].rstrip("}'"))
    assert finding.limit <= min(1.0, 1.1 * count / total + 1e-12)
    refuse_beyond_limits(report)


def test_the_settings_know_the_same_kinds() -> None:
    assert set(AUDIT_KINDS) == set(KINDS)
