"""The contamination report and the filter.

On rows of the test's own and, if present, on real ones.
"""

import dataclasses
import itertools
import json
import random

import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax import errors
from flan_jax.catalogue import CATALOGUE, CLUSTERS, FROM_ROW, Dataset, Template
from flan_jax.catalogue.relations import shared_texts
from flan_jax.catalogue.splits import INTRA_CLUSTER_SPLITS
from flan_jax.cli import dispatch
from flan_jax.data.config import DataConfig
from flan_jax.data.contamination import index as held_out_index
from flan_jax.data.contamination.index import HeldOutIndex, Rows, gram_words, own_texts, read_rows
from flan_jax.data.contamination.ngrams import words
from flan_jax.data.contamination.overlap import compare, held_out_overlap
from flan_jax.data.rows import usable_rows
from flan_jax.data.run_data import open_data
from flan_jax.data.sources.jsonl import JsonlSource
from flan_jax.data.sources.kinds import open_source
from flan_jax.data.sources.slices import reading_order

COPY = "The harbor master counted fourteen grey barrels on the quay before the tide came in."
FILLER = (
    "Nobody in the village could remember when the mill had last been painted, though its doors "
    "were green once and the hinges still held."
)


def dataset(name: str, *fields: str, options=("yes", "no")) -> Dataset:
    fields = fields or ("text",)
    inputs = "\n".join(f"{{{field}}}" for field in fields) + ("\n{options}" if options else "")
    return Dataset(
        name=name,
        cluster="nli",
        splits={"train": "train"},
        fields=fields,
        row=dict,
        options=options,
        templates=(Template("plain", inputs),),
    )


def rows(of: Dataset, *texts) -> Rows:
    """Rows with one text each, or with a dict of fields each."""
    fields = [text if isinstance(text, dict) else {of.fields[0]: text} for text in texts]
    return Rows(of, [(f"{of.name}/{i}", {"label": 0} | row) for i, row in enumerate(fields)])


TRAIN, TEST = dataset("trained"), dataset("tested")


def naive(train: list[Rows], held_out: Rows) -> set[str]:
    """Ids of held-out rows that share N words of one text with a training text.

    No phrases, no short texts.
    """

    def grams(text):
        found = words(text)
        return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}

    size = gram_words(
        [
            sum(len(words(t)) for _, t in own_texts(held_out.dataset, row))
            for _, row in held_out.rows
        ]
    )
    texts = [t for side in train for _, row in side.rows for _, t in own_texts(side.dataset, row)]
    trained = set().union(*map(grams, texts))
    return {
        name
        for name, row in held_out.rows
        if any(grams(t) & trained for _, t in own_texts(held_out.dataset, row))
    }


def test_a_copy_is_found_whatever_its_case_and_punctuation():
    copy = (
        "THE HARBOUR-MASTER counted\nfourteen grey barrels ... on the quay, before the tide came in"
    )
    report = compare(
        [rows(TRAIN, FILLER, f"Listen: {copy}! {FILLER}")], [rows(TEST, FILLER[::-1], COPY)]
    )
    [pair] = report.pairs
    assert (pair.held_out, pair.train, pair.held_out_rows, pair.train_rows) == (
        "tested",
        "trained",
        1,
        1,
    )
    assert (pair.held_out_row, pair.train_row) == ("tested/1", "trained/1")
    assert len(pair.example.split()) == 13 and pair.example in " ".join(words(COPY))
    [total] = report.held_out
    assert (total.rows, total.words, total.overlapping, total.phrases_only) == (2, 13, 1, 0)
    assert report.train == {"trained": 2}


@pytest.mark.parametrize(
    "near",
    [
        # seven words before it, nine after it: neither makes thirteen
        COPY.replace("barrels", "boats"),
        " ".join(reversed(COPY.split())),
        COPY.replace("quay before", "quay just before"),
    ],
)
def test_a_near_miss_is_no_copy(near):
    assert gram_words([15]) == 13
    assert not compare([rows(TRAIN, near)], [rows(TEST, COPY)]).pairs


def test_n_follows_the_length_of_the_rows():
    assert gram_words([]) == 8
    assert gram_words([3] * 50) == 8
    assert gram_words([10] * 10 + [40] * 90) == 10
    assert gram_words([10] * 4 + [40] * 96) == 13
    ten = " ".join(words(COPY)[:10])
    assert compare([rows(TRAIN, f"{ten} {FILLER}")], [rows(TEST, ten, FILLER[::-1])]).pairs
    assert not compare(
        [rows(TRAIN, f"{ten} {FILLER}")], [rows(TEST, f"{ten} {FILLER[::-1]}")]
    ).pairs


def test_a_short_row_must_be_equal_as_a_whole():
    held_out = rows(TEST, "Who wrote Emma?", *[f"{FILLER} {i}" for i in range(30)])
    assert not compare([rows(TRAIN, "who wrote emma and persuasion")], [held_out]).pairs
    [pair] = compare([rows(TRAIN, "who wrote Emma")], [held_out]).pairs
    assert (pair.held_out_row, pair.example, pair.texts) == (
        "tested/0",
        "who wrote emma",
        {"row": 1},
    )


def test_a_short_row_of_two_fields_is_one_text():
    two, other = dataset("two", "sentence", "word"), dataset("other", "sentence", "word")
    held_out = rows(two, {"sentence": "It was hot.", "word": "hot"})
    assert compare([rows(other, {"sentence": "it was HOT", "word": "hot"})], [held_out]).pairs
    assert not compare([rows(other, {"sentence": "it was HOT", "word": "was"})], [held_out]).pairs


def test_no_gram_reaches_over_two_fields():
    both = dataset("both", "first", "second")
    first, second = " ".join(words(COPY)[:7]), " ".join(words(COPY)[7:])
    assert not compare([rows(TRAIN, COPY)], [rows(both, {"first": first, "second": second})]).pairs
    assert not compare([rows(both, {"first": first, "second": second})], [rows(TEST, COPY)]).pairs


def test_options_and_answers_count_only_where_they_are_the_rows_own():
    fixed = dataset("fixed", options=(COPY, "something else"))
    own, free = dataset("own", options=FROM_ROW), dataset("free", options=None)
    assert not compare([rows(fixed, FILLER)], [rows(TEST, COPY)]).pairs
    assert compare([rows(own, {"text": FILLER, "options": [COPY, "no"]})], [rows(TEST, COPY)]).pairs
    [pair] = compare([rows(TRAIN, COPY)], [rows(free, {"text": FILLER, "answer": COPY})]).pairs
    assert pair.texts == {"answer": 1}


def test_a_phrase_of_many_training_texts_does_not_count_but_is_reported():
    many = [f"{i} {COPY} {i}" for i in range(11)]
    report = compare([rows(TRAIN, *many)], [rows(TEST, COPY)])
    assert (
        not report.pairs
        and report.held_out[0].phrases_only == 1
        and report.held_out[0].overlapping == 0
    )
    assert compare([rows(TRAIN, *many[:10])], [rows(TEST, COPY)]).pairs
    # The count runs over all training datasets.
    assert not compare(
        [rows(TRAIN, *many[:6]), rows(dataset("more"), *many[6:])], [rows(TEST, COPY)]
    ).pairs


def test_a_paragraph_that_many_training_rows_repeat_is_no_phrase():
    questions = dataset("questions", "context", "question")
    repeated = [{"context": f"{FILLER} {COPY}", "question": f"Question {i}?"} for i in range(40)]
    [pair] = compare([rows(questions, *repeated)], [rows(TEST, COPY)]).pairs
    assert pair.train_rows == 40


def test_equal_short_rows_are_a_phrase_when_many_rows_have_them():
    held_out = rows(TEST, "What happened next?")
    assert compare([rows(TRAIN, *["What happened next?"] * 10)], [held_out]).pairs
    assert not compare([rows(TRAIN, *["What happened next?"] * 11)], [held_out]).pairs


def random_texts(seed: int, count: int, vocabulary: int) -> list[str]:
    draw = random.Random(seed)
    return [
        " ".join(f"w{draw.randrange(vocabulary)}" for _ in range(draw.randrange(8, 60)))
        for _ in range(count)
    ]


def random_sides() -> tuple[list[Rows], list[Rows]]:
    """Four training and two held-out datasets with copied stretches of text."""
    draw, test = random.Random(0), random_texts(1, 200, 3)
    train = random_texts(2, 400, 2000)
    for i in range(0, 400, 7):
        source = test[draw.randrange(200)].split()
        train[i] += " " + " ".join(source[: draw.randrange(8, 20)])
    sides = [rows(dataset(f"train{i}"), *train[i::4]) for i in range(4)]
    return sides, [rows(dataset("test_b"), *test[:120]), rows(dataset("test_a"), *test[120:])]


def test_it_finds_what_a_plain_search_finds(monkeypatch):
    monkeypatch.setattr(held_out_index, "PHRASE_DOCUMENTS", 10**9)
    monkeypatch.setattr("flan_jax.data.contamination.overlap.PHRASE_DOCUMENTS", 10**9)
    train, held_out = random_sides()
    for side in held_out:
        expected = naive(train, side)
        report = compare(train, [side])
        assert 0 < len(expected) < len(side.rows)
        assert report.held_out[0].overlapping == len(expected)
        index = HeldOutIndex([side])
        for trained in train:
            marks = list(index.matches(trained.dataset, (row for _, row in trained.rows)))
            pairs = [p for p in report.pairs if p.train == trained.dataset.name]
            assert sum(mark == side.dataset.name for mark in marks) == sum(
                p.train_rows for p in pairs
            )


def test_report_and_filter_are_the_same_whatever_the_order(monkeypatch):
    train, held_out = random_sides()
    report, index = compare(train, held_out), HeldOutIndex(held_out)
    assert report.pairs
    for order in itertools.islice(itertools.permutations(train), 5, 24, 6):
        assert compare(order, held_out[::-1]) == report
    backwards = HeldOutIndex(held_out[::-1])
    assert backwards.digest == index.digest
    for side in train:
        marks = [index.match(side.dataset, row) for _, row in side.rows]
        assert marks == list(backwards.matches(side.dataset, (row for _, row in side.rows)))
    # Blocks of any size give the same.
    monkeypatch.setattr(held_out_index, "BLOCK_WORDS", 50)
    monkeypatch.setattr("flan_jax.data.contamination.ngrams.BLOCK_WORDS", 50)
    assert compare(train, held_out) == report and HeldOutIndex(held_out).digest == index.digest


def test_filter_names_the_held_out_dataset_and_leaves_phrases_alone():
    other = rows(dataset("other"), *[f"{FILLER} {i}" for i in range(11)])
    index = HeldOutIndex([rows(TEST, COPY, "Who wrote Emma?"), other])
    assert index.match(TRAIN, {"text": f"Look! {COPY.upper()}", "label": 1}) == "tested"
    assert index.match(TRAIN, {"text": "who wrote emma", "label": 1}) == "tested"
    assert index.match(TRAIN, {"text": "Nothing of the kind.", "label": 1}) is None
    assert index.match(TRAIN, {"text": FILLER, "label": 1}) is None, "eleven held-out texts have it"
    assert (
        HeldOutIndex([rows(dataset("other"), *[f"{FILLER} {i}" for i in range(10)])]).match(
            TRAIN, {"text": FILLER, "label": 1}
        )
        == "other"
    )
    assert list(index.matches(TRAIN, [])) == []


def test_every_row_is_found_in_itself():
    draw = random.Random(4)
    pair = dataset("pair", "first", "second")
    texts = [
        " ".join(f"v{draw.randrange(50)}" for _ in range(draw.randrange(1, 30))) for _ in range(600)
    ]
    held_out = [
        rows(dataset("one"), *texts[:200]),
        rows(pair, *({"first": a, "second": b} for a, b in zip(texts[200:400], texts[400:]))),
    ]
    for side in held_out:
        assert compare([side], [side]).held_out[0].overlapping == len(side.rows) == 200
        assert set(HeldOutIndex([side]).matches(side.dataset, (row for _, row in side.rows))) == {
            side.dataset.name
        }


def test_digest_follows_the_held_out_words_and_nothing_else():
    digest = HeldOutIndex([rows(TEST, COPY, FILLER)]).digest
    assert HeldOutIndex([rows(TEST, FILLER.upper(), COPY)]).digest == digest
    assert HeldOutIndex([rows(TEST, COPY, FILLER + " Twice.")]).digest != digest
    assert HeldOutIndex([rows(dataset("renamed"), COPY, FILLER)]).digest != digest


def test_the_verb_for_scripts_and_for_eyes(write_rows, capsys):
    squad = {
        "context": f"{FILLER} {COPY}",
        "question": "What was counted?",
        "title": "Harbours",
        "id": "1",
        "answers": {"text": ["fourteen grey barrels"], "answer_start": [len(FILLER) + 28]},
    }
    write_rows("squad_v1", "train", [squad] * 203)
    first = next(reading_order(CATALOGUE["squad_v1"], "train[:-200]", 203))[0]
    rte = {"premise": COPY, "hypothesis": "Barrels were counted.", "label": 0, "idx": 0}
    place = write_rows("rte", "validation", [rte, {**rte, "premise": FILLER[:40]}])
    flags = [
        "tasks",
        "overlap",
        "--held_out=nli",
        "--related=paper",
        "--source=jsonl",
        f"--data_dir={place}",
    ]
    assert dispatch.main([*flags, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["train"] == {"squad_v1": 3}
    assert report["held_out"] == [
        {"name": "rte", "rows": 2, "words": 9 + 1, "overlapping": 1, "phrases_only": 0}
    ]
    [pair] = report["pairs"]
    assert (
        pair["held_out"],
        pair["train"],
        pair["held_out_rows"],
        pair["train_rows"],
        pair["texts"],
    ) == ("rte", "squad_v1", 1, 3, {"premise": 1})
    assert (pair["held_out_row"], pair["train_row"]) == (
        "rte/validation/0",
        f"squad_v1/train/{first}",
    )
    assert (
        "cb" in report["left_out"]
        and report["max_rows"] is None
        and report["read_up_to_limit"] == {}
    )

    assert dispatch.main([*flags, "--max_rows=2"]) == 0
    shown = capsys.readouterr()
    assert (
        "squad_v1: 1 rows (premise 1) with 2 training rows" in shown.out
        and pair["example"] in shown.out
    )
    assert "only the first 2 rows" in shown.out and "left out: cb" in shown.err
    assert dispatch.main([*flags, "--max_rows=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["read_up_to_limit"] == {"squad_v1": 2}
    assert dispatch.main([*flags, "--split=train"]) != 0  # RTE has no training rows here
    assert "no dataset that would be held out has rows here" in capsys.readouterr().err


def test_a_configuration_is_compared_where_the_one_with_its_rows_is_not_available(write_rows):
    rows_of = {"premise": COPY, "hypothesis": FILLER, "label": 1, "idx": 0}
    write_rows("sst2", "validation", [{"sentence": COPY, "label": 1, "idx": 0}])
    source = JsonlSource(write_rows("mnli_mismatched", "train", [rows_of] * 201))
    report, left_out = held_out_overlap(CATALOGUE, source, "sentiment")
    assert report.train == {"mnli_mismatched": 1} and "no file" in left_out["mnli_matched"]


def test_the_verb_says_what_to_give_instead(tmp_path, capsys):
    assert dispatch.main(["tasks", "overlap", "--held_out=none"]) != 0
    assert "--held_out=<cluster>" in capsys.readouterr().err
    with pytest.raises(errors.UserError, match="has rows here"):
        held_out_overlap(CATALOGUE, open_source("jsonl", str(tmp_path)), "nli")


def test_known_overlaps_of_real_rows(real_rows):
    source = open_source("jsonl", str(real_rows))
    arc, qnli = CATALOGUE["arc_easy"], CATALOGUE["qnli"]
    [total] = compare([read_rows(source, arc, "train")], [read_rows(source, arc, "test")]).held_out
    assert 0 < total.overlapping < total.rows // 10
    [total] = compare(
        [read_rows(source, CATALOGUE["sst2"], "train")], [read_rows(source, qnli, "test")]
    ).held_out
    assert total.overlapping == 0


def test_held_out_real_rows_of_coreference_do_not_train(real_rows):
    source = open_source("jsonl", str(real_rows))
    shares = {}
    for rule in ("text", "paper"):
        report, _ = held_out_overlap(CATALOGUE, source, "coreference", related=rule)
        assert ("wnli" in report.train) == (rule == "paper")
        shares[rule] = {total.name: total.overlapping / total.rows for total in report.held_out}
    assert max(shares["text"].values()) < 0.01
    assert shares["paper"]["wsc"] == pytest.approx(82 / 104), "the 80 % of relations.RELATIONS"


@pytest.mark.slow
@pytest.mark.parametrize(
    "held_out", [*CLUSTERS, "superglue", *(f"intra_{n}" for n in range(INTRA_CLUSTER_SPLITS))]
)
def test_less_than_one_percent_of_held_out_real_rows_stand_in_rows_that_train(real_rows, held_out):
    report, _ = held_out_overlap(CATALOGUE, open_source("jsonl", str(real_rows)), held_out)
    shares = {total.name: total.overlapping / total.rows for total in report.held_out}
    assert max(shares.values()) < 0.01, shares


@pytest.mark.slow
def test_every_pair_of_real_datasets_that_shares_text_is_related(real_rows):
    """All rows of all splits against each other.

    The translation sets share news of the same days in their tests.
    """
    source, sides = open_source("jsonl", str(real_rows)), []
    for dataset in CATALOGUE:
        splits = sorted(path.stem for path in (real_rows / dataset.name).glob("*.jsonl"))
        rows = [
            (name, row) for split in splits for _, name, row in usable_rows(source, dataset, split)
        ]
        sides += [Rows(dataset, rows)] if rows else []
    report = compare(sides, sides)
    rows = {total.name: total.rows for total in report.held_out}
    for pair in report.pairs:
        one, other = CATALOGUE[pair.held_out], CATALOGUE[pair.train]
        if pair.held_out_rows > 0.01 * rows[one.name] and one.paper_dataset != other.paper_dataset:
            assert (
                shared_texts([one.name], [other.name])
                or one.cluster == other.cluster == "translation"
            ), pair


def test_a_run_can_leave_out_the_training_rows_that_repeat_held_out_ones(write_rows, tmp_path):
    copied = (
        "A heron stood on one leg in the shallow water below the old mill for most of the "
        "afternoon."
    )
    train = [
        {
            "sentence": (
                f"Number {i} is a sentence of its own, with a few more words about {i} "
                f"things in it."
            ),
            "label": i % 2,
            "idx": i,
        }
        for i in range(230)
    ]
    train[next(reading_order(CATALOGUE["cola"], "train[:-200]", 230))[7]]["sentence"] = (
        copied.upper()
    )
    directory = write_rows("cola", "train", train)
    write_rows("rte", "train", [{"premise": "A.", "hypothesis": "B.", "label": 0, "idx": 0}] * 201)
    write_rows(
        "rte",
        "validation",
        [{"premise": copied, "hypothesis": "There was a heron.", "label": 0, "idx": 0}],
    )
    config = DataConfig(
        held_out="nli",
        mixture_or_task_name="cola",
        source="jsonl",
        data_dir=str(directory),
        cache_dir=str(tmp_path / "cache"),
        batch_size=2,
        train_steps=2,
        task_feature_lengths={"inputs": 512, "targets": 64},
    )
    whole, filtered = (
        open_data(dataclasses.replace(config, decontaminate=flag)) for flag in (False, True)
    )
    for data in (whole, filtered):
        data.train.build_shard("cola", 0)
    assert whole.train.shard_key("cola", 0) != filtered.train.shard_key("cola", 0)
    counts = [data.train.counts("cola") for data in (whole, filtered)]
    assert counts[0]["rows"] == 30 and counts[1]["rows"] == 29
    assert counts[1]["dropped: shares words with held-out rte"] == 1
