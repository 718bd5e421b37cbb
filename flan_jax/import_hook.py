"""Calls a function once a module has been imported, without importing that module."""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def when_imported(name: str, then: Callable[[ModuleType], None]) -> None:
    """Calls `then(module)` once the module has run: now if it is imported, else as soon as it is.

    Args:
      name: dotted name of the module.
      then: called with the module.
    """
    if name in sys.modules:
        then(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Hook(name, then))


class _Hook(importlib.abc.MetaPathFinder):
    """A finder that lets the others find the module, and adds a call after its execution."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]):
        self.name, self.then = name, then

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns what the other finders find, with the call added for the module."""
        if name != self.name:
            return None
        specs = (
            finder.find_spec(name, path, target)
            for finder in sys.meta_path
            if finder is not self and hasattr(finder, "find_spec")
        )
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = self._then_called(spec.loader.exec_module)
        return spec

    def _then_called(self, execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
        def exec_module(module: ModuleType) -> None:
            execute(module)
            if module.__name__ == self.name:  # a loader may serve several modules
                self.then(module)

        return exec_module
