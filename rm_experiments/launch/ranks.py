"""One run on several processes. Hydra runs in one of them; the others get the resolved config."""

from __future__ import annotations

import os
from typing import Any


def rank() -> int:
    """This process's number, as torchrun and accelerate launch set it; 0 when there is one process."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def share(values: Any | None) -> Any:
    """Send plain values from rank 0 to all ranks. A group of its own, since the config decides the real one's backend."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    box = [values]
    dist.broadcast_object_list(box, src=0)
    dist.destroy_process_group()
    return box[0]
