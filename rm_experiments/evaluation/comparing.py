"""Which model is better on the same pairs, by how much, how sure; and what other seeds would change about it.

A candidate is one config with the models of its seeds. Two things make its score uncertain: which prompts the set
happens to have, and which seeds were run. The first is measured by the bootstrap over prompts, of all candidates at
once, so that their differences are paired. The second is the variance between seeds, as far as it exceeds what seeds
differ by on these prompts alone (the components of variance of the two-way layout, Searle, Casella and McCulloch 1992,
section 4.3; models of two seeds disagree on many pairs, which averages out over prompts).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rm_experiments.errors import DataError
from rm_experiments.evaluation.pairs import has_side, negative_log_sigmoid, select
from rm_experiments.evaluation.records import Records
from rm_experiments.evaluation.statistics import (
    LEVEL,
    NUM_RESAMPLES,
    Difference,
    Floats,
    cluster_numbers,
    cluster_sums,
    holm,
    mcnemar,
    percentile_interval,
    resampled_sums,
    rounding,
    two_sided_p,
)

METRICS = ("accuracy", "loss")
"""What is compared. Of the loss, less is better."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Candidate b against candidate a on one set or subset."""

    a: int
    b: int
    set: str
    subset: str | None
    metric: str
    result: Difference
    p_holm: float
    """Corrected for all sets of the pair of candidates; of a subset, for all subsets."""
    seeds_counted: bool
    """Whether the variance between seeds is part of the interval and the p-value."""

    @property
    def different(self) -> bool:
        """Whether the difference is more than chance at the level 1 - LEVEL, after the correction."""
        return self.p_holm < 1 - LEVEL


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A candidate's score on one set, and the places that it may have among all."""

    mean: float
    sd: float | None
    """Between seeds; None with one seed."""
    low: float
    high: float
    first: int
    """Best place that is compatible with the data: one more than there are candidates that are surely better."""
    last: int


def align(named: dict[str, Records]) -> dict[str, Records]:
    """The records of several models with their rows in the same order.

    Rows are the same when prompt, both answers and label are, whatever their place in the file; equal rows are
    interchangeable.

    Raises:
        DataError: when the models were not evaluated on the same rows, with the counts.
    """
    order = {name: _order(records) for name, records in named.items()}
    (first, (keys, _)), *others = order.items()
    for name, (other, _) in others:
        if not np.array_equal(keys, other):
            common = len(np.intersect1d(keys, other))
            raise DataError(
                f"different rows: {first} has {len(keys):,} pairs, {name} {len(other):,}, and {common:,} are the same; "
                "evaluate both on one set with rm-eval, or compare what they share with rows=common"
            )
    # In the order of the first one's file, which people know.
    back = np.argsort(order[first][1], kind="stable")
    return {name: _taken(records, order[name][1][back]) for name, records in named.items()}


def common_rows(named: dict[str, Records]) -> dict[str, Records]:
    """Only the rows that all of the models were evaluated on, aligned."""
    keys = {name: _keys(records) for name, records in named.items()}
    shared: Any = None
    for one in keys.values():
        shared = one if shared is None else np.intersect1d(shared, one)
    return align({name: select(records, np.isin(keys[name], shared)) for name, records in named.items()})


def _keys(records: Records) -> NDArray[Any]:
    """[n] what a row is: content of the pair, label, and for equal rows which of them it is."""
    content = np.char.add(np.char.add(records["pair_id"].astype(str), "/"), records["label"].astype(str))
    _, inverse, counts = np.unique(content, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    nth = np.empty(len(content), dtype=np.int64)
    nth[order] = np.arange(len(content)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.char.add(np.char.add(content, "/"), nth.astype(str))


def _order(records: Records) -> tuple[NDArray[Any], NDArray[np.int64]]:
    keys = _keys(records)
    order = np.argsort(keys, kind="stable")
    return keys[order], order


def _taken(records: Records, rows: NDArray[np.int64]) -> Records:
    return {name: column[rows] for name, column in records.items()}


class _Seeds(NamedTuple):
    """How the models of a candidate's seeds differ."""

    variance: float
    """Of their scores."""
    here: float
    """The part of it that more prompts would average out."""
    freedom: int


class Scores:
    """One metric of all candidates on one set or subset."""

    def __init__(
        self, prompt_ids: NDArray[Any], weight: Floats, values: Sequence[Floats], resamples: int = NUM_RESAMPLES
    ) -> None:
        """
        Args:
            prompt_ids: [n]
            weight: [n]
            values: of each candidate [k, n], by seed: right (1) and wrong (0), or the loss.

        Raises:
            ValueError: when there are no pairs.
        """
        if not len(weight):
            raise ValueError("no pairs to compare")
        self._values, self._weight, self._resamples = values, weight, resamples
        cluster = cluster_numbers(prompt_ids)
        self._total = np.bincount(cluster, weights=weight)
        self._cluster = cluster
        self.num_pairs, self.num_prompts = len(weight), len(self._total)
        self.by_seed = [one @ weight / weight.sum() for one in values]
        """Of each candidate [k] the mean of each seed."""
        self.means = np.array([one.mean() for one in self.by_seed])
        self._rounding = rounding(self.means)

    @cached_property
    def _resampled(self) -> Floats:
        """[resamples, candidates]"""
        seed_means = [one.mean(axis=0) for one in self._values]
        sums = cluster_sums(self._cluster, *(self._weight * one for one in seed_means), self._weight)
        drawn = resampled_sums(sums, self._resamples)
        return drawn[:, :-1] / drawn[:, -1:]

    @cached_property
    def _seeds(self) -> list[_Seeds | None]:
        """How the seeds of each candidate differ; None with one seed."""
        return [
            self._between_seeds(one, means) if len(means) > 1 else None
            for one, means in zip(self._values, self.by_seed, strict=True)
        ]

    def _between_seeds(self, values: Floats, means: Floats) -> _Seeds:
        many, prompts = len(means), self.num_prompts
        scores = np.stack([np.bincount(self._cluster, weights=self._weight * one) for one in values])
        scores *= prompts / self._total.sum()
        residuals = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
        here = (residuals**2).sum() / ((many - 1) * max(1, prompts - 1)) / prompts
        return _Seeds(float(means.var(ddof=1)), float(here), many - 1)

    def _error(self, prompts: float, candidates: Sequence[int]) -> tuple[float, float, bool]:
        """Standard error of a score or difference, its degrees of freedom, and whether seeds are part of it.

        Seeds are taken to vary alike in the two candidates of a difference, else (a single one, or two of one seed
        each) in all candidates: two or three seeds say too little alone.

        Args:
            prompts: variance by the bootstrap over prompts.
        """
        known = [one for one in (self._seeds[place] for place in candidates) if one is not None]
        if len(candidates) == 1 or not known:
            known = [one for one in self._seeds if one is not None]
        parts = [(prompts, max(1, self.num_prompts - 1))]
        if known:
            freedom = sum(one.freedom for one in known)
            share = sum(1 / len(self.by_seed[one]) for one in candidates)
            seeds, here = (share * sum(one[part] * one.freedom for one in known) / freedom for part in (0, 1))
            # What seeds differ by on these prompts alone is in both parts. It is taken from the one that is known well.
            parts = [(max(0.0, prompts - here), parts[0][1]), (seeds, freedom)]
        total = sum(one for one, _ in parts)
        # Satterthwaite 1946.
        freedom_of_all = total**2 / sum(one**2 / many for one, many in parts) if total > 0 else 1.0
        return math.sqrt(max(0.0, total)), freedom_of_all, bool(known)

    def difference(self, a: int, b: int) -> tuple[Difference, bool]:
        """Candidate b minus candidate a, and whether seeds are counted."""
        resampled = self._resampled[:, b] - self._resampled[:, a]
        value = float(self.means[b] - self.means[a])
        low, high = percentile_interval(resampled)
        result = Difference(
            num_pairs=self.num_pairs, num_prompts=self.num_prompts, difference=value, low=low, high=high,
            p=two_sided_p(resampled, self._rounding), standard_error=float(resampled.std()),
            mcnemar_p=self._mcnemar(a, b),
        )  # fmt: skip
        error, freedom, counted = self._error(float(resampled.var()), [a, b])
        if not counted:
            return result, False
        margin = _t_quantile(freedom) * error
        p = self._t_test(value, error, freedom)
        return replace(
            result, low=value - margin, high=value + margin, p=p, standard_error=error, freedom=freedom
        ), True

    def _t_test(self, value: float, error: float, freedom: float) -> float:
        """Two-sided p-value."""
        from scipy.special import stdtr

        if abs(value) <= self._rounding:
            return 1.0
        return float(2 * stdtr(freedom, -abs(value) / error)) if error > 0 else 0.0

    def _mcnemar(self, a: int, b: int) -> float | None:
        one, two = self._values[a], self._values[b]
        single = self.num_pairs == self.num_prompts and bool((self._weight == 1).all())
        if not single or len(one) > 1 or len(two) > 1 or not all(np.isin(part, (0, 1)).all() for part in (one, two)):
            return None
        return mcnemar(int((one > two).sum()), int((one < two).sum()))

    def standings(self, lower_is_better: bool) -> list[Standing]:
        """Of each candidate its score and the places it may have: all pairs are tested, corrected by Holm's method.

        So many tests need p-values smaller than resamples can show: they are those of the t distribution.
        """
        count = len(self.means)
        covariance = np.atleast_2d(np.cov(self._resampled, rowvar=False, ddof=0))
        pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
        p_values = []
        for a, b in pairs:
            variance = covariance[a, a] + covariance[b, b] - 2 * covariance[a, b]
            error, freedom, _ = self._error(float(variance), [a, b])
            p_values.append(self._t_test(float(self.means[b] - self.means[a]), error, freedom))
        better, worse = np.zeros(count, dtype=int), np.zeros(count, dtype=int)
        for (a, b), p in zip(pairs, holm(p_values), strict=True):
            if p < 1 - LEVEL:
                a_wins = (self.means[a] < self.means[b]) == lower_is_better
                better[b if a_wins else a] += 1
                worse[a if a_wins else b] += 1
        found = []
        for one in range(count):
            low, high = percentile_interval(self._resampled[:, one])
            error, freedom, counted = self._error(float(covariance[one, one]), [one])
            if counted:
                margin = _t_quantile(freedom) * error
                low, high = self.means[one] - margin, self.means[one] + margin
            sd = float(self.by_seed[one].std(ddof=1)) if len(self.by_seed[one]) > 1 else None
            found.append(
                Standing(mean=float(self.means[one]), sd=sd, low=float(low), high=float(high),
                         first=int(better[one]) + 1, last=count - int(worse[one]))
            )  # fmt: skip
        return found


def _t_quantile(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def scores_of(
    candidates: Sequence[Sequence[Records]], metric: str, subset: str | None, resamples: int = NUM_RESAMPLES
) -> Scores | None:
    """The scores of candidates, each a list of aligned records by seed; None where no pair can be scored."""
    first = candidates[0][0]
    chosen = np.ones(len(first["weight"]), dtype=bool) if subset is None else first["subset"] == subset
    if metric == "accuracy":
        chosen &= has_side(first)
    if not chosen.any():
        return None

    def values(records: Records) -> Floats:
        margin = records["margin"][chosen]
        return (margin > 0).astype(np.float64) if metric == "accuracy" else negative_log_sigmoid(margin)

    by_seed = [np.stack([values(records) for records in one]) for one in candidates]
    return Scores(first["prompt_id"][chosen], first["weight"][chosen], by_seed, resamples)


def compare(
    sets: Mapping[str, Sequence[Sequence[Records]]], pairs: Sequence[tuple[int, int]], resamples: int = NUM_RESAMPLES
) -> list[Comparison]:
    """Every pair (a, b) of candidates on all sets and subsets that both have.

    Of each pair and metric its sets are one family of tests, and all their subsets another, corrected by Holm's method.

    Args:
        sets: of each set the aligned records of each candidate by seed; an empty list where a candidate has none.
    """
    found: list[Comparison] = []
    for name, candidates in sets.items():
        present = [one for one, records in enumerate(candidates) if records]
        if not present:
            continue
        place = {one: at for at, one in enumerate(present)}
        first = candidates[present[0]][0]
        subsets = sorted({str(one) for one in first["subset"] if one is not None})
        for subset in (None, *(subsets if len(subsets) > 1 else ())):
            for metric in METRICS if subset is None else ("accuracy",):
                scores = scores_of([candidates[one] for one in present], metric, subset, resamples)
                if scores is None:
                    continue
                for a, b in pairs:
                    if a in place and b in place:
                        result, counted = scores.difference(place[a], place[b])
                        found.append(
                            Comparison(a=a, b=b, set=name, subset=subset, metric=metric, result=result,
                                       p_holm=result.p, seeds_counted=counted)
                        )  # fmt: skip
    corrected: dict[int, float] = {}
    # Whole sets are what is asked; subsets, which look for where it comes from, must not blur the answer.
    families = [(one.a, one.b, one.metric, one.subset is None) for one in found]
    for key in set(families):
        family = [place for place, one in enumerate(families) if one == key]
        corrected |= dict(zip(family, holm([found[place].result.p for place in family]), strict=True))
    return [replace(one, p_holm=corrected[place]) for place, one in enumerate(found)]
