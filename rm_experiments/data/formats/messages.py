"""One turn of a dialogue, as chat models take it (`role`, `content`) or as ShareGPT files have it (`from`, `value`)."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from rm_experiments.data.formats.values import plain_value
from rm_experiments.data.pairs import Message
from rm_experiments.data.wording import described, listed

if TYPE_CHECKING:
    from rm_experiments.data.formats.cells import RowCells

ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
"""What ShareGPT files write in `from` (LLaMA-Factory's data/README.md)."""
MESSAGE_KEYS = (("role", "content"), ("from", "value"))


def is_message(value: object) -> bool:
    """Whether `value` is an object that is a message, right or wrong."""
    return isinstance(value, dict) and any(who in value and what in value for who, what in MESSAGE_KEYS)


def message(cells: RowCells, column: str, number: int, value: Any) -> Message:
    """`value`, the item `number` of `column`, as a turn with role and content; tool calls and their results too.

    Raises:
        DataError: it is no message, or of an unknown role, or its content is no text.
    """
    if not isinstance(value, dict):
        raise cells.error(f"{column}[{number}] is {described(value)}; a message is an object with role and content")
    if "role" not in value and "from" in value and "value" in value:
        role, content, name, roles = value["from"], value["value"], "from", tuple(SHAREGPT_ROLES)
    else:
        for key in ("role", "content"):
            # An assistant that only calls tools says nothing.
            if key not in value and not (key == "content" and value.get("tool_calls")):
                keys = f"(keys: {listed(value)})"
                raise cells.error(f"{column}[{number}] has no {key!r} {keys}; a message has role and content")
        role, content, name, roles = value["role"], value.get("content"), "role", ROLES
    if role not in roles:
        similar = difflib.get_close_matches(str(role).lower(), roles, n=1)
        hint = f"; did you mean {similar[0]}?" if similar else ""
        place = f"{column}[{number}].{name}"
        raise cells.error(f"{place} is {described(role)}; allowed are {', '.join(roles)}{hint}")
    if name == "from":
        return {"role": SHAREGPT_ROLES[role], "content": cells.text(f"{column}[{number}].value", content)}
    calls = value.get("tool_calls")
    if calls and content is None:
        content = ""
    turn = {"role": role, "content": _text(cells, f"{column}[{number}].content", content)}
    if calls or role == "tool":
        _add_tool_use(cells, f"{column}[{number}]", value, turn)
    return turn


def _text(cells: RowCells, place: str, content: Any) -> str:
    """A turn's words: text, or parts of type text as multi-modal chats have them."""
    if not isinstance(content, list):
        return cells.text(place, content)
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise cells.error(f"{place}[{number}] is {described(part)}; only parts of type 'text' are read")
        texts.append(cells.text(f"{place}[{number}].text", part.get("text")))
    return "".join(texts)


def _add_tool_use(cells: RowCells, place: str, value: dict[str, Any], turn: Message) -> None:
    calls = value.get("tool_calls")
    if calls:
        if turn["role"] != "assistant":
            raise cells.error(f"{place} has tool_calls, but role {turn['role']}; only the assistant calls tools")
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise cells.error(f"{place}.tool_calls is {described(calls)}; it must be a list of objects")
        turn["tool_calls"] = plain_value(cells, f"{place}.tool_calls", calls)
    if turn["role"] == "tool":
        for name in ("name", "tool_call_id"):
            if value.get(name) is not None:
                turn[name] = cells.text(f"{place}.{name}", value[name])
