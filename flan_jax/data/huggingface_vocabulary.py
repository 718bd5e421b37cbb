"""A `tokenizer.json` of Hugging Face's `tokenizers` (extra `[hf]`) as a vocabulary."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flan_jax.data.special_tokens import SpecialTokens, files_beside, read_special_tokens, until
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import read_json
from flan_jax.storage.hashing import file_digest

# Raise it where the same file leads to other ids than before.
_FORMAT = 2
# What ends a text in the models people use, the first that a vocabulary has; chat models end a turn
# with the first.
_USUAL = {
    "bos": ("<|begin_of_text|>", "<|endoftext|>", "<s>", "<bos>"),
    "eos": ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "</s>"),
}
# In the place of a special token's text, which may stand in a row: no row has this.
_UNSPELLABLE = "\uffff<special token {}>\uffff"


class HuggingFaceVocabulary:
    """The tokenizer in a `tokenizer.json`, with the special tokens that the files beside it name.

    Texts are texts: a row that spells a special token (`</s>`) gets the ids of its characters.
    Truncation, padding and BPE dropout that were saved with the tokenizer are switched off.

    Attributes:
      size: the largest id + 1, whether or not the ids before it are all in use.
      eos_id, eos_ids: what closes a target, and everything that ends an answer.
      bos_id: what a decoder-only model reads first: BOS, or EOS where there is none.
      pad_id: what pads, or None; nothing here reads it.
      input_begin, input_end: the ids around an input: what the tokenizer itself puts around a text
        of an encoder-decoder, EOS at least; for a decoder-only model nothing, and a line break, or
        EOS where the vocabulary has no line breaks.
      digest: of the file; `fingerprint`: of all that decides ids.
      notes: what was guessed, for readers.

    Args:
      path: the file.
      architecture: 't5', 'decoder' or None: an encoder-decoder if the tokenizer puts EOS behind a
        text.

    Raises:
      UserError: if the package is not installed, the file is no tokenizer, or its EOS is unknown.
    """

    def __init__(self, path: str, architecture: str | None = None):
        self.path, self.architecture, self.notes = path, architecture, []
        special = read_special_tokens(
            files_beside(pathlib.Path(path).parent), f"{pathlib.Path(path).parent}/"
        )
        # One character that pads (some models have '!' for it) stays a character, or no text could
        # have it.
        named = [text for kind, text in special.names.items() if kind != "pad" or len(text) > 1]
        self._model, self._ids = _open_tokenizer(path, named)
        self._named_ids = {self._ids[text] for text in named if text in self._ids}
        self._texts = {number: text for text, number in self._ids.items()}
        self._set_special(special)
        self.input_begin, self._closes_with_newline = (), False
        self._set_ends()
        self.size = max(self._ids.values(), default=-1) + 1
        self.digest = file_digest(pathlib.Path(path))
        self.fingerprint = ":".join(
            map(
                str,
                (
                    f"tokenizers{_FORMAT}",
                    self.digest,
                    self.bos_id,
                    self.eos_ids,
                    self.input_begin,
                    self.input_end,
                ),
            )
        )

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text, without BOS and EOS."""
        return self._model.encode(text, add_special_tokens=False).ids

    def encode_input(self, text: str) -> list[int]:
        """Returns the token ids of what a model reads: the text and its end.

        Where the end is a line break, both are encoded as one text.
        """
        if self._closes_with_newline:
            return self.encode(f"{text}\n")
        return [*self.input_begin, *self.encode(text), *self.input_end]

    def encode_target(self, text: str) -> list[int]:
        """Returns the token ids of an answer without EOS, as they follow an input.

        A tokenizer that puts a blank before every text (Llama 2) does not put one behind a line
        break.
        """
        if self._line is not None:
            ids = self.encode(f"a\n{text}")
            if ids[: len(self._line)] == self._line:
                return ids[len(self._line) :]
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text up to the first id that ends one; special tokens are left out."""
        return self._model.decode(
            [i for i in until(self.eos_ids, ids) if i not in self._named_ids],
            skip_special_tokens=True,
        )

    def encode_rendered(self, text: str) -> list[int]:
        """Returns the token ids of a text in which special tokens are spelled.

        As `transformers` reads what a chat template renders.
        """
        return self.rendered_tokens(text)[0]

    def rendered_tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the same ids, and where in the text each of them begins and ends."""
        encoding = self._rendered_model.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    @functools.cached_property
    def _rendered_model(self) -> Any:
        """The tokenizer that reads special tokens as such.

        Without its post-processor, which would leave spaces out of the places of tokens.
        """
        import tokenizers

        contents = {**read_json(self.path), "post_processor": None}
        model = tokenizers.Tokenizer.from_str(json.dumps(contents, ensure_ascii=False))
        model.no_truncation()
        model.no_padding()
        if getattr(model.model, "dropout", None):
            model.model.dropout = None
        named = sorted({*self._named_ids, self.bos_id, *self.eos_ids[:1]})
        model.add_special_tokens([text for i in named if (text := self.token(i))])
        return model

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of special tokens: those that the tokenizer lists, and those with a name."""
        listed = read_json(self.path).get("added_tokens") or ()
        ids = {entry["id"] for entry in listed if entry["special"]}
        return frozenset({*ids, *self._named_ids, self.bos_id, *self.eos_ids})

    def token(self, token_id: int) -> str:
        """Returns the text of a token, special ones included, as the tokenizer's file has it."""
        return self._texts.get(token_id, "")

    def _set_special(self, special: SpecialTokens) -> None:
        eos_ids = self._known(special, "eos") or self._guessed("eos")
        if not eos_ids:
            raise UserError(
                f"VOCABULARY {self.path!r}: no EOS token is known; put tokenizer_config.json with "
                "'eos_token' beside it."
            )
        self.eos_id, self.eos_ids = eos_ids[0], eos_ids
        self.bos_id = (self._known(special, "bos") or self._guessed("bos") or eos_ids)[0]
        most = max([*self._ids.values(), *special.added.values()], default=-1)
        beyond = [i for i in (*eos_ids, self.bos_id) if i > most]
        if beyond:
            raise UserError(
                f"VOCABULARY {self.path!r} has ids up to {most}, but the files beside it give "
                f"{beyond[0]} to a special token; correct generation_config.json (or config.json)."
            )
        self.pad_id = next(iter(self._known(special, "pad")), None)

    def _known(self, special: SpecialTokens, kind: str) -> tuple[int, ...]:
        """The ids of a kind, that which the tokenizer's files name first.

        Raises:
          UserError: if they name a token that the vocabulary does not have.
        """
        text = special.names.get(kind)
        if text is None or text in self._ids:
            named = [] if text is None else [self._ids[text]]
            return tuple(dict.fromkeys([*named, *special.ids.get(kind, ())]))
        if text in special.added or kind == "pad":
            return special.known_ids(kind)
        raise UserError(
            f"VOCABULARY {self.path!r} has no token {shown(text)}, which the files beside it name "
            f"as {kind}_token; correct tokenizer_config.json."
        )

    def _guessed(self, kind: str) -> tuple[int, ...]:
        for text in _USUAL[kind]:
            if text in self._ids:
                self.notes.append(
                    f"VOCABULARY {self.path!r}: no file beside it names the {kind.upper()} token; "
                    f"{text!r} is taken for it. tokenizer_config.json can name another "
                    f"({kind}_token)."
                )
                return (self._ids[text],)
        return ()

    def _set_ends(self) -> None:
        begin, end = self._template()
        closes = self.eos_id in end
        self._line = None
        if self.architecture == "t5" or (self.architecture is None and closes):
            self.input_begin, self.input_end = begin, end if closes else (self.eos_id,)
            return
        first, line = self.encode("a"), self.encode("a\n")
        self._closes_with_newline = "\n" in self._model.decode(line, skip_special_tokens=True)
        if not self._closes_with_newline:
            self.input_end = (self.eos_id,)
            return
        self.input_end = tuple(
            line[len(first) :] if line[: len(first)] == first else self.encode("\n")
        )
        if self.encode("a\nb") != [*line, *self.encode("b")]:
            self._line = line

    def _template(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that the tokenizer itself puts before and behind a text."""
        text, whole = self.encode("a"), self._model.encode("a", add_special_tokens=True).ids
        start = next((i for i in range(len(whole)) if whole[i : i + len(text)] == text), 0)
        return tuple(whole[:start]), tuple(whole[start + len(text) :])


def _open_tokenizer(path: str, special: Iterable[str]) -> tuple[Any, dict[str, int]]:
    """The tokenizer, and its ids by text.

    No text is encoded to the id of one of its special tokens, or of `special`.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            f"VOCABULARY {path!r} needs the package tokenizers: pip install 'flan_jax[hf]'."
        ) from error
    contents = read_json(path)
    try:
        # A single character is its own text, whatever it is for.
        listed = [
            entry["content"]
            for entry in contents.get("added_tokens") or ()
            if entry["special"] and len(entry["content"]) > 1
        ]
        renamed = {
            text: _UNSPELLABLE.format(i)
            for i, text in enumerate(dict.fromkeys([*listed, *special]))
        }
        model = tokenizers.Tokenizer.from_str(_with_names(contents, renamed))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    # the package raises plain exceptions, and panics, which are not even those
    except BaseException as error:
        raise UserError(
            f"VOCABULARY {path!r} is not a readable tokenizer.json ({shown(error)})."
        ) from error
    model.no_truncation()
    model.no_padding()
    if getattr(model.model, "dropout", None):
        model.model.dropout = None
    texts = {name: text for text, name in renamed.items()}
    return model, {
        texts.get(name, name): number
        for name, number in model.get_vocab(with_added_tokens=True).items()
    }


def _with_names(contents: dict[str, Any], renamed: Mapping[str, str]) -> str:
    """The JSON of a tokenizer with other texts for some tokens, which nothing merges into."""
    model = dict(contents["model"])
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {renamed.get(text, text): number for text, number in vocab.items()}
    else:
        model["vocab"] = [[renamed.get(text, text), score] for text, score in vocab]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    if model.get("merges"):
        pairs = [
            tuple(merge.split(" ")) if isinstance(merge, str) else merge
            for merge in model["merges"]
        ]
        model["merges"] = [
            list(pair) for pair in pairs if not {*pair, "".join(pair)} & renamed.keys()
        ]
    added = [
        {
            **entry,
            "content": renamed.get(entry["content"], entry["content"]),
            "special": entry["special"] and entry["content"] in renamed,
        }
        for entry in contents.get("added_tokens") or ()
    ]
    return json.dumps({**contents, "model": model, "added_tokens": added}, ensure_ascii=False)
