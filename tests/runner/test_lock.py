"""One process writes to a directory; the lock ends with it, whatever it forked."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rm_experiments.errors import ConfigError
from rm_experiments.runner.lock import LOCK_FILE, Lock, check_lock

HOLDS = """
import os, sys, time
from pathlib import Path
from rm_experiments.runner.lock import Lock
Lock(Path(sys.argv[1])).take()
if os.fork() == 0:
    time.sleep(30)
    os._exit(0)
print("held", flush=True)
time.sleep(30)
"""


def test_another_process_is_refused_by_name(tmp_path: Path) -> None:
    one = Lock(tmp_path)
    one.take()
    expected = f"is being written by process {os.getpid()} on {socket.gethostname()}; wait for it, or choose another"
    for attempt in (Lock(tmp_path).take, lambda: check_lock(tmp_path)):
        with pytest.raises(ConfigError, match=re.escape(expected)):
            attempt()
    one.release()
    assert list(tmp_path.iterdir()) == []
    check_lock(tmp_path)
    Lock(tmp_path).take()


def test_a_lock_ends_with_its_holder_and_not_with_what_it_forked(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(ConfigError, match=f"is being written by process {holder.pid}"):
                check_lock(tmp_path)
            holder.kill()
            holder.wait()
            # Its child is still there; it may not have come to close its copy yet.
            for _ in range(100):
                try:
                    check_lock(tmp_path)
                    break
                except ConfigError:
                    time.sleep(0.1)
            assert not (tmp_path / LOCK_FILE).exists()
        finally:
            os.killpg(holder.pid, 9)


def test_a_lock_on_a_deleted_file_is_nobody_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the holder deletes the file between opening and locking it."""
    hold, calls = Lock._hold, []

    def late(self: Lock, descriptor: int) -> None:
        if not calls:
            (tmp_path / LOCK_FILE).unlink()
        calls.append(time.monotonic())
        hold(self, descriptor)

    monkeypatch.setattr(Lock, "_hold", late)
    Lock(tmp_path).take()
    assert len(calls) == 2
    assert f"process {os.getpid()}" in (tmp_path / LOCK_FILE).read_text()
