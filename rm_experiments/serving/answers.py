"""What clients get, for OpenAPI."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class RowAnswer(BaseModel):
    """The rewards of a row, named as in the files of rm-score, and how its answers were read."""

    model_config = ConfigDict(extra="forbid")
    id: str | int | None = None
    reward: float | None = Field(default=None, description="Of `response` or `messages`")
    reward_sd: float | None = Field(default=None, description="Of an ensemble: deviation over its heads")
    rewards: list[float] | None = Field(default=None, description="Of `responses`")
    rewards_sd: list[float] | None = None
    best: int | None = Field(default=None, description="Number of the best of `responses`, from 0")
    rank: list[int] | None = Field(default=None, description="Place of each of `responses`, 1 for the best")
    reward_chosen: float | None = Field(default=None, description="Of a pair")
    reward_rejected: float | None = None
    reward_chosen_sd: float | None = None
    reward_rejected_sd: float | None = None
    num_tokens: list[int] = Field(description="Of each answer with its prompt, before anything was cut")
    num_prompt_tokens: int = Field(description="Of the prompt that all begin with, before anything was cut")
    cut_prompt: int = Field(description="Oldest tokens of the prompt that were cut, the same ones for all answers")
    cut_ends: list[int] = Field(description="Tokens that each answer lost at its end")
    reads_from: str | None = Field(default=None, description="Where the prompt was cut: how what is left begins")
    reads_until: list[str | None] | None = Field(
        default=None, description="Where answers were cut: how what is left of each ends"
    )


class ScoreAnswer(RowAnswer):
    """Of one row."""

    model: str


class RowsAnswer(BaseModel):
    """Of several rows, in their order."""

    model: str
    rows: list[RowAnswer]


class RemoteRewardAnswer(BaseModel):
    """What OpenRLHF expects."""

    rewards: list[float]
    scores: list[float] = Field(description="The same")
    extra_logs: dict[str, Any]


class Usage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class PoolingDatum(BaseModel):
    """Of one text."""

    index: int
    object: str
    data: list[float] = Field(description="The reward")


class PoolingAnswer(BaseModel):
    """As vLLM's /pooling."""

    id: str
    object: str
    created: int
    model: str
    data: list[PoolingDatum]
    usage: Usage


class ClassDatum(BaseModel):
    """Of one text."""

    index: int
    label: str
    probs: list[float] = Field(description="The reward, or its sigmoid where use_activation asks for it")
    num_classes: int


class ClassifyAnswer(BaseModel):
    """As vLLM's /classify."""

    id: str
    object: str
    created: int
    model: str
    data: list[ClassDatum]
    usage: Usage


class ScoreDatum(BaseModel):
    """Of one prompt and answer."""

    index: int
    object: str
    score: float


class PairsAnswer(BaseModel):
    """As vLLM's /v1/score."""

    id: str
    object: str
    created: int
    model: str
    data: list[ScoreDatum]
    usage: Usage


class RerankDocument(BaseModel):
    """An answer."""

    text: str


class RerankDatum(BaseModel):
    """Of one answer."""

    index: int = Field(description="Its number in the request")
    document: RerankDocument | None = None
    relevance_score: float


class RerankAnswer(BaseModel):
    """As vLLM's /rerank: the best answer first."""

    id: str
    model: str
    usage: Usage
    results: list[RerankDatum]


class ModelCard(BaseModel):
    """One of the served models."""

    id: str
    object: str
    created: int
    owned_by: str
    root: str = Field(description="The same as id")
    max_model_len: int = Field(description="Tokens of prompt and answer together")


class ModelsAnswer(BaseModel):
    """All of them, the default first."""

    object: str
    data: list[ModelCard]


class HealthAnswer(BaseModel):
    """How the server is."""

    status: str
