"""The training step and the evaluation step: pure functions of their arguments.

`compile.py` lowers them for a mesh; `state.py` describes the state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float32, Key, Num

from flan_jax.models.hidden_loss import hidden_token_loss, skips_pay
from flan_jax.models.losses import Sums
from flan_jax.optim.stochastic_rounding import round_stochastically
from flan_jax.training.state import State

Batch = dict[str, Num[Array | np.ndarray, "B _"]]
Metrics = dict[str, Float32[Array, ""]]
TrainStep = Callable[[State, Any, Batch], tuple[State, Metrics]]
EvalStep = Callable[[Any, Batch], Metrics]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    dropout_rate: float,
    z_loss: float,
    label_smoothing: float,
    microbatches: int = 1,
    loss_chunks: int = 1,
    param_shardings: Any = None,
    join: Callable[[Any, Any], Any] = lambda params, frozen: params,
) -> TrainStep:
    """Returns the step `(state, frozen, batch) -> (state, metrics)`.

    Gradients are taken of what trains alone, the frozen parameters being another argument, so that
    no gradient of theirs is computed.

    Metrics are float32 scalars over the batch: `loss` (cross entropy per target token in nats,
    without the z-loss), `z_loss`, `accuracy` (of the next token), `targets` (how many tokens the
    means are over) and `grad_norm`. The dropout key is a function of (seed, step) alone, so a step
    that is repeated after a restart is the same step.

    Args:
      model: a T5 or a decoder.
      optimizer: updates the parameters.
      seed: of dropout and of stochastic rounding.
      dropout_rate: of the model; at 0 no dropout key is used.
      z_loss: weight of the z-loss; see `losses.token_loss`.
      label_smoothing: see `losses.token_loss`.
      microbatches: parts of the batch whose gradients are computed one after the other and added.
      loss_chunks: parts of a row's length whose logits are computed one after the other; see
        `hidden_token_loss`.
      param_shardings: of what trains, and of the sums of gradients; None without a mesh.
      join: returns the parameters of the model, of what trains and what is frozen.
    """

    def train_step(state: State, frozen: Any, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        weight = _weight(batch)

        def loss_fn(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple]:
            sums = _loss_sums(
                model,
                join(params, frozen),
                batch,
                z_loss,
                label_smoothing,
                loss_chunks,
                dropout_rate == 0.0,
                key,
            )
            return sums[0] / weight, sums

        gradients = functools.partial(jax.grad(loss_fn, has_aux=True), state["params"])
        if microbatches == 1:
            grads, sums = gradients(batch, key)
        else:
            grads, sums = _accumulated(
                gradients, batch, key, microbatches, state["params"], param_shardings
            )
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = _apply_updates(state["params"], updates, jax.random.fold_in(key, 1))
        metrics = {**_metrics(sums, weight), "grad_norm": _norm(grads)}
        return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, metrics

    return train_step


def make_eval_step(model: nn.Module, loss_chunks: int = 1) -> EvalStep:
    """Returns the step `(params, batch) -> metrics`, without dropout, z-loss and label smoothing.

    Args:
      model: a T5 or a decoder.
      loss_chunks: see `make_train_step`.
    """

    def eval_step(params: Any, batch: Batch) -> Metrics:
        return _metrics(
            _loss_sums(model, params, batch, 0.0, 0.0, loss_chunks, True, None), _weight(batch)
        )

    return eval_step


def _loss_sums(
    model: nn.Module,
    params: Any,
    batch: Batch,
    z_loss: float,
    label_smoothing: float,
    chunks: int,
    deterministic: bool,
    key: Key[Array, ""] | None,
) -> Sums:
    """Returns the four sums of `token_loss` over a batch."""
    apply = functools.partial(model.apply, {"params": params})
    rngs = None if deterministic else {"dropout": key}
    hidden = apply(batch, deterministic=deterministic, rngs=rngs, method="hidden")
    return hidden_token_loss(
        functools.partial(apply, method="logits"),
        hidden,
        batch["decoder_target_tokens"],
        batch["decoder_loss_weights"],
        chunks,
        z_loss,
        label_smoothing,
        # Of a decoder's row the inputs have no loss; of an encoder-decoder's nearly all have one.
        skips="encoder_input_tokens" not in batch and skips_pay(model.config.vocab_size),
    )


def _weight(batch: Batch) -> Float32[Array, ""]:
    """Returns the number of target tokens of a batch, at least 1."""
    return jnp.maximum(jnp.sum(batch["decoder_loss_weights"].astype(jnp.float32)), 1.0)


def _metrics(sums: Sums, weight: Float32[Array, ""]) -> Metrics:
    total, z_total, _, correct = sums
    return {
        "loss": (total - z_total) / weight,
        "z_loss": z_total / weight,
        "accuracy": correct / weight,
        "targets": weight,
    }


def _norm(grads: Any) -> Float32[Array, ""]:
    """Returns the norm of all gradients, computed in float32."""
    return optax.tree_utils.tree_norm(jax.tree.map(lambda grad: grad.astype(jnp.float32), grads))


def _accumulated(
    gradients: Callable, batch: Batch, key: jax.Array, count: int, params: Any, shardings: Any
) -> tuple:
    """Returns the sums of `gradients(batch, key)` over `count` microbatches.

    Gradients are float32 and sharded like the parameters. Row i of the batch is in microbatch
    i % count, so that every device keeps its rows.
    """

    def sharded(grads: Any) -> Any:
        grads = jax.tree.map(lambda x: x.astype(jnp.float32), grads)
        return grads if shardings is None else jax.lax.with_sharding_constraint(grads, shardings)

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)

    def add(sums: tuple, microbatch: tuple) -> tuple:
        index, rows = microbatch
        grads, more = gradients(rows, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, sums, (sharded(grads), more)), None

    zero = sharded(jax.tree.map(jnp.zeros_like, params)), (jnp.zeros([]),) * 4
    return jax.lax.scan(add, zero, (jnp.arange(count), jax.tree.map(split, batch)))[0]


def _apply_updates(params: Any, updates: Any, key: jax.Array) -> Any:
    """Returns the updated parameters; those in bfloat16 are rounded stochastically."""
    leaves, structure = jax.tree.flatten(params)
    changed = []
    for index, (param, update) in enumerate(zip(leaves, structure.flatten_up_to(updates))):
        exact = param.astype(jnp.float32) + update
        is_low_precision = param.dtype == jnp.bfloat16
        changed.append(
            round_stochastically(exact, jax.random.fold_in(key, index))
            if is_low_precision
            else exact
        )
    return structure.unflatten(changed)
