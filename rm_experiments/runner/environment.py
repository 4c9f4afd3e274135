"""What a run executes on: versions, commit, hardware and command line, the content of environment.json."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import platform
import subprocess
from importlib import metadata
from typing import Any


def environment(command: list[str]) -> dict[str, Any]:
    """The content of environment.json."""
    return {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command,
        "working_directory": os.getcwd(),
        "versions": versions(),
        "git_commit": git_commit(),
        "hardware": hardware(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    names = (
        "rm_experiments",
        "torch",
        "transformers",
        "accelerate",
        "datasets",
        "tokenizers",
        "wandb",
        "peft",
    )
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@functools.cache
def git_commit() -> str | None:
    """The commit of the working directory, with `-dirty` for uncommitted changes; None outside a repository.

    As it was when first asked: a commit during a run does not change what the run executes.
    """
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if dirty else commit


def hardware() -> dict[str, Any]:
    """What the run computes on."""
    import torch

    found: dict[str, Any] = {
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found
