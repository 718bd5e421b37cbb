"""Prompt tuning: vectors in front of the embedded input. Lester et al., The Power of Scale, 2021.

The vectors [P, D] lie beside the embedding [V, D] and have the ids that follow its own, V .. V + P
- 1, which stand in front of every example. They begin as rows of the embedding, or means of rows
(`EmbeddingMeans`), as vectors that are given, or at random between -0.5 and 0.5.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.models.adapters import PROMPT
from flan_jax.peft.arrays import layer_keys
from flan_jax.peft.config import LABELS, TEXT, PeftConfig
from flan_jax.storage.hashing import permutation

# In vocabularies that are sorted by frequency, as SentencePiece's are, the most frequent tokens.
_FREQUENT = 5000
_LIMIT = 0.5
_TABLE = "token_embedder/embedding"


class Vocabulary(Protocol):
    """What a prompt needs of a vocabulary; see `flan_jax.data.vocabulary`."""

    size: int

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text."""
        ...

    def encode_target(self, text: str) -> list[int]:
        """Returns the ids of an answer."""
        ...


class EmbeddingMeans(NamedTuple):
    """Rows of an embedding; those with the same place give their mean.

    Attributes:
      ids: the rows, int32 [N].
      places: of the prompt, int32 [N]; each of its P places at least once.
    """

    ids: np.ndarray
    places: np.ndarray


# What the vectors of a prompt begin as: [P, D] or rows of the embedding.
Start = np.ndarray | EmbeddingMeans


def added_arrays(config: PeftConfig, base: dict[str, Any], seed: int) -> dict[str, Any]:
    """Returns a random prompt by path, boxed with its logical axes, float32.

    Args:
      config: the settings.
      base: the boxed parameters of the model by path.
      seed: of the vectors.
    """
    (name,) = (name for name in base if name.endswith(_TABLE))
    table, path = base[name], f"{name.rpartition('/')[0]}/{PROMPT}"
    shape = (config.prompt_length, table.value.shape[-1])
    key = layer_keys(seed, path, ())
    vectors = jax.random.uniform(key, shape, jnp.float32, -_LIMIT, _LIMIT)
    return {path: nn.LogicallyPartitioned(vectors, ("prompt", table.names[-1]))}


def started(arrays: dict[str, Any], base: dict[str, Any], start: Start) -> dict[str, Any]:
    """Returns the arrays of `added_arrays` with the values of `start`."""
    ((path, box),) = arrays.items()
    length = box.value.shape[0]
    if isinstance(start, EmbeddingMeans):
        table = base[f"{path.rpartition('/')[0]}/embedding"].value.astype(jnp.float32)
        sums = jax.ops.segment_sum(jnp.take(table, start.ids, axis=0), start.places, length)
        counts = jax.ops.segment_sum(jnp.ones(len(start.ids)), start.places, length)
        return {path: box.replace_boxed(sums / counts[:, None])}
    return {path: box.replace_boxed(jnp.asarray(start, jnp.float32))}


def embedding_means(config: PeftConfig, vocabulary: Vocabulary, seed: int) -> EmbeddingMeans:
    """Returns the rows that a prompt begins as: PROMPT_INIT 'vocabulary', 'labels:' or 'text:'.

    A text is repeated as often as it takes. A label is the mean of its tokens; frequent tokens
    follow the labels.

    Args:
      config: the settings.
      vocabulary: of the model.
      seed: chooses the frequent tokens.

    Raises:
      UserError: if a text or a label has no token, or there are more labels than vectors.
    """
    frequent = permutation(min(_FREQUENT, vocabulary.size), "prompt", seed)
    pieces: list[Sequence[int]] = []
    if config.prompt_init.startswith(TEXT):
        ids = _ids(vocabulary.encode, config.prompt_init.removeprefix(TEXT).strip())
        pieces = [[i] for i in np.resize(ids, config.prompt_length)]
    elif config.prompt_init.startswith(LABELS):
        labels = config.prompt_init.removeprefix(LABELS).split(",")
        pieces = [_ids(vocabulary.encode_target, label.strip()) for label in labels]
    left = config.prompt_length - len(pieces)
    if left < 0:
        raise UserError(
            f"PROMPT_INIT has {len(pieces)} labels, and PROMPT_LENGTH is {config.prompt_length}; "
            "give fewer labels or a longer prompt."
        )
    pieces += [[i] for i in np.resize(frequent, left)]
    places = np.repeat(np.arange(len(pieces)), list(map(len, pieces)))
    return EmbeddingMeans(np.concatenate(pieces).astype(np.int32), places.astype(np.int32))


def _ids(encode: Any, text: str) -> list[int]:
    ids = encode(text)
    if not ids:
        raise UserError(
            f"PROMPT_INIT: {text!r} has no token in VOCABULARY; write 'labels: yes, no' or "
            "'text: Answer the question.', for example."
        )
    return ids


def read_vectors(path: pathlib.Path) -> np.ndarray:
    """Returns the prompt [P, D] of a .npy file, as google-research/prompt-tuning writes them.

    Raises:
      UserError: if it is none.
    """
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"PROMPT_INIT: {path} is no readable .npy file ({error}).") from None
    if not isinstance(vectors, np.ndarray) or vectors.dtype.kind != "f":
        raise UserError(f"PROMPT_INIT: {path} holds no array of floating-point numbers.")
    return vectors


def check_vectors(vectors: np.ndarray, shape: tuple[int, ...], path: object) -> np.ndarray:
    """Returns the vectors of a prompt that fits a model, float32.

    Args:
      vectors: as they were read.
      shape: what the model has.
      path: of the file, for messages.

    Raises:
      UserError: if they have another shape, or are not finite.
    """
    if vectors.ndim != 2 or vectors.shape[1] != shape[1]:
        raise UserError(
            f"PROMPT_INIT: the prompt of {shown(path)} has the shape {vectors.shape}, and the "
            f"vectors of this model have {shape[1]} numbers; give a prompt of the same model."
        )
    if vectors.shape != shape:
        raise UserError(
            f"PROMPT_INIT: the prompt of {shown(path)} has {vectors.shape[0]} vectors, and "
            f"PROMPT_LENGTH is {shape[0]}; add --gin.PROMPT_LENGTH={vectors.shape[0]}."
        )
    if not np.isfinite(vectors).all():
        raise UserError(
            f"PROMPT_INIT: the prompt of {shown(path)} has numbers that are not finite; give "
            "another one."
        )
    return vectors.astype(np.float32)
