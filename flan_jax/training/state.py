"""The state of a run, `{'params': ..., 'opt_state': ..., 'step': int32 []}`, sharded over a mesh.

`params` is what trains: all parameters of a model, or what parameter-efficient tuning adds to
frozen ones (`peft/tuning.py`). Layers are stacked in memory and unstacked on disk
(`models/stacking.py`). `step` counts updates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.interpreters import partial_eval

from flan_jax.models import stacking
from flan_jax.parallel import partitioning
from flan_jax.peft.config import PeftConfig
from flan_jax.peft.prompt import Start
from flan_jax.peft.tuning import Tuning, flat, nested

State = dict[str, Any]


def init_params(
    model: nn.Module, shapes: dict[str, tuple[int, int]], seed: int, param_dtype: str = "float32"
) -> Any:
    """Returns the random parameters of a model, boxed with their logical axes; jit it.

    Args:
      model: a T5 or a decoder.
      shapes: of the features of a batch, e.g. of a single row.
      seed: of the parameters.
      param_dtype: of the parameters, 'float32' or 'bfloat16'.
    """
    batch = {name: jnp.ones(shape, jnp.int32) for name, shape in shapes.items()}
    params = model.init(jax.random.key(seed), batch)["params"]
    return jax.tree.map(lambda x: x.astype(param_dtype), params)


def without_forward_pass(make: Callable[[], Any]) -> tuple[Callable[[], Any], Any]:
    """Returns a function that makes the same arrays by what they depend on alone, and their shapes.

    Linen makes parameters while it runs the model. That is traced once, here, and what only the
    model's output depends on is left out.

    Args:
      make: a function without arguments, such as `init_params` of a model.
    """
    traced, shapes = jax.make_jaxpr(make, return_shape=True)()
    needed, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    run = jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(needed, traced.consts))
    return lambda: jax.tree.unflatten(jax.tree.structure(shapes), run()), shapes


def init_state(params: Any, optimizer: optax.GradientTransformation) -> State:
    """Returns the state of step 0 of parameters that train, boxed or not.

    Args:
      params: what trains.
      optimizer: its state begins from the parameters.
    """
    return {
        "params": params,
        "opt_state": optimizer.init(params),
        "step": jnp.zeros([], jnp.int32),
    }


class ShardedState:
    """Shapes and shardings of the state of a model on a mesh; makes the state of step 0.

    Attributes:
      mesh: the mesh.
      tuning: divides the parameters of the model into those that train and frozen ones.
      shardings: of the state in memory (layers stacked).
      abstract: boxed shapes of the state in memory.
      abstract_base: shapes, dtypes and shardings of all parameters of the model in memory.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        mesh: jax.sharding.Mesh,
        shapes: dict[str, tuple[int, int]],
        seed: int,
        param_dtype: str = "float32",
        peft: PeftConfig | None = None,
    ):
        """Evaluates the shapes only.

        Args:
          model: a T5 or a decoder.
          optimizer: of what trains.
          mesh: the mesh.
          shapes: of the features of a batch, e.g. of a single row.
          seed: of random parameters.
          param_dtype: of the parameters of the model.
          peft: the method of tuning; full tuning if None.

        Raises:
          UserError: if a dimension does not divide over the mesh, or the method names arrays that
            the model does not have.
        """
        self.mesh = mesh
        with partitioning.use_mesh(mesh):
            make = functools.partial(init_params, model, shapes, seed, param_dtype)
            self._init_base, self._base = without_forward_pass(make)
            shardings = partitioning.state_shardings(self._base, mesh)
            self.abstract_base = partitioning.with_shardings(self._base, shardings)
            self.tuning = Tuning(peft or PeftConfig(method=None), self._base)
            self._init = lambda base, start=None: init_state(
                self.tuning.fresh(base, seed, start), optimizer
            )
            self.abstract = jax.eval_shape(self._init, self._base)
            self.shardings = partitioning.state_shardings(self.abstract, mesh)

    @property
    def abstract_frozen(self) -> Any:
        """Shapes, dtypes and shardings of the frozen parameters in memory; {} in full tuning."""
        return self.tuning.frozen(self.abstract_base)

    @property
    def boxed_frozen(self) -> Any:
        """Boxed shapes of the frozen parameters in memory."""
        return self.tuning.frozen(self._base)

    @property
    def frozen_shardings(self) -> Any:
        """Shardings of the frozen parameters in memory."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_frozen)

    @property
    def abstract_joined(self) -> Any:
        """Shapes, dtypes and shardings of the parameters that the model is applied with."""
        params = partitioning.with_shardings(self.abstract["params"], self.shardings["params"])
        shapes = jax.eval_shape(self.tuning.join, params, self.abstract_frozen)
        shardings = nested(
            {
                name: leaf.sharding
                for name, leaf in {**flat(self.abstract_frozen), **flat(params)}.items()
            }
        )
        return partitioning.with_shardings(shapes, shardings)

    def fresh(self, base: Any = None, start: Start | None = None) -> State:
        """Returns the state of step 0, made sharded.

        Args:
          base: all parameters of the model on the mesh, which are kept; random ones if None.
          start: what a prompt begins as; None if it is random, or there is none.

        Raises:
          ValueError: if `start` is missing.
        """
        if self.tuning.needs_start and start is None:
            raise ValueError("a prompt whose PROMPT_INIT is not 'uniform' needs `start`.")
        with partitioning.use_mesh(self.mesh):
            return jax.jit(self._make, out_shardings=self.shardings)(base, start)

    def _make(self, base: Any, start: Start | None) -> State:
        boxed = self._init_base() if base is None else self._boxed(base)
        return partitioning.unbox(self._init(boxed, start))

    def params_of(self, state: State, base: Any) -> Any:
        """Returns the parameters of the model in a state.

        Args:
          state: on the mesh.
          base: all parameters of the model before tuning; not used in full tuning.
        """
        return self.tuning.join(state["params"], self.tuning.frozen(base))

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

    def _boxed(self, base: Any) -> Any:
        """Returns the parameters of the model boxed with their logical axes."""
        return jax.tree.map(
            lambda box, leaf: box.replace_boxed(leaf), self._base, base, is_leaf=partitioning.is_box
        )


def unstack(state: State) -> State:
    """Returns a state as checkpoints contain it."""
    return jax.jit(stacking.unstack)(state)
