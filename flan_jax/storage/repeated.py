"""A function that is called again and again in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Repeated:
    """Calls a function every so many seconds in a thread of its own until it is stopped."""

    def __init__(self, seconds: float, action: Callable[[], None], name: str):
        """Starts the thread; `action` must not raise."""
        self._ended = threading.Event()
        self._seconds, self._action = seconds, action
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when no call is in progress and none follows."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            self._action()
