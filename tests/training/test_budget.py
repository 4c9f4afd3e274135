"""Tokens of a forward pass: as set, by the width of the model, and with a resumed run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rm_experiments.config.schema import Layout
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.training.budget import evaluation_budget, training_budget

BATCHER = Batcher(layout=Layout.packed, pad_id=0)


def budget(setting: int | str, device: str, width: int = 64) -> int:
    config: Any = SimpleNamespace(get_text_config=lambda: SimpleNamespace(hidden_size=width))
    model: Any = SimpleNamespace(model=SimpleNamespace(config=config))
    accelerator: Any = SimpleNamespace(device=torch.device(device))
    return training_budget(setting, accelerator, model, BATCHER, 100)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_budget_is_as_set(device: str) -> None:
    assert budget(777, device) == 777
    assert evaluation_budget(55, 777, device) == 55


@pytest.mark.parametrize(("width", "expected"), [(64, 4096), (256, 4096), (384, 2560), (512, 2048), (4096, 1024)])
def test_budget_on_a_cpu_goes_by_the_width_of_the_model(width: int, expected: int) -> None:
    assert budget("auto", "cpu", width) == expected


@pytest.mark.parametrize(("device", "expected"), [("cpu", 1000), ("mps", 2000), ("cuda", 4000)])
def test_evaluation_takes_a_multiple_of_the_budget_of_training(device: str, expected: int) -> None:
    assert evaluation_budget("auto", 1000, device) == expected
