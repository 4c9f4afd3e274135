"""Weights & Biases, used directly. Nothing that goes wrong with it ends a run."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from rm_experiments.config.schema import LogModel, TrackingConfig
from rm_experiments.errors import ConfigError
from rm_experiments.evaluation.records import Records
from rm_experiments.reporting.panel_names import STEP_KEY, panel_name, picture_name
from rm_experiments.reporting.run_names import run_tags
from rm_experiments.reporting.wandb_account import logged_in, said, unreachable_host
from rm_experiments.reporting.wandb_records import newest_steps

_CONNECT_SECONDS = 10
"""For a run to be opened there."""
_FINISH_SECONDS = 60
"""What is not uploaded so long after the end stays on the disk, for `wandb sync`."""
_SLOWEST_UPLOAD = 1e6
"""Bytes per second; a model that takes longer to upload is given up."""
_MODES = {"dryrun": "offline", "run": "online"}
"""Old names that W&B still takes."""

_staged: list[str] = []
"""What this process set WANDB_DATA_DIR to, one run after the other; a user's own value is left alone."""


@dataclass(kw_only=True)
class Labels:
    """What a run is called at W&B, unless its environment variables say otherwise."""

    name: str
    group: str | None = None
    overrides: list[str] = field(default_factory=list)


def check_wandb(config: TrackingConfig, in_sweep: bool) -> None:
    """Refuse what cannot be opened.

    Raises:
        ConfigError: in one line.
    """
    wanted = _wanted(config)
    if wanted == "disabled":
        return
    given = os.environ.get("WANDB_RUN_ID")
    if in_sweep and given:
        raise ConfigError(f"WANDB_RUN_ID={given}: all jobs of the sweep would be one run at W&B; unset it")
    mode, _ = _decide_mode(wanted) if wanted == "online" else (wanted, [])
    if config.log_model is LogModel.checkpoints and (mode == "offline" or not logged_in()):
        raise ConfigError(
            "tracking.log_model=checkpoints: this run is offline, and its checkpoints go before they can be uploaded; "
            "try tracking.log_model=final, or type wandb login"
        )


def start_wandb(
    config: TrackingConfig, labels: Labels, settings: dict[str, Any], set_names: tuple[str, ...],
    run_id: str | None, directory: Path,
) -> tuple[WandbTracker | None, list[str]]:  # fmt: skip
    """Open a run, offline where W&B cannot be reached within seconds. None: W&B is disabled.

    Raises:
        ConfigError: when online was asked for and is not possible.
    """
    wanted = _wanted(config)
    if wanted == "disabled":
        return None, []
    import wandb

    directory = Path(os.environ.get("WANDB_DIR") or directory)
    # Tables and media are staged in the home directory otherwise, and are lost when the run directory moves.
    if os.environ.get("WANDB_DATA_DIR") in (None, *_staged):
        _staged.append(str(directory / "wandb"))
        os.environ["WANDB_DATA_DIR"] = _staged[-1]
    directory.mkdir(parents=True, exist_ok=True)
    mode, lines = _decide_mode(wanted)
    arguments = _arguments(config, labels, settings, run_id, directory)
    try:
        run = wandb.init(mode=mode, **arguments)
    except Exception as error:  # whatever its client or its server says
        if wanted != "auto" or mode == "offline":
            raise ConfigError(
                f"tracking.mode={wanted}: W&B cannot be reached or refuses this run ({said(error)}); "
                f"try {'tracking=none' if mode == 'offline' else 'tracking.mode=auto or offline'}"
            ) from error
        lines.append(f"W&B cannot be reached or refuses this run ({said(error)}); it is logged offline.")
        # Its service holds the id of the run that it could not open.
        wandb.teardown()
        for one in (directory / "wandb").glob(f"run-*-{arguments['id']}"):
            shutil.rmtree(one, ignore_errors=True)
        run = wandb.init(mode="offline", **arguments)
    run.define_metric(STEP_KEY, hidden=True)
    run.define_metric("*", step_metric=STEP_KEY)
    told = None if run_id is None else _told(run, directory / "wandb")
    return WandbTracker(run, set_names, config.log_model, told), lines


def _told(run: Any, directory: Path) -> dict[str, int] | None:
    """The newest step of each kind that W&B has of a run that goes on; None: it cannot be known.

    A process that is killed takes with it what W&B's client had not yet written or sent, up to some 15 seconds.
    """
    offline = run.settings.mode == "offline"
    # What an attempt that was online has on the disk only, W&B's server does not have.
    file = f"run-{glob.escape(run.id)}.wandb"
    patterns = [f"offline-run-*/{file}", *([f"run-*/{file}"] if offline else [])]
    new = Path(run.dir).parent
    files = [one for pattern in patterns for one in directory.glob(pattern) if one.parent != new]
    try:
        found = newest_steps(files)
        if not offline:
            # The row of the evaluation follows that of training: it may not have arrived.
            arrived = int(run.summary.get(STEP_KEY, -1))
            found = {"train": max(found["train"], arrived), "eval": max(found["eval"], arrived - 1)}
    except Exception:  # files of another version, a summary of somebody else's
        return None
    return found if files or not offline else None


def varied_by_agent(overrides: Sequence[str]) -> list[str]:
    """Those overrides that `wandb agent` chose for this run."""
    try:
        text = Path(os.environ["WANDB_SWEEP_PARAM_PATH"]).read_text(encoding="utf-8")
        chosen = set(yaml.safe_load(text))
    except (KeyError, OSError, TypeError, ValueError, yaml.YAMLError):
        return []
    return [one for one in overrides if one.partition("=")[0] in chosen]


def _arguments(
    config: TrackingConfig, labels: Labels, settings: dict[str, Any], run_id: str | None, directory: Path
) -> dict[str, Any]:
    """Of `wandb.init`. Arguments win over W&B's environment variables there, so they are looked up here."""
    import wandb

    environment = os.environ
    tags = environment.get("WANDB_TAGS")
    name = environment.get("WANDB_NAME") or labels.name
    limits: dict[str, Any] = {
        "init_timeout": _CONNECT_SECONDS,
        "finish_timeout": _FINISH_SECONDS,
        "silent": True,
        "console": "off",
    }
    known = getattr(wandb.Settings, "model_fields", limits)
    ours = {key: value for key, value in limits.items() if key in known and f"WANDB_{key.upper()}" not in environment}
    return {
        "name": name,
        "project": environment.get("WANDB_PROJECT") or config.project,
        "entity": environment.get("WANDB_ENTITY") or config.entity,
        "group": environment.get("WANDB_RUN_GROUP") or config.group or labels.group,
        "job_type": environment.get("WANDB_JOB_TYPE") or config.job_type,
        "tags": run_tags(tags.split(",") if tags else config.tags, labels.overrides),
        "notes": environment.get("WANDB_NOTES") or config.notes,
        "config": settings,
        "dir": directory,
        "id": environment.get("WANDB_RUN_ID") or run_id or _readable_id(name),
        "resume": environment.get("WANDB_RESUME") or ("allow" if run_id else None),
        # A run that goes on may run on other code, or with what `allow_changes` names.
        "allow_val_change": True,
        "reinit": "finish_previous",
        "settings": wandb.Settings(**ours),
    }


def _wanted(config: TrackingConfig) -> str:
    """The mode that is asked for; W&B's own variable wins over the key."""
    given = os.environ.get("WANDB_MODE")
    if not given:
        return config.mode.value
    mode = _MODES.get(given, given)
    if mode not in ("online", "offline", "disabled", "shared"):
        raise ConfigError(f"WANDB_MODE={given}: allowed are online, offline and disabled; or unset it")
    return mode


def _decide_mode(wanted: str) -> tuple[Any, list[str]]:
    """`auto` is online when logged in and W&B can be reached, else offline; never a prompt."""
    if wanted not in ("auto", "online"):
        return wanted, []
    if not logged_in():
        if wanted == "online":
            raise ConfigError(
                "tracking.mode=online: nobody is logged in to W&B; type wandb login, or tracking.mode=auto"
            )
        return "offline", ["W&B: nobody is logged in, so this run is logged offline."]
    host = unreachable_host()
    if host is None:
        return "online", []
    if wanted == "online":
        raise ConfigError(f"tracking.mode=online: W&B cannot be reached ({host}); try tracking.mode=auto or offline")
    return "offline", [f"W&B cannot be reached within seconds ({host}); this run is logged offline."]


def _readable_id(name: str) -> str:
    """W&B lists offline runs by their id, so it carries the run's name."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:48]}-{secrets.token_hex(4)}"


class WandbTracker:
    """One W&B run. All metrics are logged against `global_step`, never W&B's own step, which drops what comes late."""

    def __init__(
        self, run: Any, set_names: tuple[str, ...], log_model: LogModel = LogModel.none,
        told: dict[str, int] | None = None,
    ) -> None:  # fmt: skip
        self._run = run
        self._set_names = set_names
        self._models = log_model
        self.run_id: str | None = run.id
        self.newest_steps = told
        """Of a run that goes on, the newest step of `train` and of `eval` that W&B has; None: not known."""
        self._offline = bool(run.settings.mode == "offline")
        self._lines: list[str] = []
        """For the end of the run."""
        # Asked offline, W&B prints a warning.
        self.url: str | None = None if self._offline else run.url

    @contextlib.contextmanager
    def _unharmed(self, what: str) -> Iterator[None]:
        """Go on without W&B where it fails: metrics.jsonl has everything."""
        try:
            yield
        except Exception as error:
            line = f"W&B: {what} failed ({said(error)})"
            if line not in self._lines and len(self._lines) < 5:
                self._lines.append(line)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        named = {panel_name(key, self._set_names): value for key, value in metrics.items()}
        with self._unharmed("logging"):
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
        with self._unharmed("logging"):
            self._run.log(content)

    def log_pictures(self, step: int, pictures: list[Path]) -> None:
        import wandb

        if pictures:
            with self._unharmed("logging of pictures"):
                self._run.log({STEP_KEY: step, **{picture_name(one): wandb.Image(str(one)) for one in pictures}})

    def log_model(self, path: Path, step: int, *, final: bool, best: bool = False) -> None:
        import wandb

        if self._models is LogModel.none or (not final and self._models is LogModel.final):
            return
        if not final and self._offline:
            return
        with self._unharmed("uploading a model"):
            if final and not self._offline and (host := unreachable_host()):
                raise ConnectionError(f"{host} cannot be reached; it is in {_relative(path)}")
            aliases = [f"step_{step}", *(["final"] if final else []), *(["best"] if best else [])]
            artifact = wandb.Artifact(
                re.sub(r"[^A-Za-z0-9_.-]", "-", f"model-{self.run_id}")[:128], type="model", metadata={"step": step}
            )
            size = 0
            # final/ stays as it is and need not be copied; a checkpoint may be gone before it is uploaded.
            policy: Literal["mutable", "immutable"] = "immutable" if final else "mutable"
            for file in _model_files(path):
                size += file.stat().st_size
                artifact.add_file(str(file), name=file.relative_to(path).as_posix(), policy=policy)
            logged = self._run.log_artifact(artifact, aliases=aliases)
            if final and not self._offline:
                # Now: what is uploaded when the run is closed has a minute.
                logged.wait(timeout=int(_FINISH_SECONDS + size / _SLOWEST_UPLOAD))

    def summarise(self, values: dict[str, Any]) -> None:
        with self._unharmed("the summary"):
            self._run.summary.update(values)

    def finish(self, exit_code: int) -> list[str]:
        directory = Path(self._run.dir).parent
        lost = None if self._offline else unreachable_host()
        with self._unharmed("closing the run"):
            self._run.finish(exit_code=exit_code)
        if lost:
            missing = f"wandb sync {_relative(directory)}"
            self._lines.append(f"W&B cannot be reached any more ({lost}); upload what it misses with  {missing}")
        if self._offline:
            return [*self._lines, f"W&B: offline; upload with  wandb sync {_relative(directory)}"]
        return [*self._lines, *([f"W&B: {self.url}"] if self.url else [])]


def _model_files(path: Path) -> list[Path]:
    """Of a model directory, without what only resuming needs."""
    return sorted(one for one in path.rglob("*") if one.is_file() and one.relative_to(path).parts[0] != "state")


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
