"""A tokenizer with its chat template: whatever a model reads goes through the template.

It has what the other vocabularies have, so that training rows, held-out rows, prompts and options
are those of the chat model wherever they are encoded.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from flan_jax.data.chat.chat_template import CannotRender, ChatTemplate, Message
from flan_jax.data.chat.segments import (
    Segment,
    Tools,
    trained_characters,
    trained_tokens,
    turn_segments,
)
from flan_jax.data.huggingface_vocabulary import HuggingFaceVocabulary
from flan_jax.data.special_tokens import until
from flan_jax.errors import UserError
from flan_jax.messages import shown

# Raise it where the same template and tokenizer lead to other ids than before.
_FORMAT = 1
# A dialogue that shows how a template writes a turn.
_QUESTION = {"role": "user", "content": "Is water wet?"}
_ANSWER = {"role": "assistant", "content": "Certainly"}
_SYSTEM = {"role": "system", "content": "Be brief."}


class DialogueTokens(NamedTuple):
    """A dialogue as tokens.

    Attributes:
      ids: all of them, as the template renders them, without `bos_id`.
      trained: for each whether it is trained.
    """

    ids: list[int]
    trained: list[bool]


class ChatVocabulary:
    """The tokenizer in a `tokenizer.json` with a chat template.

    What is rendered is encoded as `transformers` does, with the special tokens that it spells, be
    they the template's or the user's.

    Attributes:
      plain: the tokenizer without the template.
      template: the chat template.
      bos_id: what a decoder-only model reads first: the first token of every dialogue, or where
        they begin differently the tokenizer's own BOS, before them.
      eos_id, eos_ids: what ends an assistant's turn, and everything that ends an answer.
      input_begin, input_end: the ids that the template puts around a message of the user's, without
        `bos_id`.
      fingerprint: of all that decides ids.
      notes: what was guessed or chosen, for readers.

    Args:
      plain: the tokenizer.
      template: the chat template.

    Raises:
      UserError: if the template cannot render a question and its answer, or the answer does not
        follow the question, or does not end in a special token.
    """

    def __init__(self, plain: HuggingFaceVocabulary, template: ChatTemplate):
        self.plain, self.template = plain, template
        self.path, self.architecture, self.digest = plain.path, plain.architecture, plain.digest
        self.size, self.pad_id = plain.size, plain.pad_id
        read, ids, answer, end = _turn(plain, template)
        if end is None:
            raise UserError(
                f"the chat template of {template.place} does not end the assistant's turn with a "
                f"special token (it writes {shown(answer)}); correct it, or set CHAT_TEMPLATE=None."
            )
        self.eos_id, self.eos_ids = end, tuple(dict.fromkeys([end, *plain.eos_ids]))
        self.notes = [
            *plain.notes,
            f"chat template: {template.place} ({template.digest[:8]}); CHAT_TEMPLATE=None does "
            "without",
        ]
        # A decoder-only model's layout has the first token of a dialogue.
        self.bos_id, self._first = ids[0], 0 if self.architecture == "t5" else 1
        if self._first and _begins_otherwise(plain, template, ids[0]):
            self.bos_id, self._first = plain.bos_id, 0
            self.notes.append(
                f"the dialogues of {template.place} begin with one token or another, so "
                f"{shown(plain.token(plain.bos_id))} is read before them"
            )
        self.input_begin, self.input_end = self._around(read)
        # Options come again and again.
        self._cached_target = functools.lru_cache(4096)(self._target)
        self.fingerprint = (
            f"{plain.fingerprint}:chat{_FORMAT}:{template.digest}:{self.bos_id}:{end}"
        )

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text as it is, without a template."""
        return self.plain.encode(text)

    def encode_input(self, text: str) -> list[int]:
        """Returns the token ids of what a model reads: a message of the user's and what follows."""
        return self.encode_messages([{"role": "user", "content": text}])

    def encode_messages(self, messages: Sequence[Message], tools: Tools | None = None) -> list[int]:
        """Returns the token ids of what a model reads before it answers messages.

        Raises:
          UserError: if the template cannot render them.
        """
        try:
            text = self.template.render(messages, add_generation_prompt=True, tools=tools)
            return self._after_first(self.plain.encode_rendered(text))
        except CannotRender as error:
            raise UserError(
                f"the chat template of {self.template.place} does not render the messages "
                f"({shown(error)}); correct them."
            ) from error

    def encode_target(self, text: str) -> list[int]:
        """Returns the token ids of an answer without its end, as they follow an input.

        Raises:
          UserError: if the template cannot render it.
        """
        return list(self._cached_target(text))

    def _target(self, text: str) -> tuple[int, ...]:
        messages = [_QUESTION, {"role": "assistant", "content": text}]
        try:
            tokens = self.dialogue_tokens(turn_segments(self.template, messages, 1))
        except CannotRender as error:
            raise UserError(
                f"the chat template of {self.template.place} does not render the answer "
                f"{shown(text, 80)} ({shown(error)}); CHAT_TEMPLATE=None does without."
            ) from error
        ids = [i for i, is_trained in zip(tokens.ids, tokens.trained) if is_trained]
        return tuple(ids[:-1] if ids and ids[-1] in self.eos_ids else ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text up to the first id that ends one; special tokens are left out."""
        return self.plain.decode(until(self.eos_ids, ids))

    def encode_rendered(self, text: str) -> list[int]:
        """Returns the token ids of a text in which special tokens are spelled."""
        return self.plain.encode_rendered(text)

    def token(self, token_id: int) -> str:
        """Returns the text of a token, special ones included, as the tokenizer's file has it."""
        return self.plain.token(token_id)

    def dialogue_tokens(self, pieces: Sequence[Segment]) -> DialogueTokens:
        """Returns the token ids of a dialogue and which of them are trained.

        Args:
          pieces: see `segments.segments`.

        Raises:
          CannotRender: if the dialogue begins with another token than others.
        """
        ids, offsets = self.plain.rendered_tokens("".join(piece.text for piece in pieces))
        if all(piece.trained for piece in pieces):
            trained = [True] * len(ids)
        else:
            spans = trained_characters(pieces)
            trained = trained_tokens(offsets, spans, lambda place: ids[place] in self.eos_ids)
        return DialogueTokens(self._after_first(ids), trained[self._first :])

    def _after_first(self, ids: list[int]) -> list[int]:
        """The ids of a dialogue without that which every one begins with.

        Raises:
          CannotRender: if it begins with another one.
        """
        if self._first and ids[:1] != [self.bos_id]:
            raise CannotRender("it begins with another token than other dialogues")
        return ids[self._first :]

    def _around(self, read: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids before and after the question in what a model reads."""
        before, _, after = read.partition(_QUESTION["content"])
        begin, end = map(self.plain.encode_rendered, (before, after))
        return tuple(begin[self._first :]), tuple(end)


def ends_as_the_model_does(plain: HuggingFaceVocabulary, template: ChatTemplate) -> bool:
    """Returns whether a template ends an assistant's turn with what ends the model's answers.

    A base model may have the template of its instruct model beside it (Qwen 2.5), but its answers
    end otherwise: it was not tuned with the template.

    Raises:
      UserError: if the template is not usable.
    """
    try:
        return _turn(plain, template)[3] in plain.eos_ids
    except UserError:
        raise
    except CannotRender:
        return False


def _begins_otherwise(plain: HuggingFaceVocabulary, template: ChatTemplate, first: int) -> bool:
    """Whether a dialogue with a system message begins with another token than `first`."""
    try:
        text = template.render([_SYSTEM, _QUESTION], add_generation_prompt=True)
    except CannotRender:  # of a family without system messages
        return False
    return plain.encode_rendered(text)[:1] != [first]


def _turn(
    plain: HuggingFaceVocabulary, template: ChatTemplate
) -> tuple[str, list[int], str, int | None]:
    """How a template writes a question and its answer.

    Returns:
      (what is read before the answer, the ids of it, the text of the turn, the id that ends the
      turn or None).

    Raises:
      CannotRender: if it does not render them, or the answer does not follow the question.
    """
    pieces = turn_segments(template, [_QUESTION, _ANSWER], 1)
    read, written = ("".join(p.text for p in pieces if p.trained == of) for of in (False, True))
    if _QUESTION["content"] not in read or _ANSWER["content"] not in written:
        raise CannotRender("it does not show the messages of user and assistant")
    ids = plain.encode_rendered(read)
    after = written.rpartition(_ANSWER["content"])[2]
    ends = [i for i in plain.encode_rendered(after) if i in plain.special_ids]
    end = next((i for i in ends if i in plain.eos_ids), next(iter(ends), None))
    return read, ids, written, end
