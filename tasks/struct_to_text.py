"""Struct to text: CommonGen, DART, E2E NLG and WebNLG (English).

The answer is also a field of its own (`sentence` or `text`), so that inverted templates can start from it.
"""

import html
import re

from flan_jax.data.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import detokenised, one_line

_SPLITS = {"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"}


def _text(text):
    """One of the texts, which are tokenised in some of the sources."""
    return one_line(detokenised(html.unescape(text)))


def _row(raw, text_field, **fields):
    """The row of a generation dataset: its fields, its target and the right answers, each once.

    Rows with the same input and another target are one unit for standard errors.
    """
    target = _text(raw["target"])
    if not target:
        return Drop("empty target")
    if not all(fields.values()):
        return Drop("empty input")
    references = dict.fromkeys([target, *(_text(r) for r in raw["references"] if r and r.strip())])
    return {**fields, text_field: target, "answer": target, "references": list(references),
            "group": "; ".join(fields.values())}


def _words(name):
    """An identifier as words: 'cityServed' and 'city_served' become 'city served'; abbreviations stay."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name.replace("_", " ").strip())
    return one_line(" ".join(w.lower() if w[1:].islower() or len(w) == 1 else w for w in name.split()))


def _value(text):
    """A cell of a triple without underscores and the quotes of a string; '"52.0"(minutes)' is '52.0 (minutes)'."""
    text = re.sub(r'^"([^"]*)"(\(\w+\))$', r"\1 \2", one_line(text.replace("_", " ")))
    if len(text) > 1 and text.startswith('"') and text.endswith('"'):
        text = text[1:-1].strip()
    return text


def _common_gen_row(raw):
    return _row(raw, "sentence", concepts=", ".join(c.strip() for c in raw["concepts"] if c.strip()))


def _dart_statement(triple):
    """One triple as a statement; TFDS gives it as one string, the files of the authors as three cells."""
    if not isinstance(triple, str):
        triple = " ".join(triple)
    text = triple.replace("[TABLECONTEXT]", "").replace("[TITLE]", "TABLE TITLE").replace("_", " ")
    return re.sub(r'(^| )"([^"]*)"$', r"\1\2", one_line(html.unescape(text)))


def _dart_row(raw):
    statements = [_dart_statement(t) for t in raw["tripleset"]]
    return _row(raw, "sentence", facts="; ".join(s for s in statements if s))


_E2E_NAMES = {"eatType": "type", "priceRange": "price range", "familyFriendly": "family-friendly"}


def _e2e_nlg_row(raw):
    pairs = re.findall(r"([^\[\],][^\[\]]*?)\s*\[([^\]]*)\]", raw["meaning_representation"])
    named = [(_E2E_NAMES.get(name.strip(), name.strip()), _text(value)) for name, value in pairs]
    return _row(raw, "text", attributes="; ".join(f"{name}: {value}" for name, value in named if value))


def _web_nlg_triple(triple):
    """'Aarhus_Airport | cityServed | "Aarhus"' becomes 'Aarhus Airport | city served | Aarhus'."""
    cells = triple.split("|")
    if len(cells) != 3:
        return _value(triple)
    subject, prop, obj = cells
    return f"{_value(subject)} | {_words(prop)} | {_value(obj)}"


def _web_nlg_row(raw):
    return _row(raw, "text", triples="; ".join(_web_nlg_triple(t) for t in raw["input"] if t.strip()),
                category=_words(raw["category"]))


COMMON_GEN = Dataset(
    name="common_gen",
    paper_dataset="CommonGen",
    cluster="struct_to_text",
    tfds="gem/common_gen:1.1.0",
    hub=Hub("GEM/gem", "common_gen"),
    licence="MIT",
    commercial=True,
    licence_evidence="github.com/INK-USC/CommonGen, LICENSE",
    splits=_SPLITS,
    rows={"train": 67_180},
    fields=("concepts", "sentence"),
    evidence=("concepts",),
    row=_common_gen_row,
    options=None,
    metrics=("rouge", "bleu"),
    templates=(
        Template(
            id="everyday_scene",
            inputs="Write one sentence about an everyday scene that uses all of these words: {concepts}."),
        Template(
            id="words_first",
            inputs="{concepts}: put these words together in a sensible sentence. Their order and their endings may "
            "change."),
        Template(
            id="picture_question",
            inputs="What could be going on in a picture that is tagged with {concepts}? Describe it in a sentence."),
        Template(
            id="language_class",
            inputs="In a language class, the pupils build a sentence from a handful of given words.\n"
            "Words: {concepts}\nA good sentence:"),
        Template(
            id="word_game_dialogue",
            inputs="Mia: Let us play! Give me some words.\nTom: All right: {concepts}.\n"
            "Mia: Here is a sentence with every one of them:"),
        Template(
            id="photo_caption",
            inputs="A photo needs a caption that mentions each of the following things and actions: {concepts}. "
            "The caption reads:"),
        Template(
            id="terse",
            inputs="Concepts: {concepts}. Sentence:"),
        Template(
            id="story_line",
            inputs="You are writing a children's story, and the next line has to contain the ideas {concepts}. "
            "It must be short, grammatical and true to life. Write that line."),
        Template(
            id="list_concepts",
            inputs="{sentence}\nList the main nouns and verbs of this sentence in their basic forms, separated by "
            "commas.",
            targets="{concepts}",
            kind="inverted"),
        Template(
            id="given_words",
            inputs='A pupil built this sentence from a few given words: "{sentence}" Which words, in the form '
            "that a dictionary lists, was the pupil given?",
            targets="{concepts}",
            kind="inverted"),
    ),
)

DART = Dataset(
    name="dart",
    paper_dataset="DART",
    cluster="struct_to_text",
    tfds="gem/dart:1.1.0",
    hub=Hub("GEM/gem", "dart"),
    licence="MIT",
    commercial=True,
    licence_evidence="github.com/Yale-LILY/dart, LICENSE",
    splits=_SPLITS,
    rows={"train": 62_450},
    fields=("facts", "sentence"),
    evidence=("facts",),
    row=_dart_row,
    options=None,
    metrics=("rouge", "bleu"),
    templates=(
        Template(
            id="fluent_text",
            inputs="Turn these facts from a table into fluent English.\nFacts: {facts}\nEnglish:"),
        Template(
            id="records_first",
            inputs="[{facts}]\nEach of these records names a thing, one of its properties and the value. Say the same "
            "in ordinary sentences."),
        Template(
            id="question",
            inputs="How would you put these table cells into words: {facts}?"),
        Template(
            id="analyst_dialogue",
            inputs="Analyst: My table contains the following: {facts}\nReporter: How shall I tell that to my readers?\n"
            "Analyst: Write this:"),
        Template(
            id="unseen_table",
            inputs="Your listener cannot see the table in front of you. Let the listener know what it says.\n"
            "Table: {facts}"),
        Template(
            id="terse",
            inputs="Data: {facts}\nIn words:"),
        Template(
            id="nothing_added",
            inputs="Express the data that follows in plain English, and add nothing that is not in it. {facts}"),
        Template(
            id="wordy",
            inputs="Below is structured information, made of one or more statements with semicolons between them. "
            "A statement links a subject to a value by way of a relation. Rewrite all of it as natural prose.\n"
            "{facts}"),
        Template(
            id="screen_reader",
            inputs="A screen reader comes across a data record and should speak natural English in its place.\n"
            "Record: {facts}\nSpoken text:"),
        Template(
            id="extract_facts",
            inputs='Extract the facts from the text as statements of the form "subject RELATION value", with a '
            "semicolon between two statements.\nText: {sentence}",
            targets="{facts}",
            kind="inverted"),
    ),
)

E2E_NLG = Dataset(
    name="e2e_nlg",
    paper_dataset="E2ENLG",
    cluster="struct_to_text",
    tfds="gem/e2e_nlg:1.1.0",
    hub=Hub("GEM/gem", "e2e_nlg"),
    licence="CC-BY-SA-4.0",
    commercial=True,
    licence_evidence="macs.hw.ac.uk/InteractionLab/E2E",
    splits=_SPLITS,
    rows={"train": 33_320},
    fields=("attributes", "text"),
    evidence=("attributes",),
    row=_e2e_nlg_row,
    options=None,
    metrics=("rouge", "bleu"),
    templates=(
        Template(
            id="where_to_eat",
            inputs="Somebody is looking for a place to eat. Describe this one to them.\n{attributes}"),
        Template(
            id="listing",
            inputs="Restaurant listing: {attributes}\nDescription:"),
        Template(
            id="details_first",
            inputs="[{attributes}]\nWrite a short text for a city guide that includes every one of these details."),
        Template(
            id="tourist_dialogue",
            inputs="A tour guide has these notes about a venue: {attributes}.\nTourist: What kind of place is that?\n"
            "Guide:"),
        Template(
            id="question",
            inputs="What would a restaurant guide print about a venue with these properties: {attributes}?"),
        Template(
            id="information_desk",
            inputs="You work at the tourist information desk. A caller asks about an address in town, and your screen "
            "shows the following: {attributes}. Pass all of it on in brief."),
        Template(
            id="complete_and_true",
            inputs="Put the particulars of this venue into flowing English. Leave nothing out and make nothing up.\n"
            "Particulars: {attributes}"),
        Template(
            id="website_blurb",
            inputs="The website of a town presents its pubs, cafes and restaurants in brief. From the entry "
            "({attributes}) its staff wrote:"),
        Template(
            id="fill_in_form",
            inputs="Fill in a form about the venue in the text. Its lines are name, type, food, price range, customer "
            'rating, area, family-friendly and near; skip those that the text does not mention. Write each as "line: '
            'value" and put semicolons between them.\nText: {text}',
            targets="{attributes}",
            kind="inverted"),
        Template(
            id="keywords_from_text",
            inputs='{text}\nNote down what this says about the place, in the style of "name: The Lantern; type: '
            'pub; area: riverside".',
            targets="{attributes}",
            kind="inverted"),
    ),
)

WEB_NLG_EN = Dataset(
    name="web_nlg_en",
    paper_dataset="WEBNLG",
    cluster="struct_to_text",
    tfds="gem/web_nlg_en:1.1.0",
    hub=Hub("GEM/gem", "web_nlg_en"),
    licence="CC-BY-NC-SA-4.0",
    commercial=False,
    licence_evidence="synalp.gitlabpages.inria.fr/webnlg-challenge",
    splits=_SPLITS,
    rows={"train": 35_220},
    fields=("triples", "category", "text"),
    evidence=("triples",),
    row=_web_nlg_row,
    options=None,
    metrics=("rouge", "bleu"),
    templates=(
        Template(
            id="verbalise_triples",
            inputs="Verbalise these RDF triples in English: {triples}"),
        Template(
            id="graph_topic",
            inputs='The entries below come from a knowledge graph, in the category "{category}". Write a short text '
            "that tells a reader what they hold.\n{triples}"),
        Template(
            id="triples_first",
            inputs="[{triples}]\nThis data has the form subject | property | object. As well-formed prose, it reads:"),
        Template(
            id="question",
            inputs="Which sentence or sentences would convey what is stored here: {triples}?"),
        Template(
            id="encyclopedia",
            inputs="You write for an encyclopedia and may use only what a database holds. For your next passage it "
            "holds this: {triples}\nThe passage:"),
        Template(
            id="computer_dialogue",
            inputs="Computer: {triples}\nUser: I cannot read that. What does it mean?\nComputer: It means the "
            "following."),
        Template(
            id="terse",
            inputs="Category: {category}. Triples: {triples}\nText:"),
        Template(
            id="wordy",
            inputs="On the semantic web, a fact consists of a subject, a property and an object. Combine all the facts "
            "given here in a fluent text, so that none of them is lost.\nFacts: {triples}"),
        Template(
            id="write_triples",
            inputs='Write down what this text states as triples of the form "subject | property | object", with '
            "semicolons between them.\n{text}",
            targets="{triples}",
            kind="inverted"),
        Template(
            id="graph_editor",
            inputs='An editor of a knowledge graph enters facts of the category "{category}", each as subject | '
            "property | object and with a semicolon after every fact but the last. The source says: {text} The editor "
            "enters:",
            targets="{triples}",
            kind="inverted"),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (WEB_NLG_EN, COMMON_GEN, E2E_NLG, DART)
