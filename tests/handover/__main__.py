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
import pandas as pd
from datasets import Dataset

from rm_experiments.config.data_schema import SandboxConfig
from rm_experiments.data.sandbox.tasks import gold_reward
from rm_experiments.data.sandbox.world import iter_train
from tests.handover.handed import run_rewards, turn, write_policy


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
    import trl

    prompts = [{"prompt": [turn("user", str(one.prompt))]} for one in islice(iter_train(SandboxConfig()), 64)]
    arguments = getattr(trl, f"{kind}Config")(
        output_dir=str(out), max_steps=steps, per_device_train_batch_size=16, num_generations=4, learning_rate=1e-3,
        max_completion_length=24, use_cpu=True, bf16=False, report_to="none", logging_steps=1, log_completions=True,
        save_strategy="no", disable_tqdm=True, seed=0,
    )  # fmt: skip
    trainer = getattr(trl, f"{kind}Trainer")(
        model=str(policy), reward_funcs=str(run / "final"), args=arguments, train_dataset=Dataset.from_list(prompts)
    )
    # It prints a table of completions at each step.
    with open(out.with_suffix(".log"), "w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        trainer.train()
    table = pd.concat([pd.read_parquet(one) for one in sorted((out / "completions").glob("*.parquet"))])
    asked, answers = ([[dict(turn) for turn in one] for one in table[name]] for name in ("prompt", "completion"))
    rewards, expected = table["final"].to_numpy(), run_rewards(run, asked, answers, out / "expected")
    means = table.groupby("step")["final"].mean()
    few = max(1, steps // 5)
    texts = [(one[-1]["content"], two[-1]["content"]) for one, two in zip(asked, answers, strict=True)]
    gold = np.array([gold_reward(*one) for one in texts])
    print(  # noqa: T201
        f"{kind}: {trainer.state.global_step} steps, {len(rewards)} completions; largest difference from rm-eval "
        f"{np.abs(rewards - expected).max():.2g} (rewards {rewards.mean():.3f} +- {rewards.std():.3f}); "
        f"mean reward of the first {few} steps {means[:few].mean():.3f}, of the last {few} {means[-few:].mean():.3f}; "
        f"gold {gold[: 16 * few].mean():.3f} and {gold[-16 * few :].mean():.3f}"
    )


if __name__ == "__main__":
    main()
