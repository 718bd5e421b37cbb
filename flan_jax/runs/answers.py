"""Answers of a model to prompts: texts or messages in, texts out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flan_jax import signals
from flan_jax.data.chat.chat_vocabulary import ChatVocabulary
from flan_jax.data.chat.dialogues import plain_text
from flan_jax.errors import UserError
from flan_jax.models.decoding.method import Decoding
from flan_jax.runs.setup import RunSetup

if TYPE_CHECKING:
    from flan_jax.data.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

# Prompts per device that are answered together: enough to fill batches of similar lengths.
AT_ONCE = 256

# A text, or messages with 'role' and 'content', the last of which is to be answered.
Prompt = str | list[dict[str, Any]]
# (consecutive prompts, the index of the first) -> their answers: a text, and whether it was
# truncated.
Answer = Callable[[Sequence[Prompt], int], list[tuple[str, bool]]]


def make_answer(
    run: RunSetup,
    params: Any,
    prompts: Sequence[Prompt],
    method: Decoding,
    max_length: int | None = None,
    stops: Sequence[str] = (),
    system: str | None = None,
) -> Answer:
    """Returns the function that answers some of the prompts.

    Args:
      run: the model.
      params: its parameters, on the mesh.
      prompts: all of them.
      method: of decoding.
      max_length: most tokens of an answer, its end included; None: those of the targets in
        TASK_FEATURE_LENGTHS.
      stops: texts that end an answer before them.
      system: a system message before each prompt, or None.

    Raises:
      UserError: if a prompt is too long.
    """
    import jax

    from flan_jax.evaluation.generator import Generator

    vocabulary, (_, target_length) = run.data.vocabulary, run.data.config.lengths()
    inputs = encoded(prompts, vocabulary, room_of(run, params), system)
    generator = Generator(
        run.model,
        vocabulary,
        run.mesh,
        max_length or target_length,
        bos_id=vocabulary.bos_id,
        method=method,
    )

    def answer(some: Sequence[Prompt], first: int) -> list[tuple[str, bool]]:
        if run.preemption.requested():  # of several processes; a single process is interrupted
            raise signals.Preempted(run.preemption.cause)
        generator.shapes.clear()  # so that a chunk is answered by the same programs after a restart
        answers = generator.answers(params, inputs[first : first + len(some)], first)
        answers = [stopped(text, is_truncated, stops) for text, is_truncated in answers]
        truncated = sum(is_truncated for _, is_truncated in answers)
        # Who gives the length has chosen it.
        if truncated and max_length is None and jax.process_index() == 0:
            _log.warning(generator.truncation_note(truncated, len(answers)))
        return answers

    return answer


def room_of(run: RunSetup, params: Any) -> int:
    """Returns how many tokens an input may have: those of TASK_FEATURE_LENGTHS, but for a prompt.

    Args:
      run: the model.
      params: its parameters.
    """
    from flan_jax.models.adapters import prompt_length_of

    return run.data.config.lengths()[0] - prompt_length_of(params)


def stopped(text: str, is_truncated: bool, stops: Sequence[str]) -> tuple[str, bool]:
    """Returns an answer up to the first of some texts in it, and whether it is truncated."""
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(ends)], False) if ends else (text, is_truncated)


def encoded(
    prompts: Sequence[Prompt],
    vocabulary: Vocabulary,
    source_length: int,
    system: str | None = None,
) -> list[np.ndarray]:
    """Returns the token ids of each prompt, int32 [S].

    Args:
      prompts: texts or messages.
      vocabulary: of the run; messages go through its chat template, or read as `plain_text`.
      source_length: the most tokens of a prompt.
      system: a system message before each prompt, or None.

    Raises:
      UserError: if a prompt has more tokens, or the chat template does not render it.
    """
    result = []
    for prompt in prompts:
        tokens = _ids(prompt, vocabulary, system)
        if len(tokens) > source_length:
            text = prompt if isinstance(prompt, str) else plain_text(prompt)
            raise UserError(
                f"the prompt {text[:40]!r}... has {len(tokens)} tokens with its end, but "
                f"TASK_FEATURE_LENGTHS allows {source_length}; shorten it."
            )
        result.append(np.asarray(tokens, np.int32))
    return result


def _ids(prompt: Prompt, vocabulary: Vocabulary, system: str | None) -> list[int]:
    if isinstance(prompt, str) and system is None:
        return vocabulary.encode_input(prompt)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    if isinstance(vocabulary, ChatVocabulary):
        return vocabulary.encode_messages(messages)
    return vocabulary.encode_input(plain_text(messages))
