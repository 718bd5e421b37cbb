"""The token loss of hidden states, with logits only where there is a loss, a chunk at a time.

A row of a decoder is mostly inputs, which have no loss. Its positions with a loss are moved to the
front, and the logits of as many positions are computed as the row with the most of them needs,
rounded up to a share of the length: each share is a branch of one program. The gradients of hidden
states and of the map to logits are computed right after the logits, so that no logits are kept or
computed twice.

Shape letters: B batch, T length of a row, t of a part of it, D width, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float, Integer, Num

from flan_jax.models.array_types import Array
from flan_jax.models.losses import Sums, resolved_chunks, token_loss

# The shares of a row, in eighths, that have a branch; and the smallest vocabulary for which leaving
# positions out is faster than finding out which: a smaller one has few logits.
_EIGHTHS = (1, 2, 3, 4, 8)
_LEAST_VOCABULARY = 8_192

# (size of a branch, loss of a chunk of it: (hidden [B, t, D], targets, weights, *parameters))
_Parts = tuple[tuple[int, Callable[..., Sums]], ...]


def hidden_token_loss(
    logits_of: Callable,
    hidden: Float[Array, "B T D"],
    targets: Integer[Array | np.ndarray, "B T"],
    weights: Num[Array | np.ndarray, "B T"],
    chunks: int,
    z_loss: float = 1e-4,
    label_smoothing: float = 0.0,
    skips: bool = False,
) -> Sums:
    """Returns the `token_loss` of the logits `logits_of(hidden)`, without all of them at once.

    Where a part of the logits is computed at a time, only the first of the sums has a gradient.

    Args:
      logits_of: hidden [B, t, D] -> logits [B, t, V]; it may close over parameters.
      hidden: what logits are made of.
      targets: see `token_loss`.
      weights: see `token_loss`.
      chunks: how many equal parts T is cut into; the logits of one are held at a time.
      z_loss: see `token_loss`.
      label_smoothing: see `token_loss`.
      skips: whether to leave out positions without a loss; see `skips_pay`.

    Raises:
      UserError: if T does not divide.
    """
    length = targets.shape[1]
    resolved_chunks(chunks, length, 0)
    sizes = _sizes(length, chunks) if skips else (length,)
    if chunks == 1 and sizes == (length,):
        return token_loss(logits_of(hidden), targets, weights, z_loss, label_smoothing)

    def chunk_loss(hidden: Any, targets: Any, weights: Any) -> Sums:
        return token_loss(logits_of(hidden), targets, weights, z_loss, label_smoothing)

    arrays = hidden, jnp.asarray(targets), jnp.asarray(weights)
    parts, parameters = [], []
    for size in sizes:
        chunk = [x[:, : min(size, length // chunks)] for x in arrays]
        loss, parameters = jax.closure_convert(chunk_loss, *chunk)
        parts.append((size, loss))
    return _loss(tuple(parts), length // chunks, *arrays, parameters)


def skips_pay(vocab_size: int) -> bool:
    """Returns whether the logits of a position cost more than finding out that it has no loss."""
    return vocab_size >= _LEAST_VOCABULARY


def _sizes(length: int, chunks: int) -> tuple[int, ...]:
    """Returns the parts of `length` that have a branch, in rising order, the last all of it.

    Each is less than a chunk, or whole chunks.
    """
    if length % 8:
        return (length,)
    eighths = [n for n in _EIGHTHS if n * chunks <= 8 or n * chunks % 8 == 0]
    return tuple(n * length // 8 for n in eighths)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(
    parts: _Parts, chunk: int, hidden: Any, targets: Any, weights: Any, parameters: list
) -> Sums:
    """Returns the sums over all positions.

    Args:
      parts: the branches.
      chunk: the length of a chunk.
      hidden: see `hidden_token_loss`.
      targets: see `hidden_token_loss`.
      weights: see `hidden_token_loss`.
      parameters: what the losses of `parts` close over.
    """

    def branch(loss: Callable, *arrays: Array) -> tuple[Sums, tuple]:
        return _over_chunks(lambda *cut: (loss(*cut, *parameters), ()), chunk, *arrays)

    return _in_branches(branch, parts, hidden, targets, weights)[0]


def _loss_forward(
    parts: _Parts, chunk: int, hidden: Any, targets: Any, weights: Any, parameters: list
) -> tuple[Sums, tuple]:
    """Returns the sums, and the gradients of the first of them."""
    values = [parameter.value for parameter in parameters]
    trained = [i for i, parameter in enumerate(parameters) if parameter.perturbed]

    def branch(loss: Callable, *arrays: Array) -> tuple[tuple, Array]:
        def first_sum(hidden: Any, ours: list, targets: Any, weights: Any) -> tuple:
            filled = {**dict(enumerate(values)), **dict(zip(trained, ours))}
            sums = loss(hidden, targets, weights, *filled.values())
            return sums[0], sums

        def with_gradients(hidden: Any, targets: Any, weights: Any) -> tuple[tuple, Array]:
            gradients = jax.value_and_grad(first_sum, (0, 1), has_aux=True)
            ours = [values[i] for i in trained]
            (_, sums), (of_hidden, of_ours) = gradients(hidden, ours, targets, weights)
            return (sums, [x.astype(jnp.float32) for x in of_ours]), of_hidden

        return _over_chunks(with_gradients, chunk, *arrays)

    arrays = hidden.value, targets.value, weights.value
    (sums, of_ours), of_hidden = _in_branches(branch, parts, *arrays)
    found = dict(zip(trained, of_ours))
    of_parameters = [found.get(i) for i in range(len(values))]
    return sums, (of_hidden, of_parameters, [jnp.zeros(0, x.dtype) for x in values])


def _loss_backward(parts: _Parts, chunk: int, kept: tuple, of_sums: tuple) -> tuple:
    """Returns the gradients of hidden states and parameters, times that of the first sum."""
    del parts, chunk
    of_hidden, of_parameters, likes = kept
    factor = jnp.zeros([]) if isinstance(of_sums[0], SymbolicZero) else of_sums[0]

    def scaled(gradient: Array | None, like: Array) -> Array | None:
        if gradient is None:
            return None
        return (gradient.astype(jnp.float32) * factor).astype(like.dtype)

    return scaled(of_hidden, of_hidden), None, None, list(map(scaled, of_parameters, likes))


_loss.defvjp(_loss_forward, _loss_backward, symbolic_zeros=True)


def _over_chunks(chunk_loss: Callable, chunk: int, *arrays: Array) -> tuple[Any, Any]:
    """Returns (sums over chunks of the first result, the second of all chunks one after the other).

    Args:
      chunk_loss: (parts [B, t, ...] of the arrays) -> (what is added up, [B, t, ...] or ()).
      chunk: t, unless the arrays are shorter.
      *arrays: each [B, T, ...].
    """
    count = max(1, arrays[0].shape[1] // chunk)
    if count == 1:
        return chunk_loss(*arrays)

    def cut(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(x.shape[0], count, -1, *x.shape[2:]), 1, 0)

    def joined(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])

    def add(sums: Any, cuts: tuple) -> tuple[Any, Any]:
        more, out = chunk_loss(*cuts)
        return jax.tree.map(jnp.add, sums, more), out

    cuts = tuple(map(cut, arrays))
    shapes = jax.eval_shape(chunk_loss, *(x[0] for x in cuts))[0]
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    sums, outs = jax.lax.scan(add, zero, cuts)
    return sums, jax.tree.map(joined, outs)


def _in_branches(
    branch: Callable, parts: _Parts, hidden: Any, targets: Any, weights: Any
) -> tuple[Any, Any]:
    """Returns `branch` of the positions with a loss, and of as few others as there is a branch for.

    Args:
      branch: (loss of a chunk, hidden, targets, weights of t positions) -> (sums, [B, t, D] or ()).
      parts: the branches.
      hidden: [B, T, D].
      targets: [B, T].
      weights: [B, T].

    Returns:
      The sums, and the second result of all positions: [B, T, D], zero where there is no loss.
    """
    *smaller, (_, whole) = parts
    if not smaller:
        return branch(whole, hidden, targets, weights)
    has_loss = weights != 0
    order = jnp.argsort(~has_loss, axis=1, stable=True)
    place = jnp.argsort(order, axis=1)

    def some(size: int, loss: Callable) -> Callable:
        def compute(hidden: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
            chosen = order[:, :size]
            rows = jnp.take_along_axis(hidden, chosen[..., None], axis=1)
            marks = [jnp.take_along_axis(x, chosen, axis=1) for x in (targets, weights)]
            sums, out = branch(loss, rows, *marks)

            def put_back(x: Array) -> Array:
                found = jnp.take_along_axis(x, jnp.minimum(place, size - 1)[..., None], axis=1)
                return jnp.where(has_loss[..., None], found, jnp.zeros((), x.dtype))

            return sums, jax.tree.map(put_back, out)

        return compute

    most = has_loss.sum(axis=1).max()
    number = sum((most > size).astype(jnp.int32) for size, _ in smaller)
    branches = [some(size, loss) for size, loss in smaller]
    branches.append(functools.partial(branch, whole))
    return jax.lax.switch(number, branches, hidden, targets, weights)
