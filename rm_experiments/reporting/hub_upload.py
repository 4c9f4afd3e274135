"""From files to one commit on the Hub. Whatever happens on the way, the branch holds the old model or the new one."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rm_experiments.config.hub_validation import MAIN
from rm_experiments.errors import ConfigError, PushError
from rm_experiments.reporting.hub_account import (
    account,
    check_may_write,
    endpoint,
    explained,
    impatient,
    impatient_xet,
    token,
)
from rm_experiments.reporting.hub_account import unreachable_host as unreachable_host
from rm_experiments.reporting.hub_files import HubFile, hub_files, stale_names


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model goes."""

    repo_id: str
    """`NAME`, which is the account's, or `OWNER/NAME`."""
    revision: str = MAIN
    """Branch."""
    private: bool = True

    @property
    def branch(self) -> str | None:
        """None for the main one."""
        return None if self.revision == MAIN else self.revision

    @property
    def url(self) -> str:
        """For people."""
        return f"{endpoint()}/{self.repo_id}" + ("" if self.branch is None else f"/tree/{self.revision}")

    def __str__(self) -> str:
        seen = "private" if self.private else "public"
        return f"{self.repo_id} ({seen}), {self.revision}"


@dataclass(kw_only=True)
class Pushed:
    """What is on the Hub now."""

    place: Place
    commit: str
    url: str
    files: list[HubFile]
    uploaded: list[HubFile]
    removed: list[str]
    replaced: str | None
    """The commit that the branch had before, with another model."""
    notes: list[str]

    def record(self) -> dict[str, Any]:
        """For summary.json."""
        place = self.place
        return {
            "repo_id": place.repo_id, "revision": place.revision, "private": place.private, "commit": self.commit,
            "url": self.url,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        notes = [f"Note       {note}" for note in self.notes]
        if not self.uploaded and not self.removed:
            return [*notes, f"Unchanged  {self.place} has it already: commit {self.commit}", f"Model      {self.url}"]
        many = f"{len(self.uploaded)} of {len(self.files)} files, {_bytes(self.uploaded)} of {_bytes(self.files)}"
        lines = [*notes, f"Pushed     {many}, to {self.place}"]
        if self.removed:
            lines.append(f"Removed    {', '.join(self.removed)}: of another model")
        if self.replaced is not None:
            lines.append(f"Replaced   the model of commit {self.replaced}, which stays there under this name")
        return [*lines, f"Commit     {self.commit}", f"Model      {self.url}"]


def upload(directory: Path, place: Place, message: str, key: str) -> Pushed:
    """Put a model directory on its branch. Files that are there already are not uploaded again.

    Args:
        message: title of the commit.
        key: the setting that names the repository.

    Raises:
        ConfigError, CheckpointError: for what the user can mend: the directory, the token, the repository.
        PushError: when it failed and may work when it is repeated.
    """
    place = resolved(place, key)
    files, notes = hub_files(directory, place.repo_id, place.branch)
    host = unreachable_host()
    if host is not None:
        raise PushError(f"the Hub cannot be reached ({host} does not answer)")
    with impatient(), impatient_xet(), explained():
        return _upload(files, place, message, key, notes)


def resolved(place: Place, key: str) -> Place:
    """With the owner of the repository.

    Raises:
        ConfigError, PushError: as `account`; and for a repository that the token cannot write to.
    """
    token()
    if "/" in place.repo_id:
        return place
    who = account()
    check_may_write(who, key, place.repo_id)
    return replace(place, repo_id=f"{who.name}/{place.repo_id}")


def dry_lines(directory: Path, place: Place, message: str) -> list[str]:
    """What would go up, and where. Asks nobody.

    Raises:
        ConfigError, CheckpointError: as `upload`.
    """
    files, notes = hub_files(directory, place.repo_id, place.branch)
    owner = "" if "/" in place.repo_id else " of the token's account"
    width = max(len(f"{one.size:,}") for one in files)
    return [
        *(f"Note       {note}" for note in notes),
        f"Dry run    {len(files)} files, {_bytes(files)}, to {place}{owner}; nothing is uploaded",
        *(f"           {one.size:>{width},}  {one.name}{_how(one)}" for one in files),
        f"Commit     {message}",
    ]


def _how(file: HubFile) -> str:
    return "" if file.changed is None else "   (as it is to be there: without paths of this machine)"


def _upload(files: list[HubFile], place: Place, message: str, key: str, notes: list[str]) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token(), endpoint=endpoint())
    info = _info(api, place)
    if info.private is False and place.private:
        raise ConfigError(
            f"{key}={place.repo_id}: is public already; type {key.replace('repo_id', 'private')}=false to push there, "
            "or choose another repository"
        )
    if info.private and not place.private:
        notes.append(f"{place.repo_id} is private and stays so; {endpoint()}/{place.repo_id}/settings makes it public")
        place = replace(place, private=True)
    remote = {one.rfilename: one for one in info.siblings or ()}
    uploaded = [one for one in files if not _is_there(one, remote.get(one.name))]
    removed = stale_names(files, list(remote))
    before = str(info.sha) if {"config.json", "adapter_config.json"} & set(remote) else None
    if not uploaded and not removed:
        return Pushed(
            place=place, commit=str(info.sha), url=place.url, files=files, uploaded=[], removed=[], replaced=None,
            notes=notes,
        )  # fmt: skip
    operations: list[Any] = [CommitOperationDelete(path_in_repo=name, is_folder=False) for name in removed]
    operations += [CommitOperationAdd(path_in_repo=one.name, path_or_fileobj=one.source) for one in uploaded]
    with warnings.catch_warnings():
        # What the Hub warns of (a card without a licence) is the user's to fill in, and stands in the card.
        warnings.simplefilter("ignore")
        done = api.create_commit(
            place.repo_id, operations, commit_message=message, revision=place.revision, parent_commit=info.sha
        )
    return Pushed(
        place=place, commit=str(done.oid), url=place.url, files=files, uploaded=uploaded, removed=removed,
        replaced=before, notes=notes,
    )  # fmt: skip


def _info(api: Any, place: Place) -> Any:
    """What is on the branch, made with its repository where it is not there."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    with contextlib.suppress(RepositoryNotFoundError, RevisionNotFoundError):
        return api.repo_info(place.repo_id, revision=place.revision, files_metadata=True)
    api.create_repo(place.repo_id, private=place.private, exist_ok=True)
    if place.branch is not None:
        api.create_branch(place.repo_id, branch=place.branch, exist_ok=True)
    return api.repo_info(place.repo_id, revision=place.revision, files_metadata=True)


def _is_there(file: HubFile, remote: Any) -> bool:
    if remote is None or (remote.size is not None and remote.size != file.size):
        return False
    if remote.lfs is not None:
        return bool(remote.lfs.sha256 == file.sha256)
    return bool(remote.blob_id == file.git_sha1)


def _bytes(files: list[HubFile]) -> str:
    total = float(sum(one.size for one in files))
    for unit in ("bytes", "kB", "MB"):
        if total < 1000:
            return f"{total:.3g} {unit}" if unit != "bytes" else f"{total:.0f} bytes"
        total /= 1000
    return f"{total:.3g} GB"
