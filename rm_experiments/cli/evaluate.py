"""`rm-eval`: evaluate saved reward models on any data or benchmark."""

from __future__ import annotations

import sys
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rm_experiments.cli.application import one_line_errors, run_application
from rm_experiments.config.compose import evaluation_from_plain, register_schema, to_evaluation_config, to_plain
from rm_experiments.config.evaluation_data import typed_keys
from rm_experiments.config.evaluation_schema import EvaluationConfig
from rm_experiments.data.sources import resolve_source
from rm_experiments.launch import ranks

_PROGRAM = "rm-eval"


def main() -> None:
    """Entry point of `rm-eval`. Exits with 0, or with 2 and one line when the input is wrong."""
    register_schema()
    if ranks.rank() > 0:
        # Rank 0 composes; the others are told.
        with one_line_errors(_PROGRAM, sys.argv[1:], EvaluationConfig):
            told = ranks.share(None)
            _evaluate(evaluation_from_plain(told["config"]), told["typed"])
        return
    run_application(_PROGRAM, "evaluate", _compose, sys.argv[1:], EvaluationConfig)


def _compose(composed: DictConfig) -> None:
    settings = HydraConfig.get()
    typed = sorted(typed_keys(settings.overrides.task))
    if OmegaConf.is_missing(composed.data, "train"):
        # Nothing is trained: `data=local data.eval=FILE` is all that is needed.
        composed.data.train = None
    config = to_evaluation_config(composed)
    _check_paths(config)
    if ranks.world_size() > 1:
        ranks.share({"config": to_plain(config), "typed": typed})
    _evaluate(config, typed)


def _check_paths(config: EvaluationConfig) -> None:
    """What can be mistyped is answered before torch is imported."""
    if config.data.eval is not None:
        resolve_source(config.data.eval, "data.eval")
    for name, one in config.data.eval_sets.items():
        resolve_source(one.source, f"data.eval_sets.{name}.source")


def _evaluate(config: EvaluationConfig, typed: list[str]) -> None:
    from rich.console import Console

    from rm_experiments.reporting.console import results_console
    from rm_experiments.reporting.evaluation_table import print_breakdown, print_scores, print_set
    from rm_experiments.runner.evaluate import EvaluationResult, evaluate_models

    result: EvaluationResult = evaluate_models(config, typed)
    ranks.leave()
    if ranks.rank():
        return
    errors = Console(stderr=True, highlight=False)
    for note in dict.fromkeys(note for one in result.evaluated for note in one.notes):
        errors.print(note, markup=False, soft_wrap=True)
    console: Any = results_console()
    for name in dict.fromkeys(name for one in result.evaluated for name in one.metrics):
        having = [one for one in result.evaluated if name in one.metrics]
        console.print()
        rows = [(one.checkpoint.name, one.metrics[name]) for one in having]
        print_set(console, name, having[0].sources[name], rows)
        if name in having[0].benchmarks:
            print_scores(console, having[0].benchmarks[name], rows)
        if len(having) == 1:
            for setting, parts in having[0].breakdowns[name].items():
                print_breakdown(console, setting, parts)
    for one in result.evaluated:
        for finding in one.findings:
            console.print(f"{one.checkpoint.name}: {finding.line}", markup=False, style="yellow", soft_wrap=True)
    console.print()
    console.print(f"Numbers  {result.directory}", markup=False, soft_wrap=True)
    if len(result.evaluated) > 1:
        console.print(f"Compare  rm-compare {result.directory}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
