"""Saving checkpoints to a bucket that may not answer for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

from flan_jax.checkpoints.bucket_clients import bucket_error
from flan_jax.parallel import processes
from flan_jax.storage.bucket_errors import Unreachable
from flan_jax.storage.outage import Outage
from flan_jax.storage.remote import Remote

_PAUSE_S = 10.0


class BucketSaving:
    """Saves checkpoints; one that fails is reported, and the run goes on to the next one.

    Checkpoints are written in the background: what went wrong with one shows when the next one is
    saved. With several processes an error ends the run, since only some of them may see it.
    """

    def __init__(self, remote: Remote, may_save: Callable[[], bool], reopen: Callable[[], None]):
        """Saves nothing yet.

        Args:
          remote: the directory of the checkpoints.
          may_save: called before each; False puts the checkpoint off, such as where the metrics
            and results of its steps could not be uploaded.
          reopen: opens the directory again after a failure, without what it left.
        """
        self._remote, self._may_save, self._reopen = remote, may_save, reopen
        self._outage = Outage(f"the checkpoints in {remote}")
        self._is_stale = False

    def save(self, start: Callable[[], None], wait: Callable[[], None], surely: bool) -> None:
        """Saves a checkpoint.

        Args:
          start: starts to save it.
          wait: returns when it is saved.
          surely: whether to try until it is saved: where no other one follows.

        Raises:
          UserError: where the bucket could not be written for long, or refuses.
        """
        attempts = 0
        while not self._attempt(start, wait if surely else None):
            attempts += 1
            if surely:
                time.sleep(_PAUSE_S)
            elif attempts == 2:  # the first may have failed for the checkpoint before
                return

    def _attempt(self, start: Callable[[], None], wait: Callable[[], None] | None) -> bool:
        """Tries once; returns whether the checkpoint is saved, or being saved."""
        if not self._may_save():
            return False
        try:
            if self._is_stale:
                self._reopen()
                self._is_stale = False
            start()
            if wait is not None:
                wait()
        except Exception as error:
            problem = bucket_error(error, self._remote, "written")
            if problem is None:
                raise
            if not isinstance(problem, Unreachable) or processes.several():
                raise problem from None
            self._is_stale = True
            self._outage.failed(problem)
            return False
        self._outage.succeeded()
        return True
