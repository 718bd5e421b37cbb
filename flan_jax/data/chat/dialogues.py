"""Dialogues as training examples: tokens, which of them have a loss, and what does not fit.

A decoder-only model reads a dialogue as one example. It becomes one example for each turn where its
template writes earlier turns in another way, where there is no template, and for a T5, whose
encoder reads what is before a turn.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flan_jax.data.chat.chat_template import CannotRender, ChatTemplate, Message
from flan_jax.data.chat.chat_vocabulary import ChatVocabulary, DialogueTokens
from flan_jax.data.chat.segments import (
    NotPrefixStable,
    Tools,
    assistant_turns,
    segments,
    turn_segments,
)
from flan_jax.messages import shown

if TYPE_CHECKING:
    from flan_jax.data.vocabulary import Vocabulary

# What `DialogueEncoder.counts` counts.
DIALOGUES_TRUNCATED = "dialogues truncated"
INPUTS_TRUNCATED = "inputs truncated"
TARGETS_TRUNCATED = "targets truncated"
DIVIDED = "dialogues divided into their turns"
NO_ROOM = "dialogues without room for a trained token"
TOOLS_UNSEEN = "dialogues whose tools are not shown (no chat template)"
CALLS_UNSEEN = "dialogues with tool calls that the chat template does not show"
_NO_TURN = "dialogues without a turn of the assistant's"


class DialogueExample(NamedTuple):
    """A dialogue, or a turn of one, as it trains.

    Attributes:
      inputs: int32 ids before the first trained token.
      targets: int32 ids from there to the last trained token.
      trained: uint16, for each of the targets 1 if it has a loss; None if all have one.
    """

    inputs: np.ndarray
    targets: np.ndarray
    trained: np.ndarray | None


class DialogueEncoder:
    """Encodes dialogues.

    Attributes:
      counts: what was truncated, divided or left out.

    Args:
      vocabulary: of the run.
      input_length: S, most tokens of an example's inputs.
      target_length: T, most tokens of its targets. A decoder's example has up to S + T tokens.
      loss_on: LOSS_ON.
      counts: what goes up; None: a new one.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        input_length: int,
        target_length: int,
        loss_on: str = "assistant",
        counts: collections.Counter[str] | None = None,
    ):
        self.vocabulary, self.loss_on = vocabulary, loss_on
        self.input_length, self.target_length = input_length, target_length
        self.counts = collections.Counter() if counts is None else counts

    def encode(
        self, messages: Sequence[Message], tools: Tools | None = None
    ) -> list[DialogueExample]:
        """Returns the examples of a dialogue; none if it cannot be used, which is counted.

        Args:
          messages: with 'role' and 'content'.
          tools: JSON schemas of functions.
        """
        turns = assistant_turns(messages, self.loss_on)
        if not turns and self.loss_on != "all":
            self.counts[_NO_TURN] += 1
            return []
        if not isinstance(self.vocabulary, ChatVocabulary):
            if tools:
                self.counts[TOOLS_UNSEEN] += 1
            return self._plain(messages, turns)
        try:
            if _hides_calls(self.vocabulary.template, messages, tools):
                self.counts[CALLS_UNSEEN] += 1
                return []
            examples = self._templated(self.vocabulary, messages, turns, tools)
        except CannotRender as error:
            self.counts[f"dialogues refused by the chat template ({shown(error)})"] += 1
            return []
        return [example for example in examples if example is not None]

    def _templated(
        self,
        vocabulary: ChatVocabulary,
        messages: Sequence[Message],
        turns: Sequence[int],
        tools: Tools | None,
    ) -> list[DialogueExample | None]:
        template = vocabulary.template
        if vocabulary.architecture != "t5":
            try:
                pieces = segments(template, messages, self.loss_on, tools)
                return [self._one_row(vocabulary.dialogue_tokens(pieces))]
            except NotPrefixStable:
                self.counts[DIVIDED] += 1
        fit = self._apart if vocabulary.architecture == "t5" else self._one_row
        return [
            fit(vocabulary.dialogue_tokens(turn_segments(template, messages, turn, tools)))
            for turn in turns
        ]

    def _one_row(self, tokens: DialogueTokens) -> DialogueExample | None:
        """A dialogue in the S + T tokens of a decoder's example; None if nothing trained fits."""
        most = self.input_length + self.target_length
        example = _divided(*tokens)
        if example is None or len(example.inputs) + len(example.targets) <= most:
            return self._counted(example)
        self.counts[DIALOGUES_TRUNCATED] += 1
        return self._counted(_divided(tokens.ids[:most], tokens.trained[:most]))

    def _apart(self, tokens: DialogueTokens) -> DialogueExample | None:
        """A turn in the S and T tokens of a T5's example; inputs lose their beginning."""
        example = self._counted(_divided(*tokens))
        if example is None:
            return None
        inputs, targets = example.inputs, example.targets
        return self._fitted(inputs, targets[:-1], targets[-1])

    def _counted(self, example: DialogueExample | None) -> DialogueExample | None:
        if example is None:
            self.counts[NO_ROOM] += 1
        return example

    def _plain(self, messages: Sequence[Message], turns: Sequence[int]) -> list[DialogueExample]:
        """The examples of a dialogue without a template: one for each turn."""
        vocabulary = self.vocabulary
        if self.loss_on == "all":
            ids = [*vocabulary.encode(plain_text(messages)), vocabulary.eos_id]
            example = self._one_row(DialogueTokens(ids, [True] * len(ids)))
            return [] if example is None else [example]
        examples = []
        for turn in turns:
            inputs = np.asarray(vocabulary.encode_input(plain_text(messages[:turn])), np.int32)
            targets = np.asarray(vocabulary.encode_target(turn_text(messages[turn])), np.int32)
            examples.append(self._fitted(inputs, targets, vocabulary.eos_id))
        return examples

    def _fitted(self, inputs: np.ndarray, targets: np.ndarray, end: int) -> DialogueExample:
        """An example of at most S and T tokens, whose targets end in `end`."""
        if len(inputs) > self.input_length:
            self.counts[INPUTS_TRUNCATED] += 1
            inputs = inputs[-self.input_length :]
        if len(targets) >= self.target_length:
            self.counts[TARGETS_TRUNCATED] += 1
            targets = targets[: self.target_length - 1]
        return DialogueExample(inputs, np.append(targets, end).astype(np.int32), None)


def _hides_calls(template: ChatTemplate, messages: Sequence[Message], tools: Tools | None) -> bool:
    """Whether a template writes a turn with tool calls as if it had none: it would train nothing.

    Raises:
      CannotRender: if it does not render the messages.
    """
    for place, message in enumerate(messages):
        if message.get("tool_calls"):
            without = {name: value for name, value in message.items() if name != "tool_calls"}
            with_calls = template.render(messages[: place + 1], tools=tools)
            if with_calls == template.render([*messages[:place], without], tools=tools):
                return True
    return False


def plain_text(messages: Sequence[Message]) -> str:
    """Returns messages as a model without a chat template reads them.

    A single message of the user's is its text, after that of a system message: such a dialogue
    trains as a prompt and its completion. Of several each begins with its role.
    """
    roles = [message.get("role") for message in messages]
    if [role for role in roles if role != "system"] == ["user"]:
        return "\n\n".join(text for message in messages if (text := turn_text(message)))
    parts = [f"{str(role).capitalize()}: {turn_text(m)}" for role, m in zip(roles, messages)]
    return "\n\n".join(parts)


def turn_text(message: Mapping[str, Any]) -> str:
    """Returns the text of a message without a chat template: its content, or its tool calls."""
    calls = message.get("tool_calls")
    return content_of(message) or (json.dumps(calls, ensure_ascii=False) if calls else "")


def content_of(message: Mapping[str, Any]) -> str:
    """Returns the text of a message, which may be in parts."""
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return "" if content is None else str(content)


def _divided(ids: Sequence[int], trained: Sequence[bool]) -> DialogueExample | None:
    """Tokens as inputs and targets, without those after the last trained one."""
    places = np.flatnonzero(trained)
    if not len(places):
        return None
    first, end = places[0], places[-1] + 1
    mask = np.asarray(trained[first:end], np.uint16)
    inputs, targets = (np.asarray(part, np.int32) for part in (ids[:first], ids[first:end]))
    return DialogueExample(inputs, targets, None if mask.all() else mask)
