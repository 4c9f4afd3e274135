"""Every recipe of `conf/sweep`, `conf/experiment` and `conf/debug` is what the command in its first comment runs."""

from __future__ import annotations

import functools
import re
import shlex
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.types import RunMode

import rm_experiments
from rm_experiments.config.compose import register_schema
from rm_experiments.config.paths import conf_dir
from rm_experiments.config.schema import RunConfig
from tests.config.recipes import jobs_of

CONF = conf_dir()
GROUPS = ("sweep", "experiment", "debug")
RECIPES = [
    path.relative_to(CONF).with_suffix("").as_posix()
    for group in GROUPS
    for path in sorted((CONF / group).glob("*.yaml"))
]
DEBUG = [name for name in RECIPES if name.startswith("debug/")]
SANDBOX = [name for name in RECIPES if name.startswith("experiment/sandbox")]
PRETRAINED = [name for name in RECIPES if name.startswith("experiment/") and name not in SANDBOX]


def text(name: str) -> list[str]:
    return (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()


def arguments(name: str) -> list[str]:
    """What the command in the first comment of a recipe types after `rm-train`."""
    package, command = text(name)[:2]
    assert package == "# @package _global_"
    assert command.startswith("# rm-train ")
    return shlex.split(command.removeprefix("# rm-train "))


def jobs(name: str) -> list[list[str]]:
    """The overrides of each run that the command starts."""
    typed = arguments(name)
    overrides = [one for one in typed if one != "--multirun"]
    sweeps = "--multirun" in typed or name.startswith("sweep/")
    return jobs_of(overrides) if sweeps else [overrides]


@functools.cache
def _composed(job: tuple[str, ...]) -> RunConfig:
    return rm_experiments.compose(list(job))


def configs(name: str) -> list[RunConfig]:
    """What the runs of a recipe compose to, checked; to be read only.

    Of a grid over seeds all else with one seed, and each seed once: composing takes a fifth of a second.
    """
    found: dict[Any, tuple[str, ...]] = {}
    for job in map(tuple, jobs(name)):
        seeds = {one for one in job if one.startswith("seed=")}
        found.setdefault(frozenset(job) - seeds, job)
        found.setdefault(frozenset(seeds), job)
    return [_composed(job) for job in dict.fromkeys(found.values())]


def test_there_are_recipes_of_every_kind() -> None:
    assert {"debug/one_step", "debug/overfit", "debug/profile"} == set(DEBUG)
    assert {"sweep/lr", "sweep/seeds", "sweep/losses", "sweep/mixtures", "sweep/data_sizes", "sweep/model_sizes"} < set(
        RECIPES
    )
    assert len(PRETRAINED) >= 8


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_in_the_first_comment_names_the_file_and_composes(name: str) -> None:
    typed = arguments(name)
    assert name.replace("/", "=") in typed

    found = configs(name)

    assert len({str(one) for one in found}) == len(found)
    if name.startswith("experiment/"):
        assert {config.name for config in found} == {name.partition("/")[2]}


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("sweep/")])
def test_a_sweep_starts_by_itself(name: str) -> None:
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = hydra_compose("train", arguments(name), return_hydra_config=True).hydra

    assert hydra.mode is RunMode.MULTIRUN
    assert len(jobs(name)) > 1


def test_the_jobs_of_a_sweep_have_all_that_its_file_sets() -> None:
    first, *_, last = configs("sweep/mixtures")

    assert first.data.mixture["ultrafeedback"].weight == 0.1111
    assert last.data.mixture["ultrafeedback"].weight == 9
    assert first.data.mixture["helpsteer3"].weight == last.data.mixture["helpsteer3"].weight == 1
    assert first.data.eval == last.data.eval == "trl-lib/ultrafeedback_binarized:test"
    assert first.train.max_steps == last.train.max_steps == 500


def test_sizes_of_the_scaling_sweep_are_those_of_its_grid() -> None:
    found = [(one.model.scratch, one.data.max_train_pairs) for one in configs("sweep/scaling")]

    grid = {(shape.hidden_size, shape.intermediate_size, pairs) for shape, pairs in found if shape is not None}
    assert grid == {(*shape, pairs) for shape in ((32, 96), (64, 192), (128, 384)) for pairs in (2000, 8000, 32000)}


@pytest.mark.parametrize("name", PRETRAINED)
def test_an_experiment_on_a_real_model_is_complete_and_says_where_its_figures_come_from(name: str) -> None:
    """Nothing that decides the result is left to a default that suits another model."""
    lines = text(name)
    comment = " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
    keys = [line.strip().partition(":")[0] for line in lines if not line.startswith("#")]

    assert {"name", "max_length", "num_epochs", "batch_size", "lr"} <= set(keys)
    assert "orientation, not measured here" in comment
    assert re.search(r"Sources?: .*(arXiv:\d{4}\.\d{5}|https://)", comment)
