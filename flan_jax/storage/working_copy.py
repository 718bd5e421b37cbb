"""The small files of a directory of a bucket, on the disk of this host while a program works there.

Programs read and append to them as files. At the start they are fetched: the bucket has the truth.
Every half minute, before each checkpoint and at the end the first process uploads what has changed,
whole, in an order in which no file names what is not there yet. The other processes upload nothing.
Checkpoints are not among them: they are written to the bucket directly.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from flan_jax import messages
from flan_jax.errors import UserError
from flan_jax.storage.atomic_directory import is_alive
from flan_jax.storage.bucket_errors import Unreachable
from flan_jax.storage.bucket_lock import BucketLock
from flan_jax.storage.copies import origin
from flan_jax.storage.files import write_file
from flan_jax.storage.hashing import file_digest
from flan_jax.storage.locks import alone_in
from flan_jax.storage.mirror import cache_of_buckets
from flan_jax.storage.outage import Outage
from flan_jax.storage.paths import short_path
from flan_jax.storage.places import Place
from flan_jax.storage.remote import Remote
from flan_jax.storage.repeated import Repeated

UPLOADED_S = 30.0
CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"
# Files by the place of their names in the order in which they are uploaded. The others come first:
# the settings of the run, and the records of what it trains on.
_ORDER = [
    rf"{METRICS}",
    r"predictions/.*",
    r"(runs|signatures)\.json",
    r"results\.csv",
    r"evaluated\.json",
    r"figures/.*|report\.(png|html)|compare\.csv",
    r"(report|compare)\.md",
    r"run\.json",
]
# Directories that stay on the disk until the end, and those that no one needs elsewhere.
_AT_THE_END, _NEVER = ("profile", "tensorboard"), ("wandb", CHECKPOINTS)
# What a report needs and training does not.
_OF_REPORTS = re.compile(r"(predictions|figures)/.*|report\.(png|html)")
_AT_ONCE = 16
_PAUSE_S = 10.0  # between the last attempts

# Returns the contents of a file that this program (second) and others (third) have changed since
# they were the first.
Merge = Callable[[bytes | None, bytes, bytes | None], bytes]


class _There(NamedTuple):
    """A file of the bucket.

    Attributes:
      state: of the same file here; None where it was merged with changes of others.
      digest: of its contents.
    """

    state: tuple[int, int, int] | None
    digest: str


_COPIES: dict[pathlib.Path, WorkingCopy] = {}


class WorkingCopy:
    """The copy of one directory of a bucket, of this process alone.

    Attributes:
      remote: the directory of the bucket.
      local: the copy, which has the same name.
    """

    def __init__(self, remote: Remote, merges: Mapping[str, Merge]):
        """Makes an empty directory; see `open_copy`."""
        _remove_abandoned()
        process = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.remote = remote
        self.local = cache_of_buckets() / "runs" / process / (remote.name or remote.bucket)
        self._merges = merges
        self._there: dict[str, _There] = {}  # what is known of the files in the bucket
        self._at_start: dict[str, str] = {}  # digests of what was fetched
        self._bases: dict[str, tuple[bytes | None, bytes]] = {}  # contents and generation there
        self._names: set[str] = set()  # of what is in the bucket and was not fetched yet
        self._is_fetched = False
        self._turn = threading.RLock()
        self._outage = Outage(f"metrics and results in {remote}")
        self._error: UserError | None = None
        self._lock: BucketLock | None = None
        with _writable(self.local):
            self.local.mkdir(parents=True)
        _COPIES[self.local] = self
        messages.show_as(str(self.local), str(remote))
        atexit.register(shutil.rmtree, self.local.parent, ignore_errors=True)

    def fetch(self) -> None:
        """Fetches the small files once, without those that only a report needs.

        Raises:
          UserError: if they cannot be read, or the disk not written.
        """
        if self._is_fetched:
            return
        names = [name for name in self.remote.names() if _is_small(name)]
        self._names = {name for name in names if _OF_REPORTS.fullmatch(name)}
        self._read([name for name in names if name not in self._names])
        self._is_fetched = True

    def fetch_for_report(self) -> None:
        """Fetches what a report needs, and this process has not written meanwhile.

        Raises:
          UserError: see `fetch`.
        """
        self.fetch()
        names, self._names = self._names, set()
        self._read(sorted(name for name in names if not (self.local / name).exists()))

    def has_changed(self, name: str) -> bool:
        """Returns whether a file differs from what was fetched at the start."""
        path = self.local / name
        return not path.is_file() or file_digest(path) != self._at_start.get(name)

    def flush(self, at_the_end: bool = False) -> None:
        """Uploads what has changed, in its order.

        Args:
          at_the_end: also profiles and the files of TensorBoard.

        Raises:
          BucketError: if it cannot be written; the next call tries again.
          UserError: if another process has taken over the lock.
        """
        with self._turn:
            if self._lock is not None and self._lock.lost is not None:
                raise self._lock.lost
            names = [
                name
                for name, state in self._files()
                if (at_the_end or not name.startswith(_AT_THE_END))
                and (name not in self._there or self._there[name].state != state)
            ]
            # Read from the last to the first: what a file names was written before it.
            ready = []
            for name in sorted(names, key=_place_in_order, reverse=True):
                state = _state(self.local / name)
                with contextlib.suppress(FileNotFoundError):
                    ready.append((name, state, (self.local / name).read_bytes()))
            for name, state, contents in reversed(ready):
                if name in self._there and self._there[name].digest == _digest(contents):
                    self._there[name] = _There(state, self._there[name].digest)
                else:
                    self._write(name, state, contents)

    def try_flush(self, at_the_end: bool = False) -> bool:
        """Uploads as `flush`; returns whether the bucket could be reached.

        Raises:
          UserError: where it could not for a long time, or will not: see `Outage`.
        """
        try:
            if self._error is not None:
                raise self._error
            self.flush(at_the_end)
        except Unreachable as error:
            self._outage.failed(error)
            return False
        self._outage.succeeded()
        return True

    @contextlib.contextmanager
    def locked(self, name: str, purpose: str) -> Iterator[None]:
        """Holds a lock of the directory in the bucket while the block runs.

        Args:
          name: of the lock.
          purpose: what the holder does, e.g. 'flan-jax train'.

        Raises:
          UserError: see `BucketLock`.
        """
        outer, self._lock = self._lock, BucketLock(self.remote / name, purpose)
        try:
            yield
        finally:
            self._lock.release()
            self._lock = outer

    def before_checkpoint(self) -> bool:
        """Uploads metrics and results; returns whether the checkpoint may be saved.

        A run that is killed resumes at its last checkpoint, and does not evaluate the steps before
        it again.

        Raises:
          UserError: where another process has taken over the lock; see also `try_flush`.
        """
        try:
            if self._lock is not None:
                self._lock.check()
        except Unreachable as error:
            self._outage.failed(error)
            return False
        return self.try_flush()

    @contextlib.contextmanager
    def uploading(self) -> Iterator[None]:
        """Uploads in the background while the block runs, and everything when it ends.

        Raises:
          UserError: if the last upload fails, unless the block itself fails: then it is a warning.
        """
        thread = Repeated(UPLOADED_S, self._flush_quietly, "uploads")
        try:
            yield
        except BaseException:
            thread.stop()
            with contextlib.suppress(UserError):
                self.flush(at_the_end=True)
            raise
        thread.stop()
        while not self.try_flush(at_the_end=True):
            time.sleep(_PAUSE_S)

    def _flush_quietly(self) -> None:
        """Uploads in the background; the next `try_flush` raises what cannot be helped."""
        try:
            self.try_flush()
        except UserError as error:
            self._error = error
        except Exception as error:  # such as a full disk
            self._error = UserError(f"{self.remote} cannot be written ({error}).")

    def _read(self, names: list[str]) -> None:
        for begin in range(0, len(names), _AT_ONCE):
            group = names[begin : begin + _AT_ONCE]
            for name, (contents, generation) in zip(group, self.remote.read_versions(group)):
                if contents is not None:
                    self._keep(name, contents, generation)

    def _keep(self, name: str, contents: bytes, generation: bytes) -> None:
        """Writes a file of the bucket to the disk."""
        write_file(self.local / name, contents)
        self._at_start[name] = _digest(contents)
        self._there[name] = _There(_state(self.local / name), self._at_start[name])
        if name in self._merges:
            self._bases[name] = contents, generation

    def _write(self, name: str, state: tuple[int, int, int], contents: bytes) -> None:
        """Uploads the contents of a file, with the changes of others where it is merged."""
        place, merge = self.remote / name, self._merges.get(name)
        if merge is None:
            place.write_bytes(contents)
            self._there[name] = _There(state, _digest(contents))
            return
        if name not in self._bases:
            self._bases[name] = None, place.read_version()[1]
        while True:
            base, generation = self._bases[name]
            if written := place.write_bytes(contents, generation):
                break
            theirs, generation = place.read_version()
            with alone_in(self.local):
                write_file(self.local / name, merge(base, (self.local / name).read_bytes(), theirs))
            contents = merge(base, contents, theirs)
            self._bases[name], state = (theirs, generation), None
        # without the state, the next call compares the contents
        self._bases[name] = contents, written
        self._there[name] = _There(state, _digest(contents))

    def _files(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        for path in self.local.rglob("*"):
            name = path.relative_to(self.local).as_posix()
            state = _state(path)
            if state is not None and _is_small(name):
                yield name, state


def open_copy(remote: Remote, merges: Mapping[str, Merge] | None = None) -> WorkingCopy:
    """Returns the copy of a directory of a bucket that this process has; an empty one at first.

    Args:
      remote: the directory.
      merges: how files are merged that other programs change at the same time, by their names.
    """
    for copy in _COPIES.values():
        if copy.remote == remote:
            return copy
    return WorkingCopy(remote, merges or {})


def working_copy_of(directory: pathlib.Path) -> WorkingCopy | None:
    """Returns what `open_copy` has made, by its directory; None for other directories."""
    return _COPIES.get(directory)


def forget(directory: pathlib.Path) -> None:
    """Lets the next `open_copy` fetch a directory again, which others may have changed meanwhile.

    Nothing happens for other directories than those of `open_copy`.
    """
    _COPIES.pop(directory, None)


def original(path: pathlib.Path) -> Place:
    """Returns the place in a bucket that a path is the copy of; other paths as they are."""
    for local, copy in _COPIES.items():
        if path.is_relative_to(local):
            name = path.relative_to(local).as_posix()
            return copy.remote if name == "." else copy.remote / name
    return origin(path) or path


def address(path: pathlib.Path) -> str:
    """Returns how other hosts name a path: its place in a bucket, or its full path."""
    place = original(path)
    return str(place if isinstance(place, Remote) else place.resolve())


def shown_place(path: pathlib.Path) -> str:
    """Returns a path for readers: its place in a bucket, else as `short_path`."""
    place = original(path)
    return str(place) if isinstance(place, Remote) else short_path(path)


def _digest(contents: bytes) -> str:
    return hashlib.blake2b(contents, digest_size=16).hexdigest()


def _is_small(name: str) -> bool:
    parts = name.split("/")
    return parts[0] not in _NEVER and not any(part.startswith(".") for part in parts)


def _place_in_order(name: str) -> tuple[int, str]:
    numbers = (i for i, pattern in enumerate(_ORDER, 1) if re.fullmatch(pattern, name))
    return next(numbers, 0), name


def _state(path: pathlib.Path) -> tuple[int, int, int] | None:
    """What changes with a file; None if it is not one."""
    try:
        status = path.stat()
    except OSError:
        return None
    is_file = path.is_file() and not path.is_symlink()
    return (status.st_ino, status.st_mtime_ns, status.st_size) if is_file else None


def _remove_abandoned() -> None:
    """Removes the copies of processes of this host that were killed."""
    with contextlib.suppress(OSError):
        for path in (cache_of_buckets() / "runs").iterdir():
            host, process, _ = path.name.rsplit("-", 2)
            is_own = any(copy.local.parent == path for copy in _COPIES.values())
            if host == socket.gethostname() and not is_own and not is_alive(int(process)):
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _writable(directory: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {directory} ({error.strerror}), where the files of a bucket are copied "
            "while a program works on them; make room there, or set HOME to another directory."
        ) from error
