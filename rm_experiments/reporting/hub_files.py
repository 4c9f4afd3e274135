"""What of a model directory goes on the Hub: no training state, no paths of this machine, no tokens."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rm_experiments.config.compose import plain_yaml
from rm_experiments.errors import CheckpointError
from rm_experiments.reporting.hub_card import card_for_hub, check_front_matter, code_blocks, is_ours
from rm_experiments.reporting.hub_privacy import private_text, private_values
from rm_experiments.training.checkpoints import MANIFEST, read_manifest, resealed, verify_directory

CARD = "README.md"
_CONFIG, _ARGUMENTS, _ADAPTER = "config.yaml", "training_args.bin", "adapter_config.json"
_STAYS = (
    "state", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json",
    "global_step*", "checkpoint-*", "runs", "wandb", "__pycache__", "*.partial", "*.lock",
)  # fmt: skip
"""Names of files and folders of training, ours and other people's."""
_MODEL_FILES = (
    "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json", "config.json",
    "adapter_config.json", "adapter_model.bin", "reward_model.json", "generation_config.json",
    "tokenizer*", "special_tokens_map.json",
    "added_tokens.json", "vocab.*", "merges.txt", "spiece.model", "chat_template.jinja", "training_args.bin",
    "config.yaml", "probe.jsonl", MANIFEST, "plots/*.png",
)  # fmt: skip
"""What a model directory may hold. On the Hub it goes where the new one lacks it: an old `adapter_config.json` beside a
full model, say, would load the wrong thing."""


@dataclass(kw_only=True)
class HubFile:
    """One file as it goes up."""

    name: str
    """In the repository, with `/`."""
    path: Path
    changed: bytes | None = None
    """What goes up instead of the file's own content."""
    known_sha256: str | None = None
    """Of the file, from a manifest that was verified."""

    @cached_property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size if self.changed is None else len(self.changed)

    @property
    def source(self) -> str | bytes:
        """Where its content is, or its content."""
        return str(self.path) if self.changed is None else self.changed

    @cached_property
    def sha256(self) -> str:
        """Of its content, in hexadecimal digits."""
        if self.changed is not None:
            return hashlib.sha256(self.changed).hexdigest()
        if self.known_sha256 is not None:
            return self.known_sha256
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def git_sha1(self) -> str:
        """What git calls its content."""
        content = self.path.read_bytes() if self.changed is None else self.changed
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def hub_files(directory: Path, repo_id: str, branch: str | None) -> tuple[list[HubFile], list[str]]:
    """The files of a model directory as they go up, verified where there is a manifest; and lines for the user.

    Args:
        branch: None for the main one.

    Raises:
        CheckpointError: when a file is damaged, or there is no model.
        ConfigError: when the card's front matter is not valid.
    """
    manifest = verify_directory(directory) if (directory / MANIFEST).is_file() else {"files": {}}
    files = {
        name: HubFile(name=name, path=directory / name, known_sha256=manifest["files"].get(name, {}).get("sha256"))
        for name in _names(directory)
    }
    if "config.json" not in files and _ADAPTER not in files:
        raise CheckpointError(f"{directory}: holds no model (config.json or adapter_config.json)")
    for name in _for_people(files):
        # It may have been edited since.
        files[name].known_sha256 = None
    notes: list[str] = []
    known = _config(files)
    _arguments(files, notes)
    _adapter(files, notes)
    _card(files, repo_id, branch, known)
    _manifest(directory, files)
    return list(files.values()), notes


def stale_names(files: list[HubFile], remote: list[str]) -> list[str]:
    """What of a model is in the repository and not in the directory. Other files there (a licence, say) stay."""
    local = {one.name for one in files}
    return [
        name for name in remote if name not in local and any(fnmatch.fnmatchcase(name, one) for one in _MODEL_FILES)
    ]


def _names(directory: Path) -> Iterator[str]:
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        kept = any(part.startswith(".") or any(fnmatch.fnmatchcase(part, one) for one in _STAYS) for part in parts)
        if not kept and path.is_file():
            yield "/".join(parts)


def _for_people(files: Mapping[str, HubFile]) -> list[str]:
    return [name for name in files if name == CARD or name.startswith("plots/")]


def _read(file: HubFile) -> str:
    return file.path.read_text(encoding="utf-8", errors="replace")


def _config(files: Mapping[str, HubFile]) -> dict[str, str]:
    """Rewrite config.yaml where it has paths or tokens; the paths and what stands for them."""
    known: dict[str, str] = {}
    file = files.get(_CONFIG)
    if file is None:
        return known
    try:
        values = yaml.safe_load(_read(file))
    except yaml.YAMLError as error:
        raise CheckpointError(f"{file.path}: cannot be read ({type(error).__name__}); take it away") from error
    private = private_values(values, known)
    if private != values:
        file.changed = plain_yaml(private).encode()
    return known


def _arguments(files: dict[str, HubFile], notes: list[str]) -> None:
    """The same of training_args.bin, which of other trainers is a pickled object, often with a token in it."""
    file = files.get(_ARGUMENTS)
    if file is None:
        return
    import torch

    try:
        values = torch.load(file.path, weights_only=True)
    except Exception:  # whatever is in it, it is not plain values
        notes.append(f"{_ARGUMENTS} stays here: it holds a pickled object, which may have a token in it")
        del files[_ARGUMENTS]
        return
    private = private_values(values, {})
    if private != values:
        buffer = io.BytesIO()
        torch.save(private, buffer)
        file.changed = buffer.getvalue()


def _adapter(files: Mapping[str, HubFile], notes: list[str]) -> None:
    """The base model of an adapter: a directory of this machine is of no use to others."""
    file = files.get(_ADAPTER)
    if file is None:
        return
    values: dict[str, Any] = json.loads(_read(file))
    found: dict[str, str] = {}
    base = str(values.get("base_model_name_or_path") or "")
    private = private_values({"base": base}, found)["base"]
    if Path(base).expanduser().is_dir() or private != base:
        notes.append(
            f"its base model is a directory of this machine ({base}), where nobody else has it: push a full model "
            "(adapter.merge=true, or rm-merge), or train on the base model's Hub id"
        )
    if private != base:
        file.changed = (json.dumps({**values, "base_model_name_or_path": private}, indent=2) + "\n").encode()


def _card(files: Mapping[str, HubFile], repo_id: str, branch: str | None, known: dict[str, str]) -> None:
    file = files.get(CARD)
    if file is None:
        return
    card = _read(file)
    check_front_matter(card)
    if not is_ours(card):
        return
    shown = card_for_hub(card, repo_id, branch)
    for block in code_blocks(shown):
        # The rest of the card has no paths in the first place.
        shown = shown.replace(block, private_text(block, known))
    if shown != card:
        file.changed = shown.encode()


def _manifest(directory: Path, files: Mapping[str, HubFile]) -> None:
    """The manifest of what goes up, so that a copy from the Hub can be verified, too."""
    file = files.get(MANIFEST)
    if file is None:
        return
    entries = {
        name: {"size": one.size, "sha256": one.sha256} for name, one in sorted(files.items()) if name != MANIFEST
    }
    manifest = read_manifest(directory)
    if manifest["files"] != entries:
        file.changed = resealed(manifest, entries).encode()
