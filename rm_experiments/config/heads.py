"""What a reward is made of when a model has several heads. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from rm_experiments.config.data_schema import SANDBOX_ATTRIBUTES, DataConfig
from rm_experiments.config.schema import RunConfig


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The linear heads of a model on one backbone, and the reward as a weighted sum of what they give."""

    kind: str
    """`single`, `ensemble`, `quality_and_length`, or `attributes`."""
    names: tuple[str, ...]
    weights: tuple[float, ...]
    """Of each head in the reward."""

    def __len__(self) -> int:
        return len(self.names)


SINGLE = Heads(kind="single", names=("reward",), weights=(1.0,))


def heads_of(config: RunConfig) -> Heads:
    """The heads that a model needs to be trained with the loss of a run on its data."""
    loss = config.loss
    if loss.name == "odin":
        return Heads(kind="quality_and_length", names=("quality", "length"), weights=(1.0, 0.0))
    if loss.name == "regression":
        names = attributes_of(config.data)
        weights = loss.attribute_weights or [1 / len(names)] * len(names)
        return Heads(kind="attributes", names=names, weights=tuple(weights)) if len(names) > 1 else SINGLE
    if loss.num_heads > 1:
        names = tuple(f"head_{number}" for number in range(loss.num_heads))
        return Heads(kind="ensemble", names=names, weights=(1 / loss.num_heads,) * loss.num_heads)
    return SINGLE


def attributes_of(data: DataConfig) -> tuple[str, ...]:
    """Names of the scores that single answers have in the data."""
    if data.sandbox is not None:
        return SANDBOX_ATTRIBUTES if data.sandbox.attributes else ()
    return tuple(data.columns.attributes or ())
