"""One optimizer step at a time: exact means over the step's pairs, however they are split.

The loop around it (when to log, evaluate and save) belongs to the runner. Nothing here knows W&B, the Hub or Hydra.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor

from rm_experiments.config.schema import RunConfig
from rm_experiments.data.batching import StepPlan
from rm_experiments.data.groups import Item, shares_of_ranks
from rm_experiments.data.prefetch import prefetched
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import NonFiniteError, OutOfMemoryError
from rm_experiments.launch import ranks
from rm_experiments.launch.memory import is_out_of_memory
from rm_experiments.modeling.layouts.batch import moved
from rm_experiments.modeling.layouts.layout import Batcher, MicroBatch
from rm_experiments.modeling.reward_model import RewardModel
from rm_experiments.modeling.sharding import is_sharded
from rm_experiments.training.budget import training_budget
from rm_experiments.training.losses import LOSSES
from rm_experiments.training.optimizers.build import BuiltOptimizer, hide_averages, show_averages
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
    filling: int
    """How many batches, the last ones, are there only so that this process takes part."""

    def counts(self, number: int) -> bool:
        """Whether the batch of this number is part of the step."""
        return number < len(self.batches) - self.filling


@dataclass(kw_only=True)
class Before:
    """What a step changes before its last moment, as it was: a step that is given up leaves no trace."""

    random: Tensor
    cuda_random: Tensor | None
    window_sums: Tensor
    window_extrema: Tensor


class Trainer:
    """Runs the steps of a `StepPlan`."""

    def __init__(
        self, *, accelerator: Accelerator, reward_model: RewardModel, built: BuiltOptimizer,
        pairs: TokenizedPairs, plan: StepPlan, max_steps: int, batcher: Batcher, config: RunConfig,
    ) -> None:  # fmt: skip
        self.should_stop: Callable[[], bool] = lambda: False
        """Asked before each forward pass: whether to give up the step."""
        self.say: Callable[[str], None] = lambda line: None
        """Told what a person should know."""
        self.beat: Callable[[], None] = lambda: None
        """Called after each forward and backward pass."""
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
        """Tokens of one forward pass, by which all processes deal out a step."""
        self._pass_tokens = self.token_budget
        """Tokens of one of this process's forward passes: fewer, where memory ran out."""
        self._loss = LOSSES[config.loss.name]
        self._sharded = is_sharded(reward_model)
        """Whether all processes compute each pass together, so that they make equally many and none is repeated."""
        self._model: torch.nn.Module = reward_model if self._sharded else accelerator.prepare(reward_model)
        self._optimizer = accelerator.prepare(built.optimizer)
        self._first_bad_step = torch.full((), -1.0, device=accelerator.device)
        # Optimizers whose kernel skips a step by itself, where the weights are.
        self._optimizer_can_skip = bool(built.optimizer.defaults.get("fused")) and not self._sharded
        reward_model.train()

    @property
    def lr(self) -> float:
        """The learning rate of the last completed step."""
        group = self.built.optimizer.param_groups[0]
        return float(group["lr"] / group.get("lr_scale", 1.0))

    @property
    def strategy(self) -> str:
        """`fsdp` or `ddp`: what each process holds."""
        return "fsdp" if self._sharded else "ddp"

    @property
    def epoch(self) -> float:
        """Passes over the training pairs so far."""
        return self.progress.pairs / self.plan.num_pairs

    def resume_budget(self, tokens: int) -> None:
        """Go on with the number of tokens that a run had, unless it is set."""
        if self._config.train.micro_batch_tokens == "auto":
            self.token_budget = self._pass_tokens = tokens

    def step(self) -> bool:
        """One optimizer step over the next pairs of the plan.

        Returns:
            Whether it was taken: not when `should_stop` said so on any process. Then nothing has changed.

        Raises:
            NonFiniteError: for a non-finite loss or gradient, before any weight is changed. On a GPU, which would have
                to be waited for, only by `check`: until then all steps leave the weights as they are.
            OutOfMemoryError: when a single pair does not fit into memory.
        """
        before = self._before()
        hide_averages(self.built.optimizer)
        while True:
            work = self._next_work()
            self._set_lr()
            try:
                loss = self._backward(work)
                break
            except MemoryError as error:
                self._take_back(before)
                self._halve_budget(work, error)
        if ranks.largest(int(loss is None)):
            self._take_back(before)
            return False
        assert loss is not None
        grad_norm = self._clip()
        self._guard(loss, grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.window.add_step(grad_norm)
        self.progress.step += 1
        self.progress.pairs += len(work.indices)
        self.progress.tokens += int(self._pairs.lengths[work.indices].sum())
        return True

    def settle(self) -> None:
        """Put the weights that are evaluated and saved into the model; the next step takes the training's back."""
        show_averages(self.built.optimizer)

    def _next_work(self) -> StepWork:
        if self._coming is None:
            self._coming = prefetched(self._work(self.progress.step, self.max_steps))
        work = next(self._coming)
        assert work.step == self.progress.step
        return work

    def _before(self) -> Before:
        cuda = self.accelerator.device.type == "cuda"
        return Before(
            random=torch.get_rng_state(), cuda_random=torch.cuda.get_rng_state() if cuda else None,
            window_sums=self.window.sums.clone(), window_extrema=self.window.extrema.clone(),
        )  # fmt: skip

    def _take_back(self, before: Before) -> None:
        """Forget what was computed of a step, on this process."""
        self.reward_model.release()
        self._optimizer.zero_grad(set_to_none=True)
        torch.set_rng_state(before.random)
        if before.cuda_random is not None:
            torch.cuda.set_rng_state(before.cuda_random)
        self.window.sums, self.window.extrema = before.window_sums.clone(), before.window_extrema.clone()
        self._coming = None

    def _halve_budget(self, work: StepWork, error: MemoryError) -> None:
        """After memory ran out: smaller forward passes, from this step on. Their number does not change the result."""
        pairs = [len(made.sequences) // 2 for made, _ in work.batches]
        if max(pairs) == 1 or self._pass_tokens <= 1:
            longest = int(self._pairs.lengths[work.indices].max())
            raise OutOfMemoryError(
                f"step {work.step + 1}: out of memory for a single pair (up to {longest:,} tokens): {error}; lower "
                "data.max_length, or try train.gradient_checkpointing=true or adapter=lora"
            ) from error
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        self._pass_tokens //= 2
        if self.accelerator.num_processes == 1:
            self.token_budget = self._pass_tokens
        self.say(
            f"Out of memory in step {work.step + 1}, which is repeated with forward passes of {self._pass_tokens:,} "
            f"tokens, as all from here on; to begin with it, type train.micro_batch_tokens={self._pass_tokens}"
        )

    def _set_lr(self) -> None:
        factor = lr_factor(self._config.scheduler, self.progress.step, self.max_steps)
        for group in self.built.optimizer.param_groups:
            group["lr"] = self._config.optimizer.lr * factor * group.get("lr_scale", 1.0)

    def _backward(self, work: StepWork) -> Tensor | None:
        """Gradients of the weighted mean loss over the step.

        Returns:
            The sum of this process's losses; None when it was given up.

        Raises:
            MemoryError: when it ran out where the others need not know: not in the last pass of several processes.
        """
        accelerator, given_up = self.accelerator, False
        total = torch.zeros((), device=accelerator.device)
        for number, (made, columns) in enumerate(work.batches):
            last = number == len(work.batches) - 1
            given_up = given_up or self._is_given_up()
            if given_up and (self._sharded or not (last and accelerator.num_processes > 1)):
                # Of several processes each takes part in the gradient's sum, which comes with the last pass.
                continue
            try:
                total = total + self._pass(work, made, columns, last, work.counts(number))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self._sharded:
                    raise OutOfMemoryError(
                        f"step {work.step + 1}, rank {accelerator.process_index}: out of memory in a forward and "
                        "backward pass, which all processes compute together; try train.micro_batch_tokens="
                        f"{max(1, self._pass_tokens // 2)}, or train.gradient_checkpointing=true"
                    ) from error
                if last and accelerator.num_processes > 1:
                    raise OutOfMemoryError(
                        f"step {work.step + 1}, rank {accelerator.process_index}: out of memory while the processes "
                        f"add their gradients; try train.micro_batch_tokens={self._pass_tokens // 2}"
                    ) from error
                raise MemoryError(str(error).splitlines()[0]) from None
            self.beat()
        return None if given_up else total

    def _is_given_up(self) -> bool:
        """Whether to leave out the passes that are still to come: on all processes, if they compute them together."""
        asked = self.should_stop()
        return ranks.largest(int(asked)) > 0 if self._sharded else asked

    def _rewards(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """Rewards [m] of the chosen and [m] of the rejected answers."""
        with self.accelerator.autocast():
            chosen, rejected = self._model(micro.batch)[micro.places].view(-1, 2).unbind(1)
        return chosen, rejected

    def _pass(self, work: StepWork, made: MicroBatch, columns: Tensor, last: bool, counts: bool) -> Tensor:
        """One forward and backward pass. Returns the sum of its losses."""
        accelerator = self.accelerator
        # The mean over processes that distributed training takes is undone: the sum is what is wanted.
        scale = accelerator.num_processes / float(self._pairs.weight[work.indices].sum()) if counts else 0.0
        micro, (weight, label, margin) = made.to(accelerator.device), moved(columns, accelerator.device)
        # Whole gradients of a sharded model would not fit: each pass adds them to the slices.
        at_once = last or self._sharded
        with contextlib.nullcontext() if at_once else accelerator.no_sync(self._model):
            chosen, rejected = self._rewards(micro)
            losses = self._loss(chosen, rejected, margin, label, self._config.loss)
            accelerator.backward((losses * weight).sum() * scale)
        self.reward_model.release()
        if not counts:
            return torch.zeros((), device=accelerator.device)
        self.window.add_pairs(losses, chosen, rejected, weight, label, micro.num_tokens)
        return losses.detach().sum()

    def _work(self, first: int, end: int) -> Iterator[StepWork]:
        """What this process has to compute in each of these steps."""
        accelerator, pairs, budget, of_pass = self.accelerator, self._pairs, self.token_budget, self._pass_tokens
        for step in range(first, end):
            indices = self.plan.step(step)
            items = self._batcher.items(pairs, indices, budget, keep_pairs=True)
            shares = shares_of_ranks([one.cost for one in items], accelerator.num_processes)
            made, filling = self._batches(items, shares, of_pass)
            batches = [(one, self._columns(one.sequences[::2] >> 1)) for one in made]
            yield StepWork(step=step, indices=indices, batches=batches, filling=filling)

    def _batches(self, items: list[Item], shares: list[list[int]], budget: int) -> tuple[list[MicroBatch], int]:
        """This process's forward passes of a step, and how many of them, the last ones, only take part.

        A process without a pair still takes part in the gradient's sum. Processes that compute each pass together make
        as many as the one that has most.
        """
        bins_of = self._batcher.bins
        share = [items[one] for one in shares[self.accelerator.process_index]]
        bins = bins_of(self._pairs, share, budget) if share else []
        number = max(1, len(bins))
        if self._sharded:
            number = max(len(bins_of(self._pairs, [items[one] for one in each], budget)) for each in shares if each)
        filling = number - len(bins)
        # The least work there is.
        bins += [[min(items, key=lambda one: one.cost)]] * filling
        return [self._batcher.micro_batch(self._pairs, one) for one in bins], filling

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
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        return norm.detach().to(self.accelerator.device)

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
            NonFiniteError: naming the first step that was not, the ranks and the rows.
        """
        first = int(self._first_bad_step.item())
        if first < 0:
            return
        # On every process, since each takes part in the forward passes and in gathering.
        rank = self.accelerator.process_index
        found = sorted(set(gather_object([(rank, one) for one in self._non_finite_rows(first)])))
        rows = [row for _, row in found]
        norm = "not finite" if grad_norm is None else str(grad_norm.item())
        where = f"rank {', '.join(str(one) for one in sorted({one for one, _ in found}) or [rank])}"
        what = f"non-finite loss in rows {', '.join(rows[:8])}" if rows else f"gradient norm {norm}"
        raise NonFiniteError(
            f"step {first + 1}, {where}: {what}; stopped before the optimizer step, the weights are those of step "
            f"{first}; try a lower optimizer.lr (now {self.lr:g})",
            step=first + 1, rows=rows, pairs=self.plan.step(first).tolist(),
        )  # fmt: skip

    def _non_finite_rows(self, step: int) -> list[str]:
        """Ids of this process's pairs of a step whose loss is not finite by the weights as they are."""
        found: list[str] = []
        for work in self._work(step, step + 1):
            for number, (made, columns) in enumerate(work.batches):
                if not (work.counts(number) or self._sharded):
                    continue
                micro, (_, label, margin) = made.to(self.accelerator.device), moved(columns, self.accelerator.device)
                with torch.no_grad():
                    losses = self._loss(*self._rewards(micro), margin, label, self._config.loss)
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
