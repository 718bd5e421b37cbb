"""A registry with names whose providers are built when they are looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any


class LazyRegistry(MutableMapping):
    """The mapping of a SeqIO registry, with more names whose providers are built at look-up.

    Args:
      registered: the providers so far; they take precedence over recipes.
      recipes: returns the additional names, and what `build` needs for each.
      build: (name, recipe) -> provider; the look-up raises what it raises.
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
        """Drops the providers built so far: the next look-up builds anew."""
        self._built.clear()
