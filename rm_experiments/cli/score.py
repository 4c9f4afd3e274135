"""`rm-score`: the rewards that a saved model gives the rows of a file."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from rm_experiments.cli.application import one_line_errors, refuse, run_application
from rm_experiments.config.compose import register_schema, score_from_plain, to_dataclass, to_plain
from rm_experiments.config.score_schema import STANDARD, ScoreConfig, check_score
from rm_experiments.launch import ranks

_PROGRAM = "rm-score"


def main() -> None:
    """Entry point of `rm-score`. Exits with 0, with 2 and one line when the input is wrong, with 130 or 143 stopped."""
    register_schema()
    if ranks.rank() > 0:
        # Rank 0 composes; the others are told.
        with one_line_errors(_PROGRAM, sys.argv[1:], ScoreConfig):
            _score(score_from_plain(ranks.share(None)))
        return
    run_application(_PROGRAM, "score", _compose, sys.argv[1:], ScoreConfig)


def _compose(composed: DictConfig) -> None:
    config = check_score(to_dataclass(composed, ScoreConfig))
    if config.input != STANDARD:
        # What can be mistyped is answered before torch is imported.
        from rm_experiments.scoring.files import open_input

        open_input(str(config.input))
    if ranks.world_size() > 1:
        ranks.share(to_plain(config))
    _score(config)


def _score(config: ScoreConfig) -> None:
    from rich.console import Console

    from rm_experiments.reporting.console import results_console
    from rm_experiments.scoring.job import Interrupted, score_file

    try:
        result = score_file(config)
    except Interrupted as stopped:
        kept = "" if config.output == STANDARD else "; the same command goes on where it stopped"
        refuse(_PROGRAM, f"interrupted{kept}", stopped.exit_code)
    ranks.leave()
    if ranks.rank():
        return
    errors = Console(stderr=True, highlight=False)
    for note in result.notes:
        errors.print(note, markup=False, soft_wrap=True)
    console = errors if config.output == STANDARD else results_console()
    for line in result.lines():
        console.print(line, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
