"""gin's settings are those of the whole process: here a program's own are put aside for a while."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import gin
from gin import config as gin_config

from flan_jax.config import gin_registry

# gin has one configuration in a process: of several threads, one configures at a time.
_IN_USE = threading.RLock()


@contextlib.contextmanager
def put_aside() -> Iterator[None]:
    """Within it gin has no settings, and what is set there ends with it; the old ones come back.

    Configurables of the program that are called like one of flan_jax, such as `Train`, are not
    found within it: gin files name ours without their modules. Import what declares ours before.
    """
    with _IN_USE:
        settings = {place: dict(values) for place, values in gin_config._CONFIG.items()}
        read = {place: dict(values) for place, values in gin_config._OPERATIVE_CONFIG.items()}
        imports, singletons = set(gin_config._IMPORTS), dict(gin_config._SINGLETONS)
        is_locked = gin_config.config_is_locked()
        hidden = _of_the_same_names()
        gin.clear_config()
        for selector in hidden:
            gin_config._REGISTRY.pop(selector)
        try:
            yield
        finally:
            gin.clear_config()
            for selector, item in hidden.items():
                gin_config._REGISTRY[selector] = item
            gin_config._CONFIG.update(settings)
            gin_config._IMPORTS.update(imports)
            gin_config._SINGLETONS.update(singletons)
            with gin_config._OPERATIVE_CONFIG_LOCK:
                gin_config._OPERATIVE_CONFIG.update(read)
            gin_config._set_config_is_locked(is_locked)


def _of_the_same_names() -> dict[str, gin_config.Configurable]:
    """The configurables of the program that share a name with one of flan_jax, by selector."""
    items = gin_registry.configurables()
    ours = {item.name for item in items.values() if item.module.startswith("flan_jax.")}
    return {
        selector: item
        for selector, item in items.items()
        if item.name in ours and not item.module.startswith("flan_jax.")
    }
