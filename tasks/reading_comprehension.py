"""Reading comprehension: BoolQ, DROP, MultiRC, OpenBookQA, SQuAD 1.1 and 2.0."""

import html
import re

from flan_jax.data.catalogue import FROM_ROW, Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import column, detokenised, distinct, ended, lines, one_line

# What a SQuAD 2.0 question without an answer in its text is answered with; the templates announce it.
UNANSWERABLE = "unanswerable"


# BoolQ


def _bool_q_row(raw):
    """Questions come in lower case and without their question mark: it, the first letter and 'I' are put right."""
    question = re.sub(r"\bi\b", "I", one_line(detokenised(raw["question"])).rstrip(" ?."))
    passage = detokenised(raw["passage"])
    if not question or not passage:
        return Drop("empty text")
    return {
        "title": one_line(raw["title"]),
        "passage": passage,
        "question": question[0].upper() + question[1:] + "?",
        "label": int(raw["answer"]),
    }


def _bool_q_hub_row(raw):
    """SuperGLUE's copy, the only one on the hub with titles, begins its passages with 'Title -- '."""
    title, _, passage = raw["passage"].partition(" -- ")
    return {**raw, "title": title, "passage": passage, "answer": raw["label"]}


BOOL_Q = Dataset(
    name="bool_q",
    paper_dataset="BoolQ",
    cluster="reading_comprehension",
    tfds="bool_q:1.0.0",
    hub=Hub("aps/super_glue", "boolq", row=_bool_q_hub_row),
    licence="CC-BY-SA-3.0",
    commercial=True,
    licence_evidence="github.com/google-research-datasets/boolean-questions",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 9220},
    fields=("title", "passage", "question"),
    evidence=("passage", "question"),
    options=("no", "yes"),
    row=_bool_q_row,
    metrics=("accuracy",),
    templates=(
        Template("passage_first", "{passage}\n\nGoing by the text above, answer with yes or no: {question}\n{options}"),
        Template("question_first", "{question}\nFind out from this passage and reply with yes or no.\n\n{passage}\n"
                 "{options}"),
        Template("article_form", "Title of the article: {title}\nWhat it says: {passage}\nWhat a reader wants to "
                 "know: {question}\n{options}\nReply to the reader:"),
        Template("options_first", "Reply with a single word, yes or no.\n{options}\n\nQuestion: {question}\n\n"
                 "Background reading: {passage}"),
        Template("friends_dialogue", "A: There is something I have been wondering about. {question}\nB: Let me "
                 "check. It says here: {passage}\nA: So is that a yes or a no?\n{options}\nB:"),
        Template("librarian", "A visitor to the library asks: {question}\nThe encyclopaedia has this under the "
                 "heading \"{title}\": {passage}\nWhat should the librarian tell the visitor?\n{options}"),
        Template("only_the_extract", "Use nothing but the extract to settle the point below, even if you believe you "
                 "know better.\nExtract: {passage}\nPoint to settle: {question}\n{options}\nVerdict:"),
        Template("terse", "Passage: {passage}\nYes/no question: {question}\n{options}"),
        Template("question_about_title", "Read this passage about \"{title}\". {passage}\nNow write a yes/no "
                 "question that the passage answers with \"{answer}\".", "{question}", "inverted"),
        Template("what_was_asked", "{passage}\n\nSomeone who had the text above at hand was asked something and "
                 "simply said \"{answer}\". What might the question have been?", "{question}", "inverted"),
    ),
)

# DROP


def _drop_answer(text):
    """A DROP answer as text; the builder writes dates as '1967-June-13', here '13 June 1967'."""
    text = one_line(html.unescape(text))
    date = re.fullmatch(r"(\d*)-([A-Z][a-z]+)-(\d{1,2})", text)
    return " ".join(part for part in reversed(date.groups()) if part) if date else text


def _drop_row(raw):
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


def _drop_hub_row(raw):
    """The hub gives all right answers in one list, that of the question's author or of its first judge foremost."""
    first, *others = raw["answers_spans"]["spans"]
    return {**raw, "answer": first, "validated_answers": others}


DROP = Dataset(
    name="drop",
    paper_dataset="DROP",
    cluster="reading_comprehension",
    tfds="drop:2.0.0",
    hub=Hub("ucinlp/drop", splits={"dev": "validation"}, row=_drop_hub_row),
    licence="CC-BY-SA-4.0",
    commercial=True,
    licence_evidence="allenai.org/data/drop",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "dev"},
    rows={"train": 77200},
    fields=("context", "question"),
    options=None,
    row=_drop_row,
    metrics=("squad",),
    templates=(
        Template("work_it_out", "{context}\n\nWork out the answer to this question from the text: {question}"),
        Template("count_or_compare", "Question: {question}\nYou may have to count, add, subtract or compare things "
                 "that the passage mentions.\nPassage: {context}\nResult:"),
        Template("caption_dialogue", "Editor: I need a figure, date, name or phrase for a caption. {question}\n"
                 "Assistant: The report says the following. {context}\nEditor: So what do I put?\nAssistant:"),
        Template("details_that_matter", "Here is a passage full of details. {context}\nPick out the details that "
                 "matter and answer with a number, a date or a few words: {question}"),
        Template("terse", "{question}\nSource: {context}\nOutcome, as short as possible:"),
        Template("puzzle", "The numbers and names in this report hold the answer to a puzzle.\nReport: {context}\n"
                 "Puzzle: {question}\nSolve the puzzle and state only the outcome."),
        Template("exercise_book", "From an exercise book on reading with arithmetic.\nText of the exercise: "
                 "{context}\nTask: {question}\nThe key at the back of the book gives this solution:"),
        Template("without_working", "Please tell me, without showing your working: {question}\n\nEverything you need "
                 "is in here: {context}"),
        Template("question_to_keep_in_mind", "Keep one question in mind while you read: {question}\n\n{context}\n\n"
                 "You have reached the end of the text. Combine what you read and give the answer."),
        Template("set_a_hard_question", "{context}\n\nWrite a question on this passage that takes some thought, such "
                 "as counting or comparing, and that has the answer \"{answer}\".", "{question}", "inverted"),
    ),
)

# MultiRC


def _unquoted(text):
    """The text without a pair of quotation marks around all of it; templates quote it themselves."""
    return text[1:-1] if re.fullmatch('"[^"]+"', text) else text


def _multirc_row(raw):
    """One row is one candidate answer; the metric joins the candidates of a question."""
    fields = {
        "paragraph": detokenised(raw["paragraph"]),
        "question": one_line(detokenised(raw["question"])),
        "response": _unquoted(one_line(detokenised(raw["answer"]))),
    }
    if raw["label"] not in (0, 1):
        return Drop("no gold label")
    if not all(fields.values()):
        return Drop("empty text")
    return {**fields, "label": raw["label"], "group": f"{raw['idx']['paragraph']}-{raw['idx']['question']}"}


MULTIRC = Dataset(
    name="multirc",
    paper_dataset="MultiRC",
    cluster="reading_comprehension",
    tfds="super_glue/multirc:1.0.2",
    hub=Hub("aps/super_glue", "multirc"),
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="SuperGLUE paper, section 3: may be used and passed on for research; no licence of its own",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 27040},
    fields=("paragraph", "question", "response"),
    options=("no", "yes"),
    row=_multirc_row,
    metrics=("multirc", "accuracy"),
    templates=(
        Template("proposed_answer", "{paragraph}\n\nQuestion: {question}\nProposed answer: \"{response}\"\nIs the "
                 "proposed answer correct according to the paragraph?\n{options}"),
        Template("question_first", "Somebody asked: {question}\nThey were told \"{response}\" in reply. Check this "
                 "against the text that follows. Was it a right answer?\n{options}\n\n{paragraph}"),
        Template("marking_a_test", "You are marking a reading test. The pupils read this text: {paragraph}\nThey "
                 "were asked: {question}\nOne pupil put down \"{response}\" as the answer. Do you give the mark?\n"
                 "{options}"),
        Template("dialogue", "Ana: This is what I have just read. {paragraph}\nBen: {question}\nAna: I would say "
                 "\"{response}\" to that.\nBen: And does the text bear you out?\n{options}\nAna:"),
        Template("options_first", "Answer with yes or no.\n{options}\n\nDoes \"{response}\" correctly answer the "
                 "question below, given the passage?\nQuestion: {question}\nPassage: {paragraph}"),
        Template("one_of_several", "A question about a text can have more than one right answer. Decide whether the "
                 "candidate is one of them.\nText: {paragraph}\nQuestion: {question}\nCandidate: \"{response}\"\nIs "
                 "the candidate right?\n{options}"),
        Template("terse", "Text: {paragraph}\nQ: {question}\nA: \"{response}\"\nCorrect, yes or no?\n{options}"),
        Template("fact_checker", "As a fact checker you may rely on this source only: {paragraph}\nA reader was "
                 "asked \"{question}\" and wrote to us with the answer \"{response}\" for publication. Does the "
                 "source back the reader?\n{options}"),
        Template("would_you_accept", "Look at a question and at one attempt to answer it.\nThe question: {question}\n"
                 "The attempt: \"{response}\"\nThen read the paragraph they are about. {paragraph}\nWould you accept "
                 "the attempt?\n{options}"),
        Template("write_a_reply", "{paragraph}\n\nQuestion about this text: {question}\nMake up a reply that a reader "
                 "might give. Is it meant to be a correct one, yes or no? This time: {answer}.", "{response}",
                 "inverted"),
    ),
)

# OpenBookQA


def _openbookqa_row(raw):
    """The stem is a question or the beginning of a sentence; before it, as in FLAN, the core fact (fact1), if given."""
    question = raw["question"]
    stem = one_line(detokenised(question["stem"]))
    options = [one_line(detokenised(question[f"choice_{letter}"])) for letter in "ABCD"]
    if raw["answerKey"] not in range(len(options)):
        return Drop("no gold label")
    if not stem or not all(options):
        return Drop("empty text")
    if len(set(options)) < len(options):
        return Drop("two equal choices")
    fact = ended(one_line(raw.get("fact1") or ""))
    question = f"{fact[:1].upper()}{fact[1:]}\n{stem}" if fact else stem
    return {"question": question, "options": options, "label": raw["answerKey"]}


def _openbookqa_hub_row(raw):
    choices = zip(raw["choices"]["label"], raw["choices"]["text"], strict=True)
    question = {"stem": raw["question_stem"], **{f"choice_{label}": text for label, text in choices}}
    return {**raw, "question": question, "answerKey": "ABCD".find(raw["answerKey"])}


OPENBOOKQA = Dataset(
    name="openbookqa",
    paper_dataset="OBQA",
    cluster="reading_comprehension",
    tfds="openbookqa:0.1.0",
    hub=Hub("allenai/openbookqa", "additional", row=_openbookqa_hub_row),
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="Apache-2.0 in github.com/allenai/OpenBookQA is the code's; the card on the hub says unknown",
    splits={"train": "train", "validation": "validation[:200]", "test": "test"},
    rows={"train": 4950},
    fields=("question",),
    options=FROM_ROW,
    row=_openbookqa_row,
    metrics=("accuracy",),
    templates=(
        Template("finish_or_answer", "This comes from a science test for primary schools. If it is a question, "
                 "answer it; if it is the beginning of a sentence, finish it.\n{question}\n{options}"),
        Template("everyday_knowledge", "Use what you know about nature and everyday life. What fits best "
                 "here?\n\n{question}\n{options}"),
        Template("science_item", "Science item: {question}\n{options}\nThe best answer or ending is:"),
        Template("options_first", "{options}\n\nWhich answer or ending goes with this piece of general science? "
                 "{question}"),
        Template("classroom_dialogue", "Teacher: Let us see who remembers our lesson. \"{question}\"\nPupil: May I "
                 "think for a moment?\nTeacher: Of course. And what do you say?\n{options}\nPupil:"),
        Template("fact_and_sense", "One basic fact of science, together with a little common sense, is enough to "
                 "work this out. Please do so.\nProblem: {question}\n{options}\nSolution:"),
        Template("quiz_show", "Welcome to round two of our science quiz! Here is the next challenge: {question}\n"
                 "{options}\nThe contestant wins the round by saying:"),
        Template("homework", "A worksheet on general science has an empty line after \"{question}\" and nobody has "
                 "filled it in. What belongs there?\n{options}"),
        Template("how_the_world_works", "Only one reply to, or ending for, the text below agrees with how the world "
                 "works. Give that one.\n{options}\nText: {question}"),
        Template("terse", "Elementary science, correct response wanted: {question}\n{options}"),
    ),
)

# SQuAD 1.1 and 2.0: titles are left out, since some copies of the data have none.


def _squad_v1_row(raw):
    references = distinct(column(raw["answers"], "text"))
    if not references:
        return Drop("no answer")
    return {
        "context": lines(raw["context"]),
        "question": one_line(raw["question"]),
        "answer": references[0],
        "references": references,
    }


def _squad_v2_row(raw):
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
    licence="CC-BY-SA-4.0",
    commercial=True,
    licence_evidence="rajpurkar.github.io/SQuAD-explorer",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 87390},
    fields=("context", "question"),
    options=None,
    row=_squad_v1_row,
    metrics=("squad",),
    templates=(
        Template("words_from_the_paragraph", "{context}\n\nAnswer this question with words taken from the paragraph: "
                 "{question}"),
        Template("copy_the_part", "Question: {question}\nCopy the part of the following article that answers it.\n\n"
                 "{context}"),
        Template("encyclopaedia_reader", "Extract from an encyclopaedia: {context}\nEnquiry from a reader: "
                 "{question}\nBrief reply:"),
        Template("dialogue", "A: {question}\nB: One moment, I have an article on that. {context}\nA: And the answer, "
                 "in a few words?\nB:"),
        Template("highlighter", "Take a highlighter and mark the phrase in the text that tells us this: {question}\n"
                 "Text: {context}\nMarked phrase:"),
        Template("test_yourself", "Study notes: {context}\n\nTest yourself! {question}\nThe notes say:"),
        Template("search_engine", "You are a search engine. For the query below, return not the whole page but the "
                 "exact few words of it that answer the query.\nQuery: {question}\nPage: {context}\nExact words:"),
        Template("shortest_span", "What is the shortest span of the paragraph that answers the question?\nQuestion: "
                 "{question}\nParagraph: {context}\nSpan:"),
        Template("question_behind_words", "{context}\n\nThe words \"{answer}\" in this paragraph are the answer to a "
                 "question that a reader had. Write down the question.", "{question}", "inverted"),
        Template("question_for_a_class", "Make up a comprehension question for a class that has read the text below. "
                 "The answer to it has to be \"{answer}\".\nText: {context}", "{question}", "inverted"),
    ),
)

SQUAD_V2 = Dataset(
    name="squad_v2",
    paper_dataset="SQuAD",
    cluster="reading_comprehension",
    tfds="squad/v2.0:3.0.0",
    hub=Hub("rajpurkar/squad_v2", "squad_v2"),
    licence="CC-BY-SA-4.0",
    commercial=True,
    licence_evidence="rajpurkar.github.io/SQuAD-explorer",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 130110},
    fields=("context", "question"),
    options=None,
    row=_squad_v2_row,
    metrics=("squad",),
    templates=(
        Template("phrase_or_unanswerable", "{context}\n\n{question}\nReply with a phrase from the text above, or "
                 "with \"unanswerable\" if the text does not tell."),
        Template("mind_the_traps", "Some questions about a text are traps, because the text does not answer them. "
                 "Say \"unanswerable\" to a trap and give the short answer to any other question.\nQuestion: "
                 "{question}\nText: {context}"),
        Template("can_it_be_answered", "Can this question be answered from the article that follows? {question}\nIf "
                 "so, quote the answer; if not, write \"unanswerable\".\nArticle: {context}"),
        Template("tutor_dialogue", "Student: I have finished the reading. {context}\nTutor: Good. Say "
                 "\"unanswerable\" if the reading leaves my question open. {question}\nStudent:"),
        Template("reference_clerk", "You are a careful clerk at a reference desk and never guess. Either a few words "
                 "of the source answer the enquiry, or you say \"unanswerable\".\nSource: {context}\nEnquiry: "
                 "{question}\nWhat the clerk says:"),
        Template("terse", "Context: {context}\nQuestion: {question}\nAnswer (or \"unanswerable\"):"),
        Template("contains_or_not", "Does the passage contain what it takes to answer \"{question}\" or not? Give "
                 "the answer if it does, and \"unanswerable\" if it does not.\nPassage: {context}"),
        Template("form_to_fill_in", "Document: {context}\nInformation sought: {question}\nFound in the document "
                 "(enter \"unanswerable\" if it is missing):"),
        Template("question_around_text", "Here is what we would like to know. {question}\nHere is all we have to go "
                 "on. {context}\nShould it not be enough, the right reply is \"unanswerable\"; otherwise it is the "
                 "relevant words. The right reply is:"),
        Template("write_question", "{context}\n\nWrite a question on this text to go with the answer \"{answer}\". "
                 "If that answer is the word \"unanswerable\", ask for something that fits the subject but that the "
                 "text leaves out.", "{question}", "inverted"),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (SQUAD_V1, SQUAD_V2, DROP, MULTIRC, OPENBOOKQA, BOOL_Q)
