"""The settings under `data.`: where the pairs come from, how they are read, checked and turned into tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class TextAs(str, Enum):
    chat = "chat"
    raw = "raw"


class Overlength(str, Enum):
    truncate_prompt = "truncate_prompt"
    truncate_response = "truncate_response"
    drop = "drop"
    error = "error"


class Ties(str, Enum):
    keep = "keep"
    drop = "drop"


class Audit(str, Enum):
    report = "report"
    error = "error"
    fix = "fix"


@dataclass(kw_only=True)
class ColumnsConfig:
    """Which column holds what, as a name or a dotted path into nested fields. Null: the usual names are looked for."""

    prompt: str | None = None
    """The prompt: text or a message list. Rows without one hold whole dialogues in `chosen` and `rejected`."""
    system: str | None = None
    """A system message that goes before the prompt."""
    chosen: str | None = None
    """The preferred answer: text or a message list."""
    rejected: str | None = None
    """The other answer."""
    response_a: str | None = None
    """The first of two answers whose order says nothing; `label`, or `score_a` and `score_b`, says which is better."""
    response_b: str | None = None
    """The second of them."""
    label: str | None = None
    """Which of `response_a` and `response_b` is preferred; its values are explained by `first_wins` and so on."""
    first_wins: list[Any] | None = None
    """Values of the label column that mean that the first answer is preferred."""
    second_wins: list[Any] | None = None
    """Values that mean that the second one is."""
    tie: list[Any] | None = None
    """Values that mean that neither is."""
    label_share: str | None = None
    """A number from 0 to 1: the share of annotators who prefer the first answer (or `chosen`)."""
    score_a: str | None = None
    """A number: how good the first answer (or `chosen`) is; the higher score is preferred."""
    score_b: str | None = None
    """The same of the second answer (or `rejected`)."""
    responses: str | None = None
    """A list of answers to one prompt: texts, message lists, or objects that hold them."""
    scores: str | None = None
    """A list of numbers, one per response, higher is better; or the field of each response object."""
    ranks: str | None = None
    """A list of numbers, one per response, 1 is best; or the field of each response object."""
    margin: str | None = None
    """A number: by how much chosen is better."""
    attributes: list[str] | None = None
    """Numbers that say how good an answer is in one respect each, for `loss=regression`: columns of rows with one
    response; fields of response objects, or lists beside the responses; of chosen and rejected the columns
    NAME_chosen and NAME_rejected. Null and NaN: not known."""
    weight: str | None = None
    """A positive number: how much the row counts in losses and metrics; without it 1."""
    subset: str | None = None
    """The part of the data that a row belongs to; metrics are also given per subset."""
    id: str | None = None
    """The row's own id; without one, the row's number in the file."""
    tools: str | None = None
    """The tools that the template shows to the model: a list of JSON schemas, or its JSON text."""
    chat_template_kwargs: str | None = None
    """An object: further variables of the chat template for this row."""


SANDBOX_TASKS = ("mention", "list", "sum", "refuse", "order", "format", "style", "constraints")
"""Names of the tasks of the sandbox world."""
SANDBOX_ATTRIBUTES = ("quality", "length")
"""What `data.sandbox.attributes` rates answers by."""


@dataclass(kw_only=True)
class SandboxConfig:
    """The sandbox world: generated dialogues with a known gold reward (see `rm_experiments.data.sandbox`)."""

    num_train_pairs: int = 32000
    """Generated training pairs."""
    num_eval_pairs: int = 1000
    """Generated evaluation pairs; no prompt occurs in both."""
    tasks: list[str] = field(default_factory=lambda: ["mention", "list", "sum", "refuse"])
    """Kinds of prompts, equally many of each: `mention`, `list`, `sum`, `refuse`, `order`, `format`, `style`,
    `constraints`."""
    label_scale: float = 2.0
    """Factor on the gold reward difference inside the sigmoid of the annotators; larger: cleaner labels."""
    label_noise: float = 0.0
    """Share of labels that are flipped afterwards, 0 to below 0.5."""
    contradictions: float = 0.0
    """Share of the training pairs that occur once more with chosen and rejected swapped, 0 to 1; the number of training
    pairs includes them."""
    ties: float = 0.0
    """Threshold of the annotators in gold reward units, at least 0: an answer that is better by this much is preferred
    in half of the cases, and most of the others are ties (Rao-Kupper); 0: no ties."""
    length_bias: float = 0.0
    """Added to the annotators' view for each word that an answer is longer, in gold reward units."""
    style_confound: float = 0.0
    """How well a meaningless exclamation mark foretells the label, 0 to 1: it ends the preferred answer with a
    probability of (1 + style_confound) / 2, else the other one; 0: there is none."""
    difficulty: float = 0.0
    """How close the two answers are, 0 to below 1: each half unit of gold reward between them makes a pair
    (1 - difficulty) times as frequent."""
    sequence_length: int = 0
    """Words, on average, to which prompts and answers are padded with sentences that say nothing; 0: no padding."""
    vocabulary: int = 20
    """Topics that prompts are about, 5 to 50000; there are two names of people for every five of them."""
    strengths: bool = False
    """Whether annotators say how strongly they prefer an answer: a margin of 1, 2 or 3 for a difference below 1, below
    2 and from 2 gold reward units on, 0 for a tie."""
    attributes: bool = False
    """Whether annotators also rate each answer by itself: `quality`, the gold reward and an error as large as that of
    the labels, and `length`, tens of words."""
    num_responses: int = 2
    """Responses to each training prompt, 2 to 8. More than two are ranked (Plackett-Luce), and all their pairs are
    there, which share the weight 1; the evaluation pairs are the same."""
    world_seed: int = 0
    """Seed of the generated texts and labels, apart from `seed`, so that seeds can be compared on the same data."""


BENCHMARK_NAMES = (
    "best_of_n", "hhh", "judge_bench", "llmbar", "ppe", "reward_bench", "reward_bench_2", "rm_bench",
)  # fmt: skip
"""Names of the rules in `rm_experiments.evaluation.benchmarks`."""


@dataclass(kw_only=True)
class EvalSetConfig:
    """A further evaluation set with a name of its own."""

    source: Any = None
    """Files, globs, a list of them, or a Hub id with split, as for `data.eval`."""
    format: str = "auto"
    """As `data.format`."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """As `data.columns`."""
    revision: str | None = None
    """As `data.revision`."""
    benchmark: str | None = None
    """The published rule that scores the set beside its metrics: `best_of_n`, `hhh`, `judge_bench`, `llmbar`, `ppe`,
    `reward_bench`, `reward_bench_2`, `rm_bench`; null: none."""


@dataclass(kw_only=True)
class MixturePartConfig:
    """One source of `data.mixture`."""

    source: Any = None
    """Files, globs, a list of them, or a Hub id with split, as for `data.train`."""
    format: str = "auto"
    """As `data.format`."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """As `data.columns`."""
    revision: str | None = None
    """As `data.revision`."""
    weight: float | None = None
    """Share of the training pairs, relative to the other parts' weights; null in all parts: every pair once."""
    max_pairs: int | None = None
    """Use this many pairs of the part at most, drawn at random from `seed`; null: all."""
    subset: str | None = None
    """The subset of rows that name none; null: the name of the part."""


@dataclass(kw_only=True)
class DataConfig:
    """Where the pairs come from and how they become tokens."""

    train: Any = None
    """Training pairs: file, glob, list of them, or a Hub id with split (`org/name:train`)."""
    mixture: dict[str, Any] = field(default_factory=dict)
    """Training pairs from several sources instead of `data.train`: a name and a source, or a name and the keys of
    `MixturePartConfig` (weight, max_pairs, format, columns ...)."""
    eval: Any = None
    """Pairs of the main evaluation set, in the same forms; null: `data.eval_fraction` of the training prompts."""
    eval_sets: dict[str, Any] = field(default_factory=dict)
    """Further evaluation sets: a name and a source, or a name and the keys of `EvalSetConfig`. Their metrics are
    `eval_<name>_accuracy` and so on."""
    sandbox: SandboxConfig | None = None
    """The generated world; null when `data.train` is given."""
    format: str = "auto"
    """`auto` (recognised from the columns) or the name of a format."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Names of the columns where they are not the usual ones."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set; null: the default branch."""
    ties: Ties = Ties.keep
    """Pairs whose label is a tie: `keep` (training pulls both rewards together, accuracy leaves them out) or `drop`
    (counted)."""
    text_as: TextAs = TextAs.chat
    """`chat`: a text prompt is one user turn and the answer one assistant turn; `raw`: the texts are concatenated."""
    chat_template: str | None = None
    """Null: the tokenizer's own, or the plain one when it has none; the name of one in `conf/chat_templates/`; or a
    file with a Jinja template."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables of the chat template for all rows, such as `enable_thinking: false`; they are saved in the template."""
    max_length: int | None = None
    """Token limit of prompt and answer together; null: what the model can take, at most 2048."""
    overlength: Overlength = Overlength.truncate_prompt
    """What happens past the limit: `truncate_prompt` (oldest prompt tokens go; then both answers are cut at the same
    length), `truncate_response`, `drop` (training and evaluation; counted), or `error`."""
    eval_fraction: float = 0.05
    """Share of the prompts that is split off when there is no `data.eval`; above 0, below 1."""
    max_train_pairs: int | None = None
    """Train on this many pairs at most, drawn at random from `seed`; null: all."""
    max_eval_pairs: int | None = None
    """Evaluate on this many pairs of each set at most, the first ones; null: all."""
    audit: Audit = Audit.report
    """What happens with what the audit finds: `report`; `error` (a finding beyond its limit in `data.audit_limits`
    stops the run); or `fix` (training pairs with a finding of such a kind are dropped, and counted)."""
    audit_limits: dict[str, float] = field(default_factory=dict)
    """Largest share of the pairs of a split that a kind of finding may have with `data.audit=error`, such as
    `{duplicates: 0.05}`; the kinds and their usual limits are in `rm_experiments.data.audit`."""
    cache_dir: str | None = "auto"
    """Where read and tokenized pairs are kept for the next run: a directory; `auto`: `rm_experiments` in
    `$XDG_CACHE_HOME` or `~/.cache`; null: nowhere."""
