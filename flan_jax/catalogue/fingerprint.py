"""What decides the results of a function, as text for the keys of caches.

That is the source of its module, of the modules that this one imports as far as they decide what a
row reads as, and the values that the function holds.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import json
import pathlib
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flan_jax.catalogue.records import Dataset
from flan_jax.errors import UserError

# The modules that make an example of a row, and choose which row: part of the key of every shard.
# Others of the package check, store or report, and a change of them leaves the examples as they
# are.
RENDERING_MODULES = (
    "flan_jax.catalogue.render",
    "flan_jax.catalogue.row_fields",
    "flan_jax.data.chat.dialogues",
    "flan_jax.data.chat.segments",
    "flan_jax.data.encode",
    "flan_jax.data.exemplars",
    "flan_jax.data.rows",
    "flan_jax.data.sources.slices",
    "flan_jax.storage.hashing",
)
# Helpers of row functions, which users import, too.
_ROW_HELPERS = "flan_jax.tasks."
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


def rendering_source() -> str:
    """Returns the text of `RENDERING_MODULES`."""
    return "".join(_text_of(_file_of(name)) for name in RENDERING_MODULES)


def source_of(function: Callable) -> str:
    """Returns the text of the module that defines a function or class, and of what it imports.

    Imports are followed to files in the folder of the module that has them, to `flan_jax.tasks`
    and to `RENDERING_MODULES`.

    Raises:
      OSError, TypeError: if the function is not defined in a file.
    """
    module = inspect.getmodule(function)
    path = pathlib.Path(getattr(module, "__file__", None) or "")
    if path.suffix != ".py" or not path.is_file():
        return inspect.getsource(function)
    texts: dict[pathlib.Path, str] = {}
    waiting = [path]
    while waiting:
        path = waiting.pop()
        if path not in texts:
            texts[path] = _text_of(path)
            waiting += _followed(path, _imported(texts[path]))
    return "".join(texts[path] for path in sorted(texts, key=lambda path: (path.name, path)))


def _followed(path: pathlib.Path, names: Iterable[str]) -> Iterable[pathlib.Path]:
    """The files behind imported names: those beside the module, and those of flan_jax."""
    for name in names:
        beside = path.with_name(f"{name.rpartition('.')[2]}.py")
        if beside.is_file():
            yield beside
        elif name in RENDERING_MODULES or name.startswith(_ROW_HELPERS):
            file = _file_of(name)
            if file is not None:
                yield file


def _file_of(name: str) -> pathlib.Path | None:
    """The file of a module of flan_jax; None if there is no such module."""
    module = sys.modules.get(name)
    try:
        spec = importlib.util.find_spec(name) if module is None else module.__spec__
    except ModuleNotFoundError:  # a function of a module
        return None
    return None if spec is None or spec.origin is None else pathlib.Path(spec.origin)


def source_of_row(dataset: Dataset) -> str:
    """Returns the Python text that decides the fields of a row; part of the key of a shard.

    It is `source_of` the row function, or the name of a built-in one (`dict`); of a
    functools.partial, also its arguments.

    Raises:
      UserError: if the function is not defined in a file.
    """
    function, given = dataset.row, []
    while isinstance(function, functools.partial):
        given.append(
            code_of([function.args, function.keywords], f"the row function of {dataset.name}")
        )
        function = function.func
    if getattr(function, "__module__", None) == "builtins":
        return function.__qualname__ + (json.dumps(given) if given else "")
    try:
        return source_of(function) + (json.dumps(given) if given else "")
    except (OSError, TypeError) as error:  # raised by inspect for code in no file
        raise UserError(
            f"the row function of {dataset.name} is not defined in a file, so the token cache "
            "cannot detect a change of it; define it in a module."
        ) from error


def code_of(value: Any, owner: str, within: tuple[Any, ...] = ()) -> Any:
    """Returns what decides a value as JSON: the text of functions, and the values that they hold.

    It is the same in every process.

    Args:
      value: a function, an argument of one, or both in containers.
      owner: what has the value, for the error.
      within: the values that contain it.

    Raises:
      UserError: for an object whose repr has no more than its address in memory.
    """
    if any(value is other for other in within):
        return "itself"
    code = functools.partial(code_of, owner=owner, within=(*within, value))
    value = inspect.unwrap(value) if callable(value) else value
    if isinstance(value, functools.partial):
        return [code(value.func), code(value.args), code(value.keywords)]
    if isinstance(value, Mapping):
        return sorted([str(key), code(item)] for key, item in value.items())
    if isinstance(value, list | tuple):
        return [code(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(code(item)) for item in value)
    if callable(value):
        return [
            getattr(value, "__qualname__", type(value).__qualname__),
            _known_source(value),
            *map(code, _held_by(value)),
        ]
    text = str(value) if _ADDRESS.search(repr(value)) else repr(value)
    if _ADDRESS.search(text):
        raise UserError(
            f"{owner} holds {text}, which cannot be compared between processes; give its class a "
            "__repr__ that has what decides its results, or use plain values."
        )
    return text


def _held_by(function: Callable) -> list[Any]:
    """The values that a function, a method or a callable object has besides its text."""
    if isinstance(function, type):
        return []
    closure = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    held = [
        closure,
        *(getattr(function, name, None) for name in ("__defaults__", "__kwdefaults__", "__self__")),
    ]
    return held if hasattr(function, "__qualname__") else [vars(function)]


def _known_source(function: Callable) -> str:
    try:
        return source_of(function if hasattr(function, "__qualname__") else type(function))
    except (OSError, TypeError):  # built in, or defined in an interactive session
        return ""


def _text_of(path: pathlib.Path) -> str:
    with tokenize.open(path) as file:
        return file.read()


@functools.cache
def _imported(text: str) -> frozenset[str]:
    """The dotted names that a module imports or imports from; relative ones as they are written."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {module, *(f"{module}.{alias.name}".lstrip(".") for alias in node.names)}
    return frozenset(names - {""})
