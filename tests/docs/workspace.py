"""A directory in which everything that the pages name is there, small: runs, sweeps, models, files of rows."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.handover.handed import write_policy

PAIRS = [
    {"prompt": f"What is {one} and {one}?", "chosen": f"It is {2 * one}.", "rejected": "No idea." * (1 + one % 3)}
    for one in range(12)
]
OTHER_PAIRS = [{**one, "prompt": one["prompt"].replace("What", "How much")} for one in PAIRS]
SCORED = [
    {"prompt": f"Say {one}.", "responses": [f"{one}", f"{one}!", "no", "never"], "scores": [1.0, 0.5, -1.0, -2.0]}
    for one in range(4)
]
VOTES = [
    {"input": {"question": f"Which, {one}?"}, "outputs": [{"text": "this"}, {"text": f"that {one}"}], "vote": "left"}
    for one in range(12)
]
ROWS: dict[str, list[dict[str, Any]]] = {
    "train.jsonl": PAIRS, "train.jsonl.gz": PAIRS, "eval.parquet": OTHER_PAIRS, "eval.jsonl": OTHER_PAIRS,
    "pairs.jsonl.gz": PAIRS, "other.jsonl": OTHER_PAIRS, "hh.jsonl.gz": PAIRS, "a.jsonl": PAIRS, "b.jsonl": OTHER_PAIRS,
    "nectar.parquet": PAIRS, "llmbar.jsonl": PAIRS, "total_dataset.json": PAIRS, "answers.jsonl": SCORED,
    "votes.jsonl": VOTES,
}  # fmt: skip
RUNS = ("outputs/rm/DATE", "RUN", "DIR", "outputs/a/DATE", "outputs/sweeps/rm/DATE/0", "outputs/eval/eval/DATE")
OTHER_RUNS = ("outputs/b/DATE", "outputs/sweeps/rm/DATE/1", "outputs/sweeps/helpful/DATE/3")
"""The same run with another learning rate in its config."""
MODELS = ("DIRECTORY_OR_HUB_ID", "ACCOUNT/rm", "averaged")
POLICY = "POLICY"
STEP_600 = "RUN/eval/step_00000600/sandbox_best_of_n.parquet"


def things() -> set[str]:
    """Every path that is made, as the pages write it."""
    return {*ROWS, *RUNS, *OTHER_RUNS, *MODELS, POLICY}


def make_workspace(root: Path, run: Path, best_of_n: Path) -> None:
    """Fill `root` from a finished run and the records of a best-of-n set."""
    for name, rows in ROWS.items():
        write(root / name, rows)
    for name in (*RUNS, *OTHER_RUNS):
        shutil.copytree(run, root / name, symlinks=True)
    for name in OTHER_RUNS:
        config = root / name / "config.yaml"
        text = config.read_text(encoding="utf-8")
        assert "\n  lr: " in text
        config.write_text(text.replace("\n  lr: ", "\n  lr: 1"), encoding="utf-8")
    for name in MODELS:
        shutil.copytree(run / "final", root / name)
    write_policy(root / POLICY)
    (root / STEP_600).parent.mkdir()
    shutil.copy(best_of_n, root / STEP_600)
    checkpoints = root / "RUN" / "checkpoints"
    shutil.copytree(checkpoints / "step_00000002", checkpoints / "step_00000100")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows in the format of the name."""
    lines = "".join(json.dumps(one) + "\n" for one in rows).encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_bytes(lines)
