"""gin's settings are those of the whole process: here a program's own are put aside for a while."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import gin
from gin import config as gin_config

# gin has one configuration in a process: of several threads, one configures at a time.
_IN_USE = threading.RLock()


@contextlib.contextmanager
def put_aside() -> Iterator[None]:
    """Within it gin has no settings, and what is set there ends with it; the old ones come back.

    Registered configurables and constants stay as they are.
    """
    with _IN_USE:
        settings = {place: dict(values) for place, values in gin_config._CONFIG.items()}
        read = {place: dict(values) for place, values in gin_config._OPERATIVE_CONFIG.items()}
        imports, singletons = set(gin_config._IMPORTS), dict(gin_config._SINGLETONS)
        is_locked = gin_config.config_is_locked()
        gin.clear_config()
        try:
            yield
        finally:
            gin.clear_config()
            gin_config._CONFIG.update(settings)
            gin_config._IMPORTS.update(imports)
            gin_config._SINGLETONS.update(singletons)
            with gin_config._OPERATIVE_CONFIG_LOCK:
                gin_config._OPERATIVE_CONFIG.update(read)
            gin_config._set_config_is_locked(is_locked)
