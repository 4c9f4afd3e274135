"""Draws schedules.png: the learning rate of each schedule over a run, by the function that the trainer uses.

python docs/pictures/schedules.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from rm_experiments.config.optimizer_schema import SchedulerConfig
from rm_experiments.training.schedules import SCHEDULES, lr_factor

STEPS = 200


def main() -> None:
    """Write the picture beside this file."""
    figure, axes = plt.subplots(1, len(SCHEDULES), figsize=(10, 2.2), sharey=True, layout="constrained")
    for panel, name in zip(axes, SCHEDULES, strict=True):
        ends = (0.0,) if name == "constant" else (0.0, 0.3)
        for end in ends:
            decay = 0.2 if name == "warmup_stable_decay" else None
            config = SchedulerConfig(name=name, warmup_ratio=0.1, min_lr_ratio=end, decay_ratio=decay)
            factors = [lr_factor(config, step, STEPS) for step in range(STEPS)]
            panel.plot(range(STEPS), factors, color="#2a6fbb" if end == 0 else "#c2643a", linewidth=1.8,
                       label=f"min_lr_ratio={end:g}" if len(ends) > 1 else None)  # fmt: skip
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("step", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_ylim(0, 1.08)
    axes[0].set_ylabel("share of optimizer.lr", fontsize=8)
    axes[1].legend(fontsize=7, frameon=False)
    figure.savefig(Path(__file__).with_name("schedules.png"), dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
