"""A model from `rm-train`, handed to TRL's trainers, and whether they got the rewards that `rm-eval` gives.

python -m tests.handover                                   # rm-train, then 30 steps of GRPO and of RLOO
python -m tests.handover --run RUN --policy DIR --steps 100    # a finished run, a policy of your own
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np

from rm_experiments.config.data_schema import SandboxConfig
from rm_experiments.data.sandbox.tasks import gold_reward
from rm_experiments.data.sandbox.world import iter_train
from tests.handover.handed import run_rewards, turn, write_policy
from tests.handover.training import trained

SETTINGS = {"per_device_train_batch_size": 16, "num_generations": 4, "max_completion_length": 24, "learning_rate": 2e-3}


def main() -> None:
    """Run everything that was asked for in a directory of its own, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.handover", description=__doc__)
    parser.add_argument("--run", type=Path, help="a finished run; without it, rm-train makes one")
    parser.add_argument(
        "--policy", type=Path, help="a causal language model with a chat template; without it, a tiny one"
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, help="where it writes; a temporary directory without it")
    asked = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with tempfile.TemporaryDirectory() as temporary:
        out = asked.out or Path(temporary)
        run = asked.run or _train(out / "run")
        policy = asked.policy or write_policy(out / "policy")
        for kind in ("GRPO", "RLOO"):
            _hand_over(kind, run, policy, asked.steps, out / kind.lower())


def _train(run_dir: Path) -> Path:
    command = [sys.executable, "-m", "rm_experiments", f"run_dir={run_dir}", "tracking=none"]
    subprocess.run(command, check=True)
    return run_dir


def _hand_over(kind: str, run: Path, policy: Path, steps: int, out: Path) -> None:
    """Train the policy, then compare the rewards that it was given, row by row."""
    prompts = [turn("user", str(one.prompt)) for one in islice(iter_train(SandboxConfig()), 64)]
    out.mkdir(parents=True)
    # Trainers print a line at each step.
    with open(out / "train.log", "w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        scored = trained(kind, str(run / "final"), policy, out, [[one] for one in prompts], **SETTINGS, max_steps=steps)
    expected = run_rewards(run, scored.prompts, scored.completions, out / "expected")
    gold = np.array([
        gold_reward(one[-1]["content"], two[-1]["content"])
        for one, two in zip(scored.prompts, scored.completions, strict=True)
    ])  # fmt: skip
    few = SETTINGS["per_device_train_batch_size"] * max(1, steps // 5)
    rewards = scored.rewards
    print(  # noqa: T201
        f"{kind}: {steps} steps, {len(rewards)} completions; largest difference from rm-eval "
        f"{np.abs(rewards - expected).max():.2g}; reward at first {rewards[:few].mean():.3f}, at last "
        f"{rewards[-few:].mean():.3f} (standard deviation {rewards.std():.3f}); gold reward {gold[:few].mean():.3f} "
        f"and {gold[-few:].mean():.3f}"
    )


if __name__ == "__main__":
    main()
