"""A model's directory in Hugging Face's form: `config.json`, safetensors, tokenizer files, opened
and written.
"""

from __future__ import annotations

import json
import pathlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from flan_jax.checkpoints.formats import huggingface_llama, huggingface_t5, safetensors_files
from flan_jax.checkpoints.formats.typed_settings import Settings
from flan_jax.checkpoints.parameters import parameter_shapes
from flan_jax.checkpoints.reader import Source, Tensor, cast, check_tensors
from flan_jax.data.special_tokens import CONFIG, GENERATION_CONFIG
from flan_jax.data.vocabulary import VOCABULARY_FILES
from flan_jax.errors import UserError
from flan_jax.messages import listed, shown
from flan_jax.storage.files import parse_json, read_json, readable
from flan_jax.storage.paths import inside

_FAMILIES = {
    "t5": huggingface_t5,
    "mt5": huggingface_t5,
    "llama": huggingface_llama,
    "qwen2": huggingface_llama,
}
# What belongs to a tokenizer besides its vocabulary.
_BESIDE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def is_huggingface(path: pathlib.Path) -> bool:
    """Returns whether `path` is a model's directory (`config.json` and weights), or an
    adapter's.
    """
    return any((path / name).is_file() for name in ("config.json", *_ADAPTER))


def tokenizer_files(path: pathlib.Path) -> dict[str, bytes]:
    """The files of a tokenizer, by the names under which `transformers` looks for them.

    `path` is a directory with them, or the vocabulary itself: alone, or one of `VOCABULARY_FILES`
    with what lies beside it. `generation_config.json` has the ids of `config.json`, too, where it
    lacks them. Empty where there is none.

    Raises:
      UserError: if a file cannot be read, or is a link that leads out of the directory.
    """
    directory = path if path.is_dir() else path.parent
    is_whole = path.is_dir() or (path.is_file() and path.name in VOCABULARY_FILES)
    names = [*reversed(VOCABULARY_FILES), *_BESIDE] if is_whole else []
    if not is_whole and path.is_file() and path.suffix == ".json":
        # whatever it is called, the files beside it name its special tokens
        is_whole, names = True, list(_BESIDE)
    files = [
        directory / name
        for name in names
        if (directory / name).is_file() and directory / name != path
    ]
    files = [inside(directory, file.name, file) for file in files]
    files += [path] if path.is_file() else []  # of two with one name the last stays
    result = {}
    for file in files:
        with readable(file):
            result[_their_name(file)] = file.read_bytes()
    if is_whole and (ids := _ids_beside(directory)):
        given = parse_json(result.get(GENERATION_CONFIG, b"{}"), directory / GENERATION_CONFIG)
        result[GENERATION_CONFIG] = (json.dumps({**given, **ids}, indent=2) + "\n").encode()
    return result


def _ids_beside(directory: pathlib.Path) -> dict[str, Any]:
    """The ids in `generation_config.json`, which go before those in `config.json` when a text is
    written.
    """
    result: dict[str, Any] = {}
    for name in (CONFIG, GENERATION_CONFIG):
        file = directory / name
        given = read_json(inside(directory, name, file)) if file.is_file() else {}
        result |= {
            name: value for name, value in given.items() if name in _IDS and value is not None
        }
    return result


def _their_name(file: pathlib.Path) -> str:
    """T5's tokenizer is a SentencePiece model of one name, Llama's one of another; `tokenizer.json`
    has one name.
    """
    if file.suffix == ".json" and file.name not in _BESIDE:
        return "tokenizer.json"
    return (
        "spiece.model" if file.suffix == ".model" and file.name != "tokenizer.model" else file.name
    )


def open_huggingface(path: pathlib.Path) -> Source:
    """The opened model.

    Raises:
      UserError: for a model that neither of ours can be, or files that lack, add or misshape
        tensors.
    """
    _refuse_adapters(path)
    file = path / "config.json"
    config = {**read_json(inside(path, file.name, file)), **_ids_beside(path)}
    family = _FAMILIES.get(Settings(config, file).choice("model_type", _FAMILIES))
    weights, notes = safetensors_files.find_weights(path, config.get("transformers_weights"))
    stored = {
        name: tensor
        for name, tensor in safetensors_files.open_weights(weights).items()
        if not family.UNREAD.fullmatch(name)
    }
    is_t5 = family is huggingface_t5
    if is_t5:
        _drop_aliases(stored, path)
    table = "shared.weight" if is_t5 else "model.embed_tokens.weight"
    tied = (
        family.is_scaled(config, file)
        if is_t5
        else Settings(config, file).flag("tie_word_embeddings")
    )
    if (
        tied
        and table in stored
        and "lm_head.weight" in stored
        and _same(stored[table], stored["lm_head.weight"])
    ):
        del stored["lm_head.weight"]  # The embedding once more.
    if is_t5:
        fields = family.fields_of(config, "lm_head.weight" in stored, file, len(stored))
        if not tied and table in stored and "lm_head.weight" not in stored:
            stored["lm_head.weight"] = stored[table]
            notes.append(
                "the logits are tied to the embedding but not scaled, so the embedding is written "
                "twice"
            )
    else:
        fields = family.fields_of(config, file, len(stored))
    tensors = _by_our_names(stored, family, fields, path)
    return Source(path, 0, tensors, "t5" if is_t5 else "decoder", fields, notes=notes)


def _refuse_adapters(path: pathlib.Path) -> None:
    """An adapter changes what the weights beside it compute; without them it is not a model."""
    found = [name for name in _ADAPTER if (path / name).is_file()]
    if found:
        raise UserError(
            f"{shown(path)} holds an adapter ({listed(found)}), such as LoRA, which is not "
            "supported yet; merge it into its base model (`merge_and_unload` of peft, then "
            "`save_pretrained`), or remove these files to use the weights without it."
        )


def _drop_aliases(stored: dict[str, Tensor], path: pathlib.Path) -> None:
    """Leaves the shared embedding under one name, `shared.weight`."""
    for alias in huggingface_t5.EMBEDDING_ALIASES:
        if alias not in stored:
            continue
        copy = stored.pop(alias)
        if "shared.weight" not in stored:
            stored["shared.weight"] = copy
        elif not _same(copy, stored["shared.weight"]):
            raise UserError(
                f"{path} has an embedding {alias} that differs from shared.weight, but encoder and "
                "decoder share one here."
            )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and np.array_equal(one.read(), other.read())


def _by_our_names(
    stored: dict[str, Tensor], family: types.ModuleType, fields: dict[str, Any], path
) -> dict[str, Tensor]:
    shapes = parameter_shapes("t5" if family is huggingface_t5 else "decoder", fields)
    names = family.names(fields)
    expected = {
        names[name]: shape[::-1] if family.is_turned(name) else shape
        for name, shape in shapes.items()
    }
    check_tensors(
        {name: tensor.shape for name, tensor in stored.items()},
        expected,
        path,
        '"there" is the weights\' files, "here" is what config.json says:',
        lists_all=True,
    )
    return {
        name: stored[theirs].transposed() if family.is_turned(name) else stored[theirs]
        for name, theirs in names.items()
    }


def write_huggingface(
    directory: pathlib.Path,
    source: Source,
    dtype: np.dtype | None,
    ids: dict[str, Any],
    progress: Callable[[str], None],
) -> None:
    """Writes the weights and, last, `config.json` with these ids of special tokens.

    Raises:
      UserError: for a model that has no counterpart there.
    """
    family = huggingface_t5 if source.model == "t5" else huggingface_llama
    config = family.config_of(source.fields, source.path)
    names = family.names(source.fields)
    ours = {theirs: name for name, theirs in names.items()}
    dtypes = {name: np.dtype(dtype or tensor.dtype) for name, tensor in source.tensors.items()}
    shapes = {
        theirs: (source.tensors[name].shape[:: -1 if family.is_turned(name) else 1], dtypes[name])
        for theirs, name in ours.items()
    }

    def read(theirs: str) -> np.ndarray:
        name = ours[theirs]
        tensor = source.tensors[name]
        progress(name)
        return cast(
            (tensor.transposed() if family.is_turned(name) else tensor).read(), dtypes[name]
        )

    safetensors_files.write_directory(directory, shapes, read)
    contents = {**config, **ids, "torch_dtype": next(iter(dtypes.values())).name}
    (directory / "config.json").write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
