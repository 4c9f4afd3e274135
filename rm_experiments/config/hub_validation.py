"""Rules of `hub`: names that the Hub takes, settings that nothing reads, jobs that would overwrite each other."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rm_experiments.config.hub_schema import HubConfig
from rm_experiments.config.rules import refuse
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError

MAIN = "main"
_PART = re.compile(r"\w([\w.-]*\w)?", re.ASCII)
_BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def check_hub(config: RunConfig) -> None:
    """Refuse names that the Hub does not take, and settings that nothing reads.

    Raises:
        ConfigError: one line each.
    """
    hub = config.hub
    if not hub.push:
        defaults = HubConfig()
        for key, value in vars(hub).items():
            if value != getattr(defaults, key):
                raise refuse(f"hub.{key}", value, "no effect with hub.push=false", "hub.push=true")
        return
    if hub.repo_id is not None:
        check_repo_id("hub.repo_id", hub.repo_id)
    elif not is_repo_name(config.name):
        raise refuse("name", config.name, "is no name of a repository on the Hub", "hub.repo_id=NAME")
    if hub.revision is not None:
        check_revision("hub.revision", hub.revision)


def check_pushes(configs: Sequence[RunConfig]) -> None:
    """Refuse jobs of one sweep whose models would go to the same branch.

    Raises:
        ConfigError: naming the branch.
    """
    taken = set()
    for config in configs:
        # Without a revision each job has a branch of its own.
        if not config.hub.push or config.hub.revision is None:
            continue
        place = (config.hub.repo_id or config.name, config.hub.revision)
        if place in taken:
            raise refuse(
                "hub.revision", config.hub.revision,
                f"several jobs of the sweep would go to this branch of {place[0]}, each over the one before",
                "hub.revision=null, which gives each a branch of its own",
            )  # fmt: skip
        taken.add(place)


def refuse_revision_of_search(config: RunConfig) -> None:
    """Of a search nobody knows the jobs beforehand.

    Raises:
        ConfigError: for a branch that all of them would go to.
    """
    if config.hub.push and config.hub.revision is not None:
        raise refuse(
            "hub.revision", config.hub.revision, "all jobs of the search would go to this branch",
            "hub.revision=null, which gives each a branch of its own",
        )  # fmt: skip


def check_repo_id(key: str, value: str) -> None:
    """Refuse what can be no repository.

    Raises:
        ConfigError: naming what is allowed.
    """
    owner, slash, name = value.rpartition("/")
    if not is_repo_name(name) or (slash and not _is_part(owner)) or len(value) > 96:
        allowed = (
            "must be NAME or OWNER/NAME, at most 96 letters, digits, '-', '_' or '.', with neither '-' nor '.' at the "
            "ends, nor '--' or '..' in it"
        )
        raise refuse(key, value, allowed, f"{key}=my-reward-model")


def is_repo_name(name: str) -> bool:
    """Whether the Hub takes this as the name of a repository."""
    return _is_part(name) and not name.endswith(".git")


def _is_part(text: str) -> bool:
    return _PART.fullmatch(text) is not None and "--" not in text and ".." not in text


def check_revision(key: str, value: str) -> None:
    """Refuse what can be no branch.

    Raises:
        ConfigError: naming what is allowed.
    """
    if _COMMIT.fullmatch(value):
        raise ConfigError(f"{key}={value}: is a commit, and a push makes a new one; name a branch, as in {key}=main")
    if not _BRANCH.fullmatch(value) or ".." in value or value.endswith((".", ".lock")):
        allowed = (
            "must be a branch: at most 200 letters, digits, '-', '_' or '.', without '..', neither '-' nor '.' first, "
            "nor '.' or '.lock' last"
        )
        raise refuse(key, value, allowed, f"{key}={MAIN}")
