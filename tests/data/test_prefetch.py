"""The next value is made in a thread while the one before it is in use: in order, one ahead, and stopped in time."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from rm_experiments.data.prefetch import prefetched

PATIENCE = 30.0


def prefetch_threads() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


class Source:
    """Counts what was made, and where."""

    def __init__(self, count: int, fails_at: int = -1) -> None:
        self.made: list[int] = []
        self.threads: set[int] = set()
        self.step = threading.Condition()
        self._count, self._fails_at = count, fails_at

    def __iter__(self) -> Iterator[int]:
        for number in range(self._count):
            with self.step:
                if number == self._fails_at:
                    raise ValueError(f"number {number}")
                self.made.append(number)
                self.threads.add(threading.get_ident())
                self.step.notify_all()
            yield number

    def wait_for(self, count: int) -> None:
        with self.step:
            assert self.step.wait_for(lambda: len(self.made) >= count, PATIENCE)


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_values_come_in_order_and_from_another_thread(count: int) -> None:
    source = Source(count)
    assert list(prefetched(iter(source))) == list(range(count))
    assert threading.get_ident() not in source.threads
    assert len(source.threads) == min(count, 1)


def test_values_that_count_as_false_do_not_end_it() -> None:
    assert list(prefetched(iter([0, "", [], False, 1]))) == [0, "", [], False, 1]


def test_just_one_value_is_made_ahead() -> None:
    source = Source(9)
    values = prefetched(iter(source))
    assert source.made == []
    for number in range(5):
        assert next(values) == number
        # The next one needs no further asking; the one after it waits.
        source.wait_for(number + 2)
        assert source.made == list(range(number + 2))
    values.close()  # type: ignore[attr-defined]
    assert source.made == list(range(6))


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_error_comes_after_the_values_before_it(fails_at: int) -> None:
    values = prefetched(iter(Source(9, fails_at)))
    for number in range(fails_at):
        assert next(values) == number
    with pytest.raises(ValueError, match=f"number {fails_at}"):
        next(values)
    with pytest.raises(StopIteration):
        next(values)
    assert prefetch_threads() == 0


def test_closing_early_ends_the_thread() -> None:
    values = prefetched(iter(Source(9)))
    assert next(values) == 0
    assert prefetch_threads() == 1
    values.close()  # type: ignore[attr-defined]
    assert prefetch_threads() == 0


def test_leaving_a_loop_ends_the_thread() -> None:
    for number in prefetched(iter(Source(9))):
        if number == 2:
            break
    gc.collect()
    assert prefetch_threads() == 0


def test_reaching_the_end_ends_the_thread() -> None:
    assert list(prefetched(iter(Source(3)))) == [0, 1, 2]
    assert prefetch_threads() == 0


def test_consumer_and_source_work_at_the_same_time() -> None:
    """Either waits for the other to have begun, which in turns would never end."""
    using, making = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield 0
        making.set()
        assert using.wait(PATIENCE)
        yield 1

    values = prefetched(source())
    assert next(values) == 0
    assert making.wait(PATIENCE)
    using.set()
    assert list(values) == [1]
