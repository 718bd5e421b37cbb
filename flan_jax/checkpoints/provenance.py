"""The repository and the license of a converted or tuned model, as its files name them."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

from flan_jax.checkpoints.formats.gguf import is_gguf
from flan_jax.checkpoints.formats.gguf_file import open_file
from flan_jax.errors import UserError
from flan_jax.storage.files import read_json

FILE = "origin.json"
_PATTERNS = {
    "base_model": re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+"),
    "license": re.compile(r"[A-Za-z0-9][\w.+-]*"),
}
_GGUF_URLS = ("general.source.huggingface.repository", "general.base_model.0.repo_url")
# How the hub's cache names the directory of a repository.
_CACHE_DIRECTORY = re.compile(r"models--(.+?)--(.+)")
# The header of a README.md, and a field in it: one value, or the first of a list.
_HEADER = re.compile(r"---\n(.*?)\n---", re.S)
_FIELD = r"^{}:[ \t]*(?:\n[ \t]*-[ \t]*|\[)?[\"']?([^\s\"',\]]+)"


def read_provenance(path: pathlib.Path) -> dict[str, str]:
    """Returns 'base_model' (owner/name on the hub) and 'license' of a checkpoint, if known."""
    try:
        values = _read(path)
    except (UserError, OSError, UnicodeDecodeError):
        return {}  # a card lacks a line; the checkpoint itself is checked elsewhere
    return {
        name: values[name]
        for name, pattern in _PATTERNS.items()
        if isinstance(values.get(name), str) and pattern.fullmatch(values[name])
    }


def provenance_json(provenance: dict[str, str]) -> str:
    """Returns the contents of FILE, which goes with a converted checkpoint."""
    return json.dumps(provenance, indent=1) + "\n"


def cached_repository(path: pathlib.Path) -> str | None:
    """Returns the repository (owner/name) of a path in the hub's cache; None elsewhere."""
    for part in path.absolute().parts:
        cached = _CACHE_DIRECTORY.fullmatch(part)
        if cached:
            return f"{cached[1]}/{cached[2]}"
    return None


def _read(path: pathlib.Path) -> dict[str, Any]:
    if is_gguf(path):
        return _from_gguf(open_file(path).metadata)
    if (path / "config.json").is_file():
        return _from_huggingface(path)
    for directory in (path, *path.absolute().parents[:2]):
        if (directory / FILE).is_file():
            return read_json(directory / FILE)
    return {}


def _from_gguf(metadata: dict[str, Any]) -> dict[str, Any]:
    urls = [metadata[name] for name in _GGUF_URLS if isinstance(metadata.get(name), str)]
    return {
        "base_model": urls[0].removeprefix("https://huggingface.co/") if urls else "",
        "license": metadata.get("general.license"),
    }


def _from_huggingface(path: pathlib.Path) -> dict[str, Any]:
    values = _read_card(path / "README.md")
    cached = cached_repository(path)
    if cached:
        return {**values, "base_model": cached}
    return {"base_model": read_json(path / "config.json").get("_name_or_path"), **values}


def _read_card(path: pathlib.Path) -> dict[str, str]:
    """The fields in the header of a model card."""
    header = _HEADER.match(path.read_text(encoding="utf-8")) if path.is_file() else None
    values = {}
    for name in _PATTERNS:
        match = re.search(_FIELD.format(name), header[1] if header else "", re.M)
        if match:
            values[name] = match[1]
    return values
