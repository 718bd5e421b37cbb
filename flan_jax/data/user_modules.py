"""The modules of users, in which they register tasks (MIXTURE_OR_TASK_MODULE)."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import sys

from flan_jax.data.hashing import digest
from flan_jax.errors import UserError


def import_module(name: str) -> None:
    """Imports a user's module by dotted name, or by the path of its file.

    Raises:
      UserError: if there is no such module, or it does not run.
    """
    path = pathlib.Path(name).expanduser()
    if path.suffix == ".py":
        if not path.is_file():
            raise UserError(f"The module {name!r} is no file; "
                            "give a module's name or the path of a .py file.")
        # A name of its own: a file called queue.py must not be taken for the module of that name.
        module_name = f"{path.stem}_{digest(str(path.resolve()))[:8]}"
        if module_name in sys.modules:
            return
        spec = importlib.util.spec_from_file_location(module_name, path)
        sys.modules[module_name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[module_name])
        except (ImportError, SyntaxError, NameError, TypeError) as error:
            del sys.modules[module_name]
            raise UserError(f"The module {name!r} does not run: {error}.") from error
        return
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"The module {name!r} cannot be imported ({error}); "
                        "give a module on the path, or the path of a .py file.") from error
    except (SyntaxError, NameError, TypeError) as error:
        raise UserError(f"The module {name!r} does not run: {error}.") from error
