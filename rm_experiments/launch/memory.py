"""How this process keeps memory that it will need again in the next step, and whether it ran out of it."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**30


def keep_freed_memory() -> None:
    """Let glibc's malloc keep freed blocks of up to a gigabyte instead of giving each back to the system.

    Activations on a CPU are such blocks: given back and asked for again in every step, their pages are zeroed and
    mapped anew each time. Does nothing on other systems, or where the user set malloc's behaviour.
    """
    if platform.libc_ver()[0] != "glibc" or any(
        name == "GLIBC_TUNABLES" or (name.startswith("MALLOC_") and name.endswith("_")) for name in os.environ
    ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST - 1)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory ran out, or torch's allocator of the CPU got none."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
