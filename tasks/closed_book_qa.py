"""Closed-book question answering: ARC (easy and challenge), Natural Questions and TriviaQA."""

import collections
import re
from collections.abc import Iterable
from typing import Any

from flan_jax.catalogue import FROM_ROW, Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import csv_field, detokenized, distinct, lines, one_line

# First words of trivia items that ask without being questions.
_REQUESTS = ("complete", "correct", "give", "identify", "list", "name", "solve")


def _question(text: str) -> str:
    """The question without the quotes of CSV files, and with a mark at its end."""
    text = one_line(detokenized(csv_field(text)))
    if not text or not (text[-1].isalnum() or text[-1] in "\"'’”)%"):
        return text
    # It may end in a quotation with a mark of its own, or in a hint in brackets after the question
    # mark.
    if text.rstrip("\"'’”) ")[-1:] in (".", "?", "!") or (text.endswith(")") and "?" in text):
        return text
    starts = {sentence.split(" ")[0].lower() for sentence in (text, text.split(". ")[-1])}
    return text + ("." if starts & set(_REQUESTS) else "?")


def _arc_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    choices = raw["choices"]
    if isinstance(choices, dict):
        texts, labels = choices["text"], choices["label"]
    else:
        texts, labels = [c["text"] for c in choices], [c["label"] for c in choices]
    question, options = (
        lines(csv_field(raw["question"])),
        [one_line(csv_field(text)) for text in texts],
    )
    if not question or not all(options):
        return Drop("empty question or choice")
    if len(options) != 4:
        return Drop("not four choices")  # as in FLAN's code
    if raw["answerKey"] not in labels:
        return Drop("the answer is not among the choices")
    label = list(labels).index(raw["answerKey"])
    if options.count(options[label]) > 1:
        return Drop("two choices are the right one")
    return {"question": question, "options": options, "label": label}


def _natural_questions_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    question, answers = _question(raw["question"]), distinct(map(detokenized, raw["answer"]))
    if not question:
        return Drop("empty question")
    if not answers:
        return Drop("no answer")
    return {"question": question, "answer": answers[0], "references": answers}


# Aliases include slips such as 'ToKyo' and 'JOrdan'; McCartney is none.
_STRAY_CAPITAL = re.compile(r"(?<!Mc)(?<!Mac)(?<=[a-z])[A-Z]|[A-Z]{2}[a-z]")
# Words that stay small within a title.
_SMALL = {"a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"}


def _unquoted(answer: str) -> str:
    """The answer without the quotation marks of its CSV file; some lack the second mark."""
    answer = re.sub(r"""^'(.*[^s])'$|^"([^"]*)"$""", r"\1\2", csv_field(one_line(answer)))
    lone = "'" if answer.isupper() else '"'
    return answer.removeprefix(lone) if answer.count(lone) == 1 else answer


def _ordinary_case(value: str, aliases: Iterable[str]) -> str:
    """The answer in ordinary case: one in four is all capitals.

    An alias that differs only in case has the right one. Otherwise each word is as in most aliases
    of several words, and a word that they lack gets one capital. Short words stay as they are if
    such an alias has them so ('NBA teams'), and so do Roman numerals.
    """
    if not value.isupper():
        return value
    others = [
        alias
        for alias in map(_unquoted, aliases)
        if not alias.isupper() and not _STRAY_CAPITAL.search(alias)
    ]
    forms = collections.Counter(
        word for alias in others if " " in alias for word in re.findall(r"\w+", alias)
    )
    words = re.findall(r"\w+", value)
    same = [alias for alias in others if alias.lower() == value.lower()]
    if same and not _is_abbreviation(value, forms, alone=True):
        return _capital(max(same, key=lambda alias: sum(map(str.isupper, alias))))
    cased = iter(
        [_cased(word, forms, first=not i, alone=len(words) == 1) for i, word in enumerate(words)]
    )
    return re.sub(r"\w+", lambda _: next(cased), value)


def _is_abbreviation(word: str, forms: collections.Counter[str], alone: bool) -> bool:
    return bool(
        len(word) < 6
        and word in forms
        or alone
        and len(word) < 4
        and word.capitalize() not in forms
        or re.fullmatch(r"\w*\d\w*|[IVXLCDM]{3,}", word)
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cased(word: str, forms: collections.Counter[str], first: bool, alone: bool) -> str:
    """A word in capitals as most of the counted forms have it, or else by rule."""
    if len(word) == 1 or _is_abbreviation(word, forms, alone):
        return word
    known = [form for form in forms if form.upper() == word]
    if known:
        form = max(known, key=lambda form: forms[form])
        return _capital(form) if first else form
    if not first and word.lower() in _SMALL:
        return word.lower()
    return word if alone and len(word) < 5 else word.capitalize()


def _trivia_qa_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    question, value = _question(raw["question"]), _unquoted(raw["answer"]["value"])
    if not question:
        return Drop("empty question")
    if value in ("", "<unk>"):
        return Drop("no answer")
    answer = _ordinary_case(value, raw["answer"]["aliases"])
    references = distinct([answer, value, *raw["answer"]["aliases"]])
    return {"question": question, "answer": answer, "references": references, "group": question}


# A question of ARC may also be an unfinished statement or hold a blank, and the answer then
# completes it.
_ARC_TEMPLATES = (
    Template(
        "science_exam", "From a school science exam:\n{question}\n{options}\n\nCorrect answer:"
    ),
    Template("solve_first", "{options}\nSolve this problem from a science lesson.\n{question}"),
    Template("classroom", "Teacher: {question}\n{options}\nPupil:"),
    Template("what_science_says", "What does science say?\n{question}\n{options}"),
    Template("terse", "Science: {question}\n{options}\nAnswer:"),
    Template("flashcard", "Front of the flashcard: {question}\n{options}\nBack of the flashcard:"),
    Template(
        "homework",
        "I am stuck on this science homework:\n{question}\n{options}\nWhat should I write down?",
    ),
    Template("exercise_and_key", "Exercise: {question}\n{options}\nAnswer key:"),
    Template(
        "think_it_through",
        "{question}\n{options}\n\nThink about the science behind this. What is right?",
    ),
    Template(
        "grades_three_to_nine",
        "Science test, grades three to nine.\n{options}\nTask: {question}\nSolution:",
    ),
)

_ARC_SPLITS = {"train": "train[:-200]", "validation": "train[-200:]", "test": "test"}

ARC_CHALLENGE = Dataset(
    name="arc_challenge",
    paper_dataset="ARC (easy/chal.)",
    cluster="closed_book_qa",
    tfds="ai2_arc/ARC-Challenge:1.0.0",
    hub=Hub("allenai/ai2_arc", "ARC-Challenge"),
    license="CC-BY-SA-4.0",
    commercial=True,
    license_evidence="allenai.org/data/arc",
    splits=_ARC_SPLITS,
    rows={"train": 910},
    fields=("question",),
    row=_arc_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=_ARC_TEMPLATES,
)

ARC_EASY = Dataset(
    name="arc_easy",
    paper_dataset="ARC (easy/chal.)",
    cluster="closed_book_qa",
    tfds="ai2_arc/ARC-Easy:1.0.0",
    hub=Hub("allenai/ai2_arc", "ARC-Easy"),
    license="CC-BY-SA-4.0",
    commercial=True,
    license_evidence="allenai.org/data/arc",
    splits=_ARC_SPLITS,
    rows={"train": 2040},
    fields=("question",),
    row=_arc_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=_ARC_TEMPLATES,
)

NATURAL_QUESTIONS = Dataset(
    name="natural_questions",
    paper_dataset="NQ",
    cluster="closed_book_qa",
    tfds="natural_questions_open:1.0.0",
    hub=Hub("google-research-datasets/nq_open", "nq_open"),
    license="CC-BY-SA-3.0",
    commercial=True,
    license_evidence="ai.google.com/research/NaturalQuestions/download",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 87_720},
    fields=("question",),
    row=_natural_questions_row,
    options=None,
    metrics=("trivia_qa",),
    templates=(
        Template(
            "hoped_for", "Typed into a search engine: {question}\nWhat short answer was hoped for?"
        ),
        Template(
            "short_fact", "Reply with a name, a date, a number or another short fact.\n{question}"
        ),
        Template("labelled", "Question from the web: {question}\nShort answer:"),
        Template("assistant_dialogue", "User: {question}\nAssistant, in a few words:"),
        Template("encyclopedia_says", "What would an encyclopedia say?\n{question}"),
        Template("without_looking_up", "Without looking anything up, tell me: {question}"),
        Template(
            "no_explanation", "{question}\n\nNo explanation, just the name, thing, time or amount."
        ),
        Template("on_my_mind", "This has been on my mind all day:\n{question}"),
        Template("one_phrase", "Settle this in one phrase.\n{question}"),
        Template(
            "request_and_response", "Request: {question}\nResponse in as few words as possible:"
        ),
    ),
)

# The builder's rc has one row for each question and part of the collection (Web, Wikipedia, and in
# validation the verified subsets of both), not for each document: most questions come twice, also
# across train and validation below. The rows of one question are one unit for standard errors.
TRIVIA_QA = Dataset(
    name="trivia_qa",
    paper_dataset="TQA",
    cluster="closed_book_qa",
    tfds="trivia_qa/rc:1.1.0",
    hub=Hub("mandarjoshi/trivia_qa", "rc.nocontext"),
    license="NOASSERTION",
    commercial=None,
    license_evidence=(
        "Apache-2.0 in github.com/mandarjoshi90/triviaqa is the code's; none for the questions"
    ),
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    fields=("question",),
    row=_trivia_qa_row,
    options=None,
    metrics=("trivia_qa",),
    templates=(
        Template("pub_quiz", "Pub quiz question: {question}\nOur answer:"),
        Template("terse", "Tonight's trivia: {question}\nCorrect answer:"),
        Template("host_and_contestant", "Host: {question}\nContestant:"),
        Template("card_sides", "Front of the card: {question}\nBack of the card:"),
        Template("know_this_one", "Do you know this one?\n{question}"),
        Template("name_it", "{question}\nName the person, place, title, number or thing."),
        Template("quiz_book_item", "What is the solution to this item of a quiz book?\n{question}"),
        Template("i_bet", "I bet you cannot answer this: {question}"),
        Template("general_knowledge", "General knowledge puzzle: {question}\nSolution:"),
        Template("from_memory", "From memory, and briefly:\n{question}"),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (TRIVIA_QA, NATURAL_QUESTIONS, ARC_CHALLENGE, ARC_EASY)
