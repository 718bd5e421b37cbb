"""Paraphrase: do two texts mean the same, and how nearly?

MRPC (news sentences), QQP (questions of a forum) and PAWS (encyclopedia sentences with almost the same words) ask
for yes or no. STS-B asks for a grade from 0 to 5; its raw score is kept as `value` for the correlations.
"""

import math

from flan_jax.data.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import csv_field, detokenised, ended, labelled, one_line

_NO_YES = ("no", "yes")
_GRADES = ("0", "1", "2", "3", "4", "5")


def _text(text, mark="."):
    """One of two texts, which are tokenised in some of the sources."""
    return ended(one_line(detokenised(text)), mark)


def _pair_row(raw, first="sentence1", second="sentence2", mark="."):
    """The row of two texts with a class id, or why it cannot be used."""
    return labelled(raw["label"], 2, **{name: _text(raw[name], mark) for name in (first, second)})


GLUE_MRPC = Dataset(
    name="glue_mrpc",
    paper_dataset="MRPC",
    cluster="paraphrase",
    tfds="glue/mrpc:2.0.0",
    hub=Hub("nyu-mll/glue", "mrpc"),
    licence="LicenseRef-MSR-SSLA",
    commercial=False,
    licence_evidence="Microsoft Research Shared Source License Agreement, in the download: non-commercial",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 3460},
    fields=("sentence1", "sentence2"),
    row=_pair_row,
    options=_NO_YES,
    metrics=("accuracy", "f1"),
    templates=(
        Template(
            "question_last",
            "Sentence 1: {sentence1}\nSentence 2: {sentence2}\nDo these two sentences say the same thing?\n{options}"),
        Template(
            "agency_and_newspaper",
            "A news agency sent out this line: {sentence1} A newspaper then printed this: {sentence2} Is the printed "
            "line equivalent in meaning to the one that was sent?\n{options}"),
        Template(
            "options_first",
            "{options}\nIs one of these news sentences a paraphrase of the other?\n"
            "First: {sentence1}\nSecond: {sentence2}"),
        Template(
            "newsroom_talk",
            "Intern: One paper writes: {sentence1}\nEditor: And what does the other paper write?\n"
            "Intern: {sentence2}\nEditor: Do they report the same facts?\n{options}"),
        Template(
            "merge_reports",
            "A news feed merges two reports when they carry the same information. Should it merge these?\n"
            "Report A: {sentence1}\nReport B: {sentence2}\n{options}"),
        Template(
            "stand_in",
            "Consider this sentence: {sentence2} Could it stand in for the next one without a reader missing or "
            "gaining any important fact? {sentence1}\n{options}"),
        Template(
            "options_middle",
            "Compare two statements from the press. One reads: {sentence1} The other reads: {sentence2}\n{options}\n"
            "Are they equivalent?"),
        Template("terse", "A: {sentence1}\nB: {sentence2}\nParaphrase, yes or no?\n{options}"),
        Template(
            "check_the_claim",
            "It is claimed that the two quotations from news stories below differ in wording only and not in "
            "content. Is the claim true?\nQuotation one: {sentence1}\nQuotation two: {sentence2}\n{options}"),
        Template(
            "write_second_sentence",
            "Write another news sentence about the events in this one: {sentence1}\n"
            "Should the new sentence be a paraphrase of it? The answer is {answer}.",
            "{sentence2}",
            "inverted"),
    ),
)


def _qqp_row(raw):
    raw = {**raw, **{name: csv_field(raw[name]) for name in ("question1", "question2")}}
    return _pair_row(raw, "question1", "question2", mark="?")


GLUE_QQP = Dataset(
    name="glue_qqp",
    paper_dataset="QQP",
    cluster="paraphrase",
    tfds="glue/qqp:2.0.0",
    hub=Hub("nyu-mll/glue", "qqp"),
    licence="LicenseRef-Quora-Terms",
    commercial=False,
    licence_evidence="First Quora Dataset Release: Quora's Terms of Service, non-commercial use",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 363640},
    fields=("question1", "question2"),
    row=_qqp_row,
    options=_NO_YES,
    metrics=("accuracy", "f1"),
    templates=(
        Template(
            "same_thing_asked",
            "Question A: {question1}\nQuestion B: {question2}\nDo both ask for the same thing?\n{options}"),
        Template(
            "forum_moderator",
            "You moderate a question-and-answer site. Already on the site: {question1} Newly posted: {question2} "
            "Should the new post be closed as a duplicate?\n{options}"),
        Template(
            "options_first",
            "{options}\nWould one good answer satisfy both of these people?\n"
            "First person: {question1}\nSecond person: {question2}"),
        Template(
            "asker_and_helper",
            "Asker: {question1}\nHelper: A moment ago somebody wanted to know this: {question2}\n"
            "Asker: Is that my question in other words?\n{options}"),
        Template(
            "help_page",
            "A help page has an entry called \"{question1}\" and a visitor types \"{question2}\" into its search "
            "box. Is the entry what the visitor is looking for?\n{options}"),
        Template(
            "terse",
            "Duplicate questions, yes or no?\nFirst question: {question1}\nSecond question: {question2}\n{options}"),
        Template(
            "look_at_intent",
            "Set the wording aside and look at the intent. Do the questions \"{question2}\" "
            "and \"{question1}\" seek the same information?\n{options}"),
        Template(
            "merge_threads",
            "Two threads on a forum have these titles. Thread one: {question1} Thread two: {question2}\n{options}\n"
            "Can the threads be merged without anybody's question going unanswered?"),
        Template(
            "is_it_true",
            "Decide whether it is true that these questions mean the same: \"{question1}\" and \"{question2}\"\n"
            "{options}"),
        Template(
            "write_another_question",
            "Somebody asked this on a forum: {question1}\nWrite another question on the subject. "
            "Is it to be a duplicate of the first one? The answer is {answer}.",
            "{question2}",
            "inverted"),
    ),
)

PAWS_WIKI = Dataset(
    name="paws_wiki",
    paper_dataset="PAWS",
    cluster="paraphrase",
    tfds="paws_wiki/labeled_final_raw:1.1.0",
    hub=Hub("google-research-datasets/paws", "labeled_final"),
    licence="LicenseRef-PAWS",
    commercial=True,
    licence_evidence="github.com/google-research-datasets/paws, LICENSE: any purpose, acknowledgement welcome",
    splits={"train": "train", "validation": "validation[:200]", "test": "test"},
    rows={"train": 49400},
    fields=("sentence1", "sentence2"),
    row=_pair_row,
    options=_NO_YES,
    metrics=("accuracy",),
    templates=(
        Template(
            "shared_words",
            "These sentences share nearly all of their words. Do they share their meaning too?\n"
            "One: {sentence1}\nTwo: {sentence2}\n{options}"),
        Template(
            "another_way_to_say",
            "Suppose we know this: {sentence1} Is the following just another way to say it? {sentence2}\n{options}"),
        Template(
            "options_first",
            "{options}\nMind the word order. Is the second sentence a faithful rewording of the first?\n"
            "{sentence1}\n{sentence2}"),
        Template(
            "encyclopedia_edit",
            "An encyclopedia article contains the sentence: {sentence1} A volunteer wants to replace it with: "
            "{sentence2} Would the article still state the same facts?\n{options}"),
        Template(
            "teacher_and_pupil",
            "Teacher: I took this sentence: {sentence1}\nTeacher: And I turned it into this one: {sentence2}\n"
            "Pupil: Has the meaning survived?\n{options}"),
        Template(
            "two_notes",
            "Lena and Omar took notes on the same book. Lena wrote: {sentence1} Omar wrote: {sentence2} Do their "
            "notes tell us exactly the same thing?\n{options}"),
        Template("terse", "Original: {sentence1}\nRearranged: {sentence2}\nSame meaning, yes or no?\n{options}"),
        Template(
            "who_did_what",
            "Check who did what, where and when, first in sentence A and then in sentence B.\n"
            "Sentence A: {sentence1}\nSentence B: {sentence2}\nDo all these details agree?\n{options}"),
        Template(
            "interchangeable",
            "Are the following two statements interchangeable?\n{options}\n"
            "Statement one: {sentence1}\nStatement two: {sentence2}"),
        Template(
            "reuse_the_words",
            "Write a new sentence that reuses almost all the words of this one: {sentence1}\n"
            "Is the meaning to stay the same? The answer is {answer}.",
            "{sentence2}",
            "inverted"),
    ),
)


def _stsb_row(raw):
    score = float(raw["label"])
    pair = {name: _text(raw[name]) for name in ("sentence1", "sentence2")}
    if not 0 <= score <= 5:
        return Drop("no gold label")
    # Rounded half up, so that 2.5 is graded 3.
    return {**pair, "label": math.floor(score + 0.5), "value": score} if all(pair.values()) else Drop("empty text")


STSB = Dataset(
    name="stsb",
    paper_dataset="STS-B",
    cluster="paraphrase",
    tfds="glue/stsb:2.0.0",
    hub=Hub("nyu-mll/glue", "stsb"),
    licence="CC-BY-SA-4.0 AND LicenseRef-STS-texts",
    commercial=None,
    licence_evidence="STSbenchmark LICENSE.txt: the scores; each text has terms of its own, such as MRPC's",
    splits={"train": "train[:-100]", "validation": "train[-100:]", "test": "validation"},
    rows={"train": 5640},
    fields=("sentence1", "sentence2"),
    row=_stsb_row,
    options=_GRADES,
    metrics=("pearson", "spearman"),
    templates=(
        Template(
            "scale_question",
            "On a scale from 0 (unrelated) to 5 (same meaning), how similar are these sentences?\n"
            "Sentence 1: {sentence1}\nSentence 2: {sentence2}\n{options}"),
        Template(
            "rate_the_pair",
            "Compare this: {sentence1}\nWith this: {sentence2}\nRate from 0, for nothing shared, to 5, for full "
            "agreement, how close they are in meaning.\n{options}"),
        Template(
            "options_first",
            "{options}\nGrade the similarity of two texts, where 5 stands for full equivalence and 0 for no overlap "
            "at all.\nFirst text: {sentence1}\nSecond text: {sentence2}"),
        Template(
            "annotator_rules",
            "You are an annotator with these rules: 5 for sentences that mean the same, 4 if only minor details "
            "differ, 3 if something important differs, 2 if just a few details are shared, 1 if only the topic is, "
            "and 0 if nothing is. Which grade does this pair get?\nLeft: {sentence1}\nRight: {sentence2}\n{options}"),
        Template(
            "card_game",
            "Player: My first card says: {sentence1}\nPlayer: My second card says: {sentence2}\n"
            "Referee: Between 0 and 5 points are given for likeness of meaning. How many are these cards worth?\n"
            "{options}"),
        Template("terse", "Similarity from 0 to 5 of \"{sentence1}\" and \"{sentence2}\":\n{options}"),
        Template(
            "search_engine",
            "A search engine has to know how well \"{sentence1}\" and \"{sentence2}\" match in meaning, with 5 for a "
            "perfect match and 0 for none at all. What is a fair number?\n{options}"),
        Template(
            "options_middle",
            "Weigh the meaning of two short texts, not their words.\nText A: {sentence1}\nText B: {sentence2}\n"
            "{options}\nWhich whole number from 0 to 5, where 5 is identical meaning, measures how close they are?"),
        Template(
            "two_speakers",
            "One speaker put it like this: {sentence1} Another put it like this: {sentence2} From 0, when "
            "they speak of entirely different things, to 5, when they say the same in other words, how well do they "
            "agree?\n{options}"),
        Template(
            "write_at_distance",
            "Reference sentence: {sentence1} Write a sentence whose similarity in meaning to it is {answer}, on a "
            "scale that runs from 0 (nothing in common) to 5 (equivalent).",
            "{sentence2}",
            "inverted"),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (GLUE_MRPC, GLUE_QQP, PAWS_WIKI, STSB)
