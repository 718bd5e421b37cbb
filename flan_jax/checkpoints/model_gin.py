"""The size of a model as gin text, and the fields of a model from a checkpoint's gin file."""

from __future__ import annotations

import dataclasses
import pathlib
import tokenize
from collections.abc import Mapping
from typing import Any

from gin import config_parser

from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.models.architectures import ARCHITECTURES, architecture_of, model_fields
from flan_jax.storage.files import readable

_GIN_FILES = ("model.gin", "config.gin")


def gin_text(config: Any, name: str) -> str:
    """Returns a gin file with the size of a model, to be given after `gin/flan.gin`.

    Args:
      config: the `T5Config` or `DecoderConfig`.
      name: SIZE, the model's name in results.
    """
    architecture = architecture_of(config)
    lines = [
        f"# The size of the converted model {name}.",
        "# Command: flan-jax train --gin_file=gin/flan.gin --gin_file=<here>/model.gin "
        "--gin.INITIAL_CHECKPOINT_PATH=<here>",
        "",
    ]
    for field, default in model_fields(architecture).items():
        value = getattr(config, field)
        value = dict(value) if isinstance(value, Mapping) else value
        if default is not dataclasses.MISSING and value == default:
            continue
        if field == "decoder_start_id":  # batches need it, too
            lines.append(f"DECODER_START_ID = {value!r}")
            value = _Reference("DECODER_START_ID")
        lines.append(f"{type(config).__name__}.{field} = {value!r}")
    lines += [
        f"Train.embedding_rows = {config.vocab_size}",
        "",
        f"ARCHITECTURE = {architecture!r}",
        f"SIZE = {name!r}",
        "",
    ]
    return "\n".join(lines)


def fields_beside(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns `read_fields` of the gin file of a checkpoint; empty where there is none.

    Raises:
      UserError: if it is not a gin file.
    """
    file = file_beside(path)
    return read_fields(file) if file else {}


def file_beside(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the nearest `model.gin` or `config.gin` of a checkpoint, at most two levels above."""
    directories = (path, *path.absolute().parents[:2])
    files = (directory / name for directory in directories for name in _GIN_FILES)
    return next((file for file in files if file.is_file()), None)


def read_fields(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the fields of a model that a gin file binds, by architecture and name.

    They are bound to literals, or to macros that the file sets: fields that say what a model
    computes, and `dropout_rate`, which an export has too. A run's `config.gin` has the fields of
    both architectures.

    Raises:
      UserError: if it is not a gin file.
    """
    macros, bound = _read(path)
    fields: dict[str, dict[str, Any]] = {architecture: {} for architecture in ARCHITECTURES}
    for (architecture, name), value in bound.items():
        value = _resolve(value, macros)
        if not isinstance(value, _Reference):
            fields[architecture][name] = tuple(value) if isinstance(value, list) else value
    return fields


def read_macros(path: pathlib.Path) -> dict[str, Any]:
    """Returns the macros that a gin file sets to literals, e.g. `TRAIN_STEPS`.

    Raises:
      UserError: if it is not a gin file.
    """
    macros, _ = _read(path)
    resolved = {name: _resolve(value, macros) for name, value in macros.items()}
    return {name: value for name, value in resolved.items() if not isinstance(value, _Reference)}


def _read(path: pathlib.Path) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    """(macros, fields by architecture and name) of a file, of T5X's too.

    Nothing is imported, and gin's own state stays as it is.
    """
    macros: dict[str, Any] = {}
    bound: dict[tuple[str, str], Any] = {}
    try:
        with readable(path, "correct it, or copy it again"):
            text = path.read_text(encoding="utf-8")
            for statement in config_parser.ConfigParser(text, _Literals()):
                if isinstance(statement, config_parser.BindingStatement):
                    _add_binding(statement, macros, bound)
    except (SyntaxError, tokenize.TokenError) as error:
        raise UserError(
            f"{shown(path)} is not readable as gin ({shown(str(error).splitlines()[0])})."
        ) from None
    return macros, bound


def _add_binding(statement: Any, macros: dict[str, Any], bound: dict[tuple[str, str], Any]) -> None:
    if not statement.arg_name:
        macros[statement.selector] = statement.value
        return
    class_name = statement.selector.rsplit(".", 1)[-1]
    for architecture, record in ARCHITECTURES.items():
        names = (*model_fields(architecture), "dropout_rate")
        if class_name == record.config.__name__ and statement.arg_name in names:
            bound[architecture, statement.arg_name] = statement.value


class _Reference:
    """`%NAME` or `@name` in a gin file."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"%{self.name}"


class _Literals(config_parser.ParserDelegate):
    """Keeps references as they are instead of resolving them."""

    def configurable_reference(self, scoped_name: str, evaluate: bool) -> _Reference:
        return _Reference(scoped_name)

    def macro(self, name: str) -> _Reference:
        return _Reference(name)


def _resolve(value: Any, macros: dict[str, Any]) -> Any:
    seen = set()
    while isinstance(value, _Reference) and value.name in macros and value.name not in seen:
        seen.add(value.name)
        value = macros[value.name]
    return value
