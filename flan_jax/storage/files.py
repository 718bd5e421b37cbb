"""Reading and writing small files: whole or not at all, and with a clear message where a file is
damaged.
"""

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

# What file systems and TensorStore say when nothing more can be written.
NO_ROOM = re.compile(
    "No space left|Read-only file system|quota exceeded|File too large", re.IGNORECASE
)

# What parsers raise on a file that is cut short, altered, or holds other types than its format
# says.
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
    """Turns the exceptions that damaged files cause in parsers into one clear message about `what`.

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
        raise ValueError(f"the key {twice!r} stands in it twice")
    return result


_JSON_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
}


# The scheme of a URL. `pathlib` makes one slash of two, so that one is enough.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def local_path(name: str | os.PathLike, setting: str) -> pathlib.Path:
    """Returns the path that a user gave, with `~` replaced by the home directory.

    Without this check `gs://bucket/run` would be a directory `gs:` in the working directory.

    Args:
      name: the path.
      setting: what it was given as, for the message: `MODEL_DIR`, `--output`.

    Raises:
      UserError: for a URL, and for what no path can be: an empty text, or one with a null
        character.
    """
    name = os.fspath(name)
    url = _URL.match(name)
    if url and url[1].lower() == "file":
        raise UserError(
            f"{setting} {shown(name)} is a URL; give the path alone: "
            f"/{name[len(url[0]) :].lstrip('/')}"
        )
    if url:
        raise UserError(
            f"{setting} {shown(name)} is a URL, and {url[1]}:// is not supported yet; mount the "
            "bucket and give the path where it is mounted, or copy the files to a local disk."
        )
    if not name or "\0" in name:
        raise UserError(f"{setting} {shown(repr(name))} is not a valid path.")
    try:
        return pathlib.Path(name).expanduser()
    except RuntimeError as error:  # `~name` of a user who does not exist
        raise UserError(f"{setting} {shown(name)}: {shown(error)}; give the full path.") from error


def inside(directory: pathlib.Path, name: object, named_by: object) -> pathlib.Path:
    """Returns the path of a file below `directory` that a file of it names, or that is looked for
    there.

    A checkpoint is downloaded: no name and no link in it leads to files elsewhere on this machine.
      Hugging Face's cache
    is an exception: `snapshots/<revision>/<file>` is a link to `blobs/<digest>`, and so are large
    files that releases of huggingface_hub before 0.23 downloaded with `--local-dir`.

    Args:
      directory: the directory of a checkpoint.
      name: the name, relative to the directory.
      named_by: what has the name, for the message.

    Raises:
      UserError: if it is not a name, or leads out of the directory.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(
            f"{shown(named_by)} names a file {shown(repr(name))}, which is not a valid name; "
            "download it again."
        )
    root = directory.resolve()
    with readable(directory / name):  # such as a name that is too long
        target = (root / name).resolve()
    places = [
        root,
        *(
            (parent.parent / "blobs").resolve()
            for parent in root.parents
            if parent.name == "snapshots"
        ),
    ]
    lexical = os.path.normpath(os.path.join(root, name))
    is_cached = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    is_inside = is_cached or any(target.is_relative_to(place) for place in places)
    if not is_inside or not pathlib.Path(lexical).is_relative_to(root):
        raise UserError(
            f"{shown(named_by)} leads to {shown(target)}, which is outside of {shown(directory)}; "
            "put a copy of the file into the directory if you trust it."
        )
    return directory / name


def read_json(
    path: str | pathlib.Path,
    kind: type | tuple[type, ...] = dict,
    advice: str = "download or copy it again",
) -> Any:
    """Returns the value of a JSON file; the one reader for JSON that comes from outside the
    process.

    Raises:
      FileNotFoundError: if there is no such file.
      UserError: if it cannot be read; see `parse_json`.
    """
    try:
        contents = pathlib.Path(path).read_bytes()
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
      UserError: if it cannot be written; what was there before is left as it was.
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
