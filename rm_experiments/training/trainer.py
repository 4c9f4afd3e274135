"""One optimizer step at a time: exact means over the step's pairs, however they are split.

The loop around it (when to log, evaluate and save) belongs to the runner. Nothing here knows W&B, the Hub or Hydra.
"""

from __future__ import annotations

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
from rm_experiments.data.prefetch import prefetched
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import NonFiniteError, OutOfMemoryError
from rm_experiments.launch import ranks
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.reward_model import RewardModel
from rm_experiments.modeling.sharding import is_sharded
from rm_experiments.training.budget import training_budget
from rm_experiments.training.language_loss import LANGUAGE_FORMS
from rm_experiments.training.losses import LOSSES
from rm_experiments.training.optimizers.build import BuiltOptimizer, hide_averages, show_averages
from rm_experiments.training.passes import Passes, RandomState
from rm_experiments.training.schedules import lr_factor
from rm_experiments.training.window import MetricWindow
from rm_experiments.training.work import StepWork, WorkMaker


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
class Before:
    """What a step changes before its last moment, as it was: a step that is given up leaves no trace."""

    random: RandomState
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
        language = LANGUAGE_FORMS[config.loss.lm_form] if config.loss.lm_coefficient else None
        self.window = MetricWindow(accelerator.device, language is not None)
        self._pairs = pairs
        self._config = config
        self._coming: Iterator[StepWork] | None = None
        self.token_budget = training_budget(
            config.train.micro_batch_tokens, accelerator, reward_model, batcher, int(pairs.lengths.max())
        )
        """Tokens of one forward pass, by which all processes deal out a step."""
        self._pass_tokens = self.token_budget
        """Tokens of one of this process's forward passes: fewer, where memory ran out."""
        self._sharded = is_sharded(reward_model)
        """Whether all processes compute each pass together, so that they make equally many and none is repeated."""
        model: torch.nn.Module = reward_model if self._sharded else accelerator.prepare(reward_model)
        self._optimizer = accelerator.prepare(built.optimizer)
        self._maker = WorkMaker(
            accelerator=accelerator, pairs=pairs, plan=plan, batcher=batcher, sharded=self._sharded,
            whole_step=LOSSES[config.loss.name].whole_step, language=language,
        )  # fmt: skip
        self._passes = Passes(
            accelerator=accelerator, model=model, reward_model=reward_model, loss=config.loss,
            window=self.window, should_stop=lambda: self.should_stop(), beat=lambda: self.beat(),
        )  # fmt: skip
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
    def optimizer_name(self) -> str:
        """The optimizer's name in the config."""
        return self._config.optimizer.name

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
                loss = self._passes.backward(work)
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
            self._coming = prefetched(
                self._maker.steps(self.progress.step, self.max_steps, self.token_budget, self._pass_tokens)
            )
        work = next(self._coming)
        assert work.step == self.progress.step
        return work

    def _before(self) -> Before:
        return Before(
            random=RandomState.now(self.accelerator.device), window_sums=self.window.sums.clone(),
            window_extrema=self.window.extrema.clone(),
        )  # fmt: skip

    def _take_back(self, before: Before) -> None:
        """Forget what was computed of a step, on this process."""
        self.reward_model.release()
        self._optimizer.zero_grad(set_to_none=True)
        before.random.restore()
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
        works = self._maker.steps(step, step + 1, self.token_budget, self._pass_tokens)
        return [row for work in works for row in self._pairs.ids_of_pairs(self._passes.non_finite_pairs(work))]


def step_plan(config: RunConfig, pairs: TokenizedPairs) -> StepPlan:
    """The pairs of each step of a run."""
    train = config.train
    return StepPlan(pairs.pair_lengths, train.batch_size, train.length_window, config.seed, pairs.families)


def count_steps(config: RunConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole run: `train.max_steps`, or `train.num_epochs` passes rounded up, at least 1."""
    if config.train.max_steps is not None:
        return config.train.max_steps
    return max(1, int(np.ceil(config.train.num_epochs * steps_per_epoch - 1e-9)))
