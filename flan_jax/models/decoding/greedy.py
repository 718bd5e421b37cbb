"""Decoding token by token with a key/value cache: the likeliest token, or one drawn; `beam.py` has
beam search.

What is read, by encoder or decoder, is computed once. Shape letters: B batch, S width of what is
read, K beams, H heads of keys and values, C head width, V vocabulary, N layers.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flan_jax.models import layers, stacking
from flan_jax.models.decoder import DecoderLM

# On a CPU: the most rows of a step that are multiplied faster with kernels that stand turned, and
# the least width and height of such a kernel.
_FEW_ROWS, _WORTH_TURNING = 32, 256
# The token that ends an answer, or several.
EosId = int | tuple[int, ...]


@functools.partial(jax.jit, static_argnames=("model", "max_length", "eos_id"))
def greedy(model, params, tokens, max_length: int, eos_id: EosId = 1, lengths=None) -> jax.Array:
    """Gives the most likely next token at every position: int32 [B, max_length], 0 after the first
    EOS.

    `tokens` int32 [B, S] are what a `T5` encodes or what a `DecoderLM` continues (whatever stands
    first included), the first `lengths` [B] of each row; None, for T5: those that are not 0. A row
    of length 0 gives 0s. Stops as soon as every row has ended; any of several `eos_id` ends one.
    Compiled once per shape; call it inside `use_mesh` when `params` are sharded.
    """
    return _write(
        model, params, tokens, max_length, eos_id, lengths, lambda index, logits: _likeliest(logits)
    )


def is_eos(chosen, eos_id: EosId) -> jax.Array:
    """Returns for each of the tokens whether it is `eos_id` or one of them: bool, of the same
    shape.
    """
    return functools.reduce(
        operator.or_, (chosen == i for i in (eos_id if isinstance(eos_id, tuple) else (eos_id,)))
    )


def start_id(model) -> jax.Array:
    """Returns the id that a T5's decoder reads first: int32, a scalar; a decoder-only model's
    prompt has its own.
    """
    return jnp.int32(getattr(model.config, "decoder_start_id", 0))


def _likeliest(logits) -> jax.Array:
    """Gives int32 [B], the first of the largest logits [B, V]: `argmax`, which on a CPU is as slow
    as the logits.
    """
    places = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    return jnp.where(logits == logits.max(axis=-1, keepdims=True), places, places[-1]).min(axis=-1)


@functools.partial(jax.jit, static_argnames=("model", "max_length", "top_k", "top_p", "eos_id"))
def sample(
    model,
    params,
    tokens,
    max_length: int,
    seed,
    places,
    temperature=1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    eos_id: EosId = 1,
    lengths=None,
) -> jax.Array:
    """Gives tokens drawn from the model's distribution: int32 [B, max_length], 0 after the first
    EOS.

    See `greedy` for the arguments they share, and `decoding_method.Decoding` for the others. A draw
    depends on `seed`, on the row's `places` int [B] and on the position in the answer alone: rows
    may share a batch with any others.
    """
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(places)

    def choose(index, logits):
        now = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        return _draw(now, logits / temperature, top_k, top_p)

    return _write(model, params, tokens, max_length, eos_id, lengths, choose)


def _draw(keys, logits, top_k: int, top_p: float) -> jax.Array:
    """Gives int32 [B], one token a row of logits [B, V] with its own key of [B]."""
    draw = jax.vmap(jax.random.categorical)
    if not top_k and top_p == 1:
        return draw(keys, logits).astype(jnp.int32)
    likeliest, ids = jax.lax.top_k(logits, min(top_k or logits.shape[-1], logits.shape[-1]))
    if top_p < 1:
        chances = jax.nn.softmax(likeliest)
        likelier = jnp.cumsum(chances, axis=-1) - chances
        likeliest = jnp.where(likelier < top_p, likeliest, -jnp.inf)
    return jnp.take_along_axis(ids, draw(keys, likeliest)[:, None], axis=1)[:, 0].astype(jnp.int32)


def _write(model, params, tokens, max_length: int, eos_id: EosId, lengths, choose) -> jax.Array:
    """Gives int32 [B, max_length], each token by `choose(index, logits [B, V]) -> int32 [B]` until
    all rows end.
    """
    lengths = given_lengths(model, tokens, lengths)

    def write(index, logits, written, ended):
        chosen = jnp.where(ended, 0, choose(index, logits))
        written = jax.lax.dynamic_update_slice(written, chosen[:, None], (0, index))
        return index + 1, chosen, written, ended | is_eos(chosen, eos_id)

    def unfinished(state):
        index, _, _, ended, _ = state
        return (index < max_length) & ~jnp.all(ended)

    def step(state):
        index, last, written, ended, cache = state
        logits, cache = start.read(last, index, cache)
        return *write(index, logits, written, ended), cache

    # A row without input is padding of the batch: it has ended before it begins.
    written, ended = jnp.zeros((tokens.shape[0], max_length), jnp.int32), lengths == 0
    start = begin(model, params, tokens, lengths, max_length)
    if start.logits is None:
        first = jnp.int32(0), jnp.full_like(written[:, 0], start_id(model)), written, ended
    else:
        first = write(jnp.int32(0), start.logits, written, ended)
    return jax.lax.while_loop(unfinished, step, (*first, start.cache))[2]


class Start(NamedTuple):
    """Where decoding begins, once the input is read.

    Attributes:
      read: (last token [B], how many are written, cache) -> (logits [B, V] that follow, cache).
      logits: those of the first token [B, V]; None where they come of a step as well, whose last
        token is `start_id`.
      cache: keys and values, arrays [N, B, H, slots, C] or lists of N; those of the answer begin at
        slot `own` of `own_name`.
      own_name, own: the part of the cache that grows with the answer.
    """

    read: Callable
    logits: jax.Array | None
    cache: dict
    own_name: str
    own: int


def given_lengths(model, tokens, lengths) -> jax.Array:
    """Gives `lengths` [B], or for a T5 how many tokens of each row are not 0.

    Raises:
      ValueError: if a decoder's lengths are None.
    """
    if lengths is None and isinstance(model, DecoderLM):
        raise ValueError(
            "A decoder's prompts need their lengths: in its vocabulary 0 may be a real token."
        )
    return jnp.sum(tokens > 0, axis=1) if lengths is None else lengths


def begin(model, params, tokens, lengths, max_length: int, copies: int = 1) -> Start:
    """Reads the inputs [B, S] once, and gives the start of `copies` answers to each, a row's next
    to each other.
    """
    is_cpu = jax.default_backend() == "cpu"
    if model.config.scan_layers and is_cpu:
        model, params = _taken_apart(model, params)
    apply = functools.partial(model.apply, {"params": params})
    few = is_cpu and tokens.shape[0] * copies <= _FEW_ROWS
    step = functools.partial(model.apply, {"params": _with_turned(params)}) if few else apply
    repeat = functools.partial(jnp.repeat, repeats=copies)
    if isinstance(model, DecoderLM):
        logits, cache = apply(tokens, lengths, max_length, method="prefill")
        cache = {
            **cache,
            "keys_values": jax.tree.map(lambda x: repeat(x, axis=-4), cache["keys_values"]),
            "lengths": repeat(cache["lengths"], axis=0),
        }

        def read(last, index, cache):
            return step(last, index - 1, cache, method="decode_step")

        return Start(read, repeat(logits, axis=0), cache, "keys_values", tokens.shape[1])
    segments = (jnp.arange(tokens.shape[1]) < lengths[:, None]).astype(jnp.int32)
    cache = apply(apply(tokens, segments, method="encode"), max_length, method="start_cache")
    cache, segments = jax.tree.map(lambda x: repeat(x, axis=-4), cache), repeat(segments, axis=0)
    return Start(
        lambda last, index, cache: step(last, index, cache, segments, method="decode_step"),
        None,
        cache,
        "self",
        0,
    )


def _taken_apart(model, params) -> tuple:
    """Gives the same model without `scan_layers`, and its parameters: a copy, made once and not at
    every step.

    On a CPU a scan copies every layer's parameters, keys and values out of the stacked arrays at
    each step: small T5 took 30 ms a step, 16 rows, and takes 22 without. An accelerator has no
    memory to spare for the copy.
    """
    config = dataclasses.replace(model.config, scan_layers=False, remat="none")
    return type(model)(config), stacking.unstack(params)


def _with_turned(tree):
    """Gives parameters in which kernels [D, F] stand turned, as [F, D], too, where `layers.Dense`
    looks for them.

    They are turned once, beside the reading of the input, for all steps: of 16 rows small T5 took
    32 ms a step, and takes 24. An accelerator has no memory to spare for the copy.
    """
    if not isinstance(tree, Mapping):
        return tree
    result = {name: _with_turned(child) for name, child in tree.items()}
    for name, turned in (("kernel", lambda kernel: kernel.T), ("embedding", lambda table: table)):
        if name in tree and min(tree[name].shape) >= _WORTH_TURNING:
            result[layers.TURNED] = turned(tree[name])
    return result
