"""The pairs of a sandbox world: prompts and answers drawn, labelled, and split so that no prompt is in both splits."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, cycle, islice

from rm_experiments.config.data_schema import SandboxConfig
from rm_experiments.data.pairs import PreferencePair
from rm_experiments.data.sandbox.annotators import (
    MARKER,
    best_achievable,
    label_probabilities,
    ranking,
    ratings,
    stated_strength,
)
from rm_experiments.data.sandbox.tasks import TASKS, gold_reward
from rm_experiments.data.sandbox.words import NEUTRAL, Dice, pools


@dataclass(kw_only=True)
class SandboxWorld:
    """Generated pairs and what is known about them."""

    train: list[PreferencePair]
    eval: list[PreferencePair]
    """Other prompts, labelled by the same annotators."""
    shifted: list[PreferencePair] = field(default_factory=list)
    """The prompts and answers of `eval` labelled without length bias, style confound, flipped labels and ties; the
    style marker is on either answer at random. Empty without a length bias or a style confound."""
    best_achievable: dict[str, float]
    """`accuracy`, `loss`, `loss_without_ties`, `brier` and `ece` on `eval`: see `annotators.best_achievable`."""
    shifted_best_achievable: dict[str, float] = field(default_factory=dict)
    """The same on `shifted`."""

    @property
    def best_achievable_accuracy(self) -> float:
        """Expected accuracy on the evaluation pairs of a predictor that knows the label probabilities; NaN without a
        pair that is no tie."""
        return self.best_achievable.get("accuracy", math.nan)

    @property
    def best_achievable_loss(self) -> float:
        """Its expected Bradley-Terry loss (nats): the mean entropy of the labels."""
        return self.best_achievable["loss"]


def generate(config: SandboxConfig) -> SandboxWorld:
    """The world of `config.world_seed`: equal settings give equal pairs. No prompt occurs in both splits.

    Fewer pairs are the first ones of more, and the evaluation pairs do not depend on the number of training pairs. Of
    ranked answers the last prompt's pairs may not all be there.
    """
    evaluation = _evaluation(config, config, "eval")
    world = SandboxWorld(
        train=list(iter_train(config)), eval=evaluation, best_achievable=best_achievable(config, evaluation)
    )
    if config.length_bias or config.style_confound:
        fair = dataclasses.replace(config, length_bias=0.0, style_confound=0.0, label_noise=0.0, ties=0.0)
        world.shifted = _evaluation(config, fair, "shifted")
        world.shifted_best_achievable = best_achievable(fair, world.shifted)
    return world


def iter_train(config: SandboxConfig) -> Iterator[PreferencePair]:
    """The training pairs of `generate(config)`, one at a time."""
    if config.num_responses > 2:
        yield from islice(_ranked(config, Dice(config.world_seed)), config.num_train_pairs)
        return
    drawn = _labelled(config, config, Dice(config.world_seed), held_out=False)
    num_decided = num_repeated = number = 0
    while number < config.num_train_pairs:
        pair = next(drawn)
        yield _numbered(pair, "train", number)
        number += 1
        num_decided += pair.label == 1
        # Spread evenly, so that the share is exact for any number of pairs; the sum of 0.1s needs the small term.
        if num_repeated < int(num_decided * config.contradictions + 1e-9) and number < config.num_train_pairs:
            swapped = dataclasses.replace(pair, chosen=pair.rejected, rejected=pair.chosen)
            yield _numbered(swapped, "train", number)
            num_repeated += 1
            number += 1


def _evaluation(config: SandboxConfig, annotators: SandboxConfig, split: str) -> list[PreferencePair]:
    drawn = _labelled(config, annotators, Dice(f"{config.world_seed} held out"), held_out=True)
    return [_numbered(next(drawn), split, number) for number in range(config.num_eval_pairs)]


def _numbered(pair: PreferencePair, split: str, number: int) -> PreferencePair:
    pair.id, pair.where = f"{split}-{number}", f"sandbox {split} pair {number}"
    return pair


def _labelled(config: SandboxConfig, annotators: SandboxConfig, dice: Dice, held_out: bool) -> Iterator[PreferencePair]:
    """Pairs of texts as `config` says, labelled as `annotators` say, without end.

    Each pair takes equally many draws whatever the annotators, so that other annotators label the same texts.
    """
    for subset, prompt, first, second in _texts(config, dice, held_out):
        prefers_first, prefers_second = label_probabilities(annotators, prompt, first, second)
        drawn = dice.random()
        # A tie lies between the two preferences, which are then at the two ends of 0 to 1.
        tie = prefers_first <= drawn < 1 - prefers_second and annotators.ties > 0
        chosen, rejected = (first, second) if drawn < prefers_first else (second, first)
        if config.style_confound:
            strength = 0.0 if tie else annotators.style_confound
            if dice.random() < (1 + strength) / 2:
                chosen = chosen[:-1] + MARKER
            else:
                rejected = rejected[:-1] + MARKER
        margin = None
        if annotators.strengths:
            margin = 0.0 if tie else stated_strength(annotators, prompt, first, second)
        rated: list[list[float | None] | None] = [None, None]
        if annotators.attributes:
            rated = [ratings(annotators, prompt, answer, dice.random()) for answer in (chosen, rejected)]
        yield PreferencePair(
            id="", prompt=prompt, chosen=chosen, rejected=rejected, subset=subset, label=0.5 if tie else 1.0,
            margin=margin, scores_chosen=rated[0], scores_rejected=rated[1],
        )  # fmt: skip


def _ranked(config: SandboxConfig, dice: Dice) -> Iterator[PreferencePair]:
    """All pairs of prompts with several ranked answers, without end. The pairs of a prompt share the weight 1."""
    words = pools(config.vocabulary)
    for number, name in enumerate(cycle(config.tasks)):
        prompt, answer = TASKS[name].make(dice, words)
        while is_held_out(prompt):
            prompt, answer = TASKS[name].make(dice, words)
        answers: list[str] = []
        while len(answers) < config.num_responses:
            one = answer()
            if one not in answers:
                answers.append(one)
        if config.sequence_length:
            prompt = padded(dice, prompt, config.sequence_length, closed=True)
            answers = [padded(dice, one, config.sequence_length, TASKS[name].closed) for one in answers]
        ranked = ranking(config, prompt, answers, [dice.random() for _ in answers])
        pairs = list(combinations(range(len(ranked)), 2))
        for best, worst in pairs:
            chosen, rejected = ranked[best], ranked[worst]
            yield PreferencePair(
                id=f"train-{number}-{best}-{worst}", prompt=prompt, chosen=chosen, rejected=rejected, subset=name,
                weight=1 / len(pairs), where=f"sandbox train prompt {number}",
                margin=stated_strength(config, prompt, chosen, rejected) if config.strengths else None,
            )  # fmt: skip


def _texts(config: SandboxConfig, dice: Dice, held_out: bool) -> Iterator[tuple[str, str, str, str]]:
    """(task, prompt, answer, other answer) in the order of the tasks, without end."""
    words = pools(config.vocabulary)
    while True:
        for name in config.tasks:
            task = TASKS[name]
            while True:
                prompt, answer = task.make(dice, words)
                if is_held_out(prompt) != held_out:
                    continue
                first, second = answer(), answer()
                if first != second and _close_enough(config.difficulty, dice, prompt, first, second):
                    break
            if config.sequence_length:
                prompt = padded(dice, prompt, config.sequence_length, closed=True)
                first = padded(dice, first, config.sequence_length, task.closed)
                second = padded(dice, second, config.sequence_length, task.closed)
            yield name, prompt, first, second


def is_held_out(prompt: str) -> bool:
    """Whether a prompt belongs to the tenth of all, by their text, that no world trains on."""
    return zlib.crc32(prompt.encode()) % 10 == 0


def _close_enough(difficulty: float, dice: Dice, prompt: str, first: str, second: str) -> bool:
    """Each half unit of gold reward between the answers makes a pair (1 - difficulty) times as frequent."""
    if not difficulty:
        return True
    difference = abs(gold_reward(prompt, first) - gold_reward(prompt, second))
    return dice.random() < float((1 - difficulty) ** (2 * difference))


def padded(dice: Dice, text: str, length: int, closed: bool) -> str:
    """`text` with neutral sentences around it, or before it if `closed`: `length` words on average, give or take half.

    A text of capitals gets capitals.
    """
    target = length * (0.5 + dice.random())
    sentences: list[str] = []
    count = len(text.split())
    while count < target:
        sentences.append(dice.pick(NEUTRAL))
        count += len(sentences[-1].split())
    before = len(sentences) if closed else dice.below(len(sentences) + 1)
    around = " ".join(sentences[:before]), " ".join(sentences[before:])
    if text.isupper():
        around = around[0].upper(), around[1].upper()
    return " ".join(part for part in (around[0], text, around[1]) if part)
