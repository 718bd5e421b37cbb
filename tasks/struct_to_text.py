"""Struct to text: CommonGen, DART, E2E NLG and WebNLG (English).

The answer is also a field of its own (`sentence` or `text`), so that inverted templates can start
from it.
"""

import html
import re
from collections.abc import Sequence
from typing import Any

from flan_jax.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import detokenized, one_line

_SPLITS = {"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"}


def _text(text: str) -> str:
    """One of the texts, which are tokenized in some of the sources."""
    return one_line(detokenized(html.unescape(text)))


def _row(raw: dict[str, Any], text_field: str, **fields: str) -> dict[str, Any] | Drop:
    """The row of a generation dataset: its fields, its target and the right answers, each once.

    Rows with the same input and another target are one unit for standard errors.
    """
    target = _text(raw["target"])
    if not target:
        return Drop("empty target")
    if not all(fields.values()):
        return Drop("empty input")
    references = dict.fromkeys([target, *(_text(r) for r in raw["references"] if r and r.strip())])
    return {
        **fields,
        text_field: target,
        "answer": target,
        "references": list(references),
        "group": "; ".join(fields.values()),
    }


def _words(name: str) -> str:
    """An identifier as words: 'cityServed', 'city_served' -> 'city served'; abbreviations stay."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name.replace("_", " ").strip())
    return one_line(
        " ".join(w.lower() if w[1:].islower() or len(w) == 1 else w for w in name.split())
    )


def _value(text: str) -> str:
    """A cell of a triple without underscores and quotes: '"52.0"(minutes)' -> '52.0 (minutes)'."""
    text = re.sub(r'^"([^"]*)"(\(\w+\))$', r"\1 \2", one_line(text.replace("_", " ")))
    if len(text) > 1 and text.startswith('"') and text.endswith('"'):
        text = text[1:-1].strip()
    return text


def _common_gen_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return _row(
        raw, "sentence", concepts=", ".join(c.strip() for c in raw["concepts"] if c.strip())
    )


def _dart_statement(triple: str | Sequence[str]) -> str:
    """One triple as a statement; it is one string in TFDS, three cells in the authors' files."""
    if not isinstance(triple, str):
        triple = " ".join(triple)
    text = triple.replace("[TABLECONTEXT]", "").replace("[TITLE]", "TABLE TITLE").replace("_", " ")
    return re.sub(r'(^| )"([^"]*)"$', r"\1\2", one_line(html.unescape(text)))


def _dart_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    statements = [_dart_statement(t) for t in raw["tripleset"]]
    return _row(raw, "sentence", facts="; ".join(s for s in statements if s))


_E2E_NAMES = {"eatType": "type", "priceRange": "price range", "familyFriendly": "family-friendly"}


def _e2e_nlg_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    pairs = re.findall(r"([^\[\],][^\[\]]*?)\s*\[([^\]]*)\]", raw["meaning_representation"])
    named = [(_E2E_NAMES.get(name.strip(), name.strip()), _text(value)) for name, value in pairs]
    return _row(
        raw, "text", attributes="; ".join(f"{name}: {value}" for name, value in named if value)
    )


def _web_nlg_triple(triple: str) -> str:
    """'Aarhus_Airport | cityServed | "Aarhus"' becomes 'Aarhus Airport | city served | Aarhus'."""
    cells = triple.split("|")
    if len(cells) != 3:
        return _value(triple)
    subject, prop, obj = cells
    return f"{_value(subject)} | {_words(prop)} | {_value(obj)}"


def _web_nlg_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return _row(
        raw,
        "text",
        triples="; ".join(_web_nlg_triple(t) for t in raw["input"] if t.strip()),
        category=_words(raw["category"]),
    )


COMMON_GEN = Dataset(
    name="common_gen",
    paper_dataset="CommonGen",
    cluster="struct_to_text",
    tfds="gem/common_gen:1.1.0",
    hub=Hub("GEM/gem", "common_gen"),
    license="MIT",
    commercial=True,
    license_evidence="github.com/INK-USC/CommonGen, LICENSE",
    splits=_SPLITS,
    rows={"train": 67_180},
    fields=("concepts", "sentence"),
    evidence=("concepts",),
    row=_common_gen_row,
    options=None,
    metrics=("rouge", "bleu"),
    templates=(
        Template("each_word_once", "Use each of these words in one sentence: {concepts}"),
        Template(
            "combine_above",
            "{concepts}\n\nCombine them into one sensible sentence. Order and endings may change.",
        ),
        Template("scene", "Describe a scene that has all of these in it: {concepts}"),
        Template("labels", "Words: {concepts}\nSentence:"),
        Template(
            "caption", "Write a photo caption that mentions all of the following.\n{concepts}"
        ),
        Template("build_a_sentence", "Build a sentence from these: {concepts}"),
        Template(
            "what_happens", "What might be happening here? Write it in one sentence.\n{concepts}"
        ),
        Template("true_to_life", "Make a short, true-to-life sentence of this: {concepts}"),
        Template(
            "list_concepts",
            "{sentence}\nList the main nouns and verbs of this sentence in their basic forms, "
            "separated by commas.",
            "{concepts}",
            "inverted",
        ),
        Template(
            "key_words",
            "Sentence: {sentence}\nIts key words in dictionary form, with commas:",
            "{concepts}",
            "inverted",
        ),
    ),
)

DART = Dataset(
    name="dart",
    paper_dataset="DART",
    cluster="struct_to_text",
    tfds="gem/dart:1.1.0",
    hub=Hub("GEM/gem", "dart"),
    license="MIT",
    commercial=True,
    license_evidence="github.com/Yale-LILY/dart, LICENSE",
    splits=_SPLITS,
    rows={"train": 62_450},
    fields=("facts", "sentence"),
    evidence=("facts",),
    row=_dart_row,
    options=None,
    metrics=("rouge", "bleu"),
    templates=(
        Template(
            "fluent_text",
            "Turn these facts from a table into fluent English.\nFacts: {facts}\nEnglish:",
        ),
        Template("table_row", "Put this table row into words: {facts}"),
        Template("plain_sentences", "{facts}\n\nSay this in plain sentences."),
        Template("what_it_says", "What does this table say?\n{facts}"),
        Template("nothing_more", "Express this data in plain English and add nothing.\n{facts}"),
        Template("terse", "Data: {facts}\nIn words:"),
        Template(
            "statements_to_prose",
            "Each statement below has a subject, a relation and a value. Write them as "
            "prose.\n{facts}",
        ),
        Template("explain_record", "Explain this record to somebody who cannot see it: {facts}"),
        Template("sentence_or_two", "Write a sentence or two from these records: {facts}"),
        Template(
            "extract_facts",
            'Extract the facts from the text as statements of the form "subject RELATION '
            'value", with a semicolon between two statements.\nText: {sentence}',
            "{facts}",
            "inverted",
        ),
    ),
)

E2E_NLG = Dataset(
    name="e2e_nlg",
    paper_dataset="E2ENLG",
    cluster="struct_to_text",
    tfds="gem/e2e_nlg:1.1.0",
    hub=Hub("GEM/gem", "e2e_nlg"),
    license="CC-BY-SA-4.0",
    commercial=True,
    license_evidence="macs.hw.ac.uk/InteractionLab/E2E",
    splits=_SPLITS,
    rows={"train": 33_320},
    fields=("attributes", "text"),
    evidence=("attributes",),
    row=_e2e_nlg_row,
    options=None,
    metrics=("rouge", "bleu"),
    templates=(
        Template(
            "where_to_eat",
            "Somebody is looking for a place to eat. Describe this one to them.\n{attributes}",
        ),
        Template("listing", "Restaurant listing:\n{attributes}\nDescription:"),
        Template("describe_venue", "Describe this venue in a sentence or two.\n{attributes}"),
        Template(
            "city_guide", "{attributes}\n\nWrite this up for a city guide, with every detail."
        ),
        Template(
            "nothing_left_out",
            "Put these particulars into flowing English. Leave nothing out, make nothing "
            "up.\n{attributes}",
        ),
        Template("blurb", "Turn the key points into a blurb for the town's website.\n{attributes}"),
        Template("what_is_it_like", "What is this place like?\n{attributes}"),
        Template("notes_to_text", "Notes on a restaurant:\n{attributes}\nThe same as a text:"),
        Template(
            "lines_of_a_form",
            "List what the text says of name, type, food, price range, customer rating, "
            'area, family-friendly and near, as "line: value" with semicolons.\n{text}',
            "{attributes}",
            "inverted",
        ),
        Template(
            "keywords_from_text",
            '{text}\nNote down what this says about the place, in the style of "name: '
            'The Lantern; type: pub; area: riverside".',
            "{attributes}",
            "inverted",
        ),
    ),
)

WEB_NLG_EN = Dataset(
    name="web_nlg_en",
    paper_dataset="WEBNLG",
    cluster="struct_to_text",
    tfds="gem/web_nlg_en:1.1.0",
    hub=Hub("GEM/gem", "web_nlg_en"),
    license="CC-BY-NC-SA-4.0",
    commercial=False,
    license_evidence="synalp.gitlabpages.inria.fr/webnlg-challenge",
    splits=_SPLITS,
    rows={"train": 35_220},
    fields=("triples", "category", "text"),
    evidence=("triples",),
    row=_web_nlg_row,
    options=None,
    metrics=("rouge", "bleu"),
    templates=(
        Template("verbalise_triples", "Verbalize these RDF triples in English: {triples}"),
        Template(
            "entries_on_category",
            'Knowledge graph entries on "{category}":\n{triples}\n\nWrite them as a short text.',
        ),
        Template(
            "prose_of_triples",
            "{triples}\n\nWrite this as prose. Each entry is subject | property | object.",
        ),
        Template("what_entries_say", "What do these database entries say?\n{triples}"),
        Template(
            "encyclopedia_passage",
            "Write an encyclopedia passage from these facts alone.\n{triples}",
        ),
        Template("labels", "Category: {category}\nTriples: {triples}\nText:"),
        Template("all_of_them", "Facts: {triples}\nOne fluent text with all of them:"),
        Template("stored_here", "Say in ordinary English what is stored here: {triples}"),
        Template(
            "write_triples",
            'Write down what this text states as triples of the form "subject | property | '
            'object", with semicolons between them.\n{text}',
            "{triples}",
            "inverted",
        ),
        Template(
            "facts_of_text",
            "Text: {text}\nCategory: {category}\nFacts, each as subject | property | object, "
            "with semicolons between them:",
            "{triples}",
            "inverted",
        ),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (WEB_NLG_EN, COMMON_GEN, E2E_NLG, DART)
