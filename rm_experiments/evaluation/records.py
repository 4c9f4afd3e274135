"""What evaluation leaves: one row per pair. Every metric is a function of these rows, so it is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

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


def make_records(pairs: TokenizedPairs, rewards: NDArray[np.float64]) -> Records:
    """Records from the rewards [2 n] of all sequences, in the order of the data."""
    by_pair, tokens = rewards.reshape(-1, 2), pairs.lengths
    known = {
        **pairs.columns,
        "reward_chosen": by_pair[:, 0],
        "reward_rejected": by_pair[:, 1],
        "margin": by_pair[:, 0] - by_pair[:, 1],
        "num_tokens_chosen": tokens[:, 0],
        "num_tokens_rejected": tokens[:, 1],
    }
    return {name: known[name] for name in COLUMNS}


def write_records(records: Records, path: Path) -> None:
    """As a Parquet file with the columns of COLUMNS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = [pa.array(records[name], type=kind, from_pandas=False) for name, kind in COLUMNS.items()]
    pq.write_table(pa.table(arrays, names=list(COLUMNS)), path)


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
    return {name: table[name].to_numpy(zero_copy_only=False) for name in COLUMNS}
