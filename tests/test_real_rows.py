"""All real rows that lie beside this checkout.

Read, written in every template, and answered as the raw row says.

What the right answer is, is worked out here a second time, from the raw fields and the class names
of the files' manifest, and not by the row functions.
"""

import collections
import dataclasses
import html
import json
import math
import re

import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE, Drop
from flan_jax.catalogue.render import render
from flan_jax.catalogue.row_fields import read_row
from flan_jax.data.sources.jsonl import JsonlSource

# The option that means a class of the raw data; class names as the manifest gives them.
NLI_2 = {"entailment": "yes", "not_entailment": "no"}
ANLI = {"entailment": "yes", "neutral": "it is impossible to say", "contradiction": "no"}
MNLI = {**ANLI, "neutral": "it is not possible to tell"}
NO_YES = {"False": "no", "True": "yes"}
CLASSES = {
    "anli_r1": ANLI,
    "anli_r2": ANLI,
    "anli_r3": ANLI,
    "cb": ANLI,
    "mnli_matched": MNLI,
    "mnli_mismatched": MNLI,
    "rte": NLI_2,
    "qnli": NLI_2,
    "wnli": NLI_2,
    "bool_q": NO_YES,
    "wsc": NO_YES,
    "multirc": NO_YES,
    "glue_mrpc": {"not_equivalent": "no", "equivalent": "yes"},
    "paws_wiki": {"different": "no", "same": "yes"},
    "imdb_reviews": {"neg": "negative", "pos": "positive"},
    "cola": {"unacceptable": "unacceptable", "acceptable": "acceptable"},
    "sst2": {"negative": "negative", "positive": "positive"},
    "yelp_polarity_reviews": {"negative": "negative", "positive": "positive"},
    "ag_news_subset": {
        "World": "World",
        "Sports": "Sports",
        "Business": "Business",
        "Sci/Tech": "Science and technology",
    },
    "stsb": {grade: grade for grade in "012345"},
}


def arc(raw):
    texts, letters = raw["choices"]["text"], raw["choices"]["label"]
    return letters.index(raw["answerKey"]), texts


# The place of the right option and all options, where they come from the row.
OPTIONS_OF = {
    "arc_challenge": arc,
    "arc_easy": arc,
    "copa": lambda raw: (raw["label"], [raw["choice1"], raw["choice2"]]),
    # [step], [title]
    "hellaswag": lambda raw: (raw["label"], [re.sub(r"\[\w+\]", "", e) for e in raw["endings"]]),
    "openbookqa": lambda raw: (
        raw["answerKey"],
        [raw["question"][f"choice_{letter}"] for letter in "ABCD"],
    ),
    "winogrande": lambda raw: (
        raw["label"],
        [raw[o] + raw["sentence"].split("_")[1] for o in ("option1", "option2")],
    ),
    "record": lambda raw: (
        next(i for i, e in enumerate(dict.fromkeys(raw["entities"])) if e == raw["answers"][0]),
        list(dict.fromkeys(raw["entities"])),
    ),
}

# The answer of free text.
ANSWER_OF = {
    "aeslc": lambda raw: raw["subject_line"],
    "cnn_dailymail": lambda raw: raw["highlights"],
    "multi_news": lambda raw: raw["summary"],
    "wiki_lingua_english_en": lambda raw: raw["target"],
    "dart": lambda raw: html.unescape(raw["target"]),
    "e2e_nlg": lambda raw: raw["target"],
    "web_nlg_en": lambda raw: raw["target"],
    "trivia_qa": lambda raw: raw["answer"]["value"],
    "math_dataset": lambda raw: raw["answer"],
    "coqa": lambda raw: raw["answers"]["input_text"][-1],
    "quac": lambda raw: raw["orig_answer"]["text"],
    "squad_v1": lambda raw: raw["answers"]["text"][0],
    "squad_v2": lambda raw: "unanswerable" if raw["is_impossible"] else raw["answers"]["text"][0],
    "true_case": lambda raw: raw["en"],
    "fix_punct": lambda raw: raw["en"],
    "word_segment": lambda raw: raw["en"],
    "wmt14_enfr": lambda raw: raw["fr"],
    **{
        f"wmt16_translate_{code}en": lambda raw, code=code: raw[code]
        for code in ("de", "cs", "fi", "ro", "ru")
    },
}

# The rows that are left out and why; of all other datasets every row is used.
DROPS = {
    "aeslc": {"empty body or subject": 2},
    "openbookqa": {"two equal choices": 1},
    "arc_easy": {"not four choices": 5},
    "arc_challenge": {"not four choices": 2},
}


@dataclasses.dataclass
class Finding:
    """What became of the rows of a dataset.

    `raw` and `ours` count right answers by class name and as rendered.
    """

    rows: int = 0
    drops: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    raw: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    ours: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    wrong: dict[str, str] = dataclasses.field(default_factory=dict)


def folded(text: str) -> str:
    """Letters and digits in lower case.

    What no tidying of white space and punctuation may change.
    """
    return re.sub(r"[\W_]+", "", text).lower()


def class_name(name: str, raw: dict, names: list[str] | None) -> str:
    """The raw row's class by name."""
    if name == "bool_q":
        return str(raw["answer"])
    if name == "stsb":
        return str(math.floor(raw["label"] + 0.5))
    return names[raw["label"]]


def expected(name: str, raw: dict, names: list[str] | None) -> tuple[str, int | None]:
    """The folded right answer of a raw row, and its place among options that come from the row."""
    if name in CLASSES:
        return folded(CLASSES[name][class_name(name, raw, names)]), None
    if name in OPTIONS_OF:
        place, options = OPTIONS_OF[name](raw)
        return folded(options[place]), place
    return folded(ANSWER_OF[name](raw)), None


def problem(d, template, text, answer: str, place: int | None) -> str | None:
    """What is wrong with a rendered row, if anything."""
    if any(not side or side != side.strip() for side in (text.inputs, text.targets)):
        return "empty, or begins or ends with white space"
    if folded(text.answer) != answer:
        return f"answers {text.answer!r}, not {answer!r}"
    if place is not None and text.label != place:
        return f"the right option is number {text.label}, not {place}"
    if d.options and (text.answer not in text.options or text.options[text.label] != text.answer):
        return "the answer is no option"
    if template.kind == "forward" and text.targets != text.answer:
        return f"asks for {text.targets!r}"
    return None


def examine(
    d, source: JsonlSource, path, names: list[str] | None, finding: Finding, templates: int | None
) -> None:
    """Reads the rows of one file and renders each in so many templates in turn, or in all."""
    for index, raw in source.rows(d, path.stem):
        finding.rows += 1
        row = read_row(d, raw)
        if isinstance(row, Drop):
            finding.drops[row.reason] += 1
            continue
        answer, place = expected(d.name, raw, names)
        if d.name in CLASSES:
            finding.raw[class_name(d.name, raw, names)] += 1
        first = index % len(d.templates)
        for template in (*d.templates[first:], *d.templates[:first])[:templates]:
            text = render(d, template, row, row_id=f"{path.stem}/{index}")
            wrong = problem(d, template, text, answer, place)
            if wrong:
                finding.wrong.setdefault(template.id, f"{path.stem}/{index}: {wrong}")
        if d.name in CLASSES:
            finding.ours[text.answer] += 1


def examine_all(directory, templates: int | None) -> dict[str, Finding]:
    """What became of the rows of every file, by dataset."""
    manifest = {
        entry["file"]: entry
        for entry in json.loads((directory / "MANIFEST.json").read_text(encoding="utf-8"))
    }
    source, findings = JsonlSource(directory), {}
    for file, entry in manifest.items():
        d = CATALOGUE[entry["configuration"]]
        finding = findings.setdefault(d.name, Finding())
        examine(d, source, directory / file, entry.get("label_names"), finding, templates)
    return findings


@pytest.mark.parametrize(
    "templates", [1, pytest.param(None, marks=pytest.mark.slow)], ids=["one", "all"]
)
def test_real_rows_are_answered_as_the_raw_rows_say(real_rows, templates):
    findings = examine_all(real_rows, templates)
    assert set(findings) == {path.name for path in real_rows.iterdir() if path.is_dir()}
    assert sum(f.rows for f in findings.values()) > 70_000
    assert {name: f.wrong for name, f in findings.items() if f.wrong} == {}
    assert {name: dict(f.drops) for name, f in findings.items() if f.drops} == DROPS
    for name in set(CLASSES) & set(findings):
        expected_counts = collections.Counter()
        for raw_class, count in findings[name].raw.items():
            expected_counts[CLASSES[name][raw_class]] += count
        assert findings[name].ours == expected_counts and len(expected_counts) > 1, name
