"""Our vocabularies as SeqIO vocabularies. Imports TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable

import seqio
import tensorflow as tf

from flan_jax.data.chat.chat_vocabulary import ChatVocabulary
from flan_jax.data.huggingface_vocabulary import HuggingFaceVocabulary
from flan_jax.data.vocabulary import SentencePieceVocabulary, Vocabulary


def as_seqio(vocabulary: Vocabulary) -> seqio.Vocabulary:
    """Returns the same vocabulary for SeqIO pipelines."""
    if isinstance(vocabulary, ChatVocabulary):  # tasks write their texts themselves
        vocabulary = vocabulary.plain
    if isinstance(vocabulary, HuggingFaceVocabulary):
        return SeqioVocabulary(vocabulary)
    if isinstance(vocabulary, SentencePieceVocabulary):
        return seqio.SentencePieceVocabulary(vocabulary.path, extra_ids=vocabulary.extra_ids)
    return seqio.ByteVocabulary()


class SeqioVocabulary(seqio.Vocabulary):
    """Wraps a `HuggingFaceVocabulary`.

    The tensor methods run it through `tf.py_function`, on strings of any shape.
    """

    def __init__(self, vocabulary: HuggingFaceVocabulary):
        super().__init__(extra_ids=0)
        self.vocabulary = vocabulary

    @property
    def bos_id(self) -> int:
        """Returns the id that a decoder reads first."""
        return self.vocabulary.bos_id

    @property
    def eos_id(self) -> int:
        """Returns the id that ends a target."""
        return self.vocabulary.eos_id

    @property
    def unk_id(self) -> int:
        """Returns the EOS id: byte-level tokenizers encode every text, and SeqIO needs a number."""
        return self.vocabulary.eos_id

    @property
    def _base_vocab_size(self) -> int:
        return self.vocabulary.size

    def _encode(self, s: str) -> list[int]:
        return self.vocabulary.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.vocabulary.decode(list(ids))

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: tf.Tensor) -> tf.Tensor:
            return tf.constant(self.vocabulary.encode(text.numpy().decode()), tf.int32)

        def encode_scalar(text: tf.Tensor) -> tf.Tensor:
            ids = tf.py_function(encode, [text], tf.int32)
            ids.set_shape([None])
            return ids

        if s.shape.rank == 0:
            return encode_scalar(s)
        return tf.map_fn(
            lambda text: tf.RaggedTensor.from_tensor(encode_scalar(text)[None])[0],
            s,
            fn_output_signature=tf.RaggedTensorSpec([None], tf.int32, ragged_rank=0),
        )

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        text = tf.py_function(
            lambda i: self.vocabulary.decode(i.numpy().tolist()), [ids], tf.string
        )
        text.set_shape([])
        return text

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SeqioVocabulary):
            return False
        return _identity(self.vocabulary) == _identity(other.vocabulary)


def _identity(vocabulary: HuggingFaceVocabulary) -> tuple[str, int, int]:
    return vocabulary.digest, vocabulary.bos_id, vocabulary.eos_id
