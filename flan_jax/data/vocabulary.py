"""Vocabularies that work without TensorFlow: bytes, SentencePiece, `tokenizer.json`.

Each has `size`, `fingerprint`, `encode`, `decode`, and the ids that stand around a text: `eos_id`
ends every target and any of `eos_ids` an answer, `bos_id` is what a decoder-only model reads first,
and `input_end` closes the inputs. `encode_input` and `encode_target` return what models read and
write. An encoder-decoder's inputs, and those in a vocabulary that a model was not pretrained with,
are closed as T5X does, with EOS; a pretrained language model's with a line break.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

from flan_jax.data.chat.chat_vocabulary import ChatVocabulary
from flan_jax.data.chat.choose import AUTO, with_chat_template
from flan_jax.data.huggingface_vocabulary import HuggingFaceVocabulary
from flan_jax.data.special_tokens import (
    CHAT_TEMPLATE,
    CONFIG,
    FILES,
    GENERATION_CONFIG,
    files_beside,
    read_special_tokens,
    until,
)
from flan_jax.errors import UserError
from flan_jax.storage.copies import fetch_all, is_small, origin, read_path
from flan_jax.storage.hashing import file_digest

PAD, EOS = 0, 1
# What a directory's vocabulary is called, the best first.
VOCABULARY_FILES = ("tokenizer.json", "spiece.model", "sentencepiece.model", "tokenizer.model")
# What is read of a tokenizer, in the directory of its vocabulary.
TOKENIZER_FILES = (*VOCABULARY_FILES, *FILES, CHAT_TEMPLATE, "vocab.json", "merges.txt")
# Embedding tables are padded to a multiple of this, as T5's 32,100 ids are to 32,128.
_MULTIPLE = 128


class ByteVocabulary:
    """UTF-8 bytes, shifted by 3 as in ByT5 (pad 0, end of sequence 1, unknown 2); needs no file."""

    size = 259
    fingerprint = "bytes"
    pad_id, bos_id, eos_id, eos_ids, notes = PAD, PAD, EOS, (EOS,), ()
    input_begin, input_end = (), (EOS,)

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text, without EOS."""
        return [byte + 3 for byte in text.encode()]

    def encode_input(self, text: str) -> list[int]:
        """Returns the token ids of what a model reads: the text and EOS."""
        return [*self.encode(text), EOS]

    def encode_target(self, text: str) -> list[int]:
        """Returns the token ids of an answer, without EOS."""
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text up to the first EOS; ids that are not a byte are left out."""
        return bytes(i - 3 for i in until(self.eos_ids, ids) if 3 <= i < 259).decode(
            errors="ignore"
        )


class SentencePieceVocabulary:
    """A SentencePiece model file, with 100 sentinel ids after its pieces as T5 has them.

    Raises:
      UserError: if the file is missing, is no SentencePiece model, or has other ids for pad and EOS
        than T5 (0, 1).
    """

    extra_ids = 100
    pad_id, bos_id, eos_id, notes = PAD, PAD, EOS, ()
    input_begin, input_end = (), (EOS,)

    def __init__(self, path: str):
        import sentencepiece

        self.path = path
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=path)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"VOCABULARY {path!r} is not a readable SentencePiece model ({error})."
            ) from error
        if (self._model.pad_id(), self._model.eos_id()) != (PAD, EOS):
            raise UserError(
                f"VOCABULARY {path!r} has pad id {self._model.pad_id()} and EOS id "
                f"{self._model.eos_id()}; a T5 vocabulary has 0 and 1."
            )
        self.eos_ids = tuple(dict.fromkeys([EOS, *_ends_beside(pathlib.Path(path))]))
        self.size = self._model.get_piece_size() + self.extra_ids
        ends = "" if self.eos_ids == (EOS,) else f":{self.eos_ids}"
        self.fingerprint = f"sentencepiece:{file_digest(pathlib.Path(path))}{ends}"

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text, without EOS."""
        return self._model.encode(text)

    def encode_input(self, text: str) -> list[int]:
        """Returns the token ids of what a model reads: the text and EOS."""
        return [*self.encode(text), EOS]

    def encode_target(self, text: str) -> list[int]:
        """Returns the token ids of an answer, without EOS."""
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text up to the first id that ends one, without sentinels and padding."""
        pieces = self._model.get_piece_size()
        return self._model.decode([i for i in until(self.eos_ids, ids) if 0 < i < pieces])


def _ends_beside(path: pathlib.Path) -> tuple[int, ...]:
    """The EOS ids of the model whose directory a SentencePiece file is in; else none."""
    if path.name not in VOCABULARY_FILES:
        return ()
    files = files_beside(path.parent)
    ids = {name: files[name] for name in (GENERATION_CONFIG, CONFIG) if name in files}
    return read_special_tokens(ids, f"{path.parent}/").ids.get("eos", ())


Vocabulary = ByteVocabulary | SentencePieceVocabulary | HuggingFaceVocabulary | ChatVocabulary


def padded_size(vocabulary: Vocabulary) -> int:
    """Returns the rows of the embedding table: the size, up to the next multiple of 128."""
    return -(-vocabulary.size // _MULTIPLE) * _MULTIPLE


@functools.cache
def load_vocabulary(
    name: str, architecture: str | None = None, chat_template: str | None = None
) -> Vocabulary:
    """Returns the vocabulary of a name.

    Args:
      name: VOCABULARY: 'bytes', a SentencePiece model, a tokenizer.json, or a directory with one.
      architecture: 't5' or 'decoder', which decides how a tokenizer.json closes inputs; see
        `HuggingFaceVocabulary`.
      chat_template: CHAT_TEMPLATE: 'auto', a file, or None for the tokenizer alone.

    Raises:
      UserError: if it is none of them, or the chat template is not usable.
    """
    if chat_template not in (None, AUTO) and not name.endswith(".json"):
        directory = vocabulary_path(name)
        if not (directory / VOCABULARY_FILES[0]).is_file():
            raise UserError(
                f"CHAT_TEMPLATE needs a tokenizer.json, and VOCABULARY {name!r} is none; give the "
                "model's own, or set CHAT_TEMPLATE=None."
            )
    if name == "bytes":
        return ByteVocabulary()
    path = vocabulary_path(name)
    if path.is_dir():
        path = next((path / file for file in VOCABULARY_FILES if (path / file).is_file()), path)
    if not path.is_file():
        raise UserError(
            f"VOCABULARY {name!r} is neither 'bytes' nor a file; give the path of a SentencePiece "
            "model, or of a tokenizer.json."
        )
    if path.suffix == ".json":
        plain = HuggingFaceVocabulary(str(path), architecture)
        return plain if chat_template is None else with_chat_template(plain, chat_template)
    return SentencePieceVocabulary(str(path))


def vocabulary_path(name: str, setting: str = "VOCABULARY") -> pathlib.Path:
    """Returns the path of a vocabulary; in a bucket, that of a copy with the files beside it.

    Args:
      name: of a file, or of a directory.
      setting: what it was given as, for messages.

    Raises:
      UserError: if it is not a valid name, or the bucket cannot be read.
    """
    path = read_path(name, setting, is_small)
    if path.is_file() and origin(path):
        fetch_all(path.parent / file for file in TOKENIZER_FILES)
    return path
