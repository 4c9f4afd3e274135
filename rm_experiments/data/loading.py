"""From a source of a config to a table of its pairs, read once and kept in the cache."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rm_experiments.config.data_schema import ColumnsConfig, SandboxConfig
from rm_experiments.data.cache import DataCache, digest, file_digest
from rm_experiments.data.formats import PairReader
from rm_experiments.data.hub import load_hub
from rm_experiments.data.pairs import PreferencePair
from rm_experiments.data.sandbox import generate, iter_train
from rm_experiments.data.sandbox.best_of_n import SandboxAnswers
from rm_experiments.data.sources import resolve_source
from rm_experiments.data.table import write_table

_META = "meta.json"


@dataclass(frozen=True, kw_only=True)
class LoadedPairs:
    """Pairs in a file, and what is known about them."""

    path: Path
    """A file for `open_table`."""
    identity: str
    """Equal for equal pairs: what caches of derived data go by."""
    counts: dict[str, Any]
    """What was read, and what was noticed: for the data report."""


def load_source(
    cache: DataCache, source: Any, key: str, format: str, columns: ColumnsConfig, revision: str | None,
    subset: str | None = None,
) -> LoadedPairs:  # fmt: skip
    """The pairs of files or of a Hub split.

    Args:
        key: the setting that holds `source`, such as `data.train`, for messages.
        subset: of rows that name none.

    Raises:
        DataError: naming file, line and column of the first row that cannot be read.
    """
    identity = {
        "content": [_content(part, key, revision) for part in resolve_source(source, key)],
        "format": format, "columns": dataclasses.asdict(columns), "revision": revision, "subset": subset,
    }  # fmt: skip

    def build(directory: Path) -> None:
        reader = PairReader(source, key, format, columns, revision)
        write_table(directory / "pairs.arrow", _with_subset(reader, subset))
        counts = dataclasses.asdict(reader.report)
        unnamed = reader.report.pairs_read - sum(reader.report.subsets.values())
        if subset is not None and unnamed:
            counts["subsets"][subset] = counts["subsets"].get(subset, 0) + unnamed
        (directory / _META).write_text(json.dumps(counts))

    directory = cache.entry("pairs", identity, build)
    counts = json.loads((directory / _META).read_text()) | {"source": source}
    return LoadedPairs(path=directory / "pairs.arrow", identity=digest(identity), counts=counts)


def _content(part: Any, key: str, revision: str | None) -> list[str]:
    """What the rows of a file or Hub split depend on, its name included: pairs know where they come from."""
    if isinstance(part, Path):
        return [str(part), file_digest(part)]
    if isinstance(part, SandboxAnswers):
        return [repr(part)]
    return [str(part), str(load_hub(part, key, revision)._fingerprint)]


def _with_subset(pairs: Iterable[PreferencePair], subset: str | None) -> Iterator[PreferencePair]:
    for pair in pairs:
        if pair.subset is None:
            pair.subset = subset
        yield pair


def load_sandbox(cache: DataCache, config: SandboxConfig) -> dict[str, LoadedPairs]:
    """The generated splits: `train`, `eval`, and `shifted` where the world has a confound."""
    identity = dataclasses.asdict(config)

    def build(directory: Path) -> None:
        meta: dict[str, Any] = {}

        def write(name: str, pairs: Iterable[PreferencePair], achievable: dict[str, float]) -> None:
            count = write_table(directory / f"{name}.arrow", pairs)
            meta[name] = {"format": "sandbox", "rows_read": count, "pairs_read": count}
            if achievable:
                meta[name]["best_achievable"] = achievable

        write("train", iter_train(config), {})
        world = generate(dataclasses.replace(config, num_train_pairs=0))
        write("eval", world.eval, world.best_achievable)
        if world.shifted:
            write("shifted", world.shifted, world.shifted_best_achievable)
        (directory / _META).write_text(json.dumps(meta))

    directory = cache.entry("sandbox", identity, build)
    meta = json.loads((directory / _META).read_text())
    return {
        name: LoadedPairs(path=directory / f"{name}.arrow", identity=digest([identity, name]), counts=counts)
        for name, counts in meta.items()
    }
