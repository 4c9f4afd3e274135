"""What clients send, checked for names and types. OpenAPI describes these classes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rm_experiments.config.score_schema import RowKind

ModelName = Annotated[str | None, Field(description="Which of the served models; the first one if it is left out")]
_KINDS = {
    RowKind.response: ("response",), RowKind.responses: ("responses",), RowKind.messages: ("messages",),
    RowKind.pair: ("chosen", "rejected"),
}  # fmt: skip


class _Strict(BaseModel):
    """Unknown keys are refused: one that is misspelt would have no effect."""

    model_config = ConfigDict(extra="forbid")


class Turn(BaseModel):
    """One turn of a dialogue; `tool_calls`, `name` and `tool_call_id` where the template shows them."""

    model_config = ConfigDict(extra="allow")
    role: str = Field(examples=["user"])
    content: str | list[dict[str, Any]] | None = Field(default=None, examples=["What is 2+2?"])


Words = str | list[Turn]


class Row(_Strict):
    """A prompt and what answers it: one of `response`, `responses`, `messages`, or `chosen` and `rejected`."""

    id: str | int | None = Field(default=None, description="Comes back as it is")
    prompt: Words | None = Field(default=None, examples=["What is 2+2?"])
    system: str | None = Field(default=None, description="A system message before the prompt")
    response: Words | None = Field(default=None, description="One answer", examples=["4."])
    responses: list[Words] | None = Field(default=None, description="Several answers to the prompt")
    messages: list[Turn] | None = Field(
        default=None, description="A whole dialogue, of which the last answer is scored"
    )
    chosen: Words | None = Field(default=None, description="The first answer of a pair")
    rejected: Words | None = Field(default=None, description="The second answer of a pair")
    tools: list[dict[str, Any]] | None = Field(default=None, description="JSON schemas that the template shows")
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, description="Further variables of the template")

    def kind(self) -> RowKind:
        """
        Raises:
            ValueError: when there is no answer, or answers of several kinds.
        """
        given = [kind for kind, names in _KINDS.items() if any(getattr(self, name) is not None for name in names)]
        if len(given) != 1 or any(getattr(self, name) is None for name in _KINDS[given[0]]):
            raise ValueError("give one of response, responses, messages, or chosen and rejected")
        return given[0]

    def num_answers(self) -> int:
        """Answers in it."""
        return len(self.responses) if self.responses is not None else 2 if self.chosen is not None else 1

    def values(self) -> dict[str, Any]:
        """As a row of a file."""
        return self.model_dump(exclude_none=True, exclude={"id", "model", "rows"})


class ScoreRequest(Row):
    """One row, or several as `rows`."""

    model: ModelName = None
    rows: list[Row] | None = Field(default=None, description="Several rows, instead of one")

    @model_validator(mode="after")
    def _one_or_many(self) -> ScoreRequest:
        if self.rows is None:
            self.kind()
        elif self.values() or self.id is not None:
            raise ValueError("give rows, or one row, not both")
        else:
            for number, row in enumerate(self.rows):
                try:
                    row.kind()
                except ValueError as error:
                    raise ValueError(f"rows[{number}]: {error}") from None
        return self


class RemoteRewardRequest(BaseModel):
    """What OpenRLHF sends to `--remote_rm_url`; further keys are not looked at."""

    model_config = ConfigDict(extra="ignore")
    query: list[str] = Field(description="Prompt and answer as one text, rendered by a chat template")
    prompts: list[str] | None = Field(default=None, description="The prompt of each query, rendered the same way")
    labels: list[Any] | None = Field(default=None, description="Not looked at")

    @model_validator(mode="after")
    def _as_many(self) -> RemoteRewardRequest:
        if self.prompts is not None and len(self.prompts) != len(self.query):
            raise ValueError(f"prompts has {len(self.prompts)} items and query {len(self.query)}; give one to each")
        return self


class _PoolingOptions(_Strict):
    model: ModelName = None
    user: str | None = Field(default=None, description="Not looked at")
    request_id: str | None = Field(default=None, description="Not looked at")


class PoolingRequest(_PoolingOptions):
    """vLLM's pooling and classification request: `input` or `messages`."""

    input: str | list[str] | list[int] | list[list[int]] | None = Field(
        default=None, description="Rendered texts or token ids", examples=["User: Hi\n\nAssistant: Hello!"]
    )
    messages: list[Turn] | None = Field(default=None, description="A dialogue, of which the last answer is scored")
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    encoding_format: Literal["float"] = "float"
    use_activation: bool | None = Field(default=None, description="true: the sigmoid of the reward; else the reward")

    @model_validator(mode="after")
    def _input_or_messages(self) -> PoolingRequest:
        if (self.input is None) == (self.messages is None):
            raise ValueError("give input or messages")
        if self.messages is None and (self.tools is not None or self.chat_template_kwargs is not None):
            raise ValueError("tools and chat_template_kwargs go with messages")
        return self

    def texts(self) -> list[str] | None:
        """`input` as texts; None where it is something else."""
        if isinstance(self.input, str):
            return [self.input]
        return [*self.input] if self.input and isinstance(self.input[0], str) else None

    def ids(self) -> list[list[int]] | None:
        """`input` as token ids; None where it is something else."""
        if not isinstance(self.input, list) or (self.input and isinstance(self.input[0], str)):
            return None
        if self.input and isinstance(self.input[0], int):
            return [self.input]
        return self.input  # type: ignore[return-value]


class PairsRequest(_PoolingOptions):
    """vLLM's score request: prompts and answers, one to each, or one prompt to all."""

    text_1: str | list[str] | None = Field(default=None, description="The prompt, or as many as answers")
    text_2: str | list[str] | None = Field(default=None, description="The answers")
    queries: str | list[str] | None = Field(default=None, description="Another name of text_1")
    documents: str | list[str] | None = Field(default=None, description="Another name of text_2")
    use_activation: bool | None = Field(default=None, description="true: the sigmoid of the reward; else the reward")

    @model_validator(mode="after")
    def _as_many(self) -> PairsRequest:
        if (self.text_1 is None) == (self.queries is None) or (self.text_2 is None) == (self.documents is None):
            raise ValueError("give text_1 and text_2, or queries and documents")
        prompts, answers = self.sides()
        if len(prompts) not in (1, len(answers)):
            raise ValueError(f"{len(prompts)} prompts for {len(answers)} answers; give one, or one to each")
        return self

    def sides(self) -> tuple[list[str], list[str]]:
        """Prompts and answers."""
        first = self.text_1 if self.text_1 is not None else self.queries
        second = self.text_2 if self.text_2 is not None else self.documents
        return ([first] if isinstance(first, str) else first or []), (
            [second] if isinstance(second, str) else second or []
        )


class RerankRequest(_PoolingOptions):
    """Answers (`documents`) to a prompt (`query`), to be put in order."""

    query: str = Field(examples=["What is 2+2?"])
    documents: list[str] = Field(examples=[["4.", "5."]])
    top_n: int = Field(default=0, ge=0, description="How many are given back; 0: all")
    return_documents: bool = Field(default=True, description="Whether the answers' texts come back, too")
    use_activation: bool | None = Field(default=None, description="true: the sigmoid of the reward; else the reward")
