"""Adapters merged into the kernels beside which they are: a model without adapters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from flan_jax.errors import UserError
from flan_jax.models.adapters import LORA_A, LORA_B, PROMPT, SCALE_IN, SCALE_OUT

_ADDED = (LORA_A, LORA_B, SCALE_IN, SCALE_OUT)


def merged(params: Any) -> Any:
    """Returns joined parameters as those of the model alone, which computes the same.

    Products are float32 and rounded once, to the dtype of the kernel: in bfloat16 a small adapter
    would lose a third of itself. JAX's or NumPy's arrays, with or without a first axis of layers.

    Args:
      params: as `Tuning.join` returns them; the scale is in LoRA's second matrix.

    Raises:
      UserError: for a prompt, which is no part of a matrix.
    """
    if not isinstance(params, Mapping):
        return params
    check_mergeable(params)
    children = {name: merged(child) for name, child in params.items() if name not in _ADDED}
    if any(name in params for name in _ADDED):
        children["kernel"] = merged_kernel(params)
        if "bias" in params and SCALE_OUT in params:
            children["bias"] = _rounded(params["bias"] * params[SCALE_OUT], params["bias"])
    return children


def check_mergeable(names: Iterable[str]) -> None:
    """Checks that arrays can be merged into the matrices of a model.

    Args:
      names: their paths, or the last parts of them.

    Raises:
      UserError: for a prompt, which is no part of a matrix.
    """
    if any(name.rpartition("/")[2] == PROMPT for name in names):
        raise UserError(
            "a prompt cannot be merged into the matrices of its model; use the run itself, or "
            "begin another one with it: --gin.PROMPT_INIT=RUN."
        )


def merged_kernel(module: Mapping[str, Any]) -> Any:
    """Returns the kernel [..., D, F] of a module with its adapters merged, in the kernel's dtype.

    Args:
      module: the arrays of the module by name.
    """
    kernel = module["kernel"].astype(np.float32)
    if LORA_A in module:
        kernel = kernel + _product(module[LORA_A], module[LORA_B])
    if SCALE_IN in module:
        kernel = kernel * module[SCALE_IN][..., :, None]
    if SCALE_OUT in module:
        kernel = kernel * module[SCALE_OUT][..., None, :]
    return _rounded(kernel, module["kernel"])


def _product(a: Any, b: Any) -> Any:
    if isinstance(a, np.ndarray):
        return a @ b
    return jnp.matmul(a, b, precision="highest")


def _rounded(exact: Any, like: Any) -> Any:
    return exact.astype(like.dtype)
