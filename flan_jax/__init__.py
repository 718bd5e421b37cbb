"""Instruction tuning of language models (FLAN, arXiv 2109.01652) in JAX for TPU and GPU.

The library in Python: `load` a model, make a `mixture` of data, `train`, `evaluate`; docs/python.md
shows them at work. JAX is imported when one of these names is used, and not before.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# Public name -> the module that has it.
_MODULES = {
    "load": "flan_jax.api.loaded",
    "Model": "flan_jax.api.loaded",
    "Ranking": "flan_jax.api.loaded",
    "mixture": "flan_jax.api.mixtures",
    "Mixture": "flan_jax.api.mixtures",
    "train": "flan_jax.api.tuning_runs",
    "resume": "flan_jax.api.tuning_runs",
    "Run": "flan_jax.api.tuning_runs",
    "evaluate": "flan_jax.api.results",
    "Results": "flan_jax.api.results",
    "UserError": "flan_jax.errors",
    "Diverged": "flan_jax.errors",
}

__all__ = [
    "Diverged",
    "Mixture",
    "Model",
    "Ranking",
    "Results",
    "Run",
    "UserError",
    "__version__",
    "evaluate",
    "load",
    "mixture",
    "resume",
    "train",
]

if TYPE_CHECKING:
    from flan_jax.api.loaded import Model, Ranking, load
    from flan_jax.api.mixtures import Mixture, mixture
    from flan_jax.api.results import Results, evaluate
    from flan_jax.api.tuning_runs import Run, resume, train
    from flan_jax.errors import Diverged, UserError


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """This package: `flan_jax.train` is the function, also after its verb was imported.

    An import of the module `flan_jax/train.py` binds it to that name of the package.
    """

    @property
    def train(self) -> Any:
        """The function `train`."""
        return __getattr__("train")

    @train.setter
    def train(self, module: types.ModuleType) -> None:
        pass


sys.modules[__name__].__class__ = _Package
