"""Answers to any number of inputs, greedy, drawn or by beam search, in batches of few shapes."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from flan_jax.data.vocabulary import Vocabulary
from flan_jax.evaluation import batching
from flan_jax.models.decoding import beam, greedy
from flan_jax.models.decoding.method import Decoding

_GREEDY = Decoding()


class Generator:
    """Writes one token after the other until EOS.

    Attributes:
      shapes: the (B, S, T) met so far; each of them is compiled once.
    """

    def __init__(
        self,
        model,
        vocabulary: Vocabulary,
        mesh: jax.sharding.Mesh | None = None,
        max_length: int = 256,
        batch_tokens: int = 8192,
        bos_id: int | None = 0,
        method: Decoding = _GREEDY,
    ):
        """Sets up for a `T5` or a `DecoderLM` on a mesh (None: one device).

        Args:
          model: the model; vocabulary: turns its tokens into text, and any of its `eos_ids` ends
            them.
          mesh: where the parameters are.
          max_length: most tokens of an answer, EOS included.
          batch_tokens: most tokens, read and written, a batch and device; each beam counts.
          bos_id: what a decoder reads before the input; None: nothing. A T5 is not concerned.
          method: how the tokens are chosen.
        """
        self.model, self.vocabulary, self.mesh = model, vocabulary, mesh
        self.max_length, self.bos_id, self.method = max_length, bos_id, method
        self.batch_tokens = (
            batch_tokens // method.beams if method.method == "beam" else batch_tokens
        )
        self.shapes: set[tuple[int, int, int]] = set()

    def texts(self, params: Any, inputs: Sequence[np.ndarray], first: int = 0) -> list[str]:
        """The model's answer to each of the inputs, in their order.

        Inputs are int32 token ids; ending in EOS for a T5, and as the text goes on for a decoder.
        `first` is the place of the first in a longer list: what is drawn for an input depends on
        its place, not on how a list is cut.
        """
        return [text for text, _ in self.answers(params, inputs, first)]

    def answers(
        self, params: Any, inputs: Sequence[np.ndarray], first: int = 0
    ) -> list[tuple[str, bool]]:
        """The same as pairs (text, whether it was cut): without EOS there might be more of it than
        `max_length`.
        """
        return [
            (self.vocabulary.decode(ids.tolist()), not np.isin(ids, self.vocabulary.eos_ids).any())
            for ids in self.tokens(params, inputs, first)
        ]

    def about_cut(self, cut: int, count: int) -> str:
        """That of `count` answers so many were cut, for readers."""
        return (
            f"{cut} of {count} answers have {self.max_length} tokens and no end: cut; "
            "TASK_FEATURE_LENGTHS allows no more"
        )

    def tokens(self, params: Any, inputs: Sequence[np.ndarray], first: int = 0) -> list[np.ndarray]:
        """The same as token ids: int32 [max_length] for each row, 0 after EOS."""
        found: dict[int, np.ndarray] = {}
        inputs = batching.prompts(self.model, inputs, self.bos_id)
        with batching.on_mesh(self.mesh):
            for batch in self._batches(inputs):
                given = [inputs[row] for row in batch.rows]
                places = np.resize(batch.rows + first, batch.size).astype(np.uint32)
                arrays = (
                    batching.padded(given, batch.size, batch.source_width),
                    batching.lengths(given, batch.size),
                    places,
                )
                written = self._write(
                    params, *(batching.to_devices(self.mesh, array) for array in arrays)
                )
                found.update(zip(batch.rows.tolist(), batching.to_host(self.mesh, written)))
        return [found[row] for row in range(len(inputs))]

    def pass_over(self, inputs: Sequence[np.ndarray]) -> None:
        """Notes the shapes of rows that were answered before a restart: the rows after them get the
        same as then.
        """
        collections.deque(
            self._batches(batching.prompts(self.model, inputs, self.bos_id)), maxlen=0
        )

    def _batches(self, inputs: Sequence[np.ndarray]) -> Iterator[batching.Batch]:
        lengths = [len(row) for row in inputs], [self.max_length] * len(inputs)
        for batch in batching.batches(
            *lengths,
            self.batch_tokens,
            batching.row_multiple(self.mesh),
            {width for _, width, _ in self.shapes},
        ):
            self.shapes.add((batch.size, batch.source_width, self.max_length))
            yield batch

    def _write(
        self, params: Any, source: jax.Array, lengths: jax.Array, places: jax.Array
    ) -> jax.Array:
        """The answers int32 [B, max_length] to a batch [B, S]."""
        method = self.method
        given = {
            "max_length": self.max_length,
            "eos_id": self.vocabulary.eos_ids,
            "lengths": lengths,
        }
        if method.method == "greedy":
            return greedy.greedy(self.model, params, source, **given)
        if method.method == "sample":
            return greedy.sample(
                self.model,
                params,
                source,
                seed=np.uint32(method.seed),
                places=places,
                temperature=method.temperature,
                top_k=method.top_k,
                top_p=method.top_p,
                **given,
            )
        return beam.beam_search(
            self.model,
            params,
            source,
            beams=method.beams,
            length_penalty=method.length_penalty,
            **given,
        )[0][:, 0]
