"""Paths that users and checkpoints name: local paths, and none that leads out of a checkpoint."""

from __future__ import annotations

import os
import pathlib
import re

from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import readable

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
    if url and url[1].lower() in ("gs", "s3"):
        raise UserError(
            f"{setting} {shown(name)} is a URL of a bucket, and must be on a disk of this machine; "
            "copy it, or give another path."
        )
    if url:
        raise UserError(
            f"{setting} {shown(name)} is a URL, and {url[1]}:// is not supported; give a path, or "
            "copy the files to gs:// or s3://."
        )
    if not name or "\0" in name:
        raise UserError(f"{setting} {shown(repr(name))} is not a valid path.")
    try:
        return pathlib.Path(name).expanduser()
    except RuntimeError as error:  # `~name` of a user who does not exist
        raise UserError(f"{setting} {shown(name)}: {shown(error)}; give the full path.") from error


def short_path(path: str | os.PathLike) -> str:
    """Returns a path for readers: relative to the working directory if it is below it."""
    path = pathlib.Path(path)
    here = pathlib.Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def inside(directory: pathlib.Path, name: object, named_by: object) -> pathlib.Path:
    """Returns the path of a file below `directory`, by a name that a file of the directory has.

    A checkpoint is downloaded: no name and no link in it may lead to other files of this machine.
    Hugging Face's cache is an exception: `snapshots/<revision>/<file>` is a link to
    `blobs/<digest>`, and so are large files that releases of huggingface_hub before 0.23 downloaded
    with `--local-dir`.

    Args:
      directory: the directory of a checkpoint.
      name: the name, relative to the directory.
      named_by: the file that has the name, for the message.

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
