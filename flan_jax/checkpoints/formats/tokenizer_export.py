"""The text side of an export to Hugging Face: special ids, tokenizer files, a chat template.

With them three lines of `transformers` read a prompt and answer it as `flan-jax generate` does.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

from flan_jax.checkpoints.reader import CheckpointReader
from flan_jax.data.chat.chat_vocabulary import ChatVocabulary
from flan_jax.data.special_tokens import (
    CHAT_TEMPLATE,
    KINDS,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    read_special_tokens,
)
from flan_jax.data.vocabulary import (
    ByteVocabulary,
    HuggingFaceVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
)
from flan_jax.storage.files import parse_json, read_json

# Of T5, where no file has others.
_T5_IDS = {"eos_token_id": 1, "pad_token_id": 0}
_T5_TOKENS = {"pad": "<pad>", "eos": "</s>"}
# ByT5's tokenizer has 259 ids and 125 sentinels, which fill the rows of the embedding.
_BYTE_IDS, _BYTE_SENTINELS = 259, 125


def token_ids(
    checkpoint: CheckpointReader, vocabulary: Vocabulary | None, is_tuned: bool
) -> dict[str, Any]:
    """Returns `bos_token_id` and so on for `config.json`: an id, a list of EOS ids, or None.

    Those of a run are what it was trained with; those of a model that was only converted are its
    own.

    Args:
      checkpoint: the model, with the files of its tokenizer.
      vocabulary: what its inputs and targets were tokenized with, where it is known.
      is_tuned: whether it comes from a run.
    """
    is_decoder = checkpoint.architecture == "decoder"
    special = read_special_tokens(checkpoint.tokenizer)
    in_files = {kind: special.ids.get(kind) or special.known_ids(kind) for kind in KINDS}
    in_training = _training_ids(vocabulary, is_decoder) if vocabulary is not None else {}
    first, second = (in_training, in_files) if is_tuned else (in_files, in_training)
    ids: dict[str, Any] = {}
    for kind in KINDS:
        kind_ids = first.get(kind) or second.get(kind) or ()
        ids[f"{kind}_token_id"] = _one_or_several(kind_ids if kind == "eos" else kind_ids[:1])
    if is_decoder:
        return ids
    known = {name: value for name, value in ids.items() if value is not None}
    start_id = checkpoint.config.decoder_start_id
    return {**_T5_IDS, **known, "decoder_start_token_id": start_id}


def _training_ids(vocabulary: Vocabulary, is_decoder: bool) -> dict[str, tuple[int, ...]]:
    ids = {
        "eos": vocabulary.eos_ids,
        "pad": () if vocabulary.pad_id is None else (vocabulary.pad_id,),
    }
    plain = vocabulary.plain if isinstance(vocabulary, ChatVocabulary) else vocabulary
    return {**ids, "bos": (plain.bos_id,)} if is_decoder else ids


def _one_or_several(ids: tuple[int, ...]) -> int | list[int] | None:
    return list(ids) if len(ids) > 1 else next(iter(ids), None)


def generation_config(ids: dict[str, Any], max_new_tokens: int) -> bytes:
    """Returns `generation_config.json`: the ids, and the most tokens of an answer."""
    known = {name: value for name, value in ids.items() if value is not None}
    return _json({**known, "max_new_tokens": max_new_tokens})


def export_tokenizer(
    checkpoint: CheckpointReader, vocabulary: Vocabulary, ids: dict[str, Any], is_tuned: bool
) -> tuple[dict[str, bytes | None], list[str]]:
    """Returns (files that go beside the vocabulary's own, notes for the user).

    A run's export has the chat template of its training, or the prompt form of the training as its
    template; a model that was only converted keeps its own template, if it has one. A file that
    must not be there is None.

    Args:
      checkpoint: as in `token_ids`.
      vocabulary: as in `token_ids`.
      ids: the result of `token_ids`.
      is_tuned: as in `token_ids`.
    """
    given = checkpoint.tokenizer
    config = parse_json(given.get(TOKENIZER_CONFIG, b"{}"), TOKENIZER_CONFIG)
    config = {**_default_config(vocabulary, checkpoint), **config}
    names = _names(vocabulary, ids, checkpoint.architecture)
    if is_tuned:
        config |= names
    else:
        config |= {name: text for name, text in names.items() if config.get(name) is None}
    files: dict[str, bytes | None] = {}
    notes: list[str] = []
    if isinstance(vocabulary, ChatVocabulary):
        config["chat_template"] = vocabulary.template.as_setting()
        if CHAT_TEMPLATE in given:
            files[CHAT_TEMPLATE] = None  # `transformers` would prefer it
    elif is_tuned or not (CHAT_TEMPLATE in given or config.get("chat_template")):
        config["chat_template"], notes = chat_template(checkpoint, vocabulary)
        if CHAT_TEMPLATE in given:
            files[CHAT_TEMPLATE] = None  # `transformers` would prefer it
    if is_tuned and SPECIAL_TOKENS_MAP in given:
        special = parse_json(given[SPECIAL_TOKENS_MAP], SPECIAL_TOKENS_MAP)
        files[SPECIAL_TOKENS_MAP] = _json({**special, **names})
    return {**files, TOKENIZER_CONFIG: _json(config)}, notes


def has_chat_template(directory: pathlib.Path) -> bool:
    """Returns whether the tokenizer in an export's directory has a chat template."""
    if (directory / CHAT_TEMPLATE).is_file():
        return True
    config = directory / TOKENIZER_CONFIG
    return config.is_file() and bool(read_json(config).get("chat_template"))


def _default_config(vocabulary: Vocabulary, checkpoint: CheckpointReader) -> dict[str, Any]:
    """The contents of `tokenizer_config.json` where the tokenizer has none."""
    common = {"clean_up_tokenization_spaces": False, "model_max_length": int(1e30)}
    if isinstance(vocabulary, ByteVocabulary):
        sentinels = max(0, min(checkpoint.config.vocab_size - _BYTE_IDS, _BYTE_SENTINELS))
        # As texts alone they would remove the spaces beside them.
        plain = {
            f"{kind}_token": {
                "__type": "AddedToken",
                "content": text,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "single_word": False,
                "special": True,
            }
            for kind, text in {**_T5_TOKENS, "unk": "<unk>"}.items()
        }
        return {**common, "tokenizer_class": "ByT5Tokenizer", "extra_ids": sentinels, **plain}
    if isinstance(vocabulary, SentencePieceVocabulary):
        return {
            **common,
            "tokenizer_class": "T5Tokenizer",
            "extra_ids": vocabulary.extra_ids,
            "unk_token": "<unk>",
        }
    inputs = ["input_ids", "attention_mask"]
    return {**common, "tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs}


def _names(vocabulary: Vocabulary, ids: dict[str, Any], architecture: str) -> dict[str, str]:
    """The texts of the special tokens, by their names in `tokenizer_config.json`."""
    if isinstance(vocabulary, ByteVocabulary):
        return {}  # `_default_config` has them
    if isinstance(vocabulary, SentencePieceVocabulary):
        return {f"{kind}_token": text for kind, text in _T5_TOKENS.items()}
    bos_id = None
    if architecture == "decoder":
        # A chat template has what a model reads first, and names BOS as the tokenizer does.
        is_chat = isinstance(vocabulary, ChatVocabulary)
        bos_id = vocabulary.plain.bos_id if is_chat else vocabulary.bos_id
    numbers = {
        "eos_token": vocabulary.eos_id,
        "pad_token": ids["pad_token_id"],
        "bos_token": bos_id,
    }
    return {
        name: text
        for name, number in numbers.items()
        if number is not None and (text := vocabulary.token(number))
    }


def chat_template(checkpoint: CheckpointReader, vocabulary: Vocabulary) -> tuple[str, list[str]]:
    """Returns (the prompt form of the training as a Jinja template, notes for the user).

    It renders one message of the user's, then the answer. What is rendered is tokenized without
    further special tokens, hence those of the training are in it.
    """
    text = _text_of(vocabulary)
    is_newline = vocabulary.decode(vocabulary.input_end) == "\n"
    end = "\n" if is_newline else "".join(map(text, vocabulary.input_end))
    if checkpoint.architecture == "t5":
        begin, answer_end = "".join(map(text, vocabulary.input_begin)), ""
    else:
        begin, answer_end = text(vocabulary.bos_id), text(vocabulary.eos_id)
    begin, notes = _with_space(vocabulary, begin, end)
    most = 1 if checkpoint.architecture == "t5" else 2
    refusal = json.dumps(
        "this model reads one message of the user's; put all that it has to read into it"
    )
    lines = [
        "{%- if not 1 <= messages | length <= " + str(most) + " or messages[0]['role'] != 'user' "
        "or (messages | length == 2 and messages[1]['role'] != 'assistant') -%}",
        "{{- raise_exception(" + refusal + ") -}}",
        "{%- endif -%}",
        "{{- " + f"{_literal(begin)} + messages[0]['content'] + {_literal(end)}" + " -}}",
    ]
    if most == 2:
        lines += [
            "{%- if messages | length == 2 -%}",
            "{{- messages[1]['content'] + " + _literal(answer_end) + " -}}",
            "{%- endif -%}",
        ]
    return "\n".join(lines), notes


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _text_of(vocabulary: Vocabulary) -> Callable[[int], str]:
    """The function from a special token's id to its text."""
    if isinstance(vocabulary, HuggingFaceVocabulary):
        return vocabulary.token
    return {vocabulary.pad_id: _T5_TOKENS["pad"], vocabulary.eos_id: _T5_TOKENS["eos"]}.__getitem__


def _with_space(vocabulary: Vocabulary, begin: str, end: str) -> tuple[str, list[str]]:
    """(`begin`, with a space after it where the tokenizer omits its own there, notes).

    Some tokenizers put a space before a text, but not after a special token.
    """
    if not isinstance(vocabulary, HuggingFaceVocabulary):
        return begin, []
    text = "Is it wet? It is!"
    expected = vocabulary.encode_input(text)
    for candidate in (begin, f"{begin} "):
        rendered = vocabulary.encode_rendered(f"{candidate}{text}{end}")
        if rendered[len(rendered) - len(expected) :] == expected:
            return candidate, []
    return begin, [
        "the tokenizer gives other ids for the chat template's text than the training had (its ids "
        "depend on the text beside a special token), so answers may differ a little"
    ]


def _json(contents: dict[str, Any]) -> bytes:
    return (json.dumps(contents, indent=2, ensure_ascii=False) + "\n").encode()
