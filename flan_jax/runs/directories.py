"""Directories of runs and results: made where they can be written, and kept by one program."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

from flan_jax.errors import UserError
from flan_jax.parallel import processes
from flan_jax.storage.locks import locked
from flan_jax.storage.paths import local_path


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
        if processes.index_and_count()[0] == 0:
            try:
                stack.enter_context(locked(directory / name, purpose))
            except UserError as error:
                in_use = error
        if processes.any_of_all(in_use is not None):
            raise in_use or UserError(f"process 0 cannot use {directory}; its log says why.")
        removed = UserError(
            f"{directory} was removed while {purpose} worked in it: what was saved there is lost; "
            "the same command does it again."
        )
        # false where hosts do not share the directory; `Checkpoints` reports that
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

    Args:
      name: of the directory.
      setting: or flag that gives it, for the message.

    Raises:
      UserError: if it cannot be written, or is a URL.
    """
    directory = local_path(name, setting)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise UserError(
            f"{setting} {name!r} cannot be written ({error.strerror}); give another directory."
        ) from error
    return directory
