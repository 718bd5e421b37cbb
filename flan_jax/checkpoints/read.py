"""Opening a checkpoint of whatever form, and its parameters straight onto a mesh, array by
array.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from flan_jax.checkpoints.formats.gguf import is_gguf, open_gguf
from flan_jax.checkpoints.formats.huggingface import is_huggingface, open_huggingface
from flan_jax.checkpoints.formats.ours import open_ours
from flan_jax.checkpoints.formats.t5x import find_t5x, open_t5x
from flan_jax.checkpoints.model_gin import fields_beside, file_beside
from flan_jax.checkpoints.parameters import FIELDS, Shapes, fields_of, sizes_of
from flan_jax.checkpoints.reader import Source, Tensor, check_tensors
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.models.decoder import DecoderConfig
from flan_jax.models.stacking import named
from flan_jax.models.t5 import T5Config
from flan_jax.storage.files import readable
from flan_jax.storage.paths import local_path

FORMS = ("t5x", "hf", "gguf", "flan")
# What the same parameters may be tuned or evaluated with otherwise; heads that default to one
# another.
_MAY_DIFFER = ("prefix", "rope_scaling", "num_kv_heads")
_STACKED = re.compile(r"(.+/)?layers/(.+)")


def open_checkpoint(path, form: str | None = None, step: int | str | None = None) -> Source:
    """The opened checkpoint at `path`; its form (one of FORMS) is told from its files unless it is
    given.

    Of a directory of several it is the one of `step`: a number, 'best' of a run, None for the
    latest. What the shapes of a tree leave open is read from a `model.gin` or `config.gin` beside
    it.

    Raises:
      UserError: if there is none of that form, one that is not whole, or of a model that is neither
        of ours.
    """
    source = _open(path, form, step)
    if source.model is None:
        shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
        source.model, source.fields = fields_of(shapes, fields_beside(source.path), source.path)
    _check_fields(source)
    return source


def _check_fields(source: Source) -> None:
    """Raises UserError for fields that no model can have, or more layers than there are tensors."""
    config = {"t5": T5Config, "decoder": DecoderConfig}[source.model]
    counts = {
        name: source.fields.get(name)
        for name in ("num_layers", "num_encoder_layers", "num_decoder_layers")
    }
    try:
        config(**{**source.fields, "dtype": "float32"})
    except UserError as error:
        raise UserError(
            f"{shown(source.path)}, or the gin file beside it, is not a model of this project: "
            f"{error}"
        ) from error
    for name, count in counts.items():
        if count is not None and count > len(source.tensors):
            raise UserError(
                f"{shown(source.path)} has {len(source.tensors):,} tensors, which cannot be {name} "
                f"{count:,}; put the right config.gin or model.gin beside it."
            )


def _open(path, form: str | None, step: int | str | None) -> Source:
    path = local_path(path, "checkpoint")
    with readable(path):
        exists = path.exists()
    if not exists:
        raise UserError(f"There is no checkpoint at {path}: nothing is there.")
    with readable(path):
        return _open_form(path, form or form_of(path), step)


def _open_form(path: pathlib.Path, form: str, step: int | str | None) -> Source:
    if form in ("gguf", "hf") and step is not None:
        raise UserError(f"{path} is one checkpoint and has no steps; leave --step={step} out.")
    if form == "gguf":
        if not is_gguf(path):
            raise UserError(f"{path} is no GGUF file; give the path of one.")
        return open_gguf(path)
    if form == "hf":
        if not is_huggingface(path):
            raise UserError(
                f"{path} holds no config.json; give the directory of a Hugging Face model."
            )
        return open_huggingface(path)
    if form == "t5x":
        return open_t5x(find_t5x(path, step) or path)
    return open_ours(path, step)


def form_of(path: pathlib.Path) -> str:
    """The form of a checkpoint, told from its files; 'flan' where it is none of the others."""
    with readable(path):
        if is_gguf(path):
            return "gguf"
        if is_huggingface(path):
            return "hf"
        return "t5x" if find_t5x(path) else "flan"


def read_parameters(
    path, abstract: Any, step: int | str | None = None, config: Any = None
) -> tuple[int, Any]:
    """(step, parameters) of a checkpoint of any form, in the shapes, dtypes and shardings of
    `abstract`.

    `abstract` is a tree of ShapeDtypeStructs, its layers stacked or not. Each device's part of an
    array is read when the array is made, so that the host holds one part of one array at a time.

    Raises:
      UserError: as `find_parameters`.
    """
    source, leaves = find_parameters(path, abstract, step, config)
    if jax.process_index() == 0:
        for note in source.notes:
            print(f"note: {note}", flush=True)
    arrays = [
        _make_array(
            leaf,
            [source.tensors[single] for single in _singles(name, leaf.shape)],
            _STACKED.fullmatch(name) is not None,
        )
        for name, leaf in leaves.items()
    ]
    return source.step, jax.tree.unflatten(jax.tree.structure(abstract), arrays)


def find_parameters(
    path, abstract: Any, step: int | str | None = None, config: Any = None
) -> tuple[Source, dict[str, Any]]:
    """(checkpoint, the leaves of `abstract` by name) where the checkpoint has parameters of all
    their shapes.

    Args:
      path, step: see `open_checkpoint`.
      abstract: see `read_parameters`.
      config: the model's `T5Config` or `DecoderConfig`; what the checkpoint's own files say must be
        the same.

    Raises:
      UserError: if there is no checkpoint, or it is of another model.
    """
    source = _open(path, None, step)
    leaves = named(abstract)
    expected = {
        single: shape
        for name, leaf in leaves.items()
        for single, shape in _singles(name, leaf.shape).items()
    }
    found = {name: tensor.shape for name, tensor in source.tensors.items()}
    check_tensors(found, expected, source.path, _advice(found, expected))
    if config is not None:
        _check_same(source, config)
    return source, leaves


def _advice(found: Shapes, expected: Shapes) -> str:
    """What to do about shapes that differ: often the table just has rows that the vocabulary does
    not need.
    """
    (model, sizes), (wanted, wanted_sizes) = sizes_of(found), sizes_of(expected)
    rows, here = sizes.pop("vocab_size", 0), wanted_sizes.pop("vocab_size", 0)
    if model != wanted or sizes != wanted_sizes or rows == here:
        return "give the gin files it was trained with, or another checkpoint."
    if rows > here:
        return (
            "its embedding has more rows than VOCABULARY needs: add "
            f"--gin.Train.embedding_rows={rows}, or give the VOCABULARY it was trained with."
        )
    return "its embedding has fewer rows: give the VOCABULARY it was trained with."


def _check_same(source: Source, config: Any) -> None:
    """Raises a UserError if the checkpoint's own files say another model than `config`, where no
    shape shows it.
    """
    model = "decoder" if isinstance(config, DecoderConfig) else "t5"
    known = source.fields if source.model == model else {}
    # ours; the gin file beside it is its own
    if source.model is None and (source.path / "params").is_dir():
        known = fields_beside(source.path)[model] if file_beside(source.path) else {}
    plain = {
        name: getattr(config, name)
        for name in FIELDS[model]
        if name in known and name not in _MAY_DIFFER
    }
    differing = [name for name, value in plain.items() if _plain(value) != _plain(known[name])]
    if differing:
        values = ", ".join(
            f"{name} is {shown(known[name])} in the checkpoint, {shown(plain[name])} in the config"
            for name in differing
        )
        setting = (
            "DECODER_START_ID"
            if differing == ["decoder_start_id"]
            else f"{type(config).__name__}.{differing[0]}"
        )
        raise UserError(
            f"The checkpoint {source.path} does not match the model: {values}; give its own "
            f"model.gin or config.gin, or set --gin.{setting}."
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return tuple(value) if isinstance(value, list) else value


def _singles(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The parameters, unstacked, that an array in memory consists of, with their shapes."""
    match = _STACKED.fullmatch(name)
    if not match:
        return {name: tuple(shape)}
    return {f"{match[1] or ''}layers_{i}/{match[2]}": tuple(shape[1:]) for i in range(shape[0])}


def _make_array(leaf: jax.ShapeDtypeStruct, tensors: list[Tensor], stacked: bool) -> jax.Array:
    def part(index: tuple[slice, ...]) -> np.ndarray:
        if not stacked:
            return np.ascontiguousarray(tensors[0].read(index).astype(leaf.dtype))
        layers = tensors[index[0]]
        shape = tuple(
            len(range(*rest.indices(size))) for rest, size in zip(index[1:], leaf.shape[1:])
        )
        result = np.empty((len(layers), *shape), leaf.dtype)
        for i, tensor in enumerate(layers):
            result[i] = tensor.read(index[1:])
        return result

    if leaf.sharding is None:
        return jax.numpy.asarray(part((slice(None),) * len(leaf.shape)))
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)
