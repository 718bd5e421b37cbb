"""The size of a model as gin text, and the way back: the fields of `parameters.FIELDS` from a run's
`config.gin`.
"""

from __future__ import annotations

import pathlib
import tokenize
from typing import Any

from gin import config_parser

from flan_jax.checkpoints.parameters import DEFAULTS, FIELDS
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import readable

CONFIG_CLASS = {"t5": "T5Config", "decoder": "DecoderConfig"}
_MODEL = {name: model for model, name in CONFIG_CLASS.items()}
_GIN_FILES = ("model.gin", "config.gin")


def gin_text(model: str, fields: dict[str, Any], name: str) -> str:
    """A gin file with the size of a model, to be given after `gin/flan.gin`; `name` goes into
    results as its size.
    """
    lines = [
        f"# The size of the converted model {name}.",
        "# Command: flan-jax train --gin_file=gin/flan.gin --gin_file=<here>/model.gin "
        "--gin.INITIAL_CHECKPOINT_PATH=<here>",
        "",
    ]
    for field in FIELDS[model]:
        value = fields.get(field, DEFAULTS[model].get(field))
        if field in DEFAULTS[model] and value == DEFAULTS[model][field]:
            continue
        if field == "decoder_start_id":  # batches need it, too
            lines.append(f"DECODER_START_ID = {value!r}")
            value = _Reference("DECODER_START_ID")
        lines.append(f"{CONFIG_CLASS[model]}.{field} = {value!r}")
    rows = [f"Train.embedding_rows = {fields['vocab_size']}"] if "vocab_size" in fields else []
    return "\n".join([*lines, *rows, "", f"ARCHITECTURE = {model!r}", f"SIZE = {name!r}", ""])


def fields_beside(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """What `read_fields` gives of the gin file of a checkpoint; empty where there is none."""
    file = file_beside(path)
    return read_fields(file) if file else {}


def file_beside(path: pathlib.Path) -> pathlib.Path | None:
    """The nearest `model.gin` or `config.gin` of a checkpoint, in `path` or up to two above, or
    None.
    """
    directories = (path, *path.absolute().parents[:2])
    files = (directory / name for directory in directories for name in _GIN_FILES)
    return next((file for file in files if file.is_file()), None)


def read_fields(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Model ('t5', 'decoder') -> the fields of its class that a gin file binds to literals or to
    macros that it sets.

    They are those of `FIELDS`, and `dropout_rate`, which an export says too. A run's `config.gin`
    has both classes, whichever of them it trained.

    Raises:
      UserError: if it is no gin file.
    """
    macros, bound = _read(path)
    fields: dict[str, dict[str, Any]] = {model: {} for model in FIELDS}
    for (model, name), value in bound.items():
        value = _resolve(value, macros)
        if not isinstance(value, _Reference):
            fields[model][name] = tuple(value) if isinstance(value, list) else value
    return fields


def read_macros(path: pathlib.Path) -> dict[str, Any]:
    """The macros that a gin file sets, e.g. `TRAIN_STEPS`.

    Raises:
      UserError: if it is no gin file.
    """
    macros, _ = _read(path)
    resolved = {name: _resolve(value, macros) for name, value in macros.items()}
    return {name: value for name, value in resolved.items() if not isinstance(value, _Reference)}


def _read(path: pathlib.Path) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    """(macros, fields by model and name) of a file, of T5X's too; it imports nothing and leaves
    gin's own state alone.

    Raises:
      UserError: if it is no gin file.
    """
    macros: dict[str, Any] = {}
    bound: dict[tuple[str, str], Any] = {}
    try:
        with readable(path, "correct it, or copy it again"):
            for statement in config_parser.ConfigParser(
                path.read_text(encoding="utf-8"), _Literals()
            ):
                if not isinstance(statement, config_parser.BindingStatement):
                    continue
                model, parameter = (
                    _MODEL.get(statement.selector.rsplit(".", 1)[-1]),
                    statement.arg_name,
                )
                if not parameter:
                    macros[statement.selector] = statement.value
                elif model and parameter in (*FIELDS[model], "dropout_rate"):
                    bound[model, parameter] = statement.value
    except (SyntaxError, tokenize.TokenError) as error:
        raise UserError(
            f"{shown(path)} is not readable as gin ({shown(str(error).splitlines()[0])})."
        ) from None
    return macros, bound


class _Reference:
    """`%NAME` or `@name` in a gin file."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"%{self.name}"


class _Literals(config_parser.ParserDelegate):
    """Leaves references alone instead of looking them up."""

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
