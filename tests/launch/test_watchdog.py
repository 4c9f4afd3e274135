"""A run without progress is ended, with the stacks of its threads and exit code 124; one that is slow is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rm_experiments.launch.watchdog import Watchdog

HANGS = """
import sys, time
from pathlib import Path
from rm_experiments.launch import watchdog
watchdog.on_hang.append(lambda message: Path(sys.argv[1], "said").write_text(message))
one = watchdog.Watchdog(1.0, Path(sys.argv[1]) / "hang")
one.told = lambda message: 1 / 0
one.beat()
def stuck_here():
    time.sleep(60)
stuck_here()
"""


def test_a_process_that_hangs_ends_with_its_stacks(tmp_path: Path) -> None:
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", HANGS, str(tmp_path)], capture_output=True, text=True, timeout=40)
    assert ended.returncode == 124
    assert time.monotonic() - began < 30
    assert "in stuck_here" in ended.stderr
    message = f"the run hangs: no progress for 1 seconds; the stacks are in {tmp_path / 'hang'}"
    assert ended.stderr.splitlines()[-1] == f"rm-train: {message}"
    assert (tmp_path / "said").read_text() == message
    stacks = (tmp_path / "hang" / "rank_0.txt").read_text()
    assert stacks.startswith("rank 0, process ")
    assert "in stuck_here" in stacks


def test_a_rank_that_does_not_answer_is_counted(tmp_path: Path) -> None:
    environment = {**os.environ, "RANK": "1", "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", HANGS, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=40, env=environment)
    assert ended.returncode == 124
    assert "rank 1, process" in ended.stderr
    assert "no progress for 1 seconds; 1 of 2 processes do not answer; the stacks are in" in ended.stderr


@pytest.mark.parametrize(
    ("limit", "between", "expected"),
    [(None, [], 60.0), (None, [1.0, 2.0, 5.0], 60.0), (None, [1.0, 20.0, 20.0], 200.0), (7.0, [20.0], 7.0)],
)
def test_the_limit_is_a_minute_or_ten_times_the_median_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float | None, between: list[float], expected: float
) -> None:
    clock = [100.0]
    monkeypatch.setattr("rm_experiments.launch.watchdog.time.monotonic", lambda: clock[0])
    watchdog = Watchdog(limit, tmp_path / "hang")
    assert watchdog.limit == 600.0
    watchdog.beat()
    for seconds in between:
        clock[0] += seconds
        watchdog.beat()
    assert watchdog.limit == expected
    watchdog.close()


def test_what_may_take_long_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[None] = []
    monkeypatch.setattr(Watchdog, "_end", lambda self: ended.append(None))
    watchdog = Watchdog(0.5, tmp_path / "hang")
    watchdog.beat()
    with watchdog.paused():
        time.sleep(1.5)
    assert ended == []
    watchdog.close()


def test_while_paused_half_an_hour_is_too_long(tmp_path: Path) -> None:
    watchdog = Watchdog(5.0, tmp_path / "hang")
    watchdog.beat()
    assert watchdog.limit == 5.0
    with watchdog.paused():
        assert watchdog.limit == 1800.0
        with watchdog.paused():
            pass
        assert watchdog.limit == 1800.0
    assert watchdog.limit == 5.0
    watchdog.close()


def test_a_process_that_cannot_write_its_stacks_ends_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "hang").write_text("in the way")
    ended = subprocess.run([sys.executable, "-c", HANGS, str(tmp_path)], capture_output=True, text=True, timeout=40)
    assert ended.returncode == 124
