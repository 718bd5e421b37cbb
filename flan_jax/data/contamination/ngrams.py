"""N-grams of words as 64-bit hashes in NumPy arrays: windows of N words, whole texts, look-up.

Nothing here depends on Python's `hash`, or on the order in which words occur.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator

import numpy as np

from flan_jax.storage.hashing import stable_hash

WORD_PATTERN = r"\w+"
# The kind of key for a whole text; the kind of a window is its length in words.
WHOLE = 0
BLOCK_WORDS = 1 << 18

_WORD = re.compile(WORD_PATTERN)
_SIEVE_BITS = 27
# 5 modulo 8: odd, so that its powers have inverses modulo 2**64, and of the longest period.
_BASE = stable_hash("n-grams", "base") % 2**61 * 8 + 5


def words(text: str) -> list[str]:
    """Returns the words of a text as they are compared."""
    return _WORD.findall(text.lower())


class WordNumbers(dict):
    """Word -> number from 1 up, assigned at the first look-up.

    `get(word, 0)` returns 0 for a word that was not looked up.
    """

    def __missing__(self, word: str) -> int:
        self[word] = len(self) + 1
        return self[word]

    def hashes(self) -> np.ndarray:
        """Returns a stable hash for each number: uint64 [words + 1]; that of 0 is of no word."""
        digests = b"".join(
            hashlib.blake2b(w.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            for w in itertools.chain([""], self)
        )
        return np.frombuffer(digests, "<u8").astype(np.uint64)


class Keys:
    """Sorted hashes, numbered from `offset` up, behind a sieve that excludes most others quickly.

    Args:
      hashes: uint64 [any number], in any order.
      offset: the number of the lowest hash.
    """

    def __init__(self, hashes: np.ndarray, offset: int):
        self.values, self.offset = np.unique(hashes), offset
        bits = min(_SIEVE_BITS, max(10, (8 * len(self.values)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._sieve = np.zeros(1 << bits, bool)
        self._sieve[self.values >> self._shift] = True

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (places in `hashes`, key numbers) of those that are keys: int64 [hits] each."""
        places = np.flatnonzero(self._sieve[hashes >> self._shift])
        wanted = hashes[places]
        number = np.minimum(np.searchsorted(self.values, wanted), max(len(self.values) - 1, 0))
        same = self.values[number] == wanted if len(self.values) else np.zeros(0, bool)
        return places[same], number[same] + self.offset


def hashes_of(
    values: np.ndarray, ends: np.ndarray, kind: int, marked: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (hashes, texts, positions) of the windows of `kind` words, or of WHOLE texts.

    The hash of a window is the value at `_BASE`, modulo 2**64, of the polynomial with the hashes of
    its words as coefficients: a difference of two prefix sums, shifted.

    Args:
      values: uint64 [words], the hashes of the words, one text after the other.
      ends: int64 [texts], where each text ends in `values`.
      kind: words of a window, or WHOLE.
      marked: bool [texts], which texts to use.

    Returns:
      uint64, int64 and int64, all [windows].
    """
    up, down = _powers(len(values) + 1)
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * up[: len(values)], out=sums[1:])
    lengths = np.diff(ends, prepend=0)
    if kind == WHOLE:
        texts = np.flatnonzero(marked)
        positions = ends[texts] - lengths[texts]
        hashes = (sums[ends[texts]] - sums[positions]) * down[positions]
        return hashes + lengths[texts].astype(np.uint64) * np.uint64(_BASE), texts, positions
    left = np.repeat(np.where(marked, ends, 0), lengths) - np.arange(len(values))
    positions = np.flatnonzero(left >= kind)
    texts = np.repeat(np.arange(len(ends)), lengths)[positions]
    return (sums[positions + kind] - sums[positions]) * down[positions], texts, positions


_POWERS: list[np.ndarray] = [np.ones(1, np.uint64), np.ones(1, np.uint64)]


def _powers(count: int) -> list[np.ndarray]:
    """The first `count` or more powers of `_BASE` and of its inverse modulo 2**64."""
    if len(_POWERS[0]) < count:
        for i, base in enumerate((_BASE, pow(_BASE, -1, 2**64))):
            steps = np.full(2 * count, base, np.uint64)
            steps[0] = 1
            _POWERS[i] = np.cumprod(steps)
    return _POWERS


def text_blocks(ends: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yields (first text, last text + 1, first word) of blocks of about `BLOCK_WORDS` words.

    Args:
      ends: int64 [texts], where each text ends; a block has whole texts.
    """
    first = begin = 0
    while first < len(ends):
        last = int(np.searchsorted(ends, begin + BLOCK_WORDS)) + 1
        last = min(last, len(ends))
        yield first, last, begin
        first, begin = last, int(ends[last - 1])


def unique_pairs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct pairs of two arrays, sorted: two arrays of one length."""
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    new = np.ones(len(first), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return first[new], second[new]


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """Returns the arrays one after the other; an empty int64 array for no arrays."""
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def document(text: str) -> int:
    """Returns a uint64 that is the same for texts of the same words."""
    value = " ".join(words(text)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "little")
