"""Miscellaneous: conversations, WiC, question types (TREC), CoLA, equations and text repair.

The conversations are CoQA and QuAC.
"""

import re
import unicodedata
from typing import Any

from flan_jax.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import column, detokenized, labeled, lines, one_line

# What a QuAC question without an answer in its section is answered with; the templates announce it.
CANNOT_ANSWER = "cannot answer"


# CoQA: a raw row is a story with a whole conversation. It becomes one example, as in the paper's
# code, where however all answers are the target, as a numbered list. Here the last question is to
# be answered, with all turns before it shown: later questions can be understood, and the answer is
# a short one that F1 over words can judge.


def _coqa_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    """The last question; the one before it if the story does not answer the last ('unknown')."""
    questions = [one_line(q) for q in raw["questions"]]
    answers = [one_line(a) for a in column(raw["answers"], "input_text")]
    turns = list(zip(questions, answers, strict=False))
    while turns and turns[-1][1].lower().rstrip(".") in ("", "unknown"):
        turns.pop()
    if len(turns) < 2:
        return Drop("fewer than two turns")
    *earlier, (question, answer) = turns
    return {
        "story": lines(raw["story"]),
        "conversation": "\n".join(f"Q: {q} A: {a}" for q, a in earlier),
        "question": question,
        "answer": answer,
    }


COQA = Dataset(
    name="coqa",
    paper_dataset="CoQA",
    cluster="misc",
    tfds="coqa:1.0.0",
    hub=Hub("stanfordnlp/coqa", splits={"test": "validation"}),
    license="CC-BY-SA-4.0 AND Apache-2.0 AND LicenseRef-MSR-LA AND LicenseRef-RACE",
    commercial=False,
    license_evidence=(
        "stanfordnlp.github.io/coqa: by source of the passage; RACE and MCTest for research"
    ),
    splits={"train": "train[:-100]", "validation": "train[-100:]", "test": "test"},
    rows={"train": 7090},
    fields=("story", "conversation", "question"),
    options=None,
    row=_coqa_row,
    metrics=("squad",),
    templates=(
        Template(
            "continue_q_and_a",
            "{story}\n\nA conversation about the text above:\n{conversation}\nQ: {question}\nA:",
        ),
        Template(
            "few_words",
            "Text: {story}\nConversation so far:\n{conversation}\nNext question: {question}\n"
            "Answer in a few words:",
        ),
        Template(
            "end_of_conversation",
            "{question}\nThis comes at the end of the conversation below.\n\n"
            "{conversation}\n\nIt is about this text:\n{story}",
        ),
        Template(
            "one_brief_answer",
            "Continue the conversation with one brief answer.\n\n{story}\n\n"
            "{conversation}\n\nQ: {question}",
        ),
        Template(
            "conversation_first",
            "Earlier questions and answers:\n{conversation}\nLatest question: {question}\n"
            "All of them are about this passage: {story}\nShort answer to the latest question:",
        ),
        Template(
            "keep_it_going",
            "Keep the conversation going with a brief reply that the text supports.\nText: "
            "{story}\nTurns so far:\n{conversation}\nNew turn: {question}\nReply:",
        ),
        Template(
            "now_this_one",
            "{story}\n\nQuestions asked so far, with answers:\n{conversation}\n\nNow answer "
            "this one: {question}",
        ),
        Template("terse", "Passage:\n{story}\n\nDialogue:\n{conversation}\n\n{question}"),
        Template(
            "passage_and_turns",
            "Use the passage and the earlier turns to answer: {question}\n\n{story}\n\n"
            "{conversation}",
        ),
        Template(
            "question_to_next_answer",
            "{story}\n\n{conversation}\n\nNext answer: {answer}\nQuestion that it answers:",
            "{question}",
            "inverted",
        ),
    ),
)

# QuAC: one row is one question, without the turns before it. The background paragraph is left out:
# some rows have none.


def _quac_text(text: str) -> str:
    """The text without CANNOTANSWER, the answer at the end of each section, and tags of a wiki."""
    text = lines(re.sub(r"</?ref\b[^<>]*>", " ", text))
    return CANNOT_ANSWER if text == "CANNOTANSWER" else text.removesuffix("CANNOTANSWER").rstrip()


def _quac_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    fields = {
        "title": one_line(raw["title"]),
        "section": one_line(raw["section_title"]),
        "context": _quac_text(raw["context"]),
        "question": one_line(raw["question"]),
        "answer": _quac_text(raw["orig_answer"]["text"]),
    }
    if not all(fields.values()):
        return Drop("empty text")
    references = [fields["answer"], *map(_quac_text, column(raw["answers"], "text"))]
    return {**fields, "references": list(dict.fromkeys(r for r in references if r))}


QUAC = Dataset(
    name="quac",
    paper_dataset="QuAC",
    cluster="misc",
    tfds="quac:1.0.0",
    hub=None,
    license="CC-BY-SA-4.0",
    commercial=True,
    license_evidence="quac.ai",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 83360},
    fields=("title", "section", "context", "question"),
    evidence=("context", "question"),
    options=None,
    row=_quac_row,
    metrics=("trivia_qa",),
    templates=(
        Template(
            "quote_the_words",
            '{context}\n\n{question}\nQuote the words that answer this, or say "cannot answer".',
        ),
        Template(
            "section_label",
            "Article: {title}\nSection: {section}\n{context}\n\n{question}\nAnswer from the "
            'section, or "cannot answer":',
        ),
        Template(
            "look_this_up",
            'Look this up: {question}\n\n{context}\n\nNot in there? Then write "cannot answer".',
        ),
        Template(
            "labels",
            (
                'Text: {context}\nQuestion: {question}\nPassage that replies to it (or "cannot '
                'answer"):'
            ),
        ),
        Template(
            "piece_of_the_text",
            'Answer with a piece of the text. If it has none, the answer is "cannot '
            'answer".\n\nText: {context}\nQuestion: {question}',
        ),
        Template(
            "about_title",
            'The question is about "{title}".\n{question}\n\n{context}\n\nCopy the answer, or '
            'write "cannot answer".',
        ),
        Template(
            "its_own_words",
            '{question}\nDoes the text tell us? Give its own words, or "cannot answer".\n\n'
            "{context}",
        ),
        Template(
            "send_back_a_phrase",
            "Encyclopedia: {title}, {section}\n{context}\n\nRequest: {question}\nSend "
            'back a phrase, or "cannot answer".',
        ),
        Template(
            "words_of_the_extract",
            "Extract: {context}\nTo find out: {question}\nAnswer in the words of the "
            'extract, or "cannot answer":',
        ),
        Template(
            "question_with_answer",
            '{context}\n\nThink of a question that gets this reply. "cannot answer" is '
            "the reply where the text is silent.\nReply: {answer}\nQuestion:",
            "{question}",
            "inverted",
        ),
    ),
)

# WiC


def _wic_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    fields = {name: one_line(detokenized(raw[name])) for name in ("word", "sentence1", "sentence2")}
    return labeled(raw["label"], 2, **fields)


WIC = Dataset(
    name="wic",
    paper_dataset="WIC",
    cluster="misc",
    tfds="super_glue/wic:1.0.2",
    hub=Hub("aps/super_glue", "wic"),
    license="CC-BY-NC-4.0",
    commercial=False,
    license_evidence="pilehvar.github.io/wic",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 5220},
    fields=("word", "sentence1", "sentence2"),
    options=("different", "same"),
    row=_wic_row,
    metrics=("accuracy",),
    templates=(
        Template(
            "senses",
            'Is "{word}" used in the same sense or in different ones?\n{sentence1}\n{sentence2}\n'
            "{options}",
        ),
        Template(
            "two_meanings",
            "Word: {word}\n1. {sentence1}\n2. {sentence2}\n{options}\nThe two meanings are:",
        ),
        Template(
            "dictionary_entry",
            "Dictionary entry: {word}\nQuotation A: {sentence1}\nQuotation B: {sentence2}\n"
            "Same definition or different ones?\n{options}",
        ),
        Template(
            "options_above",
            '{options}\n\nHow do the meanings of "{word}" compare?\nFirst: {sentence1}\n'
            "Second: {sentence2}",
        ),
        Template(
            "stands_for",
            '{sentence1}\n{sentence2}\n\nCompare what "{word}" stands for in each.\n{options}',
        ),
        Template(
            "word_twice",
            '"{word}": {sentence1}\n"{word}": {sentence2}\nSame sense or different?\n{options}',
        ),
        Template(
            "learning_english",
            'I am learning English. What about "{word}" here: the same meaning or a '
            "different one?\n{sentence1}\n{sentence2}\n{options}",
        ),
        Template(
            "how_meant",
            'How is "{word}" meant here, both times the same or each time different?\n\n'
            "{sentence1}\n{sentence2}\n{options}",
        ),
        Template(
            "another_sentence",
            '{sentence1}\n\nWrite another sentence with the word "{word}".\nMeaning '
            "compared with the first: {answer}",
            "{sentence2}",
            "inverted",
        ),
        Template(
            "first_of_two_examples",
            'Two examples for the word "{word}", meaning: {answer}\nSecond: {sentence2}\nFirst:',
            "{sentence1}",
            "inverted",
        ),
    ),
)

# TREC


def _trec_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    """Tokenized questions ('What 's ... ?') are joined again; the classes are the coarse six."""
    text = one_line(detokenized(raw["text"]))
    return {"text": text, "label": raw["label-coarse"]} if text else Drop("empty text")


TREC = Dataset(
    name="trec",
    paper_dataset="TREC",
    cluster="misc",
    tfds="trec:1.0.0",
    hub=Hub(
        "CogComp/trec",
        rename={"label-coarse": "coarse_label"},
        classes={"label-coarse": ("DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC")},
    ),
    license="NOASSERTION",
    commercial=None,
    license_evidence="none at cogcomp.seas.upenn.edu/Data/QA/QC",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
    rows={"train": 5250},
    fields=("text",),
    options=(
        "description",
        "entity",
        "abbreviation",
        "person or group",
        "number or date",
        "location",
    ),
    row=_trec_row,
    metrics=("accuracy",),
    templates=(
        Template(
            "kind_of_answer",
            "Question: {text}\nWhat kind of thing does this question ask for?\n{options}",
        ),
        Template("type_needed", "What type of answer does this need?\n{text}\n{options}"),
        Template("options_above", "{options}\n\nName the type of answer that is expected.\n{text}"),
        Template(
            "do_not_answer",
            "Do not answer the question below; only say what kind of thing its answer would "
            "be.\n{text}\n{options}",
        ),
        Template(
            "classes_named",
            "Does this ask for a description, an entity, an abbreviation, a person or group, a "
            "number or date, or a location?\n{text}\n{options}",
        ),
        Template("terse", "{text}\n{options}\nAnswer type:"),
        Template(
            "looked_for", "Tag the question with what is being looked for.\n{text}\n{options}\nTag:"
        ),
        Template(
            "have_to_find", "{text}\nWhat would you have to find to reply to this?\n{options}"
        ),
        Template(
            "search_query",
            "Sort this search query by the kind of answer it needs: {text}\n{options}",
        ),
        Template("to_classify", "Question to classify: {text}\n{options}"),
    ),
)

# CoLA


def _cola_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return labeled(raw["label"], 2, sentence=one_line(detokenized(raw["sentence"])))


COLA = Dataset(
    name="cola",
    paper_dataset="CoLA",
    cluster="misc",
    tfds="glue/cola:2.0.0",
    hub=Hub("nyu-mll/glue", "cola"),
    license="NOASSERTION",
    commercial=None,
    license_evidence="none at nyu-mll.github.io/CoLA; sentences of published linguistics",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 8350},
    fields=("sentence",),
    options=("unacceptable", "acceptable"),
    row=_cola_row,
    metrics=("accuracy", "matthews"),
    templates=(
        Template(
            "native_speaker",
            "Would a native speaker find this English sentence acceptable or unacceptable?\n"
            "{sentence}\n{options}",
        ),
        Template(
            "sentence_first", "{sentence}\n\nJudge the grammar of the sentence above.\n{options}"
        ),
        Template(
            "how_it_sounds",
            "Rate this sentence by how it sounds, not by whether it is true.\n{sentence}\n"
            "{options}",
        ),
        Template(
            "options_above", "{options}\n\nWhat do you say to the way this is put?\n{sentence}"
        ),
        Template(
            "acceptable_english",
            "Is this acceptable or unacceptable English?\n{sentence}\n{options}",
        ),
        Template("proofreading", "Proofreading: {sentence}\n{options}\nVerdict:"),
        Template("terse", "English sentence: {sentence}\n{options}\nGrammatically it is:"),
        Template(
            "order_and_forms",
            "Check word order, word forms and missing words.\n\n{sentence}\n{options}",
        ),
        Template(
            "linguistics_textbook",
            "How would a textbook of linguistics mark this example?\n{sentence}\n{options}",
        ),
        Template("how_well_built", "How well is this sentence built?\n{sentence}\n{options}"),
    ),
)

# Math dataset: linear equations in one unknown


def _math_dataset_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    """Every question of algebra__linear_1d has the form 'Solve <equation> for <unknown>'."""
    match = re.fullmatch(r"Solve (.+=.+) for ([A-Za-z])\.", one_line(raw["question"]))
    if not match or not raw["answer"].strip():
        return Drop("not an equation to solve")
    return {"equation": match[1], "unknown": match[2], "answer": raw["answer"].strip()}


def _math_dataset_hub_row(raw: dict[str, Any]) -> dict[str, Any]:
    # The hub's texts are bytes as Python prints them: "b'Solve 2*x = 6 for x.\\n'".
    texts = {
        name: re.fullmatch(r"(?s)(?:b')?(.*?)(?:(?:\\n)?')?", raw[name])[1]
        for name in ("question", "answer")
    }
    return {**raw, **texts}


MATH_DATASET = Dataset(
    name="math_dataset",
    paper_dataset="Math",
    cluster="misc",
    tfds="math_dataset/algebra__linear_1d:1.0.0",
    hub=Hub("deepmind/math_dataset", "algebra__linear_1d", row=_math_dataset_hub_row),
    license="Apache-2.0",
    commercial=True,
    license_evidence="github.com/google-deepmind/mathematics_dataset, whose code generates it",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
    rows={"train": 1999780},
    fields=("equation", "unknown"),
    options=None,
    row=_math_dataset_row,
    metrics=("exact_match",),
    # No inverted template: infinitely many equations have the same solution.
    templates=(
        Template("labels", "Equation: {equation}\nSolve for: {unknown}"),
        Template("find", '{equation}\n\nFind "{unknown}".'),
        Template("what_number", 'What number is "{unknown}" in this equation?\n{equation}'),
        Template(
            "algebra_labels", "Algebra test.\nEquation: {equation}\nUnknown: {unknown}\nSolution:"
        ),
        Template("value_only", 'Give only the value of "{unknown}".\n{equation}'),
        Template("has_to_be", '{equation}\nWhat does "{unknown}" have to be?'),
        Template("isolate", 'Isolate "{unknown}" and give the result: {equation}'),
        Template("linear_equation", "Linear equation: {equation}\nVariable: {unknown}\nResult:"),
        Template(
            "by_substitution",
            'Which integer makes both sides equal when it replaces "{unknown}"?\n{equation}',
        ),
        Template("homework", "Homework: {equation}\nWanted: {unknown}"),
    ),
)

# Text repair: ParaCrawl's English sentences. The three tasks use rows of their own, and share the
# last ones as tests.
PARA_CRAWL = {
    "paper_dataset": "Fix Punctuation (NLG)",
    "cluster": "misc",
    "tfds": "para_crawl/enda:1.2.0",
    "license": "CC0-1.0",
    "commercial": True,
    "license_evidence": "paracrawl.eu: the packaging; the texts are their sites'",
    "options": None,
    "metrics": ("edit_similarity",),
}

# Punctuation by Unicode category, but these signs carry a meaning that cannot be restored ...
_NOT_PUNCTUATION = frozenset("%&@#*/\\‰§†‡")
# ... and these count as quotation marks in running text.
_QUOTES = frozenset("`´")
# Within a word these leave no gap: don't -> dont, U.S. -> US.
_WITHOUT_GAP = frozenset("'’‘.")


def _is_punctuation(char: str) -> bool:
    return char in _QUOTES or (
        unicodedata.category(char).startswith("P") and char not in _NOT_PUNCTUATION
    )


def _without_punctuation(text: str) -> str:
    """The text without punctuation, but with signs such as % and marks within numbers."""
    kept = []
    for i, char in enumerate(text):
        before, after = text[i - 1 : i], text[i + 1 : i + 2]
        if not _is_punctuation(char) or (before.isdigit() and after.isdigit()):
            kept.append(char)
        elif not (char in _WITHOUT_GAP and before.isalnum()):
            kept.append(" ")
    return one_line("".join(kept))


def _true_case_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    text = one_line(raw["en"])
    lower = text.lower()
    if not text:
        return Drop("empty text")
    return {"lower": lower, "answer": text} if lower != text else Drop("no capital letter")


def _fix_punct_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    text = one_line(raw["en"])
    no_punct = _without_punctuation(text)
    if not no_punct:
        return Drop("empty text")
    return {"no_punct": no_punct, "answer": text} if no_punct != text else Drop("no punctuation")


def _word_segment_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    text = one_line(raw["en"])
    no_space = text.replace(" ", "")
    if not text:
        return Drop("empty text")
    return {"no_space": no_space, "answer": text} if no_space != text else Drop("a single word")


TRUE_CASE = Dataset(
    **PARA_CRAWL,
    name="true_case",
    splits={"train": "train[:30000]", "validation": "train[30000:30200]", "test": "train[-3000:]"},
    rows={"train": 29260},
    fields=("lower",),
    row=_true_case_row,
    # No inverted template: its input would be the answer alone.
    templates=(
        Template("put_capitals", "Put capital letters where English spelling wants them: {lower}"),
        Template(
            "text_first",
            "{lower}\n\nThe text above has lost its upper case. Restore it and change nothing "
            "else.",
        ),
        Template("shift_key", "My shift key is broken. Please put in the capitals.\n{lower}"),
        Template("restore_upper_case", "Restore the upper-case letters: {lower}"),
        Template(
            "names_and_sentences",
            "Capitalize names, titles and the beginnings of sentences.\n{lower}",
        ),
        Template("transcript", "Transcript in small letters: {lower}\nIn proper case:"),
        Template("terse", "lower case: {lower}\ntrue case:"),
        Template(
            "question",
            "Which letters in this passage ought to be capitals? Write the passage out with them.\n"
            "{lower}",
        ),
        Template("nothing_but_case", "Change nothing but the letter case.\n\n{lower}"),
        Template("as_found", "As found: {lower}\nWith upper and lower case:"),
    ),
)

FIX_PUNCT = Dataset(
    **PARA_CRAWL,
    name="fix_punct",
    splits={
        "train": "train[30200:60200]",
        "validation": "train[60200:60400]",
        "test": "train[-3000:]",
    },
    rows={"train": 28070},
    fields=("no_punct",),
    row=_fix_punct_row,
    # No inverted template: its input would be the answer alone.
    templates=(
        Template("add_marks", "Add the missing punctuation marks to this text: {no_punct}"),
        Template("punctuate_above", "{no_punct}\n\nPunctuate the words above."),
        Template(
            "put_them_back",
            "Every comma, stop, hyphen and apostrophe is missing. Put them back.\n{no_punct}",
        ),
        Template("dictated", "Dictated: {no_punct}\nAs a written text:"),
        Template(
            "pause_and_stop",
            "Show where to pause and where to stop, without changing a word.\n{no_punct}",
        ),
        Template("please", "Punctuation, please: {no_punct}"),
        Template("terse", "Without punctuation: {no_punct}\nWith punctuation:"),
        Template("copy_with_marks", "Copy this and put in all the marks that belong: {no_punct}"),
        Template(
            "hard_to_read", "This is hard to read without punctuation. Put it in.\n{no_punct}"
        ),
        Template(
            "where_marks_belong",
            "Where do commas, stops and other marks belong? Write out the whole line.\n{no_punct}",
        ),
    ),
)

WORD_SEGMENT = Dataset(
    **PARA_CRAWL,
    name="word_segment",
    splits={
        "train": "train[60400:90400]",
        "validation": "train[90400:90600]",
        "test": "train[-3000:]",
    },
    rows={"train": 30000},
    fields=("no_space",),
    row=_word_segment_row,
    # No inverted template: its input would be the answer alone.
    templates=(
        Template("put_spaces", "Put the spaces back between the words: {no_space}"),
        Template(
            "text_first", "{no_space}\n\nWhat does this say, written with spaces between its words?"
        ),
        Template("space_bar", "My space bar was stuck. What did I mean to type?\n{no_space}"),
        Template(
            "find_boundaries",
            "Find the word boundaries in the unbroken string below and return it as normal "
            "English text.\nString: {no_space}\nText:",
        ),
        Template("run_together", "These words have run together: {no_space}\nAs they should be:"),
        Template("divide", "Divide into words: {no_space}"),
        Template("terse", "Joined: {no_space}\nSeparated:"),
        Template(
            "pdf_without_spaces", "Copied from a PDF, the spaces are gone: {no_space}\nAs printed:"
        ),
        Template(
            "like_a_hashtag",
            "Split this like a hashtag, but keep every letter and mark.\n{no_space}",
        ),
        Template(
            "where_words_end",
            "Where does each word end? Write the line with its spaces.\n{no_space}",
        ),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (QUAC, COQA, TRUE_CASE, FIX_PUNCT, WORD_SEGMENT, MATH_DATASET, WIC, COLA, TREC)
