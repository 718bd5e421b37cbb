"""Greedy answers for datasets without options, in batches of few shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from flan_jax.data.vocabulary import EOS, Vocabulary
from flan_jax.evaluation import buckets
from flan_jax.models import decoding


class Generator:
    """Writes the most likely token after the other until EOS.

    Attributes:
      shapes: the (B, S, T) met so far; each of them is compiled once.
    """

    def __init__(self, model, vocabulary: Vocabulary, mesh: jax.sharding.Mesh | None = None, max_length: int = 256,
                 batch_tokens: int = 8192):
        """Sets up for a `T5` on a mesh (None: one device).

        Args:
          model: the model; vocabulary: turns its tokens into text.
          mesh: where the parameters are.
          max_length: most tokens of an answer, EOS included.
          batch_tokens: most tokens, read and written, a batch and device.
        """
        self.model, self.vocabulary, self.mesh = model, vocabulary, mesh
        self.max_length, self.batch_tokens = max_length, batch_tokens
        self.shapes: set[tuple[int, int, int]] = set()

    def texts(self, params: Any, inputs: Sequence[np.ndarray]) -> list[str]:
        """The model's answer to each of the inputs (int32 token ids ending in EOS), in their order."""
        return [self.vocabulary.decode(ids.tolist()) for ids in self.tokens(params, inputs)]

    def tokens(self, params: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The same as token ids: int32 [max_length] for each row, 0 after EOS."""
        found: dict[int, np.ndarray] = {}
        lengths = [len(row) for row in inputs], [self.max_length] * len(inputs)
        with buckets.on_mesh(self.mesh):
            for batch in buckets.batches(*lengths, self.batch_tokens, buckets.row_multiple(self.mesh)):
                self.shapes.add((batch.size, batch.source_width, self.max_length))
                source = buckets.padded([inputs[row] for row in batch.rows], batch.size, batch.source_width)
                source = buckets.to_devices(self.mesh, source)
                written = decoding.greedy(self.model, params, source, max_length=self.max_length, eos_id=EOS)
                found.update(zip(batch.rows.tolist(), buckets.to_host(self.mesh, written)))
        return [found[row] for row in range(len(inputs))]
