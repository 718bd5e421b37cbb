"""Small files: read with a clear message where one is damaged, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import struct
import uuid
import zlib
from collections.abc import Iterator
from typing import Any

from flan_jax.errors import UserError
from flan_jax.messages import shown

# In errors of file systems and TensorStore when nothing more can be written.
NO_ROOM = re.compile(
    "No space left|Read-only file system|quota exceeded|File too large", re.IGNORECASE
)

# What parsers raise for a file that is truncated, altered, or has other types than its format.
_DAMAGE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
    AssertionError,
    EOFError,
    ArithmeticError,
    SystemError,
    struct.error,
    zlib.error,
)


@contextlib.contextmanager
def readable(what: object, advice: str = "download or copy it again") -> Iterator[None]:
    """Replaces the exceptions that damaged files cause in parsers by one clear message.

    Put as little as possible inside the block: a programming error in it is reported as a damaged
    file, too.

    Args:
      what: the file, or a phrase that names it.
      advice: what to do about it.

    Raises:
      UserError: in place of any of the above, and of an OSError; a UserError passes.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{shown(what)} cannot be read ({error.strerror or shown(error)}); {advice}."
        ) from error
    except _DAMAGE as error:
        raise UserError(f"{shown(what)} is not readable ({_reason(error)}); {advice}.") from error


def _reason(error: BaseException) -> str:
    """What is wrong with a file, from the exception of its parser."""
    # the latter is what C extensions make of the former
    if isinstance(error, (RecursionError, SystemError)):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return "a size in it is too large"
    if isinstance(error, KeyError):
        return f"it lacks {shown(error)}"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    # TensorStore adds the whole specification in brackets.
    text = re.split(r" \[|\n", str(error), maxsplit=1)[0]
    return shown(text) or type(error).__name__


def parse_json(
    text: str | bytes,
    what: object,
    kind: type | tuple[type, ...] = dict,
    advice: str = "download or copy it again",
    unique_keys: bool = False,
) -> Any:
    """Returns the value of a JSON text, UTF-8 where it is bytes.

    Args:
      text: the JSON.
      what: the file, or a phrase that names the place, for messages.
      kind: the type or types that the value may have.
      advice: what to do about a text that is not that.
      unique_keys: refuse objects that have a key twice; otherwise the last one counts.

    Raises:
      UserError: if it is not UTF-8, not JSON, nested too deeply, has a number that Python does not
        read, or is of another type.
    """
    with readable(what, advice):
        value = json.loads(
            text.decode("utf-8-sig") if isinstance(text, bytes) else text,
            object_pairs_hook=_unique if unique_keys else None,
        )
        if not isinstance(value, kind):
            wanted = " or ".join(
                _JSON_NAMES[k] for k in (kind if isinstance(kind, tuple) else (kind,))
            )
            raise ValueError(f"{wanted} was expected, not {_JSON_NAMES.get(type(value), 'null')}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"it has the key {twice!r} twice")
    return result


_JSON_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
}


def read_json(
    path: Any,
    kind: type | tuple[type, ...] = dict,
    advice: str = "download or copy it again",
) -> Any:
    """Returns the value of a JSON file.

    Args:
      path: the file; a path, or what has a `read_bytes` of its own.
      kind: as in `parse_json`.
      advice: as in `parse_json`.

    Raises:
      FileNotFoundError: if it does not exist.
      UserError: if it cannot be read; see `parse_json`.
    """
    try:
        contents = (pathlib.Path(path) if isinstance(path, str) else path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({error.strerror}); {advice}.") from error
    return parse_json(contents, path, kind, advice)


def write_file(path: str | pathlib.Path, contents: bytes | str) -> None:
    """Writes a file, text as UTF-8, whole or not at all, into a directory that is made if need be.

    The contents are on disk (fsync) before the file has its name: a power cut leaves the old file
    or the new one.

    Raises:
      UserError: if it cannot be written; a file of that name stays as it was.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(contents.encode() if isinstance(contents, str) else contents)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"cannot write {path} ({error.strerror}); make room there, or give a directory you can "
            "write to."
        ) from error
