"""Where gin files are found: as given, in search paths, beside an include, among the shipped."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from flan_jax.config.checks import quoted
from flan_jax.errors import NotHere
from flan_jax.messages import did_you_mean, nearest
from flan_jax.storage.copies import fetched, name_of, read_path
from flan_jax.storage.places import is_remote

DEFAULT_GIN_FILE = "gin/flan.gin"


def find_gin_file(
    name: str, search_paths: Sequence[str] = (), beside: pathlib.Path | None = None
) -> pathlib.Path:
    """Returns the path of a gin file; of one in a bucket, that of its copy.

    Args:
      name: the path or the name that a user wrote.
      search_paths: the directories of --gin_search_paths.
      beside: the directory of the file that includes it.

    Raises:
      NotHere: if it is not in the working directory, in these, or among the shipped ones.
    """
    if is_remote(name):
        path = read_path(name, "--gin_file", wanted=_is_gin_file)
        if path.is_file():
            return path
        raise NotHere(f"gin file {quoted(name)} is not in the bucket; correct its name.")
    shipped, name = shipped_directory(), os.path.expanduser(name)
    places = [pathlib.Path(), *(_directory(path) for path in search_paths)]
    places += [beside, shipped] if beside else [shipped]
    for path in (*(place / name for place in places), shipped / name.removeprefix("gin/")):
        if fetched(path).is_file():
            return path
    names = ["gin/" + str(path.relative_to(shipped)) for path in sorted(shipped.rglob("*.gin"))]
    near = nearest(name, [*names, *(shipped_name.removeprefix("gin/") for shipped_name in names)])
    raise NotHere(
        f"gin file {quoted(name)} is not in {', '.join(map(name_of, places))}{did_you_mean(near)}"
    )


def _directory(path: str) -> pathlib.Path:
    """A directory of --gin_search_paths; of one in a bucket, its copy."""
    return read_path(path, "--gin_search_paths", wanted=_is_gin_file)


def _is_gin_file(name: str) -> bool:
    return name.endswith(".gin")


def shipped_directory() -> pathlib.Path:
    """Returns the directory of the gin files that come with flan_jax, installed or checked out."""
    package = pathlib.Path(__file__).parents[1]
    installed = package / "gin"
    return installed if installed.is_dir() else package.parent / "gin"


def is_default_gin_file(path: pathlib.Path) -> bool:
    """Returns whether a gin file is the shipped `DEFAULT_GIN_FILE`."""
    shipped = shipped_directory() / pathlib.Path(DEFAULT_GIN_FILE).name
    return path.name == shipped.name and path.resolve() == shipped.resolve()
