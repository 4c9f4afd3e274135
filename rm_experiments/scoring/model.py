"""`RewardModel`: a saved reward model that scores answers as it scored them in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from rm_experiments.config.data_schema import Overlength, TextAs
from rm_experiments.config.heads import Heads
from rm_experiments.config.rules import budget, refuse
from rm_experiments.config.saved_model_schema import EvaluatedModelConfig, ReadingConfig
from rm_experiments.config.schema import Device, Layout, Precision, TrainConfig
from rm_experiments.config.score_schema import RowKind, ScoreColumnsConfig
from rm_experiments.data.answers import AnswerEncoder, Answers, EncodedAnswers
from rm_experiments.data.pairs import Message, Text
from rm_experiments.data.templates import prepare_tokenizer
from rm_experiments.data.tokens import TokenizedAnswers
from rm_experiments.errors import CheckpointError, ConfigError, DataError
from rm_experiments.evaluation.forward import forward_passes
from rm_experiments.modeling.computing import Alone, resolved
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.loading import SavedModel, load_saved, open_saved, saved_heads
from rm_experiments.modeling.reward_model import RewardModel as Network
from rm_experiments.modeling.reward_model import max_positions
from rm_experiments.runner.prepare import limit_of_length
from rm_experiments.runner.saved_models import computing_of, find_checkpoints
from rm_experiments.scoring.rows import columns_of, read_row
from rm_experiments.training.budget import evaluation_budget, training_budget

_CUDA_TOKENS = 32768
"""Of a forward pass, where nobody says how many."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model gives the answers to one prompt."""

    rewards: list[float]
    """Of each answer. Of several heads their weighted sum: of an ensemble the mean."""
    heads: list[list[float]]
    """Of each answer what each head gives."""
    sds: list[float] | None
    """Of each answer the standard deviation over the heads of an ensemble (of the population); None without one."""


@dataclass(kw_only=True)
class OpenedModel:
    """A saved model whose weights are not read yet: it knows what it reads of answers."""

    name: str
    """Directory or Hub id."""
    saved: SavedModel
    heads: Heads
    """How the reward is made of what its heads give."""
    encoder: AnswerEncoder
    max_length: int
    """Tokens of prompt and answer together."""
    text_as: TextAs
    overlength: Overlength
    notes: list[str]
    """What was decided about template and pad token, one sentence each."""

    def computing(self, device: str = "auto", precision: str = "auto") -> Alone:
        """Where and in which precision it computes; arguments as for `RewardModel.load`.

        Raises:
            ConfigError: when the device is not there or cannot compute in the precision.
        """
        kind, _, number = device.partition(":")
        asked = TrainConfig(
            device=_choice("train.device", Device, kind, None),
            precision=_choice("train.precision", Precision, precision, None),
        )
        found = resolved(computing_of(asked, [self.saved]))
        if not number:
            return found
        if found.device.type != "cuda" or not number.isdecimal() or int(number) >= torch.cuda.device_count():
            raise refuse("train.device", device, f"torch sees {torch.cuda.device_count()} CUDA devices here")
        return replace(found, device=torch.device(device))


def open_model(
    checkpoint: str | Path, *, revision: str | None = None, trust_remote_code: bool = False,
    max_length: int | None = None, overlength: str | None = None, text_as: str | None = None,
    chat_template: str | None = None, chat_template_kwargs: dict[str, Any] | None = None,
) -> OpenedModel:  # fmt: skip
    """All that is known of a saved model before its weights are read; arguments as for `RewardModel.load`.

    Raises:
        CheckpointError, ConfigError: one line each.
    """
    transformers_logging.disable_progress_bar()
    found, _ = find_checkpoints(str(checkpoint))
    if len(found) > 1:
        raise CheckpointError(f"checkpoint={checkpoint}: holds {len(found)} models; name one, such as {found[-1].name}")
    model = open_saved(found[0].name, revision, trust_remote_code)
    notes = prepare_tokenizer(model.tokenizer, chat_template, chat_template_kwargs)
    data = None if model.saved is None else model.saved.data
    limit = limit_of_length(
        max_length if max_length is not None or data is None else data.max_length, max_positions(model.model_config)
    )
    policy = _choice("data.overlength", Overlength, overlength, None if data is None else data.overlength)
    kind = _choice("data.text_as", TextAs, text_as, None if data is None else data.text_as)
    return OpenedModel(
        name=found[0].name, saved=model, heads=saved_heads(model.name, model.revision),
        encoder=AnswerEncoder(model.tokenizer, kind, limit, policy), max_length=limit, text_as=kind, overlength=policy,
        notes=notes,
    )  # fmt: skip


def open_configured(checkpoint: str, model: EvaluatedModelConfig, data: ReadingConfig) -> OpenedModel:
    """The same by the settings of a command."""
    return open_model(
        checkpoint, revision=model.revision, trust_remote_code=model.trust_remote_code, max_length=data.max_length,
        overlength=data.overlength, text_as=data.text_as, chat_template=data.chat_template,
        chat_template_kwargs=data.chat_template_kwargs,
    )  # fmt: skip


def _choice(key: str, kind: Any, asked: str | None, saved: Any | None) -> Any:
    """As asked, else as saved, else the first of the choices."""
    if asked is None:
        return next(iter(kind)) if saved is None else saved
    try:
        return kind(asked)
    except ValueError:
        raise refuse(key, asked, f"one of {', '.join(one.value for one in kind)} is allowed") from None


class RewardModel:
    """A saved reward model, with the template, the length limit and the precision that it was trained with.

    ```python
    from rm_experiments import RewardModel

    model = RewardModel.load("outputs/rm/DATE")
    model.score("What is 2+2?", "4.")
    ```
    """

    def __init__(
        self, opened: OpenedModel, network: Network, computing: Alone, layout: Layout,
        micro_batch_tokens: int | str,
    ) -> None:  # fmt: skip
        """From its parts; `load` is the usual way."""
        self.name = opened.name
        """Directory or Hub id."""
        self.max_length = opened.max_length
        """Tokens of prompt and answer together."""
        self.tokenizer = opened.saved.tokenizer
        self.heads: Heads = network.heads
        """The heads, and how the reward is made of them."""
        self.notes = list(opened.notes)
        """What was decided in loading, one sentence each."""
        self.encoder = opened.encoder
        """Makes token ids of answers."""
        self._network, self._computing = network, computing
        self._batcher, note = choose_layout(network, layout, self.tokenizer.pad_token_id, False)
        self.notes.append(note)
        self.token_budget = _budget(micro_batch_tokens, computing, network, self._batcher, self.max_length)
        """Tokens of one forward pass."""

    @classmethod
    def load(
        cls, checkpoint: str | Path, *, revision: str | None = None, device: str = "auto", precision: str = "auto",
        layout: str = "auto", micro_batch_tokens: int | str = "auto", max_length: int | None = None,
        overlength: str | None = None, text_as: str | None = None, chat_template: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None, trust_remote_code: bool = False,
    ) -> RewardModel:  # fmt: skip
        """Load a model directory (ours, any one-label classifier of transformers, a PEFT adapter), a run, or a Hub id.

        Args:
            revision: branch, tag or commit of a Hub id.
            device: `auto` (CUDA, else MPS, else CPU), `cuda` (or `cuda:1`), `mps` or `cpu`.
            precision: `fp32`, `bf16` or `fp16`; `auto`: what the model was trained with, where that is possible.
            layout: how sequences become a forward pass; does not change the result.
            micro_batch_tokens: tokens of a forward pass; does not change the result.
            max_length: tokens of prompt and answer together; None: as in training.
            overlength: what happens past it: `truncate_prompt`, `truncate_response`, `drop` or `error` (either is a
                `DataError`); None: as in training.
            text_as: `chat` or `raw`, for plain texts; None: as in training.
            chat_template: a name in `conf/chat_templates/` or a file, instead of the model's own.
            trust_remote_code: whether code from the model's repository may run on this machine.

        Raises:
            CheckpointError, ConfigError: one line each.
        """
        opened = open_model(
            checkpoint, revision=revision, trust_remote_code=trust_remote_code, max_length=max_length,
            overlength=overlength, text_as=text_as, chat_template=chat_template,
            chat_template_kwargs=chat_template_kwargs,
        )  # fmt: skip
        computing = opened.computing(device, precision)
        return cls.of(opened, computing, layout=layout, micro_batch_tokens=micro_batch_tokens)

    @classmethod
    def of(
        cls, opened: OpenedModel, computing: Alone, *, layout: str = "auto",
        micro_batch_tokens: int | str = "auto",
    ) -> RewardModel:  # fmt: skip
        """Read the weights of an opened model; arguments as for `load`."""
        if not budget(micro_batch_tokens):
            raise refuse("eval.micro_batch_tokens", micro_batch_tokens, "must be a whole number of at least 1, or auto")
        network = load_saved(opened.saved, all_heads=True).to(computing.device).eval()
        return cls(opened, network, computing, _choice("train.layout", Layout, layout, None), micro_batch_tokens)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._computing.device

    @property
    def precision(self) -> str:
        """Of the backbone's arithmetic: `fp32`, `bf16` or `fp16`."""
        return self._computing.precision.value

    def encode(self, rows: Sequence[Answers]) -> list[EncodedAnswers | DataError]:
        """What the model reads of each; the error of those that its template or the length policy refuses.

        May be called from several threads.
        """
        return self.encoder.encode(rows)

    def compute(
        self, encoded: Sequence[EncodedAnswers], on_progress: Callable[[int], None] = lambda sequences: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Scores]:  # fmt: skip
        """The rewards of each. What several begin with is computed once, and answers of similar length together.

        Not from several threads at a time. Rewards that are not finite are given as they are.

        Args:
            on_progress: is told how many answers were just done.

        Raises:
            Stopped: when `should_stop`, asked before each forward pass, said so.
        """
        answers = _tokenized(encoded)
        if not len(answers):
            return []
        items = self._batcher.items_of_answers(answers, self.token_budget)
        done = forward_passes(
            self._computing, self._network, answers, self._batcher, items, self.token_budget, on_progress, should_stop
        )
        given = np.full((len(answers), len(self.heads)), np.nan)
        for numbers, values in done:
            given[numbers] = values.double().cpu().numpy().reshape(len(numbers), -1)
        rewards = given @ np.array(self.heads.weights)
        ends = np.cumsum([len(one.ids) for one in encoded])
        parts = zip(np.split(rewards, ends[:-1]), np.split(given, ends[:-1]), strict=True)
        ensemble = self.heads.kind == "ensemble"
        return [
            Scores(
                rewards=own.tolist(), heads=of_heads.tolist(), sds=of_heads.std(axis=1).tolist() if ensemble else None
            )
            for own, of_heads in parts
        ]

    @overload
    def score(self, prompt: Text, response: str) -> float: ...
    @overload
    def score(self, prompt: Text, response: list[str] | list[list[Message]]) -> list[float]: ...
    @overload
    def score(self, prompt: list[str] | list[list[Message]], response: Sequence[Text]) -> list[float]: ...
    @overload
    def score(self, prompt: Text, response: list[Message]) -> float: ...

    def score(self, prompt: Any, response: Any) -> float | list[float]:
        """The reward of an answer, or the rewards of many at once.

        Args:
            prompt: text or turns (`{"role": ..., "content": ...}`); or a list of prompts.
            response: an answer, as text or turns; several answers to the one prompt; or as many as there are prompts,
                one to each.

        Raises:
            DataError: one line; when the template or the length policy refuses an answer, or its reward is not finite.
            ConfigError: when there are not as many answers as prompts.
        """
        if _is_many(prompt):
            if not isinstance(response, list | tuple) or len(response) != len(prompt):
                count = len(response) if isinstance(response, list | tuple) else "one"
                raise ConfigError(f"response: {count} for {len(prompt)} prompts; give one to each")
            rows = [{"prompt": one, "response": two} for one, two in zip(prompt, response, strict=True)]
            return [rewards[0] for rewards in self._rewards(rows, RowKind.response)]
        if _is_many(response):
            rows = [{"prompt": prompt, "responses": list(response)}]
            return self._rewards(rows, RowKind.responses)[0] if response else []
        return self._rewards([{"prompt": prompt, "response": response}], RowKind.response)[0][0]

    @overload
    def score_messages(self, messages: list[Message]) -> float: ...
    @overload
    def score_messages(self, messages: list[list[Message]]) -> list[float]: ...

    def score_messages(self, messages: Any) -> float | list[float]:
        """The reward of the last answer of a dialogue, or of several dialogues.

        Args:
            messages: turns with role and content, the answer's included; or a list of such dialogues.
        """
        many = _is_many(messages)
        rows = [{"messages": turns} for turns in (messages if many else [messages])]
        found = [one[0] for one in self._rewards(rows, RowKind.messages)]
        return found if many else found[0]

    def _rewards(self, rows: list[dict[str, Any]], kind: RowKind) -> list[list[float]]:
        """Of rows as they would stand in a file."""
        answers = [_read(row, number, kind) for number, row in enumerate(rows)]
        encoded: list[EncodedAnswers] = []
        for one in self.encode(answers):
            if isinstance(one, DataError):
                raise one
            encoded.append(one)
        found = [scores.rewards for scores in self.compute(encoded)]
        for number, rewards in enumerate(found):
            if not np.isfinite(rewards).all():
                raise DataError(f"row {number}: its reward is not finite; try precision='fp32'")
        return found


_COLUMNS = columns_of(ScoreColumnsConfig())


def _read(row: dict[str, Any], number: int, kind: RowKind) -> Answers:
    try:
        return read_row(row, number, f"row {number}", kind, _COLUMNS, "score").answers
    except DataError as error:
        # There is no other column.
        raise DataError(str(error).removeprefix("score: ").partition("; for another column")[0]) from error


def _budget(setting: int | str, computing: Alone, network: Network, batcher: Batcher, longest: int) -> int:
    if setting == "auto" and computing.device.type == "cuda":
        # Training measures by a backward pass, for which there may be no room here; passes that do not fit are halved.
        return _CUDA_TOKENS
    return evaluation_budget(
        setting, training_budget(setting, computing, network, batcher, longest), computing.device.type
    )


def _is_many(value: Any) -> bool:
    """Whether it is a list of texts or of dialogues, and not turns of one."""
    return isinstance(value, list | tuple) and not (value and isinstance(value[0], dict))


def _tokenized(encoded: Sequence[EncodedAnswers]) -> TokenizedAnswers:
    """All answers; those of equal prompts have one number, whatever rows they are of."""
    prompts: dict[bytes, int] = {}
    numbers: list[int] = []
    for row, one in enumerate(encoded):
        prompt = one.ids[0][: one.num_prompt_tokens]
        # The first token alone is not worth sharing.
        number = prompts.setdefault(prompt.tobytes(), row) if len(prompt) > 1 else row
        numbers += [number] * len(one.ids)
    return TokenizedAnswers(ids=[ids for one in encoded for ids in one.ids], prompts=np.array(numbers, dtype=np.int64))
