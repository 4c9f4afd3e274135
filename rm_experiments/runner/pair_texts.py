"""The texts of pairs: as the model reads them, or read again from where a run got its data (records hold hashes)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rm_experiments.config.compose import load_data_settings
from rm_experiments.config.data_schema import DataConfig
from rm_experiments.data.cache import DataCache
from rm_experiments.data.pairs import answer_text, prompt_messages, turn_text
from rm_experiments.data.splits import load_evaluation
from rm_experiments.errors import UserError
from rm_experiments.runner.run_dir import CONFIG_FILE, ENVIRONMENT_FILE, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rm_experiments.data.tokens import TokenizedPairs
    from rm_experiments.evaluation.records import Records

_MOST_CHARACTERS = 4000
_NUM_WORST = 20


def pair_texts(run_dir: Path, name: str, ids: list[str]) -> dict[str, tuple[str, str, str]] | str:
    """Prompt, chosen and rejected by `pair_id`, of the pairs `ids` of the set `name`; or why they cannot be had."""
    try:
        data, seed = load_data_settings(run_dir / CONFIG_FILE)
        _from_working_directory(data, run_dir)
        split = load_evaluation(data, seed, DataCache(data.cache_dir)).get(name)
    except (UserError, OSError, ValueError) as error:
        return f"the data of {run_dir} cannot be read again: {error}"
    if split is None:
        return f"{run_dir} does not say where this set comes from"
    wanted = set(ids)
    own = split.table.values("pair_id", split.rows)
    rows = split.rows[np.array([one in wanted for one in own], dtype=bool)]
    found = {}
    for row, pair in zip(split.table.values("pair_id", rows), split.table.pairs(rows), strict=True):
        turns = prompt_messages(pair.prompt)
        single = len(turns) == 1 and turns[0]["role"] == "user"
        prompt = turn_text(turns[0]) if single else "\n\n".join(f"[{one['role']}] {turn_text(one)}" for one in turns)
        texts = (prompt, answer_text(pair.chosen), answer_text(pair.rejected))
        found[row] = (_cut(texts[0]), _cut(texts[1]), _cut(texts[2]))
    if not found:
        return f"the data of {run_dir} has changed since: none of its pairs is the same"
    return found


def read_texts(
    pairs: TokenizedPairs, members: NDArray[Any], tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """Id, prompt, chosen and rejected of some pairs as the model reads them, special tokens and cuts included."""
    rows = []
    for index, name in zip(members.tolist(), pairs.ids_of_pairs(members), strict=True):
        shared = int(pairs.num_prompt_tokens[index])
        chosen, rejected = pairs.sequence(2 * index), pairs.sequence(2 * index + 1)
        rows.append({
            "id": name, "prompt": tokenizer.decode(chosen[:shared]),
            "chosen": tokenizer.decode(chosen[shared:]), "rejected": tokenizer.decode(rejected[shared:]),
        })  # fmt: skip
    return rows


def most_wrong(records: Records, pairs: TokenizedPairs, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """The pairs that a model gets most wrong, as it reads them."""
    order = records["margin"].argsort(kind="stable")[:_NUM_WORST]
    numbers = ("margin", "reward_chosen", "reward_rejected")
    return [
        {**row, "subset": records["subset"][at], **{name: float(records[name][at]) for name in numbers}}
        for at, row in zip(order.tolist(), read_texts(pairs, order, tokenizer), strict=True)
    ]


def write_texts(
    path: Path, pairs: TokenizedPairs, members: NDArray[Any], ids: list[str], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write those of `members` that have these ids, or all if none has, as a line of JSON each."""
    named = np.isin(pairs.ids_of_pairs(members), ids)
    rows = read_texts(pairs, members[named] if named.any() else members, tokenizer)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _from_working_directory(data: DataConfig, run_dir: Path) -> None:
    """Relative paths are those of the directory in which the run was started."""
    try:
        start = Path(json.loads((run_dir / ENVIRONMENT_FILE).read_text(encoding="utf-8"))["working_directory"])
    except (OSError, ValueError, KeyError):
        return

    def placed(source: Any) -> Any:
        if isinstance(source, list):
            return [placed(one) for one in source]
        moved = start / str(source)
        return str(moved) if isinstance(source, str) and not Path(source).exists() and moved.exists() else source

    data.train, data.eval = placed(data.train), placed(data.eval)
    for one in (*data.eval_sets.values(), *data.mixture.values()):
        one.source = placed(one.source)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ... ({len(text):,} characters)"
