"""Paraphrase: do two texts mean the same, and how nearly?

MRPC (news sentences), QQP (questions of a forum) and PAWS (encyclopedia sentences with almost the
same words) ask for yes or no. STS-B asks for a grade from 0 to 5; its raw score is kept as `value`
for the correlations.
"""

import math
from typing import Any

from flan_jax.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import csv_field, detokenized, ended, labeled, one_line

_NO_YES = ("no", "yes")
_GRADES = ("0", "1", "2", "3", "4", "5")


def _text(text: str, mark: str = "."):
    """One of two texts, which are tokenized in some of the sources."""
    return ended(one_line(detokenized(text)), mark)


def _pair_row(
    raw: dict[str, Any], first: str = "sentence1", second: str = "sentence2", mark: str = "."
) -> dict[str, Any] | Drop:
    """The row of two texts with a class id, or why it cannot be used."""
    return labeled(raw["label"], 2, **{name: _text(raw[name], mark) for name in (first, second)})


GLUE_MRPC = Dataset(
    name="glue_mrpc",
    paper_dataset="MRPC",
    cluster="paraphrase",
    tfds="glue/mrpc:2.0.0",
    hub=Hub("nyu-mll/glue", "mrpc"),
    license="LicenseRef-MSR-SSLA",
    commercial=False,
    license_evidence=(
        "Microsoft Research Shared Source License Agreement, in the download: non-commercial"
    ),
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 3460},
    fields=("sentence1", "sentence2"),
    row=_pair_row,
    options=_NO_YES,
    metrics=("accuracy", "f1"),
    templates=(
        Template(
            "just_reworded",
            "Sentence 1: {sentence1}\nSentence 2: {sentence2}\nIs sentence 2 just sentence 1 in "
            "other words?\n"
            "{options}",
        ),
        Template(
            "sent_and_printed",
            "Sent by the agency: {sentence1}\nPrinted in the paper: {sentence2}\nHas the meaning "
            "stayed the same?\n"
            "{options}",
        ),
        Template(
            "options_first",
            "{options}\nIs one of these news sentences a paraphrase of the other?\nFirst: "
            "{sentence1}\n"
            "Second: {sentence2}",
        ),
        Template(
            "same_facts",
            (
                "One paper: {sentence1}\nAnother paper: {sentence2}\nDo both report the same "
                "facts?\n"
                "{options}"
            ),
        ),
        Template(
            "carry_the_same",
            (
                "Report A: {sentence1}\nReport B: {sentence2}\nDo they carry the same "
                "information?\n"
                "{options}"
            ),
        ),
        Template(
            "essentially_the_same",
            (
                "{sentence2}\n\nDoes that say essentially the same as the sentence below?\n"
                "{sentence1}\n{options}"
            ),
        ),
        Template(
            "equivalent",
            (
                "Statement from the press: {sentence1}\nOther statement: {sentence2}\n{options}\n"
                "Are they equivalent?"
            ),
        ),
        Template("b_of_a", "A: {sentence1}\nB: {sentence2}\nIs B a paraphrase of A?\n{options}"),
        Template(
            "small_details_aside",
            "Small details aside, do the two sentences mean the same?\nSentence one: {sentence1}\n"
            "Sentence two: {sentence2}\n{options}",
        ),
        Template(
            "write_other_sentence",
            "Sentence: {sentence1}\nWrite another news sentence about this.\nIs it a paraphrase? "
            "{answer}\n"
            "Other sentence:",
            "{sentence2}",
            "inverted",
        ),
    ),
)


def _qqp_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    raw = {**raw, **{name: csv_field(raw[name]) for name in ("question1", "question2")}}
    return _pair_row(raw, "question1", "question2", mark="?")


GLUE_QQP = Dataset(
    name="glue_qqp",
    paper_dataset="QQP",
    cluster="paraphrase",
    tfds="glue/qqp:2.0.0",
    hub=Hub("nyu-mll/glue", "qqp"),
    license="LicenseRef-Quora-Terms",
    commercial=False,
    license_evidence="First Quora Dataset Release: Quora's Terms of Service, non-commercial use",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 363640},
    fields=("question1", "question2"),
    row=_qqp_row,
    options=_NO_YES,
    metrics=("accuracy", "f1"),
    templates=(
        Template(
            "same_thing_asked",
            (
                "Question A: {question1}\nQuestion B: {question2}\nDo both ask for the same "
                "thing?\n"
                "{options}"
            ),
        ),
        Template(
            "duplicate_post",
            (
                "On the site already: {question1}\nNewly posted: {question2}\nIs the new post a "
                "duplicate?\n{options}"
            ),
        ),
        Template(
            "one_answer_for_both",
            (
                "{options}\nWould one good answer serve both?\nFirst question: {question1}\nSecond "
                "question: {question2}"
            ),
        ),
        Template(
            "do_you_mean",
            "Asker: {question1}\nHelper: Do you mean this?\n{question2}\n{options}\nAsker:",
        ),
        Template(
            "search_hit",
            (
                "Searched for: {question2}\nFound: {question1}\nIs this the question I was looking "
                "for?\n{options}"
            ),
        ),
        Template(
            "second_redundant",
            "First: {question1}\nSecond: {question2}\nIs the second redundant?\n{options}",
        ),
        Template(
            "same_intent",
            "{question2}\n{question1}\nIs the intent behind these questions the same?\n{options}",
        ),
        Template(
            "thread_titles",
            (
                "Thread one: {question1}\nThread two: {question2}\n{options}\nCan the threads be "
                "merged?"
            ),
        ),
        Template(
            "only_wording_differs",
            (
                "Is the wording all that differs between these questions?\n{question1}\n"
                "{question2}\n"
                "{options}"
            ),
        ),
        Template(
            "write_other_question",
            "Question: {question1}\nWrite another question on the subject.\nIs it a duplicate of "
            "the first? {answer}\n"
            "Other question:",
            "{question2}",
            "inverted",
        ),
    ),
)

PAWS_WIKI = Dataset(
    name="paws_wiki",
    paper_dataset="PAWS",
    cluster="paraphrase",
    tfds="paws_wiki/labeled_final_raw:1.1.0",
    hub=Hub("google-research-datasets/paws", "labeled_final"),
    license="LicenseRef-PAWS",
    commercial=True,
    license_evidence=(
        "github.com/google-research-datasets/paws, LICENSE: any purpose, acknowledgment welcome"
    ),
    splits={"train": "train", "validation": "validation[:200]", "test": "test"},
    rows={"train": 49400},
    fields=("sentence1", "sentence2"),
    row=_pair_row,
    options=_NO_YES,
    metrics=("accuracy",),
    templates=(
        Template(
            "words_and_meaning",
            (
                "One: {sentence1}\nTwo: {sentence2}\nThe words are much the same. Is the meaning?\n"
                "{options}"
            ),
        ),
        Template(
            "another_way", "{sentence1}\n\nIs this another way to put it?\n{sentence2}\n{options}"
        ),
        Template(
            "options_first",
            "{options}\nMind the word order. Is the second sentence a faithful rewording of the "
            "first?\n{sentence1}\n"
            "{sentence2}",
        ),
        Template(
            "after_the_edit",
            "Before the edit: {sentence1}\nAfter the edit: {sentence2}\n"
            "Does the article still state the same facts?\n{options}",
        ),
        Template(
            "meaning_survives",
            "Given: {sentence1}\nRewritten: {sentence2}\nHas the meaning survived?\n{options}",
        ),
        Template(
            "notes_agree",
            (
                "Note 1: {sentence1}\nNote 2: {sentence2}\nDo the notes agree in every detail?\n"
                "{options}"
            ),
        ),
        Template(
            "revised",
            "Original: {sentence1}\nRevised: {sentence2}\nIs the meaning unchanged?\n{options}",
        ),
        Template(
            "who_what_where_when",
            "Is it the same who, what, where and when in both?\nSentence A: {sentence1}\nSentence "
            "B: {sentence2}\n"
            "{options}",
        ),
        Template(
            "interchangeable",
            "Are the following two statements interchangeable?\n{options}\nStatement one: "
            "{sentence1}\n"
            "Statement two: {sentence2}",
        ),
        Template(
            "reorder_words",
            "Sentence: {sentence1}\nMake a new sentence from nearly the same words.\nDoes it mean "
            "the same? {answer}\n"
            "New sentence:",
            "{sentence2}",
            "inverted",
        ),
    ),
)


def _stsb_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    score = float(raw["label"])
    pair = {name: _text(raw[name]) for name in ("sentence1", "sentence2")}
    if not 0 <= score <= 5:
        return Drop("no gold label")
    # Rounded half up, so that 2.5 is graded 3.
    return (
        {**pair, "label": math.floor(score + 0.5), "value": score}
        if all(pair.values())
        else Drop("empty text")
    )


STSB = Dataset(
    name="stsb",
    paper_dataset="STS-B",
    cluster="paraphrase",
    tfds="glue/stsb:2.0.0",
    hub=Hub("nyu-mll/glue", "stsb"),
    license="CC-BY-SA-4.0 AND LicenseRef-STS-texts",
    commercial=None,
    license_evidence=(
        "STSbenchmark LICENSE.txt: the scores; each text has terms of its own, such as MRPC's"
    ),
    splits={"train": "train[:-100]", "validation": "train[-100:]", "test": "validation"},
    rows={"train": 5640},
    fields=("sentence1", "sentence2"),
    row=_stsb_row,
    options=_GRADES,
    metrics=("pearson", "spearman"),
    templates=(
        Template(
            "score_this_pair",
            "Score this pair of sentences from 0 (nothing to do with each other) to 5 (same "
            "meaning).\n"
            "Sentence 1: {sentence1}\nSentence 2: {sentence2}\n{options}",
        ),
        Template(
            "how_close",
            (
                "{sentence1}\n{sentence2}\nHow close in meaning, from 0 for nothing shared to 5 "
                "for identical?\n{options}"
            ),
        ),
        Template(
            "options_then_grade",
            "{options}\nGrade the similarity: 5 is equivalent, 0 is no overlap.\nFirst text: "
            "{sentence1}\n"
            "Second text: {sentence2}",
        ),
        Template(
            "semantic_similarity",
            (
                "Left: {sentence1}\nRight: {sentence2}\nSemantic similarity (0 lowest, 5 "
                "highest):\n"
                "{options}"
            ),
        ),
        Template(
            "likeness",
            "How alike in meaning are these, out of 5?\n{sentence1}\n{sentence2}\n{options}",
        ),
        Template(
            "numbered", "1. {sentence1}\n2. {sentence2}\n{options}\nSimilarity of meaning, 0 to 5:"
        ),
        Template(
            "match_quality",
            (
                "Query: {sentence1}\nResult: {sentence2}\nHow good is the match, 5 being perfect "
                "and 0 none?\n{options}"
            ),
        ),
        Template(
            "share_of_meaning",
            "Text A: {sentence1}\nText B: {sentence2}\n{options}\n"
            "Which score from 0 to 5 says how much meaning they share?",
        ),
        Template(
            "in_common",
            "This: {sentence1}\nThat: {sentence2}\n"
            "How much do their meanings have in common, from 0, nothing, to 5, everything?\n"
            "{options}",
        ),
        Template(
            "write_at_similarity",
            "Sentence: {sentence1}\nWrite a second sentence.\n"
            "Similarity to the first in meaning, from 0 to 5: {answer}\nSecond sentence:",
            "{sentence2}",
            "inverted",
        ),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (GLUE_MRPC, GLUE_QQP, PAWS_WIKI, STSB)
