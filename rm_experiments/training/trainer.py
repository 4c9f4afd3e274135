"""One optimizer step at a time: exact means over the step's pairs, however they are split.

The loop around it (when to log, evaluate and save) belongs to the runner. Nothing here knows W&B, the Hub or Hydra.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from rm_experiments.config.schema import RunConfig
from rm_experiments.data.batching import StepPlan
from rm_experiments.data.groups import shares_of_ranks
from rm_experiments.data.prefetch import prefetched
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import TrainingError
from rm_experiments.modeling.layouts.batch import moved
from rm_experiments.modeling.layouts.layout import Batcher, MicroBatch
from rm_experiments.modeling.reward_model import RewardModel
from rm_experiments.training.budget import training_budget
from rm_experiments.training.losses import LOSSES
from rm_experiments.training.optimizers import BuiltOptimizer
from rm_experiments.training.schedules import lr_factor
from rm_experiments.training.window import MetricWindow


@dataclass(kw_only=True)
class Progress:
    """How far training is; what a checkpoint holds of it."""

    step: int = 0
    """Completed optimizer steps."""
    pairs: int = 0
    """Pairs of all completed steps."""
    tokens: int = 0
    """Real tokens of all completed steps, over all processes."""


@dataclass(kw_only=True)
class StepWork:
    """What one process computes in an optimizer step."""

    step: int
    indices: np.ndarray
    """Pairs of the step, on all processes."""
    batches: list[tuple[MicroBatch, Tensor]]
    """With weight, label and target margin [3, m] of the pairs."""
    idle: bool
    """Whether the batches are there only so that this process takes part."""


class Trainer:
    """Runs the steps of a `StepPlan`."""

    def __init__(
        self, *, accelerator: Accelerator, reward_model: RewardModel, built: BuiltOptimizer,
        pairs: TokenizedPairs, plan: StepPlan, max_steps: int, batcher: Batcher, config: RunConfig,
    ) -> None:  # fmt: skip
        self.accelerator = accelerator
        self.reward_model = reward_model
        self.built = built
        self.plan = plan
        self.max_steps = max_steps
        self.progress = Progress()
        self.window = MetricWindow(accelerator.device)
        self._pairs = pairs
        self._batcher = batcher
        self._config = config
        self._coming: Iterator[StepWork] | None = None
        self.token_budget = training_budget(
            config.train.micro_batch_tokens, accelerator, reward_model, batcher, int(pairs.lengths.max())
        )
        """Tokens of one forward pass."""
        self._loss = LOSSES[config.loss.name]
        self._model, self._optimizer = accelerator.prepare(reward_model, built.optimizer)
        self._first_bad_step = torch.full((), -1.0, device=accelerator.device)
        # Optimizers whose kernel skips a step by itself.
        self._optimizer_can_skip = bool(built.optimizer.defaults.get("fused"))
        reward_model.train()

    @property
    def lr(self) -> float:
        """The learning rate of the last completed step."""
        return float(self.built.optimizer.param_groups[0]["lr"])

    @property
    def epoch(self) -> float:
        """Passes over the training pairs so far."""
        return self.progress.pairs / self.plan.num_pairs

    def resume_budget(self, tokens: int) -> None:
        """Go on with the number of tokens that a run began with, unless it is set."""
        if self._config.train.micro_batch_tokens == "auto":
            self.token_budget = tokens

    def step(self) -> None:
        """One optimizer step over the next pairs of the plan.

        Raises:
            TrainingError: for a non-finite loss or gradient, before any weight is changed. On a GPU, which would have
                to be waited for, only by `check`: until then all steps leave the weights as they are.
        """
        if self._coming is None:
            self._coming = prefetched(self._work(self.progress.step, self.max_steps))
        work = next(self._coming)
        assert work.step == self.progress.step
        self._set_lr()
        loss = self._backward(work)
        grad_norm = self._clip()
        self._guard(loss, grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.window.add_step(grad_norm)
        self.progress.step += 1
        self.progress.pairs += len(work.indices)
        self.progress.tokens += int(self._pairs.lengths[work.indices].sum())

    def _set_lr(self) -> None:
        factor = lr_factor(self._config.scheduler, self.progress.step, self.max_steps)
        for group in self.built.optimizer.param_groups:
            group["lr"] = self._config.optimizer.lr * factor

    def _backward(self, work: StepWork) -> Tensor:
        """Gradients of the weighted mean loss over the step. Returns the sum of this process's losses."""
        accelerator = self.accelerator
        # The mean over processes that distributed training takes is undone: the sum is what is wanted.
        scale = 0.0 if work.idle else accelerator.num_processes / float(self._pairs.weight[work.indices].sum())
        total = torch.zeros((), device=accelerator.device)
        for number, (made, columns) in enumerate(work.batches):
            last = number == len(work.batches) - 1
            micro, (weight, label, margin) = made.to(accelerator.device), moved(columns, accelerator.device)
            with contextlib.nullcontext() if last else accelerator.no_sync(self._model):
                chosen, rejected = self._model(micro.batch)[micro.places].view(-1, 2).unbind(1)
                losses = self._loss(chosen, rejected, margin, label, self._config.loss)
                accelerator.backward((losses * weight).sum() * scale)
            self.reward_model.release()
            if not work.idle:
                self.window.add_pairs(losses, chosen, rejected, weight, label, micro.num_tokens)
                total = total + losses.detach().sum()
        return total

    def _work(self, first: int, end: int) -> Iterator[StepWork]:
        """What this process has to compute in each of these steps."""
        accelerator, pairs, budget = self.accelerator, self._pairs, self.token_budget
        for step in range(first, end):
            indices = self.plan.step(step)
            items = self._batcher.items(pairs, indices, budget, keep_pairs=True)
            shares = shares_of_ranks([one.cost for one in items], accelerator.num_processes)
            share = [items[one] for one in shares[accelerator.process_index]]
            idle = not share
            # A process without a pair still takes part in the gradient's sum, with pairs of weight 0.
            bins = self._batcher.bins(pairs, share or items[:1], budget)
            made = [self._batcher.micro_batch(pairs, one) for one in bins]
            batches = [(one, self._columns(one.sequences[::2] >> 1)) for one in made]
            yield StepWork(step=step, indices=indices, batches=batches, idle=idle)

    def _columns(self, members: np.ndarray) -> Tensor:
        """[3, m] weight, label and target margin of the pairs."""
        pairs = self._pairs
        values = np.stack([one[members] for one in (pairs.weight, pairs.label, pairs.target_margin)])
        return torch.from_numpy(values.astype(np.float32))

    def _clip(self) -> Tensor:
        limit = self._config.train.max_grad_norm
        # An infinite limit only measures.
        norm = self.accelerator.clip_grad_norm_(
            self.reward_model.parameters(), float("inf") if limit is None else limit
        )
        assert isinstance(norm, Tensor)
        return norm.detach()

    def _guard(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Keep the weights from a step that is not finite on any process, and from all after it."""
        scaled = self.accelerator.scaler is not None
        # With fp16 an overflow of the scaled gradient is ordinary: the scaler skips the step and halves its factor.
        finite = torch.isfinite(loss if scaled else loss + grad_norm)
        bad = torch.logical_not(finite).float()
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(bad, op=torch.distributed.ReduceOp.MAX)
        first = self._first_bad_step
        self._first_bad_step = torch.where((first < 0) & (bad > 0), float(self.progress.step), first)
        if scaled or self.accelerator.device.type != "cuda" or not self._optimizer_can_skip:
            self.check(grad_norm)
        else:
            self.built.optimizer.found_inf = (self._first_bad_step >= 0).float()  # type: ignore[attr-defined]

    def check(self, grad_norm: Tensor | None = None) -> None:
        """Wait for the device, and see whether all steps so far were finite. To be called on every process.

        Raises:
            TrainingError: naming the first step that was not, and the rows.
        """
        first = int(self._first_bad_step.item())
        if first < 0:
            return
        rows = sorted(set(gather_object(self._non_finite_rows(first))))
        norm = "not finite" if grad_norm is None else str(grad_norm.item())
        what = f"non-finite loss in rows {', '.join(rows[:8])}" if rows else f"gradient norm {norm}"
        raise TrainingError(
            f"step {first + 1}, rank {self.accelerator.process_index}: {what}; stopped before the optimizer step, the "
            f"weights are those of step {first}; try a lower optimizer.lr (now {self.lr:g})"
        )

    def _non_finite_rows(self, step: int) -> list[str]:
        """Ids of this process's pairs of a step whose loss is not finite by the weights as they are."""
        found: list[str] = []
        for work in self._work(step, step + 1):
            for made, columns in () if work.idle else work.batches:
                micro, (_, label, margin) = made.to(self.accelerator.device), moved(columns, self.accelerator.device)
                with torch.no_grad():
                    chosen, rejected = self._model(micro.batch)[micro.places].view(-1, 2).unbind(1)
                    losses = self._loss(chosen, rejected, margin, label, self._config.loss)
                bad = ~torch.isfinite(losses).cpu().numpy()
                found += self._pairs.ids_of_pairs((micro.sequences[::2] >> 1)[bad])
        return found


def step_plan(config: RunConfig, pairs: TokenizedPairs) -> StepPlan:
    """The pairs of each step of a run."""
    train = config.train
    return StepPlan(pairs.pair_lengths, train.batch_size, train.length_window, config.seed, pairs.families)


def count_steps(config: RunConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole run: `train.max_steps`, or `train.num_epochs` passes rounded up, at least 1."""
    if config.train.max_steps is not None:
        return config.train.max_steps
    return max(1, int(np.ceil(config.train.num_epochs * steps_per_epoch - 1e-9)))
