"""What evaluation leaves: one row per pair. Every metric is a function of these rows, so it is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rm_experiments.config.heads import SINGLE, Heads
from rm_experiments.data.tokens import TokenizedPairs

Records: TypeAlias = dict[str, NDArray[Any]]
"""Column name -> [n] values, in the order of COLUMNS."""

COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "prompt_id": pa.string(),
    "pair_id": pa.string(),
    "subset": pa.string(),
    "reward_chosen": pa.float64(),
    "reward_rejected": pa.float64(),
    "margin": pa.float64(),
    "target_margin": pa.float64(),
    "weight": pa.float64(),
    "label": pa.float64(),
    "num_tokens_chosen": pa.int32(),
    "num_tokens_rejected": pa.int32(),
    "num_chars_chosen": pa.int64(),
    "num_chars_rejected": pa.int64(),
    "truncated_chosen": pa.bool_(),
    "truncated_rejected": pa.bool_(),
    "group": pa.int64(),
    "answer_chosen": pa.int64(),
    "answer_rejected": pa.int64(),
}
"""`group` and `answer_*` are numbers: the pairs of k responses to one prompt have one group, equal answers of a group
one number."""


OF_HEADS = ("heads_chosen", "heads_rejected")
"""[n, heads] of a model with several heads: what each of them gives."""
SCORES = ("scores_chosen", "scores_rejected")
"""[n, attributes] of data with scores of single answers; NaN where one is not known."""
SPREAD = ("spread_chosen", "spread_rejected")
"""[n] of an ensemble: the standard deviation over its heads (of the population)."""
OPTIONAL = (*OF_HEADS, *SCORES, *SPREAD)


def has_heads(records: Records) -> bool:
    """Whether the records hold what several heads give."""
    return OF_HEADS[0] in records


def make_records(pairs: TokenizedPairs, rewards: NDArray[np.float64], heads: Heads = SINGLE) -> Records:
    """Records from the rewards of all sequences, in the order of the data.

    Args:
        rewards: [2 n]; of several heads [2 n, heads].
    """
    given, tokens = rewards.reshape(len(pairs), 2, -1), pairs.lengths
    by_pair = given @ np.array(heads.weights)
    known = {
        **pairs.columns,
        "reward_chosen": by_pair[:, 0],
        "reward_rejected": by_pair[:, 1],
        "margin": by_pair[:, 0] - by_pair[:, 1],
        "num_tokens_chosen": tokens[:, 0],
        "num_tokens_rejected": tokens[:, 1],
    }
    records = {name: known[name] for name in COLUMNS}
    if len(heads) > 1:
        records |= {OF_HEADS[side]: given[:, side] for side in (0, 1)}
    if pairs.scores is not None:
        records |= {SCORES[side]: pairs.scores[:, side] for side in (0, 1)}
    if heads.kind == "ensemble":
        records |= {SPREAD[side]: given[:, side].std(axis=1) for side in (0, 1)}
    return records


def write_records(records: Records, path: Path) -> None:
    """As a Parquet file with the columns of COLUMNS, and those of OPTIONAL that there are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = [pa.array(records[name], type=kind, from_pandas=False) for name, kind in COLUMNS.items()]
    names = list(COLUMNS)
    for name in OPTIONAL:
        if name in records:
            values = pa.array(records[name].ravel(), type=pa.float64())
            wide = records[name].ndim == 2
            arrays.append(pa.FixedSizeListArray.from_arrays(values, records[name].shape[1]) if wide else values)
            names.append(name)
    pq.write_table(pa.table(arrays, names=names), path)


def read_records(path: Path) -> Records:
    """The records that `write_records` wrote, in this version or an earlier one."""
    table = pq.read_table(path)
    number = np.arange(len(table))
    # What earlier versions did not write: chosen was preferred, and each pair stood for itself.
    defaults = {
        "label": np.ones(len(table)), "group": number, "answer_chosen": 0 * number, "answer_rejected": 0 * number + 1,
    }  # fmt: skip
    for name, values in defaults.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.array(values))
    records = {name: table[name].to_numpy(zero_copy_only=False) for name in COLUMNS}
    for name in OPTIONAL:
        if name in table.column_names:
            column = table[name].combine_chunks()
            is_list = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
            flat = (column.flatten() if is_list else column).to_numpy(zero_copy_only=False)
            records[name] = flat.reshape(len(table), -1) if is_list else flat
    return records
