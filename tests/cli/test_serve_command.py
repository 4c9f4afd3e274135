"""`rm-serve` as a user meets it: what it prints, exit codes, one line for a wrong input before a model is loaded."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from rm_experiments.cli import serve as command
from rm_experiments.cli.serve import main
from tests.cli.typed import exit_code


def rm_serve(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return exit_code(monkeypatch, main, "rm-serve", *arguments)


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing but an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RM_SERVE_TOKEN", raising=False)
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another server listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


REFUSED: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "checkpoint is not set: nothing to serve; type checkpoint=DIR, a model directory, run or Hub id"),
    "no model": (
        ["checkpoint=empty"], "checkpoint=empty: holds no model (config.json or adapter_config.json) and no run",
    ),
    "one of two is missing": (
        ["checkpoint=[./a,./b]"], "checkpoint=./a: no such directory; name a model directory, a run or a Hub id",
    ),
    "a token in the config": (
        ["checkpoint=empty", "+token=x"], "token is not a key; rm-serve --help lists all keys",
    ),
    "a port out of range": (
        ["checkpoint=empty", "port=70000"],
        "port=70000: must be a whole number from 1 to 65535, or 0 for any free one",
    ),
    "a sweep": (["checkpoint=empty", "-m"], "--multirun: rm-serve has no sweeps; leave it out"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_input_is_one_line_on_stderr_and_leaves_nothing(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    port = [] if any(one.startswith("port=") for one in arguments) else ["port=0"]
    assert rm_serve(monkeypatch, *port, *arguments) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"rm-serve: {message}\n")
    assert [one.name for one in cwd.iterdir()] == ["empty"]


def test_a_port_that_is_taken_is_said_before_a_model_is_looked_for(
    taken: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rm_serve(monkeypatch, "checkpoint=empty", f"port={taken}") == 2
    said = f"rm-serve: port={taken}: is taken on 127.0.0.1; try another one, or port=0 for any that is free\n"
    assert capsys.readouterr().err == said


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "fastapi" else object())
    assert rm_serve(monkeypatch, "checkpoint=empty") == 2
    assert capsys.readouterr().err == "rm-serve: rm-serve needs fastapi; type pip install 'rm_experiments[serve]'\n"


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert rm_serve(monkeypatch, "checkpoint=empty", "port=0") == 2
    assert "rm-serve is one process; start one for each GPU" in capsys.readouterr().err


@pytest.mark.parametrize("token", ["", "short", "two words here", "schlüssel-schlüssel"])
def test_a_token_that_is_none_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], token: str
) -> None:
    monkeypatch.setenv("RM_SERVE_TOKEN", token)
    assert rm_serve(monkeypatch, "checkpoint=empty", "port=0") == 2
    said = capsys.readouterr().err
    assert said.startswith("rm-serve: RM_SERVE_TOKEN: must be 8 or more printable ASCII characters without spaces; ")
    assert not token or token not in said


def test_help_needs_no_torch_and_no_fastapi(cwd: Path) -> None:
    code = (
        "import atexit, sys; from rm_experiments.cli.serve import main; "
        "atexit.register(lambda: print({'torch', 'fastapi'} & {*sys.modules})); main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], cwd=cwd, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("rm-serve: saved reward models behind HTTP.")
    assert "queue_requests: 4096" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_composed_config_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert rm_serve(monkeypatch, "checkpoint={a:x,b:z}", "--cfg", "job") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:6] == ["checkpoint:", "  a: x", "  b: z", "host: 127.0.0.1", "port: 8000", "access_log: false"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_a_batch_ends_it_after_all_that_was_accepted_is_answered(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals,
    code: int,
) -> None:  # fmt: skip
    from rm_experiments.scoring.model import RewardModel
    from rm_experiments.serving.service import Service

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    begun, go_on, late = threading.Event(), threading.Event(), []
    answers: list[tuple[int, Any]] = []
    compute, score = RewardModel.compute, Service.score
    accepted = threading.Semaphore(0)

    def held(self: RewardModel, *arguments: Any, **more: Any) -> Any:
        if threading.current_thread().name == "batches":
            begun.set()
            assert go_on.wait(20)
        return compute(self, *arguments, **more)

    async def noted(self: Service, *arguments: Any, **more: Any) -> Any:
        accepted.release()
        return await score(self, *arguments, **more)

    monkeypatch.setattr(RewardModel, "compute", held)
    monkeypatch.setattr(Service, "score", noted)

    def ask(method: str = "POST", path: str = "/score") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        headers = {"Content-Type": "application/json", "Authorization": "Bearer a-good-token"}
        connection.request(method, path, json.dumps({"prompt": "a", "responses": ["b", "c"]}), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def ready() -> bool:
        try:
            return ask("GET", "/ready")[0] == 200
        except OSError:
            return False

    def play() -> None:
        while not ready():
            time.sleep(0.01)
        clients = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(6)]
        for one in clients:
            one.start()
        for _ in clients:
            assert accepted.acquire(timeout=20)
        assert begun.wait(20)
        os.kill(os.getpid(), number)
        while ask("GET", "/ready")[0] == 200:
            time.sleep(0.01)
        late.append(ask())
        go_on.set()
        for one in clients:
            one.join()

    monkeypatch.setenv("RM_SERVE_TOKEN", "a-good-token")
    player = threading.Thread(target=play)
    player.start()
    assert rm_serve(monkeypatch, f"checkpoint={{mine:{trained_run}}}", f"port={port}", "train.device=cpu") == code
    player.join()

    assert [status for status, _ in answers] == [200] * 6
    for _, body in answers:
        assert body["rewards"] == pytest.approx(answers[0][1]["rewards"], abs=1e-6)
    assert late[0][0] == 503
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"Model    mine: {trained_run}/final (max_length 40, cpu, fp32)",
        f"Serving  http://127.0.0.1:{port} (a page to try it; http://127.0.0.1:{port}/docs lists all routes). A bearer "
        "token is needed.",
    ]
    assert "a-good-token" not in captured.out + captured.err
    assert captured.err == ""


def test_an_open_door_without_a_token_is_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    from types import SimpleNamespace

    from rm_experiments.serving.listening import listen
    from rm_experiments.serving.serve import _say

    nothing: Any = SimpleNamespace(models={})
    for host, token, warned in (
        ("0.0.0.0", None, True), ("0.0.0.0", "a-good-token", False), ("127.0.0.1", None, False),
    ):  # fmt: skip
        with listen(host, 0) as listener:
            _say(nothing, listener, token)
        assert ("other machines can reach this server" in capsys.readouterr().err) is warned
