"""rm-serve under load, on the loopback of one machine: with batches, with every answer by itself, and offline.

python benchmarks/serve.py --checkpoint outputs/rm/DATE
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rm_experiments import RewardModel

os.environ.setdefault("HF_HUB_OFFLINE", "1")
_WORDS = ("river", "stone", "the", "a", "flows", "to", "and", "sea", "water", "why", "is", "it", "blue", "long", "deep",
          "bridge", "over", "of", "in", "mountain", "because", "rain", "falls", "people", "boats")  # fmt: skip
_MODES = {"batches": [], "one at a time": ["batch.max_tokens=1", "batch.wait_ms=0"]}


Request = tuple[bytes, list[float]]
"""A body, and the rewards that should come."""


@dataclass
class Load:
    """What clients measured."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    largest_difference: float = 0.0

    def row(self) -> str:
        """Throughput and latencies in milliseconds."""
        cuts = statistics.quantiles(self.latencies, n=100) if len(self.latencies) > 1 else [self.latencies[0]] * 99
        return (
            f"{len(self.latencies) / self.seconds:8.1f}  {1e3 * cuts[49]:8.1f}  {1e3 * cuts[94]:8.1f}  "
            f"{1e3 * cuts[98]:8.1f}  {self.failed:6}"
        )


def rows_of(count: int, answers: int, seed: int) -> list[tuple[str, str]]:
    """Prompts of 10 to 60 words, `answers` of 5 to 60 words to each."""
    chance = random.Random(seed)

    def words(low: int, high: int) -> str:
        return " ".join(chance.choice(_WORDS) for _ in range(chance.randint(low, high)))

    prompts = [words(10, 60) for _ in range(count // answers)]
    return [(prompt, words(5, 60)) for prompt in prompts for _ in range(answers)]


@contextmanager
def served(checkpoint: str, settings: list[str]) -> Iterator[tuple[str, int]]:
    """Address of a server in a process of its own."""
    command = [sys.executable, "-m", "rm_experiments.cli.serve", f"checkpoint={checkpoint}", "port=0", *settings]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        for line in child.stdout:
            if (found := re.search(r"http://([\d.]+):(\d+)", line)) is not None:
                yield found[1], int(found[2])
                return
        raise SystemExit("the server did not start")
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


async def client(address: tuple[str, int], requests: list[Request], until: float, load: Load, number: int) -> None:
    """One request after the other on one connection."""
    reader, writer = await asyncio.open_connection(*address)
    at = number * 7919
    while time.monotonic() < until:
        body, wanted = requests[at % len(requests)]
        at += 1
        begun = time.monotonic()
        writer.write(
            b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
        answer = await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200 "):
            load.failed += 1
            continue
        load.latencies.append(time.monotonic() - begun)
        found = json.loads(answer)["rewards"]
        difference = max(abs(one - two) for one, two in zip(found, wanted, strict=True))
        load.largest_difference = max(load.largest_difference, difference)
    writer.close()


async def measure(address: tuple[str, int], requests: list[Request], clients: int, seconds: float) -> Load:
    """`clients` at a time for `seconds`."""
    load, begun = Load(), time.monotonic()
    await asyncio.gather(*(client(address, requests, begun + seconds, load, one) for one in range(clients)))
    load.seconds = time.monotonic() - begun
    return load


async def batches(address: tuple[str, int]) -> tuple[float, float]:
    """Requests and number of all batches so far."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    sums = [re.search(rf"rm_serve_batch_requests_{what}\S* (\S+)", text) for what in ("sum", "count")]
    requests, count = (float(one[1]) if one else 0.0 for one in sums)
    return requests, count


def long_requests(count: int, answers: int, words: int, seed: int) -> list[tuple[str, list[str]]]:
    """A long prompt and many answers in each request."""
    chance = random.Random(seed)

    def text(length: int) -> str:
        return " ".join(chance.choice(_WORDS) for _ in range(length))

    return [(text(words), [text(chance.randint(5, 60)) for _ in range(answers)]) for _ in range(count)]


def offline(model: RewardModel, rows: list[tuple[str, str]], rounds: int) -> tuple[list[float], float]:
    """Rewards of all rows, and rows per second."""
    rewards: list[float] = []
    seconds = []
    for _ in range(rounds + 1):
        begun = time.monotonic()
        rewards = model.score([one for one, _ in rows], [two for _, two in rows])
        seconds.append(time.monotonic() - begun)
    return rewards, len(rows) / statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--answers", type=int, default=4, help="to each prompt")
    parser.add_argument(
        "--long-words", type=int, default=2000, help="of a prompt with 64 answers; the model's limit holds"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of the offline measurement")
    parser.add_argument("settings", nargs="*", help="further settings of rm-serve, such as train.device=cuda")
    arguments = parser.parse_args()
    rows = rows_of(arguments.rows, arguments.answers, 0)
    from rm_experiments import RewardModel

    model = RewardModel.load(str(Path(arguments.checkpoint)))
    rewards, rate = offline(model, rows, arguments.rounds)
    requests = [
        (json.dumps({"prompt": prompt, "responses": [response]}).encode(), [reward])
        for (prompt, response), reward in zip(rows, rewards, strict=True)
    ]
    random.Random(1).shuffle(requests)
    print(f"offline, all rows at once: {rate:,.0f} rows/s")
    long = [
        (json.dumps({"prompt": prompt, "responses": answers}).encode(), answers, prompt)
        for prompt, answers in long_requests(8, 64, arguments.long_words, 2)
    ]
    begun = time.monotonic()
    scored: list[Request] = [(body, model.score(prompt, answers)) for body, answers, prompt in long]
    print(f"offline, a prompt of {arguments.long_words} words with 64 answers: "
          f"{len(long) / (time.monotonic() - begun):.2f} requests/s")  # fmt: skip
    print(
        "mode             clients  requests/s    p50 ms    p95 ms    p99 ms  failed  requests/batch  largest difference"
    )
    for mode, settings in _MODES.items():
        with served(arguments.checkpoint, [*settings, *arguments.settings]) as address:
            asyncio.run(measure(address, requests, 2, 1.0))
            for clients in arguments.clients:
                before = asyncio.run(batches(address))
                load = asyncio.run(measure(address, requests, clients, arguments.seconds))
                after = asyncio.run(batches(address))
                mean = (after[0] - before[0]) / max(1.0, after[1] - before[1])
                print(
                    f"{mode:15}  {clients:7}    {load.row()}  {mean:14.1f}  {load.largest_difference:18.1e}", flush=True
                )
            if not settings:
                load = asyncio.run(measure(address, scored, 1, arguments.seconds))
                print(
                    f"64 answers             1    {load.row()}  {1:14.1f}  {load.largest_difference:18.1e}", flush=True
                )


if __name__ == "__main__":
    main()
