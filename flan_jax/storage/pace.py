"""The pace at which one object of a bucket may change.

GCS takes one change of an object a second, and answers 429 to more; its clients then try again, and
wait longer than they have to.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

_SECONDS = 1.0

# Name of an object -> when this process has changed it, of the last second.
_changed: dict[str, float] = {}
_guard = threading.Lock()


@contextlib.contextmanager
def paced(name: str) -> Iterator[None]:
    """Runs a block that changes an object when a second has passed since its last change here.

    Args:
      name: of the object, with its bucket.
    """
    now = time.monotonic()
    with _guard:
        wait = _changed.get(name, now - _SECONDS) + _SECONDS - now
    time.sleep(max(wait, 0.0))
    try:
        yield
    finally:
        now = time.monotonic()
        with _guard:
            for other in [other for other, at in _changed.items() if now - at >= _SECONDS]:
                del _changed[other]
            _changed[name] = now
