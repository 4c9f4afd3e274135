"""Real processes: started, signalled, waited for, and ended by their id whatever happens."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.outcome import Lost
from tests.faults.settings import ROOT

PATIENCE = 240.0
"""Seconds after which a process that should end by itself is said to hang."""


@dataclass(frozen=True)
class Ended:
    """A process that is no more."""

    code: int
    """Negative: the signal that ended it."""
    stdout: str
    stderr: str
    seconds: float
    """Since it was started."""

    @property
    def last_lines(self) -> str:
        """The end of what it said, for a message."""
        return " | ".join(self.stderr.strip().splitlines()[-3:])[-400:]


class Child:
    """A process of ours that is or was running."""

    def __init__(self, pid: int, out: Path, err: Path, wait: Callable[[float], int | None]) -> None:
        """`wait(seconds)` gives the exit code, or None when the process goes on for longer."""
        self.pid, self._out, self._err, self._wait = pid, out, err, wait
        self.started = time.monotonic()
        self._handle: int | None = None
        with contextlib.suppress(OSError):
            self._handle = os.pidfd_open(pid)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._wait(0.0) is None

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return self._err.read_text(encoding="utf-8", errors="replace")

    def send(self, number: int) -> bool:
        """Send it a signal; whether it was still there."""
        if self._handle is None:
            return False
        try:
            signal.pidfd_send_signal(self._handle, number)
        except ProcessLookupError:
            return False
        return True

    def wait(self, seconds: float = PATIENCE) -> Ended:
        """How it ended.

        Raises:
            Lost: when it has not after so many seconds; it is then killed with all that it started.
        """
        code = self._wait(seconds)
        took = time.monotonic() - self.started
        if code is None:
            # It dies of this and says where it was: faulthandler is on in all of them.
            self.send(signal.SIGABRT)
            self._wait(5.0)
            self.end()
            raise Lost(f"process {self.pid} was still running after {seconds:.0f} s; it said: {self.stderr[-300:]}")
        texts = (one.read_text(encoding="utf-8", errors="replace") for one in (self._out, self._err))
        return Ended(code, *texts, took)

    def end(self) -> None:
        """Kill it and its descendants, if any is left."""
        family = descendants(self.pid) if self.running else []
        self.send(signal.SIGKILL)
        for one in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        self._wait(10.0)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def spawn(command: Sequence[str], cwd: Path, env: Mapping[str, str], out: Path, err: Path) -> Child:
    """Start a command as a process that imports everything itself."""
    with out.open("wb") as stdout, err.open("wb") as stderr:
        popen = subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def wait(seconds: float) -> int | None:
        try:
            return popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    return Child(popen.pid, out, err, wait)


class ForkServer:
    """Children of `tests.faults.server`."""

    def __init__(self, env: Mapping[str, str]) -> None:
        theirs, self._requests = os.pipe()
        replies, ours = os.pipe()
        self._replies = os.fdopen(replies, "rb")
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server", str(theirs), str(ours)], cwd=ROOT, env=dict(env),
            pass_fds=(theirs, ours), stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        os.close(ours)
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._born: dict[int, Future[int]] = {-1: Future()}
        self._died: dict[int, Future[int]] = {}
        threading.Thread(target=self._listen, daemon=True).start()
        threads = self._born[-1].result(PATIENCE)
        # A fork takes one thread along; what others hold would stay locked for ever.
        assert threads == 1, f"the server has {threads} threads"

    def start(
        self, arguments: Sequence[str], cwd: Path, out: Path, err: Path, env: Mapping[str, str] | None = None, *,
        hold: Path | None = None, file_limit: int | None = None, kill_at: int | None = None,
    ) -> Child:  # fmt: skip
        """Run `rm-train ARGUMENTS` in a child.

        Args:
            env: beside the server's environment.
            hold: the child begins when this file appears.
            file_limit: no file may grow beyond so many bytes.
            kill_at: see `tests.faults.server.kill_at_change`.
        """
        request: dict[str, Any] = {
            "arguments": list(arguments), "cwd": str(cwd), "out": str(out), "err": str(err), "env": dict(env or {}),
            "hold": None if hold is None else str(hold), "file_limit": file_limit, "kill_at": kill_at,
        }  # fmt: skip
        for path in (out, err):
            path.touch()
        with self._lock:
            request["id"] = number = next(self._numbers)
            self._born[number], died = Future(), Future[int]()
            self._died[number] = died
            os.write(self._requests, json.dumps(request).encode() + b"\n")

        def wait(seconds: float) -> int | None:
            try:
                return died.result(seconds)
            except FutureTimeout:
                return None

        return Child(self._born[number].result(60), out, err, wait)

    def close(self) -> None:
        """End the server and what is left of its children."""
        os.close(self._requests)
        self._popen.wait(30)
        self._replies.close()

    def _listen(self) -> None:
        for line in self._replies:
            values = json.loads(line)
            if "code" in values:
                self._died[values["id"]].set_result(values["code"])
            else:
                self._born[values["id"]].set_result(values.get("pid", values.get("threads")))


def descendants(pid: int) -> list[int]:
    """Ids of the processes that a process has started, and these, the nearest first."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                # The name in brackets may hold anything.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, level = [], [pid]
    while level:
        level = [child for child, parent in parents.items() if parent in level]
        found += level
    return found


def ranks_below(pid: int) -> dict[int, int]:
    """Process ids of the ranks that a launcher has started, by rank."""
    found: dict[int, int] = {}
    for one in descendants(pid):
        with contextlib.suppress(OSError):
            entries = Path(f"/proc/{one}/environ").read_bytes().split(b"\0")
            number = next((int(entry[5:]) for entry in entries if entry.startswith(b"RANK=")), None)
            if number is not None:
                # The nearest one: what a rank starts has its environment.
                found.setdefault(number, one)
    return found
