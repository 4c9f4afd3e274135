"""Nothing that a run writes has a password or token of the environment, and no file of a checkpoint runs code."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import rm_experiments
from rm_experiments.config.schema import RunConfig

SECRETS = {
    "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwxyzabcdefgh",
    "HUGGING_FACE_HUB_TOKEN": "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",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCY",
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
}
SHAPES = re.compile(rb"hf_[A-Za-z]{30,}|AKIA[0-9A-Z]{16}|local-[0-9a-f]{40}")


@pytest.fixture(scope="module")
def written(compose: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with secrets in its environment, tracked by W&B without a network."""
    path = tmp_path_factory.mktemp("secrets") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        settings = ("tracking=wandb", "tracking.mode=offline", "train.max_steps=2", "eval.at_start=false")
        config = compose(*settings)
        config.run_dir = str(path)
        rm_experiments.train(config)
    return path


def test_no_secret_is_in_any_file(written: Path) -> None:
    files = [one for one in written.rglob("*") if one.is_file()]
    assert len(files) > 30
    assert any("wandb" in one.parts for one in files)
    for file in files:
        content = file.read_bytes()
        found = [name for name, value in SECRETS.items() if value.encode() in content]
        assert not found, (file, found)
        assert not SHAPES.search(content), file


def test_the_only_pickle_has_plain_values(written: Path) -> None:
    def is_pickle(path: Path) -> bool:
        return zipfile.is_zipfile(path) or path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04", b"\x80\x05")

    models = [path for path in written.rglob("*") if path.is_file() and {"checkpoints", "final"} & set(path.parts)]
    assert {path.name for path in models if is_pickle(path)} == {"training_args.bin"}
    path = written / "final" / "training_args.bin"
    assert torch.load(path, weights_only=True)["seed"] == 0
    with zipfile.ZipFile(path) as archive:
        name = next(one for one in archive.namelist() if one.endswith("data.pkl"))
        assert not [
            one for one, _, _ in pickletools.genops(archive.read(name)) if one.name in ("GLOBAL", "REDUCE", "BUILD")
        ]
