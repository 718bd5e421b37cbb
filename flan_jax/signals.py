"""SIGTERM and Ctrl-C: what is finished is kept, and the exit status says that the same command does
the rest.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

# Exit status: saved, not finished; the same command continues. 128 + SIGTERM, as shells and
# schedulers count.
SAVED = 143

SIGTERM, CTRL_C = "SIGTERM", "Ctrl-C"
_NAMES = {signal.SIGTERM: SIGTERM, signal.SIGINT: CTRL_C}
_NUMBERS = {name: number for number, name in _NAMES.items()}


class Preempted(KeyboardInterrupt):
    """SIGTERM or Ctrl-C came, and nothing has to be saved first."""


def preempt(name: str) -> None:
    """Ends what the process does, by an exception.

    Raises:
      Preempted: with the name of the signal.
    """
    raise Preempted(name)


@contextlib.contextmanager
def handled(
    first: Callable[[str], None], numbers: tuple[int, ...] = tuple(_NAMES)
) -> Iterator[None]:
    """Within it the first SIGTERM or Ctrl-C calls `first` with its name.

    After it a Ctrl-C ends the process at once, and a SIGTERM does nothing: schedulers send several.
    A signal that the process was started to ignore stays ignored. Outside the main thread nothing
    is handled.
    """
    came = False

    def handle(number: int, frame: object) -> None:
        nonlocal came
        if before.get(signal.SIGINT, signal.SIG_IGN) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not came:
            came = True
            first(_NAMES[number])

    def handle_again(unraisable, otherwise=sys.unraisablehook) -> None:
        """An exception that a destructor or a callback of the garbage collector has swallowed is
        raised once more.
        """
        nonlocal came
        if not isinstance(unraisable.exc_value, Preempted):
            otherwise(unraisable)
            return
        came, number = False, _NUMBERS[str(unraisable.exc_value)]
        signal.signal(number, handle)
        # Not now: this hook would swallow it, too.
        again = threading.Timer(0.01, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, handle)
    except ValueError:  # not in the main thread
        yield
        return
    unraisablehook, sys.unraisablehook = sys.unraisablehook, handle_again
    try:
        yield
    finally:
        if sys.unraisablehook is handle_again:
            sys.unraisablehook = unraisablehook
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def say(text: str) -> None:
    """Writes a line on standard error from a signal handler, where `print` may be in the middle of
    another line.
    """
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
