"""What the settings of rm-serve refuse, and what models are called."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from rm_experiments.config.schema import Device, Precision
from rm_experiments.config.serve_schema import ServeConfig, check_serve, served_names
from rm_experiments.errors import ConfigError
from rm_experiments.serving.listening import is_public, listen, open_door, url_of


def config(**values: Any) -> ServeConfig:
    """The settings, `limits__answers=1` for `limits.answers=1`."""
    made = ServeConfig(checkpoint="x")
    for key, value in values.items():
        *sections, name = key.split("__")
        holder: Any = made
        for section in sections:
            holder = getattr(holder, section)
        assert hasattr(holder, name)
        setattr(holder, name, value)
    return made


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"checkpoint": {}}, "checkpoint is not set: nothing to serve; type checkpoint=DIR"),
    "one name twice": (
        {"checkpoint": ["./a/x/final", "./b/x"]},
        "checkpoint=./b/x: is called x like ./a/x/final; name them; try 'checkpoint={a:./a/x/final,b:./b/x}'",
    ),
    "a name that is none": (
        {"checkpoint": {"a b": "x"}},
        "checkpoint=a b: is no name for a model: letters, digits and . _ - / @ + are allowed; try "
        "'checkpoint={my_model:x}'",
    ),
    "no text": ({"checkpoint": [5]}, "checkpoint=5: must be a model directory, a run or a Hub id"),
    "no host": ({"host": " "}, "host= : an address is needed; try host=127.0.0.1"),
    "no port": ({"port": -1}, "port=-1: must be a whole number from 1 to 65535, or 0 for any free one"),
    "no time": ({"limits__answer_seconds": 0.0}, "limits.answer_seconds=0.0: must be a number above 0, at most 86400"),
    "no number": ({"limits__read_seconds": float("nan")}, "limits.read_seconds=nan: must be a number above 0"),
    "no room": ({"limits__body_bytes": 0}, "limits.body_bytes=0: must be a whole number of at least 1"),
    "a request larger than the queue": (
        {"limits__queue_tokens": 100},
        "limits.request_tokens=262144: is more than the queue may hold, limits.queue_tokens=100; try "
        "limits.queue_tokens=262144",
    ),
    "a wait that is too long": ({"batch__wait_ms": 5000.0}, "batch.wait_ms=5000.0: must be a number from 0 to 1000"),
    "no target": ({"batch__target_ms": 0.0}, "batch.target_ms=0.0: must be a number above 0, at most 60000"),
    "an empty batch": ({"batch__max_tokens": 0}, "batch.max_tokens=0: must be a whole number of at least 1"),
    "half precision on a CPU": (
        {"train__device": Device.cpu, "train__precision": Precision.fp16},
        "train.precision=fp16: is not possible with train.device=cpu; try train.precision=bf16",
    ),
    "no length": ({"data__max_length": 3}, "data.max_length=3: must be a whole number of at least 4, or null"),
    "no template": ({"data__chat_template": ""}, "data.chat_template=: must not be empty"),
    "no variable": ({"data__chat_template_kwargs": {"a b": 1}}, "data.chat_template_kwargs=a b: is no name for a"),
    "no budget": ({"eval__micro_batch_tokens": 0}, "eval.micro_batch_tokens=0: must be a whole number of at least 1"),
}


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED)
def test_a_value_that_is_not_allowed_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_serve(config(**values))
    assert str(refused.value).startswith(message)


def test_the_defaults_are_allowed() -> None:
    assert check_serve(config()).host == "127.0.0.1"


def test_models_are_called_by_their_directory_or_hub_id() -> None:
    assert served_names("outputs/rm/2026-01-31_12-00-00/") == {"2026-01-31_12-00-00": "outputs/rm/2026-01-31_12-00-00/"}
    assert list(served_names(["org/name", "./runs/a/final", "/runs/b/checkpoints/best", "~/models/My model"])) == [
        "org/name", "a", "b", "My-model",
    ]  # fmt: skip
    assert served_names({"small": "a", "large": "org/b"}) == {"small": "a", "large": "org/b"}


def test_a_host_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: Any, **more: Any) -> Any:
        raise socket.gaierror

    with pytest.raises(ConfigError, match=r"^host=192\.0\.2\.1: is no address of this machine; try host=127"):
        listen("192.0.2.1", 0)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError, match=r"^host=nowhere: is no address or name that is known here; try host=127"):
        listen("nowhere", 0)


def test_the_door_is_closed_until_the_models_are_there() -> None:
    with listen("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)
        # Another that came in between and listens first.
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(address)
            other.listen()
            with pytest.raises(ConfigError, match=rf"^port={address[1]}: is taken on 127\.0\.0\.1"):
                open_door(listener)
        open_door(listener)
        socket.create_connection(address, timeout=5).close()


def test_what_others_can_reach_is_public() -> None:
    for host, public in (("127.0.0.1", False), ("0.0.0.0", True)):
        with listen(host, 0) as listener:
            assert is_public(listener) is public
            assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
