"""The modules of users: their tasks (MIXTURE_OR_TASK_MODULE), their tracker (TRACKER)."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import sys
import traceback
import types

from flan_jax.errors import UserError
from flan_jax.storage.hashing import digest
from flan_jax.storage.places import is_remote

# Modules that users imported names from before they moved.
_MOVED = {
    "flan_jax.data.catalogue": "flan_jax.catalogue",
    "flan_jax.data.seqio_tasks": "flan_jax.data.seqio.registration",
}


def import_module(name: str) -> types.ModuleType:
    """Returns a user's module, imported by dotted name or by the path of its file.

    Raises:
      UserError: if there is no such module, or it does not run.
    """
    if is_remote(name):
        raise UserError(
            f"the module {name!r} is in a bucket, from which no code is run; copy it to a disk of "
            "this machine, and give its path."
        )
    path = pathlib.Path(name).expanduser()
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UserError(
            f"no module found at {name!r}; give a module's name or the path of a .py file."
        )
    try:
        return _run_file(path) if is_file else importlib.import_module(name)
    except UserError:
        raise
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing in _MOVED:
            raise UserError(
                f"The module {name!r} imports {missing}, which has moved; import from "
                f"{_MOVED[missing]} instead."
            ) from error
        if missing is not None and not is_file and f"{name}.".startswith(f"{missing}."):
            raise UserError(
                f"The module {name!r} cannot be imported ({error}); give a module on the path, or "
                "the path of a .py file."
            ) from error
        raise UserError(f"The module {name!r} does not run: {_what_and_where(error)}.") from error


def _run_file(path: pathlib.Path) -> types.ModuleType:
    # A name of its own: a file called queue.py must not be taken for the module of that name.
    module_name = f"{path.stem}_{digest(str(path.resolve()))[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[module_name])
    except BaseException:
        del sys.modules[module_name]
        raise
    return sys.modules[module_name]


def _what_and_where(error: Exception) -> str:
    """The error and its place, as the last lines of a traceback have them."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if isinstance(error, SyntaxError) else f" ({last.filename}, line {last.lineno})"
    return f"{type(error).__name__}: {error}{place}"
