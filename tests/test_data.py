"""From rows to batches.

Sources, mixtures, the token cache, the packing plan and what a batch holds.
"""

import collections
import dataclasses
import itertools
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE, CLUSTERS
from flan_jax.catalogue.mixture_card import format_card
from flan_jax.catalogue.records import RATE_CAP, TRAIN_CAP, Dataset, Template
from flan_jax.catalogue.relations import RELATIONS, shared_texts
from flan_jax.catalogue.splits import check_disjoint, held_out_split
from flan_jax.data import cache, packs
from flan_jax.data.cache import TokenCache
from flan_jax.data.config import DataConfig
from flan_jax.data.encode import Rendering
from flan_jax.data.packing import (
    Member,
    MissingEpochs,
    Plan,
    Planner,
    draw_window,
    make_plan,
    pack_window,
    plan_once,
)
from flan_jax.data.run_data import RunData, open_data
from flan_jax.data.sources.bundled import BundledSource
from flan_jax.data.sources.jsonl import JsonlSource
from flan_jax.data.sources.jsonl_files import count_jsonl, read_jsonl
from flan_jax.data.sources.kinds import open_source
from flan_jax.data.sources.slices import reading_order
from flan_jax.data.vocabulary import EOS, ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.prepare import prepare
from flan_jax.runs.data_log import log_sides

RTE = [
    {
        "premise": f"Premise number {i} is here.",
        "hypothesis": f"Number {i}.",
        "label": i % 2,
        "idx": i,
    }
    for i in range(240)
]


def config(tmp_path, **changes) -> DataConfig:
    record = dict(
        held_out="nli",
        source="bundled",
        vocabulary="bytes",
        batch_size=4,
        train_steps=6,
        task_feature_lengths={"inputs": 512, "targets": 128},
        cache_dir=str(tmp_path / "cache"),
        validation_batches=2,
        eval_max_rows=2,
    )
    return DataConfig(**{**record, **changes})


@pytest.fixture(scope="module")
def bundled(tmp_path_factory) -> RunData:
    return prepare(config(tmp_path_factory.mktemp("bundled")), workers=1)


# Sources.


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("train", range(10)),
        ("train[:-2]", range(8)),
        ("train[-2:]", range(8, 10)),
        ("train[3:5]", range(3, 5)),
    ],
)
def test_slices_keep_the_position_in_the_raw_split(write_rows, spec, expected):
    source = JsonlSource(write_rows("rte", "train", RTE[:10]))
    assert [i for i, _ in source.rows(CATALOGUE["rte"], spec)] == list(expected)


def test_a_truncated_line_is_named_with_file_and_line(write_rows):
    directory = write_rows("rte", "train", RTE[:3])
    path = directory / "rte/train.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:30], lines[2]]) + "\n")
    with pytest.raises(UserError, match=r"rte/train.jsonl:2: not a complete JSON object"):
        list(JsonlSource(directory).rows(CATALOGUE["rte"], "train"))


def test_a_row_with_raw_line_breaks_is_read_and_counted_once(write_rows):
    directory = write_rows("rte", "train", RTE[:2])
    path = directory / "rte/train.jsonl"
    path.write_text(path.read_text().replace("Premise number 0", "Premise\nnumber\n\n0"))
    rows = list(JsonlSource(directory).rows(CATALOGUE["rte"], "train[-2:]"))
    assert [i for i, _ in rows] == [0, 1] and rows[0][1]["premise"].startswith(
        "Premise\nnumber\n\n0"
    )


def test_a_line_that_breaks_within_a_text_and_ends_in_a_brace_is_no_row_of_its_own(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a {set}\nof braces"}\n{"text": "\\"}\n\\\\"}\n{"text": "\\\\"}\n')
    assert count_jsonl(path) == len(list(read_jsonl(path))) == 3


def test_blank_lines_may_end_a_file_and_not_part_its_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n\n  \n')
    assert count_jsonl(path) == len(list(read_jsonl(path))) == 2
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    with pytest.raises(UserError, match=r"rows.jsonl:2: not a complete JSON object"):
        count_jsonl(path)


def test_another_encoding_is_named_with_file_line_and_byte(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"text": "tea"}\n{"text": "café"}\n'.encode("latin-1"))
    with pytest.raises(UserError, match=r"rows.jsonl:2: byte 14 of the line is not UTF-8"):
        list(read_jsonl(path))


def test_the_mark_that_windows_puts_before_a_text_is_no_part_of_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert list(read_jsonl(path)) == [{"a": 1}, {"a": 2}] and count_jsonl(path) == 2


def test_half_a_character_names_file_and_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "\\ud83d\\ude00"}\n{"a": "\\\\ud83d"}\n{"a": "cut within \\uD83D"}\n')
    rows = read_jsonl(path)
    assert [next(rows), next(rows)] == [{"a": "\U0001f600"}, {"a": "\\ud83d"}]
    with pytest.raises(UserError, match=r"rows.jsonl:3: lone surrogate '\\ud83d'"):
        next(rows)


@pytest.mark.parametrize(
    "line, says",
    [
        ("null", "a row must be a JSON object, not null"),
        ("[1]", "a row must be a JSON object, not list"),
        ('{"a": ' + "1" * 5000 + "}", "it has a number of too many digits"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a": "b', "not a complete JSON object .* is a quotation mark missing"),
    ],
    ids=["null", "list", "digits", "depth", "quote"],
)
def test_a_line_that_is_no_row_is_named_in_time_that_grows_with_the_file_alone(
    tmp_path, line, says
):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' + line + "\n" + '{"a": "a row after it"}\n' * 150_000)
    start = time.process_time()
    with pytest.raises(UserError, match=f"rows.jsonl:2: .*{says}"):
        list(read_jsonl(path))
    assert time.process_time() - start < 5


def test_which_rows_a_run_reads_is_said_and_a_directory_without_a_source_is_refused(
    tmp_path, write_rows, caplog
):
    caplog.set_level("INFO")
    with pytest.raises(UserError, match="is not read with DATA_SOURCE=bundled"):
        open_data(config(tmp_path, data_dir=str(tmp_path)))
    directory = write_rows("rte", "train", RTE)
    log_sides(
        prepare(
            config(tmp_path, held_out="none", source="jsonl", data_dir=str(directory)), workers=1
        )
    )
    assert f"rows: {directory} (DATA_SOURCE=jsonl)" in caplog.text
    assert "bundled with the package" in BundledSource().description


def test_availability_says_why_not(write_rows):
    source = JsonlSource(write_rows("rte", "train", RTE[:20]))
    assert "has 20 rows" in source.available(CATALOGUE["rte"], "train")  # train[:-200]
    assert "no file" in source.available(CATALOGUE["cb"], "train")
    assert source.available(CATALOGUE["wsc273"], "train") == "has no train split"


def test_sources_are_checked_when_opened(tmp_path):
    with pytest.raises(UserError, match="it is one of tfds, hf, jsonl, bundled"):
        open_source("csv")
    with pytest.raises(UserError, match="needs DATA_DIR"):
        open_source("jsonl")
    with pytest.raises(UserError, match="is not a directory"):
        open_source("jsonl", str(tmp_path / "none"))


# Held-out sides.


@pytest.mark.parametrize(
    "held_out, train, dropped, evaluated",
    [
        ("nli", 55, 4, 10),
        ("paraphrase", 55, 10, 4),
        ("reading_comprehension", 61, 2, 6),
        ("commonsense", 63, 2, 4),
        ("reading_comprehension_with_commonsense", 57, 10, 2),
        ("summarization", 58, 0, 11),
        ("translation", 61, 0, 8),
        ("sentiment", 65, 0, 4),
        ("closed_book_qa", 65, 0, 4),
        ("struct_to_text", 65, 0, 4),
        ("coreference", 66, 0, 4),
        ("misc", 60, 0, 9),
        ("none", 69, 0, 0),
    ],
)
def test_held_out_sides_have_the_papers_sizes(held_out, train, dropped, evaluated):
    split = held_out_split(CATALOGUE, held_out, related="paper")
    assert (len(split.train), len(split.dropped), len(split.eval)) == (train, dropped, evaluated)
    clusters = {CATALOGUE[n].cluster for n in split.train}
    assert held_out not in clusters and not clusters & {CATALOGUE[n].cluster for n in split.dropped}


NLI_COMMONSENSE_CLOSED = "nli+commonsense+closed_book_qa"


@pytest.mark.parametrize(
    "arguments, train, evaluated, unseen",
    [
        ((NLI_COMMONSENSE_CLOSED,), 45, 18, "cluster"),
        (("superglue",), 61, 8, "dataset"),
        (("all",), 69, 70, "nothing"),
        *[
            ((NLI_COMMONSENSE_CLOSED, n), train, 18, "cluster")
            for n, train in enumerate((11, 19, 25, 29, 33, 36, 38), start=1)
        ],
        *[
            ((NLI_COMMONSENSE_CLOSED, 7, n), train, 18, "cluster")
            for n, train in enumerate((7, 14, 20, 25), start=1)
        ],
    ],
)
def test_ablation_sides_have_the_originals_sizes(arguments, train, evaluated, unseen):
    """Counts of the original's mixtures.

    Inter-cluster, SuperGLUE, all, number of clusters, tasks per cluster.
    """
    split = held_out_split(CATALOGUE, *arguments, related="paper")
    assert (len(split.train), len(split.eval), split.unseen) == (train, evaluated, unseen)
    assert set(split.dropped) == set(split.why) and not set(split.dropped) & {
        *split.train,
        *split.eval,
    }
    if len(arguments) > 1:
        assert {d.name for d in CATALOGUE if "train" in d.splits} == {
            *split.train,
            *split.dropped,
            *split.eval,
        }


def test_splits_within_clusters_hold_out_one_dataset_of_each():
    chosen = set()
    for number in range(10):
        split = held_out_split(CATALOGUE, f"intra_{number}", related="paper")
        held = {(CATALOGUE[n].cluster, CATALOGUE[n].paper_dataset) for n in split.eval}
        assert len(held) == 12 == len({cluster for cluster, _ in held}) and not split.dropped
        assert not {d for _, d in held} & {CATALOGUE[n].paper_dataset for n in split.train}
        chosen |= held
    assert len(chosen) > 50  # ten splits reach nearly all of the 62


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("intra_10",), "intra_0 to intra_9"),
        (("superglu",), "or 'none'"),
        ((NLI_COMMONSENSE_CLOSED, 8), "at least 1 and below 8, not 8"),
        ((1,), "HELD_OUT is a cluster .*, not 1"),
        (("",), "HELD_OUT is a cluster .*, not ''"),
        (("nli", 0), "TRAIN_CLUSTERS must be None or a whole number of at least 1 and below"),
        (("nli", True), "not True"),
        (
            ("nli", None, None, "papers"),
            "RELATED must be one of text, paper, not 'papers'; did you mean paper?",
        ),
        (
            ("coreference+wsc",),
            "'wsc' is a dataset, not a cluster; hold out its cluster, coreference",
        ),
        (
            ("nli", None, None, "text", 0),
            "TRAIN_DATASETS must be None or a whole number of at least 1, not 0",
        ),
        (
            ("nli", None, 0),
            "DATASETS_PER_CLUSTER must be None or a whole number of at least 1, not 0",
        ),
    ],
)
def test_a_split_that_is_out_of_range_is_refused(arguments, says):
    with pytest.raises(UserError, match=says):
        held_out_split(CATALOGUE, *arguments)


@pytest.mark.parametrize(
    "held_out, evaluated, related",
    [
        ("coreference", "wsc273", {"wnli"}),
        ("nli", "wnli", {"wsc"}),
        ("nli", "qnli", {"squad_v1", "squad_v2"}),
        ("reading_comprehension", "squad_v2", {"qnli"}),
        ("superglue", "wsc", {"wnli"}),
        ("misc+coreference", "coqa", {"wnli", "cnn_dailymail"}),
        ("intra_0", "dart", {"web_nlg_en", "e2e_nlg"}),
    ],
)
def test_what_shares_text_with_a_held_out_dataset_does_not_train(held_out, evaluated, related):
    split, papers = (
        held_out_split(CATALOGUE, held_out),
        held_out_split(CATALOGUE, held_out, related="paper"),
    )
    assert evaluated in split.eval == papers.eval
    assert related <= set(split.dropped) and not related & set(split.train) and not split.overlaps
    assert related <= set(papers.train) and related <= {
        overlap.train for overlap in papers.overlaps
    }
    assert not shared_texts(split.train, split.eval)
    assert all("shares text with" in split.why[name] for name in related)
    assert "no training dataset shares text" in split.guarantee
    assert all(name in papers.guarantee for name in related)
    papers.check(CATALOGUE, related)
    with pytest.raises(UserError, match="the two share text .*RELATED=paper"):
        split.check(CATALOGUE, related)


def test_ablations_take_datasets_and_clusters_in_the_order_of_the_papers_code():
    first = held_out_split(CATALOGUE, NLI_COMMONSENSE_CLOSED, 7, 1, "paper").train
    assert set(first) == {
        "aeslc",
        "web_nlg_en",
        "squad_v1",
        "imdb_reviews",
        "para_crawl_enes",
        "definite_pronoun_resolution",
        "quac",
    }
    fifteen = [
        set(held_out_split(CATALOGUE, NLI_COMMONSENSE_CLOSED, n, None, "paper", 15).train)
        for n in range(1, 8)
    ]
    assert [len(names) for names in fifteen] == [11, 15, 15, 15, 15, 15, 15]
    # flan_diversity_split7_10templates_15task_limit: two of each of the seven clusters, and a third
    # of summarization.
    assert fifteen[6] == {
        "aeslc",
        "cnn_dailymail",
        "gigaword",
        "web_nlg_en",
        "common_gen",
        "squad_v1",
        "squad_v2",
        "imdb_reviews",
        "sentiment140",
        "para_crawl_enes",
        "wmt14_enfr",
        "definite_pronoun_resolution",
        "winogrande",
        "quac",
        "coqa",
    }
    split = held_out_split(CATALOGUE, "nli", train_datasets=15)
    assert len(split.train) == 15 and set(split.dropped) == set(split.why)


def test_the_first_ten_templates_hold_the_inverted_ones():
    for dataset in CATALOGUE:
        kinds = [template.kind for template in dataset.first_templates(10)]
        assert len(kinds) == 10 and kinds.count("inverted") == len(dataset.templates) - len(
            dataset.forward()
        )
        assert dataset.first_templates(None) == dataset.templates
        assert dataset.first_templates(1) == dataset.forward()[:1]


def test_relations_are_between_datasets_of_the_catalogue_that_the_paper_does_not_count_as_one():
    for relation in RELATIONS:
        pairs = itertools.product(
            map(CATALOGUE.__getitem__, relation.first), map(CATALOGUE.__getitem__, relation.second)
        )
        assert all(one.paper_dataset != other.paper_dataset for one, other in pairs)
    assert (
        not held_out_split(CATALOGUE, "all").dropped
        and not held_out_split(CATALOGUE, "none").dropped
    )
    assert len(held_out_split(CATALOGUE, NLI_COMMONSENSE_CLOSED, None, 1).train) == 7, (
        "one of each cluster that trains"
    )


def test_an_explicit_task_must_not_come_from_what_is_held_out():
    superglue = held_out_split(CATALOGUE, "superglue")
    superglue.check(CATALOGUE, ["anli_r1"])  # another dataset of a seen cluster
    with pytest.raises(UserError, match="rte trains while rte"):
        superglue.check(CATALOGUE, ["rte"])
    with pytest.raises(UserError, match="glue_mrpc trains while"):  # related to NLI
        held_out_split(CATALOGUE, "nli").check(CATALOGUE, ["glue_mrpc"])


def test_overlap_is_an_error_and_an_unknown_cluster_is_named():
    with pytest.raises(UserError, match="rte trains while anli_r1"):
        check_disjoint(CATALOGUE, ["rte"], held_out_split(CATALOGUE, "nli").eval)
    with pytest.raises(UserError, match="did you mean translation"):
        held_out_split(CATALOGUE, "translatoin")
    assert set(CLUSTERS) == {d.cluster for d in CATALOGUE}


def test_only_datasets_of_commercial_licenses_train(tmp_path):
    names = open_data(config(tmp_path, commercial_only=True)).train.datasets()
    assert names and all(CATALOGUE[name].commercial for name in names)
    with pytest.raises(
        UserError, match="commercial use of imdb_reviews is 'unknown' .*NOASSERTION"
    ):
        open_data(config(tmp_path, commercial_only=True, mixture_or_task_name="imdb_reviews"))


@pytest.mark.parametrize("name", ["rte", "glue_mrpc"])
def test_training_by_name_on_what_is_held_out_or_dropped_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"{name} trains while"):
        open_data(config(tmp_path, mixture_or_task_name=name))


def test_a_held_out_cluster_without_rows_is_said_before_training(write_rows, tmp_path):
    directory = str(
        write_rows(
            "sst2", "train", [{"sentence": f"Good {i}.", "label": 1, "idx": i} for i in range(210)]
        )
    )
    data = open_data(config(tmp_path, held_out="nli", source="jsonl", data_dir=directory))
    with pytest.raises(UserError, match="no dataset of the held-out cluster nli is available"):
        data.eval.datasets()


def test_two_configurations_with_the_same_training_rows_count_once(tmp_path):
    data = open_data(config(tmp_path, held_out="translation"))
    names = data.train.datasets()
    assert "mnli_matched" in names and "mnli_mismatched" not in names
    assert "counts once" in data.left_out["mnli_mismatched"]


def test_a_configuration_trains_where_the_one_with_the_same_rows_is_not_available(
    write_rows, tmp_path
):
    directory = str(write_rows("mnli_mismatched", "train", RTE))
    data = open_data(config(tmp_path, held_out="none", source="jsonl", data_dir=directory))
    assert data.train.datasets() == ["mnli_mismatched"]
    write_rows("mnli_matched", "train", RTE)
    assert open_data(data.config).train.datasets() == ["mnli_matched"]


def test_strict_data_refuses_what_the_other_way_leaves_out(write_rows, tmp_path):
    directory = str(write_rows("rte", "train", RTE))
    loose = open_data(config(tmp_path, held_out="none", source="jsonl", data_dir=directory))
    assert loose.train.datasets() == ["rte"] and "no file" in loose.left_out["cb"]
    with pytest.raises(UserError, match="STRICT_DATA is True"):
        open_data(
            config(tmp_path, held_out="none", source="jsonl", data_dir=directory, strict=True)
        ).train.datasets()


# Token cache.


def test_a_prepared_cache_is_ready_and_is_not_built_twice(bundled):
    assert not bundled.missing()
    files = {path: path.read_bytes() for path in bundled.directory.rglob("*.*")}
    prepare(bundled.config, workers=1)
    assert {path: path.read_bytes() for path in bundled.directory.rglob("*.*")} == files


def test_cached_tokens_are_the_rendered_rows(bundled):
    examples = bundled.eval.examples(CATALOGUE["cb"], CATALOGUE["cb"].template("discourse"))
    assert len(examples.inputs) == 2
    for ids, options, text in zip(examples.inputs, examples.options, examples.texts):
        assert bundled.vocabulary.decode(ids) == text["inputs"] and ids[-1] == EOS
        assert (
            [bundled.vocabulary.decode(o) for o in options]
            == text["options"]
            == ["yes", "no", "it is impossible to say"]
        )
        assert text["answer"] == text["options"][text["label"]]


@pytest.mark.parametrize(
    "change",
    [
        dict(task_feature_lengths={"inputs": 500, "targets": 128}),
        dict(seed=1),
        dict(options_style="lettered"),
        dict(instructions="none"),
    ],
)
def test_another_rendering_is_another_shard(bundled, change):
    other = open_data(dataclasses.replace(bundled.config, **change))
    assert other.train.shard_key("copa", 0) != bundled.train.shard_key("copa", 0)
    assert other.missing()


def test_changed_rows_and_templates_are_never_served_stale(write_rows, tmp_path):
    directory = write_rows("rte", "train", RTE)
    record = config(
        tmp_path, held_out="none", source="jsonl", data_dir=str(directory), vocabulary="bytes"
    )
    before = open_data(record).train.shard_key("rte", 0)
    write_rows("rte", "train", [{**RTE[0], "premise": "Changed."}, *RTE[1:]])
    after = open_data(record)
    assert after.train.shard_key("rte", 0) != before
    dataset = CATALOGUE["rte"]
    fewer = dataclasses.replace(dataset, templates=dataset.templates[:-1])
    assert after.cache.train_key(fewer, 0) != after.cache.train_key(dataset, 0)


@pytest.mark.parametrize("damage", ["cut", "flipped", "index", "swapped", "empty"])
def test_a_damaged_pack_is_named_and_its_shards_are_rebuilt(caplog, tmp_path, damage):
    data = prepare(config(tmp_path, mixture_or_task_name="copa", held_out="none"), workers=1)
    whole = data.train.batches().at(0)
    held, other = (
        next(
            pack
            for pack in data.cache.packs.packs()
            if (data.train.shard_key("copa", 0) in pack.index) is there
        )
        for there in (True, False)
    )
    contents = held.path.read_bytes()
    altered = {"cut": contents[:-100], "empty": b"", "swapped": other.path.read_bytes()}
    begin = held.index[data.train.shard_key("copa", 0)]["arrays"]["inputs"][2]
    for name, place in (("flipped", begin + 9), ("index", len(contents) - 200)):
        altered[name] = contents[:place] + bytes([contents[place] ^ 1]) + contents[place + 1 :]
    held.path.write_bytes(altered[damage])
    packs._CHECKED.clear()
    assert open_data(data.config).missing()
    said = {
        "cut": "was not finished",
        "empty": "was not finished",
        "swapped": "",
        "index": "its index is altered",
        "flipped": "will be rebuilt",
    }[damage]
    assert said in caplog.text
    again = prepare(data.config, workers=1)
    assert not again.missing() and all(
        (again.train.batches().at(0)[name] == array).all() for name, array in whole.items()
    )


def test_packs_that_changed_their_names_or_were_moved_are_used(tmp_path):
    data = prepare(
        config(tmp_path / "before", mixture_or_task_name="copa", held_out="none"), workers=1
    )
    first, second = sorted((data.directory / "tokens").glob("*.pack"))[:2]
    contents = [path.read_bytes() for path in (first, second)]
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    (tmp_path / "before").rename(tmp_path / "after")
    packs._CHECKED.clear()
    moved = open_data(dataclasses.replace(data.config, cache_dir=str(tmp_path / "after/cache")))
    files = sorted(moved.directory.rglob("*"))
    assert not moved.missing() and sorted(moved.directory.rglob("*")) == files
    assert len(list((moved.directory / "plans").iterdir())) == 2


def test_the_seed_is_in_a_key_only_where_it_decides(bundled):
    def keys(**changes) -> list[tuple[str, str]]:
        pair = [
            open_data(dataclasses.replace(bundled.config, seed=seed, **changes)) for seed in (0, 1)
        ]
        job = CATALOGUE["cb"], CATALOGUE["cb"].forward()[0]
        return [
            tuple(data.eval.key(*job) for data in pair),
            tuple(data.train.shard_key("copa", 0) for data in pair),
        ]

    assert [a == b for a, b in keys()] == [True, False]
    assert [a == b for a, b in keys(instructions="none")] == [True, True]
    assert [a == b for a, b in keys(templates=1)] == [True, True]
    assert [a == b for a, b in keys(options_style="shuffled")] == [False, False]
    assert [a == b for a, b in keys(shots=1)] == [False, False]


def test_many_epochs_of_a_small_dataset_share_a_shard_and_are_the_same_examples_as_one_by_one(
    tmp_path, monkeypatch
):
    one = config(
        tmp_path,
        mixture_or_task_name="copa",
        held_out="none",
        train_steps=30,
        batch_size=8,
        validation_batches=0,
    )
    data = prepare(one, workers=1)
    epochs = sorted({epoch for _, epoch in data.train.plan().epochs()})
    assert len(epochs) > 10 and len({data.train.shard_key("copa", epoch) for epoch in epochs}) == 5
    assert len(list(data.directory.rglob("*"))) <= 8
    shared = [data.train.batches().at(step) for step in range(one.train_steps)]
    monkeypatch.setattr(cache, "MOST_PAIRS", 0)
    apart = prepare(dataclasses.replace(one, cache_dir=str(tmp_path / "apart")), workers=1)
    assert len({apart.train.shard_key("copa", epoch) for epoch in epochs}) == len(epochs)
    batches, limits = apart.train.batches(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 5, limits[1])
    )
    try:
        for step in range(one.train_steps):
            assert all(
                (batches.at(step)[name] == array).all() for name, array in shared[step].items()
            )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_preparation_that_is_ended_leaves_no_process(tmp_path, write_rows, number):
    rows = write_rows(
        "sst2", "train", [{"sentence": f"Film {i}.", "label": i % 2} for i in range(4000)]
    )
    command = [
        sys.executable,
        "-m",
        "flan_jax.prepare",
        "--gin_file=gin/flan.gin",
        "--workers=2",
        "--gin.DATA_SOURCE=jsonl",
        f"--gin.DATA_DIR={rows}",
        "--gin.MIXTURE_OR_TASK_NAME=sst2",
        "--gin.HELD_OUT=none",
        "--gin.TRAIN_STEPS=20_000",
        f"--gin.CACHE_DIR={tmp_path}",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        children: list[str] = []
        # two that render, and the resource tracker
        while len(children) < 3 and process.poll() is None:
            time.sleep(0.1)
            children = (
                pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            )
        # a terminal's Ctrl-C reaches them too, and their parent alone acts on it
        for child in children:
            os.kill(int(child), signal.SIGINT)
        time.sleep(1)
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == (143 if number == signal.SIGTERM else -9), errors
    for _ in range(1000):
        alive = [
            child
            for child in children
            if pathlib.Path(f"/proc/{child}/cmdline").is_file()
            and pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
        ]
        if not alive:
            break
        time.sleep(0.1)
    assert not alive and "KeyboardInterrupt" not in errors
    if number == signal.SIGTERM:
        assert "SIGTERM: ended" in errors and "leaked" not in errors and "Traceback" not in errors


def test_two_preparations_at_once_render_as_many_rows_as_one(tmp_path):
    one = config(tmp_path, train_steps=2)
    program = (
        "import sys; from flan_jax import log; log.configure(); "
        "from flan_jax.prepare import prepare; from flan_jax.data.config import DataConfig; "
        f"prepare({one!r}, workers=1)"
    )
    pair = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate()[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], printed
    keys = [key for pack in open_data(one).cache.packs.packs() for key in pack.index]
    assert len(keys) == len(set(keys)) > 100
    assert sum("waiting for flan-jax prepare (process " in text for text in printed) >= 1


def test_counts_say_what_was_dropped_and_capped(write_rows, tmp_path):
    unlabelled = next(reading_order(CATALOGUE["rte"], "train[:-200]", len(RTE)))[:5]
    rows = [{**row, "label": -1} if i in unlabelled else row for i, row in enumerate(RTE)]
    data = open_data(
        config(
            tmp_path,
            held_out="none",
            source="jsonl",
            data_dir=str(write_rows("rte", "train", rows)),
        )
    )
    data.train.build_shard("rte", 0)
    assert (
        data.train.counts("rte")["dropped: no gold label"] == 5
        and data.train.counts("rte")["rows"] == 35
    )


# Packing.


def test_pack_window_places_each_example_once_and_overfills_no_row():
    random = np.random.default_rng(0)
    sizes = np.stack([random.integers(3, 900, 3000), random.integers(1, 60, 3000)], 1)
    bins = pack_window(sizes, (1024, 256))
    assert sorted(i for row in bins for i in row) == list(range(3000))
    assert all((sizes[row].sum(0) <= (1024, 256)).all() for row in bins)


@pytest.mark.parametrize(
    "inputs, targets, expected",
    [(4.8, 2.3, 0.992), (4.8, 3.3, 0.937), (3.5, 3.3, 0.997)],
    ids=["inputs are scarce", "both are", "targets are"],
)
def test_packing_fills_the_scarcer_length(inputs, targets, expected):
    random = np.random.default_rng(2)
    sizes = np.stack(
        [
            np.clip(random.lognormal(inputs, 0.9, 8192), 8, 1024).astype(int),
            np.clip(random.lognormal(targets, 1.0, 8192), 2, 256).astype(int),
        ],
        1,
    )
    rows = pack_window(sizes, (1024, 256))
    assert (sizes.sum(0) / (1024, 256)).max() / len(rows) >= expected


def test_examples_without_tokens_share_a_row():
    assert len(pack_window(np.array([[0, 0]] * 599 + [[3, 1]]), (8, 4))) == 1


def test_draws_follow_the_rates_and_each_epoch_visits_each_row_once():
    members = [Member("large", 100_000, RATE_CAP), Member("small", 300, 300)]
    member, epoch, index = draw_window(members, np.zeros(2, np.int64), 0, 0, 8192)
    assert abs((member == 1).mean() - 300 / 3300) < 0.02
    first = index[(member == 1) & (epoch == 0)]
    assert len(first) == 300 and len(set(first)) == 300
    assert len(set(index[member == 0])) == (member == 0).sum()


def test_a_plan_is_a_prefix_of_a_longer_one():
    lengths = {"a": np.array([[10, 3], [100, 5], [40, 8]]), "b": np.array([[60, 2], [7, 7]])}
    members = [Member("a", 3, 3), Member("b", 2, 2)]
    short, long = (
        make_plan(members, lambda n, e: lengths[n], (128, 16), 0, rows) for rows in (50, 2000)
    )
    assert [short.row(r) for r in range(50)] == [long.row(r) for r in range(50)]
    with pytest.raises(MissingEpochs) as error:
        make_plan(members, lambda n, e: lengths[n] if e == 0 else None, (128, 16), 0, 50)
    assert ("a", 1) in error.value.wanted


def test_a_plan_with_one_bit_flipped_is_made_anew(tmp_path):
    plan = make_plan(
        [Member("a", 2, 2)], lambda name, epoch: np.array([[10, 3], [100, 5]]), (128, 16), 0, 4
    )
    plan.save(tmp_path / "plan.npz")
    contents = (tmp_path / "plan.npz").read_bytes()
    # the list of the file's parts
    for place in range(contents.index(b"PK\x01\x02"), len(contents)):
        for bit in range(8):
            altered = bytes([contents[place] ^ 1 << bit])
            (tmp_path / "plan.npz").write_bytes(contents[:place] + altered + contents[place + 1 :])
            read = Plan.load(tmp_path / "plan.npz")
            assert read is None or (read.index == plan.index).all()


def test_a_planner_goes_on_where_a_shard_was_missing_and_plans_what_one_call_does():
    members = [Member("a", 40, 40), Member("b", 300, 300)]
    tables = {
        (m.name, e): np.random.default_rng(e).integers(1, 30, (m.rows, 2))
        for m in members
        for e in range(60)
    }
    whole = make_plan(members, lambda name, epoch: tables[name, epoch], (64, 64), 0, 900)
    built, looked_up = {("a", 0), ("b", 0)}, collections.Counter()

    def lengths(name, epoch):
        looked_up[name, epoch] += 1
        return tables[name, epoch] if (name, epoch) in built else None

    planner, rounds, plan = Planner(members, lengths, (64, 64), 0), 0, None
    while plan is None:
        try:
            plan = planner.plan(900)
        except MissingEpochs as error:
            built, rounds = built | error.wanted, rounds + 1
    assert rounds > 1 and max(looked_up.values()) <= 2 * rounds
    assert all(
        (getattr(plan, f.name) == getattr(whole, f.name)).all() for f in dataclasses.fields(plan)
    )


def test_no_more_epochs_are_asked_for_than_unpacked_rows_use():
    members, asked = [Member("a", 1000, 1000), Member("b", 300, 300)], set()

    def lengths(name, epoch):
        asked.add((name, epoch))
        return np.tile([[40, 6]], (1000 if name == "a" else 300, 1))

    plan = make_plan(members, lengths, (1024, 256), 0, 1000, pack=False)
    assert len(plan.member) == len(plan) == 1000
    assert asked == {("a", 0), ("b", 0)} | {(members[m].name, epoch) for m, epoch in plan.epochs()}


def test_plan_once_takes_every_row_once():
    lengths = {"a": np.array([[10, 3], [100, 5], [40, 8]]), "b": np.array([[60, 2], [7, 7]])}
    plan = plan_once(
        [Member("a", 3, 3), Member("b", 2, 2)], lambda n, e: lengths[n], (128, 16), 0, 100
    )
    assert sorted(zip(plan.member.tolist(), plan.index.tolist())) == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
    ]


# Batches.


def test_a_batch_holds_whole_examples_with_their_segments(bundled):
    batches = bundled.train.batches()
    batch = batches.at(3)
    for row in range(4):
        for segment, (member, epoch, index) in enumerate(batches.plan.row(3 * 4 + row), 1):
            shard = batches._shard(member, epoch)
            there = batch["encoder_segment_ids"][row] == segment
            assert (
                batch["encoder_input_tokens"][row][there].tolist() == shard.inputs[index].tolist()
            )
            assert batch["encoder_positions"][row][there].tolist() == list(range(there.sum()))
            there = batch["decoder_segment_ids"][row] == segment
            targets = shard.targets[index].tolist()
            assert (
                batch["decoder_target_tokens"][row][there].tolist() == targets
                and targets[-1] == EOS
            )
            assert batch["decoder_input_tokens"][row][there].tolist() == [0, *targets[:-1]]
    assert (batch["decoder_loss_weights"] == (batch["decoder_segment_ids"] > 0)).all()


def test_a_batch_is_the_same_however_many_hosts_make_it(bundled):
    batches = bundled.train.batches()
    whole = batches.at(2)
    for name, array in whole.items():
        parts = [batches.at(2, begin, begin + 2)[name] for begin in (0, 2)]
        assert (np.concatenate(parts) == array).all()
    again = open_data(bundled.config).train.batches().at(2)
    assert all((again[name] == whole[name]).all() for name in whole)


def test_validation_rows_are_not_training_rows(write_rows, tmp_path):
    directory = str(write_rows("rte", "train", RTE))
    data = prepare(config(tmp_path, held_out="none", source="jsonl", data_dir=directory), workers=1)
    train = collections.Counter(
        bytes(data.train.batches().at(s)["encoder_input_tokens"].tobytes()) for s in range(6)
    )
    assert len(train) == 6
    numbers = set()
    for split in ("train", "validation"):
        batches = data.train.batches(split)
        text = " ".join(
            data.vocabulary.decode([i for i in row if i != EOS])
            for s in range(len(batches))
            for row in batches.at(s)["encoder_input_tokens"]
        )
        found = {int(number) for number in re.findall(r"Premise number (\d+) is here", text)}
        assert found and not found & numbers
        numbers |= found


def test_the_mixture_card_has_the_cap_beside_the_rows(bundled):
    card = bundled.train.card(bundled.train.members())
    assert {row.cap for row in card} == {TRAIN_CAP} and abs(
        sum(row.share for row in card) - 1
    ) < 1e-9
    head, first = format_card(card).splitlines()[:2]
    assert (
        head.split() == ["dataset", "cluster", "rows", "cap", "rate", "share", "templates"]
        and "30,000" in first
    )


def test_lengths_that_are_none_are_refused(tmp_path):
    with pytest.raises(UserError, match="TASK_FEATURE_LENGTHS must look like"):
        open_data(config(tmp_path, task_feature_lengths={"inputs": 512}))


def share_filled(config: DataConfig) -> np.ndarray:
    """The share of input and target tokens that is filled in the 1,600 rows of a run."""
    filled, room = (
        prepare(
            dataclasses.replace(
                config, batch_size=8, train_steps=200, validation_batches=0, eval_templates=1
            ),
            workers=1,
        )
        .train.plan()
        .filled
    )
    return filled / room


# No packing fills much more: `docs/how_it_works.md` has the bounds.
@pytest.mark.parametrize(
    "lengths, inputs", [((1024, 256), 0.96), ((512, 128), 0.95), ((256, 64), 0.84)]
)
def test_bundled_rows_fill_the_inputs(lengths, inputs, tmp_path):
    filled = share_filled(
        config(tmp_path, task_feature_lengths=dict(zip(("inputs", "targets"), lengths)))
    )
    assert filled[0] >= inputs


@pytest.mark.parametrize(
    "lengths, inputs, targets",
    [
        pytest.param((1024, 256), 0.78, 0.985, marks=pytest.mark.slow),
        ((512, 128), 0.77, 0.95),
        pytest.param((256, 64), 0.72, 0.82, marks=pytest.mark.slow),
    ],
)
def test_real_rows_fill_both_lengths(real_rows, t5_vocabulary, lengths, inputs, targets, tmp_path):
    filled = share_filled(
        config(
            tmp_path,
            source="jsonl",
            data_dir=str(real_rows),
            vocabulary=t5_vocabulary,
            related="paper",  # the mixture that the bounds were measured with
            task_feature_lengths=dict(zip(("inputs", "targets"), lengths)),
        )
    )
    assert filled[0] >= inputs and filled[1] >= targets


@pytest.mark.parametrize(
    "given",
    [
        {"eval_max_rows": 0},
        {"eval_max_rows": -1},
        {"eval_max_rows": "all"},
        {"eval_templates": 1.5},
        {"eval_templates": 0},
        {"eval_templates": True},
    ],
)
def test_rows_and_templates_that_cannot_be_evaluated_are_refused(given):
    with pytest.raises(
        UserError,
        match="(Data.eval_max_rows must be None|EVAL_TEMPLATES without ids must be a whole)",
    ):
        DataConfig(**given)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"strict": "False"}, "Data.strict must be True or False, not 'False'."),
        ({"decontaminate": 1}, "Data.decontaminate must be True or False, not 1."),
        ({"pack": 3}, "Data.pack must be True or False, not 3."),
        (
            {"validation_batches": -1},
            "Data.validation_batches must be a whole number of at least 0 and below 1,048,576",
        ),
        (
            {"seed": None},
            "Data.seed must be a whole number of at least 0 and below 4,294,967,296, not None.",
        ),
        (
            {"seed": "x"},
            "Data.seed must be a whole number of at least 0 and below 4,294,967,296, not 'x'.",
        ),
        (
            {"seed": 2**32},
            (
                "Data.seed must be a whole number of at least 0 and below 4,294,967,296, not "
                "4294967296."
            ),
        ),
        (
            {"shots": True},
            "Data.shots must be a whole number of at least 0 and below 1,025, not True.",
        ),
        (
            {"templates": True},
            "Data.templates must be None or a whole number of at least 1, not True.",
        ),
        ({"vocabulary": None}, "Data.vocabulary must be text, not None."),
        (
            {"options_style": "lettred"},
            "options_style must be one of fixed, shuffled, lettered, none, mixed, not 'lettred'",
        ),
        (
            {"instructions": "foo"},
            "Data.instructions must be one of template, none, dataset_name, baseline, not 'foo'.",
        ),
        (
            {"untuned_instructions": "foo"},
            "Data.untuned_instructions must be None or one of template, none",
        ),
        (
            {"options_style": "lettered", "instructions": "none"},
            "Data.instructions=none does not show which option",
        ),
        (
            {"options_style": "lettered", "untuned_instructions": "dataset_name"},
            (
                "Data.untuned_instructions=dataset_name does not show which option has which; "
                "change one of the two."
            ),
        ),
    ],
)
def test_settings_of_the_data_that_cannot_be_are_refused(given, says):
    with pytest.raises(UserError, match=re.escape(says)):
        DataConfig(**given)


def test_workers_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(UserError, match="--workers must be a whole number of at least 1, not -1."):
        prepare(config(tmp_path), workers=-1)


def test_a_module_whose_record_lacks_fields_is_one_sentence(tmp_path):
    (tmp_path / "lacking.py").write_text(
        "from flan_jax.catalogue import Dataset\nDataset(name='a')\n"
    )
    with pytest.raises(UserError, match=r"lacking.py' does not run: .*missing .* 'cluster'"):
        open_data(config(tmp_path, mixture_or_task_module=str(tmp_path / "lacking.py")))


@pytest.mark.parametrize("old, new", [("catalogue", "catalogue"), ("seqio_tasks", "data.seqio")])
def test_a_module_that_imports_a_moved_one_gets_an_error_with_the_new_name(tmp_path, old, new):
    module = tmp_path / "mine.py"
    module.write_text(f"from flan_jax.data.{old} import register\n")
    with pytest.raises(
        UserError, match=rf"imports flan_jax.data.{old}.*import from flan_jax.{new}"
    ):
        open_data(config(tmp_path, mixture_or_task_module=str(module)))


def test_templates_are_evaluated_where_a_dataset_has_them_and_misspelt_ones_are_refused():
    chosen = {"held_out": "commonsense", "eval_datasets": "copa+piqa"}
    data = open_data(DataConfig(**chosen, eval_templates="question_last"))
    assert [(dataset.name, template.id) for dataset, template in data.eval.jobs()] == [
        ("copa", "question_last")
    ]
    assert data.left_out == {"piqa": "none of EVAL_TEMPLATES"}
    for instructions in ("template", "dataset_name"):
        with pytest.raises(
            UserError, match="no template 'sound_advise'; did you mean sound_advice"
        ):
            open_data(
                DataConfig(
                    **chosen, eval_templates="question_last+sound_advise", instructions=instructions
                )
            ).eval.jobs()


def test_an_inverted_template_that_is_evaluated_is_written_though_the_dataset_has_options(
    tmp_path, write_rows
):
    asked = (
        Template("ask", "{t}\n{options}"),
        Template("write", "Write {answer} at {p}.", "{t}", kind="inverted"),
    )
    dataset = Dataset(
        name="d",
        cluster="sentiment",
        splits={"test": "test"},
        fields=("t", "p"),
        row=lambda raw: dict(raw),
        options=("no", "yes"),
        evidence=("t",),
        templates=asked,
        inverted_metrics=("bleu",),
    )
    source = JsonlSource(write_rows("d", "test", [{"t": "x y", "p": "q", "label": 1}] * 2))
    cache = TokenCache(tmp_path, source, ByteVocabulary(), Rendering())
    cache.build_eval(dataset, "test", asked[1])
    examples = cache.eval_examples(dataset, "test", asked[1])
    assert examples.options is None
    assert [ByteVocabulary().decode(ids) for ids in examples.inputs] == ["Write yes at q."] * 2


def test_a_run_without_a_usable_row_says_why(tmp_path, write_rows):
    directory = str(write_rows("rte", "train", [{**row, "premise": ""} for row in RTE]))
    says = r"no row to train on .*: rte, no row of \d+ is usable: \d+ dropped: empty text"
    with pytest.raises(UserError, match=says):
        prepare(config(tmp_path, held_out="none", source="jsonl", data_dir=directory), workers=1)


@pytest.mark.parametrize(
    "name, says",
    [
        ("RTE", "did you mean rte?"),
        ("flan_RTE", "did you mean flan_rte?"),
        ("nli", "'nli' is a cluster"),
        ("zzz", "a task of your own needs MIXTURE_OR_TASK_MODULE"),
    ],
)
def test_a_misspelt_name_of_what_trains_is_answered_without_seqio(monkeypatch, name, says):
    monkeypatch.delitem(sys.modules, "seqio", raising=False)
    # an import of it would fail
    monkeypatch.setitem(sys.modules, "flan_jax.data.seqio.shards", None)
    with pytest.raises(UserError, match=re.escape(says)):
        open_data(DataConfig(mixture_or_task_name=name))
