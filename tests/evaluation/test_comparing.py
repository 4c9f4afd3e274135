"""Models on the same rows: matching them, differences with and without seeds, places, families of tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats

from rm_experiments.errors import DataError
from rm_experiments.evaluation.comparing import Comparison, Scores, align, common_rows, compare, scores_of
from rm_experiments.evaluation.pairs import select
from rm_experiments.evaluation.records import Records
from rm_experiments.evaluation.statistics import Floats, holm, mean_interval, paired_difference

Rows = Callable[[Sequence[dict[str, Any]]], Records]


def table(rows: Rows, margins: Sequence[float], **columns: Sequence[Any]) -> Records:
    """Records with these margins and columns."""
    return rows([
        {"reward_chosen": float(margin), "reward_rejected": 0.0, **{key: one[at] for key, one in columns.items()}}
        for at, margin in enumerate(margins)
    ])  # fmt: skip


def shuffled(records: Records, seed: int = 0) -> Records:
    order = np.random.default_rng(seed).permutation(len(records["weight"]))
    return {name: column[order] for name, column in records.items()}


def test_rows_are_matched_by_content_whatever_their_place(rows: Rows) -> None:
    a = table(rows, range(9), pair_id=list("ihgfedcba"))
    b = {**a, "margin": a["margin"] + 100, "id": np.array([f"other {one}" for one in range(9)], dtype=object)}
    found = align({"a": a, "b": shuffled(b), "c": shuffled(b, 1)})
    assert list(found) == ["a", "b", "c"]
    # The first one's rows stay where people know them.
    assert found["a"]["pair_id"].tolist() == list("ihgfedcba")
    assert found["a"]["margin"].tolist() == list(range(9))
    for other in ("b", "c"):
        assert found[other]["pair_id"].tolist() == list("ihgfedcba")
        assert found[other]["margin"].tolist() == list(range(100, 109))
        assert found[other]["id"].tolist() == [f"other {one}" for one in range(9)]


def test_a_row_that_is_there_twice_is_matched_twice(rows: Rows) -> None:
    a = table(rows, [1, 2, 3, 4], pair_id=list("xyxz"))
    b = table(rows, [40, 10, 20, 30], pair_id=list("zxyx"))
    found = align({"a": a, "b": b})
    assert found["a"]["margin"].tolist() == [1, 2, 3, 4]
    assert found["b"]["margin"].tolist() == [10, 20, 30, 40]


def test_other_rows_are_refused_with_the_counts(rows: Rows) -> None:
    a = table(rows, range(5), pair_id=list("abcde"))
    b = table(rows, range(3), pair_id=list("cdx"))
    message = (
        r"^different rows: run one has 5 pairs, run two 3, and 2 are the same; evaluate both on one set with rm-eval, "
        r"or compare what they share with rows=common$"
    )
    with pytest.raises(DataError, match=message):
        align({"run one": a, "same": shuffled(a), "run two": b})


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"label": [1.0, 0.5, 1.0]}, id="another label"),
        pytest.param({"pair_id": list("aab")}, id="another row twice"),
        pytest.param({"pair_id": list("abx")}, id="another pair"),
    ],
)
def test_rows_that_differ_in_label_pair_or_number_are_not_the_same(rows: Rows, other: dict[str, Any]) -> None:
    a = table(rows, range(3), pair_id=list("abc"), label=[1.0, 1.0, 1.0])
    b = table(rows, range(3), **{"pair_id": list("abc"), "label": [1.0, 1.0, 1.0], **other})
    with pytest.raises(DataError, match=r"^different rows: a has 3 pairs, b 3, and 2 are the same;"):
        align({"a": a, "b": b})
    assert [len(one["weight"]) for one in common_rows({"a": a, "b": b}).values()] == [2, 2]


def test_what_all_models_share(rows: Rows) -> None:
    a = table(rows, range(6), pair_id=list("abcdee"))
    b = table(rows, range(10, 15), pair_id=list("xedcb"))
    c = table(rows, range(20, 25), pair_id=list("edcbz"))
    found = common_rows({"a": a, "b": b, "c": c})
    assert [one["pair_id"].tolist() for one in found.values()] == [list("bcde")] * 3
    # Of a row that is there twice in one of them, the first.
    assert [one["margin"].tolist() for one in found.values()] == [[1, 2, 3, 4], [14, 13, 12, 11], [23, 22, 21, 20]]
    assert common_rows({"a": a, "b": table(rows, [0], pair_id=["q"])})["a"]["margin"].tolist() == []


@pytest.mark.parametrize("weights", [None, (0.5, 2.0)])
def test_difference_of_two_models_is_the_paired_one(weights: tuple[float, float] | None) -> None:
    generator = np.random.default_rng(0)
    prompts = generator.integers(60, size=150)
    weight = np.ones(150) if weights is None else generator.uniform(*weights, 150)
    a, b = generator.exponential(size=(2, 150))
    found, counted = Scores(prompts, weight, [a[None], b[None]], 20_000).difference(0, 1)
    expected = paired_difference(prompts, a, b, weight, 20_000)
    assert not counted
    assert (found.num_pairs, found.num_prompts) == (150, len(np.unique(prompts)))
    assert found.difference == pytest.approx(expected.difference, rel=1e-12)
    assert found.difference == pytest.approx(float(((b - a) * weight).sum() / weight.sum()), rel=1e-12)
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03 * width)
    assert found.p == pytest.approx(expected.p, abs=0.02)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.03)
    assert found.mcnemar_p is None


def test_mcnemar_of_two_models() -> None:
    a, b = np.array([[1.0, 1, 1, 0, 1, 0]]), np.array([[0.0, 0, 0, 1, 1, 0]])
    ones, alone = np.ones(6), np.arange(6)
    assert Scores(alone, ones, [a, b], 50).difference(0, 1)[0].mcnemar_p == pytest.approx(10 / 16, rel=1e-12)
    for scores in (
        Scores(np.array([0, 0, 2, 3, 4, 5]), ones, [a, b], 50),
        Scores(alone, np.full(6, 0.5), [a, b], 50),
        Scores(alone, ones, [a, np.concatenate([b, b])], 50),
        Scores(alone, ones, [a, b * 0.5], 50),
    ):
        assert scores.difference(0, 1)[0].mcnemar_p is None


def constant(*levels: float, prompts: int = 40) -> Floats:
    """Models [k, n] that are as good on every prompt."""
    return np.repeat(np.array(levels)[:, None], prompts, axis=1)


@pytest.mark.parametrize(
    ("a", "b"), [((0.2, 0.4), (0.6, 1.0)), ((0.2, 0.4, 0.1), (0.3, 0.5, 0.9)), ((0.2, 0.4), (0.6, 0.7, 0.9, 0.5))]
)
def test_where_prompts_do_not_matter_seeds_are_compared_by_the_t_test_of_scipy(
    a: tuple[float, ...], b: tuple[float, ...]
) -> None:
    scores = Scores(np.arange(40), np.ones(40), [constant(*a), constant(*b)], 1000)
    found, counted = scores.difference(0, 1)
    expected = scipy.stats.ttest_ind(b, a)
    interval = expected.confidence_interval(0.95)
    assert counted
    assert found.difference == pytest.approx(np.mean(b) - np.mean(a), rel=1e-12)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
    assert found.standard_error == pytest.approx(found.difference / expected.statistic, rel=1e-6)


def test_a_single_seed_borrows_the_variance_of_the_other_candidate() -> None:
    # Variance .01 of the three seeds: of a difference .01 (1 + 1/3), with two degrees of freedom.
    scores = Scores(np.arange(40), np.ones(40), [constant(0.3), constant(0.5, 0.6, 0.7)], 1000)
    found, counted = scores.difference(0, 1)
    error = math.sqrt(0.01 * 4 / 3)
    assert counted
    assert found.standard_error == pytest.approx(error, rel=1e-6)
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(0.3 / error, 2), rel=1e-6)
    assert found.high - found.difference == pytest.approx(scipy.stats.t.ppf(0.975, 2) * error, rel=1e-6)


def test_two_single_seeds_borrow_the_variance_of_all_others() -> None:
    # Variances .01 with two degrees of freedom and .04 with one: .02 with three.
    candidates = [constant(0.3), constant(0.4), constant(0.5, 0.6, 0.7), constant(0.2, 0.2 + math.sqrt(0.08))]
    scores = Scores(np.arange(40), np.ones(40), candidates, 1000)
    found, counted = scores.difference(1, 0)
    assert counted
    assert found.standard_error == pytest.approx(math.sqrt(0.02 * 2), rel=1e-6)
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(0.1 / math.sqrt(0.04), 3), rel=1e-6)
    # Of two that have seeds, only theirs are looked at.
    assert scores.difference(2, 0)[0].standard_error == pytest.approx(math.sqrt(0.01 * 4 / 3), rel=1e-6)


def slow_variances(prompts: Floats, weight: Floats, a: Floats, b: Floats) -> tuple[float, float, float]:
    """Of the difference, by the formulas, with loops.

    Returns:
        That of the bootstrap over prompts, in closed form; that between seeds; and what is in both of them.
    """
    names = sorted(set(prompts.tolist()))
    whole = weight.sum()

    def of_prompts(one: Floats) -> Floats:
        """Of each prompt the weighted sum, in units in which their mean is the score."""
        return np.array([(weight * one)[prompts == name].sum() for name in names]) * len(names) / whole

    sizes = of_prompts(np.ones(len(weight)))
    seeds = here = freedom = 0.0
    for model in (a, b):
        cells = np.array([of_prompts(one) for one in model])
        squares = 0.0
        for seed in range(len(model)):
            for at in range(len(names)):
                expected = cells[seed].mean() + cells[:, at].mean() - cells.mean()
                squares += (cells[seed, at] - expected) ** 2
        degrees = len(model) - 1
        here += squares / (len(names) - 1) / len(names)
        seeds += np.var(cells.mean(axis=1), ddof=1) * degrees
        freedom += degrees
    share = 1 / len(a) + 1 / len(b)
    difference = of_prompts(b.mean(axis=0) - a.mean(axis=0))
    # Linearised ratio: what a prompt moves, less what its own weight would.
    moved = difference - sizes * difference.mean()
    of_bootstrap = (moved**2).mean() / len(names)
    return of_bootstrap, share * seeds / freedom, share * here / freedom


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shared", [False, True])
def test_what_seeds_differ_by_on_these_prompts_is_counted_once(seed: int, shared: bool) -> None:
    generator = np.random.default_rng(seed)
    prompts = generator.integers(80, size=240) if shared else np.arange(240)
    weight = generator.choice([0.5, 1.0, 2.0], 240) if shared else np.ones(240)
    chance = generator.beta(2, 1, len(np.unique(prompts)) + 240)[prompts]
    a = (generator.random((2, 240)) < chance).astype(float)
    b = (generator.random((3, 240)) < np.clip(chance + 0.05, 0, 1)).astype(float)
    found, counted = Scores(prompts, weight, [a, b], 20_000).difference(0, 1)
    of_bootstrap, seeds, both = slow_variances(prompts, weight, a, b)
    assert counted
    variance = max(0, of_bootstrap - both) + seeds
    assert found.standard_error**2 == pytest.approx(variance, rel=0.04)
    for wrong in (of_bootstrap, of_bootstrap + seeds):
        assert abs(wrong / variance - 1) > 0.1
    degrees = variance**2 / (max(0, of_bootstrap - both) ** 2 / (len(np.unique(prompts)) - 1) + seeds**2 / 3)
    t = found.difference / found.standard_error
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(abs(t), degrees), rel=0.05)
    margin = scipy.stats.t.ppf(0.975, degrees) * found.standard_error
    assert found.high - found.difference == pytest.approx(found.difference - found.low, rel=1e-9)
    assert found.high - found.difference == pytest.approx(margin, rel=0.05)


def test_without_seeds_none_are_counted() -> None:
    values = np.random.default_rng(0).random((3, 1, 50))
    for a, b in ((0, 1), (2, 0)):
        assert Scores(np.arange(50), np.ones(50), list(values), 1000).difference(a, b)[1] is False


@pytest.mark.parametrize("loss", [False, True])
@pytest.mark.parametrize("seeds", [1, 2])
def test_the_same_model_twice_is_never_different(loss: bool, seeds: int) -> None:
    generator = np.random.default_rng(5)
    number = 10_000
    make = generator.exponential if loss else lambda size: (generator.random(size) < 0.7).astype(float)
    candidates = [make(size=(seeds, number)) for _ in range(4)]
    candidates = [*candidates, candidates[0].copy()]
    scores = Scores(np.arange(number), np.full(number, 1 / 3), candidates, 1000)
    found, _ = scores.difference(0, 4)
    assert (found.difference, found.p) == (pytest.approx(0, abs=1e-15), 1)
    standings = scores.standings(loss)
    assert (standings[0].first, standings[0].last) == (standings[4].first, standings[4].last)


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^no pairs to compare$"):
        Scores(np.array([]), np.array([]), [np.zeros((1, 0))])


def test_places_are_those_that_no_test_rules_out() -> None:
    generator = np.random.default_rng(0)
    chances = (0.3, 0.9, 0.88, 0.6)
    values = [(generator.random((1, 400)) < chance).astype(float) for chance in chances]
    scores = Scores(np.arange(400), np.ones(400), values, 2000)
    found = scores.standings(lower_is_better=False)
    assert [(one.first, one.last) for one in found] == [(4, 4), (1, 2), (1, 2), (3, 3)]
    assert [one.mean for one in found] == pytest.approx([one.mean() for one in values], rel=1e-12)
    for one, value in zip(found, values, strict=True):
        assert one.sd is None
        interval = mean_interval(np.arange(400), value[0], np.ones(400), 20_000)
        assert (one.low, one.high) == pytest.approx(interval, abs=0.006)
    found = scores.standings(lower_is_better=True)
    assert [(one.first, one.last) for one in found] == [(1, 1), (3, 4), (3, 4), (2, 2)]


def test_places_are_corrected_for_the_number_of_tests() -> None:
    # 20 pairs only one gets right, 8 only the other: found by one test, not by one of fifteen.
    low, high = np.zeros((1, 100)), np.zeros((1, 100))
    low[0, :48], high[0, :40], high[0, 48:68] = 1, 1, 1
    alone = Scores(np.arange(100), np.ones(100), [low, high], 2000)
    assert 0.01 < alone.difference(0, 1)[0].p < 0.04
    assert [(one.first, one.last) for one in alone.standings(False)] == [(2, 2), (1, 1)]
    many = Scores(np.arange(100), np.ones(100), [low, high, *[low.copy() for _ in range(4)]], 2000)
    assert [(one.first, one.last) for one in many.standings(False)] == [(1, 6)] * 6


def test_standing_of_a_candidate_with_seeds_by_hand() -> None:
    scores = Scores(np.arange(40), np.ones(40), [constant(0.5, 0.6, 0.7), constant(0.1)], 1000)
    one, other = scores.standings(False)
    margin = scipy.stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert (one.mean, one.sd) == pytest.approx((0.6, 0.1), rel=1e-9)
    assert (one.low, one.high) == pytest.approx((0.6 - margin, 0.6 + margin), rel=1e-6)
    # A single seed is as uncertain as the others say.
    margin = scipy.stats.t.ppf(0.975, 2) * 0.1
    assert other.sd is None
    assert (other.low, other.high) == pytest.approx((0.1 - margin, 0.1 + margin), rel=1e-6)


def test_a_score_is_as_uncertain_as_the_seeds_of_all_candidates_say() -> None:
    # Variances .01 with two degrees of freedom and .04 with one: .02 with three.
    candidates = [constant(0.5, 0.6, 0.7), constant(0.2, 0.2 + math.sqrt(0.08))]
    found = Scores(np.arange(40), np.ones(40), candidates, 1000).standings(False)
    for one, seeds in zip(found, (3, 2), strict=True):
        margin = scipy.stats.t.ppf(0.975, 3) * math.sqrt(0.02 / seeds)
        assert one.high - one.mean == pytest.approx(margin, rel=1e-6)


def test_models_that_differ_by_rounding_are_not_different() -> None:
    # On every prompt the same, so that nothing but rounding is uncertain.
    scores = Scores(np.arange(40), np.ones(40), [constant(0.3), constant(0.3 + 1e-14), constant(0.4)], 1000)
    assert scores.means[0] != scores.means[1]
    assert [(one.first, one.last) for one in scores.standings(True)] == [(1, 2), (1, 2), (3, 3)]
    assert scores.difference(0, 1)[0].p == 1
    assert scores.difference(0, 2)[0].p == pytest.approx(1 / 1001)


def test_one_candidate_has_one_place() -> None:
    (one,) = Scores(np.arange(30), np.ones(30), [np.random.default_rng(0).random((1, 30))], 1000).standings(True)
    assert (one.first, one.last) == (1, 1)
    assert one.low < one.mean < one.high


def rewards(rows: Rows, seed: int, quality: float, **columns: Sequence[Any]) -> Records:
    """A model on 300 pairs: the truth, more or less of it, and its own error."""
    truth = np.random.default_rng(0).normal(0.8, 1, 300)
    return table(rows, quality * truth + np.random.default_rng(seed).normal(0, 0.7, 300), **columns)


def test_seeds_of_one_config_are_not_different_and_swapped_labels_are_clearly_worse(rows: Rows) -> None:
    right = [[rewards(rows, seed, 1.0)] for seed in (1, 2)]
    swapped = [rewards(rows, seed, -1.0) for seed in (3, 4)]
    found = compare({"eval": [*right, swapped]}, [(0, 1), (0, 2), (2, 1)], 2000)
    by_pair = {(one.a, one.b, one.metric): one for one in found}
    for metric in ("accuracy", "loss"):
        assert not by_pair[0, 1, metric].different
        worse, better = by_pair[0, 2, metric], by_pair[2, 1, metric]
        assert worse.different
        assert worse.p_holm < 1e-3
        assert better.different
        sign = -1 if metric == "accuracy" else 1
        assert sign * worse.result.difference > 0.4 > -0.4 > sign * better.result.difference
        assert (by_pair[0, 1, metric].seeds_counted, worse.seeds_counted) == (True, True)
    # As one candidate, the two seeds are better than the swapped one, too.
    both = [one[0] for one in right]
    (accuracy, _) = compare({"eval": [both, swapped]}, [(0, 1)], 2000)
    assert (accuracy.different, accuracy.seeds_counted) == (True, True)


def test_scores_are_of_pairs_with_a_right_side_for_accuracy_and_of_all_for_loss(rows: Rows) -> None:
    a = table(rows, [1, -1, 0, 2], label=[1.0, 1.0, 0.8, 0.5], subset=["x", "x", "y", "y"], weight=[1, 2, 1, 4])
    accuracy, loss = (scores_of([[a]], metric, None, 100) for metric in ("accuracy", "loss"))
    assert accuracy is not None
    assert loss is not None
    # A reward that is equal is not right.
    assert (accuracy.means.tolist(), accuracy.num_pairs) == ([0.25], 3)
    terms = [math.log(1 + math.exp(-margin)) for margin in (1, -1, 0, 2)]
    mean = (terms[0] + 2 * terms[1] + terms[2] + 4 * terms[3]) / 8
    assert (loss.means.tolist(), loss.num_pairs) == ([pytest.approx(mean, rel=1e-12)], 4)
    inside = scores_of([[a]], "accuracy", "x", 100)
    assert inside is not None
    assert (inside.means.tolist(), inside.num_pairs) == ([pytest.approx(1 / 3)], 2)
    ties = {**a, "label": np.full(4, 0.5)}
    assert scores_of([[ties]], "accuracy", None) is None
    assert scores_of([[ties]], "loss", None) is not None


def family(found: Sequence[Comparison], pair: tuple[int, int], metric: str) -> dict[tuple[str, str | None], Comparison]:
    return {(one.set, one.subset): one for one in found if (one.a, one.b) == pair and one.metric == metric}


def test_sets_of_a_pair_are_one_family_and_their_subsets_another(rows: Rows) -> None:
    subset = [("x", "y", None)[at % 3] for at in range(300)]
    main = [[rewards(rows, seed, quality, subset=subset)] for seed, quality in ((1, 1.0), (2, 0.6), (3, 0.5))]
    alone = [[select(one[0], np.arange(300) < 200)] for one in main]
    single = [[{**one[0], "subset": np.where(np.arange(200) < 9, "x", None)}] for one in alone]
    # The third was not evaluated on this set.
    single[2] = []
    found = compare({"eval": main, "other": single}, [(0, 1), (2, 1)], 2000)

    parts = family(found, (0, 1), "accuracy")
    # A subset alone in its set is no breakdown.
    assert list(parts) == [("eval", None), ("eval", "x"), ("eval", "y"), ("other", None)]
    assert [one.result.num_pairs for one in parts.values()] == [300, 100, 100, 200]
    whole, inside = [("eval", None), ("other", None)], [("eval", "x"), ("eval", "y")]
    for members in (whole, inside):
        raw = [parts[key].result.p for key in members]
        assert [parts[key].p_holm for key in members] == holm(raw)
        assert [parts[key].p_holm for key in members] != raw
    losses = family(found, (0, 1), "loss")
    assert list(losses) == [("eval", None), ("other", None)]
    assert [one.p_holm for one in losses.values()] == holm([one.result.p for one in losses.values()])

    others = family(found, (2, 1), "accuracy")
    assert list(others) == [("eval", None), ("eval", "x"), ("eval", "y")]
    # The only set: its answer is not blurred by a look at its subsets.
    assert others["eval", None].p_holm == others["eval", None].result.p
    inside_p = [others["eval", name].result.p for name in ("x", "y")]
    assert [others["eval", name].p_holm for name in ("x", "y")] == holm(inside_p)
    expected = compare({"eval": [main[2], main[1]]}, [(0, 1)], 2000)[0]
    assert others["eval", None].result.difference == expected.result.difference
    assert others["eval", None].result.p == pytest.approx(expected.result.p, abs=0.06)


def test_a_difference_is_one_when_it_is_below_the_level_after_the_correction() -> None:
    result = Scores(np.arange(5), np.ones(5), [np.zeros((1, 5)), np.ones((1, 5))], 1000).difference(0, 1)[0]
    for p, different in ((0.0499, True), (0.0501, False)):
        one = Comparison(a=0, b=1, set="eval", subset=None, metric="loss", result=result, p_holm=p, seeds_counted=False)
        assert one.different is different


def test_a_set_that_no_candidate_has_is_left_out(rows: Rows) -> None:
    assert compare({"eval": [[], []]}, [(0, 1)], 1000) == []


def test_a_subset_of_ties_is_left_out(rows: Rows) -> None:
    label, subset = [1.0, 1.0, 0.5], ["x", "x", "y"]
    models = [[table(rows, margins, label=label, subset=subset)] for margins in ([1, -1, 1], [1, 1, 1])]
    found = compare({"eval": models}, [(0, 1)], 1000)
    assert [(one.subset, one.metric) for one in found] == [(None, "accuracy"), (None, "loss"), ("x", "accuracy")]


def test_the_order_of_the_rows_does_not_matter(rows: Rows) -> None:
    prompts = [f"prompt {at // 4}" for at in range(300)]
    # Three seeds: means of thirds, whose sums differ in the last bit by the order of adding.
    candidates = [
        [rewards(rows, 10 * config + seed, quality, prompt_id=prompts) for seed in range(3)]
        for config, quality in enumerate((1.0, 0.6))
    ]
    expected = compare({"eval": candidates}, [(0, 1)], 2000)
    assert compare({"eval": candidates}, [(0, 1)], 2000) == expected
    moved = [[shuffled(one) for one in seeds] for seeds in candidates]
    for one, other in zip(compare({"eval": moved}, [(0, 1)], 2000), expected, strict=True):
        values, wanted = vars(one.result), vars(other.result)
        assert values == {key: value if value is None else pytest.approx(value, rel=1e-9) for key, value in
                          wanted.items()}  # fmt: skip
