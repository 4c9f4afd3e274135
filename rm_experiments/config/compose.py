"""From `conf/` and the command line to a checked `RunConfig`, and back to a file that repeats the run."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rm_experiments.config.compare_schema import CompareConfig
from rm_experiments.config.dashboard_schema import DashboardConfig, check_dashboard
from rm_experiments.config.data_schema import DataConfig, EvalSetConfig, MixturePartConfig
from rm_experiments.config.evaluation_schema import EvaluationConfig, check_evaluation
from rm_experiments.config.merge_schema import MergeConfig
from rm_experiments.config.paths import conf_dir
from rm_experiments.config.push_schema import PushConfig
from rm_experiments.config.schema import RunConfig
from rm_experiments.config.score_schema import ScoreConfig
from rm_experiments.config.serve_schema import ServeConfig
from rm_experiments.config.validation import check
from rm_experiments.errors import ConfigError

Schema = TypeVar("Schema")
SCHEMA_NAME = "run_schema"
_HELP = {
    RunConfig: "rm-train", CompareConfig: "rm-compare", EvaluationConfig: "rm-eval", DashboardConfig: "rm-dashboard",
    MergeConfig: "rm-merge", PushConfig: "rm-push", ServeConfig: "rm-serve", ScoreConfig: "rm-score",
}  # fmt: skip
"""Which command lists the keys of a schema."""
TOKENIZER = "tokenizer"
"""In `allow_changes`: that of the base model, which has no setting."""
_EVALUATING = re.compile(r"\w+ while evaluating '.*': (.*)")
_NOT_REPEATED = ("run_dir", "resume", "allow_changes")
"""Keys that say where a run writes, not what it is."""


def register_schema() -> None:
    """Make the typed roots known to Hydra, so that names and types are held while composing."""
    ConfigStore.instance().store(name=SCHEMA_NAME, node=RunConfig)
    ConfigStore.instance().store(name="compare_schema", node=CompareConfig)
    ConfigStore.instance().store(name="evaluation_schema", node=EvaluationConfig)
    ConfigStore.instance().store(name="dashboard_schema", node=DashboardConfig)
    ConfigStore.instance().store(name="merge_schema", node=MergeConfig)
    ConfigStore.instance().store(name="push_schema", node=PushConfig)
    ConfigStore.instance().store(name="serve_schema", node=ServeConfig)
    ConfigStore.instance().store(name="score_schema", node=ScoreConfig)


def to_run_config(composed: DictConfig) -> RunConfig:
    """The composed config as checked dataclasses.

    Raises:
        ConfigError: for an unknown key (also one added with `+`), a missing or wrongly typed value, or a value that
            `validation.check` refuses.
    """
    config = to_dataclass(composed, RunConfig)
    name_sources(config.data)
    known = [*schema_keys(), TOKENIZER]
    for key in config.allow_changes:
        # Entries of data.eval_sets and data.mixture have names of the user's own.
        if key not in known and not key.startswith(("data.eval_sets.", "data.mixture.")):
            raise ConfigError(f"allow_changes=[{key}]: not a setting{suggest(key)}")
    return check(config)


def to_dataclass(composed: DictConfig, schema: type[Schema]) -> Schema:
    """The composed config as dataclasses, its names and types held, its values unchecked.

    Raises:
        ConfigError: for an unknown key (also one added with `+`), or a missing or wrongly typed value.
    """
    try:
        _refuse_unknown_keys(composed, schema, "", schema)
        missing = sorted(OmegaConf.missing_keys(composed))
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, schema)) from error
    if missing:
        raise ConfigError(f"{missing[0]} is not set; type {missing[0]}=VALUE")
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, schema)) from error
    assert isinstance(config, schema)
    return config


def name_sources(data: DataConfig) -> None:
    """Give the entries of `data.eval_sets` and `data.mixture` their types, which OmegaConf cannot."""
    data.eval_sets = {str(name): _named("eval_sets", str(name), one) for name, one in data.eval_sets.items()}
    data.mixture = {
        str(name): _named("mixture", str(name), one, MixturePartConfig) for name, one in data.mixture.items()
    }


def to_evaluation_config(composed: DictConfig) -> EvaluationConfig:
    """The same for rm-eval.

    Raises:
        ConfigError: as `to_run_config`.
    """
    config = to_dataclass(composed, EvaluationConfig)
    name_sources(config.data)
    return check_evaluation(config)


def to_dashboard_config(composed: DictConfig) -> DashboardConfig:
    """The same for rm-dashboard.

    Raises:
        ConfigError: as `to_run_config`.
    """
    config = check_dashboard(to_dataclass(composed, DashboardConfig))
    known = schema_keys()
    for key in config.hyperparameters:
        if key not in known:
            raise ConfigError(f"hyperparameters=[{key}]: not a setting of runs{suggest(key)}")
    return config


def evaluation_from_plain(values: dict[str, Any]) -> EvaluationConfig:
    """A checked config of rm-eval from plain nested values, as `to_plain` gives."""
    merged = OmegaConf.merge(OmegaConf.structured(EvaluationConfig), _escaped(values))
    assert isinstance(merged, DictConfig)
    return to_evaluation_config(merged)


def score_from_plain(values: dict[str, Any]) -> ScoreConfig:
    """A config of rm-score from plain nested values, as `to_plain` gives."""
    merged = OmegaConf.merge(OmegaConf.structured(ScoreConfig), _escaped(values))
    assert isinstance(merged, DictConfig)
    return to_dataclass(merged, ScoreConfig)


def from_plain(values: dict[str, Any]) -> RunConfig:
    """A checked config from plain nested values, as `to_plain` gives and config.yaml holds.

    Raises:
        ConfigError: as `to_run_config`.
    """
    return _from_escaped(_escaped(values))


def _escaped(values: Any) -> Any:
    """Plain values as OmegaConf reads them: a text with `${` in it is a text, not an interpolation."""
    if isinstance(values, dict):
        return {key: _escaped(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_escaped(value) for value in values]
    return values.replace("${", "\\${") if isinstance(values, str) else values


def _from_escaped(values: dict[str, Any]) -> RunConfig:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), values)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    assert isinstance(merged, DictConfig)
    return to_run_config(merged)


def to_plain(config: Any) -> Any:
    """Nested dicts, lists and scalars: what YAML, JSON and `torch.load(weights_only=True)` can hold."""
    if dataclasses.is_dataclass(config):
        return {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {key: to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain(value) for value in config]
    return config.value if isinstance(config, Enum) else config


def config_yaml(config: RunConfig) -> str:
    """The text of a run's config.yaml: everything but where it writes, and the defaults that make it runnable.

    `rm-train --config-dir DIR --config-name config` repeats the run.
    """
    values = _escaped({key: value for key, value in to_plain(config).items() if key not in _NOT_REPEATED})
    return plain_yaml({"defaults": [SCHEMA_NAME, "hydra_settings", "_self_"]}) + plain_yaml(values)


def plain_yaml(values: dict[str, Any]) -> str:
    """Plain values as YAML, in their order."""
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    return text


def load_data_settings(path: Path) -> tuple[DataConfig, int]:
    """The data settings and the seed of a run's or an evaluation's config.yaml.

    Raises:
        ConfigError: when they are not what this version knows.
    """
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        merged = OmegaConf.merge(OmegaConf.structured(DataConfig), _escaped(values["data"]))
        data = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: {one_line(error)}") from error
    assert isinstance(data, DataConfig)
    name_sources(data)
    return data, int(values.get("seed") or 0)


def load_config_yaml(path: Path) -> RunConfig:
    """The config that `config_yaml` wrote."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values.pop("defaults", None)
    return _from_escaped(values)


def schema_keys(schema: type = RunConfig, prefix: str = "") -> list[str]:
    """Every dotted key of the schema, sections included."""
    keys = []
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        keys.append(prefix + field.name)
        section = _section(hints[field.name])
        if section is not None:
            keys += schema_keys(section, f"{prefix}{field.name}.")
    return keys


def suggest(key: str, schema: type = RunConfig) -> str:
    """`; did you mean ...?` with the known key nearest to `key`, or where the keys are listed."""
    known = schema_keys(schema)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not near:
        # A right name in a wrong place: `lr=1` for `optimizer.lr=1`.
        near = [one for one in known if one.rpartition(".")[2] == key.rpartition(".")[2]][:1]
    return f"; did you mean {near[0]}?" if near else f"; {_HELP.get(schema, 'rm-train')} --help lists all keys"


def explain(error: Exception, schema: type = RunConfig) -> str:
    """One line for an error of Hydra or OmegaConf: what is wrong, the value, and what to type."""
    seen: set[int] = set()
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        if isinstance(link, MissingConfigException):
            return _explain_missing_option(link, schema)
        if isinstance(link, OverrideParseException):
            # A function of the override syntax, with arguments that it does not take.
            for line in str(link).splitlines():
                if (found := _EVALUATING.match(line)) is not None:
                    return f"{link.override}: {found[1]}"
            return f"cannot read the override {link.override!r}; quote values with special characters: \"'key=value'\""
        key = getattr(link, "full_key", None)
        if key and type(link).__name__ in ("ConfigKeyError", "ConfigAttributeError"):
            return f"{key} is not a key{suggest(key, schema)}"
        if key and isinstance(link, OmegaConfBaseException):
            return f"{key}: {one_line(link)}"
    return one_line(error)


def _explain_missing_option(error: MissingConfigException, schema: type) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or ())
    if not group:
        return f"there is no config {option!r}; try --config-name train"
    if not options:
        return f"{group} is not a config group{suggest(group, schema)}"
    if group == "launch" and "deepspeed" in option:
        return f"launch={option}: DeepSpeed is not supported, docs/scaling.md says why; try launch=fsdp2"
    near = difflib.get_close_matches(option, options, n=1)
    return f"{group}={option}: allowed are {', '.join(options)}" + (
        f"; did you mean {group}={near[0]}?" if near else ""
    )


def null_section(overrides: list[str], error: AssertionError) -> str:
    """One line for a key of a section that is null in the composed config, where OmegaConf only asserts."""
    sections = {"data.sandbox.": "data=sandbox", "model.scratch.": "model=tiny"}
    for override in overrides:
        for prefix, remedy in sections.items():
            if override.lstrip("+").startswith(prefix):
                return f"{override.lstrip('+')}: {prefix[:-1]} is null in this combination; it goes with {remedy}"
    raise error


def one_line(error: BaseException) -> str:
    """The first informative line of a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return " ".join(lines[:6]) if lines else type(error).__name__


def _section(hint: Any) -> type | None:
    """The dataclass that a type annotation holds, itself or optionally."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((one for one in options if dataclasses.is_dataclass(one)), None)  # type: ignore[return-value]


def _refuse_unknown_keys(node: DictConfig, schema: type, prefix: str, root: type = RunConfig) -> None:
    """A `+key=value` is attached by Hydra even where the schema has no such field; it would have no effect."""
    hints = typing.get_type_hints(schema)
    for key in map(str, node):
        if key not in hints:
            raise ConfigError(f"{prefix}{key} is not a key{suggest(f'{prefix}{key}', root)}")
        if OmegaConf.is_missing(node, key) or node._get_node(key) is None:
            continue
        hint = hints[key]
        raw = node._get_node(key)
        if not isinstance(raw, DictConfig) or raw._is_none() or raw._is_interpolation():
            continue
        section = _section(hint)
        if section is not None:
            _refuse_unknown_keys(raw, section, f"{prefix}{key}.", root)


def _named(section: str, name: str, value: Any, schema: type = EvalSetConfig) -> Any:
    """An entry of `data.eval_sets` or `data.mixture`: a bare source, or a mapping with the keys of `schema`."""
    if not isinstance(value, dict):
        return schema(source=value)
    prefix = f"data.{section}.{name}."
    node = OmegaConf.create(value)
    _refuse_unknown_keys(node, schema, prefix)
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), node))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{prefix}{explain(error)}") from error


def compose_run_config(overrides: list[str]) -> RunConfig:
    """The checked config of a command line without flags.

    Raises:
        ConfigError: one line: what is wrong, the value, what is allowed.
    """
    register_schema()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            composed = hydra_compose("train", overrides)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(explain(error)) from error
        except AssertionError as error:
            raise ConfigError(null_section(overrides, error)) from error
    return to_run_config(composed)
