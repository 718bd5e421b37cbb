"""Vocabularies that work without TensorFlow: bytes, SentencePiece files, and Hugging Face's `tokenizer.json`.

Each has `size`, `fingerprint`, `encode`, `decode`, `seqio`, and the ids that stand around a text: `eos_id` ends every
target, `bos_id` is what a decoder reads first, and `input_end` closes the inputs. A vocabulary that a model was not
pretrained with closes them as T5X does, with EOS; a pretrained language model's closes them with a line break.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from flan_jax.data.hashing import file_digest
from flan_jax.errors import UserError

PAD, EOS = 0, 1
# What a directory's vocabulary is called, the best first.
VOCABULARY_FILES = ("tokenizer.json", "spiece.model", "sentencepiece.model", "tokenizer.model")
# Embedding tables are padded to a multiple of this, as T5's 32,100 ids are to 32,128.
_MULTIPLE = 128


class ByteVocabulary:
    """UTF-8 bytes, shifted by 3 as in ByT5 (pad 0, end of sequence 1, unknown 2); needs no file."""

    size = 259
    fingerprint = "bytes"
    bos_id, eos_id, input_end = PAD, EOS, (EOS,)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without EOS."""
        return [byte + 3 for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        """The text up to the first EOS; ids that are no byte are left out."""
        return bytes(i - 3 for i in until(EOS, ids) if 3 <= i < 259).decode(errors="ignore")

    def seqio(self):
        """The same vocabulary for SeqIO pipelines; imports TensorFlow."""
        import seqio

        return seqio.ByteVocabulary()


class SentencePieceVocabulary:
    """A SentencePiece model file, with 100 sentinel ids after its pieces as T5 has them.

    Raises:
      UserError: if the file is missing, is no SentencePiece model, or has other ids for pad and EOS than T5 (0, 1).
    """

    extra_ids = 100
    bos_id, eos_id, input_end = PAD, EOS, (EOS,)

    def __init__(self, path: str):
        import sentencepiece

        self.path = path
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=path)
        except (OSError, RuntimeError) as error:
            raise UserError(f"VOCABULARY {path!r} is not a readable SentencePiece model ({error}).") from error
        if (self._model.pad_id(), self._model.eos_id()) != (PAD, EOS):
            raise UserError(f"VOCABULARY {path!r} has pad id {self._model.pad_id()} and EOS id {self._model.eos_id()}; "
                            "a T5 vocabulary has 0 and 1.")
        self.size = self._model.get_piece_size() + self.extra_ids
        self.fingerprint = f"sentencepiece:{file_digest(pathlib.Path(path))}"

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without EOS."""
        return self._model.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text up to the first EOS; sentinel and padding ids are left out."""
        pieces = self._model.get_piece_size()
        return self._model.decode([int(i) for i in until(EOS, ids) if 0 < i < pieces])

    def seqio(self):
        """The same vocabulary for SeqIO pipelines; imports TensorFlow."""
        import seqio

        return seqio.SentencePieceVocabulary(self.path, extra_ids=self.extra_ids)


class HuggingFaceVocabulary:
    """A `tokenizer.json` of Hugging Face's `tokenizers` (extra `[hf]`).

    EOS and BOS are those that `tokenizer_config.json` beside it names; a file that stands alone must hold one of the
    usual EOS tokens.

    Raises:
      UserError: if the package is not installed, the file is no tokenizer, or its EOS cannot be told.
    """

    def __init__(self, path: str):
        try:
            import tokenizers
        except ImportError as error:
            raise UserError(f"VOCABULARY {path!r} needs the package tokenizers: pip install 'flan_jax[hf]'.") from error
        self.path = path
        try:
            self._model = tokenizers.Tokenizer.from_file(path)
        except Exception as error:  # the package raises plain exceptions
            raise UserError(f"VOCABULARY {path!r} is not a readable tokenizer.json ({error}).") from error
        special = _special_tokens(pathlib.Path(path).parent)
        self.eos_id = self._id(special.get("eos_token"), _USUAL_EOS)
        if self.eos_id is None:
            raise UserError(f"VOCABULARY {path!r}: no EOS token is known; put tokenizer_config.json with 'eos_token' "
                            "beside it.")
        bos = self._id(special.get("bos_token"), _USUAL_BOS)
        self.bos_id = self.eos_id if bos is None else bos
        self.input_end = tuple(self.encode("\n"))
        self.size = self._model.get_vocab_size(with_added_tokens=True)
        self.fingerprint = f"tokenizers:{file_digest(pathlib.Path(path))}:{self.bos_id}:{self.eos_id}"

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without BOS and EOS."""
        return self._model.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text up to the first EOS; special tokens are left out."""
        return self._model.decode(until(self.eos_id, ids), skip_special_tokens=True)

    def seqio(self):
        """The same vocabulary for SeqIO pipelines; imports TensorFlow."""
        from flan_jax.data.seqio_vocabulary import SeqioVocabulary

        return SeqioVocabulary(self)

    def _id(self, token: str | None, usual: Sequence[str]) -> int | None:
        found = [self._model.token_to_id(name) for name in ([token] if token else usual)]
        return next((i for i in found if i is not None), None)


# What ends a text in the models people use, the first that a vocabulary has; chat models end a turn with the first.
_USUAL_BOS = ("<|begin_of_text|>", "<|endoftext|>", "<s>", "<bos>")
_USUAL_EOS = ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "</s>")


def _special_tokens(directory: pathlib.Path) -> dict[str, str]:
    """`bos_token` and `eos_token`, as the files beside a tokenizer name them."""
    path = directory / "tokenizer_config.json"
    config = read_json(path, path.read_bytes()) if path.is_file() else {}
    tokens = {name: config.get(name) for name in ("bos_token", "eos_token")}
    return {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items() if token}


def read_json(path: pathlib.Path | str, contents: bytes) -> dict[str, Any]:
    """The object in a JSON file that belongs to a tokenizer.

    Raises:
      UserError: if there is none in it, as where the file was cut short on its way.
    """
    try:
        value = json.loads(contents)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not readable JSON; download it again.")
    return value


Vocabulary = ByteVocabulary | SentencePieceVocabulary | HuggingFaceVocabulary


def until(eos_id: int, ids: Sequence[int]) -> list[int]:
    """The ids before the first EOS."""
    ids = [int(i) for i in ids]
    return ids[: ids.index(eos_id)] if eos_id in ids else ids


def padded_size(vocabulary: Vocabulary) -> int:
    """Rows of the embedding table: the vocabulary's size, up to the next multiple of 128."""
    return -(-vocabulary.size // _MULTIPLE) * _MULTIPLE


@functools.cache
def load_vocabulary(name: str) -> Vocabulary:
    """The vocabulary that VOCABULARY names: 'bytes', a SentencePiece model, a tokenizer.json or a directory with one.

    Raises:
      UserError: if it is none of them.
    """
    if name == "bytes":
        return ByteVocabulary()
    path = pathlib.Path(name).expanduser()
    if path.is_dir():
        path = next((path / file for file in VOCABULARY_FILES if (path / file).is_file()), path)
    if not path.is_file():
        raise UserError(f"VOCABULARY {name!r} is neither 'bytes' nor a file; give the path of a SentencePiece model, "
                        "or of a tokenizer.json.")
    return (HuggingFaceVocabulary if path.suffix == ".json" else SentencePieceVocabulary)(str(path))
