"""What is written appears whole or not at all: a hidden directory beside the output, renamed at the
end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import NO_ROOM

_PARTIAL = re.compile(r"\..+\.incomplete-(\d+)")


@contextlib.contextmanager
def staged(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives an empty directory to write into, which becomes `output` when the block ends without an
    error.

    What processes that were killed left of such directories in the same place is removed first.

    Raises:
      UserError: if `output` is there already and not empty, or cannot be written.
    """
    with _writing(output):
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise UserError(
                f"--output={shown(output)} is there already; give a directory that is not, or "
                f"remove it."
            )
        place = output.absolute().parent
        place.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(place)
        partial = place / f".{output.name}.incomplete-{os.getpid()}"
        partial.mkdir()
    lock = _lock(partial)
    try:
        with _writing(output):
            yield partial
            partial.replace(output.absolute())
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        _release(lock)


@contextlib.contextmanager
def _writing(output: pathlib.Path) -> Iterator[None]:
    """Turns what the file system and TensorStore raise for files that cannot be written into one
    message.

    Damage to what is read is a UserError already.
    """
    try:
        yield
    except (UserError, BrokenPipeError):  # the latter is of whoever reads the standard output
        raise
    except Exception as error:
        found = NO_ROOM.search(str(error))
        if not (isinstance(error, OSError) or found):
            raise
        reason = found.group() if found else getattr(error, "strerror", None) or error
        raise UserError(
            f"--output={shown(output)} cannot be written ({shown(reason)}); make room there, or "
            "give another directory."
        ) from error


def _remove_abandoned(place: pathlib.Path) -> None:
    for path in place.glob(".*.incomplete-*"):
        match = _PARTIAL.fullmatch(path.name)
        if match and not _is_alive(int(match[1])) and path.is_dir() and not path.is_symlink():
            lock = _lock(path)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
            _release(lock)


def _is_alive(number: int) -> bool:
    """Whether another process of this host has the number; of this process's own number one before
    it was killed.
    """
    if number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def _lock(directory: pathlib.Path) -> int | None:
    """Returns a descriptor that holds a lock on a directory, or None.

    A process on another host, the number of which means nothing here, may be writing there. Network
    file systems that do not lock directories are as if one were: nothing is removed.
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


def _release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
