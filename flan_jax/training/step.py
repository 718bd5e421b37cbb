"""One training step: a pure function of (state, batch), jitted once over the mesh.

State: `{'params': ..., 'opt_state': ..., 'step': int32 []}`, layers stacked. `step` counts updates
  taken.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from flan_jax.models import stacking
from flan_jax.models.losses import chunked_token_loss
from flan_jax.optim.stochastic_rounding import round_stochastically
from flan_jax.parallel import partitioning

State = dict[str, Any]


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    shapes: dict[str, tuple[int, int]],
    seed: int,
    param_dtype: str = "float32",
) -> Callable[[], State]:
    """A function of nothing that makes the state of step 0, boxed with logical axes; jit it with
    its shardings.
    """

    def init() -> State:
        batch = {name: jnp.ones(shape, jnp.int32) for name, shape in shapes.items()}
        params = jax.tree.map(
            lambda x: x.astype(param_dtype), model.init(jax.random.key(seed), batch)["params"]
        )
        return {
            "params": params,
            "opt_state": optimizer.init(params),
            "step": jnp.zeros([], jnp.int32),
        }

    return init


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
) -> Callable:
    """The step `(state, batch) -> (state, metrics)`.

    Metrics are float32 scalars over the batch: `loss` (cross entropy per target token in nats,
    without the z-loss), `z_loss`, `accuracy` (of the next token), `targets` (how many tokens the
    means are over) and `grad_norm`. The dropout key is a function of (seed, step) alone, so a step
    that is repeated after a restart is the same step.

    Args:
      microbatches: parts of the batch whose gradients are taken one after the other and added up.
      loss_chunks: parts of a row's length whose logits are made one after the other; see
        `chunked_token_loss`.
      param_shardings: of the parameters; sums of gradients are kept the same way. None without a
        mesh.
    """

    def train_step(state: State, batch: dict[str, jax.Array]):
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        weight = _weight(batch)

        def loss_fn(params, batch, key):
            sums = _loss_sums(
                model, params, batch, z_loss, label_smoothing, loss_chunks, dropout_rate == 0.0, key
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


def _norm(grads) -> jax.Array:
    """The float32 norm of all gradients, whatever their dtype."""
    return optax.tree_utils.tree_norm(jax.tree.map(lambda grad: grad.astype(jnp.float32), grads))


def make_eval_step(model: nn.Module, loss_chunks: int = 1) -> Callable:
    """The step `(params, batch) -> metrics` without dropout, z-loss and label smoothing."""

    def eval_step(params, batch):
        return _metrics(
            _loss_sums(model, params, batch, 0.0, 0.0, loss_chunks, True, None), _weight(batch)
        )

    return eval_step


def _loss_sums(
    model,
    params,
    batch,
    z_loss: float,
    label_smoothing: float,
    chunks: int,
    deterministic: bool,
    key,
):
    """The four sums of `token_loss` over a batch."""
    apply = functools.partial(model.apply, {"params": params})
    rngs = None if deterministic else {"dropout": key}
    hidden = apply(batch, deterministic=deterministic, rngs=rngs, method="hidden")
    return chunked_token_loss(
        functools.partial(apply, method="logits"),
        hidden,
        batch["decoder_target_tokens"],
        batch["decoder_loss_weights"],
        chunks,
        z_loss,
        label_smoothing,
    )


def _weight(batch: dict[str, jax.Array]) -> jax.Array:
    return jnp.maximum(jnp.sum(batch["decoder_loss_weights"].astype(jnp.float32)), 1.0)


def _metrics(sums, weight) -> dict[str, jax.Array]:
    total, z_total, _, correct = sums
    return {
        "loss": (total - z_total) / weight,
        "z_loss": z_total / weight,
        "accuracy": correct / weight,
        "targets": weight,
    }


def _accumulated(gradients: Callable, batch, key, count: int, params, shardings):
    """The sums over `count` microbatches of what `gradients(batch, key)` gives; gradients float32,
    sharded like params.

    Row i of the batch goes to microbatch i % count, so that every device keeps its own rows.
    """

    def sharded(grads):
        grads = jax.tree.map(lambda x: x.astype(jnp.float32), grads)
        return grads if shardings is None else jax.lax.with_sharding_constraint(grads, shardings)

    def cut(x):
        return jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)

    def add(carry, microbatch):
        sums, (index, rows) = carry, microbatch
        grads, more = gradients(rows, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, sums, (sharded(grads), more)), None

    zero = sharded(jax.tree.map(jnp.zeros_like, params)), (jnp.zeros([]),) * 4
    return jax.lax.scan(add, zero, (jnp.arange(count), jax.tree.map(cut, batch)))[0]


def _apply_updates(params, updates, key):
    """The updated parameters; those in bfloat16 are rounded up or down by chance, see
    `round_stochastically`.
    """
    leaves, structure = jax.tree.flatten(params)
    changed = []
    for index, (param, update) in enumerate(zip(leaves, structure.flatten_up_to(updates))):
        exact = param.astype(jnp.float32) + update
        low = param.dtype == jnp.bfloat16
        changed.append(
            round_stochastically(exact, jax.random.fold_in(key, index)) if low else exact
        )
    return structure.unflatten(changed)


class ShardedState:
    """Makes, saves and restores the state of a model on a mesh.

    Attributes:
      shardings: of the state in memory (layers stacked).
      abstract: boxed shapes of the state in memory.

    Args:
      shapes: of the features of a batch of one row.
      param_dtype: of the parameters, 'float32' or 'bfloat16'.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        mesh: jax.sharding.Mesh,
        shapes: dict[str, tuple[int, int]],
        seed: int,
        param_dtype: str = "float32",
    ):
        self.mesh = mesh
        self._init = init_state(model, optimizer, shapes, seed, param_dtype)
        with partitioning.use_mesh(mesh):
            self.abstract = jax.eval_shape(self._init)
            self.shardings = partitioning.state_shardings(self.abstract, mesh)

    def fresh(self) -> State:
        """The state of step 0, made sharded."""
        with partitioning.use_mesh(self.mesh):
            return jax.jit(lambda: partitioning.unbox(self._init()), out_shardings=self.shardings)()

    def on_disk(self) -> State:
        """Shapes and shardings of the unstacked state, as checkpoints hold it."""
        return stacking.unstack(partitioning.with_shardings(self.abstract, self.shardings))

    def unstack(self, state: State) -> State:
        """The state as checkpoints hold it."""
        return jax.jit(stacking.unstack)(state)

    def stack(self, tree: State) -> State:
        """The state in memory from one that a checkpoint held; the same where the model's layers
        are not scanned.
        """
        if jax.tree.structure(tree) == jax.tree.structure(self.shardings):
            return tree
        return jax.jit(stacking.stack, out_shardings=self.shardings)(tree)
