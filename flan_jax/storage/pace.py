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

# Name of an object -> when this process changes it, or has changed it in the last second.
_changes: dict[str, float] = {}
# Reentrant: a file that the garbage collector closes is changed, too.
_guard = threading.RLock()


@contextlib.contextmanager
def paced(name: str) -> Iterator[None]:
    """Runs a block that changes an object when a second has passed since its last change here.

    Args:
      name: of the object: bucket/key.
    """
    now = time.monotonic()
    with _guard:
        turn = max(now, _changes.get(name, now - _SECONDS) + _SECONDS)
        _changes[name] = turn
    time.sleep(turn - now)
    try:
        yield
    finally:
        now = time.monotonic()
        with _guard:
            _changes[name] = max(now, _changes.get(name, now))
            for other in [other for other, at in _changes.items() if now - at >= _SECONDS]:
                del _changes[other]
