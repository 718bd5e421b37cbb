"""What decides a function's results, as text for the keys of caches: its source, what it imports,
what it is given.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import pathlib
import re
import tokenize
from collections.abc import Callable, Mapping
from typing import Any

from flan_jax.catalogue.records import Dataset
from flan_jax.errors import UserError

_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


def source_of(function: Callable) -> str:
    """The text of the file that defines a function or class, and of the files beside it that this
    one imports.
    """
    module = inspect.getmodule(function)
    path = pathlib.Path(getattr(module, "__file__", None) or "")
    if path.suffix != ".py" or not path.is_file():
        return inspect.getsource(function)
    texts, waiting = {}, [path]
    while waiting:
        path = waiting.pop()
        texts[path.stem] = _text_of(path)
        beside = {path.with_name(f"{name}.py") for name in _imported(texts[path.stem])}
        waiting += [other for other in beside if other.stem not in texts and other.is_file()]
    return "".join(texts[name] for name in sorted(texts))


def source_of_row(dataset: Dataset) -> str:
    """The Python text that decides what becomes of a row; part of the cache's key.

    It is that of `source_of` the row function, of one that is built in (`dict`) its name; of a
    functools.partial, also the arguments.

    Raises:
      UserError: if the function is in no file.
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
    except (OSError, TypeError) as error:  # what inspect raises for code that was typed in
        raise UserError(
            f"the row function of {dataset.name} is in no file, so that nobody can say whether "
            "cached rows are its own; define it in a module."
        ) from error


def code_of(value: Any, owner: str, within: tuple[Any, ...] = ()) -> Any:
    """What decides a value, JSON-able and the same in every process: the text of functions, with
    what they hold.

    Args:
      value: a function, a value that it is given, or both in containers.
      owner: what has the value, for the error.
      within: the values that hold it.

    Raises:
      UserError: for an object that says of itself no more than where it lies in memory.
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
            f"{owner} holds {text}, of which nobody can say in another process whether it is the "
            "same; give its class a __repr__ that says what decides its results, or use plain "
            "values."
        )
    return text


def _held_by(function: Callable) -> list[Any]:
    """The values that a function, a method or an object that can be called has besides its text."""
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
    except (OSError, TypeError):  # built in, or typed in by hand
        return ""


def _text_of(path: pathlib.Path) -> str:
    with tokenize.open(path) as file:
        return file.read()


@functools.cache
def _imported(text: str) -> frozenset[str]:
    """The last parts of the names that a module imports or imports from."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.name.split(".")[-1] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[-1])
    return frozenset(names)
