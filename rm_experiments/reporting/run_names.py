"""What a run is called where people look at many: its name, its group and its tags."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

TAG_LENGTH = 64
"""W&B refuses longer tags."""
_NAME_LENGTH = 128
_VALUE_LENGTH = 40
_NOT_TAGS = ("hydra", "name", "run_dir", "resume", "allow_changes", "dry_run", "tracking", "launch")
"""Say where a run is and what it is called; as tags they would only take room, or show a directory."""
_TIME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?")
_SECRET_KEY = re.compile(r"(^|[._-])(token|secret|password|api_?key|credentials?)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"hf_[A-Za-z0-9]{16,}|AKIA[0-9A-Z]{12,}|sk-[A-Za-z0-9_-]{16,}|://[^/@\s]+@|[0-9a-f]{40}")


def run_name(swept: Sequence[str], name: str) -> str:
    """What differs in the sweep, in short: `lr=3e-4 seed=1`; the run's own name where nothing does.

    Args:
        swept: the overrides that vary in the sweep, as typed.
        name: `config.name`.
    """
    pairs = [_split(one) for one in swept if not _is_secret(one)]
    times = Counter(_last(key) for key, _ in pairs)
    words = [f"{key if times[_last(key)] > 1 else _last(key)}={_short(value)}" for key, value in pairs]
    return _cut(" ".join(words), _NAME_LENGTH) or name


def run_group(sweep_dir: Path | None) -> str | None:
    """The sweep. A directory named by the time says little without the one above it: `rm/2026-01-31_12-00-00`."""
    if sweep_dir is None:
        return None
    path = sweep_dir.absolute()
    return f"{path.parent.name}/{path.name}" if _TIME.fullmatch(path.name) and path.parent.name else path.name


def run_tags(tags: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The user's tags, then the overrides that say what the run is; each once, none longer than W&B takes."""
    said = [one for one in overrides if _split(one)[0].partition(".")[0] not in _NOT_TAGS and not _is_secret(one)]
    cut = [_cut(" ".join(one.split()), TAG_LENGTH) for one in (*tags, *(one.lstrip("+") for one in said))]
    return list(dict.fromkeys(one for one in cut if one))


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+~").partition("=")
    return key, value


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _short(value: str) -> str:
    """Of a path or a Hub id its last part; without quotes."""
    text = value.strip("'\"")
    if "/" in text and not text.startswith("["):
        text = text.rstrip("/").rpartition("/")[2] or text
    return _cut(text, _VALUE_LENGTH)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _is_secret(override: str) -> bool:
    key, value = _split(override)
    return bool(_SECRET_KEY.search(key) or _SECRET_VALUE.search(value))
