"""Reading comprehension: BoolQ, DROP, MultiRC, OpenBookQA, SQuAD 1.1 and 2.0."""

import html
import re
from typing import Any

from flan_jax.catalogue import FROM_ROW, Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import column, detokenized, distinct, ended, lines, one_line

# What a SQuAD 2.0 question without an answer in its text is answered with; the templates announce
# it.
UNANSWERABLE = "unanswerable"


# BoolQ


def _bool_q_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    """Questions are lower case without question mark: it, the first letter and 'I' are restored."""
    question = re.sub(r"\bi\b", "I", one_line(detokenized(raw["question"])).rstrip(" ?."))
    passage = detokenized(raw["passage"])
    if not question or not passage:
        return Drop("empty text")
    return {
        "title": one_line(raw["title"]),
        "passage": passage,
        "question": question[0].upper() + question[1:] + "?",
        "label": int(raw["answer"]),
    }


def _bool_q_hub_row(raw: dict[str, Any]) -> dict[str, Any]:
    """SuperGLUE's copy, the only one on the hub with titles, begins passages with 'Title -- '."""
    title, _, passage = raw["passage"].partition(" -- ")
    return {**raw, "title": title, "passage": passage, "answer": raw["label"]}


BOOL_Q = Dataset(
    name="bool_q",
    paper_dataset="BoolQ",
    cluster="reading_comprehension",
    tfds="bool_q:1.0.0",
    hub=Hub("aps/super_glue", "boolq", row=_bool_q_hub_row),
    license="CC-BY-SA-3.0",
    commercial=True,
    license_evidence="github.com/google-research-datasets/boolean-questions",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 9220},
    fields=("title", "passage", "question"),
    evidence=("passage", "question"),
    options=("no", "yes"),
    row=_bool_q_row,
    metrics=("accuracy",),
    templates=(
        Template("readers_question", "{passage}\n\nReader's question: {question}\n{options}"),
        Template("by_this_passage", "{passage}\n\nGoing by this passage: {question}\n{options}"),
        Template(
            "question_above", "{question}\n{options}\n\nThe passage to answer from:\n{passage}"
        ),
        Template(
            "article_label",
            "Article: {title}\n{passage}\n\nQuestion: {question}\n{options}\nAnswer:",
        ),
        Template("terse", "Passage: {passage}\nYes/no question: {question}\n{options}"),
        Template(
            "this_text_alone",
            "Answer from this text alone, even if you know better.\n\n{passage}\n\n"
            "{question}\n{options}",
        ),
        Template(
            "options_above", "{options}\n\n{question}\nThe answer is in this excerpt:\n{passage}"
        ),
        Template(
            "looked_up",
            "I looked this up: {question}\nThis is what I found.\n{passage}\n\nSo what is the "
            "answer?\n{options}",
        ),
        Template(
            "write_yes_no_question",
            'Write a yes/no question on this passage. Its answer must be "{answer}".\n\n{passage}',
            "{question}",
            "inverted",
        ),
        Template(
            "quiz_item", "Passage: {passage}\nAnswer: {answer}\nQuestion:", "{question}", "inverted"
        ),
    ),
)

# DROP


def _drop_answer(text: str) -> str:
    """A DROP answer as text; the builder writes dates as '1967-June-13', here '13 June 1967'."""
    text = one_line(html.unescape(text))
    date = re.fullmatch(r"(\d*)-([A-Z][a-z]+)-(\d{1,2})", text)
    return " ".join(part for part in reversed(date.groups()) if part) if date else text


def _drop_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    """Of an answer with several spans the builder keeps the first one only."""
    answer = _drop_answer(raw["answer"])
    if not answer:
        return Drop("no answer")
    others = [_drop_answer(a) for a in raw.get("validated_answers") or ()]
    return {
        "context": lines(html.unescape(raw["passage"])),  # with entities such as '94&#160;yards'
        "question": one_line(html.unescape(raw["question"])),
        "answer": answer,
        "references": distinct([answer, *others]),
    }


def _drop_hub_row(raw: dict[str, Any]) -> dict[str, Any]:
    """The hub has all right answers in one list; the first is that of the author or first judge."""
    first, *others = raw["answers_spans"]["spans"]
    return {**raw, "answer": first, "validated_answers": others}


DROP = Dataset(
    name="drop",
    paper_dataset="DROP",
    cluster="reading_comprehension",
    tfds="drop:2.0.0",
    hub=Hub("ucinlp/drop", splits={"dev": "validation"}, row=_drop_hub_row),
    license="CC-BY-SA-4.0",
    commercial=True,
    license_evidence="allenai.org/data/drop",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "dev"},
    rows={"train": 77200},
    fields=("context", "question"),
    options=None,
    row=_drop_row,
    metrics=("squad",),
    templates=(
        Template(
            "work_it_out",
            "{context}\n\nWork out the answer to this question from the text: {question}",
        ),
        Template("labels", "Report: {context}\nQuestion: {question}\nAnswer:"),
        Template(
            "count_add_compare",
            "{question}\nYou may have to count, add, subtract or compare.\n\n{context}",
        ),
        Template(
            "number_date_or_words", "{context}\n\n{question}\nGive a number, a date or a few words."
        ),
        Template("terse", "{question}\nSource: {context}\nAnswer, as short as possible:"),
        Template(
            "without_working",
            "Please tell me, without showing your working: {question}\n\nEverything you need "
            "is in here: {context}",
        ),
        Template(
            "result_only",
            "Read the report and do the sum if there is one. State the result only.\n\n"
            "{context}\n\n{question}",
        ),
        Template(
            "exercise",
            "Reading and arithmetic exercise.\n\n{context}\n\nTask: {question}\nSolution:",
        ),
        Template("find_out", "Find out from this text: {question}\n\n{context}"),
        Template(
            "question_that_takes_thought",
            "{context}\n\nWrite a question on this passage that takes some "
            "thought.\nAnswer to it: {answer}",
            "{question}",
            "inverted",
        ),
    ),
)

# MultiRC


def _unquoted(text: str) -> str:
    """The text without a pair of quotation marks around all of it."""
    return text[1:-1] if re.fullmatch('"[^"]+"', text) else text


def _multirc_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    """One row is one candidate answer; the metric joins the candidates of a question."""
    fields = {
        "paragraph": detokenized(raw["paragraph"]),
        "question": one_line(detokenized(raw["question"])),
        "response": _unquoted(one_line(detokenized(raw["answer"]))),
    }
    if raw["label"] not in (0, 1):
        return Drop("no gold label")
    if not all(fields.values()):
        return Drop("empty text")
    return {
        **fields,
        "label": raw["label"],
        "group": f"{raw['idx']['paragraph']}-{raw['idx']['question']}",
    }


MULTIRC = Dataset(
    name="multirc",
    paper_dataset="MultiRC",
    cluster="reading_comprehension",
    tfds="super_glue/multirc:1.0.2",
    hub=Hub("aps/super_glue", "multirc"),
    license="NOASSERTION",
    commercial=None,
    license_evidence=(
        "SuperGLUE paper, section 3: may be used and passed on for research; no license of its own"
    ),
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 27040},
    fields=("paragraph", "question", "response"),
    options=("no", "yes"),
    row=_multirc_row,
    metrics=("multirc", "accuracy"),
    templates=(
        Template(
            "is_it_correct",
            "{paragraph}\n\nQuestion: {question}\nProposed answer: {response}\nIs it correct?\n"
            "{options}",
        ),
        Template(
            "borne_out",
            "Question: {question}\nAnswer: {response}\n\nDoes the text below bear this out?\n"
            "{paragraph}\n{options}",
        ),
        Template(
            "deserves_a_mark",
            "Text: {paragraph}\nQuestion: {question}\nPupil's answer: {response}\nDoes it "
            "deserve a mark?\n{options}",
        ),
        Template(
            "ana_and_ben",
            "{paragraph}\n\nBen: {question}\nAna: {response}\n\nIs Ana right, going by the "
            "text?\n{options}",
        ),
        Template(
            "options_above",
            "{options}\n\nIs this a right answer to the question on the passage?\nQuestion: "
            "{question}\nAnswer: {response}\nPassage: {paragraph}",
        ),
        Template(
            "one_of_several_answers",
            "{paragraph}\n\n{question}\nThere may be several right answers. Is this "
            "one of them?\n{response}\n{options}",
        ),
        Template(
            "question_and_answer",
            "Text: {paragraph}\nQ: {question}\nA: {response}\nTrue?\n{options}",
        ),
        Template(
            "against_the_source",
            "Source:\n{paragraph}\n\nCheck this answer against the source.\nQuestion: "
            "{question}\nAnswer: {response}\nIs it supported?\n{options}",
        ),
        Template(
            "acceptable_answer",
            "Would you accept this answer?\nQuestion: {question}\nAnswer: {response}\n\n"
            "The paragraph it is about:\n{paragraph}\n{options}",
        ),
        Template(
            "answered_correctly",
            "Paragraph:\n{paragraph}\n\nIs this question answered correctly?\n{question}\n"
            "{response}\n{options}",
        ),
    ),
)

# OpenBookQA


def _openbookqa_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    """The stem is a question or begins a sentence; the core fact precedes it, as in FLAN."""
    question = raw["question"]
    stem = one_line(detokenized(question["stem"]))
    options = [one_line(detokenized(question[f"choice_{letter}"])) for letter in "ABCD"]
    if raw["answerKey"] not in range(len(options)):
        return Drop("no gold label")
    if not stem or not all(options):
        return Drop("empty text")
    if len(set(options)) < len(options):
        return Drop("two equal choices")
    fact = ended(one_line(raw.get("fact1") or ""))
    question = f"{fact[:1].upper()}{fact[1:]}\n{stem}" if fact else stem
    return {"question": question, "options": options, "label": raw["answerKey"]}


def _openbookqa_hub_row(raw: dict[str, Any]) -> dict[str, Any]:
    choices = zip(raw["choices"]["label"], raw["choices"]["text"], strict=True)
    question = {
        "stem": raw["question_stem"],
        **{f"choice_{label}": text for label, text in choices},
    }
    return {**raw, "question": question, "answerKey": "ABCD".find(raw["answerKey"])}


OPENBOOKQA = Dataset(
    name="openbookqa",
    paper_dataset="OBQA",
    cluster="reading_comprehension",
    tfds="openbookqa:0.1.0",
    hub=Hub("allenai/openbookqa", "additional", row=_openbookqa_hub_row),
    license="NOASSERTION",
    commercial=None,
    license_evidence=(
        "Apache-2.0 in github.com/allenai/OpenBookQA is the code's; the card on the "
        "hub says unknown"
    ),
    splits={"train": "train", "validation": "validation[:200]", "test": "test"},
    rows={"train": 4950},
    fields=("question",),
    options=FROM_ROW,
    row=_openbookqa_row,
    metrics=("accuracy",),
    templates=(
        Template(
            "question_or_beginning",
            "If this is a question, answer it; otherwise finish the sentence.\n\n"
            "{question}\n{options}",
        ),
        Template(
            "everyday_knowledge",
            "Use what you know about nature and everyday life. What fits best here?\n\n"
            "{question}\n{options}",
        ),
        Template(
            "science_item", "Science item: {question}\n{options}\nThe best answer or ending is:"
        ),
        Template(
            "options_above", "{options}\n\nWhich answer or ending goes with this?\n{question}"
        ),
        Template("common_sense", "{question}\n{options}\n\nGo by common sense and basic science."),
        Template("science_quiz", "Science quiz: {question}\n{options}"),
        Template("worksheet", "Complete the worksheet.\n{question}\n{options}"),
        Template(
            "as_the_world_works", "What agrees with how the world works?\n\n{question}\n{options}"
        ),
        Template("primary_school", "Primary school science: {question}\n{options}\nAnswer:"),
        Template(
            "right_answer_or_ending",
            "Give the right answer or the right ending.\n\n{question}\n{options}",
        ),
    ),
)

# SQuAD 1.1 and 2.0: titles are left out, since some copies of the data have none.


def _squad_v1_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    references = distinct(column(raw["answers"], "text"))
    if not references:
        return Drop("no answer")
    return {
        "context": lines(raw["context"]),
        "question": one_line(raw["question"]),
        "answer": references[0],
        "references": references,
    }


def _squad_v2_row(raw: dict[str, Any]) -> dict[str, Any]:
    references = [] if raw.get("is_impossible") else distinct(column(raw["answers"], "text"))
    references = references or [UNANSWERABLE]
    return {
        "context": lines(raw["context"]),
        "question": one_line(raw["question"]),
        "answer": references[0],
        "references": references,
    }


SQUAD_V1 = Dataset(
    name="squad_v1",
    paper_dataset="SQuAD",
    cluster="reading_comprehension",
    tfds="squad/v1.1:3.0.0",
    hub=Hub("rajpurkar/squad", "plain_text"),
    license="CC-BY-SA-4.0",
    commercial=True,
    license_evidence="rajpurkar.github.io/SQuAD-explorer",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 87390},
    fields=("context", "question"),
    options=None,
    row=_squad_v1_row,
    metrics=("squad",),
    templates=(
        Template(
            "words_from_the_paragraph",
            "{context}\n\nAnswer this question with words taken from the paragraph: {question}",
        ),
        Template(
            "copy_the_part",
            "Question: {question}\nCopy the part of the following article that answers it.\n\n"
            "{context}",
        ),
        Template("phrase_of_the_text", "{context}\n\nQ: {question}\nA (a phrase from the text):"),
        Template("in_a_few_words", "Paragraph: {context}\n\nIn a few words: {question}"),
        Template(
            "need_to_know",
            "I need to know this: {question}\nHere is an article on it.\n\n{context}\n\nShort "
            "answer:",
        ),
        Template(
            "highlight",
            "Highlight the phrase that answers this: {question}\n\n{context}\n\nPhrase:",
        ),
        Template("study_notes", "Study notes:\n{context}\n\nTest question: {question}"),
        Template(
            "shortest_span",
            "What is the shortest span of the paragraph that answers the question?\nQuestion: "
            "{question}\nParagraph: {context}\nSpan:",
        ),
        Template(
            "question_to_an_answer",
            "{context}\n\nWrite a question on the paragraph above.\nAnswer: {answer}\nQuestion:",
            "{question}",
            "inverted",
        ),
        Template(
            "comprehension_question",
            "Make up a comprehension question with this answer: {answer}\n\nText: {context}",
            "{question}",
            "inverted",
        ),
    ),
)

SQUAD_V2 = Dataset(
    name="squad_v2",
    paper_dataset="SQuAD",
    cluster="reading_comprehension",
    tfds="squad/v2.0:3.0.0",
    hub=Hub("rajpurkar/squad_v2", "squad_v2"),
    license="CC-BY-SA-4.0",
    commercial=True,
    license_evidence="rajpurkar.github.io/SQuAD-explorer",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 130110},
    fields=("context", "question"),
    options=None,
    row=_squad_v2_row,
    metrics=("squad",),
    templates=(
        Template(
            "phrase_or_unanswerable",
            "{context}\n\n{question}\nReply with a phrase from the text above, or "
            'with "unanswerable" if the text does not tell.',
        ),
        Template(
            "answer_or_say",
            'Question: {question}\nAnswer from the text below, or say "unanswerable".\n\n{context}',
        ),
        Template(
            "does_the_article_answer",
            "Does the article answer this? Copy its answer, or write "
            '"unanswerable".\n\n{question}\n\n{context}',
        ),
        Template(
            "do_not_guess",
            "Do not guess: some questions here are unanswerable.\n\n{context}\n\n{question}",
        ),
        Template(
            "quote_the_words",
            '{question}\n\nQuote the words that tell us, or reply "unanswerable" if none '
            "do.\n\n{context}",
        ),
        Template("terse", 'Context: {context}\nQuestion: {question}\nAnswer (or "unanswerable"):'),
        Template(
            "extract_the_answer",
            'Extract the answer from the source, or enter "unanswerable".\n\n'
            "Source: {context}\nEnquiry: {question}",
        ),
        Template(
            "form_to_fill_in",
            "Document: {context}\nInformation sought: {question}\nFound in the document "
            '(enter "unanswerable" if it is missing):',
        ),
        Template(
            "brief_answer", "{context}\n\nAnswer briefly; it may be unanswerable.\n{question}"
        ),
        Template(
            "question_on_the_text",
            "{context}\n\nWrite a question on this text. If the answer given is "
            '"unanswerable", the text must leave it open.\nAnswer: {answer}\nQuestion:',
            "{question}",
            "inverted",
        ),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (SQUAD_V1, SQUAD_V2, DROP, MULTIRC, OPENBOOKQA, BOOL_Q)
