"""Which settings may differ when a run goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rm_experiments.config.changes import allowed_changes, config_hash
from rm_experiments.config.compose import to_plain
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError

Compose = Callable[..., RunConfig]


@pytest.fixture
def before(compose: Compose) -> dict[str, Any]:
    return to_plain(compose("optimizer.lr=1e-3", "train.max_steps=10"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer.lr=2e-3",
            r"optimizer.lr=0.002: the run has optimizer.lr=0.001; type optimizer.lr=0.001 to go on with it, "
            r"allow_changes=\[optimizer.lr\] to go on with another, or choose another run_dir",
        ),
        ("loss.label_smoothing=0.1", r"loss.label_smoothing=0.1: the run has loss.label_smoothing=0.0; type"),
        ("seed=3", r"seed=3: the run has seed=0"),
        ("data.max_length=64", r"data.max_length=64: the run has data.max_length=null"),
    ],
)
def test_a_setting_that_decides_the_result_is_refused(
    compose: Compose, before: dict[str, Any], override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        allowed_changes(before, compose("optimizer.lr=1e-3", "train.max_steps=10", override), "the run")


@pytest.mark.parametrize(
    "override",
    [
        "train.micro_batch_tokens=64",
        "train.max_hours=2",
        "train.profile_steps=3",
        "train.hang_seconds=9",
        "checkpoint.keep_last=5",
    ],
)
def test_where_and_how_it_computes_is_free(compose: Compose, before: dict[str, Any], override: str) -> None:
    assert allowed_changes(before, compose("optimizer.lr=1e-3", "train.max_steps=10", override), "the run") == []


@pytest.mark.parametrize("allowed", ["optimizer.lr", "optimizer"])
def test_what_is_allowed_is_told(compose: Compose, before: dict[str, Any], allowed: str) -> None:
    config = compose("optimizer.lr=2e-3", "train.max_steps=10", f"allow_changes=[{allowed}]")
    assert allowed_changes(before, config, "the run") == [{"key": "optimizer.lr", "old": 0.001, "new": 0.002}]


def test_only_what_is_allowed_may_differ(compose: Compose, before: dict[str, Any]) -> None:
    config = compose("optimizer.lr=2e-3", "train.max_steps=20", "allow_changes=[train.max_steps]")
    with pytest.raises(ConfigError, match=r"^optimizer.lr=0.002: the run has"):
        allowed_changes(before, config, "the run")


@pytest.mark.parametrize(("key", "hint"), [("optimiser.lr", "optimizer.lr"), ("tokeniser", "tokenizer")])
def test_an_unknown_name_is_refused(compose: Compose, key: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"allow_changes=\[{key}\]: not a setting"):
        compose(f"allow_changes=[{key}]")
    assert compose(f"allow_changes=[{hint}]").allow_changes == [hint]


def test_equal_runs_have_the_same_hash(compose: Compose) -> None:
    known = config_hash(compose("seed=1"))

    assert len(known) == 16
    assert set(known) <= set("0123456789abcdef")
    assert config_hash(compose("seed=1", "run_dir=elsewhere", "train.micro_batch_tokens=512")) == known
    assert config_hash(compose("seed=2")) != known
    assert config_hash(compose("seed=1", "loss.label_smoothing=0.1")) != known
