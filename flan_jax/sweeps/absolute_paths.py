"""What a sweep was given, with absolute paths: its runs may start in any directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax.config import run_directory
from flan_jax.config.declared_settings import Declared
from flan_jax.config.gin_parsing import argument_value
from flan_jax.config.gin_search import find_gin_file, shipped_directory
from flan_jax.errors import UserError
from flan_jax.storage.copies import origin
from flan_jax.storage.places import is_remote
from flan_jax.sweeps.grid import setting_arguments


def absolute_gin_file(name: str, search_paths: Sequence[str]) -> str:
    """Returns a gin file by its path; a shipped one, found from anywhere, keeps its name.

    A file that is not found keeps its name, too.

    Args:
      name: as the user typed it.
      search_paths: the directories of --gin_search_paths.
    """
    if is_remote(name):
        return name
    try:
        path = find_gin_file(name, search_paths)
    except UserError:
        return name
    if path.resolve() == (shipped_directory() / name.removeprefix("gin/")).resolve():
        return name
    return run_directory.absolute(str(origin(path) or path))


def absolute_settings(settings: Mapping[str, Any], declared: Sequence[Declared]) -> dict[str, Any]:
    """Returns settings by name with their paths absolute, by what is declared of them."""
    return {name: _absolute_setting(name, value, declared) for name, value in settings.items()}


def absolute_argument(argument: str, declared: Sequence[Declared]) -> str:
    """Returns an argument that configures a run with its paths absolute, likewise."""
    flag, _, text = argument.partition("=")
    if flag == "--gin_file":
        return f"{flag}={run_directory.absolute(text)}"
    if flag == "--gin_search_paths":
        return f"{flag}={','.join(map(run_directory.absolute, text.split(',')))}"
    if not flag.startswith("--gin."):
        return argument
    name, value = flag.removeprefix("--gin."), argument_value(flag, text)
    absolute = _absolute_setting(name, value, declared)
    return argument if absolute == value else setting_arguments({name: absolute})[0]


def _absolute_setting(name: str, value: Any, declared: Sequence[Declared]) -> Any:
    for item in declared:
        if name in (item.name, item.parameter):
            value = item.setting.with_paths(value, _absolute)
    return value


def _absolute(path: str) -> str:
    """A path, absolute; one in the home directory, which is another on each machine, as it is."""
    return path if path.startswith("~") else run_directory.absolute(path)
