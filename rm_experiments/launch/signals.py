"""Stopping a run from outside: the first signal asks it to save and end, the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_SAME_REQUEST_SECONDS = 1.0
"""A terminal and torchrun both pass Ctrl-C on to a process; what comes within this time is one request."""


class StopRequest:
    """Whether a signal came, and which."""

    signal_number: int | None = None

    @property
    def exit_code(self) -> int:
        """130 for SIGINT; 143 for SIGTERM and SIGUSR1, which schedulers send before they end a job."""
        return 130 if self.signal_number == signal.SIGINT else 143


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """While inside, the first signal only sets the request; a later one has its usual effect. Undone on leaving."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in HANDLED}
    first = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if request.signal_number is None:
            request.signal_number, first = number, time.monotonic()
        elif time.monotonic() - first > _SAME_REQUEST_SECONDS:
            for handled in HANDLED:
                signal.signal(handled, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in HANDLED:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
