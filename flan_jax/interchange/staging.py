"""What is written appears whole or not at all: a hidden directory beside the output, renamed at the end."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from flan_jax.errors import UserError


@contextlib.contextmanager
def staged(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives an empty directory to write into, which becomes `output` when the block ends without an error.

    Raises:
      UserError: if `output` is there already and not empty, or cannot be written.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"--output={output} is there already; give a directory that is not, or remove it.")
    partial = output.absolute().parent / f".{output.name}.incomplete-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written ({error.strerror}); give another directory.") from error
    try:
        yield partial
        partial.replace(output.absolute())
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
