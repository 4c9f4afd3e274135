"""`score_file(config)`: a file of rows becomes the same rows with their rewards."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
from rm_experiments.errors import ConfigError, TrainingError, UserError
from rm_experiments.launch import ranks
from rm_experiments.launch.signals import Stopped, StopRequest, stop_on_signals
from rm_experiments.modeling.computing import Alone
from rm_experiments.reporting.scoring_progress import ScoringProgress
from rm_experiments.runner.lock import Lock, check_lock
from rm_experiments.runner.prepare import make_accelerator
from rm_experiments.runner.saved_models import weights_identity
from rm_experiments.scoring.chunks import PROBLEM, ChunkScorer
from rm_experiments.scoring.columns import NewColumns
from rm_experiments.scoring.files import InputFile, InputRow, open_input, spool_standard_input
from rm_experiments.scoring.model import OpenedModel, RewardModel, open_configured
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
    num_without_prompt: int
    """Rows of responses without a prompt."""
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
        rate = max(0, self.num_answers - self.num_resumed) / max(self.seconds, 1e-9)
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
        if self.num_without_prompt:
            lines.append(
                f"Notice   {self.num_without_prompt:,} rows have no prompt: their answers were scored alone; if "
                "another column is the prompt, type data.columns.prompt=COLUMN"
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
    check_score(config)
    opened = open_configured(str(config.checkpoint), config.model, config.data)
    if config.heads and len(opened.heads) == 1:
        raise ConfigError("heads=true: the model has one head, whose reward is there anyway; leave it out")
    new = NewColumns(suffix=config.suffix, heads=opened.heads, with_heads=config.heads)
    computing = opened.computing(config.train.device.value, config.train.precision.value)
    # Ranks can agree on something only once there is a process group.
    make_accelerator(TrainConfig(device=config.train.device, precision=computing.precision))
    locks: list[Lock] = []
    progress = ScoringProgress(ranks.rank() == 0)
    try:
        precision = computing.precision.value
        begun = ranks.on_main(lambda: _begin(config, opened, precision, new, locks, progress))
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
            if config.output == STANDARD:
                Parts(lock.directory).remove()
            lock.release()
            # Where files are still open when they are deleted (NFS), the directory could not be removed before.
            with suppress(OSError):
                lock.directory.rmdir()
    counts = summary.counts
    return ScoreResult(
        output=str(config.output), num_rows=begun.plan.num_rows, num_answers=counts["answers"],
        num_cut_prompts=counts["cut_prompts"], num_cut_answers=counts["cut_answers"], max_length=opened.max_length,
        num_without_prompt=begun.plan.num_without_prompt, num_bad=summary.num_bad,
        bad_file=bad_file(config) if summary.num_bad else None, mean=summary.mean, sd=summary.sd,
        num_resumed=begun.num_resumed, seconds=time.monotonic() - began, notes=opened.notes,
    )  # fmt: skip


def bad_file(config: ScoreConfig) -> Path:
    """Where the rows lie that cannot be scored."""
    return Path(f"{_output(config)}.bad.jsonl")


def _begin(
    config: ScoreConfig, opened: OpenedModel, precision: str, new: NewColumns, locks: list[Lock],
    progress: ScoringProgress,
) -> _Begun:  # fmt: skip
    """Look at everything, and take over what an interrupted command left."""
    parts = _parts(config)
    _check_output(config)
    # Said at once; to look at all rows may take minutes.
    check_lock(parts.directory, "output")
    source = plan = None
    if config.input != STANDARD:
        source = open_input(str(config.input))
        with progress.waiting("Reading rows ..."):
            plan = make_plan(config, source, new.schema)
    locks.append(parts.claim())
    try:
        # Another command may have ended meanwhile.
        _check_output(config)
        source = source or spool_standard_input(parts.directory / "standard_input.jsonl")
        plan = plan or make_plan(config, source, new.schema)
        parts.begin(_job(config, opened, precision, source, plan), config.resume is ScoreResume.auto)
    except BaseException:
        if not parts.begun:
            parts.remove()
        raise
    done = sum(count for number, count in enumerate(plan.answers) if parts.has(number))
    progress.start(sum(plan.answers), done)
    return _Begun(plan, source, parts.directory, done)


def _parts(config: ScoreConfig) -> Parts:
    """Where rewards are kept until the output is whole."""
    if config.output != STANDARD:
        parts = Parts(Path(f"{_output(config)}.parts"))
        parts.remove_if_sealed(_waiting(config, parts))
        return parts
    if sys.stdout is None:
        raise ConfigError("output=-: standard output is closed; type output=FILE")
    if os.environ.get("LOCAL_WORLD_SIZE", "1") != os.environ.get("WORLD_SIZE", "1"):
        raise ConfigError("output=-: the processes of several machines need a directory in common; type output=FILE")
    return Parts(Path(tempfile.mkdtemp(prefix="rm-score-")))


def _check_output(config: ScoreConfig) -> None:
    if config.output == STANDARD:
        return
    if _output(config).is_dir():
        raise ConfigError(f"output={config.output}: is a directory; name a file")
    for path in (_output(config), bad_file(config)):
        if path.exists() and not config.overwrite:
            raise ConfigError(f"output={path}: is already there; type overwrite=true, or choose another name")


def _output(config: ScoreConfig) -> Path:
    return Path(str(config.output)).expanduser()


def _waiting(config: ScoreConfig, parts: Parts) -> Path:
    """The output before it is put in its place; a name that nothing else there has."""
    name = "output.jsonl" if config.output == STANDARD else _output(config).name
    return parts.directory / f"whole_{name}"


def _job(config: ScoreConfig, opened: OpenedModel, precision: str, source: InputFile, plan: Plan) -> dict[str, str]:
    """What must be the same for rewards to be of one command."""
    plain = to_plain(config)
    settings = {key: plain[key] for key in ("rows", "suffix", "heads")}
    settings |= {"columns": plain["data"]["columns"], "precision": precision, "chunks": plan.ends}
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


def _on_all(work: Callable[[], None], parts: Parts) -> None:
    """Do this process's share. What stopped any of them is raised on all."""
    problem: Exception | None = None
    try:
        work()
    except (UserError, TrainingError, Stopped) as error:
        problem = error
    except Exception as error:
        if ranks.world_size() == 1:
            raise
        problem = TrainingError(f"rank {ranks.rank()}: {type(error).__name__}: {error}")
    if problem is not None:
        parts.fail()
    if ranks.world_size() == 1:
        if problem is not None:
            raise problem
        return
    parts.wait_for_all(ranks.rank(), ranks.world_size())
    found = [one for one in gather_object([problem]) if one is not None]
    if found:
        raise next((one for one in found if not isinstance(one, Stopped)), found[0])


def _finish(config: ScoreConfig, begun: _Begun, parts: Parts, new: NewColumns) -> Summary:
    """Put rows and rewards together, in one step for whoever looks at the output."""
    plan, summary = begun.plan, Summary(counts=parts.counts(len(begun.plan.ends)))
    stops = config.bad_rows is BadRows.stop
    begun.source.check_unchanged()
    results = _results(begun.source.rows(), parts.read(len(plan.ends)), new, summary, stops)
    waiting, bad = _waiting(config, parts), parts.directory / "bad"
    with write_bad_rows(bad) as keep_bad:
        good = (one for one in results if one.added is not None or keep_bad(one))
        write_output(waiting, begun.source, good, new.schema(plan.row_kinds), plan.columns, plan.schema)
    if config.output == STANDARD:
        with waiting.open("rb") as file, suppress(BrokenPipeError):
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        return summary
    for path in (waiting, bad):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    bad_file(config).unlink(missing_ok=True)
    if summary.num_bad:
        os.replace(bad, bad_file(config))
    parts.seal()
    os.replace(waiting, _output(config))
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
