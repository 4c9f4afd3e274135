"""`score_file(config)`: a file of rows becomes the same rows with their rewards."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from accelerate.utils import gather_object

from rm_experiments.config.compose import to_plain
from rm_experiments.config.schema import TrainConfig
from rm_experiments.config.score_schema import STANDARD, BadRows, ScoreConfig, ScoreResume, check_score
from rm_experiments.data.cache import digest
from rm_experiments.data.tokenization import tokenizer_digest
from rm_experiments.data.wording import data_error
from rm_experiments.errors import ConfigError, UserError
from rm_experiments.launch import ranks
from rm_experiments.launch.signals import Stopped, StopRequest, stop_on_signals
from rm_experiments.modeling.computing import Alone
from rm_experiments.reporting.scoring_progress import ScoringProgress
from rm_experiments.runner.lock import Lock
from rm_experiments.runner.prepare import make_accelerator
from rm_experiments.runner.saved_models import weights_identity
from rm_experiments.scoring.chunks import PROBLEM, ChunkScorer
from rm_experiments.scoring.columns import NewColumns
from rm_experiments.scoring.files import InputFile, InputRow, open_input, spool_standard_input
from rm_experiments.scoring.model import OpenedModel, RewardModel, open_model
from rm_experiments.scoring.parts import Parts
from rm_experiments.scoring.plan import Plan, make_plan, remedy
from rm_experiments.scoring.writing import Result, Summary, write_bad_rows, write_output


class Interrupted(Exception):
    """A signal stopped the command. What was scored is kept, and used when it is repeated."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code


@dataclass(kw_only=True)
class ScoreResult:
    """What a command did."""

    output: str
    num_rows: int
    """Of the input."""
    num_answers: int
    """That were scored."""
    num_cut_prompts: int
    """Rows whose prompt lost its oldest tokens."""
    num_cut_answers: int
    """Answers that lost their end."""
    max_length: int
    """Tokens of prompt and answer together."""
    num_bad: int
    """Rows that went aside."""
    bad_file: Path | None
    """Where they are."""
    mean: float
    """Of the rewards of all answers."""
    sd: float
    """The same (of the population)."""
    num_resumed: int
    """Answers that an interrupted command had scored before."""
    seconds: float
    notes: list[str] = field(default_factory=list)
    """What was decided in loading, one sentence each."""

    def lines(self) -> list[str]:
        """What a person wants to know, a line each."""
        rate = (self.num_answers - self.num_resumed) / max(self.seconds, 1e-9)
        lines = [
            f"Scored   {self.num_rows - self.num_bad:,} rows, {self.num_answers:,} answers in {self.seconds:,.1f} s "
            f"({rate:,.0f} answers/s)",
            f"Rewards  mean {self.mean:.4f}, standard deviation {self.sd:.4f}",
        ]
        if self.num_cut_prompts or self.num_cut_answers:
            lines.append(
                f"Cut      the oldest tokens of {self.num_cut_prompts:,} prompts, the end of {self.num_cut_answers:,} "
                f"answers (data.max_length={self.max_length})"
            )
        if self.num_bad:
            lines.append(f"Aside    {self.num_bad:,} rows that cannot be scored: {self.bad_file}")
        return [*lines, f"Output   {self.output}"] if self.output != STANDARD else lines


class _Begun(NamedTuple):
    """What all processes know."""

    plan: Plan
    source: InputFile
    directory: Path
    num_resumed: int


def score_file(config: ScoreConfig) -> ScoreResult:
    """Score a file as `rm-score` does. Several processes score a part each, and the output is the same.

    Raises:
        ConfigError, CheckpointError, DataError: one line each, before the weights are read where that is possible.
        Interrupted: when a signal stopped it; the same command goes on.
    """
    began = time.monotonic()
    data = check_score(config).data
    opened = open_model(
        str(config.checkpoint), revision=config.model.revision, trust_remote_code=config.model.trust_remote_code,
        max_length=data.max_length, overlength=data.overlength, text_as=data.text_as, chat_template=data.chat_template,
        chat_template_kwargs=data.chat_template_kwargs,
    )  # fmt: skip
    if config.heads and len(opened.heads) == 1:
        raise ConfigError("heads=true: the model has one head, whose reward is there anyway; leave it out")
    new = NewColumns(suffix=config.suffix, heads=opened.heads, with_heads=config.heads)
    computing = opened.computing(config.train.device.value, config.train.precision.value)
    # Ranks can agree on something only once there is a process group.
    make_accelerator(TrainConfig(device=config.train.device, precision=computing.precision))
    locks: list[Lock] = []
    progress = ScoringProgress(ranks.rank() == 0)
    try:
        begun = ranks.on_main(lambda: _begin(config, opened, new, locks, progress))
        parts = Parts(begun.directory)
        with stop_on_signals() as stop:
            scorer = ChunkScorer(config, begun.source, begun.plan, parts, new, progress)
            try:
                _on_all(lambda: _score(config, opened, computing, scorer, stop), parts)
            except Stopped:
                raise Interrupted(stop.exit_code) from None
            summary = ranks.on_main(lambda: _finish(config, begun, parts, new))
    finally:
        progress.stop()
        for lock in locks:
            lock.release()
        if config.output == STANDARD and locks:
            Parts(locks[0].directory).remove()
    counts = summary.counts
    return ScoreResult(
        output=str(config.output), num_rows=begun.plan.num_rows, num_answers=counts["answers"],
        num_cut_prompts=counts["cut_prompts"], num_cut_answers=counts["cut_answers"], max_length=opened.max_length,
        num_bad=summary.num_bad,
        bad_file=bad_file(config) if summary.num_bad else None, mean=summary.mean, sd=summary.sd,
        num_resumed=begun.num_resumed, seconds=time.monotonic() - began, notes=opened.notes,
    )  # fmt: skip


def bad_file(config: ScoreConfig) -> Path:
    """Where the rows lie that cannot be scored."""
    return Path(f"{Path(str(config.output)).expanduser()}.bad.jsonl")


def _begin(
    config: ScoreConfig, opened: OpenedModel, new: NewColumns, locks: list[Lock], progress: ScoringProgress
) -> _Begun:
    """Look at everything, and take over what an interrupted command left."""
    to_standard = config.output == STANDARD
    output = Path(str(config.output)).expanduser()
    if not to_standard:
        if output.is_dir():
            raise ConfigError(f"output={config.output}: is a directory; name a file")
        if output.exists() and not config.overwrite:
            raise ConfigError(f"output={config.output}: is already there; type overwrite=true, or choose another name")
    known = None if config.input == STANDARD else open_input(str(config.input))
    parts = Parts(Path(tempfile.mkdtemp(prefix="rm-score-")) if to_standard else Path(f"{output}.parts"))
    locks.append(parts.claim())
    try:
        source = known or spool_standard_input(parts.directory / "standard_input.jsonl")
        with progress.waiting("Reading rows ..."):
            plan = make_plan(config, source, lambda kinds: new.schema(kinds).names)
        parts.begin(_job(config, opened, source), config.resume is ScoreResume.auto)
    except BaseException:
        if not parts.begun:
            parts.remove()
        raise
    done = sum(count for number, count in enumerate(plan.answers) if parts.has(number))
    progress.start(sum(plan.answers), done)
    return _Begun(plan, source, parts.directory, done)


def _job(config: ScoreConfig, opened: OpenedModel, source: InputFile) -> dict[str, str]:
    """What must be the same for rewards to be of one command."""
    plain = to_plain(config)
    settings = {key: plain[key] for key in ("rows", "suffix", "heads")}
    settings |= {"columns": plain["data"]["columns"], "precision": plain["train"]["precision"]}
    settings |= {"read": [opened.text_as.value, opened.max_length, opened.overlength.value]}
    return {
        "input": source.digest(), "model": weights_identity(opened.saved),
        "tokenizer or template": tokenizer_digest(opened.saved.tokenizer), "setting": digest(settings),
    }  # fmt: skip


def _score(config: ScoreConfig, opened: OpenedModel, computing: Alone, scorer: ChunkScorer, stop: StopRequest) -> None:
    wanted = scorer.wanted(ranks.rank(), ranks.world_size())
    if wanted:
        model = RewardModel.of(
            opened, computing, layout=config.train.layout.value, micro_batch_tokens=config.eval.micro_batch_tokens
        )
        scorer.score(model, wanted, lambda: stop.asked)


def _on_all(work: Any, parts: Parts) -> None:
    """Do this process's share. What stopped any of them, the first one's, is raised on all."""
    problem: BaseException | None = None
    try:
        work()
    except (UserError, Stopped) as error:
        problem = error
        parts.fail()
    if ranks.world_size() == 1:
        if problem is not None:
            raise problem
        return
    found = [one for one in gather_object([problem]) if one is not None]
    if found:
        raise next((one for one in found if isinstance(one, UserError)), found[0])


def _finish(config: ScoreConfig, begun: _Begun, parts: Parts, new: NewColumns) -> Summary:
    """Put rows and rewards together, in one step for whoever looks at the output."""
    plan, summary = begun.plan, Summary(counts=parts.counts(len(begun.plan.ends)))
    stops = config.bad_rows is BadRows.stop
    results = _results(begun.source.rows(), parts.read(len(plan.ends)), new, summary, stops)
    to_standard = config.output == STANDARD
    output = Path(str(config.output)).expanduser()
    aside, bad = parts.directory / (output.name if not to_standard else "output.jsonl"), parts.directory / "bad"
    with write_bad_rows(bad) as keep_bad:
        good = (one for one in results if one.added is not None or keep_bad(one))
        write_output(aside, begun.source, good, new.schema(plan.row_kinds), plan.columns, plan.schema)
    if to_standard:
        with aside.open("rb") as file, suppress(BrokenPipeError):
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        return summary
    bad_file(config).unlink(missing_ok=True)
    if summary.num_bad:
        os.replace(bad, bad_file(config))
    os.replace(aside, output)
    parts.remove()
    return summary


def _results(
    rows: Iterator[InputRow], kept: Iterator[dict[str, Any]], new: NewColumns, summary: Summary, stops: bool
) -> Iterator[Result]:
    for row, added in zip(rows, kept, strict=True):
        problem = added.get(PROBLEM)
        if problem is not None:
            if stops:
                # From a command before this one, in which they went aside.
                raise data_error(f"{problem}; {remedy()}")
            summary.num_bad += 1
            yield Result(row, None, problem)
            continue
        summary.add(new.rewards(added))
        yield Result(row, added)
