"""Calls that other programs make already: OpenRLHF's remote reward model; vLLM's pooling, classify, score, rerank."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query
from fastapi.responses import Response

from rm_experiments.data.answers import Answers, EncodedAnswers
from rm_experiments.errors import DataError
from rm_experiments.serving.answers import (
    ClassifyAnswer,
    PairsAnswer,
    PoolingAnswer,
    RemoteRewardAnswer,
    RerankAnswer,
)
from rm_experiments.serving.errors import Json
from rm_experiments.serving.requests import PairsRequest, PoolingRequest, RemoteRewardRequest, RerankRequest, Row
from rm_experiments.serving.routes import REFUSALS
from rm_experiments.serving.service import Scored, ServedModel, Service

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Response]])


def foreign_routes(service: Service) -> APIRouter:
    """`/get_reward`, `/pooling`, `/classify`, `/v1/score`, `/rerank`."""
    router = APIRouter()

    def post(*paths: str, answer: type) -> Callable[[Handler], Handler]:
        """The same function under several paths."""

        def add(function: Handler) -> Handler:
            for path in paths:
                router.post(path, response_model=None, responses={**REFUSALS, 200: {"model": answer}})(function)
            return function

        return add

    @post("/get_reward", answer=RemoteRewardAnswer)
    async def get_reward(request: RemoteRewardRequest, model: Annotated[str | None, Query()] = None) -> Response:
        """OpenRLHF's call: rendered texts in, rewards out."""
        scored = await service.score(
            model, len(request.query), lambda served: served.rendered.encode(request.query, request.prompts)
        )
        return Json({"rewards": scored.rewards, "scores": scored.rewards, "extra_logs": {}})

    @post("/pooling", "/v1/pooling", answer=PoolingAnswer)
    async def pooling(request: PoolingRequest) -> Response:
        """vLLM's call: the reward of each rendered text, or of a dialogue."""
        scored = await _pooled(service, request)
        rewards = _activated(scored.rewards, request.use_activation)
        data = [{"index": number, "object": "pooling", "data": [one]} for number, one in enumerate(rewards)]
        return Json(_envelope("pool", scored, data))

    @post("/classify", "/v1/classify", answer=ClassifyAnswer)
    async def classify(request: PoolingRequest) -> Response:
        """vLLM's call: the same as one class without a probability."""
        scored = await _pooled(service, request)
        rewards = _activated(scored.rewards, request.use_activation)
        data = [
            {"index": number, "label": "reward", "probs": [one], "num_classes": 1} for number, one in enumerate(rewards)
        ]
        return Json(_envelope("classify", scored, data))

    @post("/v1/score", answer=PairsAnswer)
    async def pairs(request: PairsRequest) -> Response:
        """vLLM's call: the reward of each answer to its prompt. (`/score` is our own.)"""
        scored = await _answers_scored(service, request.model, _rows_of(*request.sides()))
        rewards = _activated(scored.rewards, request.use_activation)
        data = [{"index": number, "object": "score", "score": one} for number, one in enumerate(rewards)]
        return Json(_envelope("score", scored, data))

    @post("/rerank", "/v1/rerank", "/v2/rerank", answer=RerankAnswer)
    async def rerank(request: RerankRequest) -> Response:
        """vLLM's, Jina's and Cohere's call: the answers to a prompt, the best first."""
        rows = [Answers(prompt=request.query, answers=[*request.documents])] if request.documents else []
        scored = await _answers_scored(service, request.model, rows)
        results = _ranked(request, _activated(scored.rewards, request.use_activation))
        envelope = _envelope("rerank", scored, [])
        return Json({**{key: envelope[key] for key in ("id", "model", "usage")}, "results": results})

    return router


def _rows_of(prompts: list[str], answers: list[str]) -> list[Answers]:
    """One prompt with all answers, or one with each."""
    if len(prompts) == 1 and answers:
        return [Answers(prompt=prompts[0], answers=[*answers])]
    return [Answers(prompt=one, answers=[two]) for one, two in zip(prompts, answers, strict=False)]


def _ranked(request: RerankRequest, rewards: list[float]) -> list[dict[str, Any]]:
    """The documents that are asked for, the best first."""
    order = sorted(range(len(rewards)), key=lambda number: -rewards[number])[: request.top_n or None]
    return [
        {
            "index": number, "relevance_score": rewards[number],
            **({"document": {"text": request.documents[number]}} if request.return_documents else {}),
        }
        for number in order
    ]  # fmt: skip


async def _answers_scored(service: Service, model: str | None, rows: list[Answers]) -> Scored:
    return await service.score(
        model,
        sum(len(row.answers) for row in rows),
        lambda served: served.model.encode(rows),
        sum(len(row.prompt) * len(row.answers) for row in rows),
    )


async def _pooled(service: Service, request: PoolingRequest) -> Scored:
    texts, ids = request.texts(), request.ids()

    def encode(model: ServedModel) -> list[EncodedAnswers | DataError]:
        if texts is not None:
            return model.rendered.encode(texts, None)
        if ids is not None:
            return model.rendered.encode_ids(ids)
        given = {name: getattr(request, name) for name in ("messages", "tools", "chat_template_kwargs")}
        return service.encode_rows(model, [Row(**given)])

    return await service.score(
        request.model, len(texts if texts is not None else ids if ids is not None else [0]), encode
    )


def _envelope(kind: str, scored: Scored, data: list[dict[str, Any]]) -> dict[str, Any]:
    tokens = scored.num_tokens
    return {
        "id": f"{kind}-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": scored.model.name,
        "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }  # fmt: skip


def _activated(rewards: list[float], activation: bool | None) -> list[float]:
    """As they are unless the sigmoid is asked for."""
    if not activation:
        return rewards
    return [1 / (1 + math.exp(-one)) if one >= 0 else math.exp(one) / (1 + math.exp(one)) for one in rewards]
