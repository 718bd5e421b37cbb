"""Where gin files are found: as given, in search paths, beside an include, among the shipped."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from flan_jax.config.checks import quoted
from flan_jax.errors import NotHere
from flan_jax.messages import did_you_mean, nearest

DEFAULT_GIN_FILE = "gin/flan.gin"


def find_gin_file(
    name: str, search_paths: Sequence[str] = (), beside: pathlib.Path | None = None
) -> pathlib.Path:
    """Returns the path of a gin file.

    Args:
      name: the path or the name that a user wrote.
      search_paths: the directories of --gin_search_paths.
      beside: the directory of the file that includes it.

    Raises:
      NotHere: if it is not in the working directory, in these, or among the shipped ones.
    """
    shipped, name = shipped_directory(), os.path.expanduser(name)
    places = [pathlib.Path(), *map(pathlib.Path, search_paths)]
    places += [beside, shipped] if beside else [shipped]
    for path in (*(place / name for place in places), shipped / name.removeprefix("gin/")):
        if path.is_file():
            return path
    names = ["gin/" + str(path.relative_to(shipped)) for path in sorted(shipped.rglob("*.gin"))]
    near = nearest(name, [*names, *(shipped_name.removeprefix("gin/") for shipped_name in names)])
    raise NotHere(
        f"gin file {quoted(name)} is not in {', '.join(str(place.absolute()) for place in places)}"
        f"{did_you_mean(near)}"
    )


def shipped_directory() -> pathlib.Path:
    """Returns the directory of the gin files that come with flan_jax, installed or checked out."""
    package = pathlib.Path(__file__).parents[1]
    installed = package / "gin"
    return installed if installed.is_dir() else package.parent / "gin"


def is_default_gin_file(path: pathlib.Path) -> bool:
    """Returns whether a gin file is the shipped `DEFAULT_GIN_FILE`."""
    shipped = shipped_directory() / pathlib.Path(DEFAULT_GIN_FILE).name
    return path.name == shipped.name and path.resolve() == shipped.resolve()
