"""The configs of a sweep's jobs against those of the same command lines typed one by one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode

import rm_experiments
from rm_experiments.config.changes import config_hash
from rm_experiments.config.compose import register_schema
from rm_experiments.config.grid import JobComposer, swept_keys
from rm_experiments.config.paths import conf_dir
from rm_experiments.errors import ConfigError

FIXED = ["train.max_steps=7", "tracking=none", "+data.eval_sets.mine=a.jsonl"]
JOBS = {
    "values": [["seed=1", "optimizer.lr=0.5"], ["seed=2", "optimizer.lr=0.25"], ["optimizer.betas=[0.8,0.95]"]],
    "options": [["loss=bradley_terry_margin"], ["loss=bradley_terry"], ["optimizer=adamw", "scheduler=cosine"]],
    "options and values": [
        ["scheduler=cosine", "scheduler.min_lr_ratio=0.1"],
        ["scheduler=warmup_stable_decay", "scheduler.decay_ratio=0.3"],
    ],
    "experiments": [
        ["experiment=sandbox_ties", "data.ties=keep"],
        ["experiment=sandbox_label_noise", "loss.label_smoothing=0.25"],
    ],
    "a value that an experiment sets": [["experiment=sandbox_label_noise", "train.max_steps=3"]],
    "several options of a group": [["benchmark=[sandbox_best_of_n]"], ["benchmark=[none]"]],
}


@pytest.fixture
def composer() -> Iterator[JobComposer]:
    register_schema()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("train", [], run_mode=RunMode.MULTIRUN)
        yield JobComposer(loader, master)


@pytest.mark.parametrize("jobs", JOBS.values(), ids=JOBS)
def test_a_job_is_composed_as_its_command_line_is(composer: JobComposer, jobs: list[list[str]]) -> None:
    found = [composer.compose([*job, *FIXED]) for job in jobs]

    GlobalHydra.instance().clear()
    # Composed by Hydra anew, one by one.
    assert found == [rm_experiments.compose([*job, *FIXED]) for job in jobs]


def test_a_job_does_not_change_the_ones_after_it(composer: JobComposer) -> None:
    first = composer.compose(["seed=1", "data.sandbox.num_train_pairs=11"])
    composer.compose(["seed=5", "data.sandbox.num_train_pairs=12", "+data.eval_sets.mine=a.jsonl"])

    assert composer.compose(["seed=1", "data.sandbox.num_train_pairs=11"]) == first


def test_a_jobs_settings_of_hydra_itself_are_left_alone(composer: JobComposer) -> None:
    found = composer.compose(["seed=3", "hydra.sweep.dir=there"])

    GlobalHydra.instance().clear()
    assert found == rm_experiments.compose(["seed=3"])


@pytest.mark.parametrize(
    ("job", "error", "message"),
    [
        (["optimizer.lrr=1"], HydraException, "Could not override 'optimizer.lrr'"),
        (["+optimizer.lrr=1"], ConfigError, r"optimizer\.lrr is not a key; did you mean optimizer\.lr\?"),
        (["optimizer.lr=-1"], ConfigError, r"optimizer\.lr=-1\.0: must be a finite number above 0"),
        (["loss=hinged"], HydraException, "Could not find 'loss/hinged'"),
    ],
)
def test_what_is_wrong_is_refused(composer: JobComposer, job: list[str], error: type, message: str) -> None:
    composer.compose([])

    with pytest.raises(error, match=message):
        composer.compose(job)


def test_the_swept_keys_are_those_that_differ() -> None:
    jobs = [["a=1", "b=2", "c=x"], ["a=1", "b=3", "c=x"], ["a=1", "b=2", "c=x", "d=1"]]

    assert swept_keys(jobs) == {"b", "d"}
    assert swept_keys([["a=1"]]) == set()
    assert swept_keys([]) == set()


def test_the_hash_of_a_config_is_that_of_what_decides_the_result() -> None:
    plain = config_hash(rm_experiments.compose([]))
    free = ["run_dir=here", "tracking=none", "train.layout=padded", "launch.concurrent_runs=3", "train.max_hours=2"]

    assert {config_hash(rm_experiments.compose([one])) for one in free} == {plain}
    others = ["seed=1", "optimizer.lr=0.1", "loss=bradley_terry_margin", "data.sandbox.world_seed=7", "name=other"]
    assert len({plain, *(config_hash(rm_experiments.compose([one])) for one in others)}) == 6
