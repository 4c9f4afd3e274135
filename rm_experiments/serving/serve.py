"""`serve(config)`: load the models, answer until a signal comes, answer what was accepted, end."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from rich.console import Console

from rm_experiments.config.serve_schema import TOKEN_VARIABLE, ServeConfig, check_serve, served_names
from rm_experiments.data.answers import EncodedAnswers
from rm_experiments.launch.signals import StopRequest, stop_on_signals
from rm_experiments.reporting.console import results_console
from rm_experiments.runner.saved_models import find_checkpoints
from rm_experiments.scoring.model import RewardModel, open_configured
from rm_experiments.serving.application import make_application
from rm_experiments.serving.batching import Batcher
from rm_experiments.serving.connections import connection_class
from rm_experiments.serving.gate import Gate
from rm_experiments.serving.listening import allow_files, is_public, open_door, url_of
from rm_experiments.serving.metrics import Metrics
from rm_experiments.serving.service import PROBE, ServedModel, Service

_TICK = 0.05
"""Seconds between two looks at whether the server is asked to stop."""
_KEEP_ALIVE = 30
_CLOSING = 5
"""Seconds for the last bytes of answers to be taken, when all are written."""


def serve(config: ServeConfig, listener: socket.socket, token: str | None) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        listener: bound, not listening yet.
        token: that requests must bring.

    Returns:
        the exit code.

    Raises:
        ConfigError, CheckpointError: one line each, before anything is served.
    """
    check_serve(config)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    metrics = Metrics()
    service = make_service(config, metrics)
    gate = make_application(service, metrics, config.limits, token, only_local=not is_public(listener))
    with stop_on_signals() as stop:
        allow_files(config.limits.connections)
        # Whoever reads the address may come at once.
        open_door(listener)
        _say(service, listener, token)
        done = asyncio.run(until_stopped(server_of(gate, config), gate, listener, stop))
    service.close()
    return stop.exit_code if done else 1


def make_service(config: ServeConfig, metrics: Metrics) -> Service:
    """All models, loaded, and their batches.

    Raises:
        ConfigError, CheckpointError: one line each.
    """
    names = served_names(config.checkpoint)
    for source in names.values():
        # All are looked for before the first is loaded.
        find_checkpoints(source)
    models = [_load(config, name, source) for name, source in names.items()]
    batcher = Batcher(
        {one.name: one.model for one in models}, target=config.batch.target_ms / 1000,
        wait=config.batch.wait_ms / 1000, max_tokens=config.batch.max_tokens,
        queue_tokens=config.limits.queue_tokens, queue_requests=config.limits.queue_requests, on_batch=metrics.batch,
    )  # fmt: skip
    return Service(models, batcher, config.limits)


def _load(config: ServeConfig, name: str, source: str) -> ServedModel:
    opened = open_configured(source, config.model, config.data)
    model = RewardModel.of(
        opened, opened.computing(config.train.device.value, config.train.precision.value),
        layout=config.train.layout.value, micro_batch_tokens=config.eval.micro_batch_tokens,
    )  # fmt: skip
    # The first pass takes longer, and shows whether the model works at all.
    (probe,) = model.encode([PROBE])
    if isinstance(probe, EncodedAnswers):
        model.compute([probe])
    return ServedModel(name=name, opened=opened, model=model, created=int(time.time()))


def _say(service: Service, listener: socket.socket, token: str | None) -> None:
    console = results_console()
    for one in service.models.values():
        where = f"{one.opened.name} (max_length {one.model.max_length}, {one.model.device}, {one.model.precision})"
        console.print(f"Model    {one.name}: {where}", markup=False, highlight=False, soft_wrap=True)
    url = url_of(listener)
    protected = " A bearer token is needed." if token is not None else ""
    console.print(
        f"Serving  {url} (a page to try it; {url}/docs lists all routes).{protected}", markup=False, highlight=False,
        soft_wrap=True,
    )  # fmt: skip
    if token is None and is_public(listener):
        Console(stderr=True, highlight=False).print(
            f"Warning: other machines can reach this server, and it asks for no token; set {TOKEN_VARIABLE}, or use "
            "host=127.0.0.1", markup=False, style="yellow", soft_wrap=True,
        )  # fmt: skip


class _Server(uvicorn.Server):
    """Signals are ours: what was accepted is answered before the door is closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server_of(gate: Gate, config: ServeConfig) -> uvicorn.Server:
    """Connections for the gate's requests."""
    server = _Server(
        uvicorn.Config(
            gate,
            http=connection_class(config.limits.read_seconds, config.limits.answer_seconds),
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=config.access_log,
            log_level="info" if config.access_log else "error",
            log_config=None,
            timeout_keep_alive=_KEEP_ALIVE,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_CLOSING,
        )
    )
    gate.connections = server.server_state.connections
    return server


async def until_stopped(server: uvicorn.Server, gate: Gate, listener: socket.socket, stop: StopRequest) -> bool:
    """Serve; when `stop` asks, answer what was accepted and end. Whether it ended because it was asked to."""
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    while not serving.done():
        # New requests are told so (503) until the last accepted one is answered; only then is the door closed.
        gate.draining = gate.draining or stop.asked
        if gate.draining and not gate.open:
            server.should_exit = True
        await asyncio.wait({serving}, timeout=_TICK)
    await serving
    return stop.asked
