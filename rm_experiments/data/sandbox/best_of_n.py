"""Prompts of the sandbox world with several answers each and their gold rewards, as rows of a source of data.

The source is typed as `sandbox:best_of_n`, or with options as `sandbox:best_of_n:prompts=200,tasks=list+sum`. The
answers are drawn as those of the world's pairs are, repetitions left out; the prompts are of the tenth that no world
trains on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rm_experiments.config.data_schema import SANDBOX_TASKS, SandboxConfig
from rm_experiments.data.sandbox.tasks import TASKS, gold_reward
from rm_experiments.data.sandbox.words import Dice, pools
from rm_experiments.data.sandbox.world import is_held_out, padded
from rm_experiments.data.wording import data_error

_NAME = "sandbox:best_of_n"
_TRIES = 2000
"""Draws without a new prompt, or a new answer, after which there are none."""
_LIMITS = {
    "prompts": (1, 100_000), "answers": (2, 1000), "vocabulary": (5, 50_000), "sequence_length": (0, 100_000),
    "world_seed": (0, 2**63),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SandboxAnswers:
    """What `sandbox:best_of_n` generates."""

    prompts: int = 100
    """Prompts in all, the tasks in turn."""
    answers: int = 16
    """Different answers to each."""
    tasks: tuple[str, ...] = tuple(SandboxConfig().tasks)
    vocabulary: int = SandboxConfig().vocabulary
    sequence_length: int = SandboxConfig().sequence_length
    world_seed: int = SandboxConfig().world_seed
    spec: str = _NAME
    """As the user typed it."""

    def __str__(self) -> str:
        return self.spec


def is_sandbox_source(spec: str) -> bool:
    """Whether a source is meant to be generated."""
    return spec == _NAME or spec.startswith(_NAME + ":")


def sandbox_answers(spec: str, key: str) -> SandboxAnswers:
    """What `spec` asks for.

    Args:
        spec: `sandbox:best_of_n`, or that and `:name=value,name=value`; several tasks are joined by `+`.
        key: the setting that holds it, for messages.

    Raises:
        DataError: an unknown option, or a value that is not allowed.
    """
    values: dict[str, Any] = {}
    allowed = ["tasks", *_LIMITS]
    for option in spec.removeprefix(_NAME).removeprefix(":").split(","):
        if not option and spec == _NAME:
            continue
        name, _, text = option.partition("=")
        if name not in allowed:
            raise data_error(f"{key}={spec}: {name!r} is no option; allowed are {', '.join(allowed)}")
        if name in values:
            raise data_error(f"{key}={spec}: {name} is there twice; leave one of them out")
        values[name] = _tasks(text, f"{key}={spec}") if name == "tasks" else _number(name, text, f"{key}={spec}")
    return SandboxAnswers(**values, spec=spec)


def _tasks(text: str, where: str) -> tuple[str, ...]:
    names = tuple(text.split("+"))
    if len(set(names) & set(SANDBOX_TASKS)) != len(names):
        raise data_error(f"{where}: tasks={text}: must be different ones of {', '.join(SANDBOX_TASKS)}, joined by +")
    return names


def _number(name: str, text: str, where: str) -> int:
    low, high = _LIMITS[name]
    # Not isdigit: it takes digits that int() does not.
    if not text.isdecimal() or not low <= int(text) <= high:
        raise data_error(f"{where}: {name}={text}: must be a whole number from {low} to {high}")
    return int(text)


def answer_rows(wanted: SandboxAnswers, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of each prompt: `id`, `prompt`, `responses`, `scores` (their gold rewards) and `subset` (the task).

    Equal settings give equal rows, and fewer prompts are the first ones of more.

    Raises:
        DataError: when the world has not so many prompts, or not so many answers to one.
    """
    dice, words = Dice(f"{wanted.world_seed} best of n"), pools(wanted.vocabulary)
    seen: set[str] = set()
    for number in range(wanted.prompts):
        name = wanted.tasks[number % len(wanted.tasks)]
        for _ in range(_TRIES):
            prompt, answer = TASKS[name].make(dice, words)
            if is_held_out(prompt) and prompt not in seen:
                break
        else:
            problem = f"the world has no further prompt of the task {name} after {number} prompts in all"
            raise data_error(f"{key}={wanted}: {problem}; lower prompts, or raise vocabulary")
        seen.add(prompt)
        drawn: dict[str, None] = {}
        for _ in range(_TRIES):
            drawn[answer()] = None
            if len(drawn) == wanted.answers:
                break
        else:
            problem = f"only {len(drawn)} different answers were found to a prompt of the task {name}"
            raise data_error(f"{key}={wanted}: {problem}; lower answers")
        scores = [gold_reward(prompt, one) for one in drawn]
        responses = list(drawn)
        if length := wanted.sequence_length:
            prompt = padded(dice, prompt, length, closed=True)
            responses = [padded(dice, one, length, TASKS[name].closed) for one in responses]
        row = {"id": str(number), "prompt": prompt, "responses": responses, "scores": scores, "subset": name}
        yield f"{wanted} prompt {number + 1}", row
