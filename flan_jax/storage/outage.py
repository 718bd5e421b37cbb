"""How long a run goes on while its bucket does not answer."""

from __future__ import annotations

import logging
import time

from flan_jax.errors import UserError

_log = logging.getLogger(__name__)

PATIENCE_S = 15 * 60.0
_BETWEEN_WARNINGS_S = 60.0


class Outage:
    """Counts the time since the last success; a failure is a warning, and later the end."""

    def __init__(self, what: str):
        """`what` is not written meanwhile: 'metrics and results', 'the checkpoint'."""
        self._what = what
        self._since: float | None = None
        self._warned = 0.0

    def succeeded(self) -> None:
        """Ends the outage, if there is one."""
        if self._since is not None:
            seconds = time.monotonic() - self._since
            _log.info("%s: written again, after %.0f s", self._what, seconds)
        self._since, self._warned = None, 0.0

    def failed(self, error: UserError) -> None:
        """Warns, once a minute.

        Raises:
          UserError: `error`, where nothing has succeeded for a quarter of an hour.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > PATIENCE_S:
            raise error
        if not self._warned or now - self._warned >= _BETWEEN_WARNINGS_S:
            self._warned = now
            _log.warning("%s: %s The run goes on and tries again.", self._what, error)
