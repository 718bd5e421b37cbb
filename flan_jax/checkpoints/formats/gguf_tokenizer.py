"""The tokenizer inside a GGUF file as Hugging Face's `tokenizer.json` and `tokenizer_config.json`.

Byte-level BPE is written out if its way of splitting text, by its name in the file, is supported
here; any other tokenizer is only described.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from flan_jax.checkpoints.formats.gguf_file import open_file
from flan_jax.messages import shown
from flan_jax.storage.files import readable

_PREFIX = "tokenizer.ggml."
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
# Name in the file (llama.cpp's) -> the same for `tokenizers`.
_SPLITTERS = {
    "gpt-2": [_BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
}
_CONTROL, _USER_DEFINED = 3, 4  # Kinds of token.
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


def tokenizer_of(path: pathlib.Path) -> tuple[dict[str, bytes], str]:
    """Returns (files by name, a sentence that describes the tokenizer).

    There are no files if it cannot be written out.

    Raises:
      UserError: for a tokenizer of wrong types.
    """
    with readable(path, "download it again"):
        return _tokenizer_of(open_file(path).metadata)


def _tokenizer_of(metadata: dict[str, Any]) -> tuple[dict[str, bytes], str]:
    settings = {
        name.removeprefix(_PREFIX): value
        for name, value in metadata.items()
        if name.startswith(_PREFIX)
    }
    if "tokens" not in settings:
        return {}, "the file has no tokenizer"
    tokens, model, splitter = settings["tokens"], settings["model"], settings.get("pre")
    description = (
        f"its tokenizer is of type {shown(repr(model))}, splits text like {shown(repr(splitter))} "
        f"and has {len(tokens):,} tokens"
    )
    if model != "gpt2" or splitter not in _SPLITTERS or settings.get("add_bos_token"):
        return (
            {},
            (
                f"{description}; it cannot be written out here, so give VOCABULARY the model's own "
                f"tokenizer.json"
            ),
        )
    kinds = settings.get("token_type", [1] * len(tokens))
    _check_lists(tokens, kinds, settings["merges"])
    added = _added_tokens(tokens, kinds)
    merges = [merge.split(" ") for merge in settings["merges"]]
    template = metadata.get("tokenizer.chat_template")
    files = {
        "tokenizer.json": _tokenizer(tokens, merges, added, splitter),
        "tokenizer_config.json": _config(tokens, added, settings, template),
        "generation_config.json": _ids(tokens, settings),
    }
    return {
        name: json.dumps(contents, ensure_ascii=False, indent=1).encode()
        for name, contents in files.items()
    }, description


def _added_tokens(tokens: list[str], kinds: list[int]) -> list[dict[str, Any]]:
    """The control and user-defined tokens, as `tokenizer.json` has them."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [
        {"id": i, "content": token, **flags, "special": kind == _CONTROL}
        for i, (token, kind) in enumerate(zip(tokens, kinds))
        if kind in (_CONTROL, _USER_DEFINED)
    ]


def _check_lists(tokens: Any, kinds: Any, merges: Any) -> None:
    """Raises ValueError unless they are lists of texts and numbers that can be a byte-level BPE."""
    if not all(isinstance(entries, list) for entries in (tokens, kinds, merges)):
        raise ValueError("tokens, token_type and merges of its tokenizer must be lists")
    if not all(isinstance(token, str) for token in tokens) or len(set(tokens)) < len(tokens):
        raise ValueError("the tokens of its tokenizer are not different texts")
    if len(kinds) != len(tokens):
        raise ValueError(
            f"its tokenizer has {len(tokens):,} tokens and {len(kinds):,} types of tokens"
        )
    known = set(tokens)
    for merge in merges:
        parts = merge.split(" ")
        if len(parts) != 2 or not {*parts, "".join(parts)} <= known:
            raise ValueError(
                f"the merge {merge!r} of its tokenizer does not join two of its tokens to a third"
            )


def _tokenizer(
    tokens: list[str], merges: list[list[str]], added: list[dict[str, Any]], splitter: str
) -> dict:
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": merges,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _SPLITTERS[splitter]},
        "post_processor": None,
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
        "model": model,
    }


def _config(
    tokens: list[str], added: list[dict[str, Any]], settings: dict[str, Any], template: str | None
) -> dict:
    kinds = {
        "bos": "bos_token_id",
        "eos": "eos_token_id",
        "unk": "unknown_token_id",
        "pad": "padding_token_id",
    }
    special = {
        f"{kind}_token": _token(tokens, settings[name], name)
        for kind, name in kinds.items()
        if name in settings
    }
    decoder = {
        str(entry["id"]): {key: value for key, value in entry.items() if key != "id"}
        for entry in added
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": decoder,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        **special,
        **({"chat_template": template} if template else {}),
    }


def _ids(tokens: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """The ids of `generation_config.json`.

    A text ends with EOS, and with the ends of a turn and of a message.
    """
    ends = {name: settings[name] for name in _ENDS if name in settings}
    known = {
        "bos_token_id": settings.get("bos_token_id"),
        "pad_token_id": settings.get("padding_token_id"),
    }
    for name, i in ends.items():
        _token(tokens, i, name)
    eos_ids = list(dict.fromkeys(ends.values()))
    known["eos_token_id"] = eos_ids[0] if len(eos_ids) == 1 else eos_ids or None
    return {name: value for name, value in known.items() if value is not None}


def _token(tokens: list[str], i: Any, name: str) -> str:
    if type(i) is not int or not 0 <= i < len(tokens):
        raise ValueError(f"{name} {i!r} of its tokenizer is not the number of a token")
    return tokens[i]
