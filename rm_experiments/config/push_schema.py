"""The settings of `rm-push`. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field

from rm_experiments.config.hub_validation import check_repo_id, check_revision
from rm_experiments.config.rules import refuse
from rm_experiments.errors import ConfigError


@dataclass(kw_only=True)
class PushConfig:
    """What is uploaded, and where to. The token is never a setting: log in, or set HF_TOKEN."""

    directories: list[str] = field(default_factory=list)
    """Runs (their `final/`), sweeps (those of all runs), checkpoints, adapters or any model directories; usually typed
    in front, without a key."""
    repo_id: str | None = None
    """`NAME`, which is the account's, or `ORGANISATION/NAME`. Null: of a run its `hub.repo_id`, or its name; of another
    directory the directory's name. Made if it is not there."""
    private: bool | None = None
    """Whether only the account, or the organisation, can see the repository. Null: of a run its `hub.private`, else
    true. Decides for a new repository; an existing one that is public is refused unless this is false."""
    revision: str | None = None
    """Branch. Null: of a run its `hub.revision`; else for a job of a sweep `<sweep>-<job number>`, for a checkpoint one
    that ends in its step, and `main` for all others."""
    message: str | None = None
    """Title of the commit; null: the run's name and the step."""
    dry_run: bool = False
    """Show what would go up and where, and upload nothing. Needs no network and no token."""


def check_push(config: PushConfig) -> PushConfig:
    """Return `config` if every value is allowed.

    Raises:
        ConfigError: one line with the setting, its value, what is allowed and what to type.
    """
    if not config.directories:
        raise ConfigError("no directory was named; type rm-push DIR, a run, a sweep or a model directory")
    if config.repo_id is not None:
        check_repo_id("repo_id", config.repo_id)
    if config.revision is not None:
        check_revision("revision", config.revision)
    if config.message is not None and not config.message.strip():
        raise refuse("message", config.message, "a commit needs a title", "message=null")
    return config
