"""Digests of large files, kept from one start to the next: gigabytes of rows are read once.

A file is taken to be the same while size, times and inode are; what was changed in the last seconds
is read again, since a file system's clock may be coarse.
"""

from __future__ import annotations

import json
import os
import pathlib
import time

from flan_jax.errors import UserError
from flan_jax.storage.files import read_json, write_file
from flan_jax.storage.hashing import file_digest, stable_hash
from flan_jax.storage.mirror import DEFAULT_CACHE

_LARGE = 2**20  # bytes; a smaller file is read faster than its record
_SETTLED_S = 3.0


def known_file_digest(path: pathlib.Path) -> str:
    """Returns `hashing.file_digest` of a file, from its record if the file has not changed since.

    Raises:
      OSError: if the file cannot be read.
    """
    status = os.stat(path)
    if status.st_size < _LARGE:
        return file_digest(path)
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    record = _directory() / f"{stable_hash(os.path.realpath(path)):032x}.json"
    before = _read(record)
    if before.get("stamp") == stamp:
        return before["digest"]
    digest = file_digest(path)
    if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED_S:
        try:
            record.parent.mkdir(parents=True, exist_ok=True)
            write_file(record, json.dumps({"stamp": stamp, "digest": digest, "path": str(path)}))
        except (OSError, UserError):
            pass  # a home that cannot be written: the file is read again next time
    return digest


def _directory() -> pathlib.Path:
    return pathlib.Path(DEFAULT_CACHE).expanduser() / "digests"


def _read(record: pathlib.Path) -> dict:
    try:
        return read_json(record) if record.is_file() else {}
    except UserError:
        return {}
