"""Records of dialogues: `messages` (role, content) and `conversations` (from, value).

Both become messages as chat templates read them, with the tools that they may call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax.catalogue.records import Drop
from flan_jax.data.chat.dialogues import plain_text, turn_text
from flan_jax.data.chat.segments import assistant_turns
from flan_jax.messages import shown

# The roles of `conversations` -> those of chat templates.
_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "chatgpt", "bot"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
}
MESSAGES, CONVERSATIONS = "messages", "conversations"


def dialogue_row(record: Mapping[str, Any], form: str) -> dict[str, Any] | Drop:
    """Returns the fields of a dialogue, or why it cannot be used.

    'messages' and 'tools' train (`DialogueEncoder`); 'inputs', the text before the last turn of the
    assistant's, and 'answer', that turn, are for readers and for comparison with held-out rows.

    Args:
      record: has 'messages' or 'conversations', a list or its JSON; and may have 'tools', and
        beside 'conversations' a 'system' message.
      form: 'messages' or 'conversations'.
    """
    turns, tools = (_parsed(record.get(name)) for name in (form, "tools"))
    if isinstance(turns, Drop) or isinstance(tools, Drop):
        return Drop(f"{form} or tools is a text that is not JSON")
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        return Drop(f"no list in {form}")
    messages = [_message(turn, form) for turn in turns]
    problem = next((message for message in messages if isinstance(message, Drop)), None)
    if problem is not None:
        return problem
    if form == CONVERSATIONS and isinstance(record.get("system"), str) and record["system"]:
        messages.insert(0, {"role": "system", "content": record["system"]})
    places = assistant_turns(messages)
    if not places:
        return Drop("no turn of the assistant's")
    inputs, answer = plain_text(messages[: places[-1]]), turn_text(messages[places[-1]])
    if not is_unicode([messages, tools]):
        return Drop("a message is not UTF-8, or has half of a character")
    row = {"inputs": inputs, "answer": answer, "messages": messages}
    return row | ({"tools": tools} if tools else {})


def _message(turn: Any, form: str) -> dict[str, Any] | Drop:
    """A turn as a message with 'role' and 'content'."""
    if not isinstance(turn, Mapping):
        return Drop(f"{form} has an entry that is not an object")
    if form == CONVERSATIONS and "from" in turn:
        role = _ROLES.get(str(turn["from"]).lower())
        if role is None:
            return Drop(f"unknown role {shown(turn['from'], 40)} in conversations")
        content = _content(turn.get("value"))
        return content if isinstance(content, Drop) else {"role": role, "content": content}
    if not isinstance(turn.get("role"), str):
        return Drop("a message has no role")
    if turn.get("content") is None and not turn.get("tool_calls"):
        return Drop("a message has no content")
    content = _content(turn.get("content"))
    if isinstance(content, Drop):
        return content
    return {name: v for name, v in turn.items() if v is not None} | {"content": content}


def _content(value: Any) -> str | Sequence[Mapping[str, Any]] | Drop:
    """The content of a message: a text, or parts with a text, which chat templates may read."""
    if value is None or isinstance(value, str | int | float):
        return "" if value is None else str(value)
    if not isinstance(value, Sequence):
        return Drop(f"the content of a message is not text but a {type(value).__name__}")
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in value]
    if not all(isinstance(text, str) for text in texts):
        return Drop("a message has a part that is not text")
    return "".join(texts) if any(isinstance(part, str) for part in value) else value


def _parsed(value: Any) -> Any:
    """A value, which a table has as JSON; a Drop for a text that is not JSON."""
    if not isinstance(value, str) or not value:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return Drop("not JSON")


def is_unicode(value: Any) -> bool:
    """Returns whether no text within a value has half of a character (a lone surrogate)."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True
