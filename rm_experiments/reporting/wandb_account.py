"""Whether W&B can be used from here: a key, and a machine that answers. Nothing here asks the user or waits long."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import urllib.parse
import urllib.request
from typing import Any

_PROBE_SECONDS = 3
"""For the first answer of W&B's machine; its own client would try for a minute and a half."""


def _quiet() -> Any:
    """W&B, without its lines; with them `login` waits for a server, too."""
    import wandb

    return wandb.setup(settings=None if "WANDB_SILENT" in os.environ else wandb.Settings(silent=True))


def logged_in() -> bool:
    """Whether a key is configured. Asks no server and no user: both could hang."""
    import wandb

    try:
        _quiet()
        return bool(wandb.login(prompt=False, verify=False, timeout=1))
    except Exception:  # a malformed key, an unreadable netrc: not logged in
        return False


def unreachable_host() -> str | None:
    """The name of W&B's machine if nothing answers there within seconds, else None."""
    try:
        url = str(_quiet().settings.base_url)
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    except Exception:  # settings that W&B cannot read: it says so itself
        return None
    if urllib.request.getproxies() or not host:
        # Only W&B's own client knows how to get there.
        return None
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_PROBE_SECONDS):
            answered.set()

    # In a thread: looking up a name has no time limit.
    thread = threading.Thread(target=ask, name="wandb probe", daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS + 0.5)
    return None if answered.is_set() else host


def said(error: Exception) -> str:
    """What W&B says of a failure, in one line."""
    return " ".join(str(error).split())[:120] or type(error).__name__
