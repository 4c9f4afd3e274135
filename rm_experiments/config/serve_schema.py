"""The settings of `rm-serve`. Torch-free. Sections have the names and keys that they have in a run."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rm_experiments.config.rules import WHOLE, refuse
from rm_experiments.config.saved_model_schema import (
    ComputeConfig,
    EvaluatedModelConfig,
    PassConfig,
    ReadingConfig,
    check_computing,
    check_reading,
)
from rm_experiments.errors import ConfigError

TOKEN_VARIABLE = "RM_SERVE_TOKEN"
"""Environment variable of the bearer token; it is no setting, so that it stands in no command line and no file."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+-]{0,127}")
_LEAST_TOKEN = 8


@dataclass(kw_only=True)
class BatchConfig:
    """How requests are computed together."""

    target_ms: float = 100.0
    """A batch gets as many answers as the model computes in this time, by the speed measured so far."""
    wait_ms: float = 5.0
    """The longest time that an idle model waits, while others are being tokenized or when the batch before had more
    requests."""
    max_tokens: int | None = None
    """Upper limit of a batch's tokens; null: the target decides alone. 1: every answer is computed by itself."""


@dataclass(kw_only=True)
class LimitsConfig:
    """What one request, and all of them, may take. What is more is refused at once, in one message."""

    body_bytes: int = 4_194_304
    """Of one request (413)."""
    answers: int = 1024
    """Answers in one request (422)."""
    request_tokens: int = 262_144
    """Tokens of one request, after the length policy; shared prompts count once (422)."""
    queue_tokens: int = 1_048_576
    """Tokens that wait or are computed (429 with Retry-After)."""
    queue_requests: int = 4096
    """Requests that are tokenized, wait or are computed (429 with Retry-After)."""
    connections: int = 2048
    """Open connections (503 with Retry-After)."""
    read_seconds: float = 10.0
    """Until a request has come in whole (408)."""
    answer_seconds: float = 120.0
    """Until a request is answered, from when it has come in (504); its work is dropped then."""


@dataclass(kw_only=True)
class ServeConfig:
    """Which models are served, where and how."""

    checkpoint: Any = None
    """A model directory (ours, any one-label classifier of transformers, a PEFT adapter), a run (its `final/`) or a Hub
    id; several as a list, or with names of your own as a mapping. Requests choose by `model`; the first is the
    default."""
    host: str = "127.0.0.1"
    """Address to listen on: this machine only; 0.0.0.0 is every network (set RM_SERVE_TOKEN then)."""
    port: int = 8000
    """Port; 0: any free one, which is printed."""
    access_log: bool = False
    """Whether every request is a line on standard error."""
    model: EvaluatedModelConfig = field(default_factory=EvaluatedModelConfig)
    data: ReadingConfig = field(default_factory=ReadingConfig)
    train: ComputeConfig = field(default_factory=ComputeConfig)
    eval: PassConfig = field(default_factory=PassConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)


def check_serve(config: ServeConfig) -> ServeConfig:
    """Return `config` if every value is allowed.

    Raises:
        ConfigError: one line with the setting, its value, what is allowed and what to type.
    """
    served_names(config.checkpoint)
    if not config.host.strip():
        raise refuse("host", config.host, "an address is needed", "host=127.0.0.1")
    if not 0 <= config.port <= 65535:
        raise refuse("port", config.port, "must be a whole number from 1 to 65535, or 0 for any free one")
    check_reading(config.data)
    check_computing(config.train, config.eval)
    for key, value, allowed, what in _numbers(config):
        if value is not None and not allowed(value):
            raise refuse(key, value, f"must be {what}")
    limits = config.limits
    if limits.request_tokens > limits.queue_tokens:
        raise refuse(
            "limits.request_tokens", limits.request_tokens,
            f"is more than the queue may hold, limits.queue_tokens={limits.queue_tokens}",
            f"limits.queue_tokens={limits.request_tokens}",
        )  # fmt: skip
    return config


def served_names(checkpoint: Any) -> dict[str, str]:
    """The model directories or Hub ids to serve by the names that requests call them.

    Raises:
        ConfigError: when there is none, or two have one name.
    """
    if checkpoint is None or checkpoint in ("", [], {}):
        raise ConfigError(
            "checkpoint is not set: nothing to serve; type checkpoint=DIR, a model directory, run or Hub id"
        )
    if isinstance(checkpoint, dict):
        named = [(str(name), source) for name, source in checkpoint.items()]
    else:
        sources = checkpoint if isinstance(checkpoint, list) else [checkpoint]
        named = [(_name_of(str(source)), source) for source in sources]
    found: dict[str, str] = {}
    for name, source in named:
        if not isinstance(source, str) or not source:
            raise refuse("checkpoint", source, "must be a model directory, a run or a Hub id")
        if not _NAME.fullmatch(name):
            raise refuse(
                "checkpoint", name, "is no name for a model: letters, digits and . _ - / @ + are allowed",
                f"'checkpoint={{my_model:{source}}}'",
            )  # fmt: skip
        if name in found:
            raise refuse(
                "checkpoint", source, f"is called {name} like {found[name]}; name them",
                f"'checkpoint={{a:{found[name]},b:{source}}}'",
            )  # fmt: skip
        found[name] = source
    return found


def token_of(environment: dict[str, str] | os._Environ[str]) -> str | None:
    """The bearer token that requests must bring; None: none is asked for.

    Raises:
        ConfigError: when it is too short to be one. Its value is not shown.
    """
    token = environment.get(TOKEN_VARIABLE)
    if token is None:
        return None
    if len(token) < _LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{TOKEN_VARIABLE}: must be {_LEAST_TOKEN} or more printable ASCII characters without spaces; "
            f'try export {TOKEN_VARIABLE}="$(openssl rand -hex 24)", or unset it'
        )
    return token


def _name_of(source: str) -> str:
    """A directory's own name (of a run's part, the run's); a Hub id as it is."""
    if not source.startswith(("/", ".", "~")) and source.count("/") == 1 and not os.path.exists(source):
        return source
    parts = [one for one in os.path.abspath(os.path.expanduser(source)).split(os.sep) if one]
    while len(parts) > 1 and parts[-1] in ("final", "best", "last", "checkpoints"):
        parts.pop()
    name = re.sub(r"[^A-Za-z0-9._@+-]", "-", parts[-1]) if parts else ""
    return name.lstrip("._@+-")[:128] or "model"


def _numbers(config: ServeConfig) -> list[tuple[str, Any, Callable[[Any], bool], str]]:
    def seconds(x: float) -> bool:
        return 0 < x <= 86_400 and math.isfinite(x)

    batch, limits = config.batch, config.limits
    whole = [("batch.max_tokens", batch.max_tokens)]
    whole += [
        (f"limits.{name}", getattr(limits, name))
        for name in ("body_bytes", "answers", "request_tokens", "queue_tokens", "queue_requests", "connections")
    ]
    return [
        ("batch.target_ms", batch.target_ms, lambda x: 0 < x <= 60_000, "a number above 0, at most 60000"),
        ("batch.wait_ms", batch.wait_ms, lambda x: 0 <= x <= 1000, "a number from 0 to 1000"),
        ("limits.read_seconds", limits.read_seconds, seconds, "a number above 0, at most 86400"),
        ("limits.answer_seconds", limits.answer_seconds, seconds, "a number above 0, at most 86400"),
        *((key, value, lambda x: x >= 1, WHOLE) for key, value in whole),
    ]
