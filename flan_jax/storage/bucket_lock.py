"""A lock in a bucket: an object whose holder renews it, since no system releases it for the dead.

A lock that is not renewed is taken over: at once where its holder was a process of this machine and
is gone, else after some time without a renewal. A holder that others took for dead finds that out
at its next renewal, before it writes anything.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.remote import Remote
from flan_jax.storage.repeated import Repeated

RENEWED_S = 30.0
# Two renewals may fail.
_PATIENCE_S, _POLL_S = 75.0, 5.0
_FRESH_S = 15.0

_log = logging.getLogger(__name__)


class BucketLock:
    """A lock that this process holds until `release`.

    Attributes:
      lost: the error of a lock that another process has taken over; else None.
    """

    def __init__(self, remote: Remote, purpose: str):
        """Takes the lock.

        Args:
          remote: the object.
          purpose: what the holder does, e.g. 'flan-jax train'.

        Raises:
          UserError: if another process holds it, or the bucket cannot be written.
        """
        self._remote, self._id = remote, uuid.uuid4().hex
        self._purpose, self._since = purpose, _now()
        self._turn = threading.Lock()
        self.lost: UserError | None = None
        self._generation, self._renewed = self._take(), time.monotonic()
        self._thread = Repeated(RENEWED_S, self._renew_quietly, "lock")

    def check(self) -> None:
        """Renews the lock unless that was just done: no one can have taken it over meanwhile.

        Raises:
          UserError: as `renew`.
        """
        if self.lost is not None or time.monotonic() - self._renewed > _FRESH_S:
            self.renew()

    def renew(self) -> None:
        """Writes the lock again, so that others see that its holder works.

        Raises:
          UserError: if another process has taken it over; BucketError if it cannot be written.
        """
        if self.lost is not None:
            raise self.lost
        with self._turn:
            generation = self._remote.write_bytes(self._contents(), self._generation)
            if generation is None:
                # a write whose answer was lost is repeated, and then fails: it was this process
                contents, generation = self._remote.read_version()
                if contents is None or _record(contents).get("id") != self._id:
                    self.lost = UserError(
                        f"{self._remote.parent} is in use by {_holder(contents)} now, which found "
                        "no sign of this process for a while; this one ends without writing more."
                    )
                    raise self.lost
            self._generation, self._renewed = generation, time.monotonic()

    def release(self) -> None:
        """Deletes the lock if it is still that of this process."""
        self._thread.stop()
        with contextlib.suppress(UserError):
            self._remote.delete(self._generation)

    def _take(self) -> bytes:
        """Writes the lock as the first, or after its holder has gone; returns its generation."""
        while True:
            contents, generation = self._remote.read_version()
            if contents is not None and not _is_of_dead_process(contents):
                self._wait_for_silence(contents, generation)
            if taken := self._remote.write_bytes(self._contents(), generation):
                return taken
            # another process was first, or the answer of a successful write was lost
            contents, generation = self._remote.read_version()
            if contents is not None and _record(contents).get("id") == self._id:
                return generation
            if contents is None:
                self._remote.parent.check_writable()  # of a missing bucket it says so

    def _wait_for_silence(self, contents: bytes, generation: bytes) -> None:
        """Returns when the holder has not renewed the lock for a while.

        Raises:
          UserError: if it does.
        """
        deadline = time.monotonic() + _PATIENCE_S
        _log.info(
            "%s: locked by %s; waiting up to %.0f s to see whether it still works",
            self._remote.parent,
            _holder(contents),
            _PATIENCE_S,
        )
        while time.monotonic() < deadline:
            time.sleep(_POLL_S)
            now, newer = self._remote.read_version()
            if now is None:
                return
            if newer != generation:
                raise UserError(
                    f"{self._remote.parent} is in use by {_holder(now)}; wait until it ends, or "
                    "give another directory."
                )

    def _renew_quietly(self) -> None:
        """Renews in the background; `renew` reports what goes wrong."""
        with contextlib.suppress(UserError):
            self.renew()

    def _contents(self) -> bytes:
        record = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "purpose": self._purpose,
            "since": self._since,
            "boot": _boot(),
            "id": self._id,
            "renewed": _now(),
        }
        return json.dumps(record).encode()


@contextlib.contextmanager
def locked_in_bucket(remote: Remote, purpose: str) -> Iterator[None]:
    """Holds a lock while the block runs; see `BucketLock`.

    Raises:
      UserError: if another process holds it, or the bucket cannot be written.
    """
    lock = BucketLock(remote, purpose)
    try:
        yield
    finally:
        lock.release()


def is_held(contents: bytes | None) -> bool:
    """Returns whether the holder of a lock seems to work, by the contents of the lock.

    That is so for a process that has renewed it of late, by the clocks of both machines, unless it
    was one of this machine that is gone. Who takes the lock need not believe it: `BucketLock` does
    not compare clocks.
    """
    if contents is None or _is_of_dead_process(contents):
        return False
    try:
        renewed = datetime.datetime.fromisoformat(_record(contents)["renewed"])
        return (datetime.datetime.now().astimezone() - renewed).total_seconds() < _PATIENCE_S
    except (LookupError, TypeError, ValueError):  # no record of ours
        return False


def _is_of_dead_process(contents: bytes) -> bool:
    """Whether the holder was a process of this machine, since its last start, that is gone."""
    record = _record(contents)
    if (record.get("host"), record.get("boot")) != (socket.gethostname(), _boot()):
        return False
    process = record.get("process")
    if not isinstance(process, int) or process == os.getpid():
        return process == os.getpid()  # the number was given again
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass
    return False


def _boot() -> str | None:
    """What names the machine and its last start; None where the system has no such name."""
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _record(contents: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        record = json.loads(contents)
        return record if isinstance(record, dict) else {}
    return {}


def _holder(contents: bytes | None) -> str:
    """'flan-jax train (process 71 on host a, since 2026-01-01T10:00:00+00:00)', as far as known."""
    record = _record(contents or b"")
    try:
        return shown("{purpose} (process {process} on host {host}, since {since})".format(**record))
    except LookupError:
        return "another process"


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
