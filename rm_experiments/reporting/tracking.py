"""Weights & Biases and TensorBoard, used directly. metrics.jsonl holds the same numbers without them."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from rm_experiments.config.schema import TrackingBackend, TrackingConfig, TrackingMode
from rm_experiments.errors import ConfigError
from rm_experiments.evaluation.records import Records

STEP_KEY = "global_step"
_CONNECT_SECONDS = 10
"""With a key but no network W&B would try for 90 seconds; the run falls back to offline after this."""


_staged: list[str] = []
"""What this process set WANDB_DATA_DIR to, one run after the other; a user's own value is left alone."""


class Tracker(Protocol):
    """Where metrics go while a run is going on. Methods are called on one process."""

    run_id: str | None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics by their name in metrics.jsonl."""

    def log_records(self, step: int, records: Records, worst: list[dict[str, Any]]) -> None:
        """Distributions of the main evaluation set and its most wrong pairs."""

    def log_pictures(self, step: int, pictures: list[Path]) -> None:
        """PNG files, each as `plots/<its name>`; once, at the end of a run."""

    def summarise(self, values: dict[str, Any]) -> None:
        """Values of the whole run, best metrics among them."""

    def finish(self, exit_code: int) -> list[str]:
        """Close; returns lines for the user."""


class NoTracker:
    """metrics.jsonl alone."""

    run_id: str | None = None

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def log_records(self, step: int, records: Records, worst: list[dict[str, Any]]) -> None: ...

    def log_pictures(self, step: int, pictures: list[Path]) -> None: ...

    def summarise(self, values: dict[str, Any]) -> None: ...

    def finish(self, exit_code: int) -> list[str]:
        return []


def panel_name(key: str, set_names: tuple[str, ...] = ()) -> str:
    """A metric's name in dashboards: `eval_loss` -> `eval/loss`, `eval_<set>_accuracy` -> `eval/<set>/accuracy`."""
    prefix, _, rest = key.partition("_")
    for name in sorted(set_names, key=len, reverse=True):
        if prefix == "eval" and rest.startswith(f"{name}_"):
            return f"eval/{name}/{rest[len(name) + 1 :]}"
    return f"{prefix}/{rest}" if rest and prefix in ("train", "eval") else key


def check_tracker(config: TrackingConfig) -> None:
    """Refuse what cannot be opened, before anything is written.

    Raises:
        ConfigError: when the backend is not installed, or online was asked for and nobody is logged in.
    """
    if config.backend is TrackingBackend.tensorboard:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "tracking=tensorboard needs it; type pip install 'rm_experiments[tensorboard]'"
            ) from error
    elif config.backend is TrackingBackend.wandb and config.mode is not TrackingMode.disabled:
        _decide_mode(os.environ.get("WANDB_MODE") or config.mode.value)


def start_tracker(
    config: TrackingConfig, *, name: str, run_dir: Path, group: str | None, settings: dict[str, Any],
    set_names: tuple[str, ...], run_id: str | None, wandb_dir: Path,
) -> tuple[Tracker, list[str]]:  # fmt: skip
    """Open the configured tracker.

    Args:
        settings: the resolved config and what describes the run, nested.
        run_id: of the interrupted run that goes on, or None.
        wandb_dir: where W&B makes its `wandb/` directory.

    Returns:
        The tracker and lines for the user.

    Raises:
        ConfigError: when the backend is not installed, or online was asked for and is not possible.
    """
    if config.backend is TrackingBackend.tensorboard:
        return TensorBoardTracker(run_dir, set_names), [f"TensorBoard: tensorboard --logdir {run_dir}"]
    if config.backend is TrackingBackend.none or config.mode is TrackingMode.disabled:
        return NoTracker(), []
    return _start_wandb(config, name, group, settings, set_names, run_id, wandb_dir)


def _start_wandb(
    config: TrackingConfig, name: str, group: str | None, settings: dict[str, Any],
    set_names: tuple[str, ...], run_id: str | None, wandb_dir: Path,
) -> tuple[Tracker, list[str]]:  # fmt: skip
    import wandb

    # Tables and media are staged in the home directory otherwise, and are lost when the run directory moves.
    if os.environ.get("WANDB_DATA_DIR") in (None, *_staged):
        _staged.append(str(wandb_dir / "wandb"))
        os.environ["WANDB_DATA_DIR"] = _staged[-1]
    wandb_dir.mkdir(parents=True, exist_ok=True)
    # W&B's own environment variables win over our keys.
    wanted = os.environ.get("WANDB_MODE") or config.mode.value
    mode, lines = _decide_mode(wanted)
    arguments: dict[str, Any] = {
        "name": os.environ.get("WANDB_NAME") or name,
        "project": os.environ.get("WANDB_PROJECT") or config.project,
        "entity": os.environ.get("WANDB_ENTITY") or config.entity,
        "group": os.environ.get("WANDB_RUN_GROUP") or config.group or group,
        "job_type": os.environ.get("WANDB_JOB_TYPE") or config.job_type,
        "tags": list(config.tags),
        "notes": os.environ.get("WANDB_NOTES") or config.notes,
        "config": settings,
        "dir": wandb_dir,
        "id": run_id or _readable_id(name),
        "resume": "allow" if run_id else None,
        "reinit": "finish_previous",
        "settings": wandb.Settings(init_timeout=_CONNECT_SECONDS, silent=True, console="off"),
    }
    try:
        run = wandb.init(mode=mode, **arguments)
    except wandb.errors.Error as error:
        if wanted == "online":
            raise ConfigError(
                f"tracking.mode=online: W&B cannot be reached ({' '.join(str(error).split())[:120]}); "
                "try tracking.mode=auto or offline"
            ) from error
        lines.append("W&B cannot be reached within seconds; this run is logged offline.")
        run = wandb.init(mode="offline", **arguments)
    run.define_metric(STEP_KEY, hidden=True)
    run.define_metric("*", step_metric=STEP_KEY)
    return WandbTracker(run, set_names), lines


def _decide_mode(wanted: str) -> tuple[Any, list[str]]:
    """`auto` is online when logged in, else offline; never a prompt."""
    if wanted != "auto":
        if wanted == "online" and not _logged_in():
            raise ConfigError(
                "tracking.mode=online: nobody is logged in to W&B; type wandb login, or tracking.mode=auto"
            )
        return wanted, []
    if _logged_in():
        return "online", []
    return "offline", ["W&B: nobody is logged in, so this run is logged offline."]


def _logged_in() -> bool:
    """Whether a key is configured. Asks no server and no user: both could hang."""
    import wandb

    try:
        return bool(wandb.login(prompt=False, verify=False, timeout=1))
    except Exception:  # a malformed key, an unreadable netrc: not logged in
        return False


def _readable_id(name: str) -> str:
    """W&B lists offline runs by their id, so it carries the run's name."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', name)[:48]}-{secrets.token_hex(4)}"


class WandbTracker:
    """One W&B run. All metrics are logged against `global_step`, never W&B's own step, which drops what comes late."""

    def __init__(self, run: Any, set_names: tuple[str, ...]) -> None:
        self._run = run
        self._set_names = set_names
        self.run_id: str | None = run.id
        self._offline = bool(run.settings.mode == "offline")
        # Asked offline, W&B prints a warning.
        self.url: str | None = None if self._offline else run.url

    def log(self, step: int, metrics: dict[str, float]) -> None:
        named = {panel_name(key, self._set_names): value for key, value in metrics.items()}
        self._run.log({STEP_KEY: step, **named})

    def log_records(self, step: int, records: Records, worst: list[dict[str, Any]]) -> None:
        import wandb

        content: dict[str, Any] = {STEP_KEY: step}
        for side in ("chosen", "rejected"):
            values = records[f"reward_{side}"]
            content[f"eval/rewards_{side}"] = wandb.Histogram(values[np.isfinite(values)].tolist())
        if worst:
            columns: list[Any] = list(worst[0])
            rows = [[row[column] for column in columns] for row in worst]
            content["eval/most_wrong_pairs"] = wandb.Table(columns=columns, data=rows)
        self._run.log(content)

    def log_pictures(self, step: int, pictures: list[Path]) -> None:
        import wandb

        if pictures:
            self._run.log({STEP_KEY: step, **{_picture_name(one): wandb.Image(str(one)) for one in pictures}})

    def summarise(self, values: dict[str, Any]) -> None:
        self._run.summary.update(values)

    def finish(self, exit_code: int) -> list[str]:
        directory = Path(self._run.dir).parent
        self._run.finish(exit_code=exit_code)
        if self._offline:
            return [f"W&B: offline; upload with  wandb sync {_relative(directory)}"]
        return [f"W&B: {self.url}"] if self.url else []


class TensorBoardTracker:
    """Event files in the run directory."""

    run_id: str | None = None

    def __init__(self, run_dir: Path, set_names: tuple[str, ...]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"))
        self._set_names = set_names

    def log(self, step: int, metrics: dict[str, float]) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(panel_name(key, self._set_names), value, step)

    def log_records(self, step: int, records: Records, worst: list[dict[str, Any]]) -> None:
        for side in ("chosen", "rejected"):
            self._writer.add_histogram(f"eval/rewards_{side}", records[f"reward_{side}"], step)
        if worst:
            text = "\n".join(f"    {row}" for row in worst[:10])
            self._writer.add_text("eval/most_wrong_pairs", text, step)

    def log_pictures(self, step: int, pictures: list[Path]) -> None:
        for one in pictures:
            with Image.open(one) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._writer.add_image(_picture_name(one), pixels, step, dataformats="HWC")

    def summarise(self, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"summary/{key}", value, 0)

    def finish(self, exit_code: int) -> list[str]:
        self._writer.close()
        return []


def _picture_name(path: Path) -> str:
    return f"plots/{path.stem}"


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
