"""The training and evaluation step, lowered for a mesh; no data is needed.

Used by training and by `flan-jax precompile`.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from flan_jax.models.losses import resolved_chunks
from flan_jax.parallel import partitioning
from flan_jax.training.config import TrainConfig
from flan_jax.training.state import ShardedState
from flan_jax.training.step import make_eval_step, make_train_step


def lower_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    sharded: ShardedState,
    config: TrainConfig,
    shapes: dict[str, tuple[int, int]],
) -> jax.stages.Lowered:
    """Returns the step of `make_train_step` on the state's mesh.

    The state is donated, the frozen parameters are not.

    Args:
      model: a T5 or a decoder.
      optimizer: updates the parameters.
      sharded: the state of this model and optimizer.
      config: the configuration of the run.
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
        _loss_chunks(model, config, shapes),
        sharded.shardings["params"],
        sharded.tuning.join,
    )
    with partitioning.use_mesh(sharded.mesh):
        state = partitioning.with_shardings(sharded.abstract, sharded.shardings)
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(sharded.shardings, None))
        return jitted.lower(state, sharded.abstract_frozen, _batch(shapes, sharded.mesh))


def lower_eval_step(
    model: nn.Module,
    sharded: ShardedState,
    config: TrainConfig,
    shapes: dict[str, tuple[int, int]],
) -> jax.stages.Lowered:
    """Returns the step of `make_eval_step` on the state's mesh.

    Args:
      model: a T5 or a decoder.
      sharded: the state of this model; only its parameters are used.
      config: the configuration of the run.
      shapes: of the features of a global batch, int32.
    """
    step = make_eval_step(model, _loss_chunks(model, config, shapes))
    with partitioning.use_mesh(sharded.mesh):
        return jax.jit(step).lower(sharded.abstract_joined, _batch(shapes, sharded.mesh))


def _loss_chunks(model: nn.Module, config: TrainConfig, shapes: dict[str, tuple[int, int]]) -> int:
    length = shapes["decoder_target_tokens"][1]
    return resolved_chunks(config.loss_chunks, length, model.config.vocab_size)


def compile_in_background(
    lower: Callable[[], jax.stages.Lowered],
) -> Callable[[], jax.stages.Compiled]:
    """Starts to lower and compile a program in a thread.

    Returns:
      A function that waits for the program and returns it.
    """
    executor = concurrent.futures.ThreadPoolExecutor(1, "compile")
    compiled = executor.submit(lambda: lower().compile())
    executor.shutdown(wait=False)
    return compiled.result


def _batch(
    shapes: dict[str, tuple[int, int]], mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    sharding = partitioning.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)
        for name, shape in shapes.items()
    }
