"""What a reward is made of when a model has several heads. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from rm_experiments.config.loss_schema import LossConfig


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The linear heads of a model on one backbone, and the reward as a weighted sum of what they give."""

    kind: str
    """`single`, `ensemble`, or `quality_and_length`."""
    names: tuple[str, ...]
    weights: tuple[float, ...]
    """Of each head in the reward."""

    def __len__(self) -> int:
        return len(self.names)


SINGLE = Heads(kind="single", names=("reward",), weights=(1.0,))


def heads_of(loss: LossConfig) -> Heads:
    """The heads that a model needs to be trained with this loss."""
    if loss.name == "odin":
        return Heads(kind="quality_and_length", names=("quality", "length"), weights=(1.0, 0.0))
    if loss.num_heads > 1:
        names = tuple(f"head_{number}" for number in range(loss.num_heads))
        return Heads(kind="ensemble", names=names, weights=(1 / loss.num_heads,) * loss.num_heads)
    return SINGLE
