"""Names of files and directories that users type: paths on the disk, or objects of a bucket."""

from __future__ import annotations

import os
import pathlib
import re

from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.paths import local_path
from flan_jax.storage.remote import Remote

Place = pathlib.Path | Remote

_URL = re.compile(r"(gs|s3):/{1,2}([^/]*)(.*)", re.IGNORECASE | re.DOTALL)


def is_remote(name: str | os.PathLike) -> bool:
    """Returns whether a text names an object of a bucket, by gs:// or s3://."""
    return isinstance(name, str) and _URL.fullmatch(name) is not None


def place(name: str | Remote | os.PathLike, setting: str) -> Place:
    """Returns what a name that a user gave stands for: the only reader of such names.

    Args:
      name: a path, gs://bucket/name or s3://bucket/name.
      setting: what it was given as, for messages: `MODEL_DIR`, `--output`.

    Returns:
      A `Remote` for a URL of a bucket, else a path, with `~` replaced by the home directory.

    Raises:
      UserError: for URLs of other schemes, URLs with credentials or parameters, and what no path
        can be.
    """
    if isinstance(name, Remote):
        return name
    name = os.fspath(name)
    match = _URL.fullmatch(name)
    if not match:
        return local_path(name, setting)
    scheme, bucket, key = match[1].lower(), match[2], match[3].strip("/")
    if "@" in bucket or ":" in bucket or "?" in name or "#" in bucket:
        # not shown: it may contain a key
        raise UserError(
            f"{setting} is a URL of {scheme}:// with a password or parameters; give "
            f"{scheme}://bucket/name alone: logins come from the environment."
        )
    parts = key.split("/") if key else []
    is_exact = name.startswith(f"{scheme}://")
    if not (bucket and is_exact) or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise UserError(
            f"{setting} {shown(repr(name))} is not a valid name; expected: {scheme}://bucket/name"
        )
    return Remote(scheme, bucket, key)
