"""The run that is handed over, once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import rm_experiments
from rm_experiments.config.schema import RunConfig
from tests.handover.handed import rows_of_messages, write_policy, write_rows

STEPS = ("train.max_steps=6", "train.batch_size=8", "optimizer.lr=0.03", "eval=default")


@pytest.fixture(scope="session")
def finished(compose: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`finished(name, *overrides)`: the directory of a finished run on conversational rows, without pictures."""
    root = tmp_path_factory.mktemp("handed")
    rows = rows_of_messages()
    files = (
        f"data.train={write_rows(root / 'train.jsonl', rows)}",
        f"data.eval={write_rows(root / 'eval.jsonl', rows)}",
    )

    def run(name: str, *overrides: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rm_experiments.reporting.plots.write_plots", lambda *_: [])
            config = compose("data=local", *files, *STEPS, f"run_dir={root / name}", *overrides)
            assert rm_experiments.train(config).status == "finished"
        return root / name

    return run


@pytest.fixture(scope="session")
def run_dir(finished: Callable[..., Path]) -> Path:
    """A run of all weights. To be read only."""
    return finished("run")


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("policy") / "policy")
