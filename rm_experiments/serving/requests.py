"""What clients send, checked for names and types. OpenAPI describes these classes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, FailFast, Field, model_validator

from rm_experiments.config.score_schema import RowKind

ModelName = Annotated[str | None, Field(description="Which of the served models; the first one if it is left out")]
_Item = TypeVar("_Item")


class _FirstError(FailFast):
    """Of a list, one wrong item is told."""

    __hash__ = object.__hash__  # Unions ask for it.


Many = Annotated[list[_Item], _FirstError()]
"""A list whose first wrong item is enough: a million messages would hold up everyone."""
_KINDS = {
    RowKind.response: ("response",), RowKind.responses: ("responses",), RowKind.messages: ("messages",),
    RowKind.pair: ("chosen", "rejected"),
}  # fmt: skip


def _names(own: str, alias: object) -> list[str]:
    """What a client may call a field."""
    return [str(one) for one in alias.choices] if isinstance(alias, AliasChoices) else [own]


class _Strict(BaseModel):
    """Unknown keys are refused: one that is misspelt would have no effect."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _one_unknown(cls, data: Any) -> Any:
        """The first unknown key is enough for the message."""
        if not isinstance(data, dict) or len(data) <= len(cls.model_fields):
            return data
        known = {name for own, field in cls.model_fields.items() for name in _names(own, field.validation_alias)}
        unknown = [name for name in data if name not in known][:1]
        return {name: data[name] for name in (*(known & data.keys()), *unknown)}


class Turn(BaseModel):
    """One turn of a dialogue; `tool_calls`, `name` and `tool_call_id` where the template shows them."""

    model_config = ConfigDict(extra="allow")
    role: str = Field(examples=["user"])
    content: str | Many[dict[str, Any]] | None = Field(default=None, examples=["What is 2+2?"])


Words = str | Many[Turn]


class Row(_Strict):
    """A prompt and what answers it: one of `response`, `responses`, `messages`, or `chosen` and `rejected`."""

    id: str | int | None = Field(default=None, description="Comes back as it is")
    prompt: Words | None = Field(default=None, examples=["What is 2+2?"])
    system: str | None = Field(default=None, description="A system message before the prompt")
    response: Words | None = Field(default=None, description="One answer", examples=["4."])
    responses: Many[Words] | None = Field(default=None, description="Several answers to the prompt")
    messages: Many[Turn] | None = Field(
        default=None, description="A whole dialogue, of which the last answer is scored"
    )
    chosen: Words | None = Field(default=None, description="The first answer of a pair")
    rejected: Words | None = Field(default=None, description="The second answer of a pair")
    tools: Many[dict[str, Any]] | None = Field(default=None, description="JSON schemas that the template shows")
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

    def repeated_characters(self) -> int:
        """Of what every answer is rendered with, all answers together."""
        shared = (self.prompt, self.system, self.tools, self.chat_template_kwargs)
        return self.num_answers() * sum(len(one if isinstance(one, str) else repr(one)) for one in shared if one)

    def values(self) -> dict[str, Any]:
        """As a row of a file."""
        return self.model_dump(exclude_none=True, exclude={"id", "model", "rows"})


class ScoreRequest(Row):
    """One row, or several as `rows`."""

    model: ModelName = None
    rows: Many[Row] | None = Field(default=None, description="Several rows, instead of one")

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
    query: Many[str] = Field(description="Prompt and answer as one text, rendered by a chat template")
    prompts: Many[str] | None = Field(default=None, description="The prompt of each query, rendered the same way")
    labels: Many[Any] | None = Field(default=None, description="Not looked at")

    @model_validator(mode="after")
    def _as_many(self) -> RemoteRewardRequest:
        if self.prompts is not None and len(self.prompts) != len(self.query):
            raise ValueError(f"prompts has {len(self.prompts)} items and query {len(self.query)}; give one to each")
        return self


Activation = Annotated[
    bool | None,
    Field(
        validation_alias=AliasChoices("use_activation", "activation"),
        description="true: the sigmoid of the reward; else the reward. Also called activation",
    ),
]


class _PoolingOptions(_Strict):
    model: ModelName = None
    add_special_tokens: Literal[False] | None = Field(default=None, description="What is missing is added anyway")
    truncate_prompt_tokens: Literal[-1] | None = Field(default=None, description="The server's length policy decides")
    user: str | None = Field(default=None, description="Not looked at")
    request_id: str | None = Field(default=None, description="Not looked at")


class PoolingRequest(_PoolingOptions):
    """vLLM's pooling and classification request: `input` or `messages`."""

    input: str | Many[str] | Many[int] | Many[Many[int]] | None = Field(
        default=None, description="Rendered texts or token ids", examples=["User: Hi\n\nAssistant: Hello!"]
    )
    messages: Many[Turn] | None = Field(default=None, description="A dialogue, of which the last answer is scored")
    tools: Many[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    encoding_format: Literal["float"] = "float"
    task: Literal["classify", "score"] | None = Field(default=None, description="The same here")
    use_activation: Activation = None

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

    text_1: str | Many[str] | None = Field(default=None, description="The prompt, or as many as answers")
    text_2: str | Many[str] | None = Field(default=None, description="The answers")
    queries: str | Many[str] | None = Field(default=None, description="Another name of text_1")
    documents: str | Many[str] | None = Field(default=None, description="Another name of text_2")
    use_activation: Activation = None

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
    documents: Many[str] = Field(examples=[["4.", "5."]])
    top_n: int = Field(default=0, ge=0, description="How many are given back; 0: all")
    return_documents: bool = Field(default=True, description="Whether the answers' texts come back, too")
    use_activation: Activation = None
