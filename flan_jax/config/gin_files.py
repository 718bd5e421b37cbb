"""The settings of a run from gin files and arguments, as in T5X; a misspelled name is an error.

A run is `--gin_file=F` (any number, later ones win) and then `--gin.NAME=value`, where NAME is a
macro such as `HELD_OUT` or a parameter such as `T5Config.emb_dim`. gin-config parses the statements
and holds the values; this module applies files and arguments in their order, binds each macro to
the fields that declare it, and turns every mistake into a clear message with its place.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import gin
from gin import config_parser

from flan_jax.config import gin_macros, gin_registry, run_directory
from flan_jax.config.checks import quoted
from flan_jax.config.declared_settings import current_values, declared_settings
from flan_jax.config.flags import ArgumentParser, add_gin_flags
from flan_jax.config.gin_macros import Reading
from flan_jax.config.gin_parsing import argument_value, split_bindings, statements
from flan_jax.config.gin_search import DEFAULT_GIN_FILE, find_gin_file
from flan_jax.config.settings_help import settings_help
from flan_jax.errors import UserError
from flan_jax.storage.copies import origin
from flan_jax.storage.places import is_remote

# The modules that import what declares a run's settings; those of training too, since the same
# files configure every verb.
CONFIGURED = (
    "flan_jax.data.config",
    "flan_jax.training.config",
    "flan_jax.peft.config",
    "flan_jax.optim.make",
    "flan_jax.models.architectures",
    "flan_jax.checkpoints.model_by_name",
    "flan_jax.sweeps.grid",
)


def parse_command_line(
    argv: Sequence[str],
    modules: Iterable[str],
    parser: argparse.ArgumentParser | None = None,
    may_be_unread: Iterable[str] = (),
) -> argparse.Namespace:
    """Configures the process from a command line, replacing what was configured before.

    Args:
      argv: the arguments, e.g. `['--gin_file=gin/flan.gin', '--gin.HELD_OUT=nli']`; `--x y` is
        `--x=y`.
      modules: names of the modules that register what gin files may name; imported once the files
        are found. Macros set the declared settings of their packages.
      parser: takes the verb's own flags; `--gin_file` and `--gin_search_paths` are added to it.
      may_be_unread: macros that no gin file has to read, e.g. because the program reads them with
        `macro`.

    Returns:
      The parsed flags: `gin_file` (list of str), `gin_search_paths` (list of str) and those of
      `parser`; and `gin_arguments`, the arguments that configure another process in the same way.

    Raises:
      UserError: a file that is not there, a syntax error, a value that cannot be read, or a name
        that nothing reads, that nothing sets, or that no configurable has.
    """
    modules = list(modules)
    bindings, rest = split_bindings(argv)
    flags = _parse_flags(rest, parser or ArgumentParser(), modules)
    model = getattr(flags, "model", None)
    if model is not None:
        bindings.insert(0, ("MODEL", model))
    flags.gin_arguments = configure(
        flags.gin_file, bindings, modules, flags.gin_search_paths, may_be_unread
    )
    if model is not None and flags.checkpoint is None:
        flags.checkpoint = macro("INITIAL_CHECKPOINT_PATH")
    if hasattr(flags, "log_level"):
        flags.gin_arguments.append(f"--log_level={flags.log_level}")
    return flags


def configure(
    files: Iterable[str],
    bindings: Sequence[tuple[str, str]],
    modules: Iterable[str] = CONFIGURED,
    search_paths: Sequence[str] = (),
    may_be_unread: Iterable[str] = (),
) -> list[str]:
    """Configures the process from gin files and settings, replacing what was configured before.

    Args:
      files: names of gin files.
      bindings: (name, text of the value) of each setting, such as ('HELD_OUT', 'nli').
      modules: as in `parse_command_line`.
      search_paths: the directories of --gin_search_paths.
      may_be_unread: as in `parse_command_line`.

    Returns:
      The arguments that configure another process in the same way.

    Raises:
      UserError: as `parse_command_line`.
    """
    modules, may_be_unread = list(modules), frozenset(may_be_unread)
    paths = [find_gin_file(name, search_paths) for name in files]
    for module in modules:
        importlib.import_module(module)
    gin.clear_config()
    reading = Reading(search_paths, _fields_by_macro(modules))
    for path in paths:
        _read_file(path, reading)
        if home := run_directory.home_of(path):
            gin.bind_parameter(gin_registry.place_of_value("Train.model_dir"), home)
    # What a macro stands for comes first: any other argument goes before it.
    for name, text in sorted(bindings, key=lambda binding: not gin_macros.is_expanded(binding[0])):
        place = f"--gin.{name}"
        key, value = config_parser.parse_binding_key(name), argument_value(place, text)
        gin_macros.bind(reading, *key, value, place)
    gin_macros.check_macros(reading, may_be_unread)
    gin_macros.check_values()
    gin_macros.forget_overridden(may_be_unread)
    arguments = [f"--gin_file={origin(path) or path}" for path in paths]
    if search_paths:
        arguments.append(f"--gin_search_paths={','.join(search_paths)}")
    return arguments + [f"--gin.{name}={text}" for name, text in bindings]


def _parse_flags(
    arguments: Sequence[str], parser: argparse.ArgumentParser, modules: Sequence[str]
) -> argparse.Namespace:
    """Returns the flags, with the config.gin of RUN_DIR among the gin files.

    Raises:
      UserError: if there is no gin file, or a search path is not a directory.
    """
    add_gin_flags(parser)
    if {"-h", "--help"} & set(arguments):
        for module in modules:
            importlib.import_module(module)
        parser.epilog = settings_help(modules)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
    flags = parser.parse_intermixed_args(arguments)
    run_directory.add_config_of_run(flags)
    if not flags.gin_file:
        raise UserError(f"no --gin_file given; --gin_file={DEFAULT_GIN_FILE} is the default run.")
    for name in flags.gin_search_paths:
        if not is_remote(name) and not pathlib.Path(name).is_dir():
            raise UserError(
                f"--gin_search_paths: {quoted(name)} is not a directory; give directories, with "
                "commas between."
            )
    return flags


def _fields_by_macro(modules: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Returns macro -> (selector, field) of each setting that declares it."""
    fields: dict[str, list[tuple[str, str]]] = {}
    for declared in declared_settings(modules):
        if declared.setting.macro:
            place = (declared.selector, declared.field)
            fields.setdefault(declared.setting.macro, []).append(place)
    return fields


def _read_file(path: pathlib.Path, reading: Reading) -> None:
    """Applies the statements of a file and of those that it includes."""
    if path in reading.including:
        raise UserError(
            f"{path} includes itself, by way of {' and '.join(map(str, reading.including))}; "
            "take one include out."
        )
    reading.including.append(path)
    for line, statement in statements(path):
        place = f"{path}:{line}"
        if isinstance(statement, config_parser.BindingStatement):
            scope, selector, parameter = statement.scope, statement.selector, statement.arg_name
            gin_macros.bind(reading, scope, selector, parameter, statement.value, place)
            if not parameter:
                reading.set_in_files.add(gin_macros.macro_name(scope, selector))
        elif isinstance(statement, config_parser.IncludeStatement):
            try:
                included = find_gin_file(statement.filename, reading.search_paths, path.parent)
            except UserError as error:
                raise type(error)(f"{place}: {error}") from None
            _read_file(included, reading)
        elif isinstance(statement, config_parser.ImportStatement):
            _import(statement, place)
    reading.including.pop()


def _import(statement: config_parser.ImportStatement, place: str) -> None:
    if statement.module.startswith("__gin__"):
        raise UserError(
            f"{place}: flan_jax does not use gin's dynamic registration; write `import "
            "your.module` and mark the function with @gin.configurable."
        )
    try:
        gin.parse_config(statement.format())
    except ImportError as error:
        raise UserError(
            f"{place}: cannot import {statement.module} ({str(error).splitlines()[0]})."
        ) from None


def macro(name: str) -> Any:
    """Returns the value of a macro, e.g. `macro('MODEL_DIR')`, with macros inside it filled in.

    Raises:
      UserError: if it is not set.
    """
    try:
        return copy.deepcopy(gin.query_parameter(f"%{name}"))
    except ValueError:
        raise UserError(f"{name} is not set; add --gin.{name}=VALUE.") from None


def settings() -> dict[str, Any]:
    """Returns the settings of a run by name, such as 'HELD_OUT', with their present values."""
    values = current_values(CONFIGURED)
    return {name: value for name, value in values.items() if not name.startswith("Sweep.")}


def config_text() -> str:
    """Returns the configuration as one gin file without includes that repeats the run.

    Macros stay macros, so that `--gin.SEED=2` still works on it; those that an override left unread
    are left out. Paths are absolute, so that it means the same from anywhere.
    """
    for declared in declared_settings():
        place = gin_registry.place_of_value(declared.parameter)
        value = gin_registry.bound_value(*place)
        absolute = declared.setting.with_paths(value, run_directory.absolute)
        if absolute is not value:
            gin.bind_parameter(place, absolute)
    return gin_macros.with_expanded_first(gin.config_str(max_line_length=116))
