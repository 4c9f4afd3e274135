"""The forward and backward passes of an optimizer step, on one process.

A loss of single pairs is computed pass by pass. One of the whole step (of k responses, say, whose pairs may lie in
several passes and on several processes) takes two forward passes: the first, without gradients, gives the rewards of
the step; of them the loss and its gradient are computed at once; the second pass puts that gradient on its rewards and
goes back through the model (Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
arXiv:2101.06983). Where a step is a single pass of a single process, one is enough.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.errors import OutOfMemoryError
from rm_experiments.launch import ranks
from rm_experiments.launch.memory import is_out_of_memory
from rm_experiments.modeling.layouts.batch import moved
from rm_experiments.modeling.layouts.layout import MicroBatch
from rm_experiments.modeling.reward_model import RewardModel, last_linear, wide
from rm_experiments.modeling.sharding import is_sharded, reshard
from rm_experiments.training.labels import PairLabels
from rm_experiments.training.language_loss import language_losses
from rm_experiments.training.losses import LOSSES, losses_of
from rm_experiments.training.window import MetricWindow
from rm_experiments.training.work import StepWork


@dataclass(frozen=True, kw_only=True)
class RandomState:
    """Torch's random numbers to come, on the host and on the device."""

    host: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """As it is."""
        cuda = torch.cuda.get_rng_state() if device.type == "cuda" else None
        return cls(host=torch.get_rng_state(), cuda=cuda)

    def restore(self) -> None:
        """As it was."""
        torch.set_rng_state(self.host)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)


@dataclass(frozen=True, kw_only=True)
class WholeStep:
    """The loss of a whole step, known before the passes that go back through the model."""

    rewards: Tensor
    """[2, n] or [2, n, heads] of all pairs of the step: chosen and rejected."""
    losses: Tensor
    """[n]"""
    gradient: Tensor
    """Of the step's mean loss, like `rewards`."""
    random: list[RandomState]
    """Before each of this process's forward passes, so that dropout is the same in the second one; empty where the
    passes are others by now."""


class Passes:
    """Computes the gradients of steps."""

    def __init__(
        self, *, accelerator: Accelerator, model: torch.nn.Module, reward_model: RewardModel, loss: LossConfig,
        window: MetricWindow, should_stop: Callable[[], bool], beat: Callable[[], None],
    ) -> None:  # fmt: skip
        """
        Args:
            model: what `accelerator.prepare` made of `reward_model`.
            window: gets the metrics of all pairs.
            should_stop: asked before each forward pass: whether to give up the step.
            beat: called after each pass.
        """
        self._accelerator = accelerator
        self._model = model
        self._reward_model = reward_model
        self._sharded = is_sharded(reward_model)
        self._kind = LOSSES[loss.name]
        self._config = loss
        self._window = window
        self._should_stop = should_stop
        self._beat = beat
        self._ahead: WholeStep | None = None
        """Of a step that is repeated by this process alone, what all of them had computed together."""

    def backward(self, work: StepWork) -> Tensor | None:
        """Gradients of the weighted mean loss over the step.

        Returns:
            The sum of this process's losses; None when it was given up.

        Raises:
            MemoryError: when it ran out where the others need not know: not in the last pass of several processes.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is None and not self._is_pass_by_pass(work):
            ahead = self._look_ahead(work)
            if ahead is None:
                return None
        accelerator, given_up = self._accelerator, False
        total = torch.zeros((), device=accelerator.device)
        for number in range(len(work.batches)):
            last = number == len(work.batches) - 1
            given_up = given_up or self._is_given_up()
            if given_up and (self._sharded or not (last and accelerator.num_processes > 1)):
                # Of several processes each takes part in the gradient's sum, which comes with the last pass.
                continue
            try:
                total = total + self._pass(work, number, last, ahead)
            except RuntimeError as error:
                known = self._out_of_memory(error, work, last)
                if isinstance(known, MemoryError) and ahead is not None and accelerator.num_processes > 1:
                    # The others will not compute it again.
                    self._ahead = replace(ahead, random=[])
                _raise(known, error)
            self._beat()
        return None if given_up else total

    def non_finite_pairs(self, work: StepWork) -> np.ndarray:
        """This process's pairs of a step whose loss is not finite by the weights as they are.

        Of a loss of the whole step, those whose rewards or language-model term are not finite, if there are any. Called
        on every process.
        """
        found = [np.empty(0, dtype=np.int64)]
        whole = self._look_ahead(work, ask=False) if self._kind.whole_step else None
        finite = None if whole is None else _finite_pairs(whole)
        for number, (made, known) in enumerate(work.batches):
            if finite is not None:
                good = finite[torch.from_numpy(work.places(number)).to(finite.device)]
                if made.answers is not None and work.counts(number):
                    labels = known.to(self._accelerator.device)
                    with torch.no_grad():
                        *_, lm = self._outputs(self._reward_model, made.to(self._accelerator.device), labels)
                    good = good if lm is None else good & torch.isfinite(lm).to(good.device)
            elif work.counts(number) or self._sharded:
                labels = known.to(self._accelerator.device)
                with torch.no_grad():
                    *rewards, lm = self._outputs(self._reward_model, made.to(self._accelerator.device), labels)
                    good = torch.isfinite(losses_of(labels.with_rewards(*rewards), self._config))
                    good = good if lm is None else good & torch.isfinite(lm)
            else:
                continue
            found.append(work.members(number)[~good.cpu().numpy()])
        return np.concatenate(found)

    def _is_pass_by_pass(self, work: StepWork) -> bool:
        """Whether each pass knows all that its part of the loss depends on."""
        one_pass = len(work.batches) == 1 and self._accelerator.num_processes == 1
        return one_pass or not self._kind.whole_step

    def _is_given_up(self) -> bool:
        """Whether to leave out the passes that are still to come: on all processes, if they compute them together."""
        asked = self._should_stop()
        return ranks.largest(int(asked)) > 0 if self._sharded else asked

    def _out_of_memory(self, error: RuntimeError, work: StepWork, last: bool) -> Exception:
        """What to raise for an error of a pass."""
        rank, several = self._accelerator.process_index, self._accelerator.num_processes > 1
        if not is_out_of_memory(error):
            return error
        if self._sharded:
            return OutOfMemoryError(
                f"step {work.step + 1}, rank {rank}: out of memory in a forward and backward pass, which all processes "
                f"compute together; try train.micro_batch_tokens={max(1, work.pass_tokens // 2)}, or "
                "train.gradient_checkpointing=true"
            )
        if last and several:
            return OutOfMemoryError(
                f"step {work.step + 1}, rank {rank}: out of memory while the processes add their gradients; try "
                f"train.micro_batch_tokens={work.pass_tokens // 2}"
            )
        return MemoryError(str(error).splitlines()[0])

    def _rewards(self, model: torch.nn.Module, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """Rewards [m] or [m, heads] of the chosen and of the rejected answers."""
        with self._accelerator.autocast():
            rewards = model(micro.batch)[micro.places]
        chosen, rejected = rewards.view(-1, 2, *rewards.shape[1:]).unbind(1)
        return chosen, rejected

    def _outputs(
        self, model: torch.nn.Module, micro: MicroBatch, labels: PairLabels
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rewards of both sides as `_rewards` gives them, and the language-model term [m], where there is one."""
        if micro.answers is None:
            return *self._rewards(model, micro), None
        with self._accelerator.autocast():
            rewards, log_pi = model(micro.batch, micro.answers)
        rewards = rewards[micro.places]
        chosen, rejected = rewards.view(-1, 2, *rewards.shape[1:]).unbind(1)
        return chosen, rejected, language_losses(log_pi, micro.answers.lengths, labels, self._config)

    def _pass(self, work: StepWork, number: int, last: bool, ahead: WholeStep | None) -> Tensor:
        """One forward and backward pass. Returns the sum of its losses."""
        accelerator, counts = self._accelerator, work.counts(number)
        made, known = work.batches[number]
        micro, labels = made.to(accelerator.device), known.to(accelerator.device)
        if ahead is not None and ahead.random:
            ahead.random[number].restore()
        # Whole gradients of a sharded model would not fit: each pass adds them to the slices.
        at_once = last or self._sharded
        with contextlib.nullcontext() if at_once else accelerator.no_sync(self._model):
            chosen, rejected, lm_losses = self._outputs(self._model, micro, labels)
            # The mean over processes that distributed training takes is undone: the sum is what is wanted.
            scale = float(accelerator.num_processes) if counts else 0.0
            if ahead is None:
                losses = losses_of(labels.with_rewards(chosen, rejected), self._config)
                objective = (losses * labels.weight).sum() * (scale / work.weight)
            else:
                places = moved(torch.from_numpy(work.places(number)), accelerator.device)
                losses, gradient = ahead.losses[places], ahead.gradient[:, places]
                objective = (torch.stack([chosen, rejected]) * gradient).sum() * scale
            if last and self._kind.penalty is not None and accelerator.is_main_process:
                # Once in what the processes add up.
                weight = wide(last_linear(self._reward_model).weight)
                objective = objective + self._kind.penalty(weight, self._config) * accelerator.num_processes
            if lm_losses is not None:
                share = self._config.lm_coefficient
                term = (lm_losses * labels.weight).sum() * (scale / work.weight)
                objective = (1 - share) * objective + share * term
            accelerator.backward(objective)
        self._reward_model.release()
        if not counts:
            return torch.zeros((), device=accelerator.device)
        chosen, rejected = (self._reward_model.reward(one.detach()) for one in (chosen, rejected))
        self._window.add_pairs(losses, chosen, rejected, labels.weight, labels.label, micro.num_tokens, lm_losses)
        total = losses.detach().sum()
        return total if lm_losses is None else total + lm_losses.detach().sum()

    def _look_ahead(self, work: StepWork, ask: bool = True) -> WholeStep | None:
        """The loss of a step and its gradient with respect to the rewards, by forward passes without gradients.

        Returns:
            None when it was given up on any process, for which it asks only if `ask`.

        Raises:
            MemoryError: when it ran out where the others need not know.
        """
        done: list[tuple[np.ndarray, Tensor]] = []
        random: list[RandomState] = []
        given_up = False
        for number, (made, _) in enumerate(work.batches):
            given_up = ask and self._is_given_up()
            if given_up:
                break
            random.append(RandomState.now(self._accelerator.device))
            try:
                with torch.no_grad():
                    # Not by way of what distributed training made of the model: only gradients need the others.
                    rewards = torch.stack(self._rewards(self._reward_model, made.to(self._accelerator.device)))
            except RuntimeError as error:
                _raise(self._out_of_memory(error, work, last=False), error)
            self._reward_model.release()
            done.append((work.places(number), rewards))
            self._beat()
        if self._sharded:
            reshard(self._reward_model)
        if ranks.largest(int(given_up)):
            return None
        return self._whole_step(work, done, random)

    def _whole_step(
        self, work: StepWork, done: list[tuple[np.ndarray, Tensor]], random: list[RandomState]
    ) -> WholeStep:
        """The loss of a step whose rewards the processes have."""
        assert work.labels is not None
        accelerator, like = self._accelerator, done[0][1]
        rewards = like.new_zeros(2, len(work.indices), *like.shape[2:])
        for number, (places, values) in enumerate(done):
            if work.counts(number):
                rewards[:, moved(torch.from_numpy(places), accelerator.device)] = values
        if accelerator.num_processes > 1:
            # Each reward is on one process and 0 on the others.
            torch.distributed.all_reduce(rewards)
        rewards.requires_grad_()
        labels = work.labels.to(accelerator.device)
        losses = losses_of(labels.with_rewards(*rewards.unbind()), self._config)
        objective = (losses * labels.weight).sum() / work.weight
        (gradient,) = torch.autograd.grad(objective, rewards)
        return WholeStep(rewards=rewards.detach(), losses=losses.detach(), gradient=gradient, random=random)


def _raise(known: Exception, error: RuntimeError) -> NoReturn:
    """What is known of an error; the error itself where nothing is."""
    if known is error:
        raise error
    raise known from (None if isinstance(known, MemoryError) else error)


def _finite_pairs(whole: WholeStep) -> Tensor:
    """[n] whether both rewards of a pair are finite; where all are, whether its loss is."""
    finite = torch.isfinite(whole.rewards).transpose(0, 1).flatten(1).all(dim=1)
    return torch.isfinite(whole.losses) if finite.all() else finite
