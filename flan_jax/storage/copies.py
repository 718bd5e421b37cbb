"""What is read of a bucket by path: a tree on this machine that is kept like the bucket.

Readers of files keep their paths: `read_path` returns one for any name that a user types. Of a
directory in a bucket only some files are copied, and the others have empty stand-ins: `fetched`
copies one of them, and large arrays are read by ranges from `origin`. Before each use the
generations are compared, so that an object that has changed is copied again.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from flan_jax.errors import UserError
from flan_jax.messages import show_as, shown
from flan_jax.storage.files import write_file
from flan_jax.storage.mirror import cache_of_buckets, copy_object, written
from flan_jax.storage.places import place
from flan_jax.storage.remote import DRIVERS, Remote

_SMALL_SUFFIXES = (".json", ".gin", ".model", ".jinja", ".txt", ".md", ".npy")
_SMALL_NAMES = ("checkpoint", "metrics", "_METADATA", ".zarray")
_AT_ONCE = 16  # objects that are read together
# A copy that another process is writing.
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}")


def read_path(
    name: str | os.PathLike, setting: str, wanted: Callable[[str], bool] = lambda name: True
) -> pathlib.Path:
    """Returns the path of what a user named to be read; of a bucket, that of a copy.

    Nothing is there if the bucket has no such object and none below the name.

    Args:
      name: a path, gs://bucket/name or s3://bucket/name.
      setting: what it was given as, for messages: `DATA_DIR`, `--file`.
      wanted: of a directory in a bucket, whether to copy the file of a name relative to it; the
        others are stand-ins.

    Raises:
      UserError: if it is not a valid name, or the bucket cannot be read.
    """
    there = place(name, setting)
    return there if isinstance(there, pathlib.Path) else copy_of(there, wanted)


def copy_of(remote: Remote, wanted: Callable[[str], bool] = lambda name: True) -> pathlib.Path:
    """Returns the path of the copy of an object, or of those below a name; see `read_path`.

    Raises:
      UserError: if the bucket cannot be read, or the disk not written.
    """
    path, names = path_of(remote), remote.names()
    if not names:
        if path.is_dir():
            shutil.rmtree(path)
        _fetch(remote, path)
        return path
    if path.is_file():
        path.unlink()
    _remove_others(path, set(names))
    for name in names:
        stand_in = path / name
        _check_inside(remote, path, name)
        if not stand_in.exists():
            stand_in.parent.mkdir(parents=True, exist_ok=True)
            stand_in.touch()
    fetch_all(path / name for name in names if wanted(name))
    return path


def fetched(path: pathlib.Path) -> pathlib.Path:
    """Returns a path whose file has its contents: in the copy of a bucket, those of the object."""
    if remote := origin(path):
        _fetch(remote, path)
    return path


def fetch_all(paths: Iterable[pathlib.Path]) -> None:
    """Does as `fetched` for several files at once."""
    _for_copies(fetched, paths)


def read_again(paths: Iterable[pathlib.Path]) -> None:
    """Copies small files that others may replace or delete at any time; see `fetch_all`."""
    _for_copies(_read_again, paths)


def _for_copies(action: Callable[[pathlib.Path], Any], paths: Iterable[pathlib.Path]) -> None:
    """Calls a function for those of the paths that are in the copy of a bucket, several at once."""
    paths = [path for path in paths if origin(path)]
    if not paths:
        return
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(action, paths))


def _read_again(path: pathlib.Path) -> None:
    contents, _ = origin(path).read_version()
    if contents is None:
        with contextlib.suppress(OSError):
            path.unlink()
    elif not path.is_file() or path.read_bytes() != contents:
        write_file(path, contents)


@contextlib.contextmanager
def uploading_changes(
    directory: pathlib.Path, written: Collection[str], last: str
) -> Iterator[None]:
    """Uploads what the block writes below the copy of a directory; nothing on the disk.

    Args:
      directory: the copy, which is made if need be; or another directory.
      written: names of the files and folders in it that the block may write. Others may change
        meanwhile, since another process has fetched them again.
      last: the name of the file that is uploaded when the others are.

    Raises:
      UserError: if the bucket cannot be written.
    """
    remote = origin(directory)
    if remote is None:
        yield
        return
    remote.check_writable()
    directory.mkdir(parents=True, exist_ok=True)
    tops = [directory / name for name in written]
    before = _states(tops)
    yield
    changed = [path for path, state in _states(tops).items() if before.get(path) != state]
    for path in sorted(changed, key=lambda path: path.name == last):
        (remote / path.relative_to(directory).as_posix()).write_bytes(path.read_bytes())


def _states(tops: Iterable[pathlib.Path]) -> dict[pathlib.Path, tuple[int, int]]:
    """What changes with each of some files, and with those of folders."""
    paths = [path for top in tops for path in (top, *top.rglob("*"))]
    stats = {path: path.stat() for path in paths if path.is_file()}
    return {path: (stat.st_mtime_ns, stat.st_ino) for path, stat in stats.items()}


def origin(path: str | os.PathLike) -> Remote | None:
    """Returns what a path is the copy of; None for a path that is in no copy of a bucket."""
    path = pathlib.Path(path)
    root = _root()
    if not path.is_relative_to(root):
        return None
    scheme, bucket, *parts = (*path.relative_to(root).parts, "", "")
    key = "/".join(filter(None, parts))
    return Remote(scheme, bucket, key) if scheme in DRIVERS and bucket else None


def name_of(path: str | os.PathLike) -> str:
    """Returns the name by which another machine finds a path: gs://... of a copy, else absolute."""
    remote = origin(path)
    return str(remote) if remote else str(pathlib.Path(path).absolute())


def is_small(name: str) -> bool:
    """Returns whether a file of a checkpoint is read whole: settings, tokenizers, lists of arrays.

    Args:
      name: of the file.
    """
    last = name.rpartition("/")[2]
    return last in _SMALL_NAMES or os.path.splitext(last)[1] in _SMALL_SUFFIXES


def _root() -> pathlib.Path:
    return _resolved(cache_of_buckets()) / "read"


@functools.lru_cache(maxsize=8)
def _resolved(directory: pathlib.Path) -> pathlib.Path:
    return directory.resolve()


def path_of(remote: Remote) -> pathlib.Path:
    """Returns where the copy of an object, or of what is below a name, lies if there is one."""
    show_as(str(_root() / remote.scheme / remote.bucket), f"{remote.scheme}://{remote.bucket}")
    return _root().joinpath(remote.scheme, remote.bucket, remote.key)


def _record_of(remote: Remote) -> pathlib.Path:
    """The file with the generation of a copy; beside the tree, which has nothing else."""
    below = cache_of_buckets() / "generations" / remote.scheme / remote.bucket
    return below / f"{remote.key}.json"


def _fetch(remote: Remote, path: pathlib.Path) -> None:
    """Copies an object unless the copy has its generation; removes the copy if it is gone."""
    generation, record = remote.generation(), _record_of(remote)
    if generation is None:
        with contextlib.suppress(OSError):  # such as that of a directory
            path.unlink()
        return
    if path.is_file() and _state(path, generation) == _read(record):
        return
    if path.is_dir():
        shutil.rmtree(path)
    with written(path) as file:
        copy_object(remote, file)
    # an object that changed meanwhile has another generation than this, and is copied next time
    write_file(record, json.dumps(_state(path, generation)))


def _state(path: pathlib.Path, generation: bytes) -> list:
    """What is recorded of a copy: its generation, and what shows that the file is still the one."""
    stat = path.stat()
    return [generation.hex(), stat.st_size, stat.st_mtime_ns]


def _read(record: pathlib.Path) -> list | None:
    try:
        return json.loads(record.read_bytes())
    except (OSError, ValueError):
        return None


def _remove_others(path: pathlib.Path, names: set[str]) -> None:
    """Removes the copies of objects that the bucket no longer has."""
    for parent, _, files in os.walk(path):
        for file in files:
            copy = pathlib.Path(parent, file)
            is_there = copy.relative_to(path).as_posix() in names
            if not is_there and not _UNFINISHED.fullmatch(file):
                copy.unlink(missing_ok=True)


def _check_inside(remote: Remote, path: pathlib.Path, name: str) -> None:
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise UserError(f"{remote} has an object named {shown(repr(name))}; remove it.")
