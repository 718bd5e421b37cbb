"""Names that SeqIO knows before anything of theirs is built, and a hook that waits for SeqIO to be
imported.

Imports neither SeqIO nor TensorFlow: whoever does not use them does not pay for them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any


class LazyRegistry(MutableMapping):
    """What SeqIO's registries keep providers in, with more names: their providers are built when
    they are looked up.

    Args:
      registered: the providers that are there already; they win over a recipe of the same name.
      recipes: gives the names on offer, and what `build` needs for each.
      build: (name, recipe) -> provider; what it raises reaches whoever looks the name up.
    """

    def __init__(
        self,
        registered: Mapping[str, Any],
        recipes: Callable[[], Mapping[str, Any]],
        build: Callable[[str, Any], Any],
    ):
        self._registered = dict(registered)
        self._recipes, self._build = recipes, build
        self._built: dict[str, Any] = {}
        self._removed: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        if name in self._registered:
            return self._registered[name]
        if name not in self:
            raise KeyError(name)
        if name not in self._built:
            self._built[name] = self._build(name, self._recipes()[name])
        return self._built[name]

    def __setitem__(self, name: str, provider: Any) -> None:
        self._registered[name] = provider

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._registered.pop(name, None)
        self._removed.add(name)

    def __contains__(self, name: object) -> bool:
        return name in self._registered or (name in self._recipes() and name not in self._removed)

    def __iter__(self) -> Iterator[str]:
        yield from self._registered
        yield from (
            n for n in self._recipes() if n not in self._registered and n not in self._removed
        )

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def forget(self) -> None:
        """Drops what was built: the next look-up builds anew."""
        self._built.clear()


def when_imported(name: str, then: Callable[[Any], None]) -> None:
    """Calls `then(module)` as soon as the module of that name has run: now, if it is imported
    already.
    """
    if name in sys.modules:
        then(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Hook(name, then))


class _Hook:
    """A finder that lets the others find the module, and adds a call to the end of its
    execution.
    """

    def __init__(self, name: str, then: Callable[[Any], None]):
        self.name, self.then = name, then

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        others = (
            f.find_spec(name, path, target)
            for f in sys.meta_path
            if f is not self and hasattr(f, "find_spec")
        )
        spec = next((found for found in others if found is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = self._followed(spec.loader.exec_module)
        return spec

    def _followed(self, execute):
        def exec_module(module):
            execute(module)
            if module.__name__ == self.name:  # a loader may serve several modules
                self.then(module)

        return exec_module
