"""A conversation with a model on a terminal; answers appear as they are written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from flan_jax.data.chat.chat_vocabulary import ChatVocabulary
from flan_jax.errors import UserError
from flan_jax.models.decoding.method import Decoding
from flan_jax.runs.answers import encoded, room_of, stopped
from flan_jax.runs.setup import RunSetup

if TYPE_CHECKING:
    from flan_jax.evaluation.generator import Generator

# What begins a new conversation.
NEW = "/new"

Say = Callable[[str], None]


class Stream:
    """Says the text of tokens as they come, up to the first stop.

    Args:
      decode: ids -> text.
      stops: texts that end an answer before them.
      say: takes each further piece of the text.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: list[str], say: Say):
        self._decode, self._stops, self._say = decode, stops, say
        self._ids: list[int] = []
        self._said = ""

    def begin(self) -> None:
        """Begins the next answer."""
        self._ids, self._said = [], ""

    def add(self, tokens: np.ndarray) -> None:
        """Takes the tokens of one position, int32 [B], of which the first is the answer's."""
        self._ids.append(int(tokens[0]))
        text, _ = stopped(self._decode(self._ids), False, self._stops)
        # The end may be half of a character, or the beginning of a stop.
        held = max((n for stop in self._stops for n in _overlaps(text, stop)), default=0)
        text = text[: len(text) - held]
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self._continue(text)

    def end(self, text: str) -> None:
        """Says the rest of the whole answer."""
        self._continue(text)

    def _continue(self, text: str) -> None:
        if text.startswith(self._said):
            self._say(text[len(self._said) :])
            self._said = text


def _overlaps(text: str, stop: str) -> list[int]:
    """How many characters at the end of a text begin a stop."""
    return [n for n in range(1, len(stop)) if text.endswith(stop[:n])]


def converse(
    run: RunSetup,
    params: Any,
    method: Decoding,
    max_length: int | None,
    stops: list[str],
    system: str | None,
    say: Say,
    read: Callable[[], str] = input,
) -> None:
    """Reads prompts and says their answers, until the input ends.

    With a chat template a prompt continues the conversation, and `/new` begins another one; without
    one each prompt stands alone.

    Args:
      run: the model.
      params: its parameters, on the mesh.
      method: of decoding.
      max_length: see `answers.make_answer`.
      stops: see `answers.make_answer`.
      system: see `answers.make_answer`.
      say: takes pieces of an answer.
      read: returns a line of the user's; raises EOFError at the end.
    """
    import jax

    vocabulary = run.data.vocabulary
    remembers = isinstance(vocabulary, ChatVocabulary)
    stream = Stream(vocabulary.decode, stops, say)
    generator = _streaming(run, method, max_length, stream)
    hint = f"; {NEW} begins a new conversation" if remembers else "; each prompt stands alone"
    _note(f"Ctrl-D ends{hint}.")
    messages: list[dict[str, str]] = []
    count = 0
    while (line := _line(read)) is not None:
        if line == NEW or not remembers:
            messages = []
        if not line or line == NEW:
            continue
        messages.append({"role": "user", "content": line})
        try:
            ids, messages = _fitted(messages, vocabulary, room_of(run, params), system)
        except UserError as error:
            _note(str(error))
            messages.pop()
            continue
        stream.begin()
        ((text, is_truncated),) = generator.answers(params, [ids], count)
        text, is_truncated = stopped(text, is_truncated, stops)
        jax.effects_barrier()
        stream.end(text)
        say("\n")
        if is_truncated:
            _note(f"(truncated at {generator.max_length} tokens; --max_tokens allows more)")
        messages.append({"role": "assistant", "content": text})
        count += 1


def _streaming(
    run: RunSetup, method: Decoding, max_length: int | None, stream: Stream
) -> Generator:
    """Returns a generator that passes on its tokens as they come, where its method can."""
    from flan_jax.evaluation.generator import Generator

    can_stream = run.mesh.size == 1 and method.method != "beam"
    return Generator(
        run.model,
        run.data.vocabulary,
        run.mesh,
        max_length or run.data.config.lengths()[1],
        bos_id=run.data.vocabulary.bos_id,
        method=method,
        on_tokens=stream.add if can_stream else None,
    )


def _fitted(
    messages: list[dict[str, str]], vocabulary: Any, room: int, system: str | None
) -> tuple[np.ndarray, list[dict[str, str]]]:
    """The ids of a conversation, and it; without its first turns where it is too long."""
    kept = messages
    while True:
        try:
            (ids,) = encoded([kept], vocabulary, room, system)
        except UserError:
            if len(kept) < 3:
                raise
            kept = kept[2:]
            continue
        if len(kept) < len(messages):
            gone = (len(messages) - len(kept)) // 2
            _note(f"(too long: the first {gone} turns are not read any more)")
        return ids, kept


def _line(read: Callable[[], str]) -> str | None:
    """The next line of the user's; None at the end."""
    print("> ", end="", file=sys.stderr, flush=True)
    try:
        return read().strip()
    except EOFError:
        print(file=sys.stderr)
        return None


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
