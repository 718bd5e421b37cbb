"""The token cache.

Which rows of a cut evaluation set are kept, what is said of odd files, and damage.
"""

import ast
import collections
import dataclasses
import errno
import inspect
import itertools
import os
import pathlib
import socket
import sys
import time

import numpy as np
import pytest
import sentencepiece

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE, fingerprint
from flan_jax.cli import dispatch
from flan_jax.data.cache import TokenCache
from flan_jax.data.config import DataConfig
from flan_jax.data.encode import Rendering
from flan_jax.data.packs import Packs, PackWriter, Shard
from flan_jax.data.prune import EARLIER, OTHER_CODE, UNFINISHED, UNUSED, prune
from flan_jax.data.rows import sample
from flan_jax.data.run_data import open_data
from flan_jax.data.sources.bundled import BundledSource
from flan_jax.data.sources.jsonl import JsonlSource
from flan_jax.data.sources.slices import reading_order
from flan_jax.data.vocabulary import ByteVocabulary, load_vocabulary
from flan_jax.errors import UserError
from flan_jax.prepare import prepare
from flan_jax.storage.hashing import stable_hash
from support import tokenizer_files

QUESTIONS = [
    {
        "paragraph": "Ann has a cat.",
        "question": f"Question {q}?",
        "answer": f"Answer {a}.",
        "label": a % 2,
        "idx": {"paragraph": 0, "question": q, "answer": a},
    }
    for a in range(4)
    for q in range(30)
]
SST2 = [{"sentence": f"Film number {i}.", "label": 1} for i in range(400)]


def cache_of(directory, rows=None) -> TokenCache:
    return TokenCache(
        directory / "cache",
        JsonlSource(rows) if rows else BundledSource(),
        ByteVocabulary(),
        Rendering(),
    )


def kept(cache: TokenCache, name: str, max_rows: int) -> tuple[list[str], dict]:
    """The row ids of a cut evaluation set, and its counts."""
    dataset = CATALOGUE[name]
    counts = cache.packs.find(
        cache.build_eval(dataset, "test", dataset.templates[0], max_rows)
    ).meta["counts"]
    return cache.eval_examples(dataset, "test", dataset.templates[0], max_rows).row_ids, counts


@pytest.mark.parametrize("max_rows, rows", [(2, 4), (4, 4), (30, 28), (500, 120)])
def test_a_cut_set_holds_whole_questions(write_rows, tmp_path, max_rows, rows):
    cache = cache_of(tmp_path, write_rows("multirc", "validation", QUESTIONS))
    names, counts = kept(cache, "multirc", max_rows)
    questions = [int(name.rsplit("/", 1)[1]) % 30 for name in names]
    assert len(names) == rows and all(questions.count(q) == 4 for q in questions)
    assert names == sorted(names, key=lambda name: int(name.rsplit("/", 1)[1]))
    assert counts.get("rows not sampled (EVAL_ROWS)", 0) == 120 - rows


@pytest.mark.parametrize(
    "one, other, target_length, drops",
    [
        ("It rained {", "It rained }", 16, True),  # this vocabulary has neither bracket
        ("the same beginning of both, rain", "the same beginning of both, snow", 6, True),
        ("the same beginning of both, rain", "the same beginning of both, snow", 256, False),
    ],
)
def test_a_right_option_that_has_the_tokens_of_another_is_dropped_and_counted(
    write_rows, tmp_path, one, other, target_length, drops
):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tokenizer_files.TEXT),
        model_prefix=str(tmp_path / "small"),
        vocab_size=60,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    rows = [
        {
            "premise": f"Case {i}.",
            "choice1": a,
            "choice2": b,
            "question": "effect",
            "label": 1,
            "idx": i,
        }
        for i, (a, b) in enumerate([(one, other), ("is wet", "is day"), (other, one)])
    ]
    directory = write_rows("copa", "train", 100 * rows)
    write_rows("copa", "validation", 100 * rows)
    cache = TokenCache(
        tmp_path / "cache",
        JsonlSource(directory),
        load_vocabulary(str(tmp_path / "small.model")),
        Rendering(target_length=target_length),
    )
    copa = CATALOGUE["copa"]
    shards = [cache.build_eval(copa, "test", copa.templates[0]), cache.build_train(copa, 0)]
    for key in shards:
        counts = cache.packs.find(key).meta["counts"]
        dropped = counts.get("dropped: the right option and another are the same tokens", 0)
        assert counts["rows"] == counts["rows read"] - dropped > 0
        if key == shards[0]:
            assert dropped == (200 if drops else 0)
        else:  # 50 rows, by hash, are for validation
            assert 150 <= dropped <= 200 if drops else dropped == 0


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
    assert len(sample(CATALOGUE["sst2"], rows, 10, collections.Counter())) == 10
    assert most < 20


@pytest.mark.parametrize("labels, said", [([1] * 400, True), ([0] * 200 + [1] * 200, False)])
def test_rows_of_one_class_only_are_counted_and_said(write_rows, tmp_path, caplog, labels, said):
    rows = [{**row, "label": label} for row, label in zip(SST2, labels)]
    cache, dataset = cache_of(tmp_path, write_rows("sst2", "train", rows)), CATALOGUE["sst2"]
    key = "rows of a single class (are the files sorted by label?)"
    counts = {
        split: cache.packs.find(cache.build_train(dataset, 0, split)).meta["counts"]
        for split in ("train", "validation")
    }
    assert [counts[split].get(key) for split in counts] == ([200, 200] if said else [None, None])
    assert ("sst2: all 200 validation rows are of a single class" in caplog.text) == said
    tested = cache_of(tmp_path, write_rows("sst2", "validation", rows))
    assert kept(tested, "sst2", 300)[1].get(key) == (300 if said else None)


def test_a_cap_takes_rows_of_all_classes_from_a_file_that_is_sorted_by_label(write_rows, tmp_path):
    rows = [{"sentence": f"Film number {i}.", "label": i // 4000} for i in range(8000)]
    cache = cache_of(tmp_path, write_rows("sst2", "train", rows))
    dataset = dataclasses.replace(CATALOGUE["sst2"], train_cap=2000)
    sides = {
        split: cache._rows(dataset, split, collections.Counter())
        for split in ("train", "validation")
    }
    train, validation = (list(itertools.islice(sides[split], 2000)) for split in sides)
    assert len(train) == 2000 and 700 < sum(row["label"] for _, row in train) < 1300
    assert len(validation) == 200 and 70 < sum(row["label"] for _, row in validation) < 130
    every = list(cache._rows(dataset, "train", collections.Counter()))
    assert every[:2000] == train and len({name for name, _ in every}) == 7800
    assert not {name for name, _ in every} & {name for name, _ in validation}


@pytest.mark.parametrize("count", [1, 199, 230, 5_000, 2**22 + 123])
def test_the_slices_of_a_split_share_no_row_and_miss_none(count):
    dataset = dataclasses.replace(
        CATALOGUE["sst2"],
        train_cap=2**30,
        splits={"train": "train[:100]", "validation": "train[100:230]", "test": "train[230:]"},
    )
    sides = [list(reading_order(dataset, spec, count)) for spec in dataset.splits.values()]
    assert all(len(parts) == 1 and (np.diff(parts[0]) > 0).all() for parts in sides)
    assert [len(parts[0]) for parts in sides] == [
        len(range(count)[part]) for part in (slice(100), slice(100, 230), slice(230, None))
    ]
    assert (np.sort(np.concatenate([parts[0] for parts in sides])) == np.arange(count)).all()
    blocks = len(np.unique(sides[1][0] // 100)) if count > 2**22 else 0
    assert blocks <= 3


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_cache_directory_that_is_a_file_is_refused_in_one_sentence(tmp_path, below):
    file = tmp_path / "afile"
    file.write_text("x")
    cache = TokenCache(file / below, BundledSource(), ByteVocabulary(), Rendering())
    with pytest.raises(UserError, match="cannot lie below .*afile, which is a file; set CACHE_DIR"):
        cache.build_train(CATALOGUE["copa"], 0)


def test_a_full_disk_is_one_message_that_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    one = DataConfig(
        held_out="none",
        mixture_or_task_name="copa",
        batch_size=2,
        train_steps=3,
        cache_dir=str(tmp_path),
    )
    with pytest.raises(
        UserError, match="cannot write the token cache in .*No space left.* set CACHE_DIR"
    ):
        prepare(one, workers=1)
    assert not list(tmp_path.rglob("*.pack"))
    monkeypatch.undo()
    assert not prepare(one, workers=1).missing()


def test_a_cache_that_cannot_be_written_is_one_message_and_a_complete_one_is_read(tmp_path):
    one = DataConfig(
        held_out="none",
        mixture_or_task_name="copa",
        batch_size=2,
        train_steps=3,
        cache_dir=str(tmp_path),
    )
    prepare(one, workers=1)
    (tmp_path / "other").write_text("")
    with pytest.raises(UserError, match="the token cache (cannot lie|in) .*other"):
        prepare(dataclasses.replace(one, cache_dir=str(tmp_path / "other/deeper")), workers=1)
    writes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackWriter, "add", lambda self, shard: writes.append(shard))
        assert not prepare(one, workers=1).missing() and not writes


def test_prune_takes_out_what_is_old_left_behind_or_of_other_code_and_nothing_that_is_used(
    tmp_path,
):
    def config(**changes) -> DataConfig:
        return DataConfig(
            **{
                **dict(
                    held_out="none",
                    mixture_or_task_name="copa",
                    batch_size=2,
                    train_steps=3,
                    validation_batches=1,
                    cache_dir=str(tmp_path),
                ),
                **changes,
            }
        )

    used, other = (prepare(c, workers=1) for c in (config(), config(seed=1)))
    used.missing()  # reads its shards
    left = tmp_path / "tokens" / f"1.{socket.gethostname()}-{2**22 + 1}-ab.pack"
    left.write_bytes(b"flanpak1 and a part of a shard")
    before = tmp_path / "copa/train-epoch=0-0123"
    before.mkdir(parents=True)
    for name in ("meta.json", "inputs.npy", "inputs_ends.npy"):
        (before / name).write_text("{}")
    for path in [*tmp_path.glob("tokens/*.pack"), *tmp_path.glob("plans/*")]:
        os.utime(path, (0, time.time() - 40 * 24 * 3600))

    def files() -> set:
        return {path for path in tmp_path.rglob("*") if path.is_file()}

    everything = files()
    would = prune(open_data(config()), 30, dry_run=True)
    assert files() == everything and would.count[EARLIER] == would.count[UNFINISHED] == 1
    assert "would free" in would.text(True) and would.count[UNUSED.format(days="30")] >= 4
    assert prune(open_data(config()), 30).count == would.count
    assert (
        not open_data(used.config).missing()
        and open_data(other.config).missing()
        and not left.exists()
        and not before.exists()
    )
    assert prune(open_data(config()), 30).count == {}
    # as a plan that another process has just taken out
    (tmp_path / "plans/0.npz").symlink_to("gone")
    assert prune(open_data(config()), 30).count == {}

    prepare(other.config, workers=1)
    assert prune(open_data(config()), 30).count == {}, "what was used lately stays"
    dataset = CATALOGUE["copa"]
    shard = other.cache.render_train(dataset, 0)
    shard.key, shard.meta["code"] = "copa/other", "other"
    other.cache.keep(shard)
    assert (
        prune(open_data(config()), 30).count == {OTHER_CODE: 1}
        and not open_data(other.config).missing()
    )


def test_a_shard_is_found_again_after_it_was_damaged_and_after_a_prune_moved_it(tmp_path, caplog):
    def written(*keys: str) -> pathlib.Path:
        with PackWriter(tmp_path) as writer:
            for key in keys:
                writer.add(Shard(key, {}, {"numbers": np.arange(2_000_000)}))
        return writer.written[0]

    damaged = written("first")
    contents = damaged.read_bytes()
    damaged.write_bytes(contents[:100] + bytes([contents[100] ^ 1]) + contents[101:])
    packs = Packs(tmp_path)
    assert packs.are_whole(["first"] * 50) == [False] * 50
    assert packs.find("first") is None and "and will be rebuilt" in caplog.text
    written("first")
    assert packs.find("first") is not None

    # as `prune` does, while this process knows of the pack and has not read it
    before = written("second", "third")
    packs.refresh()
    written("second")
    before.unlink()
    written("second")
    assert packs.find("second") is not None and packs.find("third") is None


def test_a_preparation_of_two_days_makes_a_few_hundred_files(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with PackWriter(tmp_path) as writer:
        for number in range(5760):
            now += 30.0
            writer.add(Shard(str(number), {}, {"numbers": np.arange(3)}))
            if number == 20:
                assert len(writer.written) == 5
    assert len(writer.written) < 300 and len(Packs(tmp_path).packs()) == len(writer.written)


def test_prune_is_a_flag_of_prepare(tmp_path, capsys, monkeypatch):
    arguments = ["prepare", "--gin_file=gin/flan.gin", f"--gin.CACHE_DIR={tmp_path}", "--dry_run"]
    assert (
        dispatch.main([*arguments, "--prune"]) == 0
        and "would free 0.0 MB; 0 shards" in capsys.readouterr().out
    )
    assert (
        dispatch.main(arguments) == 2
        and "--dry_run has no effect without --prune" in capsys.readouterr().err
    )
    assert dispatch.main([*arguments, "--prune", "--older_than=-1"]) == 2

    left = tmp_path / "tokens" / f"1.{socket.gethostname()}-{2**22 + 1}-ab.pack"
    left.parent.mkdir()
    left.write_bytes(b"")

    def refuse(path, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "unlink", refuse)  # a file of another user
    assert dispatch.main([*arguments[:-1], "--prune"]) == 2
    assert f"(Permission denied: {left})" in capsys.readouterr().err


# Files whose text decides what a shard contains.
DECIDING = (
    "catalogue/render.py",
    "catalogue/row_fields.py",
    "data/encode.py",
    "data/exemplars.py",
    "data/rows.py",
    "data/sources/slices.py",
    "storage/hashing.py",
    "tasks/sentiment.py",
    "tasks/cleaning.py",
)
# What those import without its text in the key, and how else the key has it.
NOT_IN_KEY = {
    "flan_jax.errors": "decides no row",
    "flan_jax.messages": "decides no row",
    "flan_jax.catalogue": "re-exports",
    "flan_jax.catalogue.clusters": "the names of the paper",
    "flan_jax.catalogue.records": "the record itself is in the key",
    "flan_jax.config.checks.quoted": "words of a message",
    "flan_jax.data.chat.chat_template": "Vocabulary.fingerprint",
    "flan_jax.data.chat.chat_vocabulary": "Vocabulary.fingerprint",
    "flan_jax.data.contamination.filter": "HeldOutFilter.key",
    "flan_jax.data.sources.base": "Source.fingerprint",
    "flan_jax.data.vocabulary": "Vocabulary.fingerprint",
}


@pytest.mark.parametrize("file", DECIDING)
def test_a_change_of_code_that_decides_examples_changes_the_keys(file, monkeypatch, tmp_path):
    dataset = CATALOGUE["sentiment140"]

    def keys() -> tuple[str, str]:
        cache = TokenCache(tmp_path, BundledSource(), ByteVocabulary(), Rendering())
        template = dataset.templates[0]
        return cache.train_key(dataset, 0), cache.eval_key(dataset, "test", template, None)

    before, text_of = keys(), fingerprint._text_of

    def changed(path: pathlib.Path) -> str:
        is_deciding = str(path.resolve()).endswith(f"/{file}")
        return text_of(path) + "# changed" if is_deciding else text_of(path)

    monkeypatch.setattr(fingerprint, "_text_of", changed)
    assert all(old != new for old, new in zip(before, keys()))


def test_the_code_that_decides_examples_imports_nothing_that_is_not_in_the_keys():
    in_key = {*fingerprint.RENDERING_MODULES, *NOT_IN_KEY}
    for name in fingerprint.RENDERING_MODULES:
        for node in ast.walk(ast.parse(inspect.getsource(sys.modules[name]))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("flan_jax"):
                imported = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                assert imported & in_key, f"{name} imports {node.module}"
