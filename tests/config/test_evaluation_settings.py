"""The settings of rm-eval and rm-compare: what is refused, and what a model's own settings fill in."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rm_experiments.config.compare_schema import CompareConfig, check_compare
from rm_experiments.config.compose import (
    evaluation_from_plain,
    explain,
    register_schema,
    to_dataclass,
    to_evaluation_config,
    to_plain,
)
from rm_experiments.config.data_schema import (
    ColumnsConfig,
    DataConfig,
    EvalSetConfig,
    MixturePartConfig,
    Overlength,
    SandboxConfig,
    TextAs,
)
from rm_experiments.config.evaluation_data import changed_keys, has_source, typed_keys, with_saved
from rm_experiments.config.evaluation_schema import BREAKDOWN_COLUMNS, EvaluationConfig, breakdown_of, check_evaluation
from rm_experiments.config.paths import conf_dir
from rm_experiments.config.schema import Device, Precision
from rm_experiments.errors import ConfigError


def composed(name: str, *overrides: str) -> Any:
    register_schema()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(name, list(overrides))


def comparison(*overrides: str) -> CompareConfig:
    return check_compare(to_dataclass(composed("compare", *overrides), CompareConfig))


def evaluation(*overrides: str) -> EvaluationConfig:
    return to_evaluation_config(composed("evaluate", *overrides))


def test_comparison_has_its_defaults_and_what_is_typed() -> None:
    config = comparison("directories=[a,b]", "at=100", "sets=[eval,llmbar]", "rows=common", "group_by=run")
    assert config == CompareConfig(
        directories=["a", "b"], at="100", sets=["eval", "llmbar"], rows="common", group_by="run"  # type: ignore[arg-type]
    )  # fmt: skip
    assert comparison("directories=[a]") == CompareConfig(directories=["a"])


NAME = "1 to 80 letters, digits, '.', '_' or '-' are allowed"
SETS = "must be the name of an evaluation set, or a list of them"
COMPARE_REFUSED = {
    ("html=true",): "no directory was named; type rm-compare DIR [DIR ...], each a run, a sweep or a checkpoint",
    ("directories=[a]", "name=a/b"): f"name=a/b: {NAME}; try name=my_comparison",
    ("directories=[a]", "name='...'"): f"name=...: {NAME}; try name=my_comparison",
    ("directories=[a]", "name=''"): f"name=: {NAME}; try name=my_comparison",
    ("directories=[a]", "at=lst"): "at=lst: allowed are final, best, last, or the number of a step; try at=final",
    ("directories=[a]", "at=-1"): "at=-1: allowed are final, best, last, or the number of a step; try at=final",
    ("directories=[a]", "sets=[]"): f"sets=[]: {SETS}",
    ("directories=[a]", "sets=3"): f"sets=3: {SETS}",
    ("directories=[a]", "sets=[eval,'']"): f"sets=['eval', '']: {SETS}",
    ("directories=[a]", "num_resamples=999"): "num_resamples=999: must be at least 1000; try num_resamples=10000",
    ("directories=[a]", "+basline=b"): "basline is not a key; did you mean baseline?",
    ("directories=[a]", "rows=all"): "rows: Invalid value 'all', expected one of [same, common]",
}  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"), COMPARE_REFUSED.items(), ids=[" ".join(one) for one in COMPARE_REFUSED]
)
def test_comparisons_that_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises((ConfigError, HydraException, OmegaConfBaseException)) as caught:
        comparison(*overrides)
    # What Hydra refuses is explained by the command.
    error = caught.value
    shown = str(error) if isinstance(error, ConfigError) else explain(error, CompareConfig)
    assert shown == message


def test_one_thousand_resamples_are_enough() -> None:
    assert comparison("directories=[a]", "num_resamples=1000").num_resamples == 1000


CHECKPOINT = "must be a model directory, a run, a glob, a Hub id, or a list of them"
EVALUATION_REFUSED: dict[str, str] = {
    "name=x": "checkpoint=null: nothing to evaluate; type checkpoint=DIR, a model directory, run or Hub id",
    "checkpoint=[]": f"checkpoint=[]: {CHECKPOINT}",
    "checkpoint=[a,3]": f"checkpoint=['a', 3]: {CHECKPOINT}",
    "checkpoint=a name=a/b": f"name=a/b: {NAME}; try name=my_evaluation",
    "checkpoint=a name=..": f"name=..: {NAME}; try name=my_evaluation",
    "checkpoint=a seed=-1": "seed=-1: must be a whole number from 0 to 4294967295",
    "checkpoint=a seed=4294967296": "seed=4294967296: must be a whole number from 0 to 4294967295",
    "checkpoint=a eval.micro_batch_tokens=0":
        "eval.micro_batch_tokens=0: must be a whole number of at least 1, or auto",
    "checkpoint=a eval.micro_batch_tokens=many":
        "eval.micro_batch_tokens=many: must be a whole number of at least 1, or auto",
    "checkpoint=a train.precision=fp16 train.device=cpu":
        "train.precision=fp16: is not possible with train.device=cpu; try train.precision=bf16",
    "checkpoint=a data.max_length=3": "data.max_length=3: must be a whole number of at least 4, or null",
    "checkpoint=a data.max_eval_pairs=0": "data.max_eval_pairs=0: must be a whole number of at least 1, or null",
    "checkpoint=a data=sandbox data.eval=x": "data.eval=x: no effect with data=sandbox; try data=local",
    "checkpoint=a data.eval=[]": "data.eval=[]: must be a file, a glob, a Hub id with split, or a list of them",
    "checkpoint=a +data.eval_sets.eval=x": "data.eval_sets=eval: is the name of a split; choose another name",
    "checkpoint=a +data.eval_sets.a={source:x,format:y,frmat:z}":
        "data.eval_sets.a.frmat is not a key; did you mean data.eval_sets?",
    "checkpoint=a +model.name_or_path=x": "model.name_or_path is not a key; rm-eval --help lists all keys",
    "checkpoint=a +train.lr=1": "train.lr is not a key; did you mean train?",
}  # fmt: skip


@pytest.mark.parametrize(("line", "message"), EVALUATION_REFUSED.items(), ids=EVALUATION_REFUSED)
def test_evaluations_that_are_refused(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluation(*line.split())
    assert str(caught.value) == message


COLUMNS = ", ".join(BREAKDOWN_COLUMNS)


@pytest.mark.parametrize(
    "setting", ["length", "reward_chosen", "margin:1", "margin:0", "margin:", "margin:-2", "a:b:2", ""]
)
def test_breakdowns_that_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_evaluation(EvaluationConfig(checkpoint="a", breakdown=["subset", setting]))
    assert str(caught.value) == (
        f"breakdown={setting}: a column ({COLUMNS}), or a column and 2 or more bins; "
        "try 'breakdown=[length_difference:5]'; any other column of the data can be its data.columns.subset"
    )


def test_breakdown_is_a_column_and_perhaps_a_number_of_bins() -> None:
    assert breakdown_of("subset") == ("subset", None)
    assert breakdown_of("length_difference:5") == ("length_difference", 5)
    assert evaluation("checkpoint=a", "breakdown=[length_difference:2,margin:10]").breakdown == [
        "length_difference:2", "margin:10"
    ]  # fmt: skip


def test_values_that_are_allowed() -> None:
    for seed in (0, 4294967295):
        assert evaluation("checkpoint=a", f"seed={seed}").seed == seed
    assert evaluation("checkpoint=[a,b]").checkpoint == ["a", "b"]
    config = EvaluationConfig(checkpoint="a")
    config.train.precision, config.train.device = Precision.fp16, Device.auto
    assert check_evaluation(config) is config
    # Nothing is trained, so no training pairs are needed.
    assert evaluation("checkpoint=a", "data.eval=x").data.train is None


def test_an_evaluation_survives_the_way_to_the_other_processes() -> None:
    config = evaluation(
        "checkpoint=[a,'b \\${c}']", "seed=3", "+data.eval_sets.x={source:y,format:hh_rlhf}", "breakdown=[subset]",
        "data.max_length=9", "train.precision=fp32",
    )  # fmt: skip
    assert config.data.eval_sets["x"] == EvalSetConfig(source="y", format="hh_rlhf")
    assert evaluation_from_plain(to_plain(config)) == config


def test_a_benchmark_is_a_source_of_its_own() -> None:
    sources = [f"data.eval_sets.{name}.source={name}.jsonl" for name in ("llmbar", "hhh")]
    config = evaluation("checkpoint=a", "benchmark=[llmbar,hhh]", *sources)
    assert {name: one.source for name, one in config.data.eval_sets.items()} == {
        "llmbar": "llmbar.jsonl", "hhh": "hhh.jsonl"
    }  # fmt: skip
    assert has_source(config.data)
    assert not has_source(evaluation("checkpoint=a").data)


@pytest.mark.parametrize(
    ("override", "keys"),
    [
        ("data.eval=x", {"data", "data.eval"}),
        ("+data.eval_sets.a.source=x", {"data", "data.eval_sets", "data.eval_sets.a", "data.eval_sets.a.source"}),
        ("++data.eval_sets.a=x=y.z", {"data", "data.eval_sets", "data.eval_sets.a"}),
        ("~data.columns", {"data", "data.columns"}),
        ("data=sandbox", {"data"}),
        ("benchmark@data=x", {"benchmark"}),
        ("seed=1", {"seed"}),
    ],
)
def test_keys_that_a_command_line_sets(override: str, keys: set[str]) -> None:
    assert typed_keys([override]) == keys
    assert typed_keys([override, "name=x"]) == {*keys, "name"}
    assert typed_keys([]) == set()


def test_settings_that_are_not_their_defaults_count_as_set() -> None:
    assert changed_keys(DataConfig()) == set()
    assert changed_keys(DataConfig(eval="x", max_length=5, columns=ColumnsConfig(prompt="q"))) == {
        "data.eval", "data.max_length", "data.columns"
    }  # fmt: skip


@pytest.fixture
def saved() -> DataConfig:
    """The settings of a run on files."""
    return DataConfig(
        train="train.jsonl", eval="eval.jsonl", eval_sets={"hard": EvalSetConfig(source="hard.jsonl")},
        format="hh_rlhf", columns=ColumnsConfig(prompt="q"), max_eval_pairs=50, text_as=TextAs.raw, max_length=77,
        overlength=Overlength.drop, eval_fraction=0.2, revision="v1", chat_template="own", cache_dir="/there",
    )  # fmt: skip


def test_nothing_known_changes_nothing() -> None:
    data = DataConfig(eval="x")
    assert with_saved(data, None, set()) is data


def test_without_data_of_its_own_an_evaluation_repeats_that_of_the_run(saved: DataConfig) -> None:
    merged = with_saved(DataConfig(), saved, set())
    assert merged == DataConfig(
        # The main set is a file, so the training pairs are not read.
        train=None, eval="eval.jsonl", eval_sets={"hard": EvalSetConfig(source="hard.jsonl")}, format="hh_rlhf",
        columns=ColumnsConfig(prompt="q"), max_eval_pairs=50, text_as=TextAs.raw, max_length=77,
        overlength=Overlength.drop, eval_fraction=0.2, revision="v1",
    )  # fmt: skip
    assert merged.eval_sets is not saved.eval_sets
    assert merged.columns is not saved.columns


def test_a_main_set_that_is_split_off_needs_the_training_pairs(saved: DataConfig) -> None:
    saved.eval = None
    assert with_saved(DataConfig(), saved, set()).train == "train.jsonl"
    saved.train, saved.mixture = None, {"a": MixturePartConfig(source="x")}
    assert with_saved(DataConfig(), saved, set()).mixture == {"a": MixturePartConfig(source="x")}


def test_a_run_in_the_sandbox_is_evaluated_in_its_world() -> None:
    saved = DataConfig(sandbox=SandboxConfig(num_eval_pairs=9, world_seed=4))
    assert with_saved(DataConfig(), saved, set()).sandbox == SandboxConfig(num_eval_pairs=9, world_seed=4)


@pytest.mark.parametrize(
    "data",
    [
        DataConfig(eval="other.jsonl"), DataConfig(train="other.jsonl"), DataConfig(sandbox=SandboxConfig()),
        DataConfig(eval_sets={"x": EvalSetConfig(source="y")}),
        DataConfig(mixture={"x": MixturePartConfig(source="y")}),
    ],
)  # fmt: skip
def test_other_data_are_read_by_their_own_settings_and_made_into_tokens_as_in_the_run(
    data: DataConfig, saved: DataConfig
) -> None:
    merged = with_saved(data, saved, {"data", "data.eval"})
    expected = to_plain(data) | {"text_as": "raw", "max_length": 77, "overlength": "drop"}
    assert to_plain(merged) == expected


def test_what_is_typed_stays(saved: DataConfig) -> None:
    typed = {"data", "data.max_eval_pairs", "data.max_length", "data.text_as", "data.eval_sets"}
    merged = with_saved(DataConfig(max_eval_pairs=3, max_length=None), saved, typed)
    assert (merged.max_eval_pairs, merged.max_length, merged.text_as) == (3, None, TextAs.chat)
    assert (merged.overlength, merged.eval, merged.eval_sets) == (Overlength.drop, "eval.jsonl", {})
    merged = with_saved(DataConfig(eval="x", overlength=Overlength.error), saved, {"data.eval", "data.overlength"})
    assert (merged.overlength, merged.max_length, merged.format) == (Overlength.error, 77, "auto")


def test_settings_of_evaluating_and_comparing_import_no_torch() -> None:
    code = (
        "import sys; from rm_experiments.config import compose, evaluation_data; "
        "from rm_experiments.runner import compare; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
