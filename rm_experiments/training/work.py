"""What a process computes in an optimizer step: its share of the pairs, cut into forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from accelerate import Accelerator

from rm_experiments.data.batching import StepPlan
from rm_experiments.data.groups import Item, shares_of_ranks
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.modeling.layouts.answers import answer_tokens
from rm_experiments.modeling.layouts.layout import Batcher, MicroBatch
from rm_experiments.training.labels import PairLabels, labels_of
from rm_experiments.training.language_loss import LanguageForm


@dataclass(kw_only=True)
class StepWork:
    """What one process computes in an optimizer step."""

    step: int
    indices: np.ndarray
    """Pairs of the step, on all processes."""
    weight: float
    """Sum of their weights."""
    labels: PairLabels | None
    """What is known of them, where the loss is one of the whole step."""
    batches: list[tuple[MicroBatch, PairLabels]]
    """Forward passes, and what is known of their pairs."""
    filling: int
    """How many batches, the last ones, are there only so that this process takes part."""
    pass_tokens: int
    """Tokens of a forward pass at most."""

    def counts(self, number: int) -> bool:
        """Whether the batch of this number is part of the step."""
        return number < len(self.batches) - self.filling

    def members(self, number: int) -> np.ndarray:
        """[m] pairs of the batch of this number."""
        return self.batches[number][0].sequences[::2] >> 1

    def places(self, number: int) -> np.ndarray:
        """[m] where they are in `indices`."""
        order = np.argsort(self.indices, kind="stable")
        found: np.ndarray = order[np.searchsorted(self.indices, self.members(number), sorter=order)]
        return found


@dataclass(frozen=True, kw_only=True)
class WorkMaker:
    """Deals the steps of a plan out to the processes."""

    accelerator: Accelerator
    pairs: TokenizedPairs
    plan: StepPlan
    batcher: Batcher
    sharded: bool
    """Whether all processes compute each pass together."""
    whole_step: bool
    """Whether the loss is one of the whole step."""
    language: LanguageForm | None = None
    """The language-model term of the objective."""

    def steps(self, first: int, end: int, budget: int, pass_tokens: int) -> Iterator[StepWork]:
        """What this process has to compute in each of these steps.

        Args:
            budget: tokens of a forward pass by which all processes deal out a step.
            pass_tokens: tokens of one of this process's forward passes.
        """
        pairs = self.pairs
        for step in range(first, end):
            indices = self.plan.step(step)
            items = self.batcher.items(pairs, indices, budget, keep_pairs=True)
            shares = shares_of_ranks([one.cost for one in items], self.accelerator.num_processes)
            made, filling = self._batches(items, shares, pass_tokens)
            known = [labels_of(pairs, one.sequences[::2] >> 1, self.whole_step) for one in made]
            yield StepWork(
                step=step, indices=indices, weight=float(pairs.weight[indices].sum()),
                labels=labels_of(pairs, indices, True) if self.whole_step else None,
                batches=list(zip(made, known, strict=True)), filling=filling, pass_tokens=pass_tokens,
            )  # fmt: skip

    def _batches(self, items: list[Item], shares: list[list[int]], budget: int) -> tuple[list[MicroBatch], int]:
        """This process's forward passes of a step, and how many of them, the last ones, only take part.

        A process without a pair still takes part in the gradient's sum. Processes that compute each pass together make
        as many as the one that has most.
        """
        bins_of = self.batcher.bins
        share = [items[one] for one in shares[self.accelerator.process_index]]
        bins = bins_of(self.pairs, share, budget) if share else []
        number = max(1, len(bins))
        if self.sharded:
            number = max(len(bins_of(self.pairs, [items[one] for one in each], budget)) for each in shares if each)
        filling = number - len(bins)
        # The least work there is.
        bins += [[min(items, key=lambda one: one.cost)]] * filling
        return [self._micro_batch(one) for one in bins], filling

    def _micro_batch(self, items: list[Item]) -> MicroBatch:
        micro = self.batcher.micro_batch(self.pairs, items)
        if self.language is None:
            return micro
        every = 1 if self.language.both else 2
        answers = answer_tokens(self.pairs, micro.sequences[::every], micro.places[::every], micro.batch)
        return replace(micro, answers=answers)
