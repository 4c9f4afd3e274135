"""TRL's trainers with a saved model as their reward, and what they asked it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import AutoTokenizer

from tests.handover.handed import readable


@dataclass
class Scored:
    """What one trainer asked its reward model."""

    prompts: list[Any]
    completions: list[Any]
    rewards: NDArray[np.float64]


def trained(
    kind: str, reward: Any, policy: Path, out: Path, prompts: list[Any], tokenizer: Any | None = None, **more: Any
) -> Scored:
    """Steps of TRL's `GRPOTrainer` or `RLOOTrainer`, which change the policy; every row that was scored.

    Args:
        reward: what `reward_funcs` is told.
        tokenizer: of the reward model; None: what TRL finds.
        more: settings of the trainer.
    """
    import trl

    heard: dict[str, list[Any]] = {"prompts": [], "completions": [], "rewards": []}

    def listen(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        heard["prompts"] += prompts
        heard["completions"] += completions
        return [0.0] * len(prompts)

    settings: dict[str, Any] = {
        "max_steps": 2, "per_device_train_batch_size": 8, "num_generations": 2, "max_completion_length": 12,
        "use_cpu": True, "bf16": False, "report_to": "none", "logging_steps": 1, "save_strategy": "no",
        "disable_tqdm": True, "learning_rate": 1e-2, "seed": 0,
        "generation_kwargs": readable(AutoTokenizer.from_pretrained(policy)),
    }  # fmt: skip
    arguments = getattr(trl, f"{kind}Config")(output_dir=str(out), **{**settings, **more})
    trainer = getattr(trl, f"{kind}Trainer")(
        model=str(policy), reward_funcs=[reward, listen],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": one} for one in prompts]),
        reward_processing_classes=[tokenizer, None],
    )  # fmt: skip
    scorer = trainer.reward_funcs[0]
    scorer.register_forward_hook(lambda *call: heard["rewards"].append(call[-1].logits[:, 0].double().numpy()))
    before = [one.detach().clone() for one in trainer.model.parameters()]
    trainer.train()
    assert trainer.state.global_step == arguments.max_steps
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))
    # What it learned from, a step at a time.
    logged = [line["reward"] for line in trainer.state.log_history if "reward" in line]
    assert [one.mean() for one in heard["rewards"]] == pytest.approx(logged, abs=1e-6)
    rewards = np.concatenate(heard["rewards"])
    assert len(rewards) == len(heard["prompts"]) == arguments.max_steps * arguments.per_device_train_batch_size
    return Scored(heard["prompts"], heard["completions"], rewards)
