"""A model that is sharded layer by layer (FSDP2) takes flat batches, its pruned last layer included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForSequenceClassification
from rm_experiments.config.schema import Layout
from rm_experiments.data.groups import Group
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.reward_model import RewardModel

torch.set_num_threads(1)
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
rng = np.random.default_rng(1)
sequences = [rng.integers(3, 97, length) for length in (30, 12, 25)]
sequences[1][:5] = sequences[0][:5]
found = []
for sharded in (False, True):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=97, num_labels=1, pad_token_id=0,
    )
    model = RewardModel(LlamaForSequenceClassification(config))
    batcher, note = choose_layout(model, Layout.auto, 0, attention_is_set=False)
    assert "shared_prefix" in note and "scored tokens only" in note
    if sharded:
        for layer in model.model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    rewards = model(batcher.flat([Group(5, (0, 1)), Group(0, (2,))], sequences.__getitem__))
    rewards.sum().backward()
    gradients = [one.grad.full_tensor() if sharded else one.grad for one in model.parameters()]
    found.append([rewards.detach(), *gradients])
torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
assert max(float(one.abs().max()) for one in found[0][1:]) > 1e-3
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_sharded_model_gives_the_same_rewards_and_gradients(tmp_path: Path) -> None:
    script = tmp_path / "sharded.py"
    script.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    package = str(Path(__file__).parents[2])
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": package}, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
