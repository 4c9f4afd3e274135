"""Hydra's sweep syntax as dimensions: bounds, values, texts, and what is refused before anything runs."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from rm_experiments.config.schema import RunConfig
from rm_experiments.config.search_schema import OptunaSettings, SearchSettings, to_settings
from rm_experiments.config.search_space import Choices, Numbers, Space, check_space, num_points, read_space
from rm_experiments.errors import ConfigError


def read(*overrides: str) -> tuple[Space, list[str]]:
    return read_space(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("interval(1e-5,1e-3)", Numbers(1e-5, 1e-3)),
        ("tag(log,interval(1e-5,1e-3))", Numbers(1e-5, 1e-3, log=True)),
        ("interval(1,8)", Numbers(1.0, 8.0)),
        ("int(interval(1,8))", Numbers(1, 8, integer=True)),
        ("int(tag(log,interval(1,8)))", Numbers(1, 8, log=True, integer=True)),
        ("range(1,10,2)", Numbers(1, 9, integer=True, step=2)),
        ("range(0,1,0.25)", Numbers(0, 0.75, step=0.25)),
        ("range(3,4)", Choices(("3",))),
        ("range(3,0,-1)", Choices(("3", "2", "1"))),
        ("1,2", Choices(("1", "2"))),
        ("choice(a,b,a)", Choices(("a", "b"))),
        ("choice([0.9,0.95],[0.9,0.99])", Choices(("[0.9,0.95]", "[0.9,0.99]"))),
        ("null,3", Choices(("null", "3"))),
    ],
)
def test_each_form_of_a_sweep_is_a_dimension(text: str, dimension: Any) -> None:
    space, fixed = read(f"train.max_steps={text}")

    assert space == {"train.max_steps": dimension}
    assert fixed == []


def test_what_has_one_value_is_the_same_for_all_runs_and_the_last_of_a_key_counts() -> None:
    space, fixed = read("optimizer.lr=interval(0,1)", "seed=1,2", "train.max_steps=9", "optimizer.lr=0.5", "seed=3,4")

    assert space == {"seed": Choices(("3", "4"))}
    assert fixed == ["train.max_steps=9", "optimizer.lr=0.5"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=interval(1,1)", "lr=interval(1,1): an interval has two finite bounds, the lower one first"),
        ("optimizer.lr=interval(0,inf)", "two finite bounds"),
        ("optimizer.lr=tag(log,interval(0,1))", "on a log scale the bounds are above 0"),
        ("optimizer.lr=tag(lgo,interval(1,2))", "the tag lgo means nothing here; allowed is log"),
        ("optimizer.lr=tag(log,range(1,9))", "only an interval can have a log scale"),
        ("optimizer.lr=range(4,1)", "optimizer.lr=range(4,1): holds no value"),
        ("optimizer.lr=1", "a search needs something to search; type for example"),
        ("train.layout=packed,padded", "layout=packed,padded: does not change what a run gives; choose one value"),
        ("objective=eval_loss,eval_accuracy", "does not change what a run gives"),
        ("name=a,b", "does not change what a run gives"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(override)


def test_shares_of_a_dimension_are_its_values() -> None:
    assert [Choices(("a", "b", "c")).at(share) for share in (0, 0.33, 0.34, 0.99)] == ["a", "a", "b", "c"]
    assert [Numbers(1, 9, integer=True, step=4).at(share) for share in (0, 0.4, 0.999)] == ["1", "5", "9"]
    assert [Numbers(0.1, 0.4, step=0.1).at(share) for share in (0, 0.5, 0.999)] == ["0.1", "0.3", "0.4"]
    assert [Numbers(2.0, 4.0).at(share) for share in (0, 0.5, 0.75)] == ["2.0", "3.0", "3.5"]
    assert [Numbers(1e-5, 1e-3, log=True).at(share) for share in (0, 0.5)] == ["1e-05", "0.0001"]
    # From .5 to 4.5 on a log scale: 1 has half of it.
    whole = Numbers(1, 4, log=True, integer=True)
    border = math.log(1.5 / 0.5) / math.log(4.5 / 0.5)
    assert [whole.at(share) for share in (0, border - 0.01, border + 0.01, 0.999)] == ["1", "1", "2", "4"]


def test_numbers_have_four_digits_and_stay_within_their_bounds() -> None:
    assert Numbers(0.0, 1.0).text(0.123456) == "0.1235"
    assert Numbers(1e-6, 1.0).text(0.0000123456) == "1.235e-05"
    assert Numbers(0.12344, 1.0).text(0.12344) == "0.12344"
    assert Numbers(0.0, 0.99999).text(0.99999) == "0.99999"
    assert Numbers(0.0, 1e9).text(123456789.0) == "123500000.0"


def test_points_are_counted_where_they_can_be() -> None:
    assert num_points({"a": Choices(("x", "y")), "b": Numbers(1, 5, integer=True)}) == 10
    assert num_points({"a": Numbers(0, 1, step=0.25), "b": Numbers(2, 8, integer=True, log=True)}) == 35
    assert num_points({"a": Choices(("x", "y")), "b": Numbers(1, 5)}) is None


def compose(overrides: list[str]) -> RunConfig:
    """Two keys that must not both be large, and one that holds whole numbers."""
    given = dict(one.split("=") for one in overrides)
    config = OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.from_dotlist([]))
    OmegaConf.update(config, "train.max_steps", int(given["steps"]) if given["steps"].isdigit() else given["steps"])
    warmup = float(given.get("warmup", 0))
    if warmup > float(given["steps"]):
        raise ConfigError(f"warmup={warmup:g}: too long")
    found = OmegaConf.to_object(config)
    assert isinstance(found, RunConfig)
    return found


def test_a_value_that_goes_with_some_others_is_not_refused() -> None:
    space: Space = {"steps": Numbers(50, 200, integer=True), "warmup": Numbers(0.0, 100.0)}

    assert check_space(compose, space, []).train.max_steps == 50


def test_a_value_that_goes_with_nothing_is_refused_before_anything_runs() -> None:
    space: Space = {"steps": Numbers(50, 200, integer=True), "warmup": Choices(("0", "300"))}

    with pytest.raises(ConfigError, match="warmup=300: too long"):
        check_space(compose, space, [])


def test_an_interval_over_whole_numbers_is_answered_with_what_to_type() -> None:
    with pytest.raises(ConfigError, match=re.escape("steps=50.0: is a whole number; try 'steps=int(interval(...))'")):
        check_space(compose, {"steps": Numbers(50.0, 200.0)}, [])


def test_settings_of_a_search_have_their_types_and_defaults() -> None:
    assert to_settings({"n_trials": 7, "direction": None, "seed": 3, "timeout_hours": 2}) == SearchSettings(
        n_trials=7, seed=3, timeout_hours=2.0
    )
    found = to_settings({"sampler": "gp", "pruner": "median"})
    assert isinstance(found, OptunaSettings)
    assert (found.n_trials, found.startup, found.evaluations) == (20, 10, 1)
    found = to_settings({"sampler": "tpe", "pruner": "median", "n_startup_trials": 4, "pruner_evaluations": 3})
    assert isinstance(found, OptunaSettings)
    assert (found.startup, found.evaluations) == (4, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_trials": 0}, "hydra.sweeper.n_trials=0: a whole number of at least 1"),
        ({"n_trials": "many"}, "hydra.sweeper.n_trials: Value 'many'"),
        ({"direction": "up"}, "hydra.sweeper.direction=up: allowed are minimize, maximize"),
        ({"seed": -1}, "hydra.sweeper.seed=-1: a whole number of at least 0"),
        ({"timeout_hours": 0}, "hydra.sweeper.timeout_hours=0.0: a finite number above 0, or null"),
        ({"timeout_hours": math.inf}, "hydra.sweeper.timeout_hours=inf"),
        ({"trials": 3}, "hydra.sweeper.trials is not a key; did you mean hydra.sweeper.n_trials?"),
        ({"pruner": "median"}, "hydra.sweeper.pruner is not a key; allowed are n_trials, direction, seed"),
        ({"sampler": "grid"}, "hydra.sweeper.sampler=grid: allowed are tpe, gp, random"),
        ({"sampler": "tpe", "pruner": "mean"}, "hydra.sweeper.pruner=mean: allowed are none, median"),
        ({"sampler": "tpe", "n_startup_trials": 0}, "n_startup_trials=0: a whole number of at least 1, or null"),
        ({"sampler": "random", "n_startup_trials": 3}, "n_startup_trials=3: no effect with sampler=random"),
        ({"sampler": "tpe", "pruner_evaluations": 3}, "pruner_evaluations=3: no effect with pruner=none"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        to_settings(values)
