"""The token loss: cross entropy with z-loss and label smoothing, as T5X defines them.

`hidden_loss.py` takes it of hidden states, without the logits of all positions at once.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Integer, Num

from flan_jax.errors import UserError
from flan_jax.models.array_types import Array

_LARGE_VOCABULARY, _MOST_CHUNKS = 100_000, 16

# (loss, z-loss, weights, correct tokens), each summed over all weighted tokens.
Sums = tuple[Float32[Array, ""], Float32[Array, ""], Float32[Array, ""], Float32[Array, ""]]


def token_loss(
    logits: Float32[Array | np.ndarray, "B T V"],
    targets: Integer[Array | np.ndarray, "B T"],
    weights: Num[Array | np.ndarray, "B T"],
    z_loss: float = 1e-4,
    label_smoothing: float = 0.0,
) -> Sums:
    """Returns (loss_sum, z_loss_sum, weight_sum, correct_sum), in nats and tokens.

    Same numbers as T5X's `compute_weighted_cross_entropy`.

    Args:
      logits: of the next token.
      targets: the next token.
      weights: 0 where no loss is taken.
      z_loss: `loss_sum` includes `z_loss` * log(Z)^2 with Z the softmax's denominator, which keeps
        logits from drifting.
      label_smoothing: s; the target has 1 - s and every other token s / (V - 1), and the entropy of
        that distribution is subtracted, so that the best reachable loss stays 0.
    """
    weights = weights.astype(jnp.float32)
    vocab_size = logits.shape[-1]
    # A masked sum, not a gather: it stays local when the vocabulary is sharded.
    is_target = jnp.arange(vocab_size) == targets[..., None]
    target_logits = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    loss = log_z - target_logits
    if label_smoothing:
        other = label_smoothing / (vocab_size - 1)
        confidence = 1.0 - label_smoothing
        entropy = -(confidence * np.log(confidence) + label_smoothing * np.log(other))
        all_tokens = vocab_size * log_z - jnp.sum(logits, axis=-1)
        loss = (confidence - other) * loss + other * all_tokens - entropy
    z_losses = z_loss * jnp.square(log_z)
    # The maximum is cheaper than its place: on a CPU 9 ms against 150 ms for 2,048 tokens of a
    # 32,128 vocabulary.
    largest = jnp.max(logits, axis=-1)
    # In a model that has diverged all logits are the same, and no target is the most likely token.
    correct = (target_logits >= largest) * (largest > jnp.min(logits, axis=-1)) * weights
    return (
        jnp.sum((loss + z_losses) * weights),
        jnp.sum(z_losses * weights),
        jnp.sum(weights),
        jnp.sum(correct),
    )


def resolved_chunks(chunks: int | None, length: int, vocab_size: int) -> int:
    """Returns into how many chunks the `length` tokens of a row with a loss are cut.

    Args:
      chunks: LOSS_CHUNKS; None: 1 for a vocabulary whose logits are not much beside activations.
      length: of a row, T.
      vocab_size: V.

    Raises:
      UserError: if they do not divide.
    """
    if chunks is None:
        return math.gcd(_MOST_CHUNKS, length) if vocab_size >= _LARGE_VOCABULARY else 1
    if length % chunks:
        raise UserError(
            f"LOSS_CHUNKS={chunks} does not divide the {length} tokens of a row that have a loss; "
            "give a number that does, such as a power of two."
        )
    return chunks
