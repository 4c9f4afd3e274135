"""The columns that scoring adds to a row."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from rm_experiments.config.heads import Heads
from rm_experiments.config.score_schema import RowKind
from rm_experiments.scoring.model import Scores
from rm_experiments.scoring.writing import Added

_NUMBER = pa.float64()


@dataclass(frozen=True, kw_only=True)
class NewColumns:
    """How the new columns of a command are called, and what is in them."""

    suffix: str
    """After each name."""
    heads: Heads
    """Of the model."""
    with_heads: bool
    """Whether what each head gives is added, too."""

    def schema(self, kinds: Collection[RowKind]) -> pa.Schema:
        """Names and types of the new columns of rows of these kinds together."""
        head = pa.struct([(name, _NUMBER) for name in self.heads.names])
        ensemble = self.heads.kind == "ensemble"
        found: dict[str, pa.DataType] = {}
        for kind in (RowKind.response, RowKind.messages, RowKind.responses, RowKind.pair):
            if kind not in kinds:
                continue
            if kind is RowKind.responses:
                found |= {"rewards": pa.list_(_NUMBER), "best": pa.int64(), "rank": pa.list_(pa.int64())}
                found |= {"rewards_sd": pa.list_(_NUMBER)} if ensemble else {}
                found |= {"rewards_heads": pa.list_(head)} if self.with_heads else {}
                continue
            sides = ("_chosen", "_rejected") if kind is RowKind.pair else ("",)
            found |= {f"reward{side}": _NUMBER for side in sides}
            found |= {f"reward{side}_sd": _NUMBER for side in sides} if ensemble else {}
            found |= {f"reward{side}_heads": head for side in sides} if self.with_heads else {}
        return pa.schema([(name + self.suffix, kind) for name, kind in found.items()])

    def of(self, kind: RowKind, scores: Scores) -> Added:
        """The new columns of a row of this kind."""
        heads = [dict(zip(self.heads.names, one, strict=True)) for one in scores.heads]
        added: Added
        if kind is RowKind.responses:
            best = max(range(len(scores.rewards)), key=lambda one: (scores.rewards[one], -one))
            added = {"rewards": scores.rewards, "best": best, "rank": ranks_of(scores.rewards)}
            added |= {} if scores.sds is None else {"rewards_sd": scores.sds}
            added |= {"rewards_heads": heads} if self.with_heads else {}
        else:
            sides = ("_chosen", "_rejected") if kind is RowKind.pair else ("",)
            added = {f"reward{side}": one for side, one in zip(sides, scores.rewards, strict=True)}
            added |= {f"reward{side}_sd": one for side, one in zip(sides, scores.sds or (), strict=False)}
            added |= (
                {f"reward{side}_heads": one for side, one in zip(sides, heads, strict=True)} if self.with_heads else {}
            )
        return {name + self.suffix: value for name, value in added.items()}

    def rewards(self, added: Added) -> list[float]:
        """The rewards among the new columns of a row."""
        found: list[float] = []
        for name in ("reward", "reward_chosen", "reward_rejected"):
            found += [added[name + self.suffix]] if name + self.suffix in added else []
        return [*found, *added.get("rewards" + self.suffix, ())]


def ranks_of(rewards: list[float]) -> list[int]:
    """The place of each among the others, 1 for the highest; equal rewards have equal places."""
    ascending = sorted(rewards)
    return [1 + len(ascending) - bisect_right(ascending, one) for one in rewards]
