"""Files of a bucket on the disk: a copy of one file, or a directory that is kept alike."""

from __future__ import annotations

import contextlib
import os
import pathlib
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.bucket_errors import bucket_errors
from flan_jax.storage.files import readable
from flan_jax.storage.remote import Remote

if TYPE_CHECKING:
    import tensorstore

# Where token caches, copies of a bucket's files and the like are, unless a setting says otherwise.
DEFAULT_CACHE = "~/.cache/flan_jax"

_CHUNK = 64 * 2**20
_AT_ONCE = 16  # files that are written together


def cache_of_buckets() -> pathlib.Path:
    """Returns the directory of what is copied from buckets to this machine."""
    return pathlib.Path(DEFAULT_CACHE).expanduser() / "buckets"


class Mirror:
    """A directory of a bucket and its copy on the disk, whose files never change once written.

    Attributes:
      remote: the directory of the bucket.
      local: its copy, below the home directory's cache.
    """

    def __init__(self, remote: Remote, local: pathlib.Path | None = None):
        self.remote = remote
        self.local = local or cache_of_buckets() / remote.scheme / remote.bucket / remote.key

    def missing(self, directory: str = "") -> list[str]:
        """Returns the names, relative to `remote`, of files below a directory not copied yet.

        Raises:
          BucketError: if the bucket cannot be listed.
        """
        place = self.remote / directory if directory else self.remote
        names = [f"{directory}/{name}".lstrip("/") for name in place.names()]
        return [name for name in names if not (self.local / name).exists()]

    def fetch(
        self, directory: str = "", wanted: Callable[[str], bool] = lambda name: True
    ) -> list[str]:
        """Copies what is missing on the disk; each file appears whole.

        Args:
          directory: below which, relative to `remote`.
          wanted: whether to copy the file of a name.

        Returns:
          The names of the files, relative to `remote`.

        Raises:
          UserError: if the bucket cannot be read, or the disk not written.
        """
        names = [name for name in self.missing(directory) if wanted(name)]
        for name in names:
            path = self.local / name
            if not path.resolve().is_relative_to(self.local.resolve()):
                raise UserError(f"{self.remote} has a file named {shown(repr(name))}; remove it.")
            with written(path) as file:
                copy_object(self.remote / name, file)
        return names

    def push(self, names: Iterable[str], last: str | None = None) -> None:
        """Copies files to the bucket.

        Args:
          names: of the files, relative to `local`.
          last: the one that says that the others are complete: written when they are.

        Raises:
          UserError: if the bucket cannot be written, or a file cannot be read.
        """
        names = [name for name in names if name != last]
        for begin in range(0, len(names), _AT_ONCE):
            self._write(names[begin : begin + _AT_ONCE])
        if last is not None:
            self._write([last])

    def _write(self, names: list[str]) -> None:
        """Copies files to the bucket, all at once."""
        contents = []
        for name in names:
            with readable(self.local / name, "make it readable"):
                contents.append((self.local / name).read_bytes())
        with bucket_errors(self.remote.scheme, self.remote.bucket, "written"):
            store = self.remote.kvstore()
            for future in [store.write(*each) for each in zip(names, contents)]:
                future.result()


def copy_object(remote: Remote, file: BinaryIO) -> None:
    """Copies an object of any size, a part at a time, all of one generation."""
    store, begin, generation = remote.parent.kvstore(), 0, None
    with bucket_errors(remote.scheme, remote.bucket, "read"):
        while (part := _part(store, remote.name, begin)) is not None:
            if part.state == "missing" or generation not in (None, part.stamp.generation):
                raise UserError(f"{remote} changed while it was read; run the same command again.")
            file.write(part.value)
            begin, generation = begin + len(part.value), part.stamp.generation
            if len(part.value) < _CHUNK:
                break


def _part(
    store: tensorstore.KvStore, name: str, begin: int
) -> tensorstore.KvStore.ReadResult | None:
    """The bytes of an object from `begin`, as many as a part has; None behind its end."""
    # TensorStore does not say how large an object is, and reads no range beyond its end
    for byte_range in (slice(begin, begin + _CHUNK), slice(begin, None) if begin else None):
        try:
            return store.read(name, byte_range=byte_range).result()
        except ValueError as error:
            if "OUT_OF_RANGE" not in str(error):
                raise
    return None


@contextlib.contextmanager
def written(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Yields a file that gets its name when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}); make room there, or give another place."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
