"""Known defects of the original implementation of FLAN, each shown to be absent here.

Rows are the bundled ones or are written below; every test that is about templates looks at all of
the catalogue. Builders and their versions are tested in test_tfds_builders.py, label distributions
on real rows in test_real_rows.py.
"""

import collections
import functools
import itertools
import json
import re

import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CLUSTERS
from flan_jax.catalogue.records import FROM_ROW, Drop, placeholders
from flan_jax.catalogue.registry import CATALOGUE, repetition_key
from flan_jax.catalogue.render import choose_template, render
from flan_jax.catalogue.row_fields import read_row
from flan_jax.cli import dispatch
from flan_jax.data.cache import TokenCache
from flan_jax.data.config import DataConfig
from flan_jax.data.encode import Encoder, Rendering
from flan_jax.data.run_data import open_data
from flan_jax.data.sources.bundled import BundledSource
from flan_jax.data.sources.jsonl import JsonlSource
from flan_jax.data.sources.slices import parse_spec, reading_order
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.metrics import score

NAMES = [d.name for d in CATALOGUE]
WITH_OPTIONS = [d for d in CATALOGUE if d.options]
FIELD = re.compile(r"\{(\w+)\}")


@functools.cache
def rows(name: str) -> list[tuple[str, dict]]:
    """(row id, fields) of the bundled rows."""
    d, source = CATALOGUE[name], BundledSource()
    return [
        (f"{name}/{split}/{i}", read_row(d, raw))
        for split in d.splits
        for i, raw in source.rows(d, split)
    ]


@functools.cache
def rendered(name: str) -> list[tuple]:
    """(template, fields, rendered text) of every bundled row in every template."""
    d = CATALOGUE[name]
    return [
        (t, row, render(d, t, row, row_id=row_id))
        for t in d.templates
        for row_id, row in rows(name)
    ]


def all_templates():
    """(dataset, template) for the whole catalogue."""
    return [(d, t) for d in CATALOGUE for t in d.templates]


def seams(d, template, row):
    """Returns (text before, field, its value, text after) for each field in the inputs.

    The same for '{options}'.
    """
    answer = row["options"][row["label"]] if d.options else row["answer"]
    values = {name: row[name] for name in d.fields} | {
        "answer": answer,
        "options": "Options:\n- " + answer,
    }
    parts = FIELD.split(template.inputs)
    return [
        (parts[i - 1], parts[i], values[parts[i]], parts[i + 1]) for i in range(1, len(parts), 2)
    ]


def offenders(check) -> dict[str, str]:
    """'dataset/template' -> what `check(dataset, template)` complains about."""
    found = {f"{d.name}/{t.id}": check(d, t) for d, t in all_templates()}
    return {name: complaint for name, complaint in found.items() if complaint}


def token_cache(directory, source, options_style="fixed") -> TokenCache:
    return TokenCache(
        directory / "cache", source, ByteVocabulary(), Rendering(4096, 512, options_style)
    )


def shard_texts(shard) -> list[tuple[str, str]]:
    decode = ByteVocabulary().decode
    return [
        tuple(decode(side[i][:-1].tolist()) for side in (shard.inputs, shard.targets))
        for i in range(len(shard.inputs))
    ]


# --- The pipeline
# --------------------------------------------------------------------------------------------------


def test_every_row_meets_every_template_in_the_course_of_epochs():
    for d in CATALOGUE:
        ids = [f"{d.name}/train/{i}" for i in range(100)]
        for row_id in ids[:2]:
            met = {choose_template(d, row_id, 0, epoch).id for epoch in range(250)}
            assert met == {t.id for t in d.templates}
        chosen, count = [choose_template(d, row_id, 0, 0).id for row_id in ids], len(d.templates)
        repeats = sum(a == b for a, b in zip(chosen, chosen[count:]))
        assert repeats < 40, f"{d.name}: the template follows the position"


FRENCH = [{"en": f"House number {i}.", "fr": f"Maison {i}."} for i in range(56)]


@pytest.mark.parametrize("count", [1, 9, 12, 56])
def test_no_row_is_lost_and_each_keeps_its_own_target(write_rows, tmp_path, count):
    d, directory = CATALOGUE["wmt14_enfr"], write_rows("wmt14_enfr", "train", FRENCH[:count])
    write_rows("wmt14_enfr", "test", FRENCH[:count])
    cache = token_cache(tmp_path, JsonlSource(directory))
    shards = [cache.build_train(d, epoch) and cache.open_train(d, epoch) for epoch in (0, 1)]
    for shard in shards:
        numbers = [[re.search(r"\d+", text)[0] for text in pair] for pair in shard_texts(shard)]
        assert numbers == [[str(i), str(i)] for i in range(count)]
    assert count < 12 or shard_texts(shards[0]) != shard_texts(shards[1])
    cache.build_eval(d, "test", d.forward()[0])
    assert len(cache.eval_examples(d, "test", d.forward()[0]).row_ids) == count


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_inverted_templates_are_never_evaluated_but_for_translation_into_english(cluster, tmp_path):
    jobs = open_data(DataConfig(held_out=cluster, cache_dir=str(tmp_path))).eval.jobs()
    inverted = [(d, t) for d, t in jobs if t.kind != "forward"]
    assert (
        len(jobs) - len(inverted) == sum(len(d.forward()) for d in CATALOGUE.cluster(cluster)) > 0
    )
    assert {t.targets for _, t in inverted} == (
        {"{english}"} if cluster == "translation" else set()
    )
    assert all(d.options is None and d.inverted_metrics for d, _ in inverted)


def test_without_options_and_without_instructions_are_conditions_of_their_own():
    for d in WITH_OPTIONS:
        row_id, row = rows(d.name)[0]
        for t in d.forward():
            shown, hidden = (
                render(d, t, row, row_id=row_id, options_style=s) for s in ("fixed", "none")
            )
            assert shown.inputs.count("Options:\n- ") == 1 and "Options:" not in hidden.inputs, (
                d.name,
                t.id,
            )
            assert hidden.options == shown.options and hidden.targets == shown.targets
            modes = [
                render(d, t, row, row_id=row_id, options_style="none", instructions=m).inputs
                for m in ("template", "none", "dataset_name")
            ]
            assert len(set(modes)) == 3, (d.name, t.id)


def test_no_markers_of_another_models_dialogue_format():
    marker = re.compile(r"^0 |X \d|FLAN|<(?:extra_id|turn|eos|bos|s|/s|pad)\b")
    assert {
        (name, t.id)
        for name in NAMES
        for t, _, text in rendered(name)
        if marker.search(FIELD.sub("", t.inputs)) or text.inputs.startswith("0 ")
    } == set()


def test_exemplars_are_never_the_row_itself(capsys):
    for d in CATALOGUE:
        if "train" not in d.splits:
            continue
        template = d.forward()[0].id
        argv = ["tasks", "render", d.name, "--num_rows=12", f"--template={template}", "--json"]
        printed = []
        for more in ([], ["--shots=11"]):
            assert dispatch.main(argv + more) == 0
            printed.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
        for alone, record in zip(*printed, strict=True):
            cue = "" if d.forward()[0].inputs.endswith(":") else "\nAnswer:"
            before = record["inputs"].removesuffix(alone["inputs"] + cue)
            assert before != record["inputs"] and before.count(f"{cue} ") >= 11, d.name
            assert alone["inputs"] not in before, d.name


def test_options_can_be_shuffled_and_lettered():
    for d in WITH_OPTIONS:
        t, places = d.forward()[0], collections.Counter()
        for row_id, row in rows(d.name):
            right = row["options"][row["label"]]
            mixed = render(d, t, row, row_id=row_id, options_style="shuffled")
            assert mixed.targets == mixed.options[mixed.label] == right
            assert sorted(mixed.options) == sorted(row["options"])
            assert mixed.inputs.index("- " + mixed.options[0]) < mixed.inputs.index(
                "\n- " + mixed.options[1]
            )
            places[tuple(mixed.order)] += 1
            lettered = render(d, t, row, row_id=row_id, options_style="lettered")
            assert f"{lettered.targets} {right}" in lettered.inputs and re.fullmatch(
                r"\([A-Z]\)", lettered.targets
            )
        assert len(places) > 1, d.name


def test_the_same_rows_train_once(tmp_path):
    train = {
        d.name: parse_spec(d.splits["train"]) for d in CATALOGUE if "train" in d.splits and d.tfds
    }
    size = range(400_000)
    same = [
        (a, b)
        for a, b in itertools.combinations(train, 2)
        if CATALOGUE[a].tfds == CATALOGUE[b].tfds
        and train[a][0] == train[b][0]
        and set(size[train[a][1]]) & set(size[train[b][1]])
    ]
    assert same == [("mnli_matched", "mnli_mismatched")]
    data = open_data(DataConfig(held_out="none", cache_dir=str(tmp_path)))
    assert (
        "mnli_matched" in data.train.datasets() and "mnli_mismatched" not in data.train.datasets()
    )
    assert "counts once" in data.left_out["mnli_mismatched"]


@pytest.mark.parametrize("shots", [0, 2])
def test_rates_count_the_rows_that_are_left_after_filters_with_exemplars_too(
    write_rows, tmp_path, shots
):
    raw = [{"text": f"Tweet {i}.", "polarity": (0, 2, 4)[i % 3]} for i in range(230)]
    directory = write_rows("sentiment140", "train", raw)
    data = open_data(
        DataConfig(
            held_out="none",
            mixture_or_task_name="sentiment140",
            source="jsonl",
            data_dir=str(directory),
            cache_dir=str(tmp_path / "cache"),
            shots=shots,
        )
    )
    data.train.build_shard("sentiment140", 0)
    (member,) = data.train.members()
    train = next(reading_order(CATALOGUE["sentiment140"], "train[:-200]", len(raw)))
    usable = sum(raw[i]["polarity"] != 2 for i in train)  # the others are neutral
    assert len(train) == 30 and 15 < usable < 30 and (member.rows, member.rate) == (usable, usable)


# --- Reading raw rows
# -------------------------------------------------------------------------------------------------

DATELINE = (
    "By . Jane Doe . PUBLISHED: . 09:10 EST, 4 May 2013 . | . UPDATED: . 10:02 EST, 4 May 2013 . "
)
NEWS = {"article": "The river rose on Monday . Nobody was hurt .", "highlights": "River rises ."}
PAIR = {"premise": "p", "hypothesis": "h", "idx": 0}
GRADE = {"sentence1": "One.", "sentence2": "Two.", "idx": 0}
MULTIRC = {"paragraph": "p", "question": "q", "answer": "a", "label": 1}
TRIPLES = {"target": "Oslo is a city.", "references": []}
MAIL = {"email_body": "Hello\nworld", "subject_line": "Plan\nfor Monday"}
CHAT = {
    "summary": "They talk.",
    "dialogue": "Ann: look <file_photo>\r\nBo: 2 < 3, a lot of text, 5 > 4",
}
BLANK = {"option1": "the cat", "option2": "the dog", "label": 1}

# What was wrong: (dataset, raw row, fields that the row function must give, or the reason why it
# drops the row).
RAW_ROWS = {
    "dateline_of_an_agency": (
        "cnn_dailymail",
        {**NEWS, "article": "LONDON, England (CNN) -- " + NEWS["article"]},
        {"article": "The river rose on Monday. Nobody was hurt."},
    ),
    "dateline_at_the_start": (
        "cnn_dailymail",
        {**NEWS, "article": "(CNN) -- " + NEWS["article"]},
        {"article": "The river rose on Monday. Nobody was hurt."},
    ),
    "dateline_with_a_year": (
        "cnn_dailymail",
        {**NEWS, "article": DATELINE + NEWS["article"]},
        {"article": "The river rose on Monday. Nobody was hurt."},
    ),
    "no_dateline": (
        "cnn_dailymail",
        NEWS,
        {"article": "The river rose on Monday. Nobody was hurt."},
    ),
    "neutral_tweet": ("sentiment140", {"text": "Hm.", "polarity": 2}, "neutral tweet"),
    "negative_tweet": ("sentiment140", {"text": "Bah.", "polarity": 0}, {"label": 0}),
    "positive_tweet": ("sentiment140", {"text": "Yay!", "polarity": 4}, {"label": 1}),
    "half_a_grade_goes_up_from_0": ("stsb", {**GRADE, "label": 0.5}, {"label": 1, "value": 0.5}),
    "half_a_grade_goes_up_from_2": ("stsb", {**GRADE, "label": 2.5}, {"label": 3, "value": 2.5}),
    "half_a_grade_goes_up_from_4": ("stsb", {**GRADE, "label": 4.5}, {"label": 5, "value": 4.5}),
    "less_than_half_a_grade": ("stsb", {**GRADE, "label": 2.4}, {"label": 2}),
    "group_is_the_question": (
        "multirc",
        {**MULTIRC, "idx": {"paragraph": 3, "question": 7, "answer": 1}},
        {"group": "3-7"},
    ),
    "one_english_sentence_with_two_translations_is_one_unit": (
        "wmt16_translate_fien",
        {"en": "It rained.", "fi": "Satoi."},
        {"group": "It rained."},
    ),
    "one_question_of_two_collections_is_one_unit": (
        "trivia_qa",
        {
            "question": "Who wrote Emma?",
            "answer": {"value": "Jane Austen", "aliases": ["Jane Austen"]},
        },
        {"group": "Who wrote Emma?"},
    ),
    "one_input_with_several_targets_is_one_unit": (
        "common_gen",
        {"concepts": ["dog", "run"], "target": "A dog runs.", "references": []},
        {"group": "dog, run"},
    ),
    "the_core_fact_stands_before_the_question": (
        "openbookqa",
        {
            "question": {
                "stem": "A towel dries fastest",
                "choice_A": "a",
                "choice_B": "b",
                "choice_C": "c",
                "choice_D": "d",
            },
            "fact1": "warm air speeds up evaporation",
            "answerKey": 1,
        },
        {"question": "Warm air speeds up evaporation.\nA towel dries fastest"},
    ),
    "group_is_not_the_answer": (
        "multirc",
        {**MULTIRC, "idx": {"paragraph": 3, "question": 7, "answer": 2}},
        {"group": "3-7"},
    ),
    "accents_survive_in_fix_punct": (
        "fix_punct",
        {"en": "Où est Zoë, à Zürich?"},
        {"no_punct": "Où est Zoë à Zürich", "answer": "Où est Zoë, à Zürich?"},
    ),
    "accented_capitals_get_small": (
        "true_case",
        {"en": "Élodie vit à Örebro."},
        {"lower": "élodie vit à örebro."},
    ),
    "second_underscore": (
        "winogrande",
        {**BLANK, "sentence": "It _ fed _ at noon."},
        "more than one blank in the sentence",
    ),
    "text_after_the_blank": (
        "winogrande",
        {**BLANK, "sentence": "Tom prefers _ to all others."},
        {"context": "Tom prefers", "options": ["the cat to all others.", "the dog to all others."]},
    ),
    "bracketed_cells_as_text": (
        "dart",
        {**TRIPLES, "tripleset": ["[TABLECONTEXT] [TITLE] Oslo", "Oslo IS city"]},
        {"facts": "TABLE TITLE Oslo; Oslo IS city"},
    ),
    "bracketed_cells_as_cells": (
        "dart",
        {**TRIPLES, "tripleset": [["[TABLECONTEXT]", "[TITLE]", "Oslo"]]},
        {"facts": "TABLE TITLE Oslo"},
    ),
    "angle_brackets": (
        "samsum",
        CHAT,
        {"dialogue": "Ann: look (photo)\nBo: 2 < 3, a lot of text, 5 > 4"},
    ),
    "question_gets_its_mark": (
        "natural_questions",
        {"question": "who found radium", "answer": ["Marie Curie"]},
        {"question": "who found radium?"},
    ),
    "question_keeps_one_mark": (
        "natural_questions",
        {"question": "who found radium?", "answer": ["Marie Curie"]},
        {"question": "who found radium?"},
    ),
    "answer_keeps_its_case": (
        "trivia_qa",
        {
            "question": "Who?",
            "answer": {
                "value": "Marie Curie",
                "normalized_value": "marie curie",
                "aliases": ["M. Curie", "Marie Curie"],
            },
        },
        {"answer": "Marie Curie", "references": ["Marie Curie", "M. Curie"]},
    ),
    "line_breaks_stay": ("aeslc", MAIL, {"body": "Hello\nworld", "answer": "Plan for Monday"}),
    "target_among_the_references": (
        "common_gen",
        {"concepts": ["a", "b"], "target": "An a.", "references": ["A b.", "An a.", "A b."]},
        {"references": ["An a.", "A b."]},
    ),
}


@pytest.mark.parametrize("defect", RAW_ROWS)
def test_raw_rows_are_read_right(defect):
    name, raw, expected = RAW_ROWS[defect]
    row = read_row(CATALOGUE[name], raw)
    if isinstance(expected, str):
        assert row == Drop(expected)
    else:
        assert not isinstance(row, Drop) and {key: row[key] for key in expected} == expected


def test_options_are_in_the_order_of_the_class_ids():
    """Class names in the order of the TFDS builders."""
    three = ("entailment", "neutral", "contradiction")
    classes = {
        "cb": ("entailment", "contradiction", "neutral"),
        "anli_r1": three,
        "snli": three,
        "mnli_matched": three,
        "rte": ("entailment", "not_entailment"),
        "qnli": ("entailment", "not_entailment"),
        "wnli": ("not_entailment", "entailment"),
    }
    meaning = {
        "yes": "entailment",
        "it is impossible to say": "neutral",
        "it is not possible to tell": "neutral",
    }
    for name, expected in classes.items():
        no = "not_entailment" if len(expected) == 2 else "contradiction"
        assert tuple(meaning.get(option, no) for option in CATALOGUE[name].options) == expected


def test_options_are_strings_and_the_answer_is_one_of_them():
    for d in WITH_OPTIONS:
        for t, row, text in rendered(d.name):
            assert all(isinstance(option, str) and option for option in text.options), d.name
            assert len(set(text.options)) == len(text.options), (d.name, row)
            assert text.answer in text.options and (
                t.kind == "inverted" or text.targets == text.answer
            )


def test_rows_without_a_gold_label_are_never_used():
    source, tried = BundledSource(), set()
    for d in WITH_OPTIONS:
        raw = next(raw for _, raw in source.rows(d, next(iter(d.splits))))
        for key in {"label", "polarity", "label-coarse", "answerKey"} & set(raw):
            tried.add(d.name)
            wrong = type(raw[key])(-1)
            try:
                assert isinstance(read_row(d, {**raw, key: wrong}), Drop), d.name
            except UserError as error:
                assert "label -1" in str(error) or "what its row function reads" in str(error)
    # true or false; a list of answers
    assert tried == {d.name for d in WITH_OPTIONS} - {"bool_q", "record"}


def test_paws_is_the_raw_text_and_every_builder_has_a_version():
    assert CATALOGUE["paws_wiki"].tfds.startswith("paws_wiki/labeled_final_raw:")
    assert [
        d.name for d in CATALOGUE if d.tfds and not re.fullmatch(r"[\w/.-]+:\d+\.\d+\.\d+", d.tfds)
    ] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_long_text_loses_neither_question_nor_options(name):
    d, vocabulary = CATALOGUE[name], ByteVocabulary()
    row_id, row = rows(name)[0]
    for t in d.templates:
        shown = [n for n in placeholders(t.inputs) if n in d.fields]
        longest = max(shown, key=lambda n: len(row[n]))
        encoder = Encoder(
            vocabulary,
            Rendering(
                input_length=len(render(d, t, row, row_id=row_id).inputs.encode()) + 60,
                target_length=512,
            ),
        )
        example = encoder.encode(d, t, {**row, longest: row[longest] + " padding" * 300}, row_id)
        assert (
            encoder.counts["inputs truncated"] == 1 and not encoder.counts["instructions truncated"]
        )
        kept = vocabulary.decode(example.inputs[:-1].tolist())
        for before, field, value, after in seams(d, t, row):
            assert before in kept and after in kept, (t.id, field)
            if field != longest and field != "options":
                assert value in kept, (t.id, field)
        assert (
            t.kind == "inverted"
            or not d.options
            or all("- " + option in kept for option in row["options"])
        ), t.id


# --- Metrics
# --------------------------------------------------------------------------------------------------


def targets_of(name, source, tmp_path, options_style="fixed"):
    """What an evaluation of a dataset hands to its metrics."""
    d, cache = CATALOGUE[name], token_cache(tmp_path, source, options_style)
    cache.build_eval(d, "test", d.forward()[0])
    return cache.eval_examples(d, "test", d.forward()[0]).texts


@pytest.mark.parametrize(
    "name, style",
    [
        (d.name, style)
        for d in CATALOGUE
        for style in (("fixed", "shuffled", "lettered") if d.options else ("fixed",))
    ],
)
def test_perfect_predictions_are_perfect_and_wrong_ones_are_not(name, style, tmp_path):
    d, texts = CATALOGUE[name], targets_of(name, BundledSource(), tmp_path, style)
    assert len(texts) >= 6
    right = [t["label"] if d.options else t["answer"] for t in texts]
    wrong = [(t["label"] + 1) % len(t["options"]) if d.options else "?" for t in texts]
    for metric in d.metrics:
        for predictions in (right, [t["answer"] for t in texts]):
            of = {
                key: value
                for key, value in score(metric, texts, predictions).items()
                if not key.endswith("_value")
            }
            assert {key: round(value, 6) for key, value in of.items()} == dict.fromkeys(
                of, 100.0
            ), metric
        assert next(iter(score(metric, texts, wrong).values())) < 60, metric
    assert all(len(set(t["references"])) == len(t["references"]) for t in texts)
    assert all(t["answer"] in t["references"] for t in texts)


ENTITIES = {
    "passage": "Ann met Bob and Cy in Rome.",
    "entities": ["Ann", "Bob", "Cy"],
    "query": "@placeholder left.",
}
STORY = {
    "source": "x",
    "story": "The red fox ran home.",
    "questions": ["Who?", "Where did it run?"],
    "answers": {
        "input_text": ["a fox", "to the old red barn"],
        "answer_start": [0, 0],
        "answer_end": [0, 0],
    },
}
ARTICLE = {
    "title": "T",
    "section_title": "S",
    "context": "He sang in a choir. CANNOTANSWER",
    "question": "What did he do?",
    "orig_answer": {"text": "sang in a choir", "answer_start": 3},
    "answers": {"text": ["sang in a choir", "sang"], "answer_start": [3, 3]},
}

# What was wrong: (dataset, raw test rows, predictions, metric, numbers worked out by hand).
BY_HAND = {
    "record_took_lists_for_groups": (
        "record",
        [
            {**ENTITIES, "answers": ["Ann", "Cy"], "idx": {"passage": 0, "query": 0}},
            {**ENTITIES, "answers": ["Bob"], "idx": {"passage": 0, "query": 1}},
        ],
        [2, 0],
        "record",
        {"em": 50, "f1": 50},
    ),  # 'Cy' is as right as 'Ann'
    "coqa_took_letters_for_answers": (
        # 2 of 2 words, 2 of 4
        "coqa",
        [STORY],
        ["the red barn"],
        "squad",
        {"em": 0, "f1": 100 * 2 * 1 * 0.5 / 1.5},
    ),
    "quac_took_letters_for_answers": (
        "quac",
        [ARTICLE, {**ARTICLE, "question": "Why?"}],
        ["Sang!", "played"],
        "trivia_qa",
        {"em": 50, "f1": 50},
    ),
    "cb_took_strings_for_classes": (
        "cb",
        [{**PAIR, "hypothesis": f"h {i}", "label": label} for i, label in enumerate((0, 1, 2, 0))],
        [0, 1, 1, 0],
        "macro_f1",
        {"macro_f1": 100 * (1 + 2 / 3 + 0) / 3},
    ),
    "stsb_took_numbers_for_strings": (
        "stsb",
        [{**GRADE, "label": v} for v in (0.2, 0.9, 2.4, 2.6)],
        [0, 2, 1, 3],
        "pearson",
        {"pearson": 80},
    ),
    "cola_lacked_matthews": (
        "cola",
        [{"sentence": f"s {i}", "label": i > 1, "idx": i} for i in range(5)],
        [0, 1, 1, 1, 0],
        "matthews",
        # 2 hits, 1 right rejection, 1 false hit, 1 miss: sqrt(3 * 3 * 2 * 2)
        {"matthews": 100 * (2 * 1 - 1 * 1) / 6},
    ),
    "edit_distance_was_lower_for_better": (
        "word_segment",
        [{"en": "no cat"}],
        ["no bat"],
        "edit_similarity",
        {"edit_similarity": 100 * 5 / 6},
    ),
    "references_held_the_target_twice": (
        "common_gen",
        [{"concepts": ["a"], "target": "A b c d.", "references": ["A b c d."]}],
        ["A b c d."],
        "bleu",
        {"bleu": 100},
    ),
}


@pytest.mark.parametrize("defect", BY_HAND)
def test_metrics_by_hand(defect, write_rows, tmp_path):
    name, raw, predictions, metric, expected = BY_HAND[defect]
    raw_split = parse_spec(CATALOGUE[name].splits["test"])[0]
    raw = [{**row, "label": int(row["label"])} if name == "cola" else row for row in raw]
    texts = targets_of(name, JsonlSource(write_rows(name, raw_split, raw)), tmp_path)
    assert metric in CATALOGUE[name].metrics
    got = score(metric, texts, predictions)
    assert {key: float(got[key]) for key in expected} == pytest.approx(expected)
    assert name not in ("cb", "cola") or "accuracy" in CATALOGUE[name].metrics


# --- Templates
# --------------------------------------------------------------------------------------------------


def test_forward_templates_of_a_classification_show_the_options():
    assert offenders(lambda d, t: d.options and t.kind == "forward" and not t.shows_options) == {}


def test_no_template_stands_twice():
    seen = collections.defaultdict(set)
    for d, t in all_templates():
        seen[repetition_key(t)].add((d.paper_dataset, t.id))
    assert [twins for twins in seen.values() if len(twins) > 1] == []


def test_no_two_templates_share_nearly_all_their_words():
    bags = {}
    for d, t in all_templates():
        bags.setdefault(
            (d.paper_dataset, t.inputs), set(re.findall(r"\w+", FIELD.sub(" ", t.inputs).lower()))
        )
    pairs = itertools.combinations(bags, 2)
    assert [
        (a, b) for a, b in pairs if len(bags[a] & bags[b]) > 0.75 * len(bags[a] | bags[b])
    ] == []


# What NLI templates call the text that is taken as true, and the text that is judged by it.
GIVEN = {
    "premise",
    "source",
    "text",
    "passage",
    "paragraph",
    "document",
    "evidence",
    "report",
    "excerpt",
}
JUDGED = {"claim", "statement", "hypothesis", "conclusion", "assertion", "headline", "remark"}


def test_labels_before_fields_name_that_field_and_no_other():
    def wrong(d, t):
        found = []
        for before, field, *_ in seams(d, t, rows(d.name)[0][1]):
            label = re.search(r'(?:^|\n)(\w+)(?: (\d|one|two|[AB]))?: "?$', before)
            if not label:
                continue
            word, number = (
                label[1].lower(),
                {"one": "1", "two": "2", "A": "1", "B": "2"}.get(label[2], label[2]),
            )
            if word in d.fields and field in d.fields and word != field:
                found.append(label[0])
            if number and field[-1] in "12" and number != field[-1]:
                found.append(label[0])
            judged = field == "hypothesis" or (d.name == "wnli" and field == "sentence2")
            if d.cluster == "nli" and word in (GIVEN if judged else JUDGED):
                found.append(label[0])
        return found

    assert offenders(wrong) == {}


def test_forward_templates_ask_for_the_answer_and_at_most_three_ask_for_a_field():
    def wrong(d, t):
        asked, given = placeholders(t.targets), placeholders(t.inputs)
        if t.kind == "forward":
            return t.targets != "{answer}" or "answer" in given
        return "answer" in asked or bool(set(asked) & set(given)) or not set(asked) <= set(d.fields)

    assert offenders(wrong) == {}
    kinds = {d.name: collections.Counter(t.kind for t in d.templates) for d in CATALOGUE}
    assert {name: of for name, of in kinds.items() if of["inverted"] > 3 or of["forward"] < 7} == {}


# The yes/no question is a field of the row.
YES_NO_FIELD = {"bool_q": "question"}
AUXILIARY = "is|are|was|were|do|does|did|can|could|would|will|has|have|had|should|must|may|am"
NOT_YES_NO = "how|what|which|who|where|why"
YES_NO_QUESTION = re.compile(
    rf"(?!(?:{NOT_YES_NO})\b)(?:[^,]*(?:, |\b(?:then|so|and) ))?(?:{AUXILIARY})\b"
)


def test_yes_no_questions_have_yes_no_options_and_the_other_way_round():
    def wrong(d, t):
        if not d.options or t.kind != "forward":
            return None
        text = FIELD.sub("X", re.sub(r"\{\w+\}(?= [A-Z])", "X.", t.inputs)).lower()
        questions = [
            q for q in re.findall(r"[^.?!:\n]+\?", text) if YES_NO_QUESTION.match(q.strip(' "'))
        ]
        options = d.options if d.options != FROM_ROW else ()
        if "yes" in options:
            asks = questions or re.search(r"\byes\b|\bwhether\b|\btrue\b|\bmatch\?", text)
            return None if asks or YES_NO_FIELD.get(d.name) in placeholders(t.inputs) else text
        # Such a question is fine where it names the options: "Is it positive or negative?"
        return [
            q
            for q in questions
            if not all(o.lower().split()[0] in q for o in options) or not options
        ]

    assert offenders(wrong) == {}


def test_every_template_shows_what_its_answer_depends_on():
    # Fields that the task can be done without; all other fields stand in every forward template.
    optional = {d.name: sorted(set(d.fields) - set(d.evidence)) for d in CATALOGUE if d.evidence}
    assert all(names for names in optional.values())
    for d, t in all_templates():
        shown = set(placeholders(t.inputs))
        if t.kind == "forward":
            assert set(d.fields) - set(optional.get(d.name, ())) <= shown, (d.name, t.id)
        texts = collections.Counter(text.inputs for u, _, text in rendered(d.name) if u is t)
        assert len(texts) > 0.8 * len(rows(d.name)), f"{d.name}/{t.id} reads the same for many rows"


# Where a target stands in the input by the nature of the task, or where two texts of a pair may be
# equal.
SPAN_TASKS = {
    "squad_v1": "context",
    "squad_v2": "context",
    "coqa": "story",
    "quac": "context",
    "drop": "context",
    "aeslc": "body",
    "cb": "premise",
    "stsb": "sentence1",
}


def test_no_template_gives_its_target_away():
    for d in CATALOGUE:
        for t, row, text in rendered(d.name):
            if d.options and t.kind == "forward" or len(text.targets.split()) < 4:
                continue
            shown = text.inputs
            if d.name in SPAN_TASKS:
                shown = render(d, t, {**row, SPAN_TASKS[d.name]: "..."}, row_id="x").inputs
            assert text.targets not in shown, (d.name, t.id, text.targets)


LAYOUT = {
    "blank beside a line break": r"[ \t]\n|\n[ \t]",
    "two blanks": r"[ \t]{2}",
    "three line breaks": r"\n{3}",
    "blank before a mark": r" [,.;:!?]",
    "line that begins with a mark": r"(?:^|\n)[.,;:!?]",
    "letter glued to a field": r"\w\{\w+\}|\{\w+\}\w",
    "doubled mark": r"[.?!,;:][.?!,;:]",
    "no blank after a mark": r"[,;:?!][A-Za-z{]|[a-z]\.[A-Z{]",
}


def test_layout_of_the_templates_own_text():
    def wrong(d, t):
        return [
            kind
            for kind, pattern in LAYOUT.items()
            for text in (t.inputs, t.targets)
            if re.search(pattern, text.replace("...", "…"))
        ]

    assert offenders(wrong) == {}


def test_layout_where_fields_meet_the_text_of_the_template():
    def wrong(d, t):
        found = set()
        for _, row in rows(d.name):
            for before, field, value, after in seams(d, t, row):
                joint = value[-1] + after[:3]
                if before[-1:].isalnum() or after[:1].isalnum():
                    found.add(f"{field} is glued to a word")
                if before[-1:] in tuple(".,;:!?"):
                    found.add(f"no blank before {field}")
                if field != "options" and re.match(r"[.?!,;:][.?!,;:]", joint):
                    found.add(f"doubled mark: ...{value[-12:]}{after[:3]}")
                if field != "options" and re.match(r"[.?!] [a-z]", joint):
                    found.add(f"full stop within a sentence: ...{value[-12:]}{after[:12]}")
                if field != "options" and re.match(r"\w [A-Z]", joint):
                    found.add(f"no full stop: ...{value[-12:]}{after[:12]}")
        return found

    assert offenders(wrong) == {}


def test_layout_of_rendered_rows():
    blanks = re.compile(r"^\s|\s$|[ \t]\n|\n[ \t]|[ \t]{2}|\n{3}")
    assert {
        (name, t.id)
        for name in NAMES
        for t, _, text in rendered(name)
        if blanks.search(text.inputs) or blanks.search(text.targets)
    } == set()


def test_no_word_is_doubled():
    def wrong(d, t):
        found = [
            m[0] for m in re.finditer(r"\b(\w+)\s+\1\b", FIELD.sub("|", t.inputs), re.IGNORECASE)
        ]
        for _, row in rows(d.name):
            for before, field, value, after in seams(d, t, row):
                last, first = re.search(r"(\w+) $", before), re.match(r" (\w+)", after)
                words = re.findall(r"[\w']+", value.lower())
                if field == "options" or not words:
                    continue
                if last and value[0].isalnum() and last[1].lower() == words[0]:
                    found.append(f"{last[0]}{value[:15]}")
                if first and value[-1].isalnum() and first[1].lower() == words[-1]:
                    found.append(f"{value[-15:]}{first[0]}")
        return found

    assert offenders(wrong) == {}
