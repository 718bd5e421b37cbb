"""A directory that appears complete or not at all: written under a hidden name, then renamed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import NO_ROOM
from flan_jax.storage.locks import lock_directory

_PARTIAL = re.compile(r"\..+\.incomplete-(\d+)")


@contextlib.contextmanager
def atomic_directory(output: pathlib.Path, setting: str) -> Iterator[pathlib.Path]:
    """Yields an empty directory, which becomes `output` when the block ends without an error.

    Such directories of processes that were killed are removed from the same place first.

    Args:
      output: the directory; it does not exist, or is empty.
      setting: what it was given as, for messages: `--output`.

    Raises:
      UserError: if `output` exists and is not empty, or cannot be written.
    """
    with _writing(output, setting):
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise UserError(
                f"{setting}={shown(output)} already exists; give a directory that does not, or "
                "remove it."
            )
        parent = output.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(parent)
        partial = parent / f".{output.name}.incomplete-{os.getpid()}"
        partial.mkdir()
    lock = lock_directory(partial)
    try:
        with _writing(output, setting):
            yield partial
            partial.replace(output.absolute())
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        _release(lock)


@contextlib.contextmanager
def _writing(output: pathlib.Path, setting: str) -> Iterator[None]:
    """Raises one UserError for the errors of files that cannot be written, TensorStore's too.

    Damage to files that are read is a UserError already.
    """
    try:
        yield
    except (UserError, BrokenPipeError):  # the latter is of the reader of the standard output
        raise
    except Exception as error:
        no_room = NO_ROOM.search(str(error))
        if not (isinstance(error, OSError) or no_room):
            raise
        reason = no_room.group() if no_room else getattr(error, "strerror", None) or error
        raise UserError(
            f"{setting}={shown(output)} cannot be written ({shown(reason)}); make room there, or "
            "give another directory."
        ) from error


def remove_abandoned(parent: pathlib.Path) -> None:
    """Removes the hidden directories that processes of this host left when they were killed."""
    for path in parent.glob(".*.incomplete-*"):
        match = _PARTIAL.fullmatch(path.name)
        if match and not is_alive(int(match[1])) and path.is_dir() and not path.is_symlink():
            lock = lock_directory(path)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
            _release(lock)


def is_alive(process: int) -> bool:
    """Returns whether another process of this host has the number.

    A directory with the number of this process is of one before it, which was killed.
    """
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def _release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
