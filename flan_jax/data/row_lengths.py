"""The tokens of rows of one's own as a run encodes them, and what it truncates or leaves out."""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from flan_jax.catalogue.records import Dataset
from flan_jax.data.chat.chat_vocabulary import ChatVocabulary
from flan_jax.data.encode import Encoded, Encoder, Rendering
from flan_jax.data.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class RowLengths:
    """A row in tokens.

    Attributes:
      examples: of each example that it makes, the two lengths of `LengthMeter.columns`, as if
        there were no limits.
      kept: how many examples train within the limits; 0 if the row is left out.
      counts: what a run counts of it, such as 'inputs truncated'; if the row is left out, the last
        key is the reason.
    """

    examples: list[tuple[int, int]]
    kept: int
    counts: Mapping[str, int]


class LengthMeter:
    """Encodes rows of a file twice: as a run does, and without limits.

    Attributes:
      columns: what the two lengths of an example are: 'inputs' and 'targets' of a pair, or of a
        turn of a dialogue; for dialogues in a chat template 'dialogue' (all tokens) and 'trained'
        (those with a loss).

    Args:
      dataset: of the file.
      vocabulary: of the run.
      limits: (S, T), most tokens of inputs and targets.
    """

    def __init__(self, dataset: Dataset, vocabulary: Vocabulary, limits: tuple[int, int]):
        self._dataset, (self._template,) = dataset, dataset.templates
        self._whole = Encoder(vocabulary, Rendering(sys.maxsize, sys.maxsize))
        # A text is divided into rows, here of a decoder, and loses nothing.
        fitted = (0, sum(limits)) if self._template.kind == "text" else limits
        self._fitted = Encoder(vocabulary, Rendering(*fitted))
        is_whole = self._template.kind == "dialogue" and isinstance(vocabulary, ChatVocabulary)
        self.columns = ("dialogue", "trained") if is_whole else ("inputs", "targets")

    def row(self, row: dict[str, Any], row_id: str) -> RowLengths:
        """Returns the lengths of a row of the dataset."""
        whole = self._whole.examples(self._dataset, self._template, row, row_id)
        self._fitted.counts.clear()
        fitted = self._fitted.examples(self._dataset, self._template, row, row_id)
        counts = collections.Counter(self._fitted.counts)
        return RowLengths([self._lengths(example) for example in whole], len(fitted), counts)

    def _lengths(self, example: Encoded) -> tuple[int, int]:
        inputs, targets = len(example.inputs), len(example.targets)
        if self._template.kind == "text":
            return 0, targets
        if self.columns[0] == "inputs":
            return inputs, targets
        trained = targets if example.trained is None else int(example.trained.sum())
        return inputs + targets, trained
