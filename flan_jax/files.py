"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import uuid

from flan_jax.errors import UserError


def write_file(path: str | pathlib.Path, contents: bytes | str) -> None:
    """Writes a file, text as UTF-8, whole or not at all, into a directory that is made if need be.

    Raises:
      UserError: if it cannot be written; what was there before is left as it was.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path} ({error.strerror}); make room there, or give a directory you can write "
                        "to.") from error
