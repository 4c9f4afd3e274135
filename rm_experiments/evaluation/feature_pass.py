"""One pass of the backbone over some pairs: the features of their sequences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from rm_experiments.data.prefetch import prefetched
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.evaluation.forward import smaller
from rm_experiments.launch.memory import is_out_of_memory
from rm_experiments.modeling.features import Pooling, features_of
from rm_experiments.modeling.layouts.batch import FeatureBatch
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.reward_model import RewardModel


def feature_batches(
    accelerator: Accelerator, reward_model: RewardModel, pairs: TokenizedPairs, members: NDArray[np.int64],
    batcher: Batcher, token_budget: int, pooling: Pooling,
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:  # fmt: skip
    """Numbers [s] and features [s, d] of sequences, pass by pass, until both sides of all `members` were there.

    Computed by this process, in inference mode; where memory runs out, the rest in smaller passes.

    Raises:
        OutOfMemoryError: when a single sequence does not fit into memory.
    """
    left = batcher.items(pairs, members, token_budget, keep_pairs=False)
    was_training = reward_model.training
    reward_model.eval()
    try:
        while left:
            bins, finished = batcher.bins(pairs, left, token_budget), 0
            try:
                for made in prefetched(batcher.micro_batch(pairs, one) for one in bins):
                    micro = made.to(accelerator.device)
                    assert not isinstance(micro.batch, FeatureBatch)
                    with torch.inference_mode(), accelerator.autocast():
                        features = features_of(reward_model, micro.batch, pooling)[micro.places]
                    finished += 1
                    yield micro.sequences, features
                left = []
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                token_budget = smaller(token_budget, bins[finished], error)
                left = [item for one in bins[finished:] for item in one]
    finally:
        reward_model.release()
        reward_model.train(was_training)
