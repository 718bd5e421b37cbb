"""Preemption by SIGTERM or Ctrl-C: all processes of a run agree on the step that they save."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from jax.experimental import multihost_utils

from flan_jax import signals
from flan_jax.parallel import processes


class Preemption:
    """Records that this run has been preempted.

    Attributes:
      cause: 'SIGTERM' or 'Ctrl-C'.
    """

    def __init__(self):
        self.cause = signals.SIGTERM
        self._requested = False
        self._calls = 0

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Within it a signal does not end the process; `requested` returns True after one.

        With several processes JAX's preemption service receives SIGTERM, and Ctrl-C is sent on to
        it as SIGTERM.
        """
        numbers = (signal.SIGINT,) if processes.several() else (signal.SIGTERM, signal.SIGINT)
        with signals.handled(self._request, numbers):
            yield

    def _request(self, name: str) -> None:
        self.cause = name
        if name == signals.CTRL_C:
            signals.say("Ctrl-C: saves and ends; press it again to end at once, without saving.")
        if processes.several():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._requested = True

    def requested(self) -> bool:
        """Returns whether a signal was received.

        Several processes must call this equally often; all get True in the same call.
        """
        if processes.several() and not self._requested:
            self._calls += 1
            self._requested = multihost_utils.reached_preemption_sync_point(self._calls)
        return self._requested
