"""Objects of buckets in memory, and the requests and answers of an HTTP interface to them."""

import collections
import dataclasses
import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple


class Request(NamedTuple):
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # of any case
    body: bytes


class Answer(NamedTuple):
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


def json_answer(status: int, value: object, **headers: str) -> Answer:
    return Answer(
        status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers}
    )


@dataclasses.dataclass(frozen=True)
class StoredObject:
    contents: bytes
    generation: int
    updated: float  # seconds since 1970

    @property
    def etag(self) -> str:
        """As S3 has it: the same contents have the same ETag."""
        return f'"{hashlib.md5(self.contents).hexdigest()}"'


class Objects:
    """What the buckets contain; a caller holds `lock` while it reads and then writes."""

    def __init__(self):
        self.lock = threading.RLock()
        self.buckets = {"bucket1"}
        self.stored: dict[tuple[str, str], StoredObject] = {}
        self.generation = 1_700_000_000_000_000
        self.uploads: dict[str, tuple[str, Mapping[str, str], list[bytes]]] = {}
        self.counts = collections.Counter()
        self.one_change_a_second = False

    def put(self, bucket: str, name: str, contents: bytes) -> StoredObject:
        with self.lock:
            self.generation += 1
            stored = StoredObject(contents, self.generation, time.time())
            self.stored[bucket, name] = stored
        return stored

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Returns the sorted names of the objects whose names begin with the prefix."""
        with self.lock:
            return sorted(n for b, n in self.stored if b == bucket and n.startswith(prefix))

    def changed_too_soon(self, key: tuple[str, str]) -> bool:
        """Whether GCS would refuse a change: one a second for each object."""
        stored = self.stored.get(key)
        is_soon = stored is not None and time.time() - stored.updated < 1
        return self.one_change_a_second and is_soon


def grouped(names: list[str], prefix: str, delimiter: str | None) -> tuple[list[str], list[str]]:
    """Returns the names without a delimiter after the prefix, and the 'directories' of the others.

    Args:
      names: sorted names that begin with the prefix.
      prefix: what they begin with.
      delimiter: what ends the name of a 'directory'; None for no such groups.
    """
    plain, directories = [], set()
    for name in names:
        head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
        if found:
            directories.add(prefix + head + found)
        else:
            plain.append(name)
    return plain, sorted(directories)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Returns the begin and end that a Range header names, or None for the whole object."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    if not match:
        return None
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size


def media(stored: StoredObject, request: Request, headers: Mapping[str, str]) -> Answer | None:
    """Returns the contents or their range; None if the range begins behind their end."""
    size = len(stored.contents)
    bounds = byte_range(request.headers.get("Range", ""), size)
    if bounds is None:
        return Answer(200, stored.contents, headers)
    begin, end = bounds
    if begin >= size:
        return None
    headers = {**headers, "Content-Range": f"bytes {begin}-{end - 1}/{size}"}
    return Answer(206, stored.contents[begin:end], headers)
