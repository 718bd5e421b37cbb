"""The settings of a call: keyword arguments as gin has them, for as long as the call takes."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flan_jax.config import gin_files, gin_state
from flan_jax.config.checks import quoted
from flan_jax.config.declared_settings import declared_settings
from flan_jax.config.gin_search import DEFAULT_GIN_FILE
from flan_jax.errors import UserError, message_of
from flan_jax.messages import did_you_mean, nearest


@dataclasses.dataclass(frozen=True)
class Configuration:
    """gin files and settings, as a command line has them.

    Attributes:
      files: names of gin files.
      bindings: (name, text of the value) of each setting; of one name the last counts.
    """

    files: tuple[str, ...] = (DEFAULT_GIN_FILE,)
    bindings: tuple[tuple[str, str], ...] = ()

    def with_settings(
        self, caller: str, settings: Mapping[str, Any], given: Mapping[str, Any] | None = None
    ) -> Configuration:
        """Returns the configuration with more settings.

        Args:
          caller: the function whose arguments they are, for messages.
          settings: values by name in lower case, such as `learning_rate`, or by OWNER.FIELD.
          given: those that arguments of the function with other names stand for.

        Raises:
          UserError: for a name that no setting has, a value that is not a plain one, or a setting
            that is given, too.
        """
        given = given or {}
        names = _names() if settings or given else {}
        added = []
        for name, value in {**given, **settings}.items():
            if name not in names:
                near = nearest(name, names)
                raise UserError(f"{caller}() has no argument {quoted(name)}{did_you_mean(near)}")
            added.append((names[name], _text(name, value)))
        _check_given_once(caller, settings, given)
        return self.and_bindings(added)

    def and_bindings(self, bindings: Iterable[tuple[str, str]]) -> Configuration:
        """Returns the configuration with more bindings, which take precedence."""
        by_name = dict(self.bindings)
        for name, text in bindings:
            by_name.pop(name, None)
            by_name[name] = text
        return dataclasses.replace(self, bindings=tuple(by_name.items()))

    def and_file(self, name: str) -> Configuration:
        """Returns the configuration with one more gin file, after the others."""
        return dataclasses.replace(self, files=(*self.files, name))

    @contextlib.contextmanager
    def applied(self) -> Iterator[list[str]]:
        """Within it gin has these settings alone; the program's own are back afterwards.

        Yields:
          The arguments that configure another process in the same way.

        Raises:
          UserError: for settings that are not valid, and where a program that the block ran failed.
        """
        _import_declarations()
        with gin_state.put_aside():
            try:
                arguments = gin_files.configure(self.files, self.bindings)
                # The preparation of the data, in another process, logs as this one.
                is_quiet = logging.getLogger("flan_jax").getEffectiveLevel() > logging.INFO
                yield [*arguments, f"--log_level={'warning' if is_quiet else 'info'}"]
            except UserError as error:
                if message_of(error) == str(error):
                    raise
                raise UserError(message_of(error)) from None
            except SystemExit as end:  # of the preparation of the data, which has printed why
                raise UserError(
                    f"the data could not be prepared (flan-jax prepare ended with {end.code}); "
                    "what it printed says why."
                ) from None


def _names() -> dict[str, str]:
    """Names of settings as arguments have them -> as gin has them."""
    _import_declarations()
    names = {}
    for declared in declared_settings(gin_files.CONFIGURED):
        if declared.owner != "Sweep":
            names[declared.parameter] = declared.parameter
            if declared.setting.macro:
                names[declared.setting.macro.lower()] = declared.setting.macro
    return names


def _check_given_once(caller: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises a UserError if a setting is one of those that are given, under any of its names."""
    parameters = {other: _parameters(other) for other in given}
    for name, value in settings.items() if given else ():
        own = _parameters(name)
        for other in given:
            if own & parameters[other]:
                raise UserError(
                    f"{caller}() has {name}={quoted(value)} beside another argument that sets "
                    f"{other}={quoted(given[other])}; give one of the two."
                )


def _parameters(name: str) -> set[str]:
    """What a setting of this name sets in gin, as OWNER.FIELD."""
    return {
        declared.parameter
        for declared in declared_settings(gin_files.CONFIGURED)
        if name in (declared.parameter, (declared.setting.macro or "").lower())
    }


def _import_declarations() -> None:
    for module in gin_files.CONFIGURED:
        importlib.import_module(module)


def _text(name: str, value: Any) -> str:
    """The text of a value in gin.

    Raises:
      UserError: if it is not a plain one.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    text = repr(value)
    try:
        is_plain = ast.literal_eval(text) == value
    except (ValueError, SyntaxError):
        is_plain = False
    if not is_plain:
        raise UserError(
            f"{name}={quoted(value)} is not a plain value; give a number, a text, True, False, "
            "None, or a list or a dict of them."
        )
    return text
