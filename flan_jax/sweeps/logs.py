"""The logs of a sweep's points, `logs/NAME.log`: what their processes print is appended to them.

Those of a sweep in a bucket are on the disk of this machine while it works, and are uploaded.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import tempfile
from collections.abc import Callable, Iterator

from flan_jax.errors import UserError
from flan_jax.storage.remote import Remote
from flan_jax.storage.uploaded_file import UploadedFile
from flan_jax.sweeps.plan import LOGS, Sweep

_log = logging.getLogger(__name__)


class Logs:
    """The logs that one process of a sweep appends to; see `open_logs`."""

    def __init__(self, sweep: Sweep, directory: pathlib.Path):
        self._place, self._directory = sweep.place / LOGS, directory
        self._uploaded: dict[str, UploadedFile] = {}

    def path(self, name: str) -> pathlib.Path:
        """Returns the file of a log on this machine, whose directory exists.

        Raises:
          UserError: if what the bucket has of it cannot be read.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        file = f"{name}.log"
        if isinstance(self._place, Remote) and name not in self._uploaded:
            self._uploaded[name] = UploadedFile(self._place / file, self._directory)
        return self._directory / file

    def upload_sometimes(self) -> None:
        """Uploads what has changed if half a minute has passed; a failure is a warning."""
        for file in self._uploaded.values():
            _warned(file.upload_sometimes)

    def upload(self) -> None:
        """Uploads what has changed; a failure is a warning."""
        for file in self._uploaded.values():
            if file.local.exists():
                _warned(file.upload)


@contextlib.contextmanager
def open_logs(sweep: Sweep) -> Iterator[Logs]:
    """Yields the logs; those of a sweep in a bucket are uploaded when the block ends."""
    if not isinstance(sweep.place, Remote):
        yield Logs(sweep, sweep.directory / LOGS)
        return
    with tempfile.TemporaryDirectory(prefix="flan_jax_logs_") as directory:
        logs = Logs(sweep, pathlib.Path(directory))
        try:
            yield logs
        finally:
            logs.upload()


def _warned(upload: Callable[[], None]) -> None:
    """Uploads; a run does not end for the sake of its log."""
    try:
        upload()
    except UserError as error:
        _log.warning("%s", error)
