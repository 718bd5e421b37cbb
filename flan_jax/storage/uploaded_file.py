"""A file of a bucket that a program extends: its copy on the disk, uploaded whole now and then."""

from __future__ import annotations

import logging
import pathlib
import time

from flan_jax.errors import UserError
from flan_jax.messages import show_as
from flan_jax.storage.bucket_errors import Unreachable
from flan_jax.storage.files import write_file
from flan_jax.storage.remote import Remote

# A bucket allows one change a second of an object, and each upload is of the whole file.
_SECONDS = 30.0

_log = logging.getLogger(__name__)


class UploadedFile:
    """The copy of an object, with its contents at first; nothing is there without the object.

    Attributes:
      local: the path of the copy.

    Args:
      remote: the object.
      directory: where the copy is.

    Raises:
      UserError: if the object cannot be read, or the copy not written.
    """

    def __init__(self, remote: Remote, directory: pathlib.Path):
        self.local, self._remote = directory / remote.name, remote
        self._contents, self._generation = remote.read_version()
        self._time = time.monotonic()
        if self._contents is not None:
            write_file(self.local, self._contents)
        show_as(str(self.local), str(remote))

    def upload_sometimes(self) -> None:
        """Uploads the file if half a minute has passed; what is not possible now is tried later.

        Raises:
          UserError: see `upload`.
        """
        if time.monotonic() - self._time < _SECONDS:
            return
        self._time = time.monotonic()
        try:
            self.upload()
        except Unreachable as error:
            _log.warning("%s", error)

    def upload(self) -> None:
        """Uploads the file if it has changed.

        Raises:
          UserError: if it cannot be written, or another program has changed the object.
        """
        contents = self.local.read_bytes()
        if contents == self._contents:
            return
        written, there = self._remote.write_bytes(contents, self._generation), contents
        if not written:  # or written, and the answer was lost
            there, written = self._remote.read_version()
        if there != contents:
            raise UserError(
                f"{self._remote} was changed by another program meanwhile; wait until that has "
                "ended and run the same command again, or give another name."
            )
        self._contents, self._generation = contents, written
