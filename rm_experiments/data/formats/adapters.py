"""Readers of published layouts that names of columns cannot say."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

from rm_experiments.data.formats.cells import NoPreference, RowCells, is_null, setting_beside
from rm_experiments.data.formats.dialogues import (
    extra_ids,
    headings,
    human_assistant_dialogue,
    human_assistant_prompt,
    without_end,
)
from rm_experiments.data.formats.kwise import against, rated_pairs, responses
from rm_experiments.data.formats.layouts import compared, split_answers, split_turns
from rm_experiments.data.formats.pairwise import answer_pair, decided, pairwise
from rm_experiments.data.pairs import Message, PreferencePair, Text
from rm_experiments.data.wording import described, shown

_JUDGE_PROMPT = re.compile(
    r"###The instruction to evaluate:\n(.*?)\n\n###Response to evaluate:\n(.*?)\n\n###Score Rubrics:", re.DOTALL
)
_HELPFULNESS = 4
_NOT_RATED = -100


def preference_strength(cells: RowCells) -> list[PreferencePair]:
    """HelpSteer2-Preference and HelpSteer3: -3 (the first answer is much better) to 3 (the second is); 0 is a tie."""
    first, second = answer_pair(cells)
    column, value = cells.require("label")
    if is_null(value):
        raise NoPreference("label is null")
    strength = cells.number("label", column, value, "a preference strength is a number from -3 to 3")
    if abs(strength) > 3:
        raise cells.error(f"column {column!r} is {described(value)}; a preference strength is a number from -3 to 3")
    share = 0.5 - 0.5 * ((strength > 0) - (strength < 0))
    return [decided(cells, first, second, share, abs(strength))]


def alpaca_eval(cells: RowCells) -> list[PreferencePair]:
    """AlpacaEval: `preference` is 1 plus the probability that the second output is preferred; 1.5 and, in old files, 0
    are draws (`replace({0: 1.5})` in its metrics/helpers.py); null is no preference."""
    first, second = answer_pair(cells)
    column, value = cells.require("label")
    if is_null(value):
        raise NoPreference("label is null")
    what = "a preference is 1 to 2, the second being preferred at 2, or 0 for a draw"
    number = cells.number("label", column, value, what)
    if number == 0:
        number = 1.5
    if not 1 <= number <= 2:
        raise cells.error(f"column {column!r} is {described(value)}; {what}")
    return [decided(cells, first, second, 2 - number)]


def pandalm(cells: RowCells) -> list[PreferencePair]:
    """PandaLM's test set: three annotators, 1 and 2 for the responses and 0 for a tie. Their majority decides, as in
    data/compute_metrics.py; the label is the winner's share of the votes, a tie being half a vote. Where all three
    differ (the script takes the first vote then), it is a tie."""
    first, second = answer_pair(cells)
    votes = []
    for name in ("annotator1", "annotator2", "annotator3"):
        vote = cells.number("label", name, cells.column(name), "a vote is 0, 1 or 2")
        if vote not in (0, 1, 2):
            raise cells.error(f"column {name!r} is {described(vote)}; a vote is 0, 1 or 2")
        votes.append(vote)
    share = (votes.count(1) + votes.count(0) / 2) / 3
    if max(votes.count(1), votes.count(2)) < 2:
        share = 0.5
    return [decided(cells, first, second, share)]


def summarize_from_feedback(cells: RowCells) -> list[PreferencePair]:
    """OpenAI's summary comparisons. The prompt is a Reddit post with its subreddit and title, or a news article, and
    `TL;DR:`, as in summarize_from_feedback/task_data.py of their repository."""
    (pair,) = pairwise(cells)
    if "prompt" in cells.columns.named:
        return [pair]
    info = cells.column("info")
    if not isinstance(info, dict):
        raise cells.error(f"column 'info' is {described(info)}; it must be an object with post or article")
    if is_null(info.get("post")):
        parts = [f"Article:\n{cells.text('info.article', info.get('article'))}", "TL;DR:\n"]
    else:
        heads = {"SUBREDDIT: r/": "subreddit", "TITLE: ": "title"}
        parts = [f"{head}{info[name]}" for head, name in heads.items() if not is_null(info.get(name))]
        parts += [f"POST: {cells.text('info.post', info['post'])}", "TL;DR:"]
    pair.prompt = cells.text("info", "\n\n".join(parts))
    return [pair]


def qa_feedback(cells: RowCells) -> list[PreferencePair]:
    """Fine-Grained RLHF's QA-Feedback: four predictions, and for each pair of them in order 1, 2, or 0 for a tie.

    The prompt holds the passages, each under its title, and the question.
    """
    names = [f"prediction {one}" for one in range(1, 5)]
    answers: list[Text] = [cells.text(name, cells.column(name)) for name in names]
    shares: dict[Any, float] = {1: 1.0, 2: 0.0, 0: 0.5}
    votes = cells.column("preference")
    if not isinstance(votes, list) or len(votes) != 6 or not all(type(one) is int and one in shares for one in votes):
        raise cells.error(f"column 'preference' is {described(votes)}; it must be a list of 6 numbers 0, 1 or 2")
    pairs: list[tuple[str, Text, Text, float, float | None]] = [
        (f"{i}-{j}", answers[i], answers[j], shares[vote], None)
        for (i, j), vote in zip(combinations(range(4), 2), votes, strict=True)
    ]
    return compared(cells, _passages(cells), pairs, (names[0], names[1]), 6)


def _passages(cells: RowCells) -> str:
    passages = cells.column("passages")
    if not isinstance(passages, list) or not all(isinstance(one, list) and one for one in passages):
        raise cells.error(f"column 'passages' is {described(passages)}; it must be a list of lists of sentences")
    parts = []
    for number, passage in enumerate(passages):
        title, *sentences = [cells.text(f"passages[{number}]", one) for one in passage]
        whole = " ".join(sentences)
        # The first sentence of an article already begins with its title.
        parts.append(whole if whole.startswith(title) else f"{title}\n\n{whole}")
    return "\n\n".join([*parts, cells.text("question", cells.column("question"))])


def dsp(cells: RowCells) -> list[PreferencePair]:
    """DSP: `text` is a list of dialogues of `## Human:` and `## Assistant:`, or of `Human:` and `Assistant:` alone;
    `score` has their scores."""
    column, texts = cells.require("responses")
    if isinstance(texts, list) and all(isinstance(one, str) for one in texts):
        for parse in (headings, human_assistant_dialogue):
            dialogues = [parse(cells.text(f"{column}[{number}]", one)) for number, one in enumerate(texts)]
            if all(dialogues):
                row = cells.row._replace(values=cells.row.values | {column: dialogues})
                return responses(RowCells(row, cells.columns, cells.key))
    return responses(cells)


def is_dsp(cells: RowCells) -> bool:
    """Whether the row has just `text` and `score`, lists of one length of texts and numbers."""
    values = cells.row.values
    if values.keys() != {"text", "score"}:
        return False
    texts, scores = values["text"], values["score"]
    both = isinstance(texts, list) and isinstance(scores, list) and len(texts) == len(scores) > 1
    return both and all(isinstance(one, str) for one in texts)


def rm_bench(cells: RowCells) -> list[PreferencePair]:
    """RM-Bench: three chosen and three rejected answers, each concise, detailed, and detailed with markdown; 9 pairs.

    The id `x-c0r2` says that chosen answer 0 meets rejected answer 2. Its accuracies on easy, normal and hard pairs
    are those where the number after c is larger than, equal to and smaller than the one after r.
    """
    chosen, rejected = cells.answers("chosen"), cells.answers("rejected")
    if len(chosen) != 3 or len(rejected) != 3:
        lengths = f"{len(chosen)} chosen and {len(rejected)} rejected answers"
        setting = setting_beside(cells.key, "format")
        raise cells.error(f"{lengths}; RM-Bench has three of each; for other lists type {setting}=best_of")
    return against(cells, chosen, rejected, "c{}r{}")


def is_rm_bench(cells: RowCells) -> bool:
    """Whether the row has RM-Bench's columns and three chosen and rejected answers."""
    values = cells.row.values
    if not values.keys() >= {"id", "prompt", "chosen", "rejected", "domain"} or "num_correct" in values:
        return False
    both = (values["chosen"], values["rejected"])
    return all(isinstance(one, list) and len(one) == 3 and all(isinstance(text, str) for text in one) for one in both)


def prometheus_hhh(cells: RowCells) -> list[PreferencePair]:
    """Prometheus's copy of HHH Alignment: judge prompts, of which the instruction and the response are taken."""
    parts: list[tuple[str, str]] = []
    for role in ("chosen", "rejected"):
        column, value = cells.require(role)
        match = _JUDGE_PROMPT.search(cells.text(column, value))
        if match is None:
            sections = "'###The instruction to evaluate:', '###Response to evaluate:' and '###Score Rubrics:'"
            raise cells.error(f"column {column!r} is {described(value)}; it must have the sections {sections}")
        parts.append((match[1], match[2]))
    (prompt, chosen), (other, rejected) = parts
    if prompt != other:
        raise cells.error(f"chosen and rejected have different instructions: {shown(prompt)} and {shown(other)}")
    # An instruction of several turns begins without the name of its first speaker.
    turns = human_assistant_prompt(f"Human: {prompt}")
    several = isinstance(turns, list) and len(turns) > 1 and turns[-1]["role"] == "user"
    return [cells.pair(turns if several else prompt, chosen, rejected)]


def hhh_alignment(cells: RowCells) -> list[PreferencePair]:
    """HHH Alignment: `targets` holds two choices and their labels, 1 of the better one and 0 of the other; in
    BIG-bench's own files `target_scores` is an object of the same."""
    targets = cells.row.values.get("targets")
    if targets is None:
        scores = cells.column("target_scores")
        targets = {"choices": list(scores), "labels": list(scores.values())} if isinstance(scores, dict) else scores
    choices = targets.get("choices") if isinstance(targets, dict) else None
    labels = targets.get("labels") if isinstance(targets, dict) else None
    if not isinstance(choices, list) or labels not in ([0, 1], [1, 0]) or len(choices) != 2:
        raise cells.error(
            f"the targets are {described(targets)}; they must be two choices, one of label 1 and one of 0"
        )
    answers = [cells.text(f"targets.choices[{place}]", one) for place, one in enumerate(choices)]
    better = labels.index(1)
    return [cells.pair(cells.prompt() or "", answers[better], answers[1 - better])]


def is_hhh_alignment(cells: RowCells) -> bool:
    """Whether the row is an input with targets, or with BIG-bench's target scores."""
    values = cells.row.values
    if "input" not in values:
        return False
    targets = values.get("targets")
    return (isinstance(targets, dict) and targets.keys() == {"choices", "labels"}) or isinstance(
        values.get("target_scores"), dict
    )


def is_llmbar(cells: RowCells) -> bool:
    """Whether the row has LLMBar's four columns; its subset or an id may have been added."""
    return cells.row.values.keys() - {"subset", "id"} == {"input", "output_1", "output_2", "label"}


def ms_swift(cells: RowCells) -> list[PreferencePair]:
    """ms-swift: `messages` is the preferred dialogue; `rejected_response` another last turn, or `rejected_messages`
    another dialogue."""
    chosen = cells.text_or_messages("chosen", "messages", cells.column("messages"))
    if isinstance(chosen, str):
        raise cells.error(f"column 'messages' is {described(chosen)}; it must be a message list")
    column, value = cells.require("rejected")
    rejected = cells.text_or_messages("rejected", column, value)
    if isinstance(rejected, str):
        rejected = [*chosen[:-1], {"role": "assistant", "content": rejected}]
    return [cells.pair(*split_turns(chosen, rejected))]


def is_ms_swift(cells: RowCells) -> bool:
    """Whether the row has messages and one of both rejected columns, but no chosen one."""
    names = cells.row.values.keys()
    rejected = names & {"rejected_response", "rejected_messages"}
    return "messages" in names and len(rejected) == 1 and not names & {"chosen", "chosen_response"}


def is_nemo_rl_preference(cells: RowCells) -> bool:
    """Whether the row has a context and completions with ranks."""
    values = cells.row.values
    if not values.keys() >= {"context", "completions"} or not isinstance(values["completions"], list):
        return False
    items = values["completions"]
    return bool(items) and all(isinstance(one, dict) and one.keys() >= {"rank", "completion"} for one in items)


def nemo_aligner_dpo(cells: RowCells) -> list[PreferencePair]:
    """NeMo-Aligner's DPO files: a prompt with the marks `<extra_id_0>System` and so on, and two answers."""
    answers = [without_end(cells.text(*cells.require(role))) for role in ("chosen", "rejected")]
    prompt = extra_ids(cells.text(*cells.require("prompt")))
    return [cells.pair(prompt, *answers)]


def is_nemo_aligner_dpo(cells: RowCells) -> bool:
    """Whether the prompt begins with a mark of NeMo's."""
    values = cells.row.values
    found = values.keys() >= {"prompt", "chosen_response", "rejected_response"}
    return found and isinstance(values["prompt"], str) and values["prompt"].startswith("<extra_id_")


def _marked_turns(cells: RowCells) -> list[Message]:
    """The turns of a row's text with NeMo's marks, the last by the assistant."""
    value = cells.column("text")
    turns = extra_ids(cells.text("text", value))
    if isinstance(turns, str) or not turns or turns[-1]["role"] != "assistant":
        problem = f"column 'text' is {described(value)}"
        raise cells.error(f"{problem}; it must be turns with the mark <extra_id_1> that end with one of Assistant")
    return turns


def nemo_aligner_comparisons(group: list[RowCells]) -> list[PreferencePair]:
    """NeMo-Aligner's reward model files: the preferred dialogue on a line, the other one on the next.

    Dialogues without NeMo's marks stay text; what both begin with is the prompt.
    """
    if len(group) == 1:
        raise group[0].error("the last row has no partner; the preferred and the other dialogue take two lines")
    texts = [cells.text("text", cells.column("text")) for cells in group]
    parts: tuple[Text, Text, Text]
    if any("<extra_id_" in one for one in texts):
        chosen, rejected = (_marked_turns(cells) for cells in group)
        begin = (chosen[0]["content"], rejected[0]["content"])
        parts = split_turns(chosen, rejected)
    else:
        begin = (texts[0], texts[1])
        parts = split_answers(group[0], None, *begin, ("text", "text"))
    if not parts[0]:
        first = f"the dialogues begin with {shown(begin[0])} and {shown(begin[1])}"
        raise group[1].error(f"{first}; the preferred and the other dialogue of a prompt take two lines")
    return [group[0].pair(*parts)]


def is_nemo_aligner_comparisons(cells: RowCells) -> bool:
    """Whether the row is nothing but a text that begins with a mark of NeMo's."""
    text = cells.row.values.get("text")
    return len(cells.row.values) == 1 and isinstance(text, str) and text.startswith("<extra_id_0>")


def nemo_aligner_steerlm(group: list[RowCells]) -> list[PreferencePair]:
    """NeMo-Aligner's regression files: consecutive dialogues of one prompt, each with a label of nine attributes, of
    which helpfulness decides; -100 is one that is not rated."""
    rated: list[tuple[int, Text, float | None]] = []
    for place, cells in enumerate(group):
        label = cells.column("label")
        if not isinstance(label, list) or len(label) <= _HELPFULNESS:
            raise cells.error(f"column 'label' is {described(label)}; it must be a list of nine attributes")
        score = cells.number("scores", f"label[{_HELPFULNESS}]", label[_HELPFULNESS], "helpfulness must be a number")
        rated.append((place, _marked_turns(cells)[-1:], None if score == _NOT_RATED else score))
    return rated_pairs(group[0], _marked_turns(group[0])[:-1], rated, "text")


def steerlm_prompt(cells: RowCells) -> object:
    """What consecutive dialogues of one prompt have in common."""
    return _marked_turns(cells)[:-1]


def is_nemo_aligner_steerlm(cells: RowCells) -> bool:
    """Whether the row is a text that begins with a mark of NeMo's and a label of nine numbers."""
    values = cells.row.values
    if values.keys() != {"text", "label"} or not isinstance(values["label"], list):
        return False
    return isinstance(values["text"], str) and values["text"].startswith("<extra_id_0>") and len(values["label"]) == 9
