"""Names, groups and tags: short, distinct, within W&B's limits, nothing secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from rm_experiments.reporting.run_names import run_group, run_name, run_tags


@pytest.mark.parametrize(
    ("swept", "expected"),
    [
        ([], "mine"),
        (["optimizer.lr=3e-4", "seed=1"], "lr=3e-4 seed=1"),
        (["+optimizer.lr=3e-4"], "lr=3e-4"),
        (["loss.name=a", "optimizer.name=b", "seed=0"], "loss.name=a optimizer.name=b seed=0"),
        (["model=tiny", "data=local"], "model=tiny data=local"),
        (["model.name_or_path=Qwen/Qwen3-0.6B", "data.train=/a/b/c.jsonl"], "name_or_path=Qwen3-0.6B train=c.jsonl"),
        (["optimizer.betas=[0.9,0.95]"], "betas=[0.9,0.95]"),
        (["data.train='a b.jsonl'"], "train=a b.jsonl"),
        (["data.train=" + "x" * 50], "train=" + "x" * 37 + "..."),
        (["model.name_or_path=/models/"], "name_or_path=models"),
    ],
)
def test_a_run_of_a_sweep_is_called_by_what_varies(swept: list[str], expected: str) -> None:
    assert run_name(swept, "mine") == expected


def test_a_name_is_not_longer_than_wandb_takes() -> None:
    name = run_name([f"some.key{number}=value" for number in range(30)], "mine")

    assert len(name) == 128
    assert name.startswith("key0=value key1=value ")
    assert name.endswith("...")


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        (None, None),
        ("outputs/sweeps/rm/2026-01-31_12-00-00", "rm/2026-01-31_12-00-00"),
        ("outputs/sweeps/rm/2026-01-31_12-00-00_2", "rm/2026-01-31_12-00-00_2"),
        ("outputs/lr_sweep", "lr_sweep"),
    ],
)
def test_the_group_is_the_sweep(directory: str | None, expected: str | None) -> None:
    assert run_group(None if directory is None else Path(directory)) == expected


def test_tags_are_the_users_and_the_overrides_that_say_what_the_run_is() -> None:
    overrides = [
        "optimizer.lr=3e-4", "+data.eval_sets.mine=x.jsonl", "run_dir=/home/me/x", "tracking.project=p", "name=n",
        "launch=accelerate", "tracking=wandb", "resume=never", "dry_run=false", "hydra.sweep.dir=d", "seed=1", "seed=1",
        "train.micro_batch_tokens=512", "data=local",
    ]  # fmt: skip

    assert run_tags(["baseline", "seed=1"], overrides) == [
        "baseline", "seed=1", "optimizer.lr=3e-4", "data.eval_sets.mine=x.jsonl", "train.micro_batch_tokens=512",
        "data=local",
    ]  # fmt: skip


def test_tags_are_cut_to_what_wandb_takes_and_stay_distinct() -> None:
    long = ["data.train=" + "x" * 60, "data.train=" + "x" * 61, "data.train=" + "y" * 53, "", "  "]

    tags = run_tags([], long)

    assert tags == ["data.train=" + "x" * 50 + "...", "data.train=" + "y" * 53]
    assert [len(one) for one in tags] == [64, 64]


@pytest.mark.parametrize(
    "override",
    [
        "x.token=abc",
        "hub.api_key=abc",
        "a.password=1",
        "data.train=https://me:pass@host/x.jsonl",
        "model.name_or_path=hf_abcdefghijklmnopqrstuvwxyz",
        "a.b=0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_what_looks_secret_is_neither_in_a_name_nor_a_tag(override: str) -> None:
    assert run_tags([], [override, "seed=1"]) == ["seed=1"]
    assert run_name([override, "seed=1"], "mine") == "seed=1"
