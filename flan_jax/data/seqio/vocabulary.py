"""A Hugging Face tokenizer as a SeqIO vocabulary. Imports TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable

import seqio
import tensorflow as tf

from flan_jax.data.vocabulary import HuggingFaceVocabulary


class SeqioVocabulary(seqio.Vocabulary):
    """Wraps a `HuggingFaceVocabulary`; the tensor methods run it through `tf.py_function`, on
    strings of any shape.
    """

    def __init__(self, vocabulary: HuggingFaceVocabulary):
        super().__init__(extra_ids=0)
        self.vocabulary = vocabulary

    @property
    def bos_id(self) -> int:
        """The id that a decoder reads first."""
        return self.vocabulary.bos_id

    @property
    def eos_id(self) -> int:
        """The id that ends a target."""
        return self.vocabulary.eos_id

    @property
    def unk_id(self) -> int:
        """Byte-level tokenizers know every text; the EOS stands in, since SeqIO wants a number."""
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

        def one(text: tf.Tensor) -> tf.Tensor:
            ids = tf.py_function(encode, [text], tf.int32)
            ids.set_shape([None])
            return ids

        if s.shape.rank == 0:
            return one(s)
        return tf.map_fn(
            lambda text: tf.RaggedTensor.from_tensor(one(text)[None])[0],
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
        mine, theirs = (
            (of.digest, of.bos_id, of.eos_id) for of in (self.vocabulary, other.vocabulary)
        )
        return mine == theirs
