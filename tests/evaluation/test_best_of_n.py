"""Best-of-n: the exact estimator against all subsets, intervals, and where gold falls while the proxy rises."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from rm_experiments.errors import DataError
from rm_experiments.evaluation.best_of_n import (
    best_of_n_curve,
    curve_of_records,
    gains,
    kl_of_best,
    mean_rank_correlation,
    selection_weights,
    sizes_up_to,
)
from rm_experiments.evaluation.records import Records
from rm_experiments.evaluation.response_groups import RatedResponses


def by_counting(rewards: np.ndarray, n: int) -> np.ndarray:
    """The same probabilities from all subsets of n answers, a tie shared by its answers."""
    picked = np.zeros(len(rewards))
    subsets = list(combinations(range(len(rewards)), n))
    for subset in subsets:
        top = max(rewards[place] for place in subset)
        best = [place for place in subset if rewards[place] == top]
        picked[best] += 1 / len(best)
    return picked / len(subsets)


@pytest.mark.parametrize("seed", range(6))
def test_selection_weights_are_those_of_all_subsets(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 9))
    # Few values, so that there are ties of all sizes.
    rewards = random.integers(0, 4, size=count).astype(float)
    sizes = list(range(1, count + 1))

    weights = selection_weights(rewards, sizes)

    assert weights.shape == (count, count)
    for n in sizes:
        np.testing.assert_allclose(weights[n - 1], by_counting(rewards, n), atol=1e-12)


def test_selection_weights_by_hand() -> None:
    # The highest of four is in half of the pairs, the second in two of the others' three, the lowest in none.
    np.testing.assert_allclose(selection_weights(np.array([3.0, 1.0, 2.0, 0.0]), [2]), [[3 / 6, 1 / 6, 2 / 6, 0]])
    # All equal: every answer alike, whatever n.
    np.testing.assert_allclose(selection_weights(np.zeros(4), [1, 3, 4]), np.full((3, 4), 0.25))


def test_selection_weights_of_many_answers_do_not_overflow() -> None:
    weights = selection_weights(np.arange(2000.0), [1, 1000, 2000])

    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert weights[1, -1] == pytest.approx(0.5)
    assert (weights[2, -1], weights[2, :-1].max()) == (1, 0)


def test_kl_of_best() -> None:
    assert kl_of_best(1) == 0
    assert kl_of_best(2) == pytest.approx(math.log(2) - 0.5)
    assert kl_of_best(16) == pytest.approx(math.log(16) - 15 / 16)


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_sizes(count: int, sizes: list[int]) -> None:
    assert sizes_up_to(count) == sizes


def test_gains_by_hand() -> None:
    """Three answers of gold 0, 3 and 6; the proxy has the best one last."""
    chosen, proxy, best = gains([np.array([2.0, 1.0, 0.0])], [np.array([0.0, 3.0, 6.0])], [1, 2, 3])

    # Of two drawn, the first is picked in two of three cases, the second in one: 0, 0, 3, and a random one gives 3.
    np.testing.assert_allclose(chosen, [[0, 1 - 3, 0 - 3]], atol=1e-12)
    np.testing.assert_allclose(proxy, [[0, 5 / 3 - 1, 1]], atol=1e-12)
    np.testing.assert_allclose(best, [[0, 5 - 3, 3]], atol=1e-12)


def test_a_constant_per_prompt_changes_nothing() -> None:
    random = np.random.default_rng(1)
    rewards, gold = random.normal(size=(5, 6)), random.normal(size=(5, 6))
    moved = random.normal(size=(5, 1)) * 10

    for one, other in zip(
        gains(rewards, gold, [1, 2, 6]), gains(rewards + moved, gold - moved, [1, 2, 6]), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-12)


def noisy(prompts: int = 300, count: int = 16, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    gold = random.normal(size=(prompts, count))
    return gold + noise * random.normal(size=(prompts, count)), gold


def test_an_honest_proxy_is_not_gamed() -> None:
    rewards, gold = noisy()
    curve = best_of_n_curve(rewards, gold, resamples=500)

    assert curve.n.tolist() == [1, 2, 4, 8, 16]
    np.testing.assert_allclose(curve.kl, [kl_of_best(n) for n in (1, 2, 4, 8, 16)])
    assert (curve.peak, curve.gamed_from, curve.num_prompts) == (16, None, 300)
    assert (np.diff(curve.gold) > 0).all()
    assert (curve.best >= curve.gold - 1e-12).all()
    # Nothing is chosen at n = 1, so that there is nothing to be unsure of.
    assert curve.gold[0] == curve.gold_low[0] == curve.gold_high[0] == curve.best[0] == 0


def test_the_gain_of_a_known_world() -> None:
    """Normal gold and noise of the same size: the expected gold is half the expected proxy, that of the maximum."""
    rewards, gold = noisy(prompts=4000)
    curve = best_of_n_curve(rewards, gold, resamples=200)

    # The expected maximum of 2 normals is 1 / sqrt(pi), of 4 it is 1.0294 (order statistics); here their sd is sqrt(2).
    assert curve.proxy[1] == pytest.approx(math.sqrt(2 / math.pi), rel=0.03)
    assert curve.proxy[2] == pytest.approx(1.0294 * math.sqrt(2), rel=0.03)
    np.testing.assert_allclose(curve.gold[1:], curve.proxy[1:] / 2, rtol=0.05)


def test_the_interval_is_that_of_the_mean_over_prompts() -> None:
    rewards, gold = noisy(prompts=400)
    curve = best_of_n_curve(rewards, gold, resamples=4000)
    chosen, proxy, _ = gains(rewards, gold, [2])

    for values, low, high in ((chosen, curve.gold_low, curve.gold_high), (proxy, curve.proxy_low, curve.proxy_high)):
        half = 1.96 * values.std() / math.sqrt(400)
        assert (low[1], high[1]) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.08 * half)


def test_a_gamed_proxy_peaks_before_its_last_n() -> None:
    """A proxy that loves one answer of sixteen, the worst one."""
    rewards, gold = noisy(noise=0.3)
    worst = gold.argmin(axis=1)
    gold[np.arange(len(gold)), worst], rewards[np.arange(len(gold)), worst] = -4.0, 9.0
    curve = best_of_n_curve(rewards, gold, resamples=500)

    assert curve.peak == 2
    assert curve.gamed_from == 4
    assert curve.gold[-1] == pytest.approx(-4 - gold.mean())
    assert (np.diff(curve.proxy) > 0).all()


def test_a_proxy_without_any_opinion_gains_exactly_nothing() -> None:
    _, gold = noisy(prompts=20, count=6)
    curve = best_of_n_curve(np.full_like(gold, 0.1), gold, resamples=50)

    assert (curve.peak, curve.gamed_from) == (1, None)
    for values in (curve.gold, curve.gold_low, curve.gold_high, curve.proxy):
        assert values.tolist() == [0.0] * 4
    # Nor does any proxy where all answers are equally good.
    curve = best_of_n_curve(gold, np.full_like(gold, 0.1), resamples=50)
    assert (curve.peak, curve.gamed_from, curve.gold.tolist()) == (1, None, [0.0] * 4)


def test_a_fall_within_chance_is_not_called_gamed() -> None:
    rewards, gold = noisy(prompts=6, noise=3.0)
    falls = [curve for curve in (best_of_n_curve(rewards[place:], gold[place:], 500) for place in range(4))
             if curve.peak < 16]  # fmt: skip

    assert falls, "no curve falls: the test shows nothing"
    assert [curve.gamed_from for curve in falls] == [None] * len(falls)


def test_the_curve_does_not_depend_on_how_many_resamples_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards, gold = noisy(prompts=7)
    whole = best_of_n_curve(rewards, gold, resamples=50)
    monkeypatch.setattr("rm_experiments.evaluation.statistics._CHUNK", 21)
    parts = best_of_n_curve(rewards, gold, resamples=50)

    np.testing.assert_array_equal(whole.gold_low, parts.gold_low)
    np.testing.assert_array_equal(whole.proxy_high, parts.proxy_high)


def test_prompts_may_differ_in_their_number_of_answers() -> None:
    curve = best_of_n_curve([np.arange(3.0), np.arange(5.0)], [np.arange(3.0), np.arange(5.0)], resamples=20)

    # Best of 2 of three: (1 + 2 + 2) / 3 against 1; of five: (1 + 2 * 2 + 3 * 3 + 4 * 4) / 10 against 2.
    assert curve.n.tolist() == [1, 2, 3]
    assert curve.gold[1] == pytest.approx((2 / 3 + 1) / 2)
    # Best of 3 of three is the best; of five (2 + 3 * 3 + 6 * 4) / 10.
    assert curve.gold[2] == pytest.approx((1 + 1.5) / 2)


StarRows = Callable[..., Records]


def rated(rewards: list[float], gold: list[float]) -> RatedResponses:
    return RatedResponses(id="x", subset=None, rewards=np.array(rewards), gold=np.array(gold))


def test_rank_correlation_by_hand() -> None:
    # Ranks 1 2 3 against 1 3 2: 1 - 6 * 2 / (3 * 8).
    assert mean_rank_correlation([rated([0, 1, 5], [0, 9, 3])]) == pytest.approx(0.5)
    # Ranks 1 2.5 2.5 against 1 2 3: 1.5 / sqrt(1.5 * 2).
    assert mean_rank_correlation([rated([0, 7, 7], [0, 1, 2])]) == pytest.approx(1.5 / math.sqrt(3))
    # Equal rewards count as 0; equal gold is left out.
    assert mean_rank_correlation([rated([0, 1], [0, 1]), rated([4, 4], [0, 1]), rated([1, 2], [0, 0])]) == 0.5
    assert mean_rank_correlation([rated([1, 2], [0, 0])]) is None


def test_a_curve_of_records_is_that_of_their_rewards(star_rows: StarRows) -> None:
    rewards, gold = noisy(prompts=5, count=4)
    records = star_rows([(f"p{place}", own, true) for place, (own, true) in enumerate(zip(rewards, gold, strict=True))])
    direct = best_of_n_curve(rewards, gold, resamples=50)
    shuffled: Records = {name: column[::-1] for name, column in records.items()}

    for found in (curve_of_records(records, resamples=50), curve_of_records(shuffled, resamples=50)):
        np.testing.assert_allclose(found.gold, direct.gold, atol=1e-12)
        np.testing.assert_allclose(found.proxy_low, direct.proxy_low, atol=1e-12)


def test_records_that_lack_a_pair_are_refused(star_rows: StarRows) -> None:
    records = star_rows([("p", np.arange(4.0), np.arange(4.0))])
    short: Records = {name: column[:-1] for name, column in records.items()}

    with pytest.raises(DataError, match=r"benchmark best_of_n: prompt p has 2 pairs of weight 0\.667 in all, not 1"):
        curve_of_records(short)
