"""The settings under `hub.`: whether and where the model of a finished run goes on the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class HubConfig:
    """Where `final/` goes when the run is finished. The token is never a setting: log in, or set HF_TOKEN."""

    push: bool = False
    """Whether `final/` is uploaded. A push that fails fails no run: `rm-push RUN` does it later."""
    repo_id: str | None = None
    """`NAME`, which is the account's, or `ORGANISATION/NAME`; null: the name of the run. Made if it is not there."""
    private: bool = True
    """Whether only the account, or the organisation, can see the repository. Decides for a new one; an existing one
    that is public is refused unless this is false."""
    revision: str | None = None
    """Branch. Null: `main`, for a job of a sweep a branch of its own, `<sweep>-<job number>`. Each push is a commit, so
    that an earlier model of the branch stays there under its commit."""
    dry_run: bool = False
    """Show at the end of the run what would go up and where, and upload nothing."""
