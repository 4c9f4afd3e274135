"""The common layout of preference rows, chosen and rejected, and what the other layouts share with it."""

from __future__ import annotations

from typing import Any

from rm_experiments.data.formats.cells import RowCells
from rm_experiments.data.formats.columns import MISSING
from rm_experiments.data.pairs import Message, PreferencePair, Text, prompt_messages


def preference(cells: RowCells) -> list[PreferencePair]:
    """Columns prompt (optional), chosen and rejected: text or message lists.

    Without a prompt, what both answers begin with becomes the prompt. Message lists that repeat it lose it. Scores of
    both answers give the margin; a share of annotators below a half swaps the answers.

    Raises:
        DataError: a column is missing or holds something else, or chosen and rejected are not of one kind.
    """
    chosen_column, chosen_value = cells.require("chosen")
    rejected_column, rejected_value = cells.require("rejected")
    chosen = cells.text_or_messages("chosen", chosen_column, chosen_value)
    rejected = cells.text_or_messages("rejected", rejected_column, rejected_value)
    prompt = cells.prompt_of([chosen, rejected])
    parts = split_answers(cells, prompt, chosen, rejected, (chosen_column, rejected_column))
    others = margin_from_scores(cells) | {
        f"scores_{side}": cells.attribute_scores(lambda name, side=side: _of_side(cells, name, side))  # type: ignore[misc]
        for side in ("chosen", "rejected")
    }
    share = cells.optional_number("label_share", SHARE)
    if share is None:
        return [cells.pair(*parts, **others)]
    return [judged(cells, *parts, share, cells.common() | others, swaps_margin=True)]


def _of_side(cells: RowCells, name: str, side: str) -> Any:
    """The score of one of the two answers."""
    values = cells.row.values
    return next((values[one] for one in (f"{name}_{side}", f"{side}_{name}") if one in values), MISSING)


SHARE = "a share of annotators is a number from 0 to 1"
SCORE = "a score must be a finite number"


def margin_from_scores(cells: RowCells) -> dict[str, Any]:
    """The margin as an argument of a pair, where it is not in a column of its own but in scores of both answers."""
    first = cells.optional_number("score_a", SCORE)
    second = cells.optional_number("score_b", SCORE)
    if first is None or second is None or cells.margin() is not None:
        return {}
    return {"margin": first - second}


def judged(
    cells: RowCells,
    prompt: Text,
    first: Text,
    second: Text,
    share: float,
    common: dict[str, Any],
    *,
    ordered: bool = True,
    swaps_margin: bool = False,
) -> PreferencePair:
    """The pair of two answers of which the share `share` of annotators prefers the first.

    Args:
        cells: the row, for messages and for its system message.
        prompt: the prompt.
        first: the first answer.
        second: the second answer.
        share: 0 to 1; a half makes a tie.
        common: the other arguments of the pair.
        ordered: the order of the answers in the file says which is better.
        swaps_margin: the margin says by how much the first answer is better, not the preferred one.
    """
    if not 0 <= share <= 1:
        raise cells.error(f"the share {share} of annotators is not between 0 and 1; {SHARE}")
    chosen, rejected = (first, second) if share >= 0.5 else (second, first)
    if share < 0.5 and common.get("scores_chosen") is not None:
        common = common | {"scores_chosen": common["scores_rejected"], "scores_rejected": common["scores_chosen"]}
    if swaps_margin and share < 0.5 and common["margin"] is not None:
        common = common | {"margin": -common["margin"]}
    return PreferencePair(
        prompt=cells.with_system(prompt),
        chosen=chosen,
        rejected=rejected,
        label=max(share, 1 - share),
        chosen_first=None if ordered or share == 0.5 else share > 0.5,
        **common,
    )


def split_answers(
    cells: RowCells, prompt: Text | None, chosen: Text, rejected: Text, names: tuple[str, str]
) -> tuple[Text, Text, Text]:
    """Prompt and both answers, after turns or words that both begin with were taken for the prompt.

    Args:
        cells: the row, for messages.
        prompt: the prompt column, if there is one.
        chosen: the one answer.
        rejected: the other answer.
        names: the columns of both.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            cut = _common_words(chosen, rejected)
            prompt, chosen, rejected = chosen[:cut], chosen[cut:], rejected[cut:]
        return prompt, chosen, rejected
    if isinstance(chosen, str) or isinstance(rejected, str):
        text, turns = names if isinstance(chosen, str) else names[::-1]
        raise cells.error(f"column {text!r} is text, but {turns!r} is a message list; both must be of one kind")
    # An empty text beside message lists says no more than a missing prompt: the dialogue is in the answers.
    if not prompt:
        return split_turns(chosen, rejected)
    return _without_prompt(prompt, chosen, rejected, cells)


def compared(
    cells: RowCells,
    prompt: Text | None,
    pairs: list[tuple[str, Text, Text, float, float | None]],
    names: tuple[str, str],
    count: int,
    scores: list[tuple[Any, Any]] | None = None,
) -> list[PreferencePair]:
    """The pairs of several answers to one prompt, which share the weight of the row.

    Without a prompt, what all of the answers begin with becomes the prompt of all pairs.

    Args:
        cells: the row.
        prompt: its prompt, if it has one.
        pairs: of each what is put after the row's id, two answers, the share that prefers the first, and the margin.
        names: the columns of both answers.
        count: the number of pairs.
        scores: of each pair the attributes of its two answers.
    """
    common = cells.common()
    common["weight"] /= count
    name, margin = common["id"], common["margin"]
    cut = _common_begin(prompt, [answer for _, first, second, *_ in pairs for answer in (first, second)])
    found = []
    for number, (place, first, second, share, own) in enumerate(pairs):
        if scores is not None:
            common["scores_chosen"], common["scores_rejected"] = scores[number]
        common["id"] = f"{name}-{place}" if count > 1 else name
        common["margin"] = own if margin is None else margin
        if cut is None:
            parts = split_answers(cells, prompt, first, second, names)
        else:
            parts = first[:cut], first[cut:], second[cut:]
        found.append(judged(cells, *parts, share, common))
    return found


def _common_begin(prompt: Text | None, answers: list[Text]) -> int | None:
    """With how many characters or turns all answers begin that are not in the prompt column; None if that has them."""
    texts = [one for one in answers if isinstance(one, str)]
    dialogues = [one for one in answers if not isinstance(one, str)]
    if prompt is None and not dialogues:
        # What the first and the last text in the order of their characters have in common, all between them have.
        return _common_words(min(texts), max(texts))
    if not prompt and not texts:
        return min(len(split_turns(dialogues[0], one)[0]) for one in dialogues)
    return None


def _common_words(first: str, second: str) -> int:
    """How many characters both begin with, cut back to the end of a whitespace so that neither is used up."""
    low, high = 0, max(0, min(len(first), len(second)) - 1)
    while low < high:  # Bisection: comparing slices is far faster than comparing characters one by one.
        middle = (low + high + 1) // 2
        low, high = (middle, high) if first[low:middle] == second[low:middle] else (low, middle - 1)
    return next((end for end in range(low, 0, -1) if first[end - 1].isspace()), 0)


def split_turns(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], list[Message], list[Message]]:
    """The turns that both dialogues begin with, and the rest of each, which keeps at least the last turn."""
    cut, most = 0, min(len(chosen), len(rejected)) - 1
    while cut < most and chosen[cut] == rejected[cut]:
        cut += 1
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _without_prompt(
    prompt: Text, chosen: list[Message], rejected: list[Message], cells: RowCells
) -> tuple[Text, list[Message], list[Message]]:
    """Prompt and answers, after the prompt's turns were taken out of answers that repeat them."""
    repeated, other = repeated_turns(prompt, chosen), repeated_turns(prompt, rejected)
    before = max(0, repeated - len(prompt_messages(prompt)))
    if repeated != other or chosen[:before] != rejected[:before]:
        raise cells.error(
            "only one of chosen and rejected begins with the prompt, or each with another system message; "
            "both must repeat it alike, or neither"
        )
    if repeated and repeated in (len(chosen), len(rejected)):
        raise cells.error("an answer holds nothing but the prompt; it must go on with an assistant message")
    shared = len(split_turns(chosen, rejected)[0])
    last = prompt_messages(prompt)[-1]
    in_dialogue = not repeated and any(_same_turn(last, turn) for turn in chosen[:shared])
    # The column is only a part of the prompt where the answers have a system message of their own, or are dialogues of
    # which it holds a later turn, or share turns behind it.
    if before or in_dialogue or (repeated and shared > repeated):
        cut = max(shared, repeated)
        return chosen[:cut], chosen[cut:], rejected[cut:]
    return prompt, chosen[repeated:], rejected[repeated:]


def repeated_turns(prompt: Text, answer: list[Message]) -> int:
    """With how many turns `answer` repeats the prompt, a system message before it included; 0 if it does not.

    Whitespace around a turn is not compared: some data sets strip one of the two copies.
    """
    turns = prompt_messages(prompt)
    start = int(answer[0]["role"] == "system" and turns[0]["role"] != "system")
    begin = answer[start : start + len(turns)]
    same = len(begin) == len(turns) and all(map(_same_turn, begin, turns))
    return start + len(turns) if same else 0


def _same_turn(one: Message, two: Message) -> bool:
    return bool(one["role"] == two["role"] and one["content"].strip() == two["content"].strip())
