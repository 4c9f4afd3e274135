"""The forward passes that give the rewards of sequences, whatever these are sides of pairs or answers of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from rm_experiments.data.groups import Item, Sequences
from rm_experiments.data.prefetch import prefetched
from rm_experiments.errors import OutOfMemoryError
from rm_experiments.launch import ranks
from rm_experiments.launch.memory import is_out_of_memory
from rm_experiments.launch.signals import Stopped
from rm_experiments.modeling.computing import Computing
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.reward_model import RewardModel
from rm_experiments.modeling.sharding import is_sharded, reshard


def forward_passes(
    computing: Computing,
    reward_model: RewardModel,
    sequences: Sequences,
    batcher: Batcher,
    items: list[Item],
    token_budget: int,
    on_progress: Callable[[int], None] = lambda sequences: None,
    should_stop: Callable[[], bool] = lambda: False,
    least_passes: int = 0,
    filler: Item | None = None,
) -> list[tuple[NDArray[Any], Tensor]]:
    """Numbers [s] and rewards [s] (of several heads [s, heads]), on the device, of each pass over some `items`.

    In evaluation mode and without gradients; mode and random state of the model are as before afterwards. Where memory
    runs out, the rest is computed in smaller passes.

    Args:
        token_budget: tokens of a pass.
        on_progress: is told how many sequences were just done.
        least_passes: so many are made, which processes that hold a slice of the model each need; those beyond the
            items' own compute `filler`.

    Raises:
        Stopped: when `should_stop`, asked before each pass, said so; of a sharded model on any process.
        OutOfMemoryError: when a single item does not fit into memory.
    """
    together = is_sharded(reward_model)
    done: list[tuple[NDArray[Any], Tensor]] = []
    was_training = reward_model.training
    reward_model.eval()
    # What is gathered in inference mode cannot be trained later.
    without_gradients = torch.no_grad if together else torch.inference_mode
    try:
        with without_gradients(), computing.autocast():
            while items or least_passes:
                bins, finished = batcher.bins(sequences, items, token_budget) if items else [], 0
                own = len(bins)
                bins += [[filler]] * (least_passes - own) if filler is not None else []
                try:
                    for made in prefetched(batcher.micro_batch(sequences, one) for one in bins):
                        if ranks.largest(int(should_stop())) if together else should_stop():
                            raise Stopped
                        micro = made.to(computing.device)
                        rewards = reward_model(micro.batch)[micro.places]
                        finished += 1
                        if finished <= own:
                            done.append((micro.sequences, rewards))
                        on_progress(len(micro.sequences))
                    items, least_passes = [], 0
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    if together:
                        raise _no_memory_together(computing.process_index, token_budget) from error
                    token_budget = smaller(token_budget, bins[finished], error)
                    items = [item for one in bins[finished:] for item in one]
    finally:
        if together:
            reshard(reward_model)
        reward_model.release()
        reward_model.train(was_training)
    return done


def _no_memory_together(rank: int, token_budget: int) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"rank {rank}: out of memory in evaluation, in a forward pass that all processes compute together; try "
        f"eval.micro_batch_tokens={max(1, token_budget // 2)}"
    )


def smaller(token_budget: int, passed: list[Item], error: RuntimeError) -> int:
    """The budget after a forward pass for which memory did not suffice."""
    if len(passed) == 1:
        tokens = passed[0].cost
        reason = str(error).splitlines()[0]
        raise OutOfMemoryError(
            f"out of memory in evaluation, for one group of {tokens:,} tokens: {reason}; lower data.max_length"
        ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return max(1, min(token_budget, sum(one.cost for one in passed)) // 2)
