"""The programs of a run, lowered for a mesh without any data: training, and what `flan-jax
precompile` asks about.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from flan_jax.parallel import partitioning
from flan_jax.training.step import ShardedState, make_eval_step, make_train_step


def lower_train_step(
    model: nn.Module, optimizer, sharded: ShardedState, config, shapes: dict[str, tuple[int, int]]
) -> jax.stages.Lowered:
    """The step of `make_train_step` on the state's mesh; the state is donated.

    Args:
      sharded: the state of this model and optimizer.
      config: the `TrainConfig` of the run.
      shapes: of the features of a global batch, int32.
    """
    step = make_train_step(
        model,
        optimizer,
        config.seed,
        model.config.dropout_rate,
        config.z_loss,
        config.label_smoothing,
        config.microbatches,
        config.loss_chunks,
        sharded.shardings["params"],
    )
    with partitioning.use_mesh(sharded.mesh):
        state = partitioning.with_shardings(sharded.abstract, sharded.shardings)
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(sharded.shardings, None))
        return jitted.lower(state, _batch(shapes, sharded.mesh))


def lower_eval_step(
    model: nn.Module, sharded: ShardedState, config, shapes: dict[str, tuple[int, int]]
) -> jax.stages.Lowered:
    """The step of `make_eval_step` likewise, on the parameters of the state."""
    with partitioning.use_mesh(sharded.mesh):
        params = partitioning.with_shardings(
            sharded.abstract["params"], sharded.shardings["params"]
        )
        return jax.jit(make_eval_step(model, config.loss_chunks)).lower(
            params, _batch(shapes, sharded.mesh)
        )


def _batch(shapes: dict[str, tuple[int, int]], mesh) -> dict[str, jax.ShapeDtypeStruct]:
    sharding = partitioning.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)
        for name, shape in shapes.items()
    }
