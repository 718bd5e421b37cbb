"""Answers of a model to prompts: texts in, texts out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flan_jax import signals
from flan_jax.errors import UserError
from flan_jax.models.decoding.method import Decoding
from flan_jax.runs.setup import RunSetup

if TYPE_CHECKING:
    from flan_jax.data.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

# Prompts per device that are answered together: enough to fill batches of similar lengths.
AT_ONCE = 256

# (consecutive prompts, the index of the first) -> their answers: a text, and whether it was
# truncated.
Answer = Callable[[list[str], int], list[tuple[str, bool]]]


def make_answer(
    run: RunSetup,
    params: Any,
    prompts: Sequence[str],
    method: Decoding,
    max_length: int | None = None,
) -> Answer:
    """Returns the function that answers some of the prompts.

    Args:
      run: the model.
      params: its parameters, on the mesh.
      prompts: all of them.
      method: of decoding.
      max_length: most tokens of an answer, its end included; None: those of the targets in
        TASK_FEATURE_LENGTHS.

    Raises:
      UserError: if a prompt is too long.
    """
    import jax

    from flan_jax.evaluation.generator import Generator

    vocabulary, (_, target_length) = run.data.vocabulary, run.data.config.lengths()
    inputs = dict(zip(prompts, encoded(prompts, vocabulary, room_of(run, params))))
    generator = Generator(
        run.model,
        vocabulary,
        run.mesh,
        max_length or target_length,
        bos_id=vocabulary.bos_id,
        method=method,
    )

    def answer(some: list[str], first: int) -> list[tuple[str, bool]]:
        if run.preemption.requested():  # of several processes; a single process is interrupted
            raise signals.Preempted(run.preemption.cause)
        generator.shapes.clear()  # so that a chunk is answered by the same programs after a restart
        answers = generator.answers(params, [inputs[prompt] for prompt in some], first)
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


def encoded(prompts: Sequence[str], vocabulary: Vocabulary, source_length: int) -> list[np.ndarray]:
    """Returns the token ids of each prompt, int32 [S].

    Raises:
      UserError: if a prompt has more than `source_length` tokens.
    """
    result = []
    for prompt in prompts:
        tokens = vocabulary.encode_input(prompt)
        if len(tokens) > source_length:
            raise UserError(
                f"the prompt {prompt[:40]!r}... has {len(tokens)} tokens with its end, but "
                f"TASK_FEATURE_LENGTHS allows {source_length}; shorten it."
            )
        result.append(np.asarray(tokens, np.int32))
    return result
