"""What a command in the pages is: composed through its own checks, looked up, or a thing of another machine."""

from __future__ import annotations

import builtins
import copy
import functools
import importlib
import importlib.util
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from rm_experiments.config.compose import to_run_config
from rm_experiments.config.grid import combinations
from rm_experiments.config.paths import conf_dir
from rm_experiments.runner.paths import check_paths
from tests.config.recipes import jobs_of
from tests.docs.markdown import ROOT, Command

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = {name: entry.partition(":")[2] for name, entry in PROJECT["scripts"].items()}
"""Our programs, and their functions in `rm_experiments.cli.entry`."""
TOOLS = {"pytest", "ruff", "mypy", "pre-commit"}
"""What `pip install -e '.[dev]'` brings; nothing of ours reads their arguments."""
ELSEWHERE = {
    "wandb login": "an account", "wandb leet": "a terminal", "wandb sync": "an account", "wandb sweep": "a server",
    "wandb agent": "a server", "hf auth login": "an account", "vllm serve": "vLLM",
    "text-embeddings-router": "its image",
    "curl ": "a server", "python -m sglang.launch_server": "SGLang", "trl grpo": "time",
}  # fmt: skip
"""Programs of others, by their first words, and what they need that a test has not got."""
TESTED = {"rm-train --help": "tests/cli/test_command_line.py"}
"""What takes seconds, and where it is run."""
MENTIONED = {"accelerate launch --cpu", "accelerate launch --cpu --num_processes 2", "accelerate launch"}
"""Not to be typed: the page says what is wrong with them."""


CHECKING = {"cli", "config", "data", "errors", "launch"}
"""Rooms whose modules a command may import while it checks."""


class Reached(BaseException):
    """The command has been checked, and its work would begin now."""


@contextmanager
def no_work() -> Iterator[None]:
    """Whatever a command does after its checks begins with an import of what does it: there `Reached` is raised.

    So a new command is checked like the others, and no torch is imported for it.
    """
    real = builtins.__import__

    def importing(name: str, *rest: Any, **more: Any) -> Any:
        package, _, room = name.partition(".")
        if name == "torch" or (package == "rm_experiments" and room and room.split(".")[0] not in CHECKING):
            raise Reached
        return real(name, *rest, **more)

    builtins.__import__ = importing  # type: ignore[assignment]
    try:
        yield
    finally:
        builtins.__import__ = real


@functools.cache
def module_of(program: str) -> str:
    """The module in `rm_experiments.cli` of one of our commands."""
    entry = importlib.import_module("rm_experiments.cli.entry")
    entered: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "_enter", lambda _, module: entered.append(module))
        getattr(entry, OURS[program])()
    return entered[0]


def main_of(program: str) -> Callable[[], None]:
    """The `main` of one of our commands, its module imported: what its checks need is there before its work begins."""
    main: Callable[[], None] = importlib.import_module(f"rm_experiments.cli.{module_of(program)}").main
    return main


def checked(words: tuple[str, ...], patch: pytest.MonkeyPatch) -> int:
    """The exit code of one of our commands in this process, up to where its work begins, which counts as 0."""
    if words[0] == "rm-train" and not any(one.startswith("--") for one in words):
        compose_run(list(words[1:]))
        return 0
    main = main_of(words[0])
    patch.setattr("rm_experiments.cli.job.run_on_ranks", _reached)
    patch.setattr(sys, "argv", list(words))
    try:
        with no_work():
            main()
    except Reached:
        return 0
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _reached(*_: Any) -> None:
    raise Reached


def is_sweep(words: tuple[str, ...]) -> bool:
    return words[0] == "rm-train" and any(one in ("--multirun", "-m") or one.startswith("sweep=") for one in words)


@functools.cache
def _groups(chosen: tuple[str, ...]) -> DictConfig:
    """What the groups of a command line compose to."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra_compose("train", list(chosen))


def compose_run(overrides: list[str]) -> None:
    """As `rm_experiments.compose`, in Hydra's two halves: the groups, which many commands share, then the keys.

    Raises:
        ConfigError: as `rm-train`.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    groups = [one for one in parsed if (conf_dir() / one.key_or_group).is_dir() or one.key_or_group.startswith("hydra")]
    composed = copy.deepcopy(_groups(tuple(str(one.input_line) for one in groups)))
    ConfigLoaderImpl._apply_overrides_to_config([one for one in parsed if one not in groups], composed)
    config = to_run_config(composed)
    check_paths(config)


def compose_sweep(words: tuple[str, ...]) -> None:
    """Compose the last job of a sweep; nothing of the kind is started.

    Raises:
        ConfigError: as `rm-train`.
    """
    overrides = get_args_parser().parse_args(list(words[1:])).overrides
    if any(one.startswith(("sweep=", "hydra/sweeper=")) for one in overrides):
        jobs = jobs_of(overrides)
    else:
        jobs = combinations(OverridesParser.create(), {}, overrides)
    compose_run([one for one in jobs[-1] if not one.startswith("sweep=")])


def recipe_commands() -> set[str]:
    """Those in the first comments of recipes, which tests/config/test_recipes.py composes."""
    files = [one for group in ("sweep", "experiment", "debug") for one in (ROOT / "conf" / group).glob("*.yaml")]
    return {one.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ") for one in files}


def look_up(command: Command) -> str | None:
    """What is wrong with a command that is not one of our programs; None where all that it names is there."""
    program, *rest = command.words
    if elsewhere(command):
        return None
    if program == "pip":
        return _wrong_extra(rest)
    if program == "python":
        return _wrong_script(rest)
    if program in TOOLS:
        return None if any(re.match(rf"{program}\b", one) for one in _dev()) else f"{program} is not in the dev extra"
    return f"{command.where}: {command.text}: a command in no class; tests/docs/commands.py has them"


def elsewhere(command: Command) -> list[str]:
    """The entries of `ELSEWHERE` that it is."""
    return [one for one in ELSEWHERE if command.text.startswith(one)]


def _dev() -> list[str]:
    return list(PROJECT["optional-dependencies"]["dev"])


def _wrong_extra(words: list[str]) -> str | None:
    if words[0] != "install":
        return "only pip install is known"
    for word in words[1:]:
        extras = re.fullmatch(r"(?:rm_experiments|\.)\[([\w,]+)\]", word)
        for extra in extras[1].split(",") if extras else []:
            if extra not in PROJECT["optional-dependencies"]:
                return f"{extra} is not an extra"
        if extras is None and word not in ("-e", ".", "rm_experiments"):
            return f"{word} is not what this project installs"
    return None


def _wrong_script(words: list[str]) -> str | None:
    if words[0] == "-m":
        found = importlib.util.find_spec(words[1])
        if found is None or found.origin is None:
            found = importlib.util.find_spec(f"{words[1]}.__main__")
        if found is None or found.origin is None:
            return f"{words}: there is no module {words[1]}"
        path = Path(found.origin)
    else:
        path = ROOT / words[0]
    if not path.is_file():
        return f"{words}: there is no {path}"
    return None if "__main__" in path.read_text(encoding="utf-8") else f"{path.name} does nothing when it is run"


def launched(command: Command) -> tuple[str, ...] | None:
    """Our program and its arguments in `torchrun FLAGS -m rm_experiments...`, the flags read by torch's own parser."""
    starter, *rest = command.words
    if starter not in ("torchrun", "accelerate") or not any(one.startswith("rm_experiments") for one in rest):
        return None
    if starter == "torchrun":
        from torch.distributed.run import get_args_parser as flags

        parsed = flags().parse_args(rest)
    else:
        from accelerate.commands.launch import launch_command_parser

        parsed = launch_command_parser().parse_args(rest[1:])
    assert parsed.module
    modules = {"rm_experiments": "rm-train", **{f"rm_experiments.cli.{module_of(one)}": one for one in OURS}}
    return (modules[parsed.training_script], *parsed.training_script_args)
