"""Train, evaluate and compare reward models.

From Python: `rm_experiments.train(rm_experiments.compose(["seed=1"]))`, and
`rm_experiments.RewardModel.load(DIR).score(prompt, response)`. Importing this package imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rm_experiments.config.compare_schema import CompareConfig
    from rm_experiments.config.evaluation_schema import EvaluationConfig
    from rm_experiments.config.merge_schema import MergeConfig
    from rm_experiments.config.push_schema import PushConfig
    from rm_experiments.config.schema import RunConfig
    from rm_experiments.config.score_schema import ScoreConfig
    from rm_experiments.reporting.hub_upload import Pushed
    from rm_experiments.runner.compare import CompareResult
    from rm_experiments.runner.evaluate import EvaluationResult
    from rm_experiments.runner.look import LookResult
    from rm_experiments.runner.merge import MergeResult
    from rm_experiments.runner.train import RunResult
    from rm_experiments.scoring.job import ScoreResult
    from rm_experiments.scoring.model import RewardModel as RewardModel

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`RewardModel`, which imports torch, when it is asked for."""
    if name == "RewardModel":
        from rm_experiments.scoring.model import RewardModel

        return RewardModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def compose(overrides: list[str] | None = None) -> RunConfig:
    """The checked config of `rm-train OVERRIDES`.

    Raises:
        ConfigError: one line: what is wrong, the value, what is allowed.
    """
    from rm_experiments.config.compose import compose_run_config

    return compose_run_config(overrides or [])


def train(
    config: RunConfig, *, sweep_dir: Path | None = None, overrides: Sequence[str] = (), swept: Sequence[str] = ()
) -> RunResult:
    """Run `config` in this process, as `rm-train` does; see `rm_experiments.runner.train.train`."""
    from rm_experiments.runner.train import train as run

    return run(config, sweep_dir=sweep_dir, overrides=overrides, swept=swept)


def look(config: RunConfig) -> LookResult:
    """Look at the data of `config` without training, as `rm-data` does; see `rm_experiments.runner.look.look`."""
    from rm_experiments.runner.look import look as look_at

    return look_at(config)


def evaluate(config: EvaluationConfig) -> EvaluationResult:
    """Evaluate saved models, as `rm-eval` does; see `rm_experiments.runner.evaluate.evaluate_models`.

    Data settings that have their default are taken from what is saved with each model.
    """
    from rm_experiments.config.evaluation_data import changed_keys
    from rm_experiments.runner.evaluate import evaluate_models

    return evaluate_models(config, changed_keys(config.data))


def score(config: ScoreConfig) -> ScoreResult:
    """Score a file, as `rm-score` does; see `rm_experiments.scoring.job.score_file`."""
    from rm_experiments.scoring.job import score_file

    return score_file(config)


def compare(config: CompareConfig) -> CompareResult:
    """Compare runs, as `rm-compare` does; see `rm_experiments.runner.compare.compare_runs`."""
    from rm_experiments.runner.compare import compare_runs

    return compare_runs(config)


def merge(config: MergeConfig) -> MergeResult:
    """Make one model of an adapter or of several models, as `rm-merge` does; see `rm_experiments.runner.merge`."""
    from rm_experiments.runner.merge import merge_models

    return merge_models(config)


def push(config: PushConfig) -> list[Pushed]:
    """Push saved models to the Hub, as `rm-push` does; see `rm_experiments.runner.push.push_models`."""
    from rm_experiments.runner.push import push_models

    return push_models(config, lambda line: None)
