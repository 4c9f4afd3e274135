"""One pass over an evaluation set: a reward for every sequence, and a record for every pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.data.groups import Item, shares_of_ranks
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.evaluation.forward import forward_passes
from rm_experiments.evaluation.metrics import Objective
from rm_experiments.evaluation.pairs import Vector
from rm_experiments.evaluation.records import SCORES, Records, has_heads, make_records
from rm_experiments.launch import ranks
from rm_experiments.launch.signals import Stopped
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.reward_model import RewardModel
from rm_experiments.modeling.sharding import is_sharded
from rm_experiments.training.labels import PairLabels
from rm_experiments.training.losses import losses_of


def evaluate(
    accelerator: Accelerator,
    reward_model: RewardModel,
    pairs: TokenizedPairs,
    batcher: Batcher,
    token_budget: int,
    on_progress: Callable[[int], None] = lambda sequences: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Records:
    """Records of all pairs, on every process. No row is dropped or counted twice.

    What is computed is dealt out to the processes by its size, in forward passes of `token_budget` tokens in inference
    mode; mode and random state of the model are as before afterwards. `on_progress` is told how many sequences were
    just done. Where memory runs out, the rest is computed in smaller passes.

    Raises:
        Stopped: when `should_stop`, asked before each pass, said so on any process.
        OutOfMemoryError: when a single sequence does not fit into memory.
    """
    items = batcher.items(pairs, np.arange(len(pairs)), token_budget, keep_pairs=False)
    shares = shares_of_ranks([one.cost for one in items], accelerator.num_processes)
    share = [items[one] for one in shares[accelerator.process_index]]
    # Processes that hold a slice of the model each compute every pass together, and so make equally many.
    together = is_sharded(reward_model)
    passes = _most_passes(batcher, pairs, items, shares, token_budget) if together else 0
    filler = min(items, key=lambda one: one.cost) if together else None
    mine, stopped = [], False
    try:
        done = forward_passes(
            accelerator, reward_model, pairs, batcher, share, token_budget, on_progress, should_stop, passes, filler
        )
        # Read once at the end, so that the device never waits for the host.
        mine = [(numbers, values.double().cpu().numpy()) for numbers, values in done]
    except Stopped:
        stopped = True
    if ranks.largest(int(stopped)):
        raise Stopped
    heads = reward_model.heads
    everything = np.full((2 * len(pairs), len(heads)), np.nan)
    for sequences, values in gather_object(mine):
        everything[sequences] = values.reshape(len(sequences), -1)
    return make_records(pairs, everything if len(heads) > 1 else everything[:, 0], heads)


def _most_passes(
    batcher: Batcher, pairs: TokenizedPairs, items: list[Item], shares: list[list[int]], token_budget: int
) -> int:
    """Forward passes of the process that makes most."""
    return max(len(batcher.bins(pairs, [items[one] for one in share], token_budget)) for share in shares if share)


def objective_of(config: LossConfig) -> Objective:
    """The training loss as a function of the records, in float64.

    Of an ensemble the heads' own on all pairs: the resamples are for training. NaN where a regression knows no score.
    """
    config = replace(config, bootstrap=False)

    def objective(records: Records) -> Vector:
        values = {name: torch.tensor(records[column]) for name, column in _OF_RECORDS.items()}
        values |= {name: values[name].double() for name in ("length_chosen", "length_rejected")}
        rewards = values.pop("rewards_chosen"), values.pop("rewards_rejected")
        values |= {name: torch.tensor(records[name]) for name in SCORES if name in records}
        if has_heads(records):
            rewards = torch.tensor(records["heads_chosen"]), torch.tensor(records["heads_rejected"])
        return losses_of(PairLabels(**values).with_rewards(*rewards), config).numpy()

    def of_scored(records: Records) -> Vector:
        known = np.zeros(len(records["weight"]), dtype=bool)
        if SCORES[0] in records and _one_head_per_score(records):
            known = np.isfinite(np.hstack([records[name] for name in SCORES])).any(axis=1)
        return np.where(known, objective(records), np.nan)

    return of_scored if config.name == "regression" else objective


def _one_head_per_score(records: Records) -> bool:
    heads = records["heads_chosen"].shape[1] if has_heads(records) else 1
    return bool(records[SCORES[0]].shape[1] == heads)


_OF_RECORDS = {
    "rewards_chosen": "reward_chosen", "rewards_rejected": "reward_rejected", "margin": "target_margin",
    "label": "label", "weight": "weight", "group": "group", "chosen_answer": "answer_chosen",
    "rejected_answer": "answer_rejected", "length_chosen": "num_chars_chosen", "length_rejected": "num_chars_rejected",
}  # fmt: skip
"""Field of a `LabelledRewards` -> column of records."""
