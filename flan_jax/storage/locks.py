"""Locks between processes, released by the operating system when their holder ends."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import socket
from collections.abc import Callable, Iterator
from typing import TextIO

from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import read_json

# File systems without locks (some network and FUSE mounts) answer with these.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def locked(path: pathlib.Path, purpose: str) -> Iterator[bool]:
    """Holds the lock file `path` while the block runs.

    The lock is POSIX's (`fcntl.lockf`): it belongs to the process, ends with it however it dies,
    holds across hosts on network file systems that support it, and does not keep a second caller in
    the same process out. The file stays, with its holder or last holder in it.

    Args:
      path: the lock file, made if need be.
      purpose: what the holder does, e.g. 'flan-jax train'.

    Yields:
      Whether the lock is held; False only where the file system has no locks.

    Raises:
      UserError: if another process holds the lock, or the file cannot be written.
    """
    with _open(path) as file:
        is_held = _lock(file, path)
        if is_held:
            _write_holder(file, purpose)
        yield is_held  # closing the file releases the lock


def is_locked(path: pathlib.Path) -> bool:
    """Returns whether another process holds the lock file `path`; see `locked`."""
    if not path.is_file():
        return False
    try:
        with open(path, "a+", encoding="utf-8") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


@contextlib.contextmanager
def alone_in(directory: pathlib.Path) -> Iterator[None]:
    """Waits until no other process or thread is in such a block with the same directory.

    What is read and written again inside loses nothing.

    Args:
      directory: made if need be; the lock is its file `.lock`.

    Raises:
      UserError: if the directory cannot be written.
    """
    with _open(directory / ".lock") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            # Of the open file and not of the process, so that threads wait for each other, too.
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def claimed(
    path: pathlib.Path, names: list[str], purpose: str, waiting: Callable[[str], None]
) -> Iterator[list[str]]:
    """Holds locks on some of the names, at least on one, while the block runs.

    Each name is a byte of one lock file (POSIX's `fcntl.lockf`), so that any number of names costs
    one file. A process that locks some and works on them delays no other: call again for the rest,
    most of which others will have done. One call at a time in a process.

    Args:
      path: the lock file, made if need be.
      names: what to lock.
      purpose: what the holder does, e.g. 'flan-jax prepare'.
      waiting: called with a description of a holder if all names are locked; the call then waits
        for one of them.

    Yields:
      The names that are held; all of them where the file system has no locks.

    Raises:
      UserError: if the file cannot be written.
    """
    with _open(path) as file:
        held = [name for name in names if _lock_byte(file, name, fcntl.LOCK_NB)]
        if not held:
            waiting(_holder(path))
            held = [name for name in names[:1] if _lock_byte(file, name)]
        _write_holder(file, purpose)
        yield held  # closing the file releases the locks


def lock_directory(directory: pathlib.Path) -> int | None:
    """Returns a descriptor that holds a lock on a directory until it is closed, or None.

    None if a process holds the lock, perhaps on another host, and on network file systems that do
    not lock directories.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _open(path: pathlib.Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}); give a directory you can write to."
        ) from error


def _lock(file: TextIO, path: pathlib.Path) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
    raise UserError(
        f"{path.parent} is in use by {_holder(path)}; wait until it ends, or give another "
        "directory."
    )


def _lock_byte(file: TextIO, name: str, flags: int = 0) -> bool:
    byte = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | flags, 1, byte)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno not in _UNSUPPORTED:
            raise
    return True


def _write_holder(file: TextIO, purpose: str) -> None:
    now = datetime.datetime.now().astimezone()
    holder = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "purpose": purpose,
        "since": now.isoformat(timespec="seconds"),
    }
    file.truncate(0)
    file.write(json.dumps(holder))
    file.flush()


def _holder(path: pathlib.Path) -> str:
    """'flan-jax train (process 71 on host a, since 2026-01-01T10:00:00+00:00)', as far as known."""
    try:
        record = read_json(path)
        return shown("{purpose} (process {process} on host {host}, since {since})".format(**record))
    except (OSError, UserError, ValueError, LookupError, TypeError):
        return "another process"
