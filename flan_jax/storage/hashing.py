"""Numbers from names: the same on every machine, Python and NumPy version, for repeatable runs."""

from __future__ import annotations

import hashlib
import json
import pathlib

import numpy as np


def stable_hash(*parts: object) -> int:
    """Returns a 128-bit integer from the text of `parts`."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def random_bits(count: int, *parts: object) -> np.ndarray:
    """Returns uint64 [count] from the Philox stream that `parts` name; NumPy keeps it stable."""
    return np.random.Philox(key=stable_hash(*parts)).random_raw(count)


def permutation(count: int, *parts: object) -> np.ndarray:
    """Returns a permutation of 0..count-1, int64 [count], fixed by `parts`."""
    return np.argsort(random_bits(count, *parts), kind="stable")


def digest(value: object) -> str:
    """Returns 32 hexadecimal digits of a JSON-able value; the order of its keys has no effect."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_digest(path: pathlib.Path) -> str:
    """Returns 32 hexadecimal digits of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
