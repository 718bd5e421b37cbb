"""Digests of large files, which are read once and again only after a change."""

import os

import pytest

from flan_jax.storage import known_digests
from flan_jax.storage.hashing import file_digest
from flan_jax.storage.known_digests import known_file_digest


@pytest.fixture
def reads(monkeypatch, tmp_path) -> list:
    """The files that were read, in a home of their own, where every file counts as settled."""
    read = []
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(known_digests, "_SETTLED_S", -1)
    monkeypatch.setattr(known_digests, "file_digest", lambda p: read.append(p) or file_digest(p))
    return read


def test_a_large_file_is_read_again_only_after_a_change(tmp_path, reads):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"a" * 2**20)
    first = known_file_digest(path)
    assert known_file_digest(path) == first == file_digest(path) and reads == [path]
    changed = os.stat(path).st_mtime_ns
    path.write_bytes(b"b" * 2**20)  # of the same size, and with the same time
    os.utime(path, ns=(changed, changed))
    assert known_file_digest(path) == file_digest(path) != first and len(reads) == 2


def test_a_file_that_may_still_change_is_not_recorded(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(known_digests, "_SETTLED_S", 3600)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"a" * 2**20)
    assert known_file_digest(path) == known_file_digest(path) and len(reads) == 2


def test_a_damaged_record_or_a_home_that_cannot_be_written_costs_time_only(
    tmp_path, reads, monkeypatch
):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"a" * 2**20)
    known_file_digest(path)
    (record,) = (tmp_path / "home/.cache/flan_jax/digests").iterdir()
    record.write_text("{")
    assert known_file_digest(path) == file_digest(path) and len(reads) == 2
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert known_file_digest(path) == file_digest(path) and len(reads) == 3
