"""What is computed together, in which order, how much is taken, and what is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from rm_experiments.data.answers import EncodedAnswers
from rm_experiments.launch.signals import Stopped
from rm_experiments.scoring.model import Scores
from rm_experiments.serving.batching import Batcher, BatchFacts, ComputeFailed, QueueFull
from rm_experiments.serving.jobs import tokens_of
from tests.serving.running import PATIENCE

FOREVER = 3600.0


def row(*lengths: int, prompt: int = 0, value: int = 1) -> EncodedAnswers:
    """Answers of these lengths in tokens, the prompt's included; their reward is `value`."""
    ids = [np.full(length, value, dtype=np.int32) for length in lengths]
    return EncodedAnswers(
        ids=ids, num_prompt_tokens=prompt, full_lengths=list(lengths), cut_prompt=0, cut_ends=[0] * len(ids)
    )


class Counting:
    """A model whose reward is the first token id; a pass waits until it may go on."""

    def __init__(self, token_budget: int = 1000, held: bool = False) -> None:
        self.token_budget = token_budget
        self.passes: list[list[int]] = []
        self.begun, self.free = threading.Semaphore(0), threading.Event()
        self.stopped = 0
        if not held:
            self.free.set()

    def compute(
        self, encoded: Sequence[EncodedAnswers], on_progress: Any = None, should_stop: Callable[[], bool] = bool
    ) -> list[Scores]:
        self.passes.append([int(one.ids[0][0]) for one in encoded])
        self.begun.release()
        assert self.free.wait(PATIENCE)
        if should_stop():
            self.stopped += 1
            raise Stopped
        return [Scores(rewards=[float(one.ids[0][0])], heads=[[0.0]], sds=None) for one in encoded]


@contextmanager
def batcher(*models: Counting, **settings: Any) -> Iterator[Batcher]:
    usual: dict[str, Any] = {
        "target": FOREVER, "wait": 0.0, "max_tokens": None, "queue_tokens": 10_000, "queue_requests": 100,
    }  # fmt: skip
    made = Batcher({f"m{number}": one for number, one in enumerate(models)}, **{**usual, **settings})
    try:
        yield made
    finally:
        for one in models:
            one.free.set()
        made.close()
        assert not made.alive


async def rewards(made: Batcher, rows: Sequence[EncodedAnswers], model: str = "m0") -> list[float]:
    scores = await asyncio.wait_for(made.result(made.submit(model, rows)), PATIENCE)
    return [one.rewards[0] for one in scores]


async def begun(model: Counting) -> None:
    assert await asyncio.to_thread(model.begun.acquire, timeout=PATIENCE)


def test_what_comes_while_the_model_computes_is_the_next_batch() -> None:
    model, facts = Counting(held=True), list[BatchFacts]()

    async def play(made: Batcher) -> None:
        first = asyncio.create_task(rewards(made, [row(5, value=9)]))
        await begun(model)
        others = [asyncio.create_task(rewards(made, [row(7, value=number)])) for number in range(1, 6)]
        await asyncio.sleep(0)
        assert made.waiting == (6, 5 + 5 * 7)
        model.free.set()
        assert await first == [9]
        assert [await one for one in others] == [[1], [2], [3], [4], [5]]
        assert made.waiting == (0, 0)

    with batcher(model, on_batch=facts.append) as made:
        asyncio.run(play(made))

    assert model.passes == [[9], [1, 2, 3, 4, 5]]
    assert [(one.model, one.requests, one.answers, one.tokens) for one in facts] == [("m0", 1, 1, 5), ("m0", 5, 5, 35)]


def test_a_lone_request_does_not_wait_for_others() -> None:
    with batcher(Counting(), wait=FOREVER) as made:
        # An hour's wait would show.
        assert asyncio.run(rewards(made, [row(5, value=3)])) == [3]
        assert asyncio.run(rewards(made, [row(5, value=4)])) == [4]


def test_a_request_waits_for_one_that_is_being_tokenized() -> None:
    model = Counting()

    async def play(made: Batcher) -> None:
        with made.coming():
            first = asyncio.create_task(rewards(made, [row(5, value=1)]))
            await asyncio.sleep(0.05)
            assert model.passes == []
            second = made.submit("m0", [row(5, value=2)])
        await made.result(second)
        assert await first == [1]

    with batcher(model, wait=FOREVER) as made:
        asyncio.run(play(made))
    assert model.passes == [[1, 2]]


def test_a_full_batch_does_not_wait() -> None:
    model = Counting(token_budget=10)

    async def play(made: Batcher) -> None:
        with made.coming():
            assert await rewards(made, [row(10, value=1)]) == [1]

    with batcher(model, wait=FOREVER) as made:
        asyncio.run(play(made))


def test_as_many_as_in_the_batch_before_are_waited_for_but_not_longer_than_allowed() -> None:
    model = Counting(held=True)

    async def play(made: Batcher) -> None:
        first = asyncio.create_task(rewards(made, [row(5, value=9)]))
        await begun(model)
        pair = [asyncio.create_task(rewards(made, [row(5, value=number)])) for number in (1, 2)]
        await asyncio.sleep(0)
        model.free.set()
        await asyncio.gather(first, *pair)
        # The batch before had two.
        third = asyncio.create_task(rewards(made, [row(5, value=3)]))
        await asyncio.sleep(0)
        assert await third == [3]
        assert await rewards(made, [row(5, value=4)]) == [4]

    with batcher(model, wait=0.05) as made:
        asyncio.run(play(made))
    assert model.passes == [[9], [1, 2], [3], [4]]


def test_a_large_request_does_not_hold_up_a_small_one_and_prompts_count_once() -> None:
    model = Counting(held=True)
    large = row(*[10] * 6, prompt=8, value=1)
    assert tokens_of(large) == 8 + 6 * 2

    async def play(made: Batcher) -> None:
        first = asyncio.create_task(rewards(made, [row(1, value=9)]))
        await begun(model)
        all_six = asyncio.create_task(rewards(made, [large]))
        await asyncio.sleep(0)
        small = asyncio.create_task(rewards(made, [row(4, value=2)]))
        await asyncio.sleep(0)
        assert made.waiting[1] == 1 + 20 + 4
        model.free.set()
        assert await small == [2]
        assert await all_six == [1] * 6
        await first

    with batcher(model, max_tokens=16) as made:
        asyncio.run(play(made))
    # 10 + 4 + 2, then the rest of the large one.
    assert model.passes == [[9], [1, 2, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize(("max_tokens", "passes"), [(None, [10, 10]), (103, [3] * 6 + [2]), (1, [1] * 20)])
def test_a_prompt_that_is_dearer_than_a_batch_is_not_computed_again_for_each_answer(
    max_tokens: int | None, passes: list[int]
) -> None:
    model, facts = Counting(token_budget=20), list[BatchFacts]()
    # 100 + 1 + 9 * 11 = 200, twice the prompt, if they were 11; 10 are in a batch, whose prompt counts once.
    long = row(*[101] + [111] * 9 + [101] + [111] * 9, prompt=100)
    if max_tokens == 103:
        long = row(*[101] * 20, prompt=100)
    with batcher(model, target=1e-9, max_tokens=max_tokens, on_batch=facts.append) as made:
        assert asyncio.run(rewards(made, [long])) == [1] * 20
        assert made.waiting == (0, 0)
    assert [len(one) for one in model.passes] == passes
    if max_tokens is None:
        assert [one.tokens for one in facts] == [200, 200]


def test_a_cheap_request_is_in_the_batch_of_a_dear_one_that_came_first() -> None:
    model = Counting(token_budget=20, held=True)

    async def play(made: Batcher) -> None:
        first = asyncio.create_task(rewards(made, [row(1, value=9)]))
        await begun(model)
        tasks = [
            asyncio.create_task(rewards(made, [one]))
            for one in (row(12, 12, prompt=10, value=1), row(12, value=2), row(5, value=3))
        ]
        await asyncio.sleep(0)
        model.free.set()
        await asyncio.gather(first, *tasks)

    with batcher(model, max_tokens=20) as made:
        asyncio.run(play(made))
    # 12 + 5 + 2; the second request does not fit, and is not passed over for ever.
    assert model.passes == [[9], [1, 3, 1], [2]]


def test_equal_prompts_of_different_requests_count_once_in_a_batch() -> None:
    model, facts = Counting(held=True), list[BatchFacts]()

    async def play(made: Batcher) -> None:
        first = asyncio.create_task(rewards(made, [row(1)]))
        await begun(model)
        others = [asyncio.create_task(rewards(made, [row(52, prompt=50)])) for _ in range(4)]
        await asyncio.sleep(0)
        assert made.waiting[1] == 1 + 4 * 52
        model.free.set()
        await asyncio.gather(first, *others)

    with batcher(model, on_batch=facts.append) as made:
        asyncio.run(play(made))
    assert [one.tokens for one in facts] == [1, 50 + 4 * 2]


def test_a_batch_that_failed_says_nothing_about_the_speed_and_failures_in_a_row_are_counted() -> None:
    model = Counting()
    compute = model.compute

    def broken(*arguments: Any, **more: Any) -> list[Scores]:
        raise RuntimeError("no memory")

    with batcher(model) as made:
        model.compute = broken  # type: ignore[method-assign]
        for failures in (1, 2):
            with pytest.raises(ComputeFailed):
                asyncio.run(rewards(made, [row(5)]))
            assert made.failures("m0") == failures
        assert made._lanes["m0"].tokens_per_second is None
        model.compute = compute  # type: ignore[method-assign]
        assert asyncio.run(rewards(made, [row(5)])) == [1]
        assert made.failures("m0") == 0


def test_the_size_of_a_batch_follows_the_measured_speed() -> None:
    with batcher(Counting(token_budget=64), target=0.1) as made:
        lane = made._lanes["m0"]
        assert made._limit(lane) == 64
        made._note_speed(lane, 64, 0.1)
        assert made._limit(lane) == pytest.approx(64)
        # Faster counts at once, up to twice as fast; slower only from a batch that was at least half full, and little
        # by little.
        made._note_speed(lane, 5000, 0.1)
        assert made._limit(lane) == pytest.approx(128)
        made._note_speed(lane, 200, 0.1)
        assert made._limit(lane) == pytest.approx(200)
        made._note_speed(lane, 10, 0.1)
        assert made._limit(lane) == pytest.approx(200)
        made._note_speed(lane, 100.1, 0.1)
        assert made._limit(lane) == pytest.approx(200 - 0.3 * 99.9)
        made._max_tokens = 50
        assert made._limit(lane) == 50


def test_the_queue_is_bounded_in_tokens_and_requests() -> None:
    model = Counting(held=True)

    async def play(made: Batcher, rows: list[EncodedAnswers], allowed: int) -> None:
        tasks = []
        for _ in range(allowed):
            tasks.append(asyncio.create_task(rewards(made, rows)))
            await asyncio.sleep(0)
        made._lanes["m0"].tokens_per_second = 2.0
        with pytest.raises(QueueFull, match=r"^the queue is full; try again in \d+ s$") as full:
            made.submit("m0", rows)
        assert full.value.retry_after == min(60, -(-made.waiting[1] // 2))
        model.free.set()
        await asyncio.gather(*tasks)
        made.check_room()
        assert await rewards(made, rows) == [1]

    with batcher(model, queue_tokens=100) as made:
        asyncio.run(play(made, [row(30)], 3))
    model.free.clear()
    with batcher(model, queue_requests=2) as made:
        asyncio.run(play(made, [row(30)], 2))
        # Those that are being tokenized are on their way into it.
        with made.coming():
            made.check_room()
            with made.coming():
                assert made.taken == 2
                with pytest.raises(QueueFull):
                    made.check_room()


def test_the_work_of_a_request_that_is_given_up_is_dropped() -> None:
    model = Counting(held=True)

    async def play(made: Batcher) -> None:
        first = asyncio.create_task(rewards(made, [row(1, value=9)]))
        await begun(model)
        given_up = asyncio.create_task(rewards(made, [row(5, value=1), row(5, value=2)]))
        kept = asyncio.create_task(rewards(made, [row(5, value=3)]))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        assert made.waiting == (2, 6)
        model.free.set()
        assert (await first, await kept) == ([9], [3])
        assert made.waiting == (0, 0)

    with batcher(model) as made:
        asyncio.run(play(made))
    assert model.passes == [[9], [3]]


def test_a_batch_that_nobody_waits_for_is_broken_off() -> None:
    model = Counting(held=True)

    async def play(made: Batcher) -> None:
        task = asyncio.create_task(rewards(made, [row(3, value=1)]))
        await begun(model)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        model.free.set()
        assert await rewards(made, [row(3, value=2)]) == [2]

    with batcher(model) as made:
        asyncio.run(play(made))
    assert model.stopped == 1


def test_models_take_turns_by_who_waits_longest() -> None:
    one, two = Counting(held=True), Counting()

    async def play(made: Batcher) -> None:
        first = asyncio.create_task(rewards(made, [row(1, value=9)]))
        await begun(one)
        second = asyncio.create_task(rewards(made, [row(1, value=1)], "m1"))
        await asyncio.sleep(0)
        third = asyncio.create_task(rewards(made, [row(1, value=2)]))
        await asyncio.sleep(0)
        assert two.passes == []
        one.free.set()
        await asyncio.gather(first, second, third)

    order: list[str] = []
    with batcher(one, two, on_batch=lambda facts: order.append(facts.model)) as made:
        asyncio.run(play(made))
    assert order == ["m0", "m1", "m0"]


def test_models_take_turns_while_both_have_work() -> None:
    one, two = Counting(held=True), Counting()

    async def play(made: Batcher) -> None:
        many = asyncio.create_task(rewards(made, [row(*[1] * 5)]))
        await begun(one)
        few = asyncio.create_task(rewards(made, [row(*[1] * 2)], "m1"))
        await asyncio.sleep(0)
        one.free.set()
        await asyncio.gather(many, few)

    order: list[str] = []
    with batcher(one, two, max_tokens=1, on_batch=lambda facts: order.append(facts.model)) as made:
        asyncio.run(play(made))
    assert order == ["m0", "m1", "m0", "m1", "m0", "m0", "m0"]


def test_when_the_thread_breaks_down_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(facts: BatchFacts) -> None:
        raise OSError("no space")

    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    model = Counting(held=True)

    async def play(made: Batcher) -> None:
        first = asyncio.create_task(rewards(made, [row(5)]))
        await begun(model)
        second = asyncio.create_task(rewards(made, [row(5)]))
        await asyncio.sleep(0)
        model.free.set()
        assert await first == [1]
        with pytest.raises(ComputeFailed, match="batches are not computed any more"):
            await second

    with batcher(model, on_batch=full) as made:
        asyncio.run(play(made))


def test_what_was_taken_is_computed_before_closing() -> None:
    model = Counting(held=True)

    async def play(made: Batcher) -> list[list[float]]:
        tasks = [asyncio.create_task(rewards(made, [row(5, value=number)])) for number in (1, 2, 3)]
        await begun(model)
        closing = asyncio.create_task(asyncio.to_thread(made.close))
        await asyncio.sleep(0.02)
        model.free.set()
        await closing
        return list(await asyncio.gather(*tasks))

    with batcher(model, wait=FOREVER) as made:
        assert asyncio.run(play(made)) == [[1], [2], [3]]


def test_answers_of_no_rows() -> None:
    with batcher(Counting()) as made:
        assert asyncio.run(rewards(made, [])) == []
