"""What of a dialogue is trained: messages as pieces of text, found by rendering their prefixes.

What an assistant writes in turn i is what the text of the messages up to i has more than the text
of those before it with the beginning of a turn. Both are prefixes of the whole text, unless a
template writes earlier turns in another way than the last one (Qwen 3 leaves out what they thought,
Mistral moves the system message): then each turn is an example of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flan_jax.data.chat.chat_template import CannotRender, ChatTemplate, Message

LOSS_ON = ("assistant", "last", "all")
_ASSISTANT = "assistant"

Tools = Sequence[Mapping[str, Any]]


class Segment(NamedTuple):
    """A piece of the text of a dialogue.

    Attributes:
      text: the piece.
      trained: whether its tokens have a loss.
    """

    text: str
    trained: bool


class NotPrefixStable(CannotRender):
    """A template writes the messages before a turn in another way once more of them follow."""


def assistant_turns(messages: Sequence[Message], loss_on: str = "assistant") -> list[int]:
    """Returns the places of the messages that are trained under LOSS_ON 'assistant' or 'last'.

    A message with a 'weight' of 0 is not trained.
    """
    turns = [
        place
        for place, message in enumerate(messages)
        if message.get("role") == _ASSISTANT and message.get("weight") != 0
    ]
    return turns[-1:] if loss_on == "last" else turns


def segments(
    template: ChatTemplate,
    messages: Sequence[Message],
    loss_on: str = "assistant",
    tools: Tools | None = None,
) -> list[Segment]:
    """Returns the text of a dialogue in pieces, each trained or not.

    The pieces together are what `template` renders. A trained piece is all that the template writes
    for an assistant's turn after its beginning, the end of the turn included.

    Args:
      template: the chat template.
      messages: with 'role' and 'content'.
      loss_on: 'assistant', 'last' (the last of their turns) or 'all' (every message).
      tools: JSON schemas of functions.

    Raises:
      CannotRender: if the template does not render the messages.
      NotPrefixStable: if the messages before a trained turn read otherwise in the whole text;
        each turn is then an example of its own (`turn_segments`).
      UserError: see `ChatTemplate.render`.
    """
    whole = template.render(messages, tools=tools)
    if loss_on == "all":
        return [Segment(whole, True)]
    pieces: list[Segment] = []
    place = 0
    for turn in assistant_turns(messages, loss_on):
        begin = template.render(messages[:turn], add_generation_prompt=True, tools=tools)
        end = whole
        if turn + 1 < len(messages):
            end = template.render(messages[: turn + 1], tools=tools)
        if not (whole.startswith(end) and end.startswith(begin) and place <= len(begin)):
            raise NotPrefixStable(
                f"the chat template of {template.place} does not begin the text of message "
                f"{turn + 1} with the text of those before it"
            )
        pieces += [Segment(whole[place : len(begin)], False)]
        pieces += [Segment(whole[len(begin) : len(end)], True)]
        place = len(end)
    pieces.append(Segment(whole[place:], False))
    return [piece for piece in pieces if piece.text]


def turn_segments(
    template: ChatTemplate,
    messages: Sequence[Message],
    turn: int,
    tools: Tools | None = None,
) -> list[Segment]:
    """Returns what a model reads before an assistant's turn, and the turn, as two pieces.

    Args:
      template: the chat template.
      messages: with 'role' and 'content'.
      turn: the place of the assistant's message.
      tools: JSON schemas of functions.

    Raises:
      CannotRender: if the template does not render the messages, or if the turn does not
        follow what the model reads when it is to write it.
      UserError: see `ChatTemplate.render`.
    """
    return segments(template, messages[: turn + 1], "last", tools)


def trained_characters(pieces: Sequence[Segment]) -> list[tuple[int, int]]:
    """Returns (begin, end) of each trained piece in the whole text."""
    spans, place = [], 0
    for piece in pieces:
        if piece.trained:
            spans.append((place, place + len(piece.text)))
        place += len(piece.text)
    return spans


def trained_tokens(
    offsets: Sequence[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    is_end: Callable[[int], bool],
) -> list[bool]:
    """Returns for each token whether it is trained: where it lies in a span, up to the turn's end.

    A token that lies across the border of a span is in it, as in `transformers`. What follows the
    last end of a turn in a span (a line break, mostly) is not trained: a model stops before it.

    Args:
      offsets: (begin, end) of each token in the text.
      spans: of the trained pieces, in order.
      is_end: whether the token at a place ends an answer.
    """
    trained = [False] * len(offsets)
    for begin, end in spans:
        inside = [i for i, (first, last) in enumerate(offsets) if last > begin and first < end]
        last_end = max((i for i in inside if is_end(i)), default=None)
        for i in inside:
            trained[i] = last_end is None or i <= last_end
    return trained
