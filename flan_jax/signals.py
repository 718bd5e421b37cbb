"""SIGTERM and Ctrl-C: finished work is kept, and the exit status tells that the run can resume."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator

# Exit status: saved, not finished; the same command resumes. 128 + SIGTERM, as in shells and
# schedulers.
SAVED = 143

SIGTERM, CTRL_C = "SIGTERM", "Ctrl-C"
_NAMES = {signal.SIGTERM: SIGTERM, signal.SIGINT: CTRL_C}
_NUMBERS = {name: number for number, name in _NAMES.items()}

# How long a signal waits for the end of an import.
_PATIENCE_S = 10.0


class Preempted(KeyboardInterrupt):
    """SIGTERM or Ctrl-C was received, and there is nothing to save first."""


def preempt(name: str) -> None:
    """Ends the work of the process by an exception.

    Raises:
      Preempted: with the name of the signal.
    """
    raise Preempted(name)


@contextlib.contextmanager
def handled(
    first: Callable[[str], None], numbers: tuple[int, ...] = tuple(_NAMES)
) -> Iterator[None]:
    """Within it the first SIGTERM or Ctrl-C calls `first` with its name.

    After it a Ctrl-C ends the process at once, and a SIGTERM has no effect: schedulers send
    several. A signal that the process was started to ignore stays ignored. Outside the main thread
    no signal is handled.

    During an import the signal waits for its end, for some seconds at most: modules in C++, such as
    those of jaxlib, abort the process where an exception interrupts them.
    """
    is_received = False
    waiting: _Waiting | None = None

    def handle(number: int, frame: types.FrameType | None) -> None:
        nonlocal is_received, waiting
        if not is_received and _is_importing(frame):
            waiting = waiting or _Waiting(number)
            if waiting.keeps_waiting(number):
                return
        if waiting is not None:
            waiting.cancel()
        if before.get(signal.SIGINT, signal.SIG_IGN) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not is_received:
            is_received = True
            first(_NAMES[number])

    def handle_again(
        unraisable: sys.UnraisableHookArgs,
        otherwise: Callable[[sys.UnraisableHookArgs], object] = sys.unraisablehook,
    ) -> None:
        """Raises an exception once more that a destructor or the garbage collector swallowed."""
        nonlocal is_received, waiting
        if not isinstance(unraisable.exc_value, Preempted):
            otherwise(unraisable)
            return
        is_received, waiting = False, None
        number = _NUMBERS[str(unraisable.exc_value)]
        signal.signal(number, handle)
        # Later, since this hook would swallow it, too.
        _timer(lambda: os.kill(os.getpid(), number))

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
        if waiting is not None:
            waiting.cancel()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if waiting is not None and not is_received:
            first(_NAMES[waiting.number])


class _Waiting:
    """A signal that waits for the end of an import.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int):
        self.number = number
        self._timer: threading.Timer | None = None
        self._until = time.monotonic() + _PATIENCE_S
        self._is_sent_here = False

    def keeps_waiting(self, number: int) -> bool:
        """Returns whether it stays pending after a signal: this one, sent again, or another."""
        is_sent_here, self._is_sent_here = self._is_sent_here, False
        if self._timer is not None and not is_sent_here:
            if number == signal.SIGINT:  # the second Ctrl-C ends the process
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGINT)
            return True
        if time.monotonic() >= self._until:
            return False
        self._timer = _timer(self._send)
        return True

    def cancel(self) -> None:
        """Sends it no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _send(self) -> None:
        self._is_sent_here = True
        os.kill(os.getpid(), self.number)


def _is_importing(frame: types.FrameType | None) -> bool:
    """Whether a signal interrupts the import of a module."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _timer(action: Callable[[], None]) -> threading.Timer:
    """Returns a timer that does something in a moment, started."""
    timer = threading.Timer(0.01, action)
    timer.daemon = True
    timer.start()
    return timer


def say(text: str) -> None:
    """Writes a line on standard error from a signal handler, which may have interrupted `print`."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
