"""How far long work is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import tqdm

SECONDS_BETWEEN_LINES = 30


@contextlib.contextmanager
def progress(total: int, title: str, unit: str) -> Iterator[Callable[[], None]]:
    """Yields a function to call after each piece of the work.

    Args:
      total: pieces of the work.
      title: what it makes.
      unit: what a piece is called.
    """
    if sys.stdout.isatty():
        with tqdm.tqdm(total=total, desc=title, unit=unit, file=sys.stdout, mininterval=1) as bar:
            yield bar.update
        return
    done, printed = 0, time.monotonic()

    def update() -> None:
        nonlocal done, printed
        done += 1
        if done < total and time.monotonic() - printed > SECONDS_BETWEEN_LINES:
            printed = time.monotonic()
            print(f"{title}: {done:,} of {total:,} {unit}s", flush=True)

    yield update
