"""What Prometheus reads."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rm_experiments.serving.batching import Batcher, BatchFacts

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_POWERS = tuple(2**one for one in range(13))
_TOKENS = tuple(2**one for one in range(4, 21, 2))


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "rm_serve_requests", "Requests by route and status", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "rm_serve_request_seconds", "From the first byte of a request to its answer", ["route"], buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self.batches = Histogram(
            "rm_serve_batch_seconds", "Of computing a batch", ["model"], buckets=_SECONDS, registry=self._registry
        )
        self.batch_requests = Histogram(
            "rm_serve_batch_requests", "Requests in a batch", ["model"], buckets=_POWERS, registry=self._registry
        )
        self.batch_tokens = Histogram(
            "rm_serve_batch_tokens", "Tokens of a batch", ["model"], buckets=_TOKENS, registry=self._registry
        )
        self.answers = Counter("rm_serve_answers", "Answers scored", ["model"], registry=self._registry)
        self.tokens = Counter(
            "rm_serve_tokens", "Tokens computed, equal prompts of a batch once", ["model"], registry=self._registry
        )
        self._queue = [
            Gauge(f"rm_serve_queue_{what}", text, registry=self._registry)
            for what, text in (
                ("requests", "Requests being tokenized, waiting or being computed"),
                ("tokens", "Tokens waiting or being computed"),
            )
        ]

    def watch(self, batcher: Batcher) -> None:
        """Show its queue."""
        requests, tokens = self._queue
        requests.set_function(lambda: batcher.taken)
        tokens.set_function(lambda: batcher.waiting[1])

    def request(self, route: str, status: int, seconds: float) -> None:
        """One request was answered, or given up by its client (499)."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def batch(self, facts: BatchFacts) -> None:
        """One batch was computed."""
        self.batches.labels(facts.model).observe(facts.seconds)
        self.batch_requests.labels(facts.model).observe(facts.requests)
        self.batch_tokens.labels(facts.model).observe(facts.tokens)
        self.answers.labels(facts.model).inc(facts.answers)
        self.tokens.labels(facts.model).inc(facts.tokens)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)
