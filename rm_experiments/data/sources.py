"""From what the user typed (files, globs, Hub ids) to rows."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from rm_experiments.data.files import READERS, Located, TextFile
from rm_experiments.data.hub import HubId, read_hub
from rm_experiments.data.sandbox.best_of_n import SandboxAnswers, answer_rows, is_sandbox_source, sandbox_answers
from rm_experiments.data.wording import data_error, shown
from rm_experiments.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
_HUB_NAME = r"\w[\w.-]*/\w[\w.-]*"
_HUB_ID = re.compile(rf"({_HUB_NAME})(?::(\w[\w.-]*))?:(\w[\w.-]*(?:\[[-\d:%]*\])?)")


class Row(NamedTuple):
    """One row of a source."""

    where: str
    """Where a person finds the row: `train.jsonl line 7`, `x.parquet row 2`."""
    number: int
    """0-based number in the whole source, over all files in order."""
    values: dict[str, Any]
    """The row's columns."""


Part: TypeAlias = Path | HubId | SandboxAnswers
"""One of the things that a source consists of."""


def resolve_source(source: str | list[str], key: str) -> list[Part]:
    """The files, Hub splits and generated rows behind `source`, in the order given; globs are sorted. Opens nothing.

    Args:
        source: a file, a glob, a Hub id with split, `sandbox:best_of_n`, or a list of them; relative to the working
            directory.
        key: the setting that holds `source`, such as `data.train`, for messages.

    Raises:
        DataError: a file is missing, unreadable, empty, of unknown type or named twice; no match of a glob.
    """
    specs = [source] if isinstance(source, str) else source
    if not specs or not all(isinstance(spec, str) and spec.strip() for spec in specs):
        raise data_error(f"{key}={shown(source)}: must be a file, a glob, a Hub id with split, or a list")
    found: dict[str, str] = {}
    parts: list[Part] = []
    for spec in specs:
        for part in _resolve_one(spec, key):
            identity = os.path.realpath(part) if isinstance(part, Path) else f"{type(part).__name__}:{part}"
            if identity in found:
                by = f"by {found[identity]!r} and by {spec!r}"
                raise data_error(f"{key}: {part} is reached twice, {by}; name it once in {key}")
            found[identity] = spec
            parts.append(part)
    return parts


def read_rows(
    source: str | list[str], key: str, revision: str | None = None, limit: int | None = None
) -> Iterator[Row]:
    """The rows of all files and Hub splits behind `source`, in order.

    Args:
        source: as for `resolve_source`.
        key: the setting that holds `source`, such as `data.train`, for messages.
        revision: branch, tag or commit of Hub data sets.
        limit: stop after this many rows.

    Raises:
        DataError: one line with the file, the place in it, what is wrong, and what to do.
    """
    parts = resolve_source(source, key)
    names = [part.name if isinstance(part, Path) else str(part) for part in parts]
    number = 0
    for part, name in zip(parts, names, strict=True):
        before = number
        # Files of one name from two directories are told apart by their paths.
        label = name if names.count(name) == 1 else str(part)
        for where, values in _read(part, label, key, revision):
            yield Row(where, number, values)
            number += 1
            if limit is not None and number >= limit:
                return
        if number == before:
            raise data_error(f"{key}={part} has no rows; name another file or split in {key}")


def _resolve_one(spec: str, key: str) -> list[Part]:
    path = os.path.expanduser(spec)
    # A file that is really there wins over what its name would mean as a glob or as a Hub id.
    if os.path.lexists(path):
        return [_checked(path, key)]
    if is_sandbox_source(spec):
        return [sandbox_answers(spec, key)]
    if match := _HUB_ID.fullmatch(spec):
        return [HubId(match[1], match[2], match[3])]
    if any(character in path for character in "*?["):
        matches = [one for one in sorted(glob.glob(path, recursive=True)) if not os.path.isdir(one)]
        if not matches:
            raise data_error(f"{key}={spec}: no file matches this glob (working directory: {os.getcwd()})")
        return [_checked(one, key) for one in matches]
    raise _missing(spec, path, key)


def _checked(path: str, key: str) -> Path:
    """`path` as a Path if it can be read, judged without opening it."""
    problem = None
    if os.path.isdir(path):
        entries = glob.glob("*", root_dir=path)
        suffix = max(SUFFIXES, key=lambda one: sum(entry.lower().endswith(one) for entry in entries))
        problem = f"is a directory; type {key}='{os.path.join(path, '*' + suffix)}' for its files"
    elif not os.path.exists(path):
        problem = f"is a link to {os.readlink(path)!r}, which does not exist"
    elif not os.path.isfile(path):
        problem = "is not a regular file"
    elif not path.lower().endswith(SUFFIXES):
        problem = f"unknown file type {''.join(Path(path).suffixes)!r}; allowed are {', '.join(SUFFIXES)}"
    elif not os.access(path, os.R_OK):
        problem = f"no permission to read it; try chmod u+r {path}"
    elif os.path.getsize(path) == 0:
        problem = f"the file is empty (0 bytes); name another file in {key}"
    if problem:
        raise data_error(f"{key}={path}: {problem}")
    return Path(path)


def _missing(spec: str, path: str, key: str) -> DataError:
    if "://" in spec:
        return data_error(f"{key}={spec}: URLs are not read; download the file and type {key}=FILE")
    reason, missing = "no such file", path
    while os.path.dirname(missing) and not os.path.isdir(os.path.dirname(missing)):
        missing = os.path.dirname(missing)
        reason = f"the directory {missing!r} does not exist"
    parent, name = os.path.split(missing)
    similar = difflib.get_close_matches(name, glob.glob("*", root_dir=parent or None), n=1)
    hint = f" (working directory: {os.getcwd()})"
    if similar:
        hint = f"; did you mean {key}={os.path.join(parent, similar[0]) + path[len(missing) :]}?"
    elif re.fullmatch(_HUB_NAME, spec) and not path.lower().endswith(SUFFIXES):
        hint = f"; a data set on the Hub needs a split: {key}={spec}:train"
    return data_error(f"{key}={spec}: {reason}{hint}")


def _read(part: Part, name: str, key: str, revision: str | None) -> Located:
    if isinstance(part, HubId):
        return read_hub(part, key, revision)
    if isinstance(part, SandboxAnswers):
        return answer_rows(part, key)
    suffix = part.name.lower().removesuffix(".gz").rpartition(".")[2]
    return READERS[suffix](TextFile(part, name, key))
