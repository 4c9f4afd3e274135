"""The last layer of a decoder for the scored rows alone: nobody reads what it gives at the others.

Its keys and values need all rows, everything else only those that are scored. So the layer begins on all rows, is left
as soon as it has keys and values, and runs once more on the scored rows, whose queries meet the keys of all. What the
layer looks like inside does not matter.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from torch import Tensor, nn

from rm_experiments.modeling.layouts.attention import Caught, current


class Shape(Enum):
    """What a pruned layer gives of `n` scored rows, as the rest of the model can take it."""

    scored_rows = "scored rows"
    """[1, n, d]"""
    all_rows = "all rows"
    """[1, t, d], zero where nothing is scored: for models that insist on as many rows as tokens."""
    one_per_sequence = "one per sequence"
    """[n, 1, d]: for heads that read the first token of each sequence."""


def prune_last_layer(layer: nn.Module, shape: Shape) -> None:
    """Make `layer` compute the scored rows of a flat batch only. Undone by `restore_last_layer`.

    The layer gets another class, not another function: copies of it then work on their own weights.
    """
    whole = type(layer)
    layer.__class__ = type(whole.__name__, (_Pruned, whole), {"shape": shape, "__module__": whole.__module__})


def restore_last_layer(layer: nn.Module) -> None:
    """Undo `prune_last_layer`."""
    if isinstance(layer, _Pruned):
        layer.__class__ = type(layer).__bases__[1]


class _Pruned(nn.Module):
    """The behaviour that a pruned layer's class puts before its own."""

    shape: Shape

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        batch = current.batch
        if batch is None:
            return super().forward(hidden, *args, **kwargs)
        current.catching = True
        try:
            super().forward(hidden, *args, **kwargs)
        except Caught as caught:
            keys = (caught.key, caught.value)
        else:
            raise AssertionError("the layer has no attention")
        finally:
            current.catching = False
        read, rows = batch.read, hidden.shape[1]
        current.keys = keys
        try:
            result = super().forward(
                hidden.index_select(1, read),
                *(_selected(one, read, rows) for one in args),
                **{name: _selected(one, read, rows) for name, one in kwargs.items()},
            )
        finally:
            current.keys = None
        return _shaped(result, self.shape, read, rows)


def _shaped(result: Any, shape: Shape, read: Tensor, rows: int) -> Any:
    if isinstance(result, tuple):
        return (_shaped(result[0], shape, read, rows), *result[1:])
    if shape is Shape.all_rows:
        whole: Tensor = result.new_zeros(1, rows, result.shape[-1]).index_copy(1, read, result)
        return whole
    return result.transpose(0, 1) if shape is Shape.one_per_sequence else result


def _selected(value: Any, read: Tensor, rows: int) -> Any:
    """The scored rows of everything that has a value per row (positions, rotary angles)."""
    if isinstance(value, Tensor):
        return value.index_select(1, read) if value.ndim >= 2 and value.shape[1] == rows else value
    if isinstance(value, tuple):
        return tuple(_selected(one, read, rows) for one in value)
    if isinstance(value, dict):
        return {name: _selected(one, read, rows) for name, one in value.items()}
    return value


def layers_of(model: nn.Module, count: int) -> nn.ModuleList | None:
    """The decoder layers of a model that has `count` of them."""
    found = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) == count]
    return found[0] if found else None
