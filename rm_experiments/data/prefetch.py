"""What is needed next is made while the device computes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Made = TypeVar("Made")


def prefetched(source: Iterator[Made]) -> Iterator[Made]:
    """The same values in the same order, each made in a thread while the one before it is in use."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        coming = pool.submit(next, source, None)
        while (made := coming.result()) is not None:
            coming = pool.submit(next, source, None)
            yield made
