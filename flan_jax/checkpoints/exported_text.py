"""What an export to Hugging Face says about text: ids, tokenizer files, a chat template,
`generation_config.json`.

With them three lines of `transformers` read a prompt and answer it as `flan-jax generate` does.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from flan_jax.checkpoints.reader import Source
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

# Of T5, where no file says otherwise.
_T5_IDS = {"eos_token_id": 1, "pad_token_id": 0}
_T5_TOKENS = {"pad": "<pad>", "eos": "</s>"}
# ByT5's tokenizer has 259 ids and so many sentinels, which fill the rows of the embedding.
_BYTE_IDS, _BYTE_SENTINELS = 259, 125


def token_ids(source: Source, vocabulary: Vocabulary | None, is_tuned: bool) -> dict[str, Any]:
    """Returns `bos_token_id` and so on for `config.json`: an id, a list of several EOS ids, or
    None.

    Those of a run are what it was trained with; those of a model that was only converted are its
    own.

    Args:
      source: the model, with the files of its tokenizer.
      vocabulary: what made its ids, where it is known.
      is_tuned: whether it comes from a run.
    """
    special = read_special_tokens(source.tokenizer)
    given = {kind: special.ids.get(kind) or special.known_ids(kind) for kind in KINDS}
    used = {}
    if vocabulary is not None:
        used = {
            "eos": vocabulary.eos_ids,
            "pad": () if vocabulary.pad_id is None else (vocabulary.pad_id,),
        }
        used |= {"bos": (vocabulary.bos_id,)} if source.model == "decoder" else {}
    first, then = (used, given) if is_tuned else (given, used)
    ids = {kind: first.get(kind) or then.get(kind) or () for kind in KINDS}
    ids = {
        f"{kind}_token_id": _one_or_several(of if kind == "eos" else of[:1])
        for kind, of in ids.items()
    }
    if source.model == "decoder":
        return ids
    known = {name: value for name, value in ids.items() if value is not None}
    return {**_T5_IDS, **known, "decoder_start_token_id": source.fields.get("decoder_start_id", 0)}


def _one_or_several(ids: tuple[int, ...]) -> int | list[int] | None:
    return list(ids) if len(ids) > 1 else next(iter(ids), None)


def generation_config(ids: dict[str, Any], most_tokens: int) -> bytes:
    """Returns `generation_config.json`: the ids, and the most tokens of an answer."""
    return _json(
        {
            **{name: value for name, value in ids.items() if value is not None},
            "max_new_tokens": most_tokens,
        }
    )


def tokenizer_files(
    source: Source, vocabulary: Vocabulary, ids: dict[str, Any], is_tuned: bool
) -> tuple[dict[str, bytes | None], list[str]]:
    """Returns (files that go beside the vocabulary's own, None for one that must not be there;
    notes for readers).

    A run's export has the prompt form of the training as its chat template; a model that was only
    converted keeps its own template, if it has one.

    Args:
      source, vocabulary, is_tuned: as in `token_ids`.
      ids: what `token_ids` gives.
    """
    given = source.tokenizer
    config = (
        parse_json(given[TOKENIZER_CONFIG], TOKENIZER_CONFIG) if TOKENIZER_CONFIG in given else {}
    )
    config = {**_default_config(vocabulary, source), **config}
    names = _names(vocabulary, ids, source.model)
    config |= (
        names
        if is_tuned
        else {name: text for name, text in names.items() if config.get(name) is None}
    )
    files: dict[str, bytes | None] = {}
    notes: list[str] = []
    if is_tuned or not (CHAT_TEMPLATE in given or config.get("chat_template")):
        config["chat_template"], notes = chat_template(source, vocabulary)
        # `transformers` would take these for it.
        files |= {name: None for name in (CHAT_TEMPLATE,) if name in given}
    if is_tuned and SPECIAL_TOKENS_MAP in given:
        files[SPECIAL_TOKENS_MAP] = _json(
            {**parse_json(given[SPECIAL_TOKENS_MAP], SPECIAL_TOKENS_MAP), **names}
        )
    return {**files, TOKENIZER_CONFIG: _json(config)}, notes


def has_template(directory: pathlib.Path) -> bool:
    """Returns whether the tokenizer in an export's directory has a chat template."""
    config = directory / TOKENIZER_CONFIG
    return (directory / CHAT_TEMPLATE).is_file() or (
        config.is_file() and bool(read_json(config).get("chat_template"))
    )


def _default_config(vocabulary: Vocabulary, source: Source) -> dict[str, Any]:
    """What `tokenizer_config.json` says where the tokenizer has none."""
    common = {"clean_up_tokenization_spaces": False, "model_max_length": int(1e30)}
    if isinstance(vocabulary, ByteVocabulary):
        sentinels = max(0, min(source.fields["vocab_size"] - _BYTE_IDS, _BYTE_SENTINELS))
        # As texts they take no blanks away from what stands beside them.
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


def _names(vocabulary: Vocabulary, ids: dict[str, Any], model: str) -> dict[str, str]:
    """The texts of the special tokens, by their names in `tokenizer_config.json`."""
    if isinstance(vocabulary, ByteVocabulary):
        return {}  # they stand there as they are
    if isinstance(vocabulary, SentencePieceVocabulary):
        return {f"{kind}_token": text for kind, text in _T5_TOKENS.items()}
    numbers = {
        "eos_token": vocabulary.eos_id,
        "pad_token": ids["pad_token_id"],
        "bos_token": vocabulary.bos_id if model == "decoder" else None,
    }
    return {
        name: text
        for name, number in numbers.items()
        if number is not None and (text := vocabulary.token(number))
    }


def chat_template(source: Source, vocabulary: Vocabulary) -> tuple[str, list[str]]:
    """Returns (the prompt form of the training as a Jinja template, notes): one message of the
    user's, then the answer.

    What is rendered is tokenized without further special tokens, hence those of the training stand
    in it.
    """
    text = _text_of(vocabulary)
    end = (
        "\n"
        if vocabulary.decode(vocabulary.input_end) == "\n"
        else "".join(map(text, vocabulary.input_end))
    )
    if source.model == "t5":
        begin, answered = "".join(map(text, vocabulary.input_begin)), ""
    else:
        begin, answered = text(vocabulary.bos_id), text(vocabulary.eos_id)
    begin, notes = _with_blank(vocabulary, begin, end)
    most = 1 if source.model == "t5" else 2
    refused = json.dumps(
        "this model reads one message of the user's; put all that it has to read into it"
    )
    lines = [
        "{%- if not 1 <= messages | length <= " + str(most) + " or messages[0]['role'] != 'user' "
        "or (messages | length == 2 and messages[1]['role'] != 'assistant') -%}",
        "{{- raise_exception(" + refused + ") -}}",
        "{%- endif -%}",
        "{{- " + f"{_literal(begin)} + messages[0]['content'] + {_literal(end)}" + " -}}",
    ]
    if most == 2:
        lines += [
            "{%- if messages | length == 2 -%}",
            "{{- messages[1]['content'] + " + _literal(answered) + " -}}",
            "{%- endif -%}",
        ]
    return "\n".join(lines), notes


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _text_of(vocabulary: Vocabulary):
    """A function from a special token's id to its text."""
    if isinstance(vocabulary, HuggingFaceVocabulary):
        return vocabulary.token
    return {vocabulary.pad_id: _T5_TOKENS["pad"], vocabulary.eos_id: _T5_TOKENS["eos"]}.__getitem__


def _with_blank(vocabulary: Vocabulary, begin: str, end: str) -> tuple[str, list[str]]:
    """(`begin`, with a blank behind it where the tokenizer leaves out its own there, notes).

    Some tokenizers put a blank before a text, but not where a special token stands before it.
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
        "the tokenizer gives other ids for the chat template's text than the training had (it is "
        "of a kind whose ids depend on what stands beside a special token), so answers may differ "
        "a little"
    ]


def _json(contents: dict[str, Any]) -> bytes:
    return (json.dumps(contents, indent=2, ensure_ascii=False) + "\n").encode()
