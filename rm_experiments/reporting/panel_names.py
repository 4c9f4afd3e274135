"""What metrics and pictures are called in dashboards."""

from __future__ import annotations

from pathlib import Path

STEP_KEY = "global_step"
"""The one axis of all metrics."""


def panel_name(key: str, set_names: tuple[str, ...] = ()) -> str:
    """A metric's name in dashboards: `eval_loss` -> `eval/loss`, `eval_<set>_accuracy` -> `eval/<set>/accuracy`."""
    prefix, _, rest = key.partition("_")
    for name in sorted(set_names, key=len, reverse=True):
        if prefix == "eval" and rest.startswith(f"{name}_"):
            return f"eval/{name}/{rest[len(name) + 1 :]}"
    return f"{prefix}/{rest}" if rest and prefix in ("train", "eval") else key


def picture_name(path: Path) -> str:
    """A picture's."""
    return f"plots/{path.stem}"
