"""How the options of a row compare: the column `scoring` of results.

To add an option score, add a function to `SCORINGS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# Takes the place of a row's input for 'unconditional' (Brown et al. 2020, section 2.4).
UNCONDITIONAL_INPUT = "Answer:"


class RowOptions(NamedTuple):
    """The options of a row, O of them.

    Attributes:
      sums: summed log-probability of each literal option after the row's input, EOS included,
        float64 [O].
      unconditional: the same after `UNCONDITIONAL_INPUT` instead of the row's input.
      tokens: number of tokens of each, EOS included, int [O].
      texts: the options themselves.
    """

    sums: np.ndarray
    unconditional: np.ndarray
    tokens: np.ndarray
    texts: Sequence[str]


def _per_char(row: RowOptions) -> np.ndarray:
    return row.sums / [max(len(text), 1) for text in row.texts]


def _per_byte(row: RowOptions) -> np.ndarray:
    return row.sums / [max(len(text.encode()), 1) for text in row.texts]


# From the options of a row to their scores [O]; the highest wins. 'sum' is the log-probability of
# the literal option and what tables show; 'unconditional' subtracts how likely the option is by
# itself (Brown et al. 2020, section 2.4).
SCORINGS: dict[str, Callable[[RowOptions], np.ndarray]] = {
    "sum": lambda row: row.sums,
    "per_token": lambda row: row.sums / row.tokens,
    "per_char": _per_char,
    "per_byte": _per_byte,
    "unconditional": lambda row: row.sums - row.unconditional,
}


def best_options(
    sums: Sequence[np.ndarray],
    unconditional: Sequence[np.ndarray],
    options: Sequence[Sequence[np.ndarray]],
    texts: Sequence[Sequence[str]],
) -> dict[str, list[int]]:
    """Returns the best option of each row under each scoring, 'sum' first; the first wins a tie.

    Args:
      sums: `RowOptions.sums` of each row.
      unconditional: `RowOptions.unconditional` of each row.
      options: the token ids of each row's options.
      texts: the texts of each row's options.
    """
    tokens = [np.array([len(ids) for ids in row]) for row in options]
    rows = [RowOptions(*fields) for fields in zip(sums, unconditional, tokens, texts)]
    return {
        name: [int(np.argmax(scoring(row))) for row in rows] for name, scoring in SCORINGS.items()
    }


class UnconditionalScores:
    """The log-probabilities of options after `UNCONDITIONAL_INPUT`.

    All options of a template are scored together, so that the numbers do not depend on which
    templates came before; templates with the same options share them.
    """

    def __init__(self, score: Callable[[Sequence[np.ndarray]], np.ndarray]):
        """Sets up without any option scored.

        Args:
          score: from options, int32 ids each, to their log-probabilities [O].
        """
        self._score = score
        self._known: dict[bytes, np.float64] = {}

    def of_rows(self, options: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """Returns the log-probabilities [O] of each row's options, int32 ids each."""
        distinct = {ids.tobytes(): ids for row in options for ids in row}
        if list(self._known) != list(distinct):
            self._known = dict(zip(distinct, self._score(list(distinct.values()))))
        return [np.array([self._known[ids.tobytes()] for ids in row]) for row in options]
