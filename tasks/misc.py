"""Miscellaneous: conversations (CoQA, QuAC), WiC, question types (TREC), CoLA, equations and text repair."""

import re
import unicodedata

from flan_jax.data.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import column, detokenised, labelled, lines, one_line

# What a QuAC question without an answer in its section is answered with; the templates announce it.
CANNOT_ANSWER = "cannot answer"


# CoQA: a raw row is a story with a whole conversation. It becomes one example, as in the paper's code, which however
# asks for all answers at once as a numbered list. Here the last question is to be answered, with all turns before it
# shown: later questions can be understood, and the answer is a short one that F1 over words can judge.


def _coqa_row(raw):
    """A last question without an answer in the story ('unknown') is passed over for the one before it."""
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
    licence="CC-BY-SA-4.0 AND Apache-2.0 AND LicenseRef-MSR-LA AND LicenseRef-RACE",
    commercial=False,
    licence_evidence="stanfordnlp.github.io/coqa: by source of the passage; RACE and MCTest for research",
    splits={"train": "train[:-100]", "validation": "train[-100:]", "test": "test"},
    rows={"train": 7090},
    fields=("story", "conversation", "question"),
    options=None,
    row=_coqa_row,
    metrics=("squad",),
    templates=(
        Template("next_turn", "{story}\n\nA conversation about the text above:\n{conversation}\nQ: {question} A:"),
        Template("two_people_talk", "Two people talk about a text. The text: {story}\nWhat they have said so far:\n"
                 "{conversation}\nThe next question is: {question}\nHow should it be answered, in a few words?"),
        Template("question_first", "You will be asked this: {question}\nThe question comes at the end of a "
                 "conversation, so words such as he, she or it may point back to earlier turns.\nConversation:\n"
                 "{conversation}\nText that it is about: {story}\nAnswer in a few words:"),
        Template("chat_with_reader", "You are chatting with someone who knows nothing of this text but would like "
                 "to: {story}\nYour chat up to now:\n{conversation}\nThey now write: {question}\nYou write back:"),
        Template("conversation_first", "Earlier questions and answers:\n{conversation}\nLatest question: {question}\n"
                 "All of them are about this passage: {story}\nShort answer to the latest question:"),
        Template("keep_it_going", "Keep the conversation going with a brief reply that the text supports.\nText: "
                 "{story}\nTurns so far:\n{conversation}\nNew turn: {question}\nReply:"),
        Template("teacher_asks", "A class has read a text, and the teacher asks one question after another.\nText: "
                 "{story}\nQuestions and answers up to this point:\n{conversation}\nThe teacher goes on: {question}\n"
                 "What is the right answer?"),
        Template("expert_interview", "Notes of an interview with an expert on the following. {story}\n\nNoted so "
                 "far:\n{conversation}\nInterviewer: {question}\nExpert, briefly:"),
        Template("read_everything", "The final question may be unclear on its own, so read everything: first the "
                 "turns, then the passage, then the question.\nTurns:\n{conversation}\nPassage: {story}\nFinal "
                 "question: {question}\nAnswer to the final question:"),
        Template("question_before_answer", "{story}\n\nThis was said about the text.\n{conversation}\nAfter that "
                 "came one more question, to which the reply was \"{answer}\" and nothing else. What was the "
                 "question?", "{question}", "inverted"),
    ),
)

# QuAC: one row is one question, without the turns before it. The background paragraph is left out: some rows have none.


def _quac_text(text):
    """Sections end in the word CANNOTANSWER, which is also the answer where there is none; some keep tags of a wiki."""
    text = lines(re.sub(r"</?ref\b[^<>]*>", " ", text))
    return CANNOT_ANSWER if text == "CANNOTANSWER" else text.removesuffix("CANNOTANSWER").rstrip()


def _quac_row(raw):
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
    licence="CC-BY-SA-4.0",
    commercial=True,
    licence_evidence="quac.ai",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 83360},
    fields=("title", "section", "context", "question"),
    evidence=("context", "question"),
    options=None,
    row=_quac_row,
    metrics=("trivia_qa",),
    templates=(
        Template("quote_the_article", "{context}\n\nQuote the words of this article that answer \"{question}\", or "
                 "say \"cannot answer\" if there are none."),
        Template("curious_student", "An article on \"{title}\" has a section \"{section}\": {context}\nA student who "
                 "cannot see it is curious: {question}\nRead out a suitable piece of the section. If it has none, "
                 "reply \"cannot answer\"."),
        Template("student_teacher", "Student: I am learning about \"{title}\" and have a question. {question}\n"
                 "Teacher: I have the section \"{section}\" here, and if it does not help, I will say \"cannot "
                 "answer\". Let me see. {context}\nStudent: And?\nTeacher:"),
        Template("look_it_up", "Question on the subject \"{title}\": {question}\nLook it up here: {context}\nIf the "
                 "text is silent on the matter, your answer is \"cannot answer\". Answer:"),
        Template("terse", "Section: {context}\nQuestion: {question}\nPiece of the section that replies to it (or "
                 "\"cannot answer\"):"),
        Template("audio_guide", "An audio guide answers visitors with pieces of its script, and with \"cannot "
                 "answer\" when the script is of no use.\nScript: {context}\nVisitor: {question}\nAudio guide:"),
        Template("part_of_a_series", "The question below is one of a series about \"{title}\", so it may use words "
                 "like he, she or they for what the section is about. Use the section's own words in your answer, or "
                 "\"cannot answer\" if it does not say.\nQuestion in the series: {question}\nSection \"{section}\": "
                 "{context}"),
        Template("does_it_say", "{question}\nDoes the following text tell us? Where it does, answer with what it "
                 "says, word for word; where it does not, answer \"cannot answer\".\n\n{context}"),
        Template("encyclopedia_page", "Encyclopedia page: {title}\nHeading on the page: {section}\nText under the "
                 "heading: {context}\nRequest: {question}\nSentence or phrase to send back (\"cannot answer\" where "
                 "nothing fits):"),
        Template("what_was_asked", "Under \"{section}\", an article on \"{title}\" says the following. {context}\nA "
                 "student put a question about it to a teacher, who says \"cannot answer\" when the text does not "
                 "help. The teacher said \"{answer}\" in reply. What may the student have asked?", "{question}",
                 "inverted"),
    ),
)

# WiC


def _wic_row(raw):
    fields = {name: one_line(detokenised(raw[name])) for name in ("word", "sentence1", "sentence2")}
    return labelled(raw["label"], 2, **fields)


WIC = Dataset(
    name="wic",
    paper_dataset="WIC",
    cluster="misc",
    tfds="super_glue/wic:1.0.2",
    hub=Hub("aps/super_glue", "wic"),
    licence="CC-BY-NC-4.0",
    commercial=False,
    licence_evidence="pilehvar.github.io/wic",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 5220},
    fields=("word", "sentence1", "sentence2"),
    options=("different", "same"),
    row=_wic_row,
    metrics=("accuracy",),
    templates=(
        Template("same_or_different", "Is the meaning of the word \"{word}\" the same or different in the two "
                 "sentences that follow?\nSentence 1: {sentence1}\nSentence 2: {sentence2}\n{options}"),
        Template("word_first", "The word \"{word}\" can be used in more than one sense. Compare its sense in these "
                 "two lines.\n{sentence1}\n{sentence2}\n{options}\nThe two senses are:"),
        Template("dictionary_editor", "You edit a dictionary. Two quotations have come in for the entry \"{word}\".\n"
                 "Quotation A: {sentence1}\nQuotation B: {sentence2}\nWill they be filed under the same definition "
                 "or under different ones?\n{options}"),
        Template("options_first", "{options}\n\nWhich of the two, same or different, describes the meanings of "
                 "\"{word}\" in the first and in the second example?\nFirst example: {sentence1}\nSecond "
                 "example: {sentence2}"),
        Template("learner_dialogue", "Learner: I came across \"{word}\" twice today. Once it was like this: "
                 "{sentence1}\nTutor: And the other time?\nLearner: {sentence2}\nTutor: Then tell me, is that the "
                 "same meaning or a different one?\n{options}\nLearner:"),
        Template("terse", "{word}: {sentence1}\n{word}: {sentence2}\nSame sense or different?\n{options}"),
        Template("translator", "A translator wonders whether one translation of \"{word}\" could serve in both "
                 "places, which it can only if the sense stays the same.\nFirst place: {sentence1}\nSecond place: "
                 "{sentence2}\n{options}\nCompared with the first place, the sense in the second one is:"),
        Template("sentences_then_word", "Read \"{sentence1}\" and then \"{sentence2}\" with an eye on one word that "
                 "they share, in whatever form it appears: {word}. Say whether what it stands for is the same or "
                 "different.\n{options}"),
        Template("write_a_second_sentence", "Here is a sentence with the word \"{word}\": {sentence1}\nWrite another "
                 "sentence with this word. In comparison with the first sentence, the meaning of the word "
                 "should be: {answer}.",
                 "{sentence2}", "inverted"),
        Template("missing_first_example", "A worksheet shows two examples for the word \"{word}\", of which the "
                 "first has been torn off. The second one is: {sentence2}\nThe key calls the meanings of the word "
                 "in the two examples \"{answer}\". Supply a first example that agrees with the "
                 "key.", "{sentence1}", "inverted"),
    ),
)

# TREC


def _trec_row(raw):
    """Questions are tokenised ('What 's ... ?'); they are put together again. The six coarse classes are used."""
    text = one_line(detokenised(raw["text"]))
    return {"text": text, "label": raw["label-coarse"]} if text else Drop("empty text")


TREC = Dataset(
    name="trec",
    paper_dataset="TREC",
    cluster="misc",
    tfds="trec:1.0.0",
    hub=Hub("CogComp/trec", rename={"label-coarse": "coarse_label"},
            classes={"label-coarse": ("DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC")}),
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="none at cogcomp.seas.upenn.edu/Data/QA/QC",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
    rows={"train": 5250},
    fields=("text",),
    options=("description", "entity", "abbreviation", "person or group", "number or date", "location"),
    row=_trec_row,
    metrics=("accuracy",),
    templates=(
        Template("kind_of_answer", "Question: {text}\nWhat kind of thing does this question ask for?\n{options}"),
        Template("search_route", "A search system sorts questions by the type of answer they need before it looks "
                 "for one. Incoming question: {text}\nWhich type does the system assign?\n{options}"),
        Template("options_first", "{options}\n\nName the type of answer that is expected by someone who asks this: "
                 "{text}"),
        Template("do_not_answer", "Do not answer the question below; only say what kind of thing its answer would be."
                 "\n{text}\n{options}"),
        Template("helpdesk_dialogue", "Caller: {text}\nOperator to colleague: What type of information is that a "
                 "request for?\n{options}\nColleague:"),
        Template("classes_in_words", "Questions can ask for a description, an entity, an abbreviation, a person or "
                 "group, a number or date, or a location. Which of these does the following question ask for? "
                 "{text}\n{options}"),
        Template("terse", "{text}\n{options}\nAnswer type:"),
        Template("quiz_box", "Cards for a pub quiz are kept in six boxes according to what the right answer is. A "
                 "new card says: {text}\nWhat does the label of its box say?\n{options}"),
        Template("teacher_of_machines", "To teach a machine how to look for answers, people tag questions with what "
                 "is being looked for. Tag this one.\nQuestion to tag: {text}\n{options}\nTag:"),
        Template("looking_for", "If you wanted to reply to \"{text}\", then what sort of thing would you have to "
                 "find?\n{options}"),
    ),
)

# CoLA


def _cola_row(raw):
    return labelled(raw["label"], 2, sentence=one_line(detokenised(raw["sentence"])))


COLA = Dataset(
    name="cola",
    paper_dataset="CoLA",
    cluster="misc",
    tfds="glue/cola:2.0.0",
    hub=Hub("nyu-mll/glue", "cola"),
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="none at nyu-mll.github.io/CoLA; sentences of published linguistics",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 8350},
    fields=("sentence",),
    options=("unacceptable", "acceptable"),
    row=_cola_row,
    metrics=("accuracy", "matthews"),
    templates=(
        Template("native_speaker", "Would a native speaker find this English sentence acceptable or unacceptable?\n"
                 "{sentence}\n{options}"),
        Template("sentence_first", "{sentence}\n\nJudge the grammar of the sentence above.\n{options}"),
        Template("linguist_questionnaire", "From a linguist's questionnaire. Please rate each sentence by your "
                 "feeling for the language, not by whether it is true.\nSentence: {sentence}\nHow do you rate it?\n"
                 "{options}"),
        Template("options_first", "{options}\n\nWhat is your verdict on the way this sentence is built? {sentence}"),
        Template("learner_dialogue", "Learner: Can I put it like this in English? \"{sentence}\"\nTeacher: Listen to "
                 "how it sounds. What would you say yourself?\n{options}\nLearner: I would say it is"),
        Template("proofreader", "A proofreader goes through a list of example sentences and writes \"acceptable\" or "
                 "\"unacceptable\" after each. The next sentence is: {sentence}\nWhat does the proofreader write?\n"
                 "{options}"),
        Template("terse", "English sentence: {sentence}\n{options}\nGrammatically it is:"),
        Template("word_order_and_forms", "Check word order, word forms and missing or superfluous words in "
                 "\"{sentence}\" and conclude whether the sentence is acceptable.\n{options}"),
        Template("star_in_textbook", "Textbooks of syntax put a star in front of a sentence that no speaker would "
                 "produce. Think about whether they would star \"{sentence}\" or not. How, then, should the sentence "
                 "be described?\n{options}"),
        Template("wordy_explanation", "Some strings of words are acceptable as English and some are not, however odd "
                 "or ordinary their content may be. How about the next one?\n{options}\nString: {sentence}"),
    ),
)

# Math dataset: linear equations in one unknown


def _math_dataset_row(raw):
    """Every question of algebra__linear_1d has one form, 'Solve <equation> for <unknown>.'"""
    match = re.fullmatch(r"Solve (.+=.+) for ([A-Za-z])\.", one_line(raw["question"]))
    if not match or not raw["answer"].strip():
        return Drop("not an equation to solve")
    return {"equation": match[1], "unknown": match[2], "answer": raw["answer"].strip()}


def _math_dataset_hub_row(raw):
    # The hub's texts are bytes as Python prints them: "b'Solve 2*x = 6 for x.\\n'".
    texts = {name: re.fullmatch(r"(?s)(?:b')?(.*?)(?:(?:\\n)?')?", raw[name])[1] for name in ("question", "answer")}
    return {**raw, **texts}


MATH_DATASET = Dataset(
    name="math_dataset",
    paper_dataset="Math",
    cluster="misc",
    tfds="math_dataset/algebra__linear_1d:1.0.0",
    hub=Hub("deepmind/math_dataset", "algebra__linear_1d", row=_math_dataset_hub_row),
    licence="Apache-2.0",
    commercial=True,
    licence_evidence="github.com/google-deepmind/mathematics_dataset, whose code generates it",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
    rows={"train": 1999780},
    fields=("equation", "unknown"),
    options=None,
    row=_math_dataset_row,
    metrics=("exact_match",),
    # No inverted template: infinitely many equations have the same solution.
    templates=(
        Template("solve_for", "Solve the equation {equation} for {unknown}. Give the value only."),
        Template("which_value", "Which value of {unknown} makes {equation} true?"),
        Template("algebra_test", "Algebra test, first task. Equation: {equation}\nUnknown: {unknown}\nSolution:"),
        Template("dialogue", "Pupil: I have {equation} here and no idea what to do.\nTeacher: Bring everything with "
                 "{unknown} to one side and the rest to the other, then divide. What do you get for {unknown}?\n"
                 "Pupil: I get"),
        Template("unknown_first", "We are looking for the number {unknown}. All we know about it is that {equation}. "
                 "What number is it?"),
        Template("terse", "Given that {equation}, {unknown} ="),
        Template("calculator", "You are a calculator that solves linear equations and displays nothing but the "
                 "result.\nTyped in: {equation}\nVariable: {unknown}\nDisplay:"),
        Template("fill_in_by_substitution", "If the right integer is put in place of {unknown}, both sides of the "
                 "equation come out equal.\n{equation}\nWhat is that integer?"),
        Template("detective", "The letter {unknown} hides a number. It gave itself away by this trace: {equation}. "
                 "Unmask the number."),
        Template("engineer", "An engineer must set a dial to {unknown}, and the manual says that {equation} has to "
                 "hold. To which number should the dial be set?"),
    ),
)

# Text repair: ParaCrawl's English sentences. The three tasks use rows of their own, and share the last ones as tests.
PARA_CRAWL = {
    "paper_dataset": "Fix Punctuation (NLG)",
    "cluster": "misc",
    "tfds": "para_crawl/enda:1.2.0",
    "licence": "CC0-1.0",
    "commercial": True,
    "licence_evidence": "paracrawl.eu: the packaging; the texts are their sites'",
    "options": None,
    "metrics": ("edit_similarity",),
}

# Punctuation by Unicode category, but these signs carry meaning that nobody could put back ...
_NOT_PUNCTUATION = frozenset("%&@#*/\\‰§†‡")
# ... and these count as quotation marks in running text.
_QUOTES = frozenset("`´")
# Within a word these leave no gap: don't -> dont, U.S. -> US.
_WITHOUT_GAP = frozenset("'’‘.")


def _is_punctuation(char):
    return char in _QUOTES or (unicodedata.category(char).startswith("P") and char not in _NOT_PUNCTUATION)


def _without_punctuation(text):
    """The text without punctuation; letters of any alphabet, signs such as % and marks within numbers stay."""
    kept = []
    for i, char in enumerate(text):
        before, after = text[i - 1:i], text[i + 1:i + 2]
        if not _is_punctuation(char) or (before.isdigit() and after.isdigit()):
            kept.append(char)
        elif not (char in _WITHOUT_GAP and before.isalnum()):
            kept.append(" ")
    return one_line("".join(kept))


def _true_case_row(raw):
    text = one_line(raw["en"])
    lower = text.lower()
    if not text:
        return Drop("empty text")
    return {"lower": lower, "answer": text} if lower != text else Drop("no capital letter")


def _fix_punct_row(raw):
    text = one_line(raw["en"])
    no_punct = _without_punctuation(text)
    if not no_punct:
        return Drop("empty text")
    return {"no_punct": no_punct, "answer": text} if no_punct != text else Drop("no punctuation")


def _word_segment_row(raw):
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
        Template("text_first", "{lower}\n\nThe text above has lost its upper case. Restore it and change nothing "
                 "else."),
        Template("broken_shift_key", "The shift key on my keyboard is broken, so I typed this: {lower}\nHow would it "
                 "look had the key worked?"),
        Template("names_and_beginnings", "Beginnings of sentences, names, titles and many abbreviations are written "
                 "with capitals. Apply this to the line that follows.\nLine: {lower}\nLine with capitals:"),
        Template("speech_transcript", "A speech recogniser delivers its transcripts in small letters only. Give the "
                 "transcript its proper case.\nTranscript: {lower}\nIn proper case:"),
        Template("dialogue", "Intern: The archive sent us this. {lower}\nEditor: All in lower case again! Please "
                 "correct that before it goes to print.\nIntern: Done, it now says:"),
        Template("terse", "lower case: {lower}\ntrue case:"),
        Template("question", "Which letters in this passage ought to be capitals? Write the passage out with them.\n"
                 "{lower}"),
        Template("legible_subtitle", "Subtitle as found in the file: {lower}\nSubtitle as viewers should see it, "
                 "with upper and lower case in the right places:"),
        Template("only_the_case", "Your one job is letter case. Leave words, order and punctuation as they are, and "
                 "return \"{lower}\" the way a careful writer would have capitalised it."),
    ),
)

FIX_PUNCT = Dataset(
    **PARA_CRAWL,
    name="fix_punct",
    splits={"train": "train[30200:60200]", "validation": "train[60200:60400]", "test": "train[-3000:]"},
    rows={"train": 28070},
    fields=("no_punct",),
    row=_fix_punct_row,
    # No inverted template: its input would be the answer alone.
    templates=(
        Template("add_marks", "Add the missing punctuation marks to this text: {no_punct}"),
        Template("text_first", "\"{no_punct}\"\n\nNobody has punctuated the words above yet. Please do it."),
        Template("dropped_marks", "A faulty program has dropped every comma, full stop, hyphen, apostrophe and the "
                 "like. Damaged text: {no_punct}\nRepaired text:"),
        Template("dictation", "A letter was dictated without a word about punctuation, and the secretary took down: "
                 "\"{no_punct}\"\nWhat does the letter look like once it is punctuated?"),
        Template("reader_needs_pauses", "Help the reader to see where to pause and where to stop. Punctuate the "
                 "following without changing its words.\n{no_punct}"),
        Template("dialogue", "Author: Here is my next line. {no_punct}\nEditor: It could do with some punctuation.\n"
                 "Author: You are right. Here it is again:"),
        Template("terse", "Without punctuation: {no_punct}\nWith punctuation:"),
        Template("school_exercise", "Exercise for today: copy the words and put in all the punctuation marks that "
                 "belong with them.\nWords: {no_punct}\nYour copy:"),
        Template("telegram", "In the style of an old telegram somebody wrote \"{no_punct}\" and left every mark out. "
                 "Write it as it would stand in a book."),
        Template("which_marks", "Where do commas, stops and other marks belong in the line below, and which ones? "
                 "Show it by writing out the whole line.\nLine: {no_punct}"),
    ),
)

WORD_SEGMENT = Dataset(
    **PARA_CRAWL,
    name="word_segment",
    splits={"train": "train[60400:90400]", "validation": "train[90400:90600]", "test": "train[-3000:]"},
    rows={"train": 30000},
    fields=("no_space",),
    row=_word_segment_row,
    # No inverted template: its input would be the answer alone.
    templates=(
        Template("put_spaces", "Put the spaces back between the words: {no_space}"),
        Template("text_first", "{no_space}\n\nWhat does this say, written with spaces between its words?"),
        Template("stuck_space_bar", "My space bar got stuck while I was typing, and this came out: {no_space}\nI had "
                 "meant to type:"),
        Template("find_boundaries", "Find the word boundaries in the unbroken string below and return it as normal "
                 "English text.\nString: {no_space}\nText:"),
        Template("inscription", "Like an ancient inscription, the following line runs on without any gaps. Separate "
                 "its words.\n{no_space}"),
        Template("dialogue", "A: Can you read this? {no_space}\nB: Hardly, the words are all run together.\nA: Then "
                 "let me pull them apart for you:"),
        Template("terse", "Joined: {no_space}\nSeparated:"),
        Template("pdf_copy", "When I copied a sentence from a document, its spaces vanished. The copy reads "
                 "\"{no_space}\" and I need the sentence as it was printed."),
        Template("hashtag_like", "This is written in one piece, as hashtags are: {no_space}\nSplit it into words; "
                 "keep each letter and each punctuation mark."),
        Template("how_many_words", "How would you divide these characters into words? Show the result.\nCharacters: "
                 "{no_space}\nDivided:"),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (QUAC, COQA, TRUE_CASE, FIX_PUNCT, WORD_SEGMENT, MATH_DATASET, WIC, COLA, TREC)
