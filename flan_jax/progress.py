"""Progress of long work: a bar on a terminal, a log line every 30 s elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

_log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 30


@contextlib.contextmanager
def progress(total: int, title: str, unit: str) -> Iterator[Callable[[], None]]:
    """Yields a function to call after each unit of the work.

    Args:
      total: units of the work.
      title: of the work.
      unit: name of a unit, in the singular.
    """
    if sys.stdout.isatty():
        import tqdm

        with tqdm.tqdm(total=total, desc=title, unit=unit, file=sys.stdout, mininterval=1) as bar:
            yield bar.update
        return
    done, printed = 0, time.monotonic()

    def update() -> None:
        nonlocal done, printed
        done += 1
        if done < total and time.monotonic() - printed > SECONDS_BETWEEN_LINES:
            printed = time.monotonic()
            _log.info(f"{title}: {done:,} of {total:,} {unit}s")

    yield update
