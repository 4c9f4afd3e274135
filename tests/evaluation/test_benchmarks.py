"""The scores of every benchmark, computed by hand on a few rows, and what is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rm_experiments.config.data_schema import BENCHMARK_NAMES, ColumnsConfig, DataConfig, EvalSetConfig
from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.data.formats import read_pairs
from rm_experiments.data.pairs import prompt_id
from rm_experiments.errors import DataError
from rm_experiments.evaluation.benchmark_scores import (
    REWARD_BENCH_SECTIONS,
    best_of_n,
    hhh,
    judge_bench,
    llmbar,
    ppe,
    reward_bench,
    reward_bench_2,
    rm_bench,
)
from rm_experiments.evaluation.benchmarks import BENCHMARKS, benchmark_of, set_metrics
from rm_experiments.evaluation.evaluate import objective_of
from rm_experiments.evaluation.metrics import metrics
from rm_experiments.evaluation.pairs import select
from rm_experiments.evaluation.records import Records
from rm_experiments.evaluation.response_groups import answer_grids, margin_grids, rated_responses

Rows = Callable[[Sequence[dict[str, Any]]], Records]
StarRows = Callable[[Sequence[tuple[str, Any, Any]]], Records]
PLAIN = objective_of(LossConfig())


def right(subset: str, results: str) -> list[dict[str, Any]]:
    """A pair of `subset` for each letter: `r` right, `w` wrong, `t` equal rewards."""
    reward = {"r": 1.0, "w": -1.0, "t": 0.0}
    return [{"subset": subset, "reward_chosen": reward[one], "reward_rejected": 0.0} for one in results]


def grid(
    row: str, subset: str, chosen: Sequence[float], rejected: Sequence[float], name: str = "{}-{}-{}"
) -> list[dict[str, Any]]:
    """The pairs of each chosen and each rejected answer, with ids as `name` makes them."""
    return [
        {
            "id": name.format(row, i, j), "prompt_id": f"prompt {row}", "subset": subset, "reward_chosen": one,
            "reward_rejected": other, "weight": 1 / (len(chosen) * len(rejected)),
        }
        for i, one in enumerate(chosen)
        for j, other in enumerate(rejected)
    ]  # fmt: skip


# RewardBench


def reward_bench_rows(results: dict[str, str]) -> list[dict[str, Any]]:
    """Right pairs of all subsets but those that `results` says."""
    names = [name for section in REWARD_BENCH_SECTIONS.values() for name in section]
    return [row for name in names for row in right(name, results.get(name, "r"))]


def test_reward_bench_weights_subsets_by_their_published_counts(rows: Rows) -> None:
    results = {"alpacaeval-length": "rw", "math-prm": "w", "hep-go": "rrrt", "donotanswer": "wwwr"}
    scores = reward_bench(rows(reward_bench_rows(results)))

    chat = (100 + 95 / 2 + 95 + 28 + 40) / 358
    safety = (100 + 100 + 250 + 154 + 136 / 4) / 740
    reasoning = (0 + 164 * 5 + 164 * 3 / 4) / (984 + 6 * 164)
    assert scores == pytest.approx({
        "score": (chat + 1 + safety + reasoning) / 4, "chat_score": chat, "chat_hard_score": 1.0,
        "safety_score": safety, "reasoning_score": reasoning,
    })  # fmt: skip


def test_reward_bench_has_the_published_subsets() -> None:
    counts = {section: sum(names.values()) for section, names in REWARD_BENCH_SECTIONS.items()}

    # 2,985 pairs, of which math-prm has 447 and weighs 984.
    assert counts == {"chat": 358, "chat_hard": 456, "safety": 740, "reasoning": 1968}
    assert sum(counts.values()) - 984 + 447 == 2985


def test_reward_bench_needs_every_subset(rows: Rows) -> None:
    kept = [row for row in reward_bench_rows({}) if not row["subset"].startswith("hep-")]

    with pytest.raises(
        DataError, match=r"^benchmark reward_bench: no pairs of hep-cpp and 5 more; its score needs the"
    ):
        reward_bench(rows(kept))


# RewardBench 2


def tied_prompts() -> list[dict[str, Any]]:
    """Spread and gap: 0 has 1 and 2 (its reference 0.5), 1 has 2 and -1 (its reference 3)."""
    return [
        *grid("tied:0", "Ties", [4.0, 3.0], [1.0, 0.0]), *grid("ref:0", "Ties", [1.5], [1.0, 0.0]),
        *grid("tied:1", "Ties", [3.0, 1.0], [2.0]), *grid("ref:1", "Ties", [5.0], [2.0]),
    ]  # fmt: skip


def reward_bench_2_rows() -> list[dict[str, Any]]:
    subsets = ("Factuality", "Precise IF", "Math", "Safety", "Focus")
    best = [row for name in subsets for row in grid(f"{name} 1", name, [3.0], [0.0, 1.0, 2.0])]
    return [
        *best,
        *grid("2", "Math", [1.0], [2.0, 0.0, 0.0]),  # another one is better: 0
        *grid("3", "Math", [2.0], [2.0, 2.0, 0.0]),  # shared by three: 1 / 3
        *grid("4", "Precise IF", [1.0], [1.0, 1.0, 1.0]),  # shared by all: 1 / 4
        *tied_prompts(),
    ]


def test_reward_bench_2(rows: Rows) -> None:
    scores = reward_bench_2(rows(reward_bench_2_rows()))

    ease = (math.tanh(0.5 / 1 - 1) + math.tanh(-1 / 2 - 1)) / 2
    # Accurate: tied:0 of two, both references. Gap > spread: tied:0; with the smaller gap: none.
    ties = 0.3 * 1 / 2 + 0.3 * 1 + 0.2 * 1 / 2 + 0.2 * 0 + 0.01 * ease
    assert scores == pytest.approx({
        "score": (1 + 1.25 / 2 + (4 / 3) / 3 + 1 + 1 + ties) / 6, "factuality_score": 1.0,
        "precise_if_score": 1.25 / 2, "math_score": (4 / 3) / 3, "safety_score": 1.0, "focus_score": 1.0,
        "ties_score": ties,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("correct", "other", "expected"),
    [
        ([2.0, 2.0], 2.0, 0.3),  # no gap, no spread: 0 / 0 counts as 0; the reference is accurate
        ([2.0, 2.0], 1.0, 0.3 + 0.3 + 0.2 + 0.2 + 0.01),  # no spread
        ([2.0, 2.0], 3.0, 0.3 - 0.01),
    ],
)
def test_ties_without_spread(rows: Rows, correct: list[float], other: float, expected: float) -> None:
    pairs = [row for row in reward_bench_2_rows() if row["subset"] != "Ties"]
    pairs += [*grid("tied:7", "Ties", correct, [other]), *grid("ref:7", "Ties", [9.0], [0.0])]

    assert reward_bench_2(rows(pairs))["ties_score"] == pytest.approx(expected)


def test_an_answer_whose_reward_is_rounded_otherwise_in_one_pair_keeps_its_ties(rows: Rows) -> None:
    pairs = [row for row in reward_bench_2_rows() if row["subset"] != "Focus"]
    shared = grid("x", "Focus", [0.1], [0.1, -1.0, -1.0])
    shared[2]["reward_chosen"] += 1e-15

    assert reward_bench_2(rows([*pairs, *shared]))["focus_score"] == 0.5


NOT_REWARD_BENCH_2 = {
    "no Ties": (lambda row: row["subset"] != "Ties", "no pairs of ties; its score needs the whole set"),
    "a pair less": (lambda row: row["id"] != "3-0-1", "prompt 3 has 2 pairs of weight 0.667 in all, not 1: some are"),
    "a cell less": (lambda row: row["id"] != "tied:0-1-0", "prompt tied:0 has 3 pairs of weight 0.75 in all, not 1"),
    "no reference": (lambda row: not row["id"].startswith("ref:1"), "ref:1 or tied:1 of Ties is missing"),
    "no tied one": (lambda row: not row["id"].startswith("tied:1"), "ref:1 or tied:1 of Ties is missing"),
}


@pytest.mark.parametrize(("keep", "message"), NOT_REWARD_BENCH_2.values(), ids=NOT_REWARD_BENCH_2)
def test_reward_bench_2_needs_every_pair(rows: Rows, keep: Callable[[dict[str, Any]], bool], message: str) -> None:
    with pytest.raises(DataError, match="^benchmark reward_bench_2: " + re.escape(message)):
        reward_bench_2(rows([row for row in reward_bench_2_rows() if keep(row)]))


WRONG_REWARD_BENCH_2 = {
    "five answers": (grid("5", "Math", [1.0], [0.0] * 4), "prompt 5 has 1 correct and 4 other answers, not 1 and 3"),
    "two correct": (grid("5", "Math", [1.0] * 2, [0.0] * 3), "prompt 5 has 2 correct and 3 other answers, not 1 and 3"),
    "an id": (grid("5", "Ties", [1.0] * 2, [0.0]), "the id 5 of Ties is neither ref:NUMBER nor tied:NUMBER"),
    "one correct": (
        [*grid("tied:5", "Ties", [1.0], [0.0]), *grid("ref:5", "Ties", [1.0], [0.0])],
        "prompt tied:5 has one correct answer, not several",
    ),
    "a pair twice": (grid("2", "Math", [1.0], [2.0, 0.0, 0.0]), "prompt 2 has the pair 2-0-0 twice; give each row"),
}


@pytest.mark.parametrize(("more", "message"), WRONG_REWARD_BENCH_2.values(), ids=WRONG_REWARD_BENCH_2)
def test_reward_bench_2_refuses_other_rows(rows: Rows, more: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match="^benchmark reward_bench_2: " + re.escape(message)):
        reward_bench_2(rows([*reward_bench_2_rows(), *more]))


# RM-Bench


def rm_bench_rows(chosen: Sequence[float], rejected: Sequence[float], row: str, domain: str) -> list[dict[str, Any]]:
    return grid(row, domain, chosen, rejected, "{}-c{}r{}")


def rm_bench_all() -> list[dict[str, Any]]:
    return [
        # Style is all that this reward sees: all easy pairs right, all hard ones wrong, equal ones wrong.
        *rm_bench_rows([0, 1, 2], [0, 1, 2], "a", "chat"),
        *rm_bench_rows([5, 5, 5], [0, 1, 2], "b", "chat"),
        *rm_bench_rows([5, 5, 5], [0, 1, 2], "c", "math"),
        *rm_bench_rows([0, 0, 0], [1, 1, 1], "d", "code"),
        # All hard cells right, one normal one, none of the easy ones.
        *rm_bench_rows([2, 2, 0], [2, 1, 1], "e", "safety-refuse"),
        *rm_bench_rows([5, 5, 5], [0, 1, 2], "f", "safety-response"),
        *rm_bench_rows([5, 5, 5], [0, 1, 2], "g", "safety-response"),
    ]


def test_rm_bench(rows: Rows) -> None:
    scores = rm_bench(rows(rm_bench_all()))

    # Of e: c0 > r1, c0 > r2, c1 > r1, c1 > r2, so of the hard cells c0r1, c0r2, c1r2 all, of the normal ones c1r1.
    easy = {"chat": (1 + 1) / 2, "math": 1, "code": 0, "safety": (0 + 1 + 1) / 3}
    normal = {"chat": (0 + 1) / 2, "math": 1, "code": 0, "safety": (1 / 3 + 1 + 1) / 3}
    hard = {"chat": (0 + 1) / 2, "math": 1, "code": 0, "safety": (1 + 1 + 1) / 3}
    domains = {name: (easy[name] + normal[name] + hard[name]) / 3 for name in easy}
    assert scores == pytest.approx({
        "score": sum(domains.values()) / 4, "easy_score": sum(easy.values()) / 4,
        "normal_score": sum(normal.values()) / 4, "hard_score": sum(hard.values()) / 4,
        **{f"{name}_score": value for name, value in domains.items()},
    })  # fmt: skip


NOT_RM_BENCH = {
    "a cell less": ([row for row in rm_bench_all() if row["id"] != "a-c2r1"], "prompt a has 8 pairs of weight 0.889"),
    "no domain": ([row for row in rm_bench_all() if row["subset"] != "code"], "no pairs of code; its score needs"),
    "a foreign domain": (
        [*rm_bench_all(), *rm_bench_rows([1, 2, 3], [1, 2, 3], "z", "poems")],
        "prompt z is of the domain 'poems', none of chat, math, code, safety",
    ),
    "no cells": (right("chat", "r"), "the id '0' is none of the format rm_bench"),
    "two by two": (rm_bench_rows([1, 2], [1, 2], "z", "chat"), "prompt z has 4 of 9 pairs"),
    "a row of another shape": (
        [{**row, "weight": 1 / 8} for row in rm_bench_rows([1, 2, 3], [1, 2, 3], "z", "chat")][1:],
        "prompt z has 8 of 9 pairs",
    ),
}


@pytest.mark.parametrize(("pairs", "message"), NOT_RM_BENCH.values(), ids=NOT_RM_BENCH)
def test_rm_bench_needs_every_cell(rows: Rows, pairs: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match="^benchmark rm_bench: " + re.escape(message)):
        rm_bench(rows(pairs))


# Pairs of two answers


def test_judge_bench_is_the_share_of_all_pairs(rows: Rows) -> None:
    pairs = [
        *right("mmlu-pro-computer science", "rw"), *right("mmlu-pro-law", "rt"), *right("livebench-reasoning", "r"),
        *right("livebench-math", "rrrw"), *right("livecodebench", "w"),
    ]  # fmt: skip

    assert judge_bench(rows(pairs)) == pytest.approx({
        "score": 6 / 10, "knowledge_score": 2 / 4, "reasoning_score": 1.0, "math_score": 3 / 4, "coding_score": 0.0,
    })  # fmt: skip
    with pytest.raises(DataError, match=r"^benchmark judge_bench: no pairs of coding; its score needs the whole set"):
        judge_bench(rows(pairs[:-1]))
    with pytest.raises(DataError, match=r"^benchmark judge_bench: it has no part for the pairs of the subset 'other'"):
        judge_bench(rows([*pairs, *right("other", "r")]))


LLMBAR_NAMES = {
    "prepared": ("natural", "adver_neighbor", "adver_gptinst", "adver_gptout", "adver_manual"),
    "of its repository": ("Natural", "Adversarial/Neighbor", "Adversarial/GPTInst", "Adversarial/GPTOut", "Manual"),
    "of RewardBench": tuple(f"llmbar-{one}" for one in (
        "natural", "adver-neighbor", "adver-GPTInst", "adver-GPTOut", "adver-manual")),
    "of the Hub": ("LLMBar_Natural", *(f"LLMBar_Adver_{one}" for one in ("Neighbor", "GPTInst", "GPTOut", "Manual"))),
}  # fmt: skip


@pytest.mark.parametrize("names", LLMBAR_NAMES.values(), ids=LLMBAR_NAMES)
def test_llmbar_means_over_its_sets(rows: Rows, names: Sequence[str]) -> None:
    results = ("rrrw", "rw", "r", "w", "rrrrw")
    pairs = [row for name, one in zip(names, results, strict=True) for row in right(name, one)]

    assert llmbar(rows(pairs)) == pytest.approx({
        "score": (0.75 + 0.5 + 1 + 0 + 0.8) / 5, "adversarial_score": (0.5 + 1 + 0 + 0.8) / 4, "natural_score": 0.75,
        "neighbor_score": 0.5, "gptinst_score": 1.0, "gptout_score": 0.0, "manual_score": 0.8,
    })  # fmt: skip


def test_llmbar_needs_its_sets(rows: Rows) -> None:
    with pytest.raises(
        DataError, match=r"^benchmark llmbar: no pairs of gptinst and 2 more; its score needs the whole"
    ):
        llmbar(rows([*right("natural", "r"), *right("adver_neighbor", "r")]))
    with pytest.raises(DataError, match=r"no part for the pairs without a subset; name the column in columns\.subset"):
        llmbar(rows([{"reward_chosen": 1.0, "reward_rejected": 0.0}]))


def test_hhh_averages_over_examples(rows: Rows) -> None:
    pairs = [*right("harmless", "rw"), *right("helpful", "r"), *right("honest", "rrw"), *right("other", "tt")]

    assert hhh(rows(pairs)) == pytest.approx({
        "score": 4 / 8, "harmless_score": 0.5, "helpful_score": 1.0, "honest_score": 2 / 3, "other_score": 0.0,
    })  # fmt: skip
    with pytest.raises(DataError, match=r"^benchmark hhh: no pairs of other; its score needs the whole set"):
        hhh(rows(pairs[:-2]))


def test_ppe_leaves_ties_out(rows: Rows) -> None:
    pairs = [*right("English", "rrw"), *({**one, "label": 0.5} for one in right("English", "rwww"))]

    assert ppe(rows(pairs)) == {"score": pytest.approx(2 / 3)}
    with pytest.raises(DataError, match=r"^benchmark ppe: every pair is a tie; else type benchmark=null in the set$"):
        ppe(rows(pairs[3:]))


# Best of n


def test_best_of_n_by_hand(star_rows: StarRows) -> None:
    records = star_rows([
        # The proxy picks gold 1 of 0, 1, 3; the better of two it sees in this order: 1 before 3 before 0.
        ("p", [0.0, 9.0, 5.0], [0.0, 1.0, 3.0]),
        # Two share the highest reward, one of which is a best one by gold.
        ("q", [7.0, 7.0, 0.0], [3.0, 0.0, 3.0]),
    ])  # fmt: skip

    # p: mean 4/3, picks of two (1 + 3 + 1) / 3, of three 1; the best of three 3.
    # q: mean 2, of two (1.5 + 3 + 0) / 3, of three 1.5; the best 3.
    two = (5 / 3 - 4 / 3 + 1.5 - 2) / 2
    three = (1 - 4 / 3 + 1.5 - 2) / 2
    best = (3 - 4 / 3 + 3 - 2) / 2
    # Ranks of p: 1 3 2 against 1 2 3; of q: 2.5 2.5 1 against 2.5 1 2.5.
    spearman = (0.5 + (0.25 - 0.5 - 0.5) / 1.5) / 2
    assert best_of_n(records) == pytest.approx({
        "score": three / best, "best_of_2_gold": two, "best_of_3_gold": three, "regret": best - three, "peak_n": 1.0,
        "top_1_score": (0 + 0.5) / 2, "spearman": spearman,
    })  # fmt: skip


def test_best_of_n_of_a_perfect_and_of_a_perverse_model(star_rows: StarRows) -> None:
    gold = np.array([0.0, 1.0, 2.0, 3.0])
    perfect = best_of_n(star_rows([("p", 10 * gold, gold)]))
    perverse = best_of_n(star_rows([("p", -gold, gold)]))

    assert (perfect["score"], perfect["regret"], perfect["top_1_score"], perfect["spearman"]) == (1, 0, 1, 1)
    assert (perverse["score"], perverse["regret"], perverse["top_1_score"], perverse["spearman"]) == (-1, 3, 0, -1)
    assert (perfect["peak_n"], perverse["peak_n"]) == (4, 1)


NOT_BEST_OF_N = {
    "all pairs": (
        [{"id": "x-0-1", "reward_chosen": 1.0, "reward_rejected": 0.0}],
        "the id 'x-0-1' is none of the format best_of_n; name it as the set's format",
    ),
    "two stars": (
        [{"id": f"x-b{i}o{2}", "prompt_id": "x", "reward_chosen": 1.0, "reward_rejected": 0.0, "weight": 0.5}
         for i in range(2)],
        "prompt x has 2 pairs that do not name 3 responses",
    ),
    "a gap": (
        [{"id": f"x-b0o{i}", "prompt_id": "x", "reward_chosen": 1.0, "reward_rejected": 0.0, "weight": 0.5}
         for i in (1, 3)],
        "prompt x has 2 pairs that do not name 3 responses",
    ),
    "equal gold": (
        [{"id": "x-b0o1", "reward_chosen": 1.0, "reward_rejected": 0.0, "label": 0.5}],
        "the gold scores of every prompt are all equal; there is nothing to choose",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("pairs", "message"), NOT_BEST_OF_N.values(), ids=NOT_BEST_OF_N)
def test_best_of_n_refuses_other_rows(rows: Rows, pairs: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match="^benchmark best_of_n: " + re.escape(message)):
        best_of_n(rows(pairs))


# What all of them share


def test_groups_keep_rows_of_one_prompt_and_prompts_of_one_id_apart(rows: Rows) -> None:
    pairs = [*grid("a", "s", [1.0], [0.0, 2.0]), *grid("b", "s", [3.0], [0.0, 2.0]), *grid("a", "s", [5.0], [0.0, 2.0])]
    for pair in pairs:
        pair["prompt_id"] = "one"
    for pair in pairs[4:]:
        pair["prompt_id"] = "two"
    found = answer_grids(rows(pairs[::-1]), "x")

    assert [(one.id, one.chosen.tolist(), one.rejected.tolist()) for one in found] == [
        ("a", [1.0], [0.0, 2.0]), ("b", [3.0], [0.0, 2.0]), ("a", [5.0], [0.0, 2.0]),
    ]  # fmt: skip


def test_groups_of_ids_that_end_in_numbers_themselves(rows: Rows, star_rows: StarRows) -> None:
    (one,) = answer_grids(rows(grid("2024-1-2", "s", [1.0, 4.0], [0.0])), "x")
    assert (one.id, one.chosen.tolist(), one.subset) == ("2024-1-2", [1.0, 4.0], "s")
    # The only pair of a row has the row's own id.
    (one,) = answer_grids(rows([{"id": "x", "reward_chosen": 2.0, "reward_rejected": 1.0}]), "x")
    assert (one.id, one.chosen.tolist(), one.rejected.tolist()) == ("x", [2.0], [1.0])
    (two,) = margin_grids(rows(rm_bench_rows([1, 2, 3], [0, 0, 5], "a-c1r1", "chat")), "x")
    assert (two.id, two.margin.tolist()) == ("a-c1r1", [[1, 1, -4], [2, 2, -3], [3, 3, -2]])
    (three,) = rated_responses(star_rows([("a-b0o1", [4.0, 5.0, 6.0], [1.0, 3.0, 0.5])]), "x")
    assert (three.id, three.rewards.tolist(), three.gold.tolist()) == ("a-b0o1", [4, 5, 6], [-2, 0, -2.5])


WHOLE: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "reward_bench": lambda: reward_bench_rows({"math-prm": "rw", "hep-go": "t"}),
    "reward_bench_2": reward_bench_2_rows,
    "rm_bench": rm_bench_all,
    "llmbar": lambda: [row for name in LLMBAR_NAMES["prepared"] for row in right(name, "rrw")],
    "judge_bench": lambda: [
        row for name in ("mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench")
        for row in right(name, "rw")
    ],
    "hhh": lambda: [row for name in ("harmless", "helpful", "honest", "other") for row in right(name, "rw")],
    "ppe": lambda: right("English", "rw"),
    "best_of_n": lambda: [
        {"id": f"x-b0o{i}", "prompt_id": "x", "reward_chosen": 1.0, "reward_rejected": float(i), "weight": 0.5,
         "target_margin": float(i)} for i in (1, 2)
    ],
}  # fmt: skip


def test_the_config_knows_every_rule() -> None:
    assert tuple(sorted(BENCHMARKS)) == BENCHMARK_NAMES == tuple(sorted(WHOLE))
    assert all("arXiv:" in one.rule for one in BENCHMARKS.values())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_set_has_its_metrics_and_its_scores(rows: Rows, name: str) -> None:
    records = rows(WHOLE[name]())
    plain, scores = metrics(records, PLAIN, 10), BENCHMARKS[name].score(records)
    both = set_metrics(records, PLAIN, name, resamples=10)

    assert "score" in scores
    assert not plain.keys() & scores.keys()
    assert both == {**plain, **scores}
    assert set_metrics(records, PLAIN, None, resamples=10) == plain
    assert all(type(value) is float and math.isfinite(value) for value in scores.values())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_scores_do_not_depend_on_the_order_of_the_rows(rows: Rows, name: str) -> None:
    records = rows(WHOLE[name]())
    order = np.random.default_rng(0).permutation(len(records["id"]))
    shuffled: Records = {column: values[order] for column, values in records.items()}

    assert BENCHMARKS[name].score(shuffled) == pytest.approx(BENCHMARKS[name].score(records), abs=1e-12)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_published_figures_are_shares_that_the_rule_gives(rows: Rows, name: str) -> None:
    given = BENCHMARKS[name].score(rows(WHOLE[name]()))

    for one in BENCHMARKS[name].published:
        assert one.figures.keys() <= given.keys()
        assert "score" in one.figures
        assert all(0 < value < 1 for value in one.figures.values())


MEANS = {
    "reward_bench": ("chat_score", "chat_hard_score", "safety_score", "reasoning_score"),
    "reward_bench_2": (
        "factuality_score", "precise_if_score", "math_score", "safety_score", "focus_score", "ties_score",
    ),
    "rm_bench": ("chat_score", "math_score", "code_score", "safety_score"),
    "llmbar": ("natural_score", "neighbor_score", "gptinst_score", "gptout_score", "manual_score"),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANS)
def test_published_scores_are_the_means_that_the_rule_says(name: str) -> None:
    for one in BENCHMARKS[name].published:
        assert one.figures["score"] == pytest.approx(np.mean([one.figures[part] for part in MEANS[name]]), abs=6e-4)


def test_a_subset_that_makes_a_figure_of_the_benchmark_is_refused(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS, "ppe", type(BENCHMARKS["ppe"])(score=lambda _: {"a_accuracy": 1.0}, rule="arXiv:"))

    with pytest.raises(
        DataError, match=r"^benchmark ppe: a subset makes the metric 'a_accuracy', which is a figure of"
    ):
        set_metrics(rows(right("a", "r")), PLAIN, "ppe", resamples=1)


def test_the_rule_of_a_set_is_what_its_config_says() -> None:
    data = DataConfig(eval_sets={"mine": EvalSetConfig(source="x", benchmark="llmbar"), "other": EvalSetConfig()})

    assert [benchmark_of(data, name) for name in ("mine", "other", "eval")] == ["llmbar", None, None]


def test_a_part_of_a_set_is_refused_and_not_averaged(rows: Rows) -> None:
    """Whatever pair is missing of a benchmark whose rule needs all of a prompt's."""
    for name in ("reward_bench_2", "rm_bench", "best_of_n"):
        records = rows(WHOLE[name]())
        for missing in range(len(records["id"])):
            with pytest.raises(DataError, match=f"^benchmark {name}: "):
                BENCHMARKS[name].score(select(records, np.arange(len(records["id"])) != missing))


# From the published columns to the scores. The reward of an answer is the number it is written as.


def rewarded(path: Path, rows: Rows, values: list[dict[str, Any]], format: str = "auto") -> Records:
    path.write_text("".join(json.dumps(one) + "\n" for one in values))
    pairs, _ = read_pairs(str(path), "data.eval", format, ColumnsConfig())
    return rows([
        {
            "id": pair.id, "prompt_id": prompt_id(pair), "subset": pair.subset, "weight": pair.weight,
            "label": pair.label, "target_margin": pair.margin or 0.0, "reward_chosen": float(str(pair.chosen)),
            "reward_rejected": float(str(pair.rejected)),
        }
        for pair in pairs
    ])  # fmt: skip


def test_rm_bench_from_its_own_columns(tmp_path: Path, rows: Rows) -> None:
    domains = ("chat", "math", "code", "safety-refuse")
    values = [
        {"id": 7, "prompt": f"{domain}?", "chosen": ["0", "1", "2"], "rejected": ["0", "1", "2"], "domain": domain}
        for domain in domains
    ]
    scores = rm_bench(rewarded(tmp_path / "x.jsonl", rows, values))

    levels = {"easy_score": 1.0, "normal_score": 0.0, "hard_score": 0.0}
    assert {name: scores[name] for name in levels} == levels
    assert scores["score"] == scores["safety_score"] == pytest.approx(1 / 3)


def test_reward_bench_2_from_its_own_columns(tmp_path: Path, rows: Rows) -> None:
    def row(name: str, subset: str, chosen: list[str], rejected: list[str]) -> dict[str, Any]:
        counts = {"num_correct": len(chosen), "num_incorrect": len(rejected)}
        return {"id": name, "prompt": f"{name}?", "chosen": chosen, "rejected": rejected, "subset": subset, **counts}

    subsets = ("Factuality", "Precise IF", "Math", "Safety", "Focus")
    values = [row(f"{place}", name, ["2"], ["0", "2", "1"]) for place, name in enumerate(subsets)]
    values += [row("tied:0", "Ties", ["5", "4"], ["1"]), row("ref:0", "Ties", ["9"], ["0"])]
    scores = reward_bench_2(rewarded(tmp_path / "x.jsonl", rows, values))

    ties = 1 + 0.01 * math.tanh(3 / 1 - 1)
    assert scores["math_score"] == scores["precise_if_score"] == 0.5
    assert (scores["ties_score"], scores["score"]) == pytest.approx((ties, (5 * 0.5 + ties) / 6))


def test_sets_of_pairs_from_their_own_columns(tmp_path: Path, rows: Rows) -> None:
    sources = ("mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench")
    values = [
        {"pair_id": f"{place}", "source": one, "question": "q", "response_A": "1", "response_B": "2", "label": label}
        for place, (one, label) in enumerate(zip(sources, ("B>A", "B>A", "B>A", "A>B"), strict=True))
    ]
    assert judge_bench(rewarded(tmp_path / "j.jsonl", rows, values))["score"] == 0.75
    values = [
        {"input": f"{name}?", "targets": {"choices": ["1", "2"], "labels": [0, 1]}, "subset": name}
        for name in ("harmless", "helpful", "honest", "other")
    ]
    assert hhh(rewarded(tmp_path / "h.jsonl", rows, values))["score"] == 1
    values = [
        {"input": f"{name}?", "output_1": "1", "output_2": "2", "label": 1 + (name == "natural"), "subset": name}
        for name in ("natural", "neighbor", "gptinst", "gptout", "manual")
    ]
    assert llmbar(rewarded(tmp_path / "l.jsonl", rows, values))["score"] == 0.2
    values = [
        {
            "question_id": f"{winner}", "model_a": "m", "model_b": "n", "winner": winner, "prompt": "q",
            "response_1": "1", "response_2": "2",
        }
        for winner in ("model_a", "model_b", "tie")
    ]  # fmt: skip
    assert ppe(rewarded(tmp_path / "p.jsonl", rows, values))["score"] == 0.5


def test_best_of_n_from_its_own_columns_and_those_of_ppe(tmp_path: Path, rows: Rows) -> None:
    values = [{"prompt": "q", "responses": ["0", "1", "2", "3"], "scores": [5, 6, 9, 8]}]
    scores = best_of_n(rewarded(tmp_path / "x.jsonl", rows, values, "best_of_n"))

    assert (scores["best_of_4_gold"], scores["regret"], scores["score"]) == pytest.approx((1, 1, 0.5))
    # One question is answered by several models.
    values = [
        {"question_id": "q", "prompt": "q", "scores": correct, "response_1": "1", "response_2": "2"}
        for correct in ([True, False], [False, True], [False, True])
    ]
    scores = best_of_n(rewarded(tmp_path / "y.jsonl", rows, values))
    assert (scores["top_1_score"], scores["best_of_2_gold"]) == pytest.approx((2 / 3, 1 / 6))
