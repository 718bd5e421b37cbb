"""Whether a checkpoint is of a model: names and shapes of tensors, and what no shape shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flan_jax.checkpoints.model_config import Shapes, infer_sizes
from flan_jax.errors import UserError
from flan_jax.messages import listed, shown
from flan_jax.models.architectures import architecture_of, model_fields

_MOST_LISTED = 60  # tensors in a message
# Fields that may differ between tuning and evaluation with the same parameters, and the number of
# key and value heads, where None and the number of heads are the same.
_MAY_DIFFER = ("prefix", "rope_scaling", "num_kv_heads")


def check_tensors(
    stored: Shapes, expected: Shapes, path: object, advice: str, list_all: bool = False
) -> None:
    """Compares the shapes of a checkpoint's tensors, by name, with those that its model has.

    Args:
      stored: shapes in the checkpoint.
      expected: shapes that the configuration gives.
      path: the checkpoint, for messages.
      advice: the end of the message.
      list_all: name the tensors one a line, 60 at most, instead of three in one sentence.

    Raises:
      UserError: which sizes differ, and which tensors are missing, unexpected or of another shape.
    """
    lines = _differences(stored, expected)
    if not lines:
        return
    most = _MOST_LISTED if list_all else 3
    more = [f"and {len(lines) - most:,} more"] if len(lines) > most else []
    listed = [*(shown(line) for line in lines[:most]), *more]
    start = f"the checkpoint {shown(path)} does not match the model"
    if list_all:
        raise UserError("\n  ".join([f"{start}; {advice}", *listed]))
    reason = "; ".join([*_differing_sizes(stored, expected), *listed])
    raise UserError(f"{start}: {reason}; {advice}")


def check_added(stored: Shapes, expected: Shapes, path: object) -> None:
    """Checks that what a run added to a model fits the model.

    Args:
      stored: shapes of what it trained, by name.
      expected: shapes that the model has.
      path: the checkpoint, for messages.

    Raises:
      UserError: which arrays have no place, or another shape.
    """
    modules = {name.rpartition("/")[0] for name in expected}
    wrong = [
        name
        for name, shape in stored.items()
        if name.rpartition("/")[0] not in modules
        or (name in expected and tuple(expected[name]) != tuple(shape))
    ]
    if wrong:
        raise UserError(
            f"the checkpoint {shown(path)} has {listed(wrong)}, which the model has no place for; "
            "give the gin files it was trained with."
        )


def _differences(stored: Shapes, expected: Shapes) -> list[str]:
    lines = [f"missing: {name}" for name in expected if name not in stored]
    lines += [f"unexpected: {name}" for name in stored if name not in expected]
    for name, shape in expected.items():
        if name in stored and tuple(stored[name]) != tuple(shape):
            in_checkpoint, in_config = tuple(stored[name]), tuple(shape)
            lines.append(f"{name}: {in_checkpoint} in the checkpoint, {in_config} in the config")
    return lines


def _differing(name: str, in_checkpoint: object, in_config: object) -> str:
    return f"{name} is {in_checkpoint} in the checkpoint, {in_config} in the config"


def _differing_sizes(stored: Shapes, expected: Shapes) -> list[str]:
    """'emb_dim is 128 in the checkpoint, 256 in the config', where both are models here."""
    (architecture, sizes), (wanted, wanted_sizes) = infer_sizes(stored), infer_sizes(expected)
    if not (architecture and wanted):
        return []
    if architecture != wanted:
        return [_differing("ARCHITECTURE", repr(architecture), repr(wanted))]
    return [
        _differing(name, sizes[name], size)
        for name, size in wanted_sizes.items()
        if sizes.get(name, size) != size
    ]


def advice_on(stored: Shapes, expected: Shapes) -> str:
    """Returns what to do about shapes that differ.

    Often only the embedding has more rows than the vocabulary needs, and a setting says how many.
    """
    (architecture, sizes), (wanted, wanted_sizes) = infer_sizes(stored), infer_sizes(expected)
    rows, rows_here = sizes.pop("vocab_size", 0), wanted_sizes.pop("vocab_size", 0)
    if architecture != wanted or sizes != wanted_sizes or rows == rows_here:
        return "give the gin files it was trained with, or another checkpoint."
    if rows > rows_here:
        return (
            "its embedding has more rows than VOCABULARY needs: add "
            f"--gin.Train.embedding_rows={rows}, or give the VOCABULARY it was trained with."
        )
    return "its embedding has fewer rows: give the VOCABULARY it was trained with."


def check_same_model(known: Mapping[str, Any], config: Any, path: object) -> None:
    """Compares the fields that a checkpoint's own files have with those of a model.

    Args:
      known: fields by name, from the checkpoint's files.
      config: the model's `T5Config` or `DecoderConfig`.
      path: the checkpoint, for messages.

    Raises:
      UserError: if one differs that a checkpoint cannot be used without.
    """
    compared = [
        name
        for name in model_fields(architecture_of(config))
        if name in known and name not in _MAY_DIFFER
    ]
    differing = [name for name in compared if _plain(getattr(config, name)) != _plain(known[name])]
    if not differing:
        return
    values = ", ".join(
        _differing(name, shown(known[name]), shown(_plain(getattr(config, name))))
        for name in differing
    )
    setting = f"{type(config).__name__}.{differing[0]}"
    if differing == ["decoder_start_id"]:
        setting = "DECODER_START_ID"
    raise UserError(
        f"the checkpoint {shown(path)} does not match the model: {values}; give its own model.gin "
        f"or config.gin, or set --gin.{setting}."
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return tuple(value) if isinstance(value, list) else value
