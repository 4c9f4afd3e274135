"""Whether W&B can be used from here: a key, and a machine that answers. Nothing here asks the user or waits long."""

from __future__ import annotations

import os
import urllib.request
from typing import Any

from rm_experiments.reporting.reachable import silent_host


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
    if urllib.request.getproxies():
        # Only W&B's own client knows how to get there.
        return None
    try:
        url = str(_quiet().settings.base_url)
    except Exception:  # settings that W&B cannot read: it says so itself
        return None
    return silent_host(url)


def said(error: Exception) -> str:
    """What W&B says of a failure, in one line."""
    return " ".join(str(error).split())[:120] or type(error).__name__
