"""Macros: what sets and reads them, the fields that declare them, and the checks of both."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gin
from gin import config as gin_config
from gin import config_parser

from flan_jax.config import gin_registry, run_directory
from flan_jax.config.checks import quoted
from flan_jax.config.gin_parsing import Delegate
from flan_jax.config.gin_search import DEFAULT_GIN_FILE, is_default_gin_file, shipped_directory
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest

# Macro -> function of its value to the settings that it stands for, by their names in gin.
_EXPANSIONS: dict[str, Callable[[Any], Mapping[str, Any]]] = {}


def expands(macro: str) -> Callable:
    """Returns a decorator: where a macro is set, the settings that the function returns are, too.

    It is as if a file with these settings were included there: what is set later wins.
    """

    def register(function: Callable[[Any], Mapping[str, Any]]) -> Callable:
        _EXPANSIONS[macro] = function
        return function

    return register


def is_expanded(macro: str) -> bool:
    """Returns whether a macro stands for other settings."""
    return macro in _EXPANSIONS


def with_expanded_first(text: str) -> str:
    """Returns gin's text of a configuration with the macros that set others before these.

    So a copy of a run's config.gin, which sets them again, ends with the values of the run.
    """
    for name in _EXPANSIONS:
        for line in re.findall(rf"(?m)^{name} = (?:\\\n *)?.*\n", text):
            text = line + text.replace(line, "", 1)
    return text


@dataclasses.dataclass
class Reading:
    """What has been read of a configuration so far.

    Attributes:
      search_paths: the directories of --gin_search_paths.
      fields: macro -> (selector, field) of each setting that declares it.
      set_at: macro -> the place that set it last.
      set_in_files: the macros that a gin file sets.
      read_at: macro -> the first place that reads it.
      including: the files being read, the outermost first.
    """

    search_paths: Sequence[str]
    fields: dict[str, list[tuple[str, str]]] = dataclasses.field(default_factory=dict)
    set_at: dict[str, str] = dataclasses.field(default_factory=dict)
    set_in_files: set[str] = dataclasses.field(default_factory=set)
    read_at: dict[str, str] = dataclasses.field(default_factory=dict)
    including: list[pathlib.Path] = dataclasses.field(default_factory=list)


# A parameter in config.gin of runs of 0.1.0 -> its name now, and what True and False are now.
_RENAMED = {("Train", "tensorboard"): ("tracker", {True: "tensorboard", False: None})}


def bind(
    reading: Reading, scope: str, selector: str, parameter: str, value: Any, place: str
) -> None:
    """Sets a macro or a parameter of a configurable, and notes which macros its value reads.

    Args:
      reading: where that is noted.
      scope: of the name, empty for none.
      selector: the macro, or the configurable.
      parameter: empty for a macro.
      value: as gin's parser returns it.
      place: file and line, or argument, for messages.

    Raises:
      UserError: for a name that no configurable has.
    """
    for name in gin_registry.macros_read(value):
        reading.read_at.setdefault(name, place)
    if not parameter:
        name = macro_name(scope, selector)
        _check_reset(reading, name, value, place)
        _set_macro(reading, name, value, place)
        _expand(reading, name, value, place)
        return
    if (selector, parameter) in _RENAMED and isinstance(value, bool):
        parameter, values = _RENAMED[selector, parameter]
        value = values[value]
    problem = gin_registry.unknown_configurable(selector) or gin_registry.unknown_parameter(
        selector, parameter
    )
    if problem:
        raise UserError(f"{place}: {problem}")
    gin.bind_parameter((scope, selector, parameter), value)


def _set_macro(reading: Reading, name: str, value: Any, place: str) -> None:
    """Sets a macro, and binds its fields to it.

    gin/flan.gin binds the fields of what it sets whenever it is read, as lines at its end would.
    Any other place binds those that have no value yet.
    """
    in_default_run = _is_in_default_run(reading)
    for selector, field in reading.fields.get(name, ()):
        if in_default_run or not gin_registry.is_bound(selector, field):
            gin.bind_parameter(("", selector, field), Delegate().macro(name))
            reading.read_at.setdefault(name, place)
    reading.set_at[name] = place
    gin.bind_parameter((name, "gin.macro", "value"), value)


def _check_reset(reading: Reading, name: str, value: Any, place: str) -> None:
    """Checks that a macro that set others is not taken back: these would stay as it set them.

    Raises:
      UserError: if it is; gin/flan.gin, which sets the others too, may.
    """
    before = gin_registry.bound_value(name, "gin.macro", "value")
    if not is_expanded(name) or value is not None or before is None or _is_in_default_run(reading):
        return
    raise UserError(
        f"{place}: {name}=None does not undo {name}={quoted(before)} of {reading.set_at[name]}, "
        f"which set the fields of its model; leave that line out, or give another {name}."
    )


def _is_in_default_run(reading: Reading) -> bool:
    return bool(reading.including) and is_default_gin_file(reading.including[-1])


def _expand(reading: Reading, name: str, value: Any, place: str) -> None:
    """Sets what a macro stands for; a run's own config.gin has all of that."""
    file = reading.including[-1] if reading.including else None
    if not is_expanded(name) or value is None or (file and run_directory.home_of(file)):
        return
    for key, implied in _EXPANSIONS[name](value).items():
        bind(reading, *config_parser.parse_binding_key(key), implied, place)


def macro_name(scope: str, selector: str) -> str:
    """Returns the name of a macro that is written with or without a scope."""
    return f"{scope}/{selector}" if scope else selector


def check_macros(reading: Reading, may_be_unread: frozenset[str]) -> None:
    """Checks that each macro is both set and read, and that what is required is given.

    Raises:
      UserError: for the first that is not.
    """
    known = {*reading.set_in_files, *reading.read_at, *reading.fields, *may_be_unread}
    for name, place in reading.set_at.items():
        if name not in reading.read_at and name not in may_be_unread:
            raise UserError(f"{place}: {_unread(name, known, reading.set_in_files)}")
    for name, place in reading.read_at.items():
        if name not in reading.set_at:
            near = nearest(name, reading.set_at)
            hint = f"; did you mean %{near}? If not," if near else ";"
            raise UserError(
                f"{place}: {name} is read here but set nowhere{hint} add --gin.{name}=VALUE."
            )
    for (scope, selector), values in gin_config._CONFIG.items():
        for parameter, value in values.items():
            if repr(value) == "%gin.REQUIRED":
                name = _written_name(scope, selector, parameter)
                raise UserError(f"{name} is required; add --gin.{name}=VALUE.")


def _unread(name: str, known: set[str], set_in_files: set[str]) -> str:
    """Returns what is wrong with a macro that is set and never read."""
    if name in set_in_files:
        otherwise = (
            f"; give --gin_file={DEFAULT_GIN_FILE} before it."
            if _shipped_files_set(name)
            else "; delete it."
        )
        hint = did_you_mean(nearest(name, known - {name}), otherwise)
        return f"{name} is set but nothing reads it{hint}"
    near = nearest(name, known)
    if near is None:
        settable = [
            f"{item.name}.{parameter}"
            for item in gin_registry.configurables().values()
            for parameter in gin_registry.parameters(item) or ()
        ]
        near = next((setting for setting in settable if setting.endswith(f".{name}")), None)
    return f"no setting is called {quoted(name)}{did_you_mean(near and f'--gin.{near}')}"


def _shipped_files_set(name: str) -> bool:
    """Returns whether the default run, or a size that it may include, sets a macro."""
    line = re.compile(rf"^{re.escape(name)} = ", re.M)
    files = [shipped_directory() / "flan.gin", *shipped_directory().glob("size/*.gin")]
    return any(line.search(path.read_text(encoding="utf-8")) for path in files)


def check_values() -> None:
    """Checks for what no setting of this project can be, and macros that read one another.

    A function or a class is never a value of these settings, and they are read outside any scope.

    Raises:
      UserError: for the first of these.
    """
    # Macros first: a message about a circle names the macros alone.
    places = sorted(gin_config._CONFIG, key=lambda place: place[1] != "gin.macro")
    for scope, selector in places:
        is_ours = selector.startswith("flan_jax.")
        for parameter, value in gin_config._CONFIG[scope, selector].items():
            name = _written_name(scope, selector, parameter)
            references = _references(name, value)
            if is_ours and scope:
                raise UserError(
                    f"{scope}/{name} is set in a scope, and nothing reads it there; set {name}."
                )
            if is_ours and references:
                raise UserError(f"{name} must be a plain value, not {references[0]!r}.")


def _written_name(scope: str, selector: str, parameter: str) -> str:
    """Returns how users write the name of what gin keeps in a place."""
    return scope if selector == "gin.macro" else f"{selector.rsplit('.', 1)[-1]}.{parameter}"


def _references(name: str, value: Any, macros: tuple[str, ...] = ()) -> list[Any]:
    """Returns the references to functions and classes in a value, also those in its macros."""
    references = []
    for reference in gin_config.iterate_references([value]):
        if reference.selector != "gin.macro":
            references.append(reference)
            continue
        macro = "/".join(reference.scopes)
        if macro in macros or macro == name:
            raise UserError(
                f"{macro} is set to itself, by way of "
                f"{', '.join(map('%{}'.format, macros)) or name}; give it a value."
            )
        inner = gin_registry.bound_value(macro, "gin.macro", "value")
        references += _references(name, inner, (*macros, macro))
    return references


def forget_overridden(may_be_unread: Iterable[str]) -> None:
    """Drops the macros that no setting reads anymore because another value replaced `%NAME`."""
    config = gin_config._CONFIG
    macros = {scope for scope, selector in config if selector == "gin.macro"}
    values = {place: value for place, value in config.items() if place[1] != "gin.macro"}
    todo = [*may_be_unread, *gin_registry.macros_read(values)]
    live: set[str] = set()
    while todo:
        name = todo.pop()
        if name in macros and name not in live:
            live.add(name)
            todo.extend(gin_registry.macros_read(config[name, "gin.macro"]))
    for name in macros - live:
        del config[name, "gin.macro"]
