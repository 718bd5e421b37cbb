"""The n-grams of held-out rows, and the search for them, word for word, in training rows.

Rows are compared by their fields, by options that differ from row to row, and by a free-text
answer; not by the wording of templates or by fixed options. Words are runs of Unicode word
characters in lower case, so case, punctuation and spacing make no difference. The rules are those
of GPT-3 (Brown et al. 2020, appendix C), to which the FLAN paper's appendix C refers for its own
look at the pretraining corpus:

* N consecutive words must be shared. N is the 5th percentile of the row lengths of a held-out
  dataset in words, at least 8 (fewer words coincide by accident) and at most 13.
* A text of 8 to N - 1 words must equal a field of a training row. A row without a text of 8 words
  must equal, as a whole, a field or all fields of a training row (GPT-3 compares short examples as
  a whole, too).
* An n-gram of more than 10 documents is a phrase, not a copy. In GPT-3 this is a rule of the filter
  of the training set, not of the table of overlaps. A document here is the text of a field,
  however many rows repeat it: the rows of SQuAD repeat each paragraph, and a paragraph is not a
  phrase. Whole texts are counted by rows.
"""

from __future__ import annotations

import array
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flan_jax.catalogue.records import FROM_ROW, Dataset
from flan_jax.data.contamination.ngrams import (
    BLOCK_WORDS,
    WHOLE,
    WORD_PATTERN,
    Keys,
    WordNumbers,
    document,
    hashes_of,
    joined,
    text_blocks,
    unique_pairs,
    words,
)
from flan_jax.data.rows import usable_rows
from flan_jax.data.sources.base import Source

MIN_WORDS, MAX_WORDS = 8, 13
LENGTH_PERCENTILE = 5
PHRASE_DOCUMENTS = 10


class Rows(NamedTuple):
    """Rows of one dataset: (row id, fields as `read_row` returns them)."""

    dataset: Dataset
    rows: Iterable[tuple[str, Mapping[str, Any]]]


def gram_words(lengths: Sequence[int]) -> int:
    """Returns N for rows of these lengths in words: their 5th percentile, from 8 to 13."""
    if not len(lengths):
        return MIN_WORDS
    return int(
        np.clip(np.percentile(lengths, LENGTH_PERCENTILE, method="lower"), MIN_WORDS, MAX_WORDS)
    )


def read_rows(source: Source, dataset: Dataset, split: str, max_rows: int | None = None) -> Rows:
    """Returns the usable rows of a split as a run reads them.

    Args:
      source: where rows come from.
      dataset: a dataset that is available.
      split: 'train' (up to the cap of the dataset), 'validation' or 'test'.
      max_rows: at most this many rows; None for no limit.
    """
    limits = [
        n for n in (max_rows, dataset.train_cap if split == "train" else None) if n is not None
    ]
    usable = (
        (name, row) for _, name, row in usable_rows(source, dataset, source.spec(dataset, split))
    )
    return Rows(dataset, itertools.islice(usable, min(limits, default=None)))


def own_texts(dataset: Dataset, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (name, text) of a row: its fields, then options or answer unless they are fixed."""
    texts = [(name, row[name]) for name in dataset.fields]
    if dataset.options == FROM_ROW:
        return texts + [("options", option) for option in row["options"]]
    return texts if dataset.options else [*texts, ("answer", row["answer"])]


class HeldOutIndex:
    """The n-grams of held-out rows, to find the training rows that share one.

    A key is an n-gram, or a whole text, of the held-out rows; keys are numbered from 0 to `size` -
    1, and `is_whole` marks those of whole texts. `word_hashes` has the hash of each word of
    `vocabulary`, by number.

    As a filter (`match`) it cannot count training documents, for a row's fate must not hang on the
    other rows. A phrase is here what stands in more than 10 texts of the held-out rows themselves:
    the filter leaves out a row too many rather than one too few.
    """

    def __init__(self, held_out: Iterable[Rows]):
        self.vocabulary = WordNumbers()
        self.corpora = [Corpus(rows, self.vocabulary) for rows in held_out]
        self.word_hashes = self.vocabulary.hashes()
        self._keys: dict[int, Keys] = {}
        self.size = 0
        for kind in sorted({WHOLE, *(c.gram_words for c in self.corpora)}):
            hashes = [
                np.unique(h) for c in self.corpora for h, _, _ in c.keys(kind, self.word_hashes)
            ]
            self._keys[kind] = Keys(np.concatenate([np.zeros(0, np.uint64), *hashes]), self.size)
            self.size += len(self._keys[kind].values)
        # The whole texts are the first keys.
        self.is_whole = np.arange(self.size) < len(self._keys[WHOLE].values)
        # Longer training texts cannot equal a held-out row.
        self._longest_whole = max((c.longest_whole for c in self.corpora), default=0)
        self._owner: np.ndarray | None = None

    @classmethod
    def build(
        cls, datasets: Iterable[Dataset], source: Source, split: str = "test"
    ) -> HeldOutIndex:
        """Returns the index of all rows of a split of held-out datasets."""
        return cls(read_rows(source, dataset, split) for dataset in datasets)

    @property
    def digest(self) -> str:
        """Returns 32 hexadecimal digits of everything that decides `match`."""
        rules = (WORD_PATTERN, MIN_WORDS, MAX_WORDS, LENGTH_PERCENTILE, PHRASE_DOCUMENTS)
        value = hashlib.blake2b(repr((rules, self._names())).encode(), digest_size=16)
        for kind, keys in self._keys.items():
            value.update(repr((kind, len(keys.values))).encode() + keys.values.tobytes())
        value.update(self._owners().tobytes())
        return value.hexdigest()

    def match(self, dataset: Dataset, row: Mapping[str, Any]) -> str | None:
        """Returns the first held-out dataset, by name, that shares an n-gram with a row, or None.

        Args:
          dataset: the dataset of the row.
          row: a training row, as `read_row` returns it.
        """
        return next(self.matches(dataset, [row]))

    def matches(self, dataset: Dataset, rows: Iterable[Mapping[str, Any]]) -> Iterator[str | None]:
        """Yields `match` of many rows, in their order; many times faster than row by row."""
        owners, names = self._owners(), self._names()
        for block in self._blocks(Rows(dataset, (("", row) for row in rows))):
            keys, texts = self._hits(block)
            text_owner = np.full(len(block.texts), len(names), np.int32)
            np.minimum.at(text_owner, texts, owners[keys])
            row_owner = np.full(len(block.row_ids), len(names), np.int32)
            np.minimum.at(row_owner, block.rows, text_owner[block.row_texts])
            yield from (
                names[owner] if owner < len(names) else None for owner in row_owner.tolist()
            )

    def _names(self) -> list[str]:
        return sorted(corpus.name for corpus in self.corpora)

    def _owners(self) -> np.ndarray:
        """Of each key the first of `_names` that has it, as an index; their number for a phrase."""
        if self._owner is None:
            names = self._names()
            owner = np.full(self.size, len(names), np.int32)
            keys_of, documents_of = [], []
            for corpus in self.corpora:
                place, identity = names.index(corpus.name), corpus.documents(self.word_hashes)
                for kind, hashes, texts, _ in corpus.all_keys(self.word_hashes):
                    keys = self.find(kind, hashes)
                    owner[keys] = np.minimum(owner[keys], place)
                    # Whole texts are counted by rows, as everywhere.
                    rows = corpus.row_of_text[texts].astype(np.uint64) + np.uint64(place << 40)
                    pairs = unique_pairs(keys, identity[texts] if kind else rows)
                    keys_of.append(pairs[0])
                    documents_of.append(pairs[1])
            keys = unique_pairs(joined(keys_of), joined(documents_of))[0]
            owner[np.bincount(keys, minlength=self.size) > PHRASE_DOCUMENTS] = len(names)
            self._owner = owner
        return self._owner

    def find(self, kind: int, hashes: np.ndarray) -> np.ndarray:
        """Returns the key numbers of hashes that are all in the index: int64 [hashes]."""
        return self._keys[kind].find(hashes)[1]

    def hash_of(self, keys: np.ndarray) -> np.ndarray:
        """Returns the hashes of key numbers: an order that depends only on the words."""
        return np.concatenate([k.values for k in self._keys.values()])[keys]

    def search(self, rows: Rows) -> SharedKeys:
        """Returns everything that a training dataset shares with the index, phrases too."""
        keys, texts, documents, row_ids = [], [], [], []
        row_numbers, row_texts, count, text_count = [], [], 0, 0
        for block in self._blocks(rows):
            block_keys, block_texts = self._hits(block)
            hit, block_texts = np.unique(block_texts, return_inverse=True)
            documents += [document(block.texts[i]) for i in hit]
            keys.append(block_keys)
            texts.append(block_texts + text_count)
            place = np.full(len(block.texts), -1)
            place[hit] = np.arange(len(hit)) + text_count
            of_hit = place[block.row_texts] >= 0
            numbers, inverse = np.unique(block.rows[of_hit], return_inverse=True)
            row_numbers.append(inverse + len(row_ids))
            row_texts.append(place[block.row_texts[of_hit]])
            row_ids += [block.row_ids[i] for i in numbers]
            count, text_count = count + len(block.row_ids), text_count + len(hit)
        return SharedKeys(
            rows.dataset.name,
            count,
            joined(keys),
            joined(texts),
            np.array(documents, np.uint64),
            joined(row_numbers),
            joined(row_texts),
            row_ids,
        )

    def _hits(self, block: _Block) -> tuple[np.ndarray, np.ndarray]:
        """(key, text) of everything in a block that the index has; each pair once."""
        key_parts, text_parts = [], []
        values = self.word_hashes[block.ids]
        for kind, keys in self._keys.items():
            hashes, texts, _ = hashes_of(
                values, block.ends, kind, block.whole if kind == WHOLE else block.windows
            )
            places, key = keys.find(hashes)
            key_parts.append(key)
            text_parts.append(texts[places])
        return unique_pairs(joined(key_parts), joined(text_parts))

    def _blocks(self, rows: Rows) -> Iterator[_Block]:
        block = _Block()
        for name, row in rows.rows:
            if len(block.flat) >= BLOCK_WORDS:
                yield block.closed()
                block = _Block()
            block.add(
                name,
                own_texts(rows.dataset, row),
                len(rows.dataset.fields),
                self.vocabulary,
                self._longest_whole,
            )
        if block.row_ids:
            yield block.closed()


class Corpus:
    """The rows of a held-out dataset as numbers of words, one text after the other."""

    def __init__(self, rows: Rows, vocabulary: WordNumbers):
        self.name = rows.dataset.name
        self.row_ids: list[str] = []
        self.text_names: list[str] = []
        flat, ends, row_of_text, lengths, fields = array.array("i"), [], [], [], []
        for name, row in rows.rows:
            begin = len(flat)
            texts = own_texts(rows.dataset, row)
            for place, (text_name, text) in enumerate(texts):
                flat.extend(map(vocabulary.__getitem__, words(text)))
                ends.append(len(flat))
                self.text_names.append(text_name)
                fields.append(place < len(rows.dataset.fields))
            row_of_text += [len(self.row_ids)] * len(texts)
            lengths.append(len(flat) - begin)
            self.row_ids.append(name)
        self.gram_words = gram_words(lengths)
        self.ids = np.array(flat, np.int32)
        self.ends, self.row_of_text = np.array(ends, np.int64), np.array(row_of_text, np.int64)
        self._whole = (self._lengths() >= MIN_WORDS) & (self._lengths() < self.gram_words)
        self._windows = np.ones(len(ends), bool)
        self._add_short_rows(np.array(fields, bool))
        self.longest_whole = int(self._lengths()[self._whole].max(initial=0))

    def _lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)

    def _add_short_rows(self, fields: np.ndarray) -> None:
        """Adds the fields of each row without a text of 8 words, as one text compared whole."""
        longest = np.zeros(len(self.row_ids), np.int64)
        np.maximum.at(longest, self.row_of_text, self._lengths())
        begins = self.ends - self._lengths()
        extra, ends = [self.ids], []
        short = np.flatnonzero(
            fields & (longest[self.row_of_text] < MIN_WORDS) & (self._lengths() > 0)
        )
        rows, first = np.unique(self.row_of_text[short], return_index=True)
        for texts in np.split(short, first[1:]) if len(rows) else []:
            extra += [self.ids[begins[i] : self.ends[i]] for i in texts]
            ends.append(sum(self.ends[i] - begins[i] for i in texts))
        self.ids = np.concatenate(extra)
        self.ends = np.concatenate(
            [self.ends, self.ends[-1:].sum() + np.cumsum(ends, dtype=np.int64)]
        )
        self.row_of_text = np.concatenate([self.row_of_text, rows])
        self.text_names += ["row"] * len(rows)
        self._whole = np.concatenate([self._whole, np.ones(len(rows), bool)])
        self._windows = np.concatenate([self._windows, np.zeros(len(rows), bool)])

    def keys(
        self, kind: int, word_hashes: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields (hashes, texts, positions in `ids`) of the keys of a kind, in blocks.

        Args:
          kind: words of a window, or WHOLE.
          word_hashes: uint64 [words], the hash of each word by number.
        """
        if kind not in (WHOLE, self.gram_words):
            return
        marked = self._whole if kind == WHOLE else self._windows
        for first, last, begin in text_blocks(self.ends):
            values = word_hashes[self.ids[begin : self.ends[last - 1]]]
            hashes, texts, positions = hashes_of(
                values, self.ends[first:last] - begin, kind, marked[first:last]
            )
            yield hashes, texts + first, positions + begin

    def all_keys(
        self, word_hashes: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Yields (kind, hashes, texts, positions) of all keys, in blocks."""
        for kind in (WHOLE, self.gram_words):
            for block in self.keys(kind, word_hashes):
                yield kind, *block

    def text_at(self, position: int, count: int | None, text: int, vocabulary: WordNumbers) -> str:
        """Returns `count` words of a text from a position on, or all."""
        names = list(vocabulary)
        end = self.ends[text] if count is None else position + count
        return " ".join(names[i - 1] for i in self.ids[position:end])

    def documents(self, word_hashes: np.ndarray) -> np.ndarray:
        """Returns a number for each text, equal for texts of the same words: uint64 [texts]."""
        parts = [
            hashes_of(
                word_hashes[self.ids[begin : self.ends[last - 1]]],
                self.ends[first:last] - begin,
                WHOLE,
                np.ones(last - first, bool),
            )[0]
            for first, last, begin in text_blocks(self.ends)
        ]
        return joined(parts).astype(np.uint64)


class _Block:
    """Some training rows as numbers of words; a text of several rows is stored once."""

    def __init__(self) -> None:
        self.flat = array.array("i")
        self.row_ids: list[str] = []
        self.texts: list[str] = []
        self._slots: dict[tuple[str, bool], int] = {}
        self._ends: list[int] = []
        self._whole: list[bool] = []
        self._windows: list[bool] = []
        self._rows: list[int] = []
        self._row_texts: list[int] = []

    def add(
        self,
        name: str,
        texts: list[tuple[str, str]],
        fields: int,
        vocabulary: WordNumbers,
        longest_whole: int,
    ) -> None:
        """Adds a row whose first `fields` texts are its fields."""
        slots = [self._slot(text, True, vocabulary) for _, text in texts]
        for slot in slots[:fields]:
            self._whole[slot] = True
        if fields > 1 and sum(self._length(slot) for slot in slots[:fields]) <= longest_whole:
            slots.append(
                self._slot(" ".join(text for _, text in texts[:fields]), False, vocabulary)
            )
            self._whole[slots[-1]] = True
        slots = list(dict.fromkeys(slots))
        self._row_texts += slots
        self._rows += [len(self.row_ids)] * len(slots)
        self.row_ids.append(name)

    def _slot(self, text: str, windows: bool, vocabulary: WordNumbers) -> int:
        slot = self._slots.get((text, windows))
        if slot is None:
            slot = self._slots[text, windows] = len(self.texts)
            self.texts.append(text)
            self.flat.extend(map(vocabulary.get, words(text), itertools.repeat(0)))
            self._ends.append(len(self.flat))
            self._whole.append(False)
            self._windows.append(windows)
        return slot

    def _length(self, slot: int) -> int:
        return self._ends[slot] - (self._ends[slot - 1] if slot else 0)

    def closed(self) -> _Block:
        """Returns the block with its lists as arrays."""
        self.ids = np.array(self.flat, np.int32)
        self.ends = np.array(self._ends, np.int64)
        self.whole, self.windows = np.array(self._whole, bool), np.array(self._windows, bool)
        self.rows, self.row_texts = (
            np.array(self._rows, np.int64),
            np.array(self._row_texts, np.int64),
        )
        return self


@dataclasses.dataclass(frozen=True)
class SharedKeys:
    """What a training dataset shares with an index.

    Rows and texts without a key of the index are not included.

    Attributes:
      name: the name of the dataset.
      count: the number of all its rows.
      keys, texts: int64 [pairs], the keys of each text.
      documents: uint64 [texts], the same for texts of the same words.
      rows, row_texts: int64 [pairs], the texts of each row.
      row_ids: names of the rows.
    """

    name: str
    count: int
    keys: np.ndarray
    texts: np.ndarray
    documents: np.ndarray
    rows: np.ndarray
    row_texts: np.ndarray
    row_ids: list[str]

    def rows_with(self, keys: np.ndarray) -> np.ndarray:
        """Returns the rows with one of the keys marked in a bool [keys], in reading order."""
        marked = np.zeros(len(self.documents), bool)
        marked[self.texts[keys[self.keys]]] = True
        return np.unique(self.rows[marked[self.row_texts]])
