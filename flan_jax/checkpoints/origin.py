"""Where a model comes from: the repository and the license of what was converted or tuned, as its
files name them.
"""

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
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LICENSE = re.compile(r"[A-Za-z0-9][\w.+-]*")
# How the hub's cache names the directory of a repository.
_CACHED = re.compile(r"models--(.+?)--(.+)")


def origin_of(path: pathlib.Path) -> dict[str, str]:
    """Returns 'base_model' (owner/name on the hub) and 'license' of a checkpoint, as far as they
    are known.
    """
    try:
        found = _named(path)
    except (UserError, OSError, UnicodeDecodeError):
        return {}  # a card lacks a line; the checkpoint itself is checked elsewhere
    shapes = {"base_model": _REPOSITORY, "license": _LICENSE}
    return {
        name: text
        for name, shape in shapes.items()
        if isinstance(text := found.get(name), str) and shape.fullmatch(text)
    }


def origin_json(origin: dict[str, str]) -> str:
    """Returns the contents of FILE, which goes with a converted checkpoint."""
    return json.dumps(origin, indent=1) + "\n"


def _named(path: pathlib.Path) -> dict[str, Any]:
    if is_gguf(path):
        return _of_gguf(open_file(path).metadata)
    if (path / "config.json").is_file():
        return _of_directory(path)
    kept = next(
        (
            place / FILE
            for place in (path, *path.absolute().parents[:2])
            if (place / FILE).is_file()
        ),
        None,
    )
    return read_json(kept) if kept else {}


def _of_gguf(metadata: dict[str, Any]) -> dict[str, Any]:
    urls = (
        metadata.get(name)
        for name in ("general.source.huggingface.repository", "general.base_model.0.repo_url")
    )
    base = next((url for url in urls if isinstance(url, str)), "")
    return {
        "base_model": base.removeprefix("https://huggingface.co/"),
        "license": metadata.get("general.license"),
    }


def _of_directory(path: pathlib.Path) -> dict[str, Any]:
    card = path / "README.md"
    header = (
        re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.S)
        if card.is_file()
        else None
    )
    lines = header[1] if header else ""
    found = {
        name: match[1]
        for name in ("base_model", "license")
        if (
            match := re.search(
                rf"^{name}:[ \t]*(?:\n[ \t]*-[ \t]*|\[)?[\"']?([^\s\"',\]]+)", lines, re.M
            )
        )
    }
    cached = next(
        (match for part in path.absolute().parts if (match := _CACHED.fullmatch(part))), None
    )
    if cached:
        return {**found, "base_model": f"{cached[1]}/{cached[2]}"}
    return {"base_model": read_json(path / "config.json").get("_name_or_path"), **found}
