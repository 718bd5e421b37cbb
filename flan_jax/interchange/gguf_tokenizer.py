"""The tokenizer inside a GGUF file as Hugging Face's `tokenizer.json` and `tokenizer_config.json`.

Byte-level BPE whose way of splitting text is known here by its name in the file is written out; of any other tokenizer
only what it is.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from flan_jax.interchange.gguf import open_reader

_PREFIX = "tokenizer.ggml."
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# Name in the file (llama.cpp's) -> how `tokenizers` says the same.
_SPLITTERS = {
    "gpt-2": [_BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
}
_CONTROL, _USER_DEFINED = 3, 4  # Kinds of token.


def tokenizer_of(path: pathlib.Path) -> tuple[dict[str, bytes], str]:
    """(files by name, what tokenizer it is in one sentence); there are no files if it cannot be written out."""
    fields = open_reader(path).fields
    found = {name.removeprefix(_PREFIX): field for name, field in fields.items() if name.startswith(_PREFIX)}
    if "tokens" not in found:
        return {}, "the file holds no tokenizer"
    tokens, model = found["tokens"].contents(), found["model"].contents()
    splitter = found["pre"].contents() if "pre" in found else None
    says = f"its tokenizer is of type {model!r}, splits text like {splitter!r} and has {len(tokens):,} tokens"
    adds_bos = "add_bos_token" in found and found["add_bos_token"].contents()
    if model != "gpt2" or splitter not in _SPLITTERS or adds_bos:
        return {}, f"{says}; it cannot be written out here, so give VOCABULARY the model's own tokenizer.json"
    kinds = found["token_type"].contents() if "token_type" in found else [1] * len(tokens)
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": kind == _CONTROL}
             for i, (token, kind) in enumerate(zip(tokens, kinds)) if kind in (_CONTROL, _USER_DEFINED)]
    merges = [merge.split(" ") for merge in found["merges"].contents()]
    template = fields["tokenizer.chat_template"].contents() if "tokenizer.chat_template" in fields else None
    files = {"tokenizer.json": _tokenizer(tokens, merges, added, splitter),
             "tokenizer_config.json": _config(tokens, added, found, template)}
    return {name: json.dumps(contents, ensure_ascii=False, indent=1).encode() for name, contents in files.items()}, says


def _tokenizer(tokens: list[str], merges: list[list[str]], added: list[dict[str, Any]], splitter: str) -> dict:
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": _SPLITTERS[splitter]}, "post_processor": None,
            "decoder": {**_BYTE_LEVEL, "add_prefix_space": True}, "model": model}


def _config(tokens: list[str], added: list[dict[str, Any]], found: dict[str, Any], template: str | None) -> dict:
    kinds = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
    special = {f"{kind}_token": tokens[found[name].contents()] for kind, name in kinds.items() if name in found}
    decoder = {str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in added}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": decoder, "add_prefix_space": False,
            "clean_up_tokenization_spaces": False, **special, **({"chat_template": template} if template else {})}
