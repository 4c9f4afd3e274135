"""Our own routes: scoring rows, and how the server is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

from rm_experiments.serving.answers import HealthAnswer, ModelsAnswer, RowsAnswer, ScoreAnswer
from rm_experiments.serving.errors import ErrorAnswer, Json, RequestError, error_response
from rm_experiments.serving.gate import Gate
from rm_experiments.serving.metrics import CONTENT_TYPE, Metrics
from rm_experiments.serving.page import page, reference_page
from rm_experiments.serving.requests import Row, ScoreRequest
from rm_experiments.serving.service import BROKEN, Service, row_answer

_REFUSALS = {
    401: "No bearer token, or another one", 403: "Not called as localhost, and there is no token", 404: "No such model",
    408: "The request did not come in whole in time",
    413: "The body is too large", 415: "The body is not JSON", 422: "It cannot be scored; the message says why",
    429: "The queue is full; Retry-After says when to try again", 500: "The model failed on this request",
    503: "The server is ending, or has too many connections", 504: "No answer in time",
}  # fmt: skip
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The body is no JSON"},
    **{status: {"model": ErrorAnswer, "description": why} for status, why in _REFUSALS.items()},
}
"""How any scoring route may refuse."""


def own_routes(service: Service) -> APIRouter:
    """`/score`, `/v1/models`."""
    router = APIRouter()

    @router.post("/score", response_model=None, responses={**REFUSALS, 200: {"model": ScoreAnswer | RowsAnswer}})
    async def score(request: ScoreRequest) -> Response:
        """The rewards of one row, or of several as `rows`: of the rows that rm-score reads."""
        rows: list[Row] = [request] if request.rows is None else request.rows
        scored = await service.score(
            request.model,
            sum(row.num_answers() for row in rows),
            lambda model: service.encode_rows(model, rows, numbered=request.rows is not None),
            sum(row.repeated_characters() for row in rows),
        )
        answers = await service.in_thread(
            lambda: [row_answer(scored, number, row, row.kind()) for number, row in enumerate(rows)]
        )
        name = scored.model.name
        return Json({"model": name, **answers[0]} if request.rows is None else {"model": name, "rows": answers})

    @router.get("/v1/models", response_model=None, responses={401: REFUSALS[401], 200: {"model": ModelsAnswer}})
    async def models() -> Response:
        """The served models, the default first."""
        cards = [
            {
                "id": one.name, "object": "model", "created": one.created, "owned_by": "rm_experiments",
                "root": one.name, "max_model_len": one.model.max_length,
            }
            for one in service.models.values()
        ]  # fmt: skip
        return Json({"object": "list", "data": cards})

    return router


def state_routes(service: Service, metrics: Metrics, gate: Gate) -> APIRouter:
    """`/health`, `/ready`, `/metrics`."""
    router = APIRouter()

    @router.get("/health", response_model=None, responses={200: {"model": HealthAnswer}, 503: {"model": ErrorAnswer}})
    async def health() -> Response:
        """Whether the process answers, and its batches are computed."""
        return Json({"status": "alive"}) if service.batcher.alive else error_response(RequestError(503, BROKEN))

    @router.get("/ready", response_model=None, responses={200: {"model": HealthAnswer}, 503: {"model": ErrorAnswer}})
    async def ready() -> Response:
        """Whether requests should be sent: not while the server ends, its batches stopped, or a model fails always."""
        why = "ending" if gate.draining else await service.trouble()
        return Json({"status": "ready"}) if why is None else error_response(RequestError(503, why))

    @router.get(
        "/metrics", response_model=None, response_class=Response,
        responses={401: REFUSALS[401], 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )  # fmt: skip
    async def prometheus() -> Response:
        """Requests, latencies, queue, batches and tokens, for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return router


def page_routes(schema: Callable[[], dict[str, Any]]) -> APIRouter:
    """`/` and `/docs`. `schema`: gives the OpenAPI document."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def try_it() -> HTMLResponse:
        text, headers = page()
        return HTMLResponse(text, headers=headers)

    @router.get("/docs")
    async def reference() -> HTMLResponse:
        text, headers = reference_page(schema())
        return HTMLResponse(text, headers=headers)

    return router
