"""`RUN/final` as the reward of TRL's trainers: they run, and get the rewards that the run's own code gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rm_experiments.modeling.directory import plain_model, plain_rewards
from tests.handover.handed import rows_of_messages, run_rewards, turn
from tests.handover.training import trained

pytest.importorskip("trl")


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
