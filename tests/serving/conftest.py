"""A saved model, and servers of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from rm_experiments.config.serve_schema import ServeConfig
from rm_experiments.scoring.model import OpenedModel, RewardModel
from tests.serving.running import Server, Slow, loaded, running


@pytest.fixture(scope="session")
def saved(trained_run: Path) -> tuple[OpenedModel, RewardModel]:
    """The final model of the run, which reads 100 tokens here."""
    return loaded(trained_run, max_length=100)


@pytest.fixture
def slow(saved: tuple[OpenedModel, RewardModel]) -> Slow:
    """The model with passes that can be watched and held up."""
    return Slow(saved[1])


@pytest.fixture
def serve(saved: tuple[OpenedModel, RewardModel], slow: Slow) -> Iterator[Callable[..., Server]]:
    """`serve(limits={...}, batch={...}, token=..., models=...)`: a server of `slow`, or of other models."""
    with ExitStack() as stack:

        def start(
            token: str | None = None, models: Any = None, only_local: bool = False, **sections: dict[str, Any]
        ) -> Server:
            config = ServeConfig(checkpoint="x")
            for section, values in sections.items():
                for name, value in values.items():
                    assert hasattr(getattr(config, section), name)
                    setattr(getattr(config, section), name, value)
            return stack.enter_context(running(config, models or {"tiny": (saved[0], slow)}, token, only_local))

        yield start
