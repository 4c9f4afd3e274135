"""How many tokens one forward pass has: as set, or found out."""

from __future__ import annotations

import numpy as np
import torch

from rm_experiments.data.groups import Group
from rm_experiments.modeling.computing import Computing
from rm_experiments.modeling.feature_batches import FeatureBatcher
from rm_experiments.modeling.layouts.batch import Batch, padded_batch
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.reward_model import RewardModel
from rm_experiments.modeling.sharding import local

_PROBES = (2048, 4096)
_USED_SHARE = 0.8
"""Of the free memory; the rest is for what the allocator cannot use and for longer sequences."""
_MOST = 65536
"""Larger forward passes are not faster."""
_MULTIPLE = 256
_SEQUENCES = 8192
"""Of a forward pass of the head alone, where each counts as one token."""
_EVALUATION = {"cpu": 1, "mps": 2, "cuda": 4}
"""Times the tokens of training: no activations are kept."""


def training_budget(
    setting: int | str, computing: Computing, reward_model: RewardModel, batcher: Batcher, longest: int
) -> int:
    """Tokens of one forward and backward pass.

    `auto` is measured on CUDA: the memory that two passes take tells what a token takes. On a CPU it is what keeps a
    layer's activations in a cache of a few megabytes. A run that is resumed goes on with the number that it began with,
    because sums of other batches are rounded differently.

    Args:
        longest: tokens of the longest sequence.
    """
    if isinstance(setting, int):
        return setting
    if isinstance(batcher, FeatureBatcher):
        return _SEQUENCES
    if computing.device.type == "cuda":
        # What a language-model head takes is not measured.
        share = 1 if reward_model.language_head is None else 2
        return max(_MULTIPLE, _measured(computing, reward_model, batcher, longest) // share)
    if computing.device.type == "cpu":
        width = reward_model.model.config.get_text_config().hidden_size
        return int(np.clip(_CPU_NUMBERS // width // _MULTIPLE * _MULTIPLE, 1024, 4096))
    return 8192


_CPU_NUMBERS = 2**20
"""Tokens times width. It matters little: at width 384, 512 to 8192 tokens took the same time to a fifth.
`benchmarks/train.py --budgets` tells of other machines."""


def evaluation_budget(setting: int | str, of_training: int, device_type: str) -> int:
    """Tokens of one forward pass without gradients."""
    return setting if isinstance(setting, int) else of_training * _EVALUATION.get(device_type, 1)


def _measured(computing: Computing, reward_model: RewardModel, batcher: Batcher, longest: int) -> int:
    """From the memory of two passes: what a token takes, and how many fit beside the optimizer's state."""
    peaks = [_peak(computing, reward_model, batcher, tokens, longest) for tokens in _PROBES]
    per_token = max(1.0, (peaks[1] - peaks[0]) / (_PROBES[1] - _PROBES[0]))
    fixed = max(0.0, peaks[0] - per_token * _PROBES[0])
    device = computing.device
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    trained = [one for one in reward_model.parameters() if one.requires_grad]
    # Of a sharded model this process's own, unless they are kept on the host.
    moments = sum(2 * local(one).numel() * one.element_size() for one in trained if one.device.type == "cuda")
    fitting = (_USED_SHARE * (free - moments) - fixed) / per_token
    budget = torch.tensor(int(np.clip(fitting // _MULTIPLE * _MULTIPLE, _MULTIPLE, _MOST)), device=device)
    if computing.num_processes > 1:
        torch.distributed.all_reduce(budget, op=torch.distributed.ReduceOp.MIN)
    return int(budget.item())


def _peak(computing: Computing, reward_model: RewardModel, batcher: Batcher, tokens: int, longest: int) -> int:
    """Bytes that a pass over so many tokens adds at its height, gradients included."""
    torch.cuda.reset_peak_memory_stats(computing.device)
    before = torch.cuda.memory_allocated(computing.device)
    batch = _example(batcher, tokens, longest).to(computing.device)
    state = torch.cuda.get_rng_state(computing.device)
    with computing.autocast():
        rewards = reward_model(batch)
    (rewards.float().sum() * 0).backward()
    reward_model.release()
    peak = torch.cuda.max_memory_allocated(computing.device) - before
    reward_model.zero_grad(set_to_none=True)
    torch.cuda.set_rng_state(state, computing.device)
    return int(peak)


def _example(batcher: Batcher, tokens: int, longest: int) -> Batch:
    length = min(512, longest)
    sequences = [np.full(length, batcher.pad_id) for _ in range(max(1, tokens // length))]
    if batcher.is_padded:
        return padded_batch(sequences, batcher.pad_id)
    return batcher.flat([Group(0, (one,)) for one in range(len(sequences))], sequences.__getitem__)
