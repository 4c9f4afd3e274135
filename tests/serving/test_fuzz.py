"""A little of the fuzz; `python -m tests.serving` is more of it."""

from __future__ import annotations

import pytest

pytest.importorskip("schemathesis")

from rm_experiments.config.serve_schema import LimitsConfig, ServeConfig
from rm_experiments.scoring.model import OpenedModel, RewardModel
from tests.serving.fuzz import Locked, fuzz, mended
from tests.serving.running import running

ROUTES = {"/score", "/get_reward", "/pooling", "/v1/score", "/rerank"}
"""Others are the same under other names."""


def test_no_request_by_the_schema_or_against_it_breaks_the_server(saved: tuple[OpenedModel, RewardModel]) -> None:
    opened, model = saved
    locked = Locked(model)
    config = ServeConfig(checkpoint="x", limits=LimitsConfig(body_bytes=50_000, answers=32))
    with running(config, {"tiny": (opened, locked)}) as server:
        outcome = fuzz(server, locked, examples=1, routes=ROUTES)
        assert server.post("/score", {"prompt": "a", "response": "b"}).status == 200

    assert outcome.problems == []
    assert {status for _, status in outcome.sent} <= {200, 400, 404, 413, 422}
    # Every route was asked, and answers of some were compared.
    assert {route for route, _ in outcome.sent} >= ROUTES
    assert outcome.compared > 0


def test_contradictions_are_mended() -> None:
    assert mended("/score", {"response": "a\0", "responses": ["b"], "model": "x"}, 10) == {"response": "a"}
    assert mended("/pooling", {"input": [[12, 3.0]], "messages": []}, 10) == {"input": [[2, 3]]}
