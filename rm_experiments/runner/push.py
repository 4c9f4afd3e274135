"""Saved models on the Hub: that of a run at its end, and those that `rm-push` names."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rm_experiments.config.hub_validation import MAIN, check_repo_id, check_revision
from rm_experiments.config.push_schema import PushConfig, check_push
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import CheckpointError, ConfigError, PushError, UserError
from rm_experiments.launch.signals import exit_on_signals
from rm_experiments.reporting.hub_account import account, check_may_write, token
from rm_experiments.reporting.hub_upload import Place, Pushed, dry_lines, upload
from rm_experiments.runner.finished import manifest_step
from rm_experiments.runner.run_dir import CONFIG_FILE, SUMMARY_FILE, read_object, write_json
from rm_experiments.runner.saved_models import Checkpoint, find_checkpoints
from rm_experiments.runner.sweep_file import SWEEP_FILE

_FINAL = "final"


@dataclass(kw_only=True)
class _Plan:
    directory: Path
    place: Place
    message: str
    run: Path | None = None
    """The run whose final model it is."""


def check_run(config: RunConfig) -> list[str]:
    """Refuse a push that cannot be, before a run begins. A Hub that cannot be reached now is tried again at the end.

    Returns:
        Lines for the user.

    Raises:
        ConfigError: there is no token, or it cannot write there.
    """
    if not config.hub.push or config.hub.dry_run:
        return []
    repo_id = config.hub.repo_id or config.name
    try:
        check_may_write(account(), "hub.repo_id", repo_id)
    except ConfigError as error:
        if str(error).startswith("hub.repo_id="):
            raise
        raise ConfigError(f"hub.push=true: {error}, or leave hub.push out and type rm-push RUN later") from error
    except PushError as error:
        return [f"Note: {error}; hub.push=true is tried at the end of the run, and by rm-push RUN at any time."]
    return []


def push_run(config: RunConfig, run_dir: Path, sweep_dir: Path | None, say: Callable[[str], None]) -> None:
    """Push `final/` of a finished run as `config.hub` says, and write into its summary.json what came of it.

    A failure is a line for the user, no error.

    Args:
        sweep_dir: of the sweep that the run is a job of.
        say: takes lines for the user.
    """
    revision = config.hub.revision or (MAIN if sweep_dir is None else _job_branch(sweep_dir, run_dir))
    place = Place(repo_id=config.hub.repo_id or config.name, revision=revision, private=config.hub.private)
    directory = run_dir / _FINAL
    message = _title(config.name, manifest_step(directory))
    if config.hub.dry_run:
        try:
            lines = dry_lines(directory, place, message)
        except UserError as error:
            lines = [f"Hub        would fail: {error}"]
        for line in lines:
            say(line)
        return
    try:
        # A signal ends the push; the run has ended well already.
        with exit_on_signals():
            say(f"Hub        pushing to {place} ...")
            pushed = upload(directory, place, message, "hub.repo_id")
    except (UserError, PushError, KeyboardInterrupt, SystemExit) as error:
        reason = str(error) if isinstance(error, UserError | PushError) else "interrupted"
        _remember(run_dir, {"repo_id": place.repo_id, "revision": revision, "private": place.private, "error": reason})
        say(f"Hub        not pushed: {reason}; the model is whole, type  rm-push {shlex.quote(str(run_dir))}  later")
        return
    _remember(run_dir, pushed.record())
    for line in pushed.lines():
        say(line)


def is_pushed(run_dir: Path) -> bool:
    """Whether the final model of a run is on the Hub, as far as the run knows."""
    return "commit" in _hub_of(run_dir)


def not_pushed(sweep_dir: Path) -> list[str]:
    """A line when final models of a sweep are not on the Hub although they were to be."""
    failed = [one.parent for one in sweep_dir.glob(f"*/{SUMMARY_FILE}") if "error" in _hub_of(one.parent)]
    if not failed:
        return []
    names = ", ".join(sorted((one.name for one in failed), key=lambda name: (len(name), name)))
    return [f"Not on the Hub: job{'s' if len(failed) > 1 else ''} {names}; type rm-push {shlex.quote(str(sweep_dir))}"]


def _remember(run_dir: Path, record: dict[str, Any]) -> None:
    # A disk that is full takes nothing away from what is on the Hub.
    with contextlib.suppress(OSError):
        write_json(run_dir / SUMMARY_FILE, {**read_object(run_dir / SUMMARY_FILE), "hub": record})


def _hub_of(run_dir: Path) -> dict[str, Any]:
    found = read_object(run_dir / SUMMARY_FILE).get("hub")
    return found if isinstance(found, dict) else {}


def push_models(config: PushConfig, say: Callable[[str], None]) -> list[Pushed]:
    """Push the models that `config.directories` name, one after the other.

    Args:
        say: takes lines for the user.

    Returns:
        What is on the Hub now; nothing with `dry_run`.

    Raises:
        ConfigError, CheckpointError: for what the user can mend.
        PushError: when a push failed; what went up before stays there, and repeating goes on.
    """
    check_push(config)
    plans, notes = _plans(config)
    for note in notes:
        say(f"Note       {note}")
    if not config.dry_run:
        token()
    done: list[Pushed] = []
    for plan in plans:
        if len(plans) > 1:
            say(f"{'' if plan is plans[0] else chr(10)}Directory  {plan.directory}")
        if config.dry_run:
            for line in dry_lines(plan.directory, plan.place, plan.message):
                say(line)
            continue
        try:
            done.append(upload(plan.directory, plan.place, plan.message, "repo_id"))
        except PushError as error:
            before = f"{len(done)} of {len(plans)} models are pushed; " if len(plans) > 1 else ""
            raise PushError(f"{plan.directory}: {error}; {before}repeat the command to go on") from error
        if plan.run is not None:
            _remember(plan.run, done[-1].record())
        for line in done[-1].lines():
            say(line)
    return done


def _plans(config: PushConfig) -> tuple[list[_Plan], list[str]]:
    """What goes where. Looks at no weights and asks nobody."""
    try:
        found, notes = find_checkpoints(config.directories)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("checkpoint=", "")) from error
    plans = [_plan(one, config) for one in found]
    taken: dict[tuple[str, str], Path] = {}
    for plan in plans:
        key = (plan.place.repo_id, plan.place.revision)
        if key in taken:
            raise ConfigError(
                f"{taken[key]} and {plan.directory}: both would go to {key[1]} of {key[0]}, one over the other; push "
                "them one by one, each with a revision=BRANCH of its own"
            )
        taken[key] = plan.directory
    return plans, notes


def _plan(model: Checkpoint, config: PushConfig) -> _Plan:
    directory = Path(os.path.expanduser(model.name))
    if not directory.is_dir():
        raise CheckpointError(f"{model.name}: no such directory; name a run, a sweep or a model directory")
    run, is_final = model.run, directory.resolve().name == _FINAL
    saved, hub = _saved(directory) if run is not None else (None, {})
    name = str(saved) if saved is not None else directory.resolve().name
    repo_id = config.repo_id or hub.get("repo_id") or name
    if config.repo_id is None:
        _check_derived(repo_id, model.name)
    private = config.private if config.private is not None else bool(hub.get("private", True))
    revision = config.revision
    if revision is None:
        revision = _revision(directory, run, hub, is_final)
        check_revision("revision", revision)
    message = config.message or _title(name, manifest_step(directory))
    return _Plan(
        directory=directory, place=Place(repo_id=repo_id, revision=revision, private=private), message=message,
        run=run if is_final else None,
    )  # fmt: skip


def _saved(directory: Path) -> tuple[str | None, dict[str, Any]]:
    """The name and the `hub` settings of the run that a model is from."""
    try:
        values = yaml.safe_load((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        hub = values.get("hub") or {}
        return values.get("name"), hub if isinstance(hub, dict) and hub.get("push") else {}
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return None, {}


def _check_derived(repo_id: str, name: str) -> None:
    try:
        check_repo_id("repo_id", repo_id)
    except ConfigError as error:
        raise ConfigError(f"{name}: {repo_id} is no name of a repository on the Hub; type repo_id=NAME") from error


def _revision(directory: Path, run: Path | None, hub: dict[str, Any], is_final: bool) -> str:
    """A run's own branch; a checkpoint's ends in its step."""
    if run is None:
        return MAIN
    in_sweep = (run.parent / SWEEP_FILE).is_file()
    known = hub.get("revision") or _hub_of(run).get("revision")
    branch = str(known or (_job_branch(run.parent, run) if in_sweep else MAIN))
    if is_final:
        return branch
    step = directory.resolve().name
    return step if branch == MAIN else f"{branch}-{step}"


def _job_branch(sweep_dir: Path, run_dir: Path) -> str:
    """A branch of its own for a job of a sweep."""
    name = f"{sweep_dir.resolve().name}-{run_dir.resolve().name}"
    return re.sub(r"[^A-Za-z0-9._]+|\.{2,}", "-", name).strip("-.") or MAIN


def _title(name: str, step: int | None) -> str:
    """Of a commit."""
    return f"Reward model {name}" + ("" if step is None else f", step {step:,}")
