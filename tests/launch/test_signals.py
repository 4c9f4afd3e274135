"""When a run stops: signals before there is anything to save, and the time that it has."""

from __future__ import annotations

import os
import signal

import pytest

from rm_experiments.launch import signals
from rm_experiments.launch.signals import StopRequest, end_of_time, exit_on_signals, stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_before_anything_is_to_be_saved_leaves_with_143(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left, exit_on_signals():
        os.kill(os.getpid(), number)
    assert left.value.code == 143
    assert signal.getsignal(number) is before


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("rm_experiments.launch.signals.time.time", lambda: now[0])
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    return now


@pytest.mark.parametrize(
    ("max_hours", "slurm", "expected"),
    [
        (None, None, None), (0.5, None, 2800.0), (None, "1500", 1500.0), (0.5, "1500", 1500.0), (0.1, "1500", 1360.0),
        (None, "soon", None), (None, "999", None), (0.5, "999", 2800.0),
    ],
)  # fmt: skip
def test_the_end_is_that_of_the_setting_or_of_the_job(
    clock: list[float], monkeypatch: pytest.MonkeyPatch,
    max_hours: float | None, slurm: str | None, expected: float | None,
) -> None:  # fmt: skip
    if slurm is not None:
        monkeypatch.setenv("SLURM_JOB_END_TIME", slurm)
    assert end_of_time(max_hours) == expected


def test_a_time_that_is_over_counts_as_sigterm(clock: list[float]) -> None:
    stop = StopRequest()
    assert not stop.asked
    stop.ends, stop.reserve = 1100.0, 30.0
    clock[0] = 1069.0
    assert not stop.asked
    clock[0] = 1070.0
    assert stop.asked
    assert (stop.signal_number, stop.exit_code, stop.time_is_over) == (signal.SIGTERM, 143, True)


def test_a_signal_comes_first(clock: list[float]) -> None:
    stop = StopRequest()
    stop.ends, stop.signal_number = 0.0, signal.SIGINT
    assert stop.asked
    assert stop.exit_code == 130


@pytest.mark.parametrize(
    ("under_slurm", "second", "ends"),
    [(False, signal.SIGTERM, True), (True, signal.SIGTERM, False), (True, signal.SIGINT, True)],
)
def test_a_second_signal_ends_the_run_at_once_unless_slurm_repeats_itself(
    monkeypatch: pytest.MonkeyPatch, under_slurm: bool, second: signal.Signals, ends: bool
) -> None:
    ended_by: list[int] = []
    monkeypatch.setattr(os, "kill", lambda process, number: ended_by.append(number))
    monkeypatch.setattr(signals, "_UNDER_SLURM", under_slurm)
    monkeypatch.setattr(signals, "_SAME_REQUEST_SECONDS", -1.0)
    with stop_on_signals() as request:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(second)
    assert request.signal_number == signal.SIGUSR1
    assert ended_by == ([second] if ends else [])
