"""The state of a run, `{'params': ..., 'opt_state': ..., 'step': int32 []}`, sharded over a mesh.

Layers are stacked in memory and unstacked on disk (`models/stacking.py`). `step` counts updates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from flan_jax.models import stacking
from flan_jax.parallel import partitioning

State = dict[str, Any]


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    shapes: dict[str, tuple[int, int]],
    seed: int,
    param_dtype: str = "float32",
) -> Callable[[], State]:
    """Returns a function without arguments that makes the state of step 0; jit it with shardings.

    Parameters are boxed with their logical axes.

    Args:
      model: a T5 or a decoder.
      optimizer: its state begins from the parameters.
      shapes: of the features of a batch, e.g. of a single row.
      seed: of the parameters.
      param_dtype: of the parameters, 'float32' or 'bfloat16'.
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


class ShardedState:
    """Shapes and shardings of the state of a model on a mesh; makes the state of step 0.

    Attributes:
      mesh: the mesh.
      shardings: of the state in memory (layers stacked).
      abstract: boxed shapes of the state in memory.
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
        """Evaluates the shapes only; see `init_state` for the arguments."""
        self.mesh = mesh
        self._init = init_state(model, optimizer, shapes, seed, param_dtype)
        with partitioning.use_mesh(mesh):
            self.abstract = jax.eval_shape(self._init)
            self.shardings = partitioning.state_shardings(self.abstract, mesh)

    @property
    def abstract_params(self) -> Any:
        """Shapes, dtypes and shardings of the parameters in memory."""
        return partitioning.with_shardings(self.abstract["params"], self.shardings["params"])

    def fresh(self) -> State:
        """Returns the state of step 0, made sharded."""
        with partitioning.use_mesh(self.mesh):
            return jax.jit(lambda: partitioning.unbox(self._init()), out_shardings=self.shardings)()

    def on_disk(self) -> State:
        """Returns shapes and shardings of the unstacked state, as checkpoints contain it."""
        return stacking.unstack(partitioning.with_shardings(self.abstract, self.shardings))

    def stack(self, tree: State) -> State:
        """Returns the state in memory of one that was read from a checkpoint.

        It is the same tree where the model's layers are not scanned.
        """
        if jax.tree.structure(tree) == jax.tree.structure(self.shardings):
            return tree
        return jax.jit(stacking.stack, out_shardings=self.shardings)(tree)


def unstack(state: State) -> State:
    """Returns a state as checkpoints contain it."""
    return jax.jit(stacking.unstack)(state)
