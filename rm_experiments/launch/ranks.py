"""One run on several processes. Hydra runs in one of them; the others get the resolved config."""

from __future__ import annotations

import json
import os
from typing import Any


def rank() -> int:
    """This process's number, as torchrun and accelerate launch set it; 0 when there is one process."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def share(values: Any | None) -> Any:
    """Send plain values from rank 0 to all ranks.

    Through the launcher's key-value store, before any process group exists: which one there will be depends on the
    config that is being sent.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    store, number, _ = next(iter(rendezvous("env://")))
    store = PrefixStore("rm_experiments", store)
    if number == 0:
        store.set("config", json.dumps(values))
    return json.loads(store.get("config"))
