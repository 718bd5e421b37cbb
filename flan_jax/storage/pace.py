"""The pace at which one object of a bucket may change.

GCS takes one change of an object a second, and answers 429 to more; its clients then try again, and
wait longer than they have to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Iterator

_SECONDS = 1.0


@dataclasses.dataclass
class _Changes:
    """The changes of one object by this process.

    Attributes:
      turn: held during a change; reentrant, since a file that the garbage collector closes is
        changed, too.
      users: blocks that change the object or wait for their turn.
      last: end of the last change, a time of the monotonic clock.
    """

    turn: threading.RLock = dataclasses.field(default_factory=threading.RLock)
    users: int = 0
    last: float = -math.inf


_objects: dict[str, _Changes] = {}
_guard = threading.RLock()


@contextlib.contextmanager
def paced(name: str) -> Iterator[None]:
    """Runs a block that changes an object, a second or more after the end of its last change here.

    Args:
      name: of the object: bucket/key.
    """
    with _guard:
        changes = _objects.get(name, _Changes())
        changes.users += 1  # before it is there: the garbage collector may forget objects
        _objects[name] = changes
    try:
        with changes.turn:
            time.sleep(max(0.0, changes.last + _SECONDS - time.monotonic()))
            try:
                yield
            finally:
                changes.last = time.monotonic()
    finally:
        with _guard:
            changes.users -= 1
            _forget_old()


def _forget_old() -> None:
    """Forgets the objects that can change again at once."""
    before = time.monotonic() - _SECONDS
    for name, changes in list(_objects.items()):
        if not changes.users and changes.last <= before:
            _objects.pop(name, None)
