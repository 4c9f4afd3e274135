"""The command that started a run, as it was typed, and the one that repeats it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser

import rm_experiments

PROGRAM = "rm-train"
_RANK_OF_OURS = "worker.py"
"""The program of the ranks that `launch=accelerate` starts; their command is the one that started them."""


def typed_command() -> list[str]:
    """The command of this process.

    `python -m rm_experiments` is `rm-train`; under torchrun, and `accelerate launch`, which is the same, it is given
    with torchrun. Of a program that calls `rm_experiments.train` only its name is known to be free of secrets.
    """
    program = Path(sys.argv[0])
    package = Path(rm_experiments.__file__).parent
    if program.stem != PROGRAM and package not in program.parents:
        return ["python", program.name]
    processes, nodes = os.environ.get("LOCAL_WORLD_SIZE"), os.environ.get("GROUP_WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" not in os.environ or processes is None or program.name == _RANK_OF_OURS:
        return [PROGRAM, *sys.argv[1:]]
    several = [] if nodes == "1" else [f"--nnodes={nodes}"]
    return ["torchrun", *several, f"--nproc_per_node={processes}", "-m", "rm_experiments", *sys.argv[1:]]


def repeat_command(directory: str) -> list[str]:
    """The command that repeats the run whose config.yaml is in `directory`, in a new place."""
    return [PROGRAM, "--config-dir", directory, "--config-name", "config"]


def hydra_flags(command: Sequence[str]) -> list[str]:
    """Those of a command's flags that say where its config lies."""
    parsed = get_args_parser().parse_args(list(command[1:]))
    flags = {
        "--config-path": parsed.config_path,
        "--config-dir": parsed.config_dir,
        "--config-name": parsed.config_name,
    }
    return [text for flag, value in flags.items() if value is not None for text in (flag, value)]


def is_sweep(command: Sequence[str]) -> bool:
    """Whether a command starts several runs."""
    if Path(command[0]).name != PROGRAM:
        return False
    parsed = get_args_parser().parse_args(list(command[1:]))
    return bool(parsed.multirun) or any(
        one.startswith(("sweep=", "+sweep=", "hydra.mode=MULTIRUN")) for one in parsed.overrides
    )
