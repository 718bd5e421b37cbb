"""One training step: a pure function of (state, batch), jitted once over the mesh.

State: `{'params': ..., 'opt_state': ..., 'step': int32 []}`, layers stacked. `step` counts updates taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from flan_jax.models import stacking
from flan_jax.models.losses import token_loss
from flan_jax.training import partitioning

State = dict[str, Any]


def init_state(model: nn.Module, optimizer: optax.GradientTransformation, shapes: dict[str, tuple[int, int]],
               seed: int) -> Callable[[], State]:
    """A function of nothing that makes the state of step 0, boxed with logical axes; jit it with its shardings."""
    def init() -> State:
        batch = {name: jnp.ones(shape, jnp.int32) for name, shape in shapes.items()}
        params = model.init(jax.random.key(seed), batch)["params"]
        return {"params": params, "opt_state": optimizer.init(params), "step": jnp.zeros([], jnp.int32)}

    return init


def make_train_step(model: nn.Module, optimizer: optax.GradientTransformation, seed: int, dropout_rate: float,
                    z_loss: float, label_smoothing: float) -> Callable:
    """The step `(state, batch) -> (state, metrics)`; see `loss_and_metrics` for the metrics, plus `grad_norm`.

    The dropout key is a function of (seed, step) alone, so a step that is repeated after a restart is the same step.
    """
    def train_step(state: State, batch: dict[str, jax.Array]):
        key = jax.random.fold_in(jax.random.key(seed), state["step"])

        def loss_fn(params):
            logits = model.apply({"params": params}, batch, deterministic=dropout_rate == 0.0, rngs={"dropout": key})
            return loss_and_metrics(logits, batch, z_loss, label_smoothing)

        grads, metrics = jax.grad(loss_fn, has_aux=True)(state["params"])
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        metrics["grad_norm"] = optax.global_norm(grads)
        return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, metrics

    return train_step


def make_eval_step(model: nn.Module) -> Callable:
    """The step `(params, batch) -> metrics` without dropout, z-loss and label smoothing."""
    def eval_step(params, batch):
        logits = model.apply({"params": params}, batch, deterministic=True)
        return loss_and_metrics(logits, batch, 0.0, 0.0)[1]

    return eval_step


def loss_and_metrics(logits: jax.Array, batch: dict[str, jax.Array], z_loss: float, label_smoothing: float):
    """The mean loss per target token (nats, z-loss included), and metrics, all float32 scalars.

    Metrics: `loss` (cross entropy, without the z-loss), `z_loss`, `accuracy` (of the next token) and `targets` (how
    many tokens the means are over).
    """
    total, z_total, weight, correct = token_loss(logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"],
                                                 z_loss, label_smoothing)
    weight = jnp.maximum(weight, 1.0)
    metrics = {"loss": (total - z_total) / weight, "z_loss": z_total / weight, "accuracy": correct / weight,
               "targets": weight}
    return total / weight, metrics


class ShardedState:
    """Makes, saves and restores the state of a model on a mesh.

    Attributes:
      shardings: of the state in memory (layers stacked).
      abstract: boxed shapes of the state in memory.

    Args:
      shapes: of the features of a batch of one row.
    """

    def __init__(self, model: nn.Module, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh,
                 shapes: dict[str, tuple[int, int]], seed: int):
        self.mesh = mesh
        self._init = init_state(model, optimizer, shapes, seed)
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
        """The state in memory from one that a checkpoint held."""
        return jax.jit(stacking.stack, out_shardings=self.shardings)(tree)
