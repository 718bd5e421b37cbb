"""What trains of a model, what stays frozen, and the parameters that both give together.

Three trees, all nested as the model's own parameters: `base` (all of a model, as a checkpoint has
them), `params` (what trains: the arrays that a method adds, and those of ALSO_TRAIN) and `frozen`
(the base without what ALSO_TRAIN names). Full tuning has `params` = base and `frozen` = {}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.core import meta

from flan_jax.errors import UserError
from flan_jax.messages import listed
from flan_jax.models.adapters import LORA_A, LORA_B
from flan_jax.models.stacking import named
from flan_jax.peft import ia3, lora, prompt
from flan_jax.peft.config import UNIFORM, PeftConfig
from flan_jax.peft.module_paths import matching, plain

# What each method adds: (its settings, the boxed parameters of a model, a key) -> boxed arrays by
# path.
METHODS = {
    "lora": lora.added_arrays,
    "prompt": prompt.added_arrays,
    "ia3": ia3.added_arrays,
}


class Tuning:
    """Divides the parameters of a model, and joins them.

    Attributes:
      config: the settings.
      also_trained: the paths of arrays of the model that train as a whole.
    """

    def __init__(self, config: PeftConfig, base: Any):
        """Checks the settings against a model.

        Args:
          config: the settings.
          base: the boxed parameters of the model, or their shapes.

        Raises:
          UserError: if a setting names nothing, or what cannot be tuned.
        """
        self.config = config
        self._base = flat(base)
        self.also_trained = (
            matching(config.also_train, self._base, "ALSO_TRAIN")
            if config.method and config.also_train
            else []
        )
        if not config.method:
            return
        self._added = jax.eval_shape(lambda: METHODS[config.method](config, self._base, 0))
        self._check_kernels()

    def _check_kernels(self) -> None:
        """Raises a UserError if a matrix trains as a whole and has an adapter, too."""
        adapted = {f"{_module(name)}/kernel" for name in self._added}
        both = sorted(map(_module, adapted & set(self.also_trained)))
        if both:
            names = "LORA_TARGETS" if self.config.method == "lora" else "PEFT='ia3'"
            raise UserError(
                f"{names} and ALSO_TRAIN both name {listed(both)}: a matrix that trains as a "
                "whole needs no adapter; take it out of one of them."
            )

    @property
    def is_full(self) -> bool:
        """Whether all parameters of the model train."""
        return self.config.method is None

    @property
    def modules(self) -> list[str]:
        """The paths of the modules that arrays are added to, without numbers of layers."""
        return sorted({plain(_module(name)) for name in self._added})

    @property
    def needs_start(self) -> bool:
        """Whether `fresh` needs a `start`."""
        return self.config.method == "prompt" and self.config.prompt_init != UNIFORM

    @property
    def prompt_shape(self) -> tuple[int, ...] | None:
        """[P, D], the shape of the prompt, or None without one."""
        is_prompt = self.config.method == "prompt"
        return next(iter(flat_values(self._added).values())).shape if is_prompt else None

    def fresh(self, base: Any, seed: int, start: prompt.Start | None = None) -> Any:
        """Returns the boxed arrays that train, at step 0, float32; full tuning returns `base`.

        Args:
          base: the boxed parameters of the model.
          seed: of random ones.
          start: what a prompt begins as; random if None.
        """
        if self.is_full:
            return base
        whole = flat(base)
        trained = {name: _cast(whole[name], jnp.float32) for name in self.also_trained}
        added = METHODS[self.config.method](self.config, whole, seed)
        if start is not None:
            added = prompt.started(added, whole, start)
        return nested({**trained, **added})

    def frozen(self, base: Any) -> Any:
        """Returns the parameters of the model that do not train; full tuning has none."""
        if self.is_full:
            return {}
        return nested({k: v for k, v in flat(base).items() if k not in self.also_trained})

    def join(self, params: Any, frozen: Any) -> Any:
        """Returns the parameters to apply the model with, the scale of LoRA in its second matrix.

        Args:
          params: what trains.
          frozen: see `frozen`.
        """
        return params if self.is_full else joined(params, frozen, self.config.scale)

    def summary(self) -> str:
        """Returns the method in words: 'LoRA rank 8 on 144 matrices'."""
        added = {name: _layers(name, leaf) for name, leaf in flat_values(self._added).items()}
        if self.config.method == "lora":
            count = sum(n for name, n in added.items() if name.endswith(LORA_A))
            text = f"LoRA rank {self.config.lora_rank} on {count} matrices"
        elif self.config.method == "prompt":
            text = f"a prompt of {self.config.prompt_length} vectors"
        else:
            text = f"IA3 on {sum(added.values())} activations"
        more = listed(self.also_trained)
        return f"{text}, and {more}" if more else text


def joined(params: Any, frozen: Any, scale: float) -> Any:
    """Returns the arrays of both trees in one, those of LoRA's second matrices times `scale`."""
    result = flat(frozen)
    for name, leaf in flat(params).items():
        is_scaled = name.rpartition("/")[2] == LORA_B
        result[name] = leaf * scale if is_scaled else leaf
    return nested(result)


def flat(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree of dicts by path, boxes as leaves."""
    return named(tree, is_leaf=lambda node: not isinstance(node, Mapping))


def nested(leaves: dict[str, Any]) -> Any:
    """Returns the tree of dicts of leaves by path."""
    return traverse_util.unflatten_dict(leaves, sep="/")


def flat_values(leaves: dict[str, Any]) -> dict[str, Any]:
    """Returns leaves by path without boxes of logical axes."""
    return {name: _unboxed(leaf) for name, leaf in leaves.items()}


def _unboxed(leaf: Any) -> Any:
    is_boxed = isinstance(leaf, meta.AxisMetadata)
    return leaf.unbox(apply_constraint=False) if is_boxed else leaf


def _cast(leaf: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype), leaf)


def _module(path: str) -> str:
    return path.rpartition("/")[0]


def _layers(path: str, leaf: Any) -> int:
    """How many layers an array has of which it is the stack."""
    return leaf.shape[0] if "layers" in path.split("/") else 1
