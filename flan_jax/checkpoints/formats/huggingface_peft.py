"""Adapters beside matrices as Hugging Face's peft has them: LoRA and IA3, read and written.

Names there are those of the model's tensors: `base_model.model.<module>.lora_A.weight`. LoRA's
matrices are [R, D] and [F, R], IA3's factors [F, 1] of an output and [1, D] of an input.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from flan_jax.checkpoints.base_record import BaseRecord
from flan_jax.checkpoints.formats import adapter_config, huggingface, safetensors_files
from flan_jax.checkpoints.formats.adapter_config import WEIGHTS, AdapterConfig
from flan_jax.checkpoints.reader import CheckpointReader, Tensor, cast
from flan_jax.errors import UserError
from flan_jax.messages import listed, shown
from flan_jax.models.adapters import LORA_A, LORA_B, SCALE_IN, SCALE_OUT
from flan_jax.models.shapes import parameter_shapes
from flan_jax.peft.module_paths import plain
from flan_jax.storage.copies import name_of

_PREFIX = "base_model.model."
_LORA = re.compile(r"(.+)\.(lora_A|lora_B)\.weight")
_IA3 = re.compile(r"(.+)\.ia3_l")
_WHOLE = re.compile(r"(.+?)(?:\.modules_to_save|\.base_layer)?\.(weight|bias)")
_MATRICES = {"lora_A": LORA_A, "lora_B": LORA_B}
_HEAD = "logits_dense"


class _Model(NamedTuple):
    """The model that an adapter is for.

    Attributes:
      names: the tensor of each parameter, as `transformers` names it.
      parameters: the parameter of each tensor.
      shapes: of the parameters.
      config: of the model.
    """

    names: dict[str, str]
    parameters: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    config: Any

    @property
    def modules(self) -> list[str]:
        """The names of all modules with parameters; the head is one also where it is tied."""
        names = {name.rpartition(".")[0] for name in self.parameters}
        return sorted({*names, "lm_head"})

    def kernel(self, module: str) -> str | None:
        """Returns our name of the matrix of a module; None if it has none."""
        parameter = self.parameters.get(f"{module}.weight", "")
        return parameter if parameter.endswith("/kernel") else None


def _model(base: CheckpointReader) -> _Model:
    names = huggingface.tensor_names(base.config, base.path)
    parameters = {theirs: ours for ours, theirs in names.items()}
    return _Model(names, parameters, parameter_shapes(base.config), base.config)


# --- Reading


def open_adapter(
    path: pathlib.Path, config: AdapterConfig, base: CheckpointReader
) -> tuple[CheckpointReader, BaseRecord]:
    """Returns the opened adapter by our names, and what `base.json` says of a run of ours.

    The record has no digest, because an adapter has none of its base.

    Args:
      path: the directory.
      config: its settings.
      base: the model that was tuned.

    Raises:
      UserError: for an adapter that is not one of this model.
    """
    stored, model = open_stored(path), _model(base)
    found = {key: _place(key, config, model) for key in stored}
    found = {key: place for key, place in found.items() if not _is_copy(stored[key], place, base)}
    _check(found, stored, config, model)
    order = {name: number for number, name in enumerate(model.shapes)}
    places = sorted(found.items(), key=lambda item: (order[item[1].beside], item[1].name))
    tensors = {place.name: place.ours(stored[key]) for key, place in places}
    added = [place.name for _, place in places if place.name not in order]
    record = BaseRecord(
        path=name_of(base.path),
        step=base.step,
        digest="",
        dtype="",
        method=config.method,
        rank=config.rank,
        alpha=config.alpha,
        scale=config.scale,
        targets=sorted({plain(name.rpartition("/")[0]) for name in added}),
        also_trained=sorted({plain(name) for name in tensors if name in order}),
    )
    reader = CheckpointReader(path, 0, tensors, base.config, notes=config.notes, base=base.path)
    return reader, record


def open_stored(path: pathlib.Path) -> dict[str, Tensor]:
    """Returns the tensors in the directory of an adapter by peft's names.

    Raises:
      UserError: if there are none.
    """
    if not (path / WEIGHTS).is_file():
        raise UserError(
            f"{shown(path)} has no {WEIGHTS}; save the adapter with `save_pretrained` of peft, "
            "which writes it."
        )
    return safetensors_files.open_weights(path / WEIGHTS)


class _Place(NamedTuple):
    """Where a tensor of an adapter belongs.

    Attributes:
      name: ours of the array.
      beside: the parameter of the model that it is beside, or that it is.
      shape: the tensor has, if it fits.
      is_transposed: whether its axes are exchanged here.
      is_base: whether it is the base's own array, kept beside an adapter.
    """

    name: str
    beside: str
    shape: tuple[int, ...]
    is_transposed: bool
    is_base: bool = False

    def ours(self, tensor: Tensor) -> Tensor:
        """Returns the tensor with our axes."""
        if self.name.endswith((SCALE_IN, SCALE_OUT)):
            size = (max(tensor.shape),)
            return tensor._replace(shape=size, open=lambda: tensor.open().reshape(size))
        return tensor.transposed() if self.is_transposed else tensor


def _place(key: str, config: AdapterConfig, model: _Model) -> _Place | None:
    """The place of a tensor; None if the model or the method has none."""
    if not key.startswith(_PREFIX):
        return None
    name = key.removeprefix(_PREFIX)
    if config.method == "lora" and (match := _LORA.fullmatch(name)):
        return _place_of_lora(match[1], match[2], config, model)
    if config.method == "ia3" and (match := _IA3.fullmatch(name)):
        return _place_of_ia3(match[1], config, model)
    match = _WHOLE.fullmatch(name)
    parameter = model.parameters.get(f"{match[1]}.{match[2]}") if match else None
    if parameter is None:
        return None
    is_transposed = huggingface.is_transposed(model.config, parameter)
    shape = model.shapes[parameter]
    shape = shape[::-1] if is_transposed else shape
    return _Place(parameter, parameter, shape, is_transposed, ".base_layer." in name)


def _place_of_lora(module: str, matrix: str, config: AdapterConfig, model: _Model) -> _Place | None:
    kernel = model.kernel(module)
    if kernel is None:
        return None
    inputs, outputs = model.shapes[kernel]
    shape = (config.rank, inputs) if matrix == "lora_A" else (outputs, config.rank)
    return _Place(_beside(kernel, _MATRICES[matrix]), kernel, shape, is_transposed=True)


def _place_of_ia3(module: str, config: AdapterConfig, model: _Model) -> _Place | None:
    kernel = model.kernel(module)
    if kernel is None:
        return None
    inputs, outputs = model.shapes[kernel]
    if adapter_config.matches(config.feedforward, module):
        return _Place(_beside(kernel, SCALE_IN), kernel, (1, inputs), is_transposed=False)
    return _Place(_beside(kernel, SCALE_OUT), kernel, (outputs, 1), is_transposed=False)


def _beside(kernel: str, name: str) -> str:
    return f"{kernel.rpartition('/')[0]}/{name}"


def _is_copy(tensor: Tensor, place: _Place | None, base: CheckpointReader) -> bool:
    """Whether a tensor is the base's own array, which peft writes beside some adapters."""
    if place is None or place.name not in base.tensors or tensor.shape != place.shape:
        return False
    if not (place.is_base or _is_shared(place.name, base.config)):
        return False
    return np.array_equal(place.ours(tensor).read(), base.tensors[place.name].read())


def _is_shared(parameter: str, config: Any) -> bool:
    """Whether several modules there have one table that is one array here."""
    is_table = parameter.endswith("token_embedder/embedding")
    return is_table and (not hasattr(config, "num_layers") or config.logits_via_embedding)


def _check(
    places: dict[str, _Place | None],
    stored: dict[str, Tensor],
    config: AdapterConfig,
    model: _Model,
) -> None:
    """Raises a UserError that lists what is not an array of the model, and what is missing."""
    lines = [f"unexpected: {key}" for key, place in places.items() if place is None]
    known = {key: place for key, place in places.items() if place is not None}
    for key, place in known.items():
        if stored[key].shape != place.shape:
            lines.append(f"{key}: {stored[key].shape}, but {place.shape} fits the model")
    modules = {
        name.rpartition(".")[0]: name for name in model.parameters if name.endswith(".weight")
    }
    suffixes = [".lora_A.weight", ".lora_B.weight"] if config.method == "lora" else [".ia3_l"]
    present = {
        key.removeprefix(_PREFIX).removesuffix(suffix)
        for key in known
        for suffix in suffixes
        if key.endswith(suffix)
    }
    targets = present  # where the file does not say which
    if config.targets is not None:
        targets = {m for m in modules if config.is_target(m, _is_linear(model, m))}
    wanted = {f"{_PREFIX}{module}{suffix}" for module in targets for suffix in suffixes}
    lines += [f"missing: {key}" for key in sorted(wanted - known.keys())]
    lines += [
        f"{key}: target_modules does not match its module"
        for key in known
        if key.endswith(tuple(suffixes)) and key not in wanted
    ]
    if lines:
        raise UserError(
            f"the adapter {shown(config.path.parent)} does not match its base model; give the base "
            "that it was made for:" + "".join(f"\n  {shown(line)}" for line in lines)
        )
    shared = [key for key, place in known.items() if _is_shared(place.name, model.config)]
    if shared:
        raise UserError(
            f"the adapter {shown(config.path.parent)} has {shared[0]}, which is one of several "
            "tables there and a single one here; merge it into its model with peft "
            "(merge_and_unload)."
        )


def _is_linear(model: _Model, module: str) -> bool:
    kernel = model.kernel(module)
    return kernel is not None and _HEAD not in kernel


# --- Writing


def write_adapter(
    directory: pathlib.Path,
    adapter: CheckpointReader,
    record: BaseRecord,
    base: CheckpointReader,
    base_name: str,
    dtype: np.dtype | None,
    progress: Callable[[str], None],
) -> None:
    """Writes the tensors and, last, `adapter_config.json`.

    Args:
      directory: it exists.
      adapter: what was trained, by our names.
      record: how it was trained.
      base: the model that was tuned.
      base_name: its name or its path for peft.
      dtype: of the tensors; None keeps theirs.
      progress: called with the name of each tensor.

    Raises:
      UserError: for what peft has no counterpart of.
    """
    model = _model(base)
    tensors, targets, inputs, saved = {}, set(), set(), set()
    for name, tensor in adapter.tensors.items():
        if name in model.names:
            _check_writable(name, model.config, adapter.path)
            saved.add(_module(model.names[name]))
            continue
        path, _, added = name.rpartition("/")
        module = _module(model.names[f"{path}/kernel"])
        targets.add(module)
        inputs |= {module} if added == SCALE_IN else set()
        key, tensor = _written(module, added, tensor)
        tensors[key] = tensor
    if saved & targets:
        raise UserError(
            f"{shown(adapter.path)} has an adapter and an array that trained as a whole in "
            f"{listed(sorted(saved & targets))}, and peft has one of them in a module; convert the "
            "run with --to=hf, which merges it."
        )
    tensors |= _saved(saved, adapter, base, model)
    write_tensors(directory, tensors, dtype, progress)
    config = AdapterConfig(
        path=directory / adapter_config.FILE,
        method=record.method,
        base=base_name,
        rank=record.rank,
        alpha=record.alpha,
        scale=record.scale,
        targets=sorted(targets),
        excluded=None,
        feedforward=sorted(inputs),
        saved=sorted(saved),
        notes=[],
    )
    contents = adapter_config.write_config(config, base.architecture, model.modules)
    write_settings(directory, contents)


def _saved(
    modules: set[str], adapter: CheckpointReader, base: CheckpointReader, model: _Model
) -> dict[str, Tensor]:
    """The tensors of modules that trained as a whole: all that they have, also frozen ones."""
    tensors = {}
    for ours, theirs in model.names.items():
        if _module(theirs) in modules:
            tensor = adapter.tensors.get(ours, base.tensors[ours])
            is_transposed = huggingface.is_transposed(model.config, ours)
            tensors[_PREFIX + theirs] = tensor.transposed() if is_transposed else tensor
    return tensors


def _module(tensor: str) -> str:
    """The module of a tensor, by the name of either there."""
    return tensor.rpartition(".")[0]


def _check_writable(name: str, config: Any, path: pathlib.Path) -> None:
    if _is_shared(name, config):
        raise UserError(
            f"{shown(path)} has trained {name}, which is several tables in Hugging Face's model, "
            "so that peft cannot load it; convert the run with --to=hf, which merges it."
        )


def _written(module: str, added: str, tensor: Tensor) -> tuple[str, Tensor]:
    """(peft's name, the tensor with the axes it has there)."""
    if added in (LORA_A, LORA_B):
        matrix = {ours: theirs for theirs, ours in _MATRICES.items()}[added]
        return f"{_PREFIX}{module}.{matrix}.weight", tensor.transposed()
    shape = (1, *tensor.shape) if added == SCALE_IN else (*tensor.shape, 1)
    reshaped = tensor._replace(
        shape=shape, open=lambda: np.asarray(tensor.open()[...]).reshape(shape)
    )
    return f"{_PREFIX}{module}.ia3_l", reshaped


def write_settings(directory: pathlib.Path, contents: dict[str, Any]) -> None:
    """Writes `adapter_config.json`."""
    text = json.dumps(dict(sorted(contents.items())), indent=2) + "\n"
    (directory / adapter_config.FILE).write_text(text, encoding="utf-8")


def write_tensors(
    directory: pathlib.Path,
    tensors: dict[str, Tensor],
    dtype: np.dtype | None,
    progress: Callable[[str], None],
) -> None:
    """Writes the tensors of an adapter.

    Args:
      directory: it exists.
      tensors: by peft's names.
      dtype: of the tensors; None keeps theirs.
      progress: called with the name of each tensor.
    """
    tensors = dict(sorted(tensors.items()))
    shapes = {
        key: (tensor.shape, np.dtype(dtype or tensor.dtype)) for key, tensor in tensors.items()
    }

    def read(key: str) -> np.ndarray:
        progress(key)
        return cast(tensors[key].read(), shapes[key][1])

    safetensors_files.write_file(directory / WEIGHTS, shapes, read)
