"""Generated answers to any number of inputs: greedy, sampled or by beam search."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Integer

from flan_jax.data.vocabulary import Vocabulary
from flan_jax.evaluation import batching
from flan_jax.models.adapters import prompt_length_of
from flan_jax.models.array_types import Array, TokenIds
from flan_jax.models.decoding import beam, greedy, sampling
from flan_jax.models.decoding.method import Decoding
from flan_jax.models.decoding.token_loop import OnTokens

_GREEDY = Decoding()


class Generator:
    """Writes one token after the other until EOS.

    Attributes:
      shapes: the (B, S, T) so far; each of them is compiled once.
    """

    def __init__(
        self,
        model: nn.Module,
        vocabulary: Vocabulary,
        mesh: jax.sharding.Mesh | None = None,
        max_length: int = 256,
        batch_tokens: int = 8192,
        bos_id: int | None = 0,
        method: Decoding = _GREEDY,
        on_tokens: OnTokens | None = None,
    ):
        """Sets up for a `T5` or a `DecoderLM` on a mesh (None: one device).

        Args:
          model: the model.
          vocabulary: turns its tokens into text, and any of its `eos_ids` ends them.
          mesh: where the parameters are.
          max_length: most tokens of an answer, EOS included.
          batch_tokens: most tokens, read and written, a batch and device; each beam counts.
          bos_id: what a decoder reads before the input; None: nothing. It has no effect on a T5.
          method: how the tokens are chosen.
          on_tokens: called with the tokens of each position as they are written, but not by beam
            search.
        """
        self.model, self.vocabulary, self.mesh = model, vocabulary, mesh
        self.max_length, self.bos_id, self.method = max_length, bos_id, method
        self.on_tokens = on_tokens
        self.batch_tokens = (
            batch_tokens // method.beams if method.method == "beam" else batch_tokens
        )
        self.shapes: set[tuple[int, int, int]] = set()

    def texts(self, params: Any, inputs: Sequence[TokenIds], first: int = 0) -> list[str]:
        """Returns the model's answer to each of the inputs, in their order.

        Args:
          params: the model's parameters as they are in memory.
          inputs: int32 token ids; ending in EOS for a T5, and as the text goes on for a decoder.
          first: the place of the first input in a longer list: what is sampled for an input depends
            on its place, not on how the list is split.
        """
        return [text for text, _ in self.answers(params, inputs, first)]

    def answers(
        self, params: Any, inputs: Sequence[TokenIds], first: int = 0
    ) -> list[tuple[str, bool]]:
        """Returns the same as pairs (text, whether it was truncated).

        An answer is truncated if it has `max_length` tokens and none is an EOS. The arguments are
        those of `texts`.
        """
        eos_ids, decode = self.vocabulary.eos_ids, self.vocabulary.decode
        return [
            (decode(ids.tolist()), not np.isin(ids, eos_ids).any())
            for ids in self.tokens(params, inputs, first)
        ]

    def truncation_note(self, truncated: int, count: int) -> str:
        """Returns a sentence for readers: how many of `count` answers were truncated."""
        return (
            f"{truncated} of {count} answers truncated at {self.max_length} tokens "
            "(TASK_FEATURE_LENGTHS)"
        )

    def tokens(
        self, params: Any, inputs: Sequence[TokenIds], first: int = 0
    ) -> list[Integer[np.ndarray, " T"]]:
        """Returns the same as token ids: int32 [max_length] for each row, 0 after EOS.

        The arguments are those of `texts`.
        """
        answers: dict[int, TokenIds] = {}
        inputs = batching.prompts(self.model, inputs, self.bos_id, prompt_length_of(params))
        with batching.on_mesh(self.mesh):
            for batch in self._batches(inputs):
                sources = [inputs[row] for row in batch.rows]
                places = np.resize(batch.rows + first, batch.size).astype(np.uint32)
                arrays = (
                    batching.padded(sources, batch.size, batch.source_width),
                    batching.lengths(sources, batch.size),
                    places,
                )
                on_devices = [batching.to_devices(self.mesh, array) for array in arrays]
                tokens = batching.to_host(self.mesh, self._generate(params, *on_devices))
                answers.update(zip(batch.rows.tolist(), tokens))
        return [answers[row] for row in range(len(inputs))]

    def pass_over(self, inputs: Sequence[TokenIds], prompt_length: int = 0) -> None:
        """Notes the shapes of rows that were answered before a restart.

        The rows after them get the same shapes as then.

        Args:
          inputs: see `texts`.
          prompt_length: vectors of the prompt in the parameters.
        """
        inputs = batching.prompts(self.model, inputs, self.bos_id, prompt_length)
        collections.deque(self._batches(inputs), maxlen=0)

    def _batches(self, inputs: Sequence[TokenIds]) -> Iterator[batching.Batch]:
        lengths = [len(row) for row in inputs], [self.max_length] * len(inputs)
        for batch in batching.batches(
            *lengths,
            self.batch_tokens,
            batching.row_multiple(self.mesh),
            {width for _, width, _ in self.shapes},
        ):
            self.shapes.add((batch.size, batch.source_width, self.max_length))
            yield batch

    def _generate(
        self,
        params: Any,
        source: Integer[Array, "B S"],
        lengths: Integer[Array, " B"],
        places: Integer[Array, " B"],
    ) -> Integer[Array, "B T"]:
        """Returns the answers to a batch; T is `max_length`."""
        method = self.method
        common = {
            "max_length": self.max_length,
            "eos_id": self.vocabulary.eos_ids,
            "lengths": lengths,
        }
        if method.method == "greedy":
            return greedy.greedy(self.model, params, source, on_tokens=self.on_tokens, **common)
        if method.method == "sample":
            return sampling.sample(
                self.model,
                params,
                source,
                seed=np.uint32(method.seed),
                places=places,
                temperature=method.temperature,
                top_k=method.top_k,
                top_p=method.top_p,
                on_tokens=self.on_tokens,
                **common,
            )
        return beam.beam_search(
            self.model,
            params,
            source,
            beams=method.beams,
            length_penalty=method.length_penalty,
            **common,
        )[0][:, 0]
