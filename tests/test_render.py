"""Rows as text.

Options styles, instruction modes, exemplars, template choice, and what fits the length.
"""

import collections
import dataclasses
import re

import numpy as np
import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE, FROM_ROW, Dataset, Template
from flan_jax.catalogue.render import (
    MIXED,
    MIXED_SHOTS,
    MIXED_STYLES,
    choose_template,
    render,
    shots_of,
    style_of,
)
from flan_jax.catalogue.row_fields import read_row
from flan_jax.data.encode import Encoder, Rendering
from flan_jax.data.sources.kinds import open_source
from flan_jax.data.vocabulary import EOS, ByteVocabulary, SentencePieceVocabulary
from flan_jax.errors import UserError

TOY = Dataset(
    name="toy",
    paper_dataset="Toy",
    cluster="sentiment",
    tfds=None,
    splits={"train": "train"},
    fields=("text",),
    row=lambda raw: raw,
    options=("bad", "fair", "good"),
    metrics=("accuracy",),
    templates=(Template("ask", "Review: {text}\n\n{options}\n\nHow is it?"),),
    license="CC0",
)
ROW = {"text": "A {fine} film.", "label": 2, "options": ["bad", "fair", "good"]}


def text(**changes):
    return render(TOY, TOY.templates[0], ROW, row_id="toy/train/7", **changes)


def test_fixed_options_stand_in_order_and_braces_of_the_row_stay():
    assert (
        text().inputs == "Review: A {fine} film.\n\nOptions:\n- bad\n- fair\n- good\n\nHow is it?"
    )
    assert text().targets == text().answer == "good" and text().label == 2


def test_lettered_options_are_answered_by_their_letter():
    shown = text(options_style="lettered")
    assert "(A) bad\n(B) fair\n(C) good" in shown.inputs
    assert shown.options == ["(A)", "(B)", "(C)"] and shown.targets == "(C)"


def test_no_options_leaves_a_clean_text_that_is_still_ranked():
    hidden = text(options_style="none")
    assert hidden.inputs == "Review: A {fine} film.\n\nHow is it?"
    assert hidden.options == ["bad", "fair", "good"] and hidden.answer == "good"


def test_shuffled_options_follow_the_row_and_keep_the_answer():
    orders = collections.Counter()
    for i in range(300):
        shown = render(
            TOY, TOY.templates[0], ROW, row_id=f"toy/train/{i}", options_style="shuffled"
        )
        assert shown.options[shown.label] == "good" == shown.targets
        orders[tuple(shown.options)] += 1
        again = render(
            TOY, TOY.templates[0], ROW, row_id=f"toy/train/{i}", options_style="shuffled"
        )
        assert again == shown
    assert len(orders) == 6 and min(orders.values()) > 25


def test_instruction_modes_of_the_ablation():
    assert text(instructions="none").inputs == "A {fine} film."
    assert text(instructions="dataset_name").inputs == "[Sentiment: Toy] A {fine} film."


def test_a_baseline_prompt_names_the_fields_and_what_is_asked_for():
    def baseline(name, template=None, **changes):
        dataset = CATALOGUE[name]
        row_id, row = next(iter(bundled_rows(name)))
        template = dataset.template(template) if template else dataset.forward()[0]
        return render(
            dataset, template, row, row_id=row_id, instructions="baseline", **changes
        ), row

    shown, row = baseline("anli_r1")
    assert shown.inputs == (
        f"Context: {row['context']}\nHypothesis: {row['hypothesis']}\n"
        "yes, it is impossible to say or no?\nAnswer:"
    )
    assert baseline("anli_r1", options_style="none")[0].inputs.endswith(
        f"{row['hypothesis']}\nAnswer:"
    )
    assert "(A) yes\n(B)" in baseline("anli_r1", options_style="lettered")[0].inputs
    # A text that its options go on with is left as it is; a question is not.
    shown, row = baseline("hellaswag")
    assert shown.inputs == row["context"]
    assert baseline("arc_easy")[0].inputs.endswith("\nAnswer:")
    there, row = baseline("wmt14_enfr")
    back, _ = baseline("wmt14_enfr", "into_english")
    assert (there.inputs, there.targets) == (f"English: {row['english']}\nFrench:", row["french"])
    assert (back.inputs, back.targets) == (f"French: {row['french']}\nEnglish:", row["english"])
    few, _ = baseline(
        "wmt14_enfr", exemplars=[{"english": "Yes.", "french": "Oui.", "answer": "Oui."}]
    )
    assert few.inputs == f"English: Yes.\nFrench: Oui.\n\n{there.inputs}"


def bundled_rows(name, split="train"):
    """Returns (id, row) of the rows of a split that come with the package.

    By default those for training.
    """
    dataset, source = CATALOGUE[name], open_source("bundled", None)
    for index, raw in source.rows(dataset, source.spec(dataset, split)):
        yield f"{name}/{split}/{index}", read_row(dataset, raw)


def test_exemplars_come_first_with_their_answers():
    shot = {"text": "Dull.", "label": 0, "options": ROW["options"]}
    shown = text(exemplars=[shot])
    assert (
        shown.inputs.index("Dull.")
        < shown.inputs.index("Answer: bad")
        < shown.inputs.index("A {fine} film.")
    )
    assert shown.inputs.endswith("Answer:")


CUE = "\nAnswer:"


@pytest.mark.parametrize(
    "inputs, style, cue",
    [
        ("{text}\n{options}\nThe film is:", "fixed", ""),
        ("The film is:\n{options}\n{text}", "fixed", CUE),
        ("{text}\nThe film is:\n{options}", "fixed", CUE),
        ("{text}\nThe film is:\n{options}", "none", ""),
        ("{text}\n{options}\nHow is it?", "none", CUE),
    ],
)
def test_a_template_with_a_cue_of_its_own_gets_no_second_one(inputs, style, cue):
    toy = dataclasses.replace(TOY, templates=(Template("own", inputs),))
    shot, row = {**ROW, "text": "Dull, in two words:", "label": 0}, {**ROW, "text": "A word:"}
    one, other = (
        render(toy, toy.templates[0], r, row_id="toy/train/7", options_style=style).inputs
        for r in (shot, row)
    )
    shown = render(
        toy, toy.templates[0], row, row_id="toy/train/7", exemplars=[shot], options_style=style
    )
    assert shown.inputs == f"{one}{cue} bad\n\n{other}{cue}"


def test_no_template_of_the_catalogue_has_two_cues_before_a_target():
    for dataset in CATALOGUE:
        (row_id, row), (_, shot) = list(bundled_rows(dataset.name, next(iter(dataset.splits))))[:2]
        for template in dataset.templates:
            text = render(dataset, template, row, row_id=row_id, exemplars=[shot]).inputs
            alone = render(dataset, template, row, row_id=row_id).inputs
            assert text.endswith(f"\n\n{alone}{'' if template.inputs.endswith(':') else CUE}"), (
                template.id
            )


def test_an_inverted_template_takes_the_text_of_an_option_in_every_style():
    letter = re.compile(r"\([A-Z]\)")
    for dataset in CATALOGUE:
        if not dataset.options:
            continue
        for template in (t for t in dataset.templates if t.kind == "inverted"):
            for row_id, row in bundled_rows(dataset.name):
                fixed, lettered = (
                    render(dataset, template, row, row_id=row_id, options_style=style)
                    for style in ("fixed", "lettered")
                )
                assert (lettered.inputs, lettered.targets) == (fixed.inputs, fixed.targets)
                assert (
                    row["options"][row["label"]] in fixed.inputs
                    or "{answer}" not in template.inputs
                )
                assert not letter.search(lettered.inputs), (dataset.name, template.id)


def test_unknown_style_and_mode_are_named():
    with pytest.raises(UserError, match="unknown options style 'lettred'"):
        text(options_style="lettred")
    with pytest.raises(UserError, match="unknown instruction mode"):
        text(instructions="some")


def test_template_choice_depends_on_row_and_epoch_not_on_position():
    rte = CATALOGUE["rte"]
    ids = [f"rte/train/{i}" for i in range(2000)]
    first = [choose_template(rte, i, 0, 0).id for i in ids]
    assert first == [choose_template(rte, i, 0, 0).id for i in ids]
    counts = collections.Counter(first)
    assert len(counts) == len(rte.templates) and min(counts.values()) > 120
    second = [choose_template(rte, i, 0, 1).id for i in ids]
    assert 0.8 < np.mean([a != b for a, b in zip(first, second)]) < 0.99


def test_a_row_without_its_fields_is_an_error_with_the_dataset():
    with pytest.raises(UserError, match="a row of rte cannot be read by its row function"):
        read_row(CATALOGUE["rte"], {"premise": "x"})


@pytest.mark.parametrize(
    "row, says",
    [
        ({"text": "x"}, "KeyError: 'label'"),
        ({"text": "x", "label": "0"}, "label '0'; a label is a whole number"),
        ({"text": "x", "label": 0.5}, "label 0.5; a label is a whole number"),
        ({"text": "x", "label": float("nan")}, "label nan; a label is a whole number"),
        ({"text": "x", "label": 3}, "label 3, but there are 3 options"),
        ({"text": ["x", "y"], "label": 0}, "list .* for text, which must be text"),
        (
            {"text": "x", "label": 0, "references": "good"},
            "'good' for references, which must be a list",
        ),
        ({"text": "x", "label": 0, "value": "3.5"}, "'3.5' for value, which must be a number"),
        ({"text": "x", "label": 0, "group": ["a"]}, "for group, which must be text"),
    ],
)
def test_what_a_row_function_gives_is_checked(row, says):
    with pytest.raises(UserError, match=rf"^row toy/train/7 \(counted from 0\) .*{says}"):
        read_row(TOY, row, "toy/train/7")


def nested(depth: int) -> dict:
    value = {"a": 1}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("value", [nested(9_000), nested(400), ["word"] * 9_000], ids=type)
@pytest.mark.parametrize("field", ["text", "label", "references", "group", "value"])
def test_no_value_of_a_row_makes_a_long_message(field, value):
    dataset = TOY if field == "label" else dataclasses.replace(TOY, options=())
    row = {"text": "x", "label": 1, "answer": "y", field: value}
    if field == "references" and isinstance(value, list):
        row["references"] = [value]
    with pytest.raises(UserError) as error:
        read_row(dataset, row, "toy/train/7")
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("digits", [4_000, 5_000])
def test_a_label_of_thousands_of_digits_makes_a_short_message(digits):
    with pytest.raises(UserError, match="has label .* but there are 3 options") as error:
        read_row(TOY, {"text": "x", "label": 10**digits})
    assert len(str(error.value)) < 400


def test_an_error_of_a_row_function_is_cut():
    own = dataclasses.replace(TOY, row=lambda raw: {"text": "x", "label": float(raw["stars"])})
    with pytest.raises(UserError, match="ValueError: could not convert") as error:
        read_row(own, {"stars": "z" * 50_000})
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("missing", [None, "", " \n", float("nan")])
def test_a_row_without_a_text_is_dropped(missing):
    assert read_row(TOY, {"text": missing, "label": 1}).reason == "empty text"


def test_options_and_answers_of_rows_are_checked_too():
    own = dataclasses.replace(TOY, options=FROM_ROW)
    assert read_row(own, {"text": "x", "label": 1.0, "options": [" no", 1]})["options"] == [
        "no",
        "1",
    ]
    assert read_row(own, {"text": "x", "label": 1, "options": ["no", ""]}).reason == "empty option"
    with pytest.raises(UserError, match="'yes' for options, which must be a list"):
        read_row(own, {"text": "x", "label": 1, "options": "yes"})
    free = dataclasses.replace(TOY, options=None)
    assert read_row(free, {"text": "x", "answer": 3, "references": ["3 ", None]})["references"] == [
        "3"
    ]
    with pytest.raises(UserError, match="list .* for answer, which must be text"):
        read_row(free, {"text": "x", "answer": ["three", "3"]})


def test_a_row_function_that_raises_anything_is_one_sentence():
    own = dataclasses.replace(TOY, row=lambda raw: {"text": "x", "label": 1 / raw["stars"]})
    with pytest.raises(UserError, match="ZeroDivisionError: division by zero"):
        read_row(own, {"stars": 0})


def test_a_long_text_is_shortened_but_question_and_options_stay():
    vocabulary = ByteVocabulary()
    encoder = Encoder(vocabulary, Rendering(input_length=120, target_length=16))
    long = {**ROW, "text": "word " * 200}
    example = encoder.encode(TOY, TOY.templates[0], long, "toy/train/1", with_options=True)
    shown = vocabulary.decode(example.inputs)
    assert len(example.inputs) <= 120 and example.inputs[-1] == EOS
    assert shown.endswith("- good\n\nHow is it?") and shown.count("word") > 5
    assert encoder.counts["inputs truncated"] == 1
    assert [vocabulary.decode(o) for o in example.options] == ROW["options"]


@pytest.mark.parametrize(
    "text", ["Translate: " + "长城是中国古代的工程。" * 300, "x " + "a" * 3000]
)
def test_a_long_text_with_few_blanks_keeps_what_fits(text):
    encoder = Encoder(ByteVocabulary(), Rendering(input_length=600, target_length=16))
    example = encoder.encode(TOY, TOY.templates[0], {**ROW, "text": text}, "toy/train/1")
    assert 450 < len(example.inputs) <= 600


def test_a_template_that_is_longer_than_the_inputs_is_an_error():
    vocabulary = ByteVocabulary()
    vocabulary.input_begin, vocabulary.input_end = (10,) * 15, (11,) * 10
    vocabulary.encode_input = lambda text: [10] * 15 + vocabulary.encode(text) + [11] * 10
    encoder = Encoder(vocabulary, Rendering(input_length=20, target_length=16))
    with pytest.raises(
        UserError, match="has 25 tokens, but 'inputs' of TASK_FEATURE_LENGTHS is 20"
    ):
        encoder.encode(TOY, TOY.templates[0], ROW, "toy/train/1")


def test_a_long_input_without_a_field_to_shorten_is_cut():
    only = dataclasses.replace(
        TOY,
        evidence=(),
        options=FROM_ROW,
        templates=(Template("only", "Which of these is true?\n{options}"),),
    )
    encoder = Encoder(ByteVocabulary(), Rendering(64, 64))
    row = {
        **ROW,
        "options": ["The first of these sentences.", "The second of these sentences."],
        "label": 0,
    }
    example = encoder.encode(only, only.templates[0], row, "toy/train/1")
    assert (
        ByteVocabulary().decode(example.inputs) == example.text.inputs and example.inputs[-1] == EOS
    )
    assert len(example.text.inputs) == 63
    assert encoder.counts == {"inputs truncated": 1, "instructions truncated": 1}


def test_a_long_target_is_cut_counted_and_ends_in_eos():
    vocabulary = ByteVocabulary()
    encoder = Encoder(vocabulary, Rendering(input_length=512, target_length=8))
    summary = CATALOGUE["xsum"]
    row = {**{name: "Some text." for name in summary.fields}, "answer": "A long summary."}
    example = encoder.encode(summary, summary.templates[0], row, "xsum/train/0")
    assert (
        len(example.targets) == 8
        and example.targets[-1] == EOS
        and encoder.counts["targets truncated"] == 1
    )


def test_vocabularies_round_trip(t5_vocabulary):
    sentence = "It costs 5 € in Zürich, doesn't it?"
    assert ByteVocabulary().decode(ByteVocabulary().encode(sentence) + [EOS, 77]) == sentence
    t5 = SentencePieceVocabulary(t5_vocabulary)
    assert t5.size == 32_100
    assert (
        t5.decode(t5.encode("Rank classification works.") + [EOS]) == "Rank classification works."
    )


def test_a_mixed_style_is_another_one_for_each_row_and_the_same_each_time():
    names = [f"toy/train/{i}" for i in range(3000)]
    for of, values in ((shots_of, MIXED_SHOTS), (style_of, MIXED_STYLES)):
        drawn = [of(MIXED, name, 5) for name in names]
        assert drawn == [of(MIXED, name, 5) for name in names]
        assert drawn != [of(MIXED, name, 6) for name in names]
        for value in set(values):
            expected = values.count(value) / len(values)
            assert drawn.count(value) / len(names) == pytest.approx(expected, abs=0.03)
        assert of(values[-1], "toy/train/0", 5) == values[-1]
    row = {"text": "x", "options": ["bad", "fair", "good"], "label": 2}
    for name in names[:30]:
        mixed, plain = (
            render(TOY, TOY.templates[0], row, row_id=name, seed=5, options_style=style)
            for style in (MIXED, style_of(MIXED, name, 5))
        )
        assert mixed == plain
