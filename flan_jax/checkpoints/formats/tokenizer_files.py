"""The files of a tokenizer in a checkpoint's directory, and the ids of special tokens in them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from flan_jax.data.special_tokens import CONFIG, GENERATION_CONFIG
from flan_jax.data.vocabulary import VOCABULARY_FILES
from flan_jax.storage.files import parse_json, read_json, readable
from flan_jax.storage.paths import inside

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


def read_tokenizer_files(path: pathlib.Path) -> dict[str, bytes]:
    """Returns the files of a tokenizer, by the names that `transformers` has for them.

    `generation_config.json` gets the ids of `config.json` that it lacks.

    Args:
      path: a directory with them, or the vocabulary itself: alone, or one of `VOCABULARY_FILES`
        with the files beside it.

    Returns:
      Contents by name; empty where there is no tokenizer.

    Raises:
      UserError: if a file cannot be read, or is a link that leads out of the directory.
    """
    directory = path if path.is_dir() else path.parent
    is_named = path.is_file() and path.name in VOCABULARY_FILES
    names: list[str] = []
    if path.is_dir() or is_named:
        names = [*reversed(VOCABULARY_FILES), *_BESIDE]
    elif path.is_file() and path.suffix == ".json":
        names = list(_BESIDE)  # whatever it is called, the files beside it have its special tokens
    files = [
        inside(directory, name, directory / name)
        for name in names
        if (directory / name).is_file() and directory / name != path
    ]
    files += [path] if path.is_file() else []  # of two with one name the last stays
    contents = {}
    for file in files:
        with readable(file):
            contents[_name_in_transformers(file)] = file.read_bytes()
    ids = read_special_ids(directory) if names else {}
    if ids:
        generation = contents.get(GENERATION_CONFIG, b"{}")
        given = parse_json(generation, directory / GENERATION_CONFIG)
        contents[GENERATION_CONFIG] = (json.dumps({**given, **ids}, indent=2) + "\n").encode()
    return contents


def read_special_ids(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the ids of special tokens in `config.json` and `generation_config.json`.

    Those of the latter go before those of the former, as they do when `transformers` generates.

    Raises:
      UserError: if a file cannot be read, or is a link that leads out of the directory.
    """
    ids: dict[str, Any] = {}
    for file_name in (CONFIG, GENERATION_CONFIG):
        file = directory / file_name
        contents = read_json(inside(directory, file_name, file)) if file.is_file() else {}
        known = {name: i for name, i in contents.items() if name in _IDS and i is not None}
        ids |= known
    return ids


def _name_in_transformers(file: pathlib.Path) -> str:
    """T5's SentencePiece model has one name there, Llama's another; `tokenizer.json` has one."""
    if file.suffix == ".json" and file.name not in _BESIDE:
        return "tokenizer.json"
    if file.suffix == ".model" and file.name != "tokenizer.model":
        return "spiece.model"
    return file.name
