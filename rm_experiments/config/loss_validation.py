"""Rules of `loss`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rm_experiments.config.data_schema import EvalSetConfig, Ties
from rm_experiments.config.heads import attributes_of, heads_of
from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.rules import (
    POSITIVE,
    WHOLE,
    NumberRule,
    at_least_one,
    below_half,
    not_negative,
    positive,
    refuse,
)
from rm_experiments.config.schema import RunConfig

LOSS_NAMES = (
    "bradley_terry", "scaled_bradley_terry", "robust_bradley_terry", "log_exp", "hinge", "focal", "rao_kupper",
    "davidson", "plackett_luce", "odin", "regression",
)  # fmt: skip

LOSSES_WITH_TIES = ("rao_kupper", "davidson")
"""Those that know ties as an outcome of their own."""

LM_FORMS = ("sft", "dpo", "cross_entropy")

_READ_BY: dict[str, tuple[str, ...]] = {
    "hinge_margin": ("hinge",),
    "focal_gamma": ("focal",),
    "tie_probability": LOSSES_WITH_TIES,
    "noise_rate": ("robust_bradley_terry",),
    "attribute_weights": ("regression",),
    "length_coefficient": ("odin",),
    "orthogonal_coefficient": ("odin",),
}
"""Settings that some losses read and others do not."""

_NOT_WITH: tuple[tuple[str, str, str], ...] = (
    ("scaled_bradley_terry", "use_margin", "the margin is the factor there already"),
    ("robust_bradley_terry", "label_smoothing", "it undoes what loss.noise_rate does"),
    ("plackett_luce", "use_margin", "a ranking has no margins"),
    ("odin", "num_heads", "it has two heads of its own"),
    ("regression", "num_heads", "it has a head for each attribute"),
    ("regression", "use_margin", "it is about single answers"),
    ("regression", "label_smoothing", "it is about single answers"),
    ("regression", "center_coefficient", "the scores say where rewards are"),
    ("regression", "barrier_coefficient", "the scores say where rewards are"),
    ("plackett_luce", "label_smoothing", "a ranking is a row of choices, not of labels"),
)
"""(loss, setting that does not go with it, why)."""


def loss_settings(loss: LossConfig) -> dict[str, Any]:
    """The settings of `loss` that its loss reads, for people."""
    unread = {key for key, names in _READ_BY.items() if loss.name not in names}
    unread |= {key for name, key, _ in _NOT_WITH if loss.name == name}
    if not loss.barrier_coefficient:
        unread.add("barrier_bound")
    if not loss.lm_coefficient:
        unread |= {"lm_coefficient", "lm_form", "lm_beta"}
    elif loss.lm_form == "cross_entropy":
        unread.add("lm_beta")
    if loss.num_heads == 1:
        unread |= {"num_heads", "bootstrap"}
    return {key: value for key, value in asdict(loss).items() if key not in unread and value is not None}


def loss_numbers(config: RunConfig) -> Iterator[NumberRule]:
    """The numbers of `loss`, with what is allowed."""
    loss = config.loss
    yield "loss.label_smoothing", loss.label_smoothing, below_half, "at least 0 and below 0.5"
    yield "loss.center_coefficient", loss.center_coefficient, not_negative, "a finite number, at least 0"
    yield "loss.barrier_coefficient", loss.barrier_coefficient, not_negative, "a finite number, at least 0"
    yield "loss.barrier_bound", loss.barrier_bound, positive, POSITIVE
    yield "loss.lm_coefficient", loss.lm_coefficient, lambda x: 0 <= x < 1, "at least 0 and below 1"
    yield "loss.lm_beta", loss.lm_beta, positive, POSITIVE
    yield "loss.hinge_margin", loss.hinge_margin, positive, POSITIVE
    yield "loss.focal_gamma", loss.focal_gamma, positive, POSITIVE
    yield "loss.tie_probability", loss.tie_probability, lambda x: 0 < x < 1, "above 0 and below 1"
    yield "loss.num_heads", loss.num_heads, at_least_one, WHOLE
    yield "loss.length_coefficient", loss.length_coefficient, not_negative, "a finite number, at least 0"
    yield "loss.orthogonal_coefficient", loss.orthogonal_coefficient, not_negative, "a finite number, at least 0"
    yield "loss.noise_rate", loss.noise_rate, lambda x: 0 < x < 0.5, "above 0 and below 0.5"


def check_loss(config: RunConfig) -> None:
    """Refuse settings that the loss does not read, or that contradict it.

    Raises:
        ConfigError: one line with the setting, its value, what is allowed and what to type.
    """
    loss, defaults = config.loss, LossConfig()
    for setting, names in _READ_BY.items():
        value = getattr(loss, setting)
        if loss.name not in names and value != getattr(defaults, setting):
            raise refuse(
                f"loss.{setting}", value, f"no effect with loss.name={loss.name}",
                f"loss={names[0]}, or leave it out",
            )  # fmt: skip
    _check_language(config)
    if loss.name == "regression":
        _check_attributes(config)
    for name, setting, why in _NOT_WITH:
        value = getattr(loss, setting)
        if loss.name == name and value != getattr(defaults, setting):
            raise refuse(f"loss.{setting}", value, f"not with loss.name={name}: {why}", "leaving it out")
    if loss.num_heads == 1 and loss.bootstrap != defaults.bootstrap:
        raise refuse("loss.bootstrap", loss.bootstrap, "no effect without an ensemble", "loss.num_heads=5")
    if config.launch.strategy == "fsdp" and len(heads_of(config)) > 1:
        raise refuse(
            "launch.strategy", "fsdp", f"a model of {len(heads_of(config))} heads is not spread over processes",
            "launch.strategy=ddp",
        )  # fmt: skip
    if not loss.barrier_coefficient and loss.barrier_bound != defaults.barrier_bound:
        raise refuse(
            "loss.barrier_bound", loss.barrier_bound, "no effect without a barrier", "loss.barrier_coefficient=0.02"
        )
    if loss.name in LOSSES_WITH_TIES and config.data.ties is Ties.drop:
        raise refuse(
            "data.ties", config.data.ties, f"loss.name={loss.name} is there for the ties",
            "data.ties=keep, or loss=bradley_terry",
        )  # fmt: skip


def _check_language(config: RunConfig) -> None:
    """The language-model term has what it needs, and its settings are read."""
    loss, defaults = config.loss, LossConfig()
    if loss.lm_form not in LM_FORMS:
        raise refuse("loss.lm_form", loss.lm_form, f"allowed are {', '.join(LM_FORMS)}", "loss.lm_form=sft")
    if not loss.lm_coefficient:
        for key in ("lm_form", "lm_beta"):
            if getattr(loss, key) != getattr(defaults, key):
                raise refuse(
                    f"loss.{key}", getattr(loss, key), "no effect without a language-model term",
                    "loss.lm_coefficient=0.01",
                )  # fmt: skip
        return
    if loss.lm_form == "cross_entropy" and loss.lm_beta != defaults.lm_beta:
        raise refuse("loss.lm_beta", loss.lm_beta, "no effect with loss.lm_form=cross_entropy", "leaving it out")
    if config.adapter.name == "probe":
        raise refuse(
            "loss.lm_coefficient", loss.lm_coefficient,
            "keeps hidden states as they are, and adapter=probe changes none of them", "leaving it out",
        )  # fmt: skip
    if config.launch.strategy == "fsdp":
        raise refuse(
            "launch.strategy", "fsdp", "a language-model head (loss.lm_coefficient) is not spread over processes",
            "launch.strategy=ddp",
        )  # fmt: skip


def _check_attributes(config: RunConfig) -> None:
    """The data give scores of single answers, and each attribute has a weight."""
    weights, number = config.loss.attribute_weights, len(attributes_of(config.data))
    if config.data.mixture:
        raise refuse("loss.name", "regression", "is not possible with data.mixture", "data.train=FILE")
    if not number:
        sandbox = config.data.sandbox is not None
        remedy = "data.sandbox.attributes=true" if sandbox else "'data.columns.attributes=[NAME,...]'"
        raise refuse("loss.name", "regression", "needs scores of single answers in the data", remedy)
    for name, one in config.data.eval_sets.items():
        own = one.columns.attributes if isinstance(one, EvalSetConfig) else None
        if own is not None and tuple(own) != attributes_of(config.data):
            raise refuse(
                f"data.eval_sets.{name}.columns.attributes", f"[{','.join(own)}]",
                f"must be those of the training data, [{','.join(attributes_of(config.data))}]", "leaving it out",
            )  # fmt: skip
    if weights is not None and number == 1:
        raise refuse("loss.attribute_weights", weights, "no effect with one attribute; leave it out")
    if weights is not None and (len(weights) != number or not any(weights)):
        raise refuse("loss.attribute_weights", weights, f"must be {number} numbers, one per attribute, not all 0")
