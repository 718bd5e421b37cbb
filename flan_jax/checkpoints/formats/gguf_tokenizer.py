"""The tokenizer inside a GGUF file as Hugging Face's `tokenizer.json` and `tokenizer_config.json`.

SentencePiece's BPE is written out, and byte-level BPE if its way of splitting text, by its name in
the file, is supported here; any other tokenizer is only described.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

from flan_jax.checkpoints.formats import gguf_sentencepiece
from flan_jax.checkpoints.formats.gguf_file import open_file
from flan_jax.config.checks import quoted
from flan_jax.storage.files import readable

_PREFIX = "tokenizer.ggml."
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


class _Splitter(NamedTuple):
    """How a byte-level BPE reads a text.

    Attributes:
      pre_tokenizers: of `tokenizers`, in their order.
      normalizer: of `tokenizers`.
      whole_first: whether a word that is a token is not split, whatever the merges.
      bos: whether BOS is in front of a text unless the file says something else.
    """

    pre_tokenizers: list[dict[str, Any]]
    normalizer: dict[str, Any] | None = None
    whole_first: bool = False
    bos: bool = False


def _words(digits: str) -> list[dict[str, Any]]:
    """The words of GPT-4 and those after it, with numbers of so many digits."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    words = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return [{**words, "invert": False}, {**_BYTE_LEVEL, "use_regex": False}]


# By the name in the file, llama.cpp's.
_SPLITTERS = {
    "gpt-2": _Splitter([_BYTE_LEVEL]),
    "smollm": _Splitter([{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL]),
    "qwen2": _Splitter(_words(r"\p{N}"), normalizer={"type": "NFC"}),
    "llama-bpe": _Splitter(_words(r"\p{N}{1,3}"), whole_first=True, bos=True),
}
_SENTENCEPIECE, _BYTE_BPE = "llama", "gpt2"
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
        f"its tokenizer is of type {quoted(model)}, splits text like {quoted(splitter)} "
        f"and has {len(tokens):,} tokens"
    )
    is_piece = model == _SENTENCEPIECE and "scores" in settings
    if not is_piece and (model != _BYTE_BPE or splitter not in _SPLITTERS):
        return (
            {},
            (
                f"{description}; it cannot be written out here, so give VOCABULARY the model's own "
                f"tokenizer.json"
            ),
        )
    kinds = settings.get("token_type", [1] * len(tokens))
    _check_lists(tokens, kinds, [] if is_piece else settings["merges"])
    has_prefix = bool(settings.get("add_space_prefix", True))
    added = _added_tokens(tokens, kinds, normalized=is_piece and not has_prefix)
    if is_piece:
        parts = _pieces(tokens, kinds, settings, has_prefix)
    else:
        merges = [merge.split(" ") for merge in settings["merges"]]
        parts = _byte_bpe(tokens, merges, _SPLITTERS[splitter])
    has_bos = is_piece or _SPLITTERS[splitter].bos
    template = metadata.get("tokenizer.chat_template")
    files = {
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            # In the order of `tokenizers`: a vocabulary is known by the digest of its file.
            "normalizer": parts["normalizer"],
            "pre_tokenizer": parts["pre_tokenizer"],
            "post_processor": _around(tokens, settings, has_bos),
            "decoder": parts["decoder"],
            "model": parts["model"],
        },
        "tokenizer_config.json": _config(tokens, added, settings, template),
        "generation_config.json": _ids(tokens, settings),
    }
    return {
        name: json.dumps(contents, ensure_ascii=False, indent=1).encode()
        for name, contents in files.items()
    }, description


def _added_tokens(tokens: list[str], kinds: list[int], normalized: bool) -> list[dict[str, Any]]:
    """The control and user-defined tokens, as `tokenizer.json` has them.

    `normalized`: whether user-defined ones are looked for in the text with SentencePiece's spaces.
    """
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    return [
        {
            "id": i,
            "content": token,
            **flags,
            "normalized": normalized and kind == gguf_sentencepiece.USER_DEFINED,
            "special": kind == gguf_sentencepiece.CONTROL,
        }
        for i, (token, kind) in enumerate(zip(tokens, kinds))
        if kind in (gguf_sentencepiece.CONTROL, gguf_sentencepiece.USER_DEFINED)
    ]


def _around(tokens: list[str], settings: dict[str, Any], has_bos: bool) -> dict[str, Any] | None:
    """What puts BOS in front of a text and EOS behind it; None if neither is put there."""
    ids = {
        "bos_token_id": settings.get("add_bos_token", has_bos and "bos_token_id" in settings),
        "eos_token_id": settings.get("add_eos_token", False),
    }
    texts = {name: _token(tokens, settings.get(name), name) for name, put in ids.items() if put}
    if not texts:
        return None
    ends = {name: [{"SpecialToken": {"id": text, "type_id": 0}}] for name, text in texts.items()}

    def around(letter: str, number: int) -> list[dict[str, Any]]:
        text = [{"Sequence": {"id": letter, "type_id": number}}]
        return [*ends.get("bos_token_id", []), *text, *ends.get("eos_token_id", [])]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": {
            text: {"id": text, "ids": [settings[name]], "tokens": [text]}
            for name, text in texts.items()
        },
    }


def _pieces(
    tokens: list[str], kinds: list[int], settings: dict[str, Any], has_prefix: bool
) -> dict[str, Any]:
    gguf_sentencepiece.check(tokens, settings["scores"])
    unknown = settings.get("unknown_token_id")
    model = _bpe(
        tokens,
        gguf_sentencepiece.merges(tokens, kinds, settings["scores"]),
        unk_token=None if unknown is None else _token(tokens, unknown, "unknown_token_id"),
        fuse_unk=True,
        byte_fallback=gguf_sentencepiece.BYTE in kinds,
    )
    return {**gguf_sentencepiece.spaces(has_prefix), "model": model}


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


def _byte_bpe(tokens: list[str], merges: list[list[str]], splitter: _Splitter) -> dict[str, Any]:
    return {
        "normalizer": splitter.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splitter.pre_tokenizers},
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
        "model": _bpe(tokens, merges, ignore_merges=splitter.whole_first),
    }


def _bpe(tokens: list[str], merges: list[list[str]], **fields: Any) -> dict[str, Any]:
    """The model of a `tokenizer.json`, with these fields in place of the usual ones."""
    usual = {
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
    return {**usual, **fields}


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
