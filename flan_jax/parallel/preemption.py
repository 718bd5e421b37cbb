"""Preemption: SIGTERM or Ctrl-C is noted, and all processes of a run agree on the place where they
save and end.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from jax.experimental import multihost_utils

from flan_jax import signals
from flan_jax.parallel import processes


class Preemption:
    """Whether this run has been preempted.

    Attributes:
      cause: 'SIGTERM' or 'Ctrl-C'.
    """

    def __init__(self):
        self.cause = signals.SIGTERM
        self._came = False
        self._calls = 0

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Within it the signals end nothing by themselves: `came` says that one came.

        With several processes JAX's own preemption service receives SIGTERM, and Ctrl-C becomes
        one.
        """
        numbers = (signal.SIGINT,) if processes.several() else (signal.SIGTERM, signal.SIGINT)
        with signals.handled(self._note, numbers):
            yield

    def _note(self, name: str) -> None:
        self.cause = name
        if name == signals.CTRL_C:
            signals.say("Ctrl-C: saves and ends; press it again to end at once, without saving.")
        if processes.several():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._came = True

    def came(self) -> bool:
        """Whether a signal came. Several processes, each of which calls this as often, get True in
        the same call.
        """
        if processes.several() and not self._came:
            self._calls += 1
            self._came = multihost_utils.reached_preemption_sync_point(self._calls)
        return self._came
