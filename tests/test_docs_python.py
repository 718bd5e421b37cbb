"""docs/python.md and the notebooks of examples/, run as they stand, with tiny models."""

import doctest
import pathlib

import pytest

from support.adapters import random_llama
from support.tokenizer_files import byte_bpe, save

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def with_smollm2(tmp_path, monkeypatch):
    """A working directory with a tiny model under the name of the converted SmolLM2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # the token cache
    (tmp_path / "converted").mkdir()
    random_llama(tmp_path / "converted/smollm2_135m", vocab_size=320)
    save(byte_bpe(), tmp_path / "converted/smollm2_135m")


def test_the_examples_of_the_page(with_smollm2):
    pytest.importorskip("pandas", reason="NOT CHECKED: docs/python.md shows a table of pandas")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    path = ROOT / "docs/python.md"
    failures, tests = doctest.testfile(str(path), module_relative=False, optionflags=flags)
    assert tests > 20 and not failures
