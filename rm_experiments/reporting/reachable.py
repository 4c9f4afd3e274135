"""Whether a machine answers, found out within seconds: the clients of services try for minutes."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.parse

SECONDS = 3.0
"""For the first answer."""


def silent_host(url: str) -> str | None:
    """The name of the machine of `url` if nothing answers there within seconds, else None.

    None also when `url` names no machine, which its client says better.
    """
    parts = urllib.parse.urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:  # a port that is no number
        return None
    if not host:
        return None
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=SECONDS):
            answered.set()

    # In a thread: looking up a name has no time limit.
    thread = threading.Thread(target=ask, name=f"asking {host}", daemon=True)
    thread.start()
    thread.join(SECONDS + 0.5)
    return None if answered.is_set() else host
