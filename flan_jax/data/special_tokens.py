"""The special tokens of a model, named by the Hugging Face files beside its tokenizer."""

from __future__ import annotations

import itertools
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import parse_json

KINDS = ("bos", "eos", "pad")
TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP = "tokenizer_config.json", "special_tokens_map.json"
ADDED_TOKENS, GENERATION_CONFIG, CONFIG = (
    "added_tokens.json",
    "generation_config.json",
    "config.json",
)
CHAT_TEMPLATE = "chat_template.jinja"
FILES = (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, GENERATION_CONFIG, CONFIG)


class SpecialTokens(NamedTuple):
    """The special tokens in the files.

    Attributes:
      names: 'bos', 'eos', 'pad' -> the token's text, where the tokenizer's files name it.
      ids: the same -> ids, and 'decoder_start'; 'eos' may have several, each of which ends an
        answer.
      added: ids of tokens by their text, of those that the files list.
    """

    names: dict[str, str]
    ids: dict[str, tuple[int, ...]]
    added: dict[str, int]

    def known_ids(self, kind: str) -> tuple[int, ...]:
        """Returns the ids of a kind: that of its name first, then those in the model's files."""
        named = self.added.get(self.names.get(kind, ""))
        ids = self.ids.get(kind, ())
        return tuple(dict.fromkeys(ids if named is None else (named, *ids)))


def files_beside(directory: pathlib.Path) -> dict[str, bytes]:
    """Returns the contents of those of FILES that a directory has.

    Raises:
      UserError: if one of them cannot be read.
    """
    contents = {}
    for name in FILES:
        try:
            contents[name] = (directory / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except OSError as error:
            raise UserError(
                f"{shown(directory / name)} cannot be read ({error.strerror})."
            ) from error
    return contents


def read_special_tokens(files: Mapping[str, bytes], place: str = "") -> SpecialTokens:
    """Returns the special tokens in the contents of FILES, with the precedence of `transformers`.

    `tokenizer_config.json` decides if it lists its added tokens, as newer ones do; else
    `special_tokens_map.json`. Ids are those of `generation_config.json`, and of `config.json` where
    it lacks them.

    Args:
      files: contents by name; other files are ignored.
      place: a directory that messages put before the names.

    Raises:
      UserError: for a file that is damaged, or a token or an id of another type.
    """
    parsed = {name: parse_json(files[name], f"{place}{name}") for name in FILES if name in files}
    config = _present(parsed.get(TOKENIZER_CONFIG, {}))
    table = _present(parsed.get(SPECIAL_TOKENS_MAP, {}))
    named = {**table, **config} if "added_tokens_decoder" in config else {**config, **table}
    names = {
        kind: _text(named[f"{kind}_token"], f"{place}{kind}_token")
        for kind in KINDS
        if f"{kind}_token" in named
    }
    given = {**_present(parsed.get(CONFIG, {})), **_present(parsed.get(GENERATION_CONFIG, {}))}
    ids = {
        kind: _ids(given[f"{kind}_token_id"], f"{place}{kind}_token_id")
        for kind in (*KINDS, "decoder_start")
        if f"{kind}_token_id" in given
    }
    return SpecialTokens(names, ids, _added(config, parsed.get(ADDED_TOKENS, {}), place))


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _text(token: Any, where: str) -> str:
    """The text of a token, which may be an object with its settings."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise UserError(
            f"{where} is {shown(token)}, but must be a text or an object with 'content'; correct "
            "it."
        )
    return text


def _ids(value: Any, where: str) -> tuple[int, ...]:
    """The ids of a value: one or a list; a negative number stands for no token."""
    ids = value if isinstance(value, list) else [value]
    if not all(type(number) is int and number < 2**31 for number in ids):
        raise UserError(
            f"{where} is {shown(value)}, but must be a whole number or a list of such; correct "
            f"the file."
        )
    return tuple(number for number in ids if number >= 0)


def _added(config: dict[str, Any], older: dict[str, Any], place: str) -> dict[str, int]:
    """Ids by text, of both files that list added tokens."""
    added = {
        text: number
        for text, value in older.items()
        for number in _ids(value, f"{place}{ADDED_TOKENS}")[:1]
    }
    listed = config.get("added_tokens_decoder", {})
    if not isinstance(listed, dict) or not all(
        re.fullmatch("[0-9]{1,10}", number) for number in listed
    ):
        raise UserError(
            f"{place}{TOKENIZER_CONFIG} has an added_tokens_decoder that is not an object by ids; "
            "correct the file."
        )
    where = f"{place}{TOKENIZER_CONFIG}: added_tokens_decoder"
    return added | {_text(entry, where): int(number) for number, entry in listed.items()}


def until(eos_ids: Iterable[int], ids: Iterable[int]) -> list[int]:
    """Returns the ids before the first that ends a text."""
    ends = set(eos_ids)
    return list(itertools.takewhile(lambda i: i not in ends, map(int, ids)))
