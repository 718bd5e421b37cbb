"""Vocabularies that work without TensorFlow: bytes, and SentencePiece files; each also as SeqIO's own class."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

from flan_jax.data.hashing import file_digest
from flan_jax.errors import UserError

PAD, EOS = 0, 1
# Embedding tables are padded to a multiple of this, as T5's 32,100 ids are to 32,128.
_MULTIPLE = 128


class ByteVocabulary:
    """UTF-8 bytes, shifted by 3 as in ByT5 (pad 0, end of sequence 1, unknown 2); needs no file."""

    size = 259
    fingerprint = "bytes"

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without EOS."""
        return [byte + 3 for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        """The text up to the first EOS; ids that are no byte are left out."""
        return bytes(i - 3 for i in until_eos(ids) if 3 <= i < 259).decode(errors="ignore")

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
        return self._model.decode([int(i) for i in until_eos(ids) if 0 < i < pieces])

    def seqio(self):
        """The same vocabulary for SeqIO pipelines; imports TensorFlow."""
        import seqio

        return seqio.SentencePieceVocabulary(self.path, extra_ids=self.extra_ids)


Vocabulary = ByteVocabulary | SentencePieceVocabulary


def until_eos(ids: Sequence[int]) -> list[int]:
    """The ids before the first EOS."""
    ids = [int(i) for i in ids]
    return ids[: ids.index(EOS)] if EOS in ids else ids


def padded_size(vocabulary: Vocabulary) -> int:
    """Rows of the embedding table: the vocabulary's size, up to the next multiple of 128."""
    return -(-vocabulary.size // _MULTIPLE) * _MULTIPLE


@functools.cache
def load_vocabulary(name: str) -> Vocabulary:
    """The vocabulary that VOCABULARY names: 'bytes', or the path of a SentencePiece model.

    Raises:
      UserError: if it is neither.
    """
    if name == "bytes":
        return ByteVocabulary()
    path = pathlib.Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"VOCABULARY {name!r} is neither 'bytes' nor a file; give the path of a SentencePiece model.")
    return SentencePieceVocabulary(str(path))
