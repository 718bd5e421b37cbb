"""Shards (named arrays with a record) in few files, the packs, for any number of processes.

A pack is written once: arrays one after the other, then the index (key -> record, and place and
digest of each array), then a footer with the index's own digest. Until the footer is there, readers
pass the file over: it gets its name at once, and nothing is renamed. Keys stand in the index, so
that a pack may have any name and lie in any directory.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import logging
import mmap
import os
import pathlib
import socket
import struct
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from flan_jax.errors import UserError

_log = logging.getLogger(__name__)

SUFFIX = ".pack"
_MAGIC = b"flanpak1"
_FOOTER = struct.Struct("<Q16s8s")  # bytes of the index, its digest, _MAGIC
_ALIGNMENT = 64

# A pack is closed when it is so large, or so old and has taken such a part of its writer's time: a
# preparation that is killed loses no more than that, and a long one does not make more files than a
# process may have open.
_MOST_BYTES = 256 * 2**20
_MOST_SECONDS, _MOST_PART = 60.0, 0.02

# A use of a pack renews its time, which says when it was used last, if that is older than this.
_RENEWED_SECONDS = 3600.0

# A file that did not change for so long is not being written any more.
_ABANDONED_SECONDS = 3600.0

# (path of the pack, its size, key) of shards that this process has checked, and packs whose damage
# it has logged.
_CHECKED: set[tuple[str, int, str]] = set()
_NAMED: set[tuple[str, int]] = set()
# Packs that this process writes.
_OPEN: set[pathlib.Path] = set()


@dataclasses.dataclass
class Shard:
    """Arrays by name, and a record of JSON values about them."""

    key: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclasses.dataclass
class Pack:
    """A pack whose index has been read.

    Attributes:
      path, size, time: of the file; `time` is the last change in nanoseconds, which a use of the
        pack renews.
      index: key -> {'meta': record, 'arrays': {name: [dtype, shape, begin, digest]}}.
    """

    path: pathlib.Path
    size: int
    time: int
    index: dict[str, dict[str, Any]]
    _map: mmap.mmap | None = None
    _shards: dict[str, Shard] = dataclasses.field(default_factory=dict)

    def size_of(self, key: str) -> int:
        """Returns the bytes of the arrays of a shard."""
        arrays = self.index[key]["arrays"].values()
        return sum(np.dtype(dtype).itemsize * int(np.prod(shape)) for dtype, shape, *_ in arrays)

    def read(self, key: str) -> Shard:
        """Returns the shard of a key, its arrays memory-mapped.

        Raises:
          ValueError, OSError: if an array is damaged, or the file is gone.
        """
        if key in self._shards:
            return self._shards[key]
        if self._map is None:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if time.time() - self.time / 1e9 > _RENEWED_SECONDS:
                with contextlib.suppress(OSError):  # a cache that is only read
                    os.utime(self.path)
        entry = self.index[key]
        arrays = {
            name: np.frombuffer(self._map, dtype, int(np.prod(shape)), begin).reshape(shape)
            for name, (dtype, shape, begin, _) in entry["arrays"].items()
        }
        mark = (str(self.path), self.size, key)
        if mark not in _CHECKED:
            for name, array in arrays.items():
                if _digest(array) != entry["arrays"][name][3]:
                    raise ValueError(f"{name} of {key}")
            _CHECKED.add(mark)
        self._shards[key] = Shard(key, entry["meta"], arrays)
        return self._shards[key]


class Packs:
    """The shards in the packs of a directory; the newest of several with one key counts."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self._packs: dict[str, Pack] = {}
        self._by_key: dict[str, list[Pack]] = {}

    def find(self, key: str) -> Shard | None:
        """Returns the shard of a key, whole and checked; None if it is not in the directory.

        Raises:
          UserError: if the directory cannot be read.
        """
        shard = self._find(key)
        # it may have come since, or moved to another pack when the cache was pruned
        if shard is None:
            self.refresh()
            shard = self._find(key)
        return shard

    def _find(self, key: str) -> Shard | None:
        packs = self._by_key.get(key, [])
        for pack in list(packs):
            try:
                return pack.read(key)
            except (OSError, ValueError) as error:
                if not isinstance(error, FileNotFoundError):
                    _name_once(pack.path, pack.time, f"is damaged ({error}) and will be rebuilt")
                with contextlib.suppress(ValueError):  # another thread was first
                    packs.remove(pack)
        return None

    def are_whole(self, keys: Iterable[str]) -> list[bool]:
        """Returns for each key whether the directory has a whole shard of it."""
        self.refresh()
        keys = list(keys)
        unique_keys = list(dict.fromkeys(keys))  # many epochs may share a shard
        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            shards = dict(zip(unique_keys, threads.map(self._find, unique_keys)))
        return [shards[key] is not None for key in keys]

    def packs(self) -> list[Pack]:
        """Returns all packs that are whole, the newest first."""
        self.refresh()
        return [self._packs[name] for name in sorted(self._packs, reverse=True)]

    def unfinished(self) -> list[pathlib.Path]:
        """Returns the files that no reader uses and no process writes: unfinished or damaged."""
        self.refresh()
        return [
            path for path in self._files() if path.name not in self._packs and is_abandoned(path)
        ]

    def refresh(self) -> None:
        """Reads the index of each pack that has come since, and forgets those that are gone."""
        files = {path.name: path for path in self._files()}
        packs = {name: pack for name, pack in self._packs.items() if name in files}
        new = map(_open, [path for name, path in files.items() if name not in packs])
        packs |= {pack.path.name: pack for pack in new if pack is not None}
        if packs.keys() == self._packs.keys():
            return
        by_key: dict[str, list[Pack]] = {}
        for name in sorted(packs, reverse=True):
            for key in packs[name].index:
                by_key.setdefault(key, []).append(packs[name])
        # whole: batches are read in a thread of their own
        self._packs, self._by_key = packs, by_key

    def _files(self) -> list[pathlib.Path]:
        try:
            return [
                self.directory / name
                for name in os.listdir(self.directory)
                if name.endswith(SUFFIX)
            ]
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            file = next(p for p in (self.directory, *self.directory.parents) if p.exists())
            raise UserError(
                f"the token cache cannot lie below {file}, which is a file; set CACHE_DIR to a "
                f"directory."
            ) from error
        except OSError as error:
            raise UserError(
                f"the token cache in {self.directory} cannot be read ({error.strerror}); set "
                "CACHE_DIR to a directory you can read."
            ) from error


class PackWriter:
    """Writes shards into packs of a directory, inside a `with`.

    What was added is kept however the block ends.

    Attributes:
      written: the packs that are closed.
    """

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.written: list[pathlib.Path] = []
        self._file = None
        self._index: dict[str, dict[str, Any]] = {}
        self._began, self._opened = time.monotonic(), 0.0

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def add(self, shard: Shard) -> None:
        """Adds a shard.

        Raises:
          UserError: if it cannot be written; the shards of the open pack are then lost.
        """
        with self._writing():
            if self._file is None:
                self.directory.mkdir(parents=True, exist_ok=True)
                self._path, self._index, self._opened = (
                    self.directory / _new_name(),
                    {},
                    time.monotonic(),
                )
                _OPEN.add(self._path)
                self._file = open(self._path, "xb")  # noqa: SIM115 (closed by `close`)
                self._file.write(_MAGIC)
            self._index[shard.key] = {
                "meta": shard.meta,
                "arrays": {name: self._write(a) for name, a in shard.arrays.items()},
            }
            now = time.monotonic()
            old = now - self._opened > max(_MOST_SECONDS, _MOST_PART * (now - self._began))
        if old or self._file.tell() > _MOST_BYTES:
            self.close()

    def close(self) -> None:
        """Writes index and footer, with which the shards of the open pack can be found."""
        if self._file is None:
            return
        index = json.dumps(self._index, ensure_ascii=False).encode()
        with self._writing():
            self._file.write(index + _FOOTER.pack(len(index), _digest_bytes(index), _MAGIC))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            _OPEN.discard(self._path)
            self.written.append(self._path)

    def _write(self, array: np.ndarray) -> list[Any]:
        array = np.ascontiguousarray(array)
        begin = -(-self._file.tell() // _ALIGNMENT) * _ALIGNMENT
        self._file.seek(begin)
        self._file.write(array.data.cast("B") if array.size else b"")
        return [array.dtype.str, list(array.shape), begin, _digest(array)]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._file is not None:
                file, self._file = self._file, None
                _OPEN.discard(self._path)
                with contextlib.suppress(OSError):
                    file.close()
                with contextlib.suppress(OSError):
                    self._path.unlink()
            raise _cannot_write(self.directory, error) from error


def check_writable(directory: pathlib.Path) -> None:
    """Makes a directory if it does not exist, and checks that packs can be written to it.

    Raises:
      UserError: if they cannot.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise _cannot_write(directory, error) from error


def _cannot_write(directory: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write the token cache in {directory} ({error.strerror}); make room there, or set "
        "CACHE_DIR to a directory you can write to."
    )


def is_abandoned(path: pathlib.Path) -> bool:
    """Returns whether no process writes an unfinished file any more.

    Its process on this host has ended, or another host has not written to it for an hour.
    """
    without_random_part = path.name.removesuffix(SUFFIX).rpartition("-")[0]
    host, _, process = without_random_part.partition(".")[2].rpartition("-")
    if host == socket.gethostname() and process.isdigit():
        if int(process) == os.getpid():
            return path not in _OPEN
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # it is a process of another user
        return False
    try:
        return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
    except OSError:
        return False


def _new_name() -> str:
    """'TIME.HOST-PROCESS-RANDOM.pack': names sort by time."""
    return (
        f"{time.time_ns():020d}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{SUFFIX}"
    )


def _open(path: pathlib.Path) -> Pack | None:
    """A pack with its index; None if it is not finished, or damaged (which is logged once)."""
    try:
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
            file.seek(max(state.st_size - _FOOTER.size, 0))
            length, checksum, magic = _FOOTER.unpack(file.read())
            if magic != _MAGIC:
                raise ValueError("it has no footer")
            file.seek(state.st_size - _FOOTER.size - length)
            index = file.read(length)
            if _digest_bytes(index) != checksum:
                raise ValueError("its index is altered")
            return Pack(path, state.st_size, state.st_mtime_ns, json.loads(index))
    except (OSError, ValueError, struct.error) as error:
        if not isinstance(error, FileNotFoundError) and is_abandoned(path):
            _name_once(
                path, 0, f"is damaged or was not finished ({error}); what it held will be rebuilt"
            )
        return None


def _name_once(path: pathlib.Path, moment: int, what: str) -> None:
    if (str(path), moment) not in _NAMED:
        _NAMED.add((str(path), moment))
        _log.warning("token cache: %s %s", path, what)


def _digest(array: np.ndarray) -> str:
    return _digest_bytes(np.ascontiguousarray(array).data.cast("B") if array.size else b"").hex()


def _digest_bytes(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
