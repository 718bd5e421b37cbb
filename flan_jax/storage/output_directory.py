"""A directory that a verb writes as a whole: it is complete, or does not look so.

On the disk it appears at once. In a bucket nothing can be renamed: its files are written on the
disk first and then uploaded, the ones that tell a reader that something is there last.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

from flan_jax.errors import UserError
from flan_jax.messages import show_as
from flan_jax.storage.atomic_directory import atomic_directory, remove_abandoned
from flan_jax.storage.bucket_errors import bucket_errors
from flan_jax.storage.mirror import cache_of_buckets
from flan_jax.storage.places import Place
from flan_jax.storage.remote import Remote

# In a bucket while the directory is not complete; a process that was killed leaves it behind.
MARKER = ".incomplete"
# Files of so many bytes together are uploaded at the same time; a larger one alone.
_BYTES_AT_ONCE = 256 * 2**20


@contextlib.contextmanager
def output_directory(
    output: Place, setting: str, is_telling: Callable[[str], bool]
) -> Iterator[pathlib.Path]:
    """Yields an empty directory, whose files `output` has when the block ends without an error.

    Args:
      output: a directory that does not exist, is empty, or was not completed.
      setting: what it was given as, for messages: `--output`.
      is_telling: whether readers take a directory with the file of a name for complete.

    Raises:
      UserError: if `output` exists and is not empty, or cannot be written.
    """
    if isinstance(output, pathlib.Path):
        with atomic_directory(output, setting) as directory:
            yield directory
        return
    leftover = output.names()
    if MARKER not in leftover and (leftover or (output.key and output.generation())):
        raise UserError(
            f"{setting}={output} already exists; give a directory that does not, or remove it."
        )
    (output / MARKER).write_bytes("")
    with _staging(output) as directory:
        yield directory
        for name in sorted(leftover, key=is_telling, reverse=True):
            if name != MARKER:
                (output / name).delete()
        _upload(directory, output, is_telling)
    (output / MARKER).delete()


@contextlib.contextmanager
def _staging(output: Remote) -> Iterator[pathlib.Path]:
    """An empty directory on the disk, which is removed afterwards."""
    parent = cache_of_buckets() / "outputs"
    directory = parent / f".{output.name or output.bucket}.incomplete-{os.getpid()}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(parent)
        directory.mkdir()
    except OSError as error:
        raise UserError(
            f"cannot write {directory} ({error.strerror}), where what goes into a bucket is "
            "written first; make room there, or set HOME to another directory."
        ) from error
    show_as(str(directory), str(output))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _upload(directory: pathlib.Path, output: Remote, is_telling: Callable[[str], bool]) -> None:
    """Uploads the files below a directory; those that tell come last, one after the other."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = {path: path.relative_to(directory).as_posix() for path in files}
    group: list[pathlib.Path] = []
    for path in (path for path in files if not is_telling(names[path])):
        if group and sum(each.stat().st_size for each in [*group, path]) > _BYTES_AT_ONCE:
            _write(group, names, output)
            group = []
        group.append(path)
    _write(group, names, output)
    # backwards: parameters come after the state of the optimizer, which may be absent
    for path in reversed([path for path in files if is_telling(names[path])]):
        _write([path], names, output)


def _write(paths: list[pathlib.Path], names: dict[pathlib.Path, str], output: Remote) -> None:
    with bucket_errors(output.scheme, output.bucket, "written"):
        store = output.kvstore()
        for future in [store.write(names[path], path.read_bytes()) for path in paths]:
            future.result()
