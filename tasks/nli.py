"""Natural language inference: does a second text follow from a first one?

The label order differs between the datasets: CB has contradiction before neutral, and WNLI has its
negative class first. Three-way questions are put so that 'no' means "it is false" and never "it is
not shown".
"""

import re
from typing import Any

from flan_jax.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import detokenized, ended, labeled, one_line


def _clean(text: str, mark: str = ".") -> str:
    """The text as people write it, with a mark at its end."""
    return ended(detokenized(text.replace("&amp;", "&")), mark)


def _anli_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    # What markup has left: tags such as <nowiki>, the arguments {'1': ", '2': ...} of a lost macro,
    # marks of steps.
    context = re.sub(r"</?(?:nowiki|ref)\b[^>]*>|\{'1':[^}]*\}|\[substeps\]", "", raw["context"])
    parts = [_clean(part) for part in re.split(r"<br\s*/?>", context, flags=re.IGNORECASE)]
    context = "\n".join(part for part in parts if part)
    return labeled(raw["label"], 3, context=context, hypothesis=one_line(_clean(raw["hypothesis"])))


def _cb_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    """CB's hypothesis is a clause without full stop and 'that', which one row has before a name."""
    hypothesis = re.sub(r"^that (?=[A-Z])", "", detokenized(raw["hypothesis"])).rstrip(".")
    return labeled(raw["label"], 3, premise=_clean(raw["premise"]), hypothesis=hypothesis)


def _rte_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return labeled(
        raw["label"], 2, premise=_clean(raw["premise"]), hypothesis=_clean(raw["hypothesis"])
    )


def _three_way_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return labeled(
        raw["label"], 3, premise=_clean(raw["premise"]), hypothesis=_clean(raw["hypothesis"])
    )


def _qnli_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return labeled(
        raw["label"], 2, question=_clean(raw["question"], "?"), sentence=_clean(raw["sentence"])
    )


def _wnli_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return labeled(
        raw["label"], 2, sentence1=_clean(raw["sentence1"]), sentence2=_clean(raw["sentence2"])
    )


_ANLI_TEMPLATES = (
    Template(
        "claim_check",
        "{context}\n\nClaim: {hypothesis}\nIs the claim true, according to the text?\n{options}",
    ),
    Template(
        "question_first",
        "Is the statement at the end true, given what the paragraph says?\n\nParagraph: "
        "{context}\n\n"
        "Statement: {hypothesis}\n{options}",
    ),
    Template(
        "correct_by_this_text",
        "Statement: {hypothesis}\n\nIs it correct? Go by this text only.\n{context}\n{options}",
    ),
    Template("is_this_so", "{context}\n\nIs this so?\n{hypothesis}\n{options}"),
    Template(
        "assertion_right",
        "{options}\n\nIs the assertion right? Use nothing but the document.\n\nDocument: "
        "{context}\n\n"
        "Assertion: {hypothesis}",
    ),
    Template(
        "fact_check",
        (
            "Source: {context}\n\nTo be fact-checked: {hypothesis}\n\nIs it factually correct?\n"
            "{options}"
        ),
    ),
    Template(
        "take_as_given",
        (
            "Take this passage as given:\n{context}\n\nIs the following true, then?\n{hypothesis}\n"
            "{options}"
        ),
    ),
    Template(
        "notes_correct",
        (
            "From my notes: {hypothesis}\nFrom what I read: {context}\nAre my notes correct?\n"
            "{options}"
        ),
    ),
    Template(
        "tricky_wording",
        "Careful, the wording can mislead.\n\nPassage: {context}\n\nStatement: {hypothesis}\n"
        "{options}\n"
        "Is the statement true?",
    ),
    Template(
        "accurate_by_excerpt",
        (
            "{hypothesis}\n{options}\n\nIs that accurate, judging by the excerpt?\n\nExcerpt: "
            "{context}"
        ),
    ),
    Template(
        "new_statement",
        "Passage: {context}\n\nWrite a statement about the passage.\n"
        "Is it true, according to the passage? {answer}\n\nStatement:",
        "{hypothesis}",
        "inverted",
    ),
    Template(
        "exam_item",
        "Text for an exam: {context}\n\nMake up a sentence to be checked against it.\n"
        'Correct answer to "Is the sentence true?": {answer}\n\nSentence:',
        "{hypothesis}",
        "inverted",
    ),
)


def _anli(number: int, rows: int) -> Dataset:
    return Dataset(
        name=f"anli_r{number}",
        paper_dataset="ANLI (R1-R3)",
        cluster="nli",
        tfds=f"anli/r{number}:0.1.0",
        hub=Hub(
            "facebook/anli",
            "plain_text",
            rename={"context": "premise"},
            splits={
                ours: f"{theirs}_r{number}"
                for ours, theirs in (("train", "train"), ("validation", "dev"), ("test", "test"))
            },
        ),
        license="CC-BY-NC-4.0",
        commercial=False,
        license_evidence="github.com/facebookresearch/anli, LICENSE",
        splits={"train": "train", "validation": "validation[:200]", "test": "test"},
        rows={"train": rows},
        fields=("context", "hypothesis"),
        row=_anli_row,
        options=("yes", "it is impossible to say", "no"),  # entailment, neutral, contradiction
        templates=_ANLI_TEMPLATES,
        metrics=("accuracy",),
    )


ANLI_R1 = _anli(1, 16_940)
ANLI_R2 = _anli(2, 45_460)
ANLI_R3 = _anli(3, 100_450)


CB = Dataset(
    name="cb",
    paper_dataset="CB",
    cluster="nli",
    tfds="super_glue/cb:1.0.2",
    hub=Hub("aps/super_glue", "cb"),
    license="NOASSERTION",
    commercial=None,
    license_evidence=(
        "SuperGLUE paper, section 3: may be used and passed on for research; no license of its own"
    ),
    splits={"train": "train[:-50]", "validation": "train[-50:]", "test": "validation"},
    rows={"train": 200},
    fields=("premise", "hypothesis"),
    row=_cb_row,
    options=("yes", "no", "it is impossible to say"),  # entailment, contradiction, neutral
    metrics=("accuracy", "macro_f1"),
    templates=(
        Template(
            "judging_by_words",
            '{premise}\n\nJudging by these words, is it the case that "{hypothesis}"?\n{options}',
        ),
        Template(
            "discourse",
            "Discourse: {premise}\nClause: {hypothesis}\nIs the clause true?\n{options}",
        ),
        Template(
            "claim_then_evidence",
            "Claim: {hypothesis}\nAll there is to go by: {premise}\nIs the claim right?\n{options}",
        ),
        Template("options_then_clause", "{options}\n\nIs it so?\n{hypothesis}\n\nQuote: {premise}"),
        Template(
            "am_i_correct",
            (
                'Am I correct that "{hypothesis}", going by the excerpt?\n{options}\n\nExcerpt: '
                "{premise}"
            ),
        ),
        Template(
            "take_their_word",
            (
                "{premise}\n\nTaking whoever said that at their word, is this true?\n{hypothesis}\n"
                "{options}"
            ),
        ),
        Template(
            "extract_answers",
            'The question is whether "{hypothesis}". What does the extract say to that?\n\n'
            "Extract: {premise}\n"
            "{options}",
        ),
        Template(
            "holds_here", "Situation: {premise}\nDoes this hold in it?\n{hypothesis}\n{options}"
        ),
        Template(
            "correct_remark",
            (
                "Passage: {premise}\nRemark on the passage: {hypothesis}\n{options}\nIs the remark "
                "correct?"
            ),
        ),
        Template(
            "would_be_right",
            'Going by the lines below, is it right that "{hypothesis}"?\n\n{premise}\n{options}',
        ),
        Template(
            "clause_from_passage",
            "Passage: {premise}\n\nState something that is said, asked, doubted or supposed here, "
            "as a clause.\n"
            "Is it true, going by the passage? {answer}\n\nClause:",
            "{hypothesis}",
            "inverted",
        ),
    ),
)


RTE = Dataset(
    name="rte",
    paper_dataset="RTE",
    cluster="nli",
    tfds="super_glue/rte:1.0.2",
    hub=Hub("aps/super_glue", "rte"),
    license="NOASSERTION",
    commercial=None,
    license_evidence=(
        "SuperGLUE paper, section 3: may be used and passed on for research; no license of its own"
    ),
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 2_290},
    fields=("premise", "hypothesis"),
    row=_rte_row,
    options=("yes", "no"),  # entailment, not_entailment
    metrics=("accuracy",),
    templates=(
        Template(
            "enough_to_be_sure",
            "{premise}\n\nIs that enough to be sure of the following?\n{hypothesis}\n{options}",
        ),
        Template(
            "headline",
            (
                "Report: {premise}\nHeadline: {hypothesis}\nDoes the report bear out the "
                "headline?\n"
                "{options}"
            ),
        ),
        Template(
            "snippet_confirms",
            "{hypothesis}\n\nDoes this snippet confirm it?\n{premise}\n{options}",
        ),
        Template(
            "is_it_entailed",
            "Text: {premise}\nHypothesis: {hypothesis}\nIs it entailed?\n{options}",
        ),
        Template(
            "options_then_conclusion",
            "{options}\n\nDoes the conclusion follow from the passage?\n\nPassage: {premise}\n\n"
            "Conclusion: {hypothesis}",
        ),
        Template(
            "essay_sentence",
            "Student: The newspaper has this: {premise}\nMy essay has this: {hypothesis}\n"
            "Does mine follow from theirs?\n{options}\nTeacher:",
        ),
        Template(
            "must_be_true_too",
            "If the first text is true, must the second be true too?\n\nFirst text: {premise}\n"
            "Second text: {hypothesis}\n{options}",
        ),
        Template(
            "dispatch_contains",
            (
                "Dispatch: {premise}\n\nIs the information below in the dispatch?\n{hypothesis}\n"
                "{options}"
            ),
        ),
        Template(
            "backed_by_source",
            "Source text: {premise}\n\nOne-line version: {hypothesis}\n\n"
            "Is everything in the one-line version backed by the source?\n{options}",
        ),
        Template(
            "evidence_for",
            (
                "Sentence that needs a source: {hypothesis}\n{options}\nCan the lines below be "
                "cited for it?\n{premise}"
            ),
        ),
        Template(
            "write_sentence",
            (
                "Text: {premise}\n\nWrite one more sentence.\nDoes it follow from the text? "
                "{answer}\n"
                "\nSentence:"
            ),
            "{hypothesis}",
            "inverted",
        ),
    ),
)


_MNLI_TEMPLATES = (
    Template(
        "premise_hypothesis",
        (
            "Premise: {premise}\nHypothesis: {hypothesis}\nTaking the premise as true, is the "
            "hypothesis true?\n{options}"
        ),
    ),
    Template(
        "second_right_too",
        (
            "First line: {premise}\nSecond line: {hypothesis}\nThe first is right. Is the second?\n"
            "{options}"
        ),
    ),
    Template("all_you_know", "Is this true?\n{hypothesis}\n\nAll you know: {premise}\n{options}"),
    Template(
        "sentence_one_given",
        "{options}\n\nGiven sentence one, is sentence two true?\n\nSentence one: {premise}\n"
        "Sentence two: {hypothesis}",
    ),
    Template(
        "remark_on_note",
        (
            "Is the remark true, as far as the note goes?\n{options}\n\nNote: {premise}\nRemark: "
            "{hypothesis}"
        ),
    ),
    Template(
        "the_case", "{premise}\n\nIn that situation, is this the case?\n{hypothesis}\n{options}"
    ),
    Template(
        "interpretation",
        "Source: {premise}\nInterpretation: {hypothesis}\nIs the interpretation right?\n{options}",
    ),
    Template("a_and_b", "A: {premise}\nB: {hypothesis}\nTrusting A, is B right?\n{options}"),
    Template(
        "does_it_hold", "Known: {premise}\nTo be checked: {hypothesis}\nDoes it hold?\n{options}"
    ),
    Template(
        "believe_the_first",
        "1. {premise}\n2. {hypothesis}\n{options}\nIf you believe 1, is 2 correct?",
    ),
    Template(
        "sentence_two",
        (
            "Sentence one: {premise}\nGiven sentence one, is sentence two true? {answer}\n\nWhat "
            "might sentence two be?"
        ),
        "{hypothesis}",
        "inverted",
    ),
)


def _mnli(kind: str, shares_training_with: str | None) -> Dataset:
    return Dataset(
        name=f"mnli_{kind}",
        paper_dataset="MNLI (m/mm)",
        cluster="nli",
        tfds="glue/mnli:2.0.0",
        hub=Hub("nyu-mll/glue", "mnli"),
        license="LicenseRef-OANC AND CC-BY-3.0 AND CC-BY-SA-3.0",
        commercial=True,
        license_evidence=(
            "MultiNLI paper, section 2.4: OANC's terms, fiction under CC BY 3.0 and CC BY-SA 3.0"
        ),
        splits={
            "train": "train[:-200]",
            "validation": "train[-200:]",
            "test": f"validation_{kind}",
        },
        rows={"train": 392_500},
        fields=("premise", "hypothesis"),
        row=_three_way_row,
        options=("yes", "it is not possible to tell", "no"),  # entailment, neutral, contradiction
        templates=_MNLI_TEMPLATES,
        metrics=("accuracy",),
        shares_training_with=shares_training_with,
    )


MNLI_MATCHED, MNLI_MISMATCHED = _mnli("matched", None), _mnli("mismatched", "mnli_matched")


QNLI = Dataset(
    name="qnli",
    paper_dataset="QNLI",
    cluster="nli",
    tfds="glue/qnli:2.0.0",
    hub=Hub("nyu-mll/glue", "qnli"),
    license="CC-BY-SA-4.0",
    commercial=True,
    license_evidence="made of SQuAD 1.1, rajpurkar.github.io/SQuAD-explorer",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 104_540},
    fields=("question", "sentence"),
    row=_qnli_row,
    options=("yes", "no"),  # entailment: the sentence holds the answer; not_entailment: it does not
    metrics=("accuracy",),
    templates=(
        Template(
            "question_then_sentence",
            "Question: {question}\nSentence: {sentence}\nDoes the sentence contain the answer to "
            "the question?\n"
            "{options}",
        ),
        Template(
            "does_it_tell_us",
            "Line from an encyclopedia: {sentence}\nDoes it tell us this?\n{question}\n{options}",
        ),
        Template(
            "result_settles_query",
            (
                "Search query: {question}\nTop result: {sentence}\nDoes this result settle the "
                "query?\n{options}"
            ),
        ),
        Template(
            "know_after_reading",
            "{question}\n\nWould you know after reading only this?\n{sentence}\n{options}",
        ),
        Template("q_in_s", "S: {sentence}\nQ: {question}\nIs Q answered in S?\n{options}"),
        Template(
            "options_then_source",
            (
                "{options}\n\nCan this be answered from the source alone?\n\nAsked: {question}\n"
                "Source: {sentence}"
            ),
        ),
        Template(
            "really_there",
            "Wanted: {question}\nFound: {sentence}\nIs what is wanted really there, and not just "
            "the same topic?\n"
            "{options}",
        ),
        Template(
            "back_answers_front",
            (
                "Front of a quiz card: {question}\nBack: {sentence}\nDoes the back answer the "
                "front?\n"
                "{options}"
            ),
        ),
        Template(
            "underlined_sentence",
            "Exercise: {question}\nUnderlined in the text: {sentence}\nHas the right sentence "
            "been underlined?\n"
            "{options}",
        ),
        Template(
            "missing_fact",
            (
                "Is the missing fact in this sentence?\n{sentence}\n{options}\nMissing fact: "
                "{question}"
            ),
        ),
        Template(
            "new_question",
            "Sentence: {sentence}\n\nWrite a question on the same subject.\nDoes the sentence "
            "answer it? {answer}\n\n"
            "Question:",
            "{question}",
            "inverted",
        ),
    ),
)


WNLI = Dataset(
    name="wnli",
    paper_dataset="WNLI",
    cluster="nli",
    tfds="glue/wnli:2.0.0",
    hub=Hub("nyu-mll/glue", "wnli"),
    license="CC-BY-4.0",
    commercial=True,
    license_evidence=(
        "made of the Winograd schemas, cs.nyu.edu/~davise/papers/WinogradSchemas/WS.html"
    ),
    splits={"train": "train[:-30]", "validation": "train[-30:]", "test": "validation"},
    rows={"train": 600},
    fields=("sentence1", "sentence2"),
    row=_wnli_row,
    options=("no", "yes"),  # not_entailment, entailment
    metrics=("accuracy",),
    templates=(
        Template(
            "retold_in_part",
            (
                "{sentence1}\n\nRetold in part: {sentence2}\nWas the text understood correctly?\n"
                "{options}"
            ),
        ),
        Template(
            "pronoun_filled_in",
            (
                "Original: {sentence1}\nPronoun filled in: {sentence2}\nIs this the right "
                "reading?\n"
                "{options}"
            ),
        ),
        Template(
            "what_it_means",
            "{sentence2}\n\nIs that what the text below means?\n\nText: {sentence1}\n{options}",
        ),
        Template(
            "example_sentence",
            (
                "Example: {sentence1}\nWhat it is taken to mean: {sentence2}\nIs that correct?\n"
                "{options}"
            ),
        ),
        Template(
            "options_then_lines",
            "{options}\n\nDoes the second line follow from a sensible reading of the first?\n\n"
            "First line: {sentence1}\nSecond line: {sentence2}",
        ),
        Template(
            "sensible_interpretation",
            "Passage: {sentence1}\nInterpretation: {sentence2}\nDoes common sense support the "
            "interpretation?\n"
            "{options}",
        ),
        Template(
            "next_sentence_true",
            (
                "Short story: {sentence1}\n\nIs the next sentence true in the story?\n{options}\n"
                "{sentence2}"
            ),
        ),
        Template(
            "right_noun",
            "Has the right noun been put for the pronoun?\n\nWith pronoun: {sentence1}\nWith "
            "noun: {sentence2}\n"
            "{options}",
        ),
        Template(
            "author_agrees",
            "{sentence1}\n\nWould the author agree with the following?\n{sentence2}\n{options}",
        ),
        Template(
            "fact_extracted",
            (
                "Input: {sentence1}\nFact extracted: {sentence2}\nWas the fact extracted "
                "properly?\n"
                "{options}"
            ),
        ),
        Template(
            "noun_for_pronoun",
            "Text: {sentence1}\n\nState part of this with a noun for the unclear word.\n"
            "Does it say what the text means? {answer}\n\nShort sentence:",
            "{sentence2}",
            "inverted",
        ),
    ),
)


SNLI = Dataset(
    name="snli",
    paper_dataset="SNLI",
    cluster="nli",
    tfds="snli:1.1.0",
    hub=Hub("stanfordnlp/snli", "plain_text"),
    license="CC-BY-SA-4.0",
    commercial=True,
    license_evidence="nlp.stanford.edu/projects/snli",
    splits={"train": "train", "validation": "validation[:200]", "test": "test"},
    rows={"train": 549_360},
    fields=("premise", "hypothesis"),
    row=_three_way_row,
    options=("yes", "it is not possible to tell", "no"),  # entailment, neutral, contradiction
    metrics=("accuracy",),
    templates=(
        Template(
            "true_of_photo",
            "Caption of a photo: {premise}\nIs this true of the photo?\n{hypothesis}\n{options}",
        ),
        Template(
            "guess_unseen",
            "In the picture: {premise}\nGuess by somebody who cannot see it: {hypothesis}\nIs the "
            "guess right?\n"
            "{options}",
        ),
        Template(
            "onlooker",
            (
                "Statement: {hypothesis}\nWhat an onlooker saw: {premise}\nIs the statement true?\n"
                "{options}"
            ),
        ),
        Template(
            "options_then_scene",
            "{options}\n\nDoes this hold in the scene below?\n{hypothesis}\n\nScene: {premise}",
        ),
        Template(
            "remark_true",
            (
                "Description: {premise}\nRemark on the same moment: {hypothesis}\nIs the remark "
                "true?\n{options}"
            ),
        ),
        Template("terse", "Scene: {premise}\nIs it so?\n{hypothesis}\n{options}"),
        Template(
            "comment_correct",
            (
                "Image description: {premise}\nComment on the image: {hypothesis}\nIs the comment "
                "correct?\n{options}"
            ),
        ),
        Template(
            "line_added", "{premise}\n\nIs the line below true of that?\n{options}\n{hypothesis}"
        ),
        Template(
            "true_at_that_moment",
            (
                "Camera log: {premise}\nWas the following true at that moment?\n{hypothesis}\n"
                "{options}"
            ),
        ),
        Template(
            "what_is_going_on",
            "First: {premise}\nSecond: {hypothesis}\nIs the second right about what is going on "
            "in the first?\n"
            "{options}",
        ),
        Template(
            "write_about_photo",
            "What a photo shows: {premise}\n\nWrite a sentence about the same photo.\n"
            "Is it true, going by the words above? {answer}\n\nSentence:",
            "{hypothesis}",
            "inverted",
        ),
        Template(
            "caption_for_sentence",
            "Sentence: {hypothesis}\n\nWrite a photo caption.\n"
            "Going by the caption, is the sentence true? {answer}\n\nCaption:",
            "{premise}",
            "inverted",
        ),
    ),
)


# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (ANLI_R1, ANLI_R2, ANLI_R3, CB, RTE, MNLI_MATCHED, MNLI_MISMATCHED, QNLI, WNLI, SNLI)
