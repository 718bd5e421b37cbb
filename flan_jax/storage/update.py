"""Changes of a file or object that several processes make, so that none is lost."""

from __future__ import annotations

import pathlib
import random
import time
from collections.abc import Callable

from flan_jax.errors import UserError
from flan_jax.storage.files import write_file
from flan_jax.storage.locks import alone_in
from flan_jax.storage.places import Place

# A bucket allows one change a second of an object: so many writers may meet.
_TRIES, _LONGEST_WAIT_S = 12, 5.0


def update(place: Place, change: Callable[[bytes | None], bytes | None]) -> bytes | None:
    """Replaces the contents of a file or object by what `change` makes of them.

    On disk the directory is locked meanwhile; in a bucket the new contents are written only where
    the object has not changed since, else everything is done again.

    Args:
      place: of the file or object.
      change: gets the contents, None where there are none; returns the new ones, None to leave
        everything as it is. It may be called several times, also with what it returned before.

    Returns:
      The contents afterwards.

    Raises:
      UserError: if they cannot be read or written, or other processes were always first.
    """
    if isinstance(place, pathlib.Path):
        with alone_in(place.parent):
            before = place.read_bytes() if place.exists() else None
            after = change(before)
            if after is not None and after != before:
                write_file(place, after)
        return before if after is None else after
    for attempt in range(_TRIES):
        before, generation = place.read_version()
        after = change(before)
        if after is None or after == before:
            return before
        if place.write_bytes(after, generation):
            return after
        time.sleep(random.uniform(0, min(2**attempt / 10, _LONGEST_WAIT_S)))
    raise UserError(
        f"{place} was changed by other processes {_TRIES} times in a row; run the same command "
        "again when they have ended."
    )
