"""A server in a thread of this process, and a client that sends what it is told to."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from rm_experiments.config.serve_schema import ServeConfig
from rm_experiments.data.answers import EncodedAnswers
from rm_experiments.launch.signals import StopRequest
from rm_experiments.scoring.model import OpenedModel, RewardModel, Scores
from rm_experiments.serving.application import make_application
from rm_experiments.serving.batching import Batcher
from rm_experiments.serving.gate import Gate
from rm_experiments.serving.listening import listen, open_door
from rm_experiments.serving.metrics import Metrics
from rm_experiments.serving.serve import server_of, until_stopped
from rm_experiments.serving.service import ServedModel, Service

PATIENCE = 20.0


class Reply(NamedTuple):
    """What came back."""

    status: int
    body: Any
    headers: dict[str, str]


@dataclass
class Slow:
    """A model whose passes can be held up, watched, and made to fail."""

    model: RewardModel
    free: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    passes: list[int] = field(default_factory=list)
    """Answers of each pass."""
    spoil: Callable[[Sequence[EncodedAnswers], list[Scores]], list[Scores]] = lambda encoded, scores: scores

    def __post_init__(self) -> None:
        self.free.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def compute(self, encoded: Sequence[EncodedAnswers], **more: Any) -> list[Scores]:
        self.passes.append(len(encoded))
        self.begun.release()
        assert self.free.wait(PATIENCE)
        return self.spoil(encoded, self.model.compute(encoded, **more))


@dataclass
class Server:
    """A running server."""

    service: Service
    gate: Gate
    address: tuple[str, int]
    stop: StopRequest
    uvicorn: uvicorn.Server

    def call(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            text = response.read()
            is_json = response.headers.get("content-type", "").startswith("application/json")
            return Reply(
                response.status, json.loads(text) if is_json and text else text.decode(), dict(response.headers)
            )
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        """JSON to a route."""
        given = {"Content-Type": "application/json", **{name.replace("_", "-"): one for name, one in headers.items()}}
        return self.call("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), given)

    def get(self, path: str, **headers: str) -> Reply:
        return self.call("GET", path, None, headers)

    def metric(self, line: str) -> float:
        """The value of a line of /metrics."""
        found = [one for one in self.get("/metrics").body.splitlines() if one.startswith(f"{line} ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def socket(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE)


def until(condition: Callable[[], Any]) -> None:
    """Wait for it."""
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it did not happen")


@contextmanager
def running(
    config: ServeConfig,
    models: dict[str, tuple[OpenedModel, Any]],
    token: str | None = None,
    only_local: bool = False,
) -> Iterator[Server]:
    """A server of these models; it is asked to stop in the end, and must come to it."""
    metrics = Metrics()
    batch, limits = config.batch, config.limits
    served = [ServedModel(name=name, opened=opened, model=model, created=1) for name, (opened, model) in models.items()]
    batcher = Batcher(
        {one.name: one.model for one in served}, target=batch.target_ms / 1000, wait=batch.wait_ms / 1000,
        max_tokens=batch.max_tokens, queue_tokens=limits.queue_tokens, queue_requests=limits.queue_requests,
        on_batch=metrics.batch,
    )  # fmt: skip
    service = Service(served, batcher, limits)
    gate = make_application(service, metrics, limits, token, only_local)
    listener = listen("127.0.0.1", 0)
    open_door(listener)
    stop = StopRequest()
    server = Server(service, gate, listener.getsockname()[:2], stop, server_of(gate, config))
    work = until_stopped(server.uvicorn, gate, listener, stop)
    thread = threading.Thread(target=lambda: asyncio.run(work), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        for _, model in models.values():
            if isinstance(model, Slow):
                model.free.set()
        stop.signal_number = signal.SIGTERM
        thread.join(PATIENCE)
        assert not thread.is_alive()
        service.close()


@contextmanager
def together(number: int) -> Iterator[Callable[..., Future[Any]]]:
    """`submit(function, ...)` in threads."""
    with ThreadPoolExecutor(number) as pool:
        yield pool.submit


def loaded(checkpoint: Path, **settings: Any) -> tuple[OpenedModel, RewardModel]:
    """A saved model on the CPU."""
    from rm_experiments.scoring.model import open_model

    opened = open_model(checkpoint, **settings)
    return opened, RewardModel.of(opened, opened.computing("cpu", "fp32"))
