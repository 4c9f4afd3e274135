"""The rules of the data settings, each with its line."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from rm_experiments.config.compose import config_yaml, load_config_yaml
from rm_experiments.config.data_schema import BENCHMARK_NAMES, Audit, MixturePartConfig
from rm_experiments.config.data_validation import AUDIT_KINDS, is_template_variable, label_key
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError

SOURCE = "must be a file, a glob, a Hub id with split, or a list of them"
LOCAL = "data=local data.train=x"
# fmt: off
REFUSED: dict[str, str] = {
    "data=mixture":
        "data.train=null: training pairs are needed; try data=local data.train=FILE, or data=sandbox",
    "+data.mixture.a=x": "data.mixture has no effect with data=sandbox; try data=mixture",
    f"{LOCAL} +data.mixture.a=x": "data.train=x: no effect with data.mixture; try data.train=null",
    "data=mixture +data.mixture.a=5": f"data.mixture.a.source=5: {SOURCE}",
    "data=mixture +data.mixture.a={weight:2}": "data.mixture.a.source=null: a file or Hub id is needed",
    "data=mixture +data.mixture.a={source:x,wieght:2}":
        "data.mixture.a.wieght is not a key; did you mean data.mixture?",
    "data=mixture +data.mixture.a={source:x,weight:0}":
        "data.mixture.a.weight=0.0: must be a finite number above 0, or null",
    "data=mixture +data.mixture.a={source:x,weight:-1}":
        "data.mixture.a.weight=-1.0: must be a finite number above 0, or null",
    "data=mixture +data.mixture.a={source:x,weight:inf}":
        "data.mixture.a.weight=inf: must be a finite number above 0, or null",
    "data=mixture +data.mixture.a={source:x,weight:1} +data.mixture.b=y":
        "data.mixture.b.weight=null: other parts have a weight; give all parts one, or none",
    "data=mixture +data.mixture.a={source:x,max_pairs:0}":
        "data.mixture.a.max_pairs=0: must be a whole number of at least 1, or null",
    "data=mixture +data.mixture.a={source:x,subset:''}":
        "data.mixture.a.subset=: must not be empty; try data.mixture.a.subset=null",
    "data=mixture +data.mixture.a=x data.format=hh_rlhf":
        "data.format has no effect with data.mixture, whose parts have their own",
    "data=mixture +data.mixture.a=x data.columns.prompt=q":
        "data.columns has no effect with data.mixture, whose parts have their own",
    f"{LOCAL} data.audit=fixed":
        "data.audit: Invalid value 'fixed', expected one of [report, error, fix]",
    f"{LOCAL} +data.audit_limits.duplicates=0.1":
        "data.audit_limits has no effect with data.audit=report; try data.audit=error",
    f"{LOCAL} data.audit=error +data.audit_limits.duplicate=0.1":
        f"data.audit_limits.duplicate: allowed are {', '.join(AUDIT_KINDS)}; did you mean duplicates?",
    f"{LOCAL} data.audit=error +data.audit_limits.duplicates=1.5":
        "data.audit_limits.duplicates=1.5: must be a share of the pairs, 0 to 1",
    f"{LOCAL} +data.chat_template_kwargs.messages=1":
        "data.chat_template_kwargs=messages: is no name for a variable of a chat template",
    f"{LOCAL} +data.chat_template_kwargs.padding=true":
        "data.chat_template_kwargs=padding: is no name for a variable of a chat template",
    f"{LOCAL} +data.chat_template_kwargs.a-b=1":
        "data.chat_template_kwargs=a-b: is no name for a variable of a chat template",
    f"{LOCAL} data.chat_template=''": "data.chat_template=: must not be empty; try data.chat_template=null",
    f"{LOCAL} data.cache_dir=''": "data.cache_dir=: must not be empty; try data.cache_dir=null",
    f"{LOCAL} data.columns.first_wins=[1] data.columns.second_wins=[2,1]":
        "data.columns.second_wins=[2, 1]: 1 is in first_wins too",
    f"{LOCAL} data.columns.first_wins=['1'] data.columns.tie=[1]": "data.columns.tie=[1]: 1 is in first_wins too",
    f"{LOCAL} data.columns.first_wins=['1.0'] data.columns.tie=[1]": "data.columns.tie=[1]: 1 is in first_wins too",
    f"{LOCAL} data.columns.tie=[null]":
        "data.columns.tie=[None]: must be a list of texts, numbers or booleans",
    f"{LOCAL} data.columns.tie=[[1]]":
        "data.columns.tie=[[1]]: must be a list of texts, numbers or booleans",
    "+data.eval_sets.a={source:x,benchmark:llmba}":
        f"data.eval_sets.a.benchmark=llmba: allowed are {', '.join(BENCHMARK_NAMES)}, or null; "
        "try data.eval_sets.a.benchmark=llmbar",
    "+data.eval_sets.a={source:x,benchmark:xyz}":
        f"data.eval_sets.a.benchmark=xyz: allowed are {', '.join(BENCHMARK_NAMES)}, or null",
    "+data.eval_sets.shifted=x": "data.eval_sets=shifted: is the name of a split; choose another name",
    "data.sandbox.ties=-1": "data.sandbox.ties=-1.0: must be a finite number, at least 0",
    "data.sandbox.contradictions=1.5": "data.sandbox.contradictions=1.5: must be 0 to 1",
    "data.sandbox.difficulty=1": "data.sandbox.difficulty=1.0: must be at least 0 and below 1",
}
# fmt: on


@pytest.mark.parametrize(("line", "message"), REFUSED.items(), ids=REFUSED)
def test_a_data_setting_is_refused(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_alone(line)
    assert str(caught.value) == message


def compose_alone(line: str) -> RunConfig:
    from rm_experiments import compose

    return compose(line.split(" "))


def test_a_mixture_composes_and_survives_its_file(tmp_path: Path) -> None:
    config = compose_alone(
        "data=mixture +data.mixture.a={source:[x,y],weight:2,format:hh_rlhf} +data.mixture.b={source:z,weight:1} "
        "data.audit=error +data.audit_limits.duplicates=0.1"
    )
    assert config.data.mixture == {
        "a": MixturePartConfig(source=["x", "y"], weight=2.0, format="hh_rlhf"),
        "b": MixturePartConfig(source="z", weight=1.0),
    }
    assert (config.data.audit, config.data.audit_limits) == (Audit.error, {"duplicates": 0.1})
    (tmp_path / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
    assert load_config_yaml(tmp_path / "config.yaml") == config


def test_a_source_alone_is_a_part() -> None:
    config = compose_alone("data=mixture +data.mixture.a=x data.eval=y data.format=hh_rlhf")
    assert config.data.mixture == {"a": MixturePartConfig(source="x")}


def test_no_argument_of_the_call_is_a_variable_of_a_template() -> None:
    from transformers import PreTrainedTokenizerBase
    from transformers.utils.chat_template_utils import render_jinja_template

    from rm_experiments.data.special_text import CHECKED

    calls = (PreTrainedTokenizerBase.apply_chat_template, render_jinja_template)
    names = {name for call in calls for name in inspect.signature(call).parameters} - {"kwargs"}
    assert names > {"tools", "tokenize", "conversations"}
    names |= {f"{one}_token" for one in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")} | {CHECKED, "messages"}
    assert [name for name in (*names, "a-b", "", 5) if is_template_variable(name)] == []
    assert is_template_variable("enable_thinking")


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (1, "1"), (1.0, "1"), ("1.0", "1"), ("1.00 ", "1"), ("-1.0", "-1"), (0.5, "0.5"), ("1.05", "1.05"),
        (True, "true"), (" A>B", "a>b"), ("v1.0", "v1.0"), (".0", ".0"),
    ],
)  # fmt: skip
def test_labels_that_are_written_differently_are_one(value: object, key: str) -> None:
    assert label_key(value) == key


def test_limits_name_every_kind_of_finding() -> None:
    from rm_experiments.data.audit import KINDS

    assert set(AUDIT_KINDS) == set(KINDS)
