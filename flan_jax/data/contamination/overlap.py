"""The contamination report: which held-out rows occur, word for word, in the training rows.

`index` has the rules, after GPT-3 (Brown et al. 2020, appendix C). That appendix also warns that
the measure is high for datasets with passages from the web: the passage is shared, the question is
not. So the report has the names of the texts that are shared, and an example with its rows.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from flan_jax.catalogue.records import Dataset
from flan_jax.catalogue.registry import Catalogue
from flan_jax.catalogue.splits import held_out_split
from flan_jax.data.contamination.index import (
    PHRASE_DOCUMENTS,
    Corpus,
    HeldOutIndex,
    Rows,
    SharedKeys,
    read_rows,
)
from flan_jax.data.contamination.ngrams import joined, unique_pairs
from flan_jax.data.sources.base import Source, counts_once
from flan_jax.errors import UserError
from flan_jax.messages import escaped


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
    """A held-out dataset.

    Attributes:
      name: its name.
      rows: the number of its rows.
      words: N, the length of its n-grams.
      overlapping: rows that share something other than phrases.
      phrases_only: rows that share only phrases.
    """

    name: str
    rows: int
    words: int
    overlapping: int
    phrases_only: int


@dataclasses.dataclass(frozen=True)
class OverlapReport:
    """The result of `compare`, in alphabetical order.

    Attributes:
      train: the number of rows of each training dataset.
      held_out: the totals of each held-out dataset.
      pairs: the pairs that share something other than phrases.
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
    own: Sequence[tuple[Dataset, Source]] = (),
) -> tuple[OverlapReport, dict[str, str]]:
    """Compares the training rows of a run with the rows that it is evaluated on.

    Args:
      catalogue: the registered datasets.
      source: where rows come from.
      held_out: one of `splits.HELD_OUT_FORMS`.
      split: which rows of the held-out datasets are evaluated.
      max_rows: the first so many rows of each dataset on either side; None for all, up to a
        dataset's training cap.
      related: which related datasets train, see `splits.held_out_split`.
      own: files of the user, each with its rows, that train instead of the catalogue.

    Returns:
      The report, and the reason by name of each dataset that is not in it.

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
        is_own = bool(own) and role == "trained on"
        rows = [read_rows(place, each, ours, max_rows) for each, place in own] if is_own else []
        for dataset in () if is_own else map(catalogue.__getitem__, names):
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


def compare(train: Iterable[Rows], held_out: Iterable[Rows]) -> OverlapReport:
    """Returns what each held-out dataset shares with each training dataset.

    The order of the datasets makes no difference. Memory is about 30 bytes for each held-out word;
    training rows are not kept.

    Args:
      train: the rows of each training dataset.
      held_out: the rows of each held-out dataset.
    """
    index = HeldOutIndex(held_out)
    sides = sorted((index.search(rows) for rows in train), key=lambda side: side.name)
    phrase = _phrases(index, sides)
    pairs, totals = [], []
    for corpus in sorted(index.corpora, key=lambda c: c.name):
        shared = _HeldOutHits(index, corpus, sides)
        in_corpus = [_pair(index, shared, side, phrase) for side in sides]
        pairs += [pair for pair in in_corpus if pair is not None]
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
    return OverlapReport({side.name: side.count for side in sides}, totals, pairs)


class _HeldOutHits:
    """The keys of a held-out dataset that some training dataset has, in row order.

    Attributes:
      keys, rows, texts, positions: int64 [hits].
    """

    def __init__(self, index: HeldOutIndex, corpus: Corpus, sides: list[SharedKeys]):
        self.corpus = corpus
        trained = np.zeros(index.size, bool)
        for side in sides:
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
    index: HeldOutIndex, shared: _HeldOutHits, side: SharedKeys, phrase: np.ndarray
) -> Pair | None:
    """What one held-out dataset shares with one training dataset; None if only phrases."""
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


def _phrases(index: HeldOutIndex, sides: list[SharedKeys]) -> np.ndarray:
    """The keys of more than 10 training documents (whole texts: rows), as bool [keys]."""
    count = np.zeros(index.size, np.int64)
    for side in sides:
        rows_of_text = np.bincount(side.row_texts, minlength=len(side.documents))
        whole = index.is_whole[side.keys]
        np.add.at(count, side.keys[whole], rows_of_text[side.texts[whole]])
    windows = [~index.is_whole[side.keys] for side in sides]
    keys, _ = unique_pairs(
        joined([side.keys[w] for side, w in zip(sides, windows)]),
        joined([side.documents[side.texts[w]] for side, w in zip(sides, windows)]),
    )
    return count + np.bincount(keys, minlength=index.size) > PHRASE_DOCUMENTS


def report_text(report: OverlapReport) -> str:
    """Returns the report as a table, with the pairs of each held-out dataset below its line."""
    lines = [
        f"{'held out':<36}{'rows':>9}{'N words':>9}{'overlapping':>13}{'share':>9}"
        f"{'only phrases':>14}"
    ]
    for total in report.held_out:
        lines.append(
            f"{total.name:<36}{total.rows:>9,}{total.words:>9}{total.overlapping:>13,}"
            f"{total.overlapping / max(total.rows, 1):>9.2%}{total.phrases_only:>14,}"
        )
        pairs = [pair for pair in report.pairs if pair.held_out == total.name]
        lines += map(_pair_text, sorted(pairs, key=lambda pair: -pair.held_out_rows))
    lines.append(
        f"{sum(total.overlapping for total in report.held_out):,} of "
        f"{sum(total.rows for total in report.held_out):,} held-out rows share words with "
        f"{sum(report.train.values()):,} rows of {len(report.train)} training datasets"
    )
    return "\n".join(lines)


def _pair_text(pair: Pair) -> str:
    texts = ", ".join(f"{name} {count:,}" for name, count in pair.texts.items())
    return (
        f"  {pair.train}: {pair.held_out_rows:,} rows ({texts}) with {pair.train_rows:,} training "
        f"rows\n    {pair.held_out_row} and {pair.train_row}: {escaped(pair.example)}"
    )
