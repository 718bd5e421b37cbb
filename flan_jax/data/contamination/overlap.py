"""The contamination report: which held-out rows stand, word for word, in the rows that train.

`held_out_index` has the rules, after GPT-3 (Brown et al. 2020, appendix C). That appendix also
warns that the measure is high for datasets whose passages come from the web: the passage is shared,
the question is not. So the report says which of a row's texts are shared, and gives an example with
the rows to look at.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable

import numpy as np

from flan_jax.catalogue.registry import Catalogue
from flan_jax.catalogue.splits import held_out_split
from flan_jax.data.contamination.index import (
    PHRASE_DOCUMENTS,
    Corpus,
    Found,
    HeldOutIndex,
    Rows,
    read_rows,
)
from flan_jax.data.contamination.ngrams import joined, unique_pairs
from flan_jax.data.sources.base import Source, counts_once
from flan_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pair:
    """What a held-out dataset shares with a training dataset.

    Attributes:
      held_out, train: names of the datasets.
      held_out_rows, train_rows: rows of each side that share something with the other side.
      texts: held-out rows by the name of the text that is shared ('context', ...; 'row' for all
        fields together).
      example: one run of shared words; the one whose hash is lowest.
      held_out_row, train_row: ids of the first rows that have the example.
    """

    held_out: str
    train: str
    held_out_rows: int
    train_rows: int
    texts: dict[str, int]
    example: str
    held_out_row: str
    train_row: str


@dataclasses.dataclass(frozen=True)
class HeldOutTotal:
    """A held-out dataset: its rows, N in words, rows that share anything, and rows that share
    nothing but phrases.
    """

    name: str
    rows: int
    words: int
    overlapping: int
    phrases_only: int


@dataclasses.dataclass(frozen=True)
class Report:
    """`compare`'s result, in alphabetical order; `train` has the number of rows of each training
    dataset.
    """

    train: dict[str, int]
    held_out: list[HeldOutTotal]
    pairs: list[Pair]


def held_out_overlap(
    catalogue: Catalogue,
    source: Source,
    held_out: str,
    split: str = "test",
    max_rows: int | None = None,
    related: str = "text",
) -> tuple[Report, dict[str, str]]:
    """What a run would train on of the rows that it is evaluated on.

    Args:
      catalogue: the datasets there are.
      source: where rows come from.
      held_out: one of `mixture.HELD_OUT_FORMS`.
      split: which rows of the held-out datasets are evaluated.
      max_rows: the first so many rows of each dataset on either side; None for all, up to a
        dataset's training cap.
      related: what of the related datasets trains, see `mixture.held_out_split`.

    Returns:
      The report, and by name why a dataset is not in it.

    Raises:
      UserError: for an unknown form, or if a side has no rows here.
    """
    sides = held_out_split(catalogue, held_out, related=related)
    if not sides.eval:
        raise UserError("with HELD_OUT=none no rows are held out; give --held_out=<cluster>.")
    left_out: dict[str, str] = {}
    compared = []
    for names, ours, role in (
        (sides.train, "train", "trained on"),
        (sides.eval, split, "held out"),
    ):
        rows = []
        for dataset in map(catalogue.__getitem__, names):
            reason = source.available(dataset, ours)
            if role == "trained on":
                reason = counts_once(catalogue, dataset, names, source) or reason
            if reason:
                left_out[dataset.name] = reason
            else:
                rows.append(read_rows(source, dataset, ours, max_rows))
        if not rows:
            raise UserError(
                f"no dataset that would be {role} has rows here (the first: {names[0]} "
                f"{left_out[names[0]]}); give another --source or --data_dir."
            )
        compared.append(rows)
    return compare(*compared), left_out


def compare(train: Iterable[Rows], held_out: Iterable[Rows]) -> Report:
    """What each held-out dataset shares with each training dataset; the same whatever the order of
    the datasets.

    Reads the held-out rows first and keeps about 30 bytes a word of them; the training rows stream
    by.
    """
    index = HeldOutIndex(held_out)
    found = sorted((index.search(rows) for rows in train), key=lambda f: f.name)
    phrase = _phrases(index, found)
    pairs, totals = [], []
    for corpus in sorted(index.corpora, key=lambda c: c.name):
        shared = _HeldOutHits(index, corpus, found)
        pairs += [pair for side in found if (pair := _pair(index, shared, side, phrase))]
        copied = np.unique(shared.rows[~phrase[shared.keys]])
        totals.append(
            HeldOutTotal(
                corpus.name,
                len(corpus.row_ids),
                corpus.gram_words,
                len(copied),
                len(np.unique(shared.rows)) - len(copied),
            )
        )
    return Report({f.name: f.count for f in found}, totals, pairs)


class _HeldOutHits:
    """The (key, row, text, position) of a held-out dataset's keys that some training dataset has,
    in row order.
    """

    def __init__(self, index: HeldOutIndex, corpus: Corpus, found: list[Found]):
        self.corpus = corpus
        trained = np.zeros(index.size, bool)
        for side in found:
            trained[side.keys] = True
        keys, texts, positions = [], [], []
        for kind, hashes, block_texts, block_positions in corpus.all_keys(index.word_hashes):
            key = index.find(kind, hashes)
            keep = trained[key]
            for parts, values in zip((keys, texts, positions), (key, block_texts, block_positions)):
                parts.append(values[keep])
        self.keys, self.texts, self.positions = joined(keys), joined(texts), joined(positions)
        self.rows = corpus.row_of_text[self.texts]


def _pair(
    index: HeldOutIndex, shared: _HeldOutHits, side: Found, phrase: np.ndarray
) -> Pair | None:
    """What one held-out dataset shares with one training dataset; None if nothing but phrases."""
    copied = np.zeros(index.size, bool)
    copied[side.keys] = True
    copied &= ~phrase
    mine = np.flatnonzero(copied[shared.keys])
    if not len(mine):
        return None
    keys, corpus = np.unique(shared.keys[mine]), shared.corpus
    in_pair = np.zeros(index.size, bool)
    in_pair[keys] = True
    train_rows = side.rows_with(in_pair)
    row_texts = {
        (row, corpus.text_names[text])
        for row, text in zip(shared.rows[mine].tolist(), shared.texts[mine].tolist())
    }
    example = keys[np.argmin(index.hash_of(keys))]
    at = mine[shared.keys[mine] == example]
    at = at[np.argmin(shared.rows[at])]
    in_pair[:] = False
    in_pair[example] = True
    return Pair(
        corpus.name,
        side.name,
        len(np.unique(shared.rows[mine])),
        len(train_rows),
        dict(sorted(collections.Counter(name for _, name in row_texts).items())),
        corpus.text_at(
            shared.positions[at],
            None if index.is_whole[example] else corpus.gram_words,
            shared.texts[at],
            index.vocabulary,
        ),
        corpus.row_ids[shared.rows[at]],
        side.row_ids[side.rows_with(in_pair)[0]],
    )


def _phrases(index: HeldOutIndex, found: list[Found]) -> np.ndarray:
    """bool [keys]: what stands in more than 10 training documents; a whole text, in more than 10
    training rows.
    """
    count = np.zeros(index.size, np.int64)
    for side in found:
        rows_of_text = np.bincount(side.row_texts, minlength=len(side.documents))
        whole = index.is_whole[side.keys]
        np.add.at(count, side.keys[whole], rows_of_text[side.texts[whole]])
    windows = [~index.is_whole[side.keys] for side in found]
    keys, _ = unique_pairs(
        joined([side.keys[w] for side, w in zip(found, windows)]),
        joined([side.documents[side.texts[w]] for side, w in zip(found, windows)]),
    )
    return count + np.bincount(keys, minlength=index.size) > PHRASE_DOCUMENTS
