"""`hub.*` and the settings of `rm-push`: names, settings without effect, jobs that would overwrite each other."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest

from rm_experiments import compose
from rm_experiments.config.changes import config_hash, is_free
from rm_experiments.config.hub_schema import HubConfig
from rm_experiments.config.hub_validation import check_pushes, refuse_revision_of_search
from rm_experiments.config.push_schema import PushConfig, check_push
from rm_experiments.config.schema import RunConfig
from rm_experiments.config.validation import check
from rm_experiments.errors import ConfigError

ALLOWED = (
    "must be NAME or OWNER/NAME, at most 96 letters, digits, '-', '_' or '.', with neither '-' nor '.' at the ends, "
    "nor '--' or '..' in it; try "
)
BRANCH = (
    "must be a branch: at most 200 letters, digits, '-', '_' or '.', without '..', neither '-' nor '.' first, nor '.' "
    "or '.lock' last; try "
)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORIES = ("a/b/c", "-x", "x.", "a--b", "a..b", "a b", "/x", "x/", "", "x.git", "ü")
BRANCHES = ("a/b", "-x", ".x", "x.", "a..b", "a b", "", "x.lock", "refs/pr/1")
REFUSED: list[tuple[dict[str, Any], str]] = [
    # Nothing reads these.
    ({"repo_id": "m"}, "hub.repo_id=m: no effect with hub.push=false; try hub.push=true"),
    ({"private": False}, "hub.private=false: no effect with hub.push=false; try hub.push=true"),
    ({"revision": "main"}, "hub.revision=main: no effect with hub.push=false; try hub.push=true"),
    ({"dry_run": True}, "hub.dry_run=true: no effect with hub.push=false; try hub.push=true"),
    # Names that the Hub does not take.
    *(
        ({"push": True, "repo_id": one}, f"hub.repo_id={one}: {ALLOWED}hub.repo_id=my-reward-model")
        for one in REPOSITORIES
    ),
    ({"push": True, "repo_id": "x" * 97}, f"hub.repo_id={'x' * 77}...: {ALLOWED}hub.repo_id=my-reward-model"),
    *(({"push": True, "revision": one}, f"hub.revision={one}: {BRANCH}hub.revision=main") for one in BRANCHES),
    (
        {"push": True, "revision": COMMIT},
        f"hub.revision={COMMIT}: is a commit, and a push makes a new one; name a branch, as in hub.revision=main",
    ),
]


@functools.cache
def composed() -> RunConfig:
    return compose([])


def with_hub(name: str = "rm", **settings: Any) -> RunConfig:
    return dataclasses.replace(composed(), name=name, hub=HubConfig(**settings))


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_a_wrong_setting_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check(with_hub(**settings))
    assert str(raised.value) == message


def test_a_name_of_a_run_that_is_none_of_the_hub_needs_one() -> None:
    with pytest.raises(ConfigError, match=r"^name=a--b: is no name of a repository on the Hub; try hub.repo_id=NAME$"):
        check(with_hub("a--b", push=True))
    check(with_hub("a--b", push=True, repo_id="ab"))


@pytest.mark.parametrize("repo_id", ["m", "lab/m", "A.b_c-1", "x" * 96])
def test_names_that_the_hub_takes(repo_id: str) -> None:
    check(with_hub(push=True, repo_id=repo_id, revision="v1.0_a", private=False))


def test_the_keys_are_typed_as_all_others() -> None:
    config = compose(["hub.push=true", "hub.repo_id=lab/m", "hub.revision=v1", "hub.private=false", "hub.dry_run=true"])

    assert config.hub == HubConfig(push=True, repo_id="lab/m", revision="v1", private=False, dry_run=True)


def test_a_bare_run_pushes_nothing() -> None:
    hub = composed().hub

    assert (hub.push, hub.private, hub.repo_id, hub.revision, hub.dry_run) == (False, True, None, None, False)


def test_pushing_does_not_make_another_run() -> None:
    """So that a run, or a sweep, goes on whether it is pushed or not."""
    assert is_free("hub.push")
    assert config_hash(with_hub(push=True, repo_id="m")) == config_hash(composed())


def test_jobs_that_would_go_over_each_other_are_refused() -> None:
    with pytest.raises(ConfigError) as raised:
        check_pushes([with_hub(push=True, revision="v1")] * 2)
    assert str(raised.value) == (
        "hub.revision=v1: several jobs of the sweep would go to this branch of rm, each over the one before; try "
        "hub.revision=null, which gives each a branch of its own"
    )
    check_pushes([with_hub(push=True)] * 2)
    check_pushes([with_hub(name, push=True, revision="v1") for name in "ab"])
    check_pushes([with_hub(push=True, revision="v1", repo_id=name) for name in "ab"])
    check_pushes([with_hub()] * 2)


def test_a_search_has_no_branch_for_all_of_its_jobs() -> None:
    with pytest.raises(ConfigError, match=r"^hub.revision=v1: all jobs of the search would go to this branch; try hub"):
        refuse_revision_of_search(with_hub(push=True, revision="v1"))
    refuse_revision_of_search(with_hub(push=True))


PUSH: list[tuple[dict[str, Any], str]] = [
    ({}, "no directory was named; type rm-push DIR, a run, a sweep or a model directory"),
    ({"directories": ["x"], "repo_id": "a b"}, f"repo_id=a b: {ALLOWED}repo_id=my-reward-model"),
    ({"directories": ["x"], "revision": "a b"}, f"revision=a b: {BRANCH}revision=main"),
    ({"directories": ["x"], "message": " "}, "message= : a commit needs a title; try message=null"),
]


@pytest.mark.parametrize(("settings", "message"), PUSH)
def test_a_wrong_setting_of_rm_push_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_push(PushConfig(**settings))
    assert str(raised.value) == message
