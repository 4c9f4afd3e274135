"""What `conf/` and the command line compose to, and that a run's config.yaml gives the same config again."""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rm_experiments import compose
from rm_experiments.config import (
    adapter_schema,
    data_schema,
    evaluation_schema,
    hub_schema,
    loss_schema,
    merge_schema,
    optimizer_schema,
    push_schema,
    saved_model_schema,
    schema,
    score_schema,
    serve_schema,
    validation,
)
from rm_experiments.config.compose import (
    config_yaml,
    from_plain,
    load_config_yaml,
    schema_keys,
    to_plain,
)
from rm_experiments.config.data_schema import ColumnsConfig, EvalSetConfig, SandboxConfig
from rm_experiments.config.paths import conf_dir
from rm_experiments.config.schema import RunConfig

CONF = conf_dir()
FILES = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.rglob("*.yaml"))
NOT_OPTIONS = {
    "train", "compare", "evaluate", "hydra_settings", "hydra/help/rm_train", "hydra/help/rm_data",
    "hydra/help/rm_compare", "hydra/help/rm_eval", "hydra/sweeper/random", "hydra/sweeper/optuna",
    "dashboard", "hydra/help/rm_dashboard", "merge", "hydra/help/rm_merge", "push", "hydra/help/rm_push",
    "score", "hydra/help/rm_score", "serve", "hydra/help/rm_serve",
}  # fmt: skip
OPTIONS = [name for name in FILES if name not in NOT_OPTIONS]
SWEEPS = [name for name in OPTIONS if name.startswith("sweep/")]
ONLY_ALONE = ("eval/none", "loss/regression", "optimizer/muon", "optimizer/schedule_free_adamw")
# These change what other groups set, or exclude some of their options.
ALONE = [
    name
    for name in OPTIONS
    if name.startswith(("experiment/", "debug/"))
    or name in ONLY_ALONE
    or (name.startswith("adapter/") and name != "adapter/none")
]
TOGETHER = [name for name in OPTIONS if name not in SWEEPS + ALONE]
# What an option cannot be used without.
NEEDED = {
    "model/pretrained": ["model.name_or_path=x"],
    "data/local": ["data.train=x"],
    "data/mixture": ["+data.mixture.a=x"],
    "optimizer/schedule_free_adamw": ["scheduler=constant"],
    "loss/regression": ["data.sandbox.attributes=true"],
    **{f"adapter/{one}": ["model=pretrained", "model.name_or_path=x"] for one in validation.ADAPTER_NAMES[1:]},
    "benchmark/llmbar": ["data.eval_sets.llmbar.source=x"],
    "benchmark/hhh": ["data.eval_sets.hhh.source=x"],
    "benchmark/best_of_n": ["data.eval_sets.best_of_n.source=x"],
}

SCHEMAS = (
    schema, data_schema, loss_schema, optimizer_schema, adapter_schema, merge_schema, hub_schema, push_schema,
    score_schema, evaluation_schema, serve_schema, saved_model_schema,
)  # fmt: skip


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all scalars and lists."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def package(name: str) -> str:
    """The prefix of the keys that a file of `conf/` sets: its `@package` line, or its group."""
    first = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    declared = first.removeprefix("# @package ") if first.startswith("# @package ") else name.partition("/")[0]
    return "" if declared == "_global_" else f"{declared}."


@functools.cache
def composed(*overrides: str) -> RunConfig:
    """The config, to be read only: composing takes a fifth of a second."""
    return compose(list(overrides))


def together(name: str) -> list[str]:
    """The options that are composed in one go with `name`: those of the same number in their groups."""
    number = {one: sum(one.partition("/")[0] == other.partition("/")[0] for other in TOGETHER[:index])
              for index, one in enumerate(TOGETHER)}  # fmt: skip
    return [one for one in TOGETHER if number[one] == number[name]]


def choose(name: str) -> list[str]:
    group, _, option = name.partition("/")
    return [f"{group}={option}", *NEEDED.get(name, [])]


def test_the_config_directory_is_the_whole_one() -> None:
    assert len(FILES) > 40
    assert {name.partition("/")[0] for name in OPTIONS} == {
        "model", "data", "loss", "optimizer", "scheduler", "adapter", "eval", "benchmark", "tracking", "launch",
        "experiment", "sweep", "debug",
    }  # fmt: skip
    assert set(FILES) >= NOT_OPTIONS


@pytest.mark.parametrize("name", [*ALONE, *TOGETHER])
def test_every_option_composes_to_a_valid_config_that_holds_its_values(name: str) -> None:
    written = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    written.pop("defaults", None)

    names = [name] if name in ALONE else together(name)

    config = composed(*(override for one in names for override in choose(one)))

    plain = to_plain(config)
    needed = {one.partition("=")[0].removeprefix("+") for one in NEEDED.get(name, [])}
    for key, value in leaves(written, package(name)):
        if any(f"{one}.".startswith(f"{key}.") for one in needed) or (
            isinstance(value, str) and value.startswith("${")
        ):
            continue
        found: Any = plain
        for part in key.split("."):
            found = found[part]
        assert found == value, key


def test_bare_config_is_the_tiny_model_on_the_sandbox_with_wandb() -> None:
    config = composed()

    assert config.model.source is schema.ModelSource.scratch
    assert config.data.sandbox == SandboxConfig()
    assert config.tracking == schema.TrackingConfig()
    assert config.optimizer.lr == config.model.suggested_lr == 1.5e-3
    assert (config.loss.name, config.adapter.name, config.launch.name) == ("bradley_terry", "none", "inline")


def test_the_rate_follows_the_model_unless_it_is_set() -> None:
    assert composed("model=modernbert_base").optimizer.lr == 3e-5
    assert compose(["model=modernbert_base", "optimizer.lr=1e-4"]).optimizer.lr == 1e-4


def test_an_experiment_wins_over_the_groups_and_the_primary_config() -> None:
    config = composed("experiment=sandbox_label_noise")

    assert config.name == "sandbox_label_noise"
    assert config.data.sandbox is not None
    assert config.data.sandbox.label_noise == 0.25
    # The experiment chooses bradley_terry_smoothed, whose own value is 0.1.
    assert config.loss.label_smoothing == 0.25


@pytest.mark.parametrize("late", ["experiment", "sweep", "debug"])
def test_the_primary_config_gives_way_to_experiments_sweeps_and_debug_options(late: str) -> None:
    defaults = yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))["defaults"]

    assert defaults.index({late: None}) > defaults.index("_self_")


def test_an_override_wins_over_the_experiment() -> None:
    config = compose(["loss.label_smoothing=0.2", "experiment=sandbox_label_noise", "name=mine"])

    assert config.name == "mine"
    assert config.loss.label_smoothing == 0.2
    assert config.data.sandbox is not None
    assert config.data.sandbox.label_noise == 0.25


def test_a_debug_option_combines_with_an_experiment() -> None:
    config = compose(["experiment=sandbox_length_bias", "debug=one_step"])

    assert (config.name, config.train.max_steps) == ("sandbox_length_bias", 1)
    assert config.eval.every_fraction is None


def test_several_benchmarks_are_combined() -> None:
    config = compose(["benchmark=[llmbar,reward_bench]", "data.eval_sets.llmbar.source=l.jsonl"])

    sources = {name: one.source for name, one in config.data.eval_sets.items()}
    assert sources == {"llmbar": "l.jsonl", "reward_bench": "allenai/reward-bench:filtered"}


def test_every_benchmark_names_its_rule_and_every_rule_has_a_set() -> None:
    rules = {
        one["benchmark"]
        for path in (CONF / "benchmark").glob("*.yaml")
        for one in yaml.safe_load(path.read_text(encoding="utf-8"))["eval_sets"].values()
    }

    assert rules == set(data_schema.BENCHMARK_NAMES)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x.jsonl", EvalSetConfig(source="x.jsonl")),
        ("org/name:test", EvalSetConfig(source="org/name:test")),
        ("[x.jsonl,y/*.csv]", EvalSetConfig(source=["x.jsonl", "y/*.csv"])),
        ("{source:x.jsonl}", EvalSetConfig(source="x.jsonl")),
        (
            "{source:[x.jsonl],format:hh_rlhf,columns:{chosen:good,id:key}}",
            EvalSetConfig(source=["x.jsonl"], format="hh_rlhf", columns=ColumnsConfig(chosen="good", id="key")),
        ),
    ],
)
def test_an_evaluation_set_is_a_bare_source_or_a_mapping(value: str, expected: EvalSetConfig) -> None:
    config = compose([f"+data.eval_sets.mine={value}"])

    assert config.data.eval_sets == {"mine": expected}


ROUND_TRIPS = {
    "bare": [],
    "every kind of value": [
        "name=2024", "seed=4294967295", "optimizer.lr=1e-9", "optimizer.betas=[0.8,0.95]", "train.max_steps=7",
        "train.max_grad_norm=null", "train.compile=true", "tracking.tags=[a,'1',true]",
        "tracking.notes='ä: \"b\" #c'", "checkpoint.metric=eval_loss", "checkpoint.mode=min",
    ],
    "pretrained with adapter": [
        "model=pretrained", "model.revision='0123'",
        "model.name_or_path=./dir", "adapter=lora", "adapter.target_modules=[q_proj,v_proj]",
        "train.precision=bf16",
    ],
    "own data": [
        "data=local", "data.train=[a.jsonl,'b*.csv']", "data.eval=org/name:test", "data.columns.prompt=question",
        "+data.eval_sets.bare=x.jsonl",
        "+data.eval_sets.full={source:[y],columns:{margin:m},benchmark:ppe}",
        "data.overlength=drop", "data.max_length=77",
    ],
    "experiment": ["experiment=sandbox_label_noise", "debug=overfit"],
}  # fmt: skip


@pytest.mark.parametrize("overrides", ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_config_yaml_gives_the_same_config_again(overrides: list[str], tmp_path: Path) -> None:
    config = composed(*overrides)
    path = tmp_path / "config.yaml"
    path.write_text(config_yaml(config), encoding="utf-8")

    assert load_config_yaml(path) == config


def test_config_yaml_keeps_a_text_that_looks_like_an_interpolation(tmp_path: Path) -> None:
    config = compose([r"tracking.notes='costs \${5}'"])
    assert config.tracking.notes == "costs ${5}"
    path = tmp_path / "config.yaml"
    path.write_text(config_yaml(config), encoding="utf-8")

    assert load_config_yaml(path) == config


@pytest.mark.parametrize("overrides", ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_plain_values_survive_json_and_give_the_same_config_again(overrides: list[str]) -> None:
    config = dataclasses.replace(composed(*overrides), run_dir="somewhere", resume="never")

    assert from_plain(json.loads(json.dumps(to_plain(config)))) == config


def test_config_yaml_says_what_the_run_is_and_not_where_it_writes() -> None:
    text = config_yaml(compose(["run_dir=somewhere", "resume=never", "seed=3"]))

    assert text.startswith("defaults:\n- run_schema\n- hydra_settings\n- _self_\nname: rm\nseed: 3\n")
    values = yaml.safe_load(text)
    assert {"run_dir", "resume"}.isdisjoint(values)
    names = {field.name for field in dataclasses.fields(RunConfig)}
    assert set(values) == names - {"run_dir", "resume", "allow_changes"} | {"defaults"}
    assert "somewhere" not in text


def test_config_yaml_repeats_the_run_as_primary_config(tmp_path: Path) -> None:
    config = compose(["experiment=sandbox_label_noise", "+data.eval_sets.mine=x.jsonl", "optimizer.lr=0.01"])
    (tmp_path / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
    command = [sys.executable, "-m", "rm_experiments", "--config-dir", str(tmp_path), "--config-name", "config"]

    shown = subprocess.run(
        [*command, "--cfg", "job", "seed=5"], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert from_plain(yaml.safe_load(shown.stdout)) == dataclasses.replace(config, seed=5)


def test_conf_instantiates_nothing() -> None:
    for name in FILES:
        text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
        assert "_target_" not in text, name
        assert "_convert_" not in text, name


def test_composing_imports_no_heavy_package(tmp_path: Path) -> None:
    program = """
import importlib, pkgutil, sys
import rm_experiments, rm_experiments.config, rm_experiments.cli.train
for module in pkgutil.walk_packages(rm_experiments.config.__path__, "rm_experiments.config."):
    importlib.import_module(module.name)
print(rm_experiments.compose(["seed=3"]).seed, "rm_experiments.config.validation" in sys.modules)
print([name for name in ("torch", "transformers", "datasets", "accelerate", "wandb", "numpy") if name in sys.modules])
"""

    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert done.stdout == "3 True\n[]\n"


def test_every_field_of_the_schema_is_described() -> None:
    """By a docstring under it; a section by that of its class."""
    trees = [ast.parse(Path(module.__file__).read_text(encoding="utf-8")) for module in SCHEMAS]
    classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    checked, undescribed = 0, []
    for name, node in classes.items():
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign):
                continue
            checked += 1
            described = (
                isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
                and len(after.value.value) > 5
            )
            section = classes.get(ast.unparse(field.annotation))
            if not described and not (section is not None and ast.get_docstring(section)):
                undescribed.append(f"{name}.{ast.unparse(field.target)}")

    assert undescribed == []
    assert checked > 100


def test_the_names_that_validation_allows_are_those_of_the_registries() -> None:
    from rm_experiments.training.losses import LOSSES
    from rm_experiments.training.optimizers.build import OPTIMIZERS
    from rm_experiments.training.schedules import SCHEDULES

    assert set(validation.LOSS_NAMES) == set(LOSSES)
    assert set(validation.OPTIMIZER_NAMES) == set(OPTIMIZERS)
    assert set(validation.SCHEDULE_NAMES) == set(SCHEDULES)


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("loss", validation.LOSS_NAMES),
        ("optimizer", validation.OPTIMIZER_NAMES),
        ("scheduler", validation.SCHEDULE_NAMES),
        ("adapter", validation.ADAPTER_NAMES),
        ("launch", validation.LAUNCH_NAMES),
    ],
)
def test_every_allowed_name_has_an_option_and_every_option_an_allowed_name(group: str, names: tuple[str, ...]) -> None:
    options = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CONF / group).glob("*.yaml")]

    assert {option["name"] for option in options} == set(names)


def test_schema_keys_lists_sections_and_their_keys() -> None:
    keys = schema_keys()

    assert len(keys) == len(set(keys))
    assert {"seed", "model", "model.scratch", "model.scratch.hidden_size", "data.columns.id"} <= set(keys)
    assert {key for key, _ in leaves(to_plain(composed()))} - {"data.eval_sets"} <= set(keys)
