"""Directories of runs and results: made where they can be written, and kept by one program."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

from flan_jax.checkpoints import bucket_clients
from flan_jax.errors import UserError
from flan_jax.evaluation.concurrent_results import MERGES
from flan_jax.parallel import processes
from flan_jax.storage.locks import locked
from flan_jax.storage.places import place
from flan_jax.storage.working_copy import open_copy, working_copy_of


@contextlib.contextmanager
def alone(directory: pathlib.Path, name: str, purpose: str) -> Iterator[None]:
    """Keeps a second program like this one out of a directory while the block runs.

    Process 0 locks for all processes of a run.

    Args:
      directory: of the run or of its results.
      name: of the lock file in it.
      purpose: what this program does, for the message of the other one.

    Raises:
      UserError: on all processes, if another program works there; and if the directory is removed
        meanwhile.
    """
    with contextlib.ExitStack() as stack:
        in_use = None
        copy = working_copy_of(directory)
        if processes.index_and_count()[0] == 0:
            try:
                lock = locked(directory / name, purpose)
                stack.enter_context(copy.locked(name, purpose) if copy else lock)
            except UserError as error:
                in_use = error
        if copy is not None:
            processes.wait_for_all(f"the lock {name}")  # process 0 may wait for its last holder
        if processes.any_of_all(in_use is not None):
            raise in_use or UserError(f"process 0 cannot use {directory}; its log says why.")
        if copy is not None:
            copy.fetch()  # by all processes: what the last holder of the lock has left
        removed = UserError(
            f"{directory} was removed while {purpose} worked in it: what was saved there is lost; "
            "the same command does it again."
        )
        # false in a bucket, and where hosts do not share the directory, as `Checkpoints` reports
        is_here = (directory / name).exists()
        try:
            yield
        except Exception as error:
            # Whatever failed first, the removal is the cause.
            if is_here and not (directory / name).exists():
                raise removed from error
            raise
        if is_here and not (directory / name).exists():
            raise removed


def make_directory(name: str, setting: str = "MODEL_DIR") -> pathlib.Path:
    """Returns the directory of a run or of results; makes it and checks that it can be written.

    Of a directory in a bucket it is the working copy (`storage/working_copy.py`).

    Args:
      name: of the directory.
      setting: or flag that gives it, for the message.

    Raises:
      UserError: if it cannot be written.
    """
    directory = directory_of(name, setting)
    if working_copy_of(directory) is not None:
        return directory  # `check_bucket` has checked it
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise UserError(
            f"{setting} {name!r} cannot be written ({error.strerror}); give another directory."
        ) from error
    return directory


def check_bucket(name: str, setting: str, trains: bool) -> None:
    """Checks that a directory in a bucket can be written; returns at once for one on the disk.

    Args:
      name: of the directory.
      setting: or flag that gives it, for the message.
      trains: whether checkpoints are written there, too.

    Raises:
      UserError: if it cannot, the bucket does not exist, or a package is missing.
    """
    directory = place(name, setting)
    if isinstance(directory, pathlib.Path):
        return
    if trains:
        bucket_clients.set_up(directory, setting)
    if processes.index_and_count()[0] == 0:
        directory.check_writable()


def directory_of(name: str | os.PathLike, setting: str = "MODEL_DIR") -> pathlib.Path:
    """Returns the directory of a run or of results; of one in a bucket, its working copy.

    Args:
      name: of the directory.
      setting: or flag that gives it, for the message.

    Raises:
      UserError: if it is not a valid name.
    """
    directory = place(name, setting)
    return directory if isinstance(directory, pathlib.Path) else open_copy(directory, MERGES).local


def fetch(*directories: pathlib.Path) -> None:
    """Fetches the small files of directories in a bucket into their working copies.

    Raises:
      UserError: if the bucket cannot be read.
    """
    for directory in directories:
        copy = working_copy_of(directory)
        if copy is not None:
            copy.fetch()


@contextlib.contextmanager
def uploading(directory: pathlib.Path) -> Iterator[None]:
    """Uploads what changes in a working copy of a bucket while the block runs; see `WorkingCopy`.

    The first process uploads. Nothing happens for a directory of the disk.

    Raises:
      UserError: if what the block has written cannot be uploaded.
    """
    copy = working_copy_of(directory)
    if copy is None or processes.index_and_count()[0] > 0:
        yield
        return
    with copy.uploading():
        yield


def may_save(directory: pathlib.Path) -> bool:
    """Returns whether a checkpoint may be saved: once its metrics and results are in the bucket.

    All processes must call it. On the disk they are.

    Raises:
      UserError: see `WorkingCopy.before_checkpoint`.
    """
    copy = working_copy_of(directory)
    if copy is None:
        return True
    is_first = processes.index_and_count()[0] == 0
    return not processes.any_of_all(is_first and not copy.before_checkpoint())
