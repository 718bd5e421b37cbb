"""The token cache: which rows of a cut evaluation set are kept, what is said of odd files, and damage."""

import collections

import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.data import cache as token_cache
from flan_jax.data.cache import TokenCache
from flan_jax.data.catalogue import CATALOGUE
from flan_jax.data.encode import Rendering
from flan_jax.data.hashing import stable_hash
from flan_jax.data.sources import BundledSource, JsonlSource
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError

QUESTIONS = [{"paragraph": "Ann has a cat.", "question": f"Question {q}?", "answer": f"Answer {a}.", "label": a % 2,
              "idx": {"paragraph": 0, "question": q, "answer": a}} for a in range(4) for q in range(30)]
SST2 = [{"sentence": f"Film number {i}.", "label": 1} for i in range(400)]


def cache_of(directory, rows=None) -> TokenCache:
    return TokenCache(directory / "cache", JsonlSource(rows) if rows else BundledSource(), ByteVocabulary(),
                      Rendering())


def kept(cache: TokenCache, name: str, max_rows: int) -> tuple[list[str], dict]:
    """The row ids of a cut evaluation set, and its counts."""
    dataset = CATALOGUE[name]
    counts = cache.packs.find(cache.build_eval(dataset, "test", dataset.templates[0], max_rows)).meta["counts"]
    return cache.eval_examples(dataset, "test", dataset.templates[0], max_rows).row_ids, counts


@pytest.mark.parametrize("max_rows, rows", [(2, 4), (4, 4), (30, 28), (500, 120)])
def test_a_cut_set_holds_whole_questions(write_rows, tmp_path, max_rows, rows):
    cache = cache_of(tmp_path, write_rows("multirc", "validation", QUESTIONS))
    names, counts = kept(cache, "multirc", max_rows)
    questions = [int(name.rsplit("/", 1)[1]) % 30 for name in names]
    assert len(names) == rows and all(questions.count(q) == 4 for q in questions)
    assert names == sorted(names, key=lambda name: int(name.rsplit("/", 1)[1]))
    assert counts.get("over max_rows", 0) == 120 - rows


def test_a_cut_set_without_groups_holds_the_rows_whose_ids_hash_lowest(write_rows, tmp_path):
    names, _ = kept(cache_of(tmp_path, write_rows("sst2", "validation", SST2)), "sst2", 25)
    every = [f"sst2/validation/{i}" for i in range(len(SST2))]
    lowest = sorted(every, key=lambda name: stable_hash("sample", name))[:25]
    assert names == [name for name in every if name in lowest]


def test_a_cut_set_is_taken_without_holding_the_split(monkeypatch):
    held, most = 0, 0

    class Row(dict):
        def __init__(self):
            nonlocal held, most
            held += 1
            most = max(most, held)

        def __del__(self):
            nonlocal held
            held -= 1

    rows = ((f"sst2/validation/{i}", Row()) for i in range(5000))
    assert len(token_cache._sample(CATALOGUE["sst2"], rows, 10, collections.Counter())) == 10
    assert most < 20


@pytest.mark.parametrize("labels, said", [([0] * 200 + [1] * 200, True), ([0, 1] * 200, False)])
def test_rows_of_one_class_only_are_counted_and_said(write_rows, tmp_path, capsys, labels, said):
    rows = [{**row, "label": label} for row, label in zip(SST2, labels)]
    cache, dataset = cache_of(tmp_path, write_rows("sst2", "train", rows)), CATALOGUE["sst2"]
    key = "of one class only (are the files sorted by label?)"
    counts = {split: cache.packs.find(cache.build_train(dataset, 0, split)).meta["counts"]
              for split in ("train", "validation")}
    assert [counts[split].get(key) for split in counts] == ([200, 200] if said else [None, None])
    assert ("sst2: all 200 validation rows are of one class" in capsys.readouterr().out) == said


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_cache_directory_that_is_a_file_is_refused_in_one_sentence(tmp_path, below):
    file = tmp_path / "afile"
    file.write_text("x")
    cache = TokenCache(file / below, BundledSource(), ByteVocabulary(), Rendering())
    with pytest.raises(UserError, match="cannot lie below .*afile, which is a file; set CACHE_DIR"):
        cache.build_train(CATALOGUE["copa"], 0)
