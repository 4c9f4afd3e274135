"""`RUN/final` as the reward of TRL's trainers: they run, and get the rewards that the run's own code gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from numpy.typing import NDArray

from rm_experiments.modeling.directory import plain_model, plain_rewards
from tests.handover.handed import rows_of_messages, run_rewards, turn

trl = pytest.importorskip("trl")


@dataclass
class Scored:
    """What one trainer asked its reward model."""

    prompts: list[Any]
    completions: list[Any]
    rewards: NDArray[np.float64]


def trained(kind: str, reward: Any, policy: Path, out: Path, prompts: list[Any], **more: Any) -> Scored:
    """Two steps of TRL's trainer, which change the policy; every row that was scored, and the reward that it got."""
    heard: dict[str, list[Any]] = {"prompts": [], "completions": [], "rewards": []}

    def listen(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        heard["prompts"] += prompts
        heard["completions"] += completions
        return [0.0] * len(prompts)

    settings: dict[str, Any] = {
        "max_steps": 2, "per_device_train_batch_size": 8, "num_generations": 2, "max_completion_length": 12,
        "use_cpu": True, "bf16": False, "report_to": "none", "logging_steps": 1, "save_strategy": "no",
        "disable_tqdm": True, "learning_rate": 1e-2, "seed": 0,
    }  # fmt: skip
    trainer = getattr(trl, f"{kind}Trainer")(
        model=str(policy), reward_funcs=[reward, listen],
        args=getattr(trl, f"{kind}Config")(output_dir=str(out), **settings),
        train_dataset=Dataset.from_list([{"prompt": one} for one in prompts]), **more,
    )  # fmt: skip
    scorer = trainer.reward_funcs[0]
    scorer.register_forward_hook(lambda *call: heard["rewards"].append(call[-1].logits[:, 0].double().numpy()))
    before = [one.detach().clone() for one in trainer.model.parameters()]
    trainer.train()
    assert trainer.state.global_step == 2
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))
    # What it learned from, a step at a time.
    logged = [line["reward"] for line in trainer.state.log_history if "reward" in line]
    assert [one.mean() for one in heard["rewards"]] == pytest.approx(logged, abs=1e-6)
    rewards = np.concatenate(heard["rewards"])
    assert len(rewards) == len(heard["prompts"]) == 16
    return Scored(heard["prompts"], heard["completions"], rewards)


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_the_trainer_gets_the_rewards_of_the_run_for_conversations(
    kind: str, run_dir: Path, policy: Path, tmp_path: Path
) -> None:
    prompts = [row["prompt"] for row in rows_of_messages()]
    scored = trained(kind, str(run_dir / "final"), policy, tmp_path / "out", prompts)
    expected = run_rewards(run_dir, scored.prompts, scored.completions, tmp_path / "expected")
    assert expected.std() > 1e-2
    assert np.abs(scored.rewards - expected).max() < 1e-5


def test_plain_text_is_joined_without_a_template_and_without_an_end(
    run_dir: Path, policy: Path, tmp_path: Path
) -> None:
    """Why equal rewards are promised for conversations only."""
    prompts = ["What is 1 and 2? ", "Name a fruit. ", "Say something. ", "Go on. "]
    scored = trained("GRPO", str(run_dir / "final"), policy, tmp_path / "out", prompts)
    model, tokenizer = plain_model(run_dir / "final", False)
    texts = [one + two for one, two in zip(scored.prompts, scored.completions, strict=True)]
    joined = [tokenizer(one, add_special_tokens=False).input_ids for one in texts]
    assert np.abs(scored.rewards - plain_rewards(model, tokenizer, joined)).max() < 1e-5
    asked, answers = (
        [[turn("user", one)] for one in scored.prompts],
        [[turn("assistant", one)] for one in scored.completions],
    )
    assert np.abs(scored.rewards - run_rewards(run_dir, asked, answers, tmp_path / "expected")).min() > 1e-4
