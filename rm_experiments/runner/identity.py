"""What a run is made of, and whether it may go on: settings, data, tokenizer and code, as when it began."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from rm_experiments.config.changes import flat_settings, is_free
from rm_experiments.config.compose import TOKENIZER, to_plain
from rm_experiments.config.schema import RunConfig
from rm_experiments.data.cache import digest
from rm_experiments.data.tokenization import tokenizer_digest
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import CheckpointError
from rm_experiments.runner.environment import git_commit, versions
from rm_experiments.runner.prepare import Prepared

_DATA, _CODE = "data.", "code"


def identity_of(config: RunConfig, prepared: Prepared) -> dict[str, str]:
    """Hashes of settings, token ids and tokenizer, and the version of the code; goes into every manifest."""
    settings = {key: value for key, value in flat_settings(to_plain(config)).items() if not is_free(key)}
    sets = {"train": prepared.train, **prepared.evaluation}
    commit = git_commit()
    return {
        "config": digest(settings),
        **{_DATA + name: _digest_of_pairs(pairs) for name, pairs in sets.items()},
        TOKENIZER: tokenizer_digest(prepared.tokenizer),
        _CODE: versions().get("rm_experiments", "unknown") + (f" {commit}" if commit else ""),
    }


def check_identity(before: Mapping[str, str], now: Mapping[str, str], config: RunConfig, whose: str) -> list[str]:
    """Refuse other data or another tokenizer than a checkpoint was made with, unless `allow_changes` has them.

    Settings are compared one by one elsewhere.

    Returns:
        What is different and may be, one sentence each.

    Raises:
        CheckpointError: naming the set.
    """
    lines = []
    for key in (one for one in now if one.startswith(_DATA) or one == TOKENIZER):
        if key not in before or before[key] == now[key]:
            continue
        name = TOKENIZER if key == TOKENIZER else "data"
        what = "the tokenizer is" if key == TOKENIZER else f"the pairs of {key.removeprefix(_DATA)} are"
        if name not in config.allow_changes:
            raise CheckpointError(
                f"{name}: {what} not what {whose} was trained with (hash {before[key][:12]}, now {now[key][:12]}); use "
                f"the same files, or type allow_changes=[{name}] to go on with these"
            )
        lines.append(f"Changed, as allowed: {what} not what {whose} was trained with.")
    if before.get(_CODE, now[_CODE]) != now[_CODE]:
        lines.append(f"The code is {now[_CODE]}; {whose} was written by {before[_CODE]}.")
    return lines


def _digest_of_pairs(pairs: TokenizedPairs) -> str:
    """Of the texts and of everything else that training and evaluation read of them."""
    hasher = hashlib.sha256()
    for name in ("pair_id", "id", "subset"):
        hasher.update(json.dumps([str(one) for one in pairs.table.values(name, pairs.rows)]).encode())
    for values in (pairs.lengths, pairs.num_prompt_tokens, pairs.weight, pairs.label, pairs.target_margin):
        hasher.update(np.ascontiguousarray(values).tobytes())
    return hasher.hexdigest()
