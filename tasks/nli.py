"""Natural language inference: does a second text follow from a first one?

The label order differs between the datasets: CB has contradiction before neutral, and WNLI has its negative class
first. Three-way questions are put so that 'no' means "it is false" and never "it is not shown".
"""

import re
from typing import Any

from flan_jax.data.catalogue import Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import detokenised, ended, labelled, one_line


def _clean(text: str, mark: str = ".") -> str:
    """The text as people write it, with a mark at its end."""
    return ended(detokenised(text.replace("&amp;", "&")), mark)


def _anli_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    # What wiki markup has left: tags such as <nowiki>, and the arguments {'1': ", '2': ...} of a lost macro.
    context = re.sub(r"</?(?:nowiki|ref)\b[^>]*>|\{'1':[^}]*\}", "", raw["context"])
    parts = [_clean(part) for part in re.split(r"<br\s*/?>", context, flags=re.IGNORECASE)]
    context = "\n".join(part for part in parts if part)
    return labelled(raw["label"], 3, context=context, hypothesis=one_line(_clean(raw["hypothesis"])))


def _cb_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    """CB's hypothesis is a clause without a full stop, and without its 'that', which is left before a name once."""
    hypothesis = re.sub(r"^that (?=[A-Z])", "", detokenised(raw["hypothesis"])).rstrip(".")
    return labelled(raw["label"], 3, premise=_clean(raw["premise"]), hypothesis=hypothesis)


def _rte_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return labelled(raw["label"], 2, premise=_clean(raw["premise"]), hypothesis=_clean(raw["hypothesis"]))


def _three_way_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return labelled(raw["label"], 3, premise=_clean(raw["premise"]), hypothesis=_clean(raw["hypothesis"]))


def _qnli_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return labelled(raw["label"], 2, question=_clean(raw["question"], "?"), sentence=_clean(raw["sentence"]))


def _wnli_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    return labelled(raw["label"], 2, sentence1=_clean(raw["sentence1"]), sentence2=_clean(raw["sentence2"]))


_ANLI_TEMPLATES = (
    Template(
        "fact_checker",
        "You check claims against their source before an article goes to print.\n\nSource: {context}\n\n"
        "Claim: {hypothesis}\n\nJudging by the source alone, is the claim true?\n{options}"),
    Template(
        "question_first",
        "Is the statement at the end true, given what the paragraph says?\n\nParagraph: {context}\n\n"
        "Statement: {hypothesis}\n{options}"),
    Template(
        "statement_first",
        "Statement: {hypothesis}\n\nNow read the text that it was written about.\n\nText: {context}\n\n"
        "Is the statement correct?\n{options}"),
    Template(
        "quiz_show",
        "Quizmaster: Listen to this excerpt. {context}\nQuizmaster: And here is what I say about it. {hypothesis}\n"
        "Quizmaster: Going by the excerpt, am I telling the truth?\n{options}\nContestant:"),
    Template(
        "terse",
        "{context}\n\nGiven the above, is this so? {hypothesis}\n{options}"),
    Template(
        "tricky_statement",
        "The statement below was written to mislead a hasty reader, so take your time over the passage. Answer yes if "
        "the passage makes the statement true, no if it makes it false, and say that it is impossible to say if the "
        "passage leaves the matter open.\n{options}\n\nPassage: {context}\n\nStatement: {hypothesis}"),
    Template(
        "options_first",
        "{options}\n\nGive a verdict on the assertion, from what is written in the document and nothing else: "
        "is it true?\n\nDocument: {context}\n\nAssertion: {hypothesis}"),
    Template(
        "reading_test",
        "Reading test. Part one is a short text, part two a sentence about it; candidates have to decide whether "
        "the sentence is true.\n\nPart one: {context}\n\nPart two: {hypothesis}\n\nWhat should a candidate answer?\n"
        "{options}"),
    Template(
        "friendly_bet",
        "Vera has bet that this is true: {hypothesis}\nPaul has bet that it is false. A single text is to settle "
        "the matter, and if it leaves both possible, it is impossible to say and the bet is off. Is what Vera bet "
        "on true?\n{options}\n\nText: {context}"),
    Template(
        "note_to_colleague",
        "Hi Sam,\nthis landed on my desk today: {context}\nAt lunch somebody told me: {hypothesis}\nI know nothing "
        "else about it. Trusting what landed on my desk, is what I was told true?\nThanks, Kim\n{options}\n"
        "Sam writes back:"),
    Template(
        "write_statement",
        "Read the passage and think up one statement about it. A careful reader who is asked whether your statement "
        "is true, given the passage, should have to answer: {answer}.\n\nPassage: {context}\n\nStatement:",
        "{hypothesis}", "inverted"),
    Template(
        "exam_author",
        "Text for an exam: {context}\n\nThe exam needs a sentence that pupils compare with this text. When they are "
        "asked if the sentence is true according to the text, the right reply must be \"{answer}\". Which sentence "
        "could be used?",
        "{hypothesis}", "inverted"),
)


def _anli(number: int, rows: int) -> Dataset:
    return Dataset(
        name=f"anli_r{number}",
        paper_dataset="ANLI (R1-R3)",
        cluster="nli",
        tfds=f"anli/r{number}:0.1.0",
        hub=Hub("facebook/anli", "plain_text", rename={"context": "premise"},
                splits={ours: f"{theirs}_r{number}"
                        for ours, theirs in (("train", "train"), ("validation", "dev"), ("test", "test"))}),
        licence="CC-BY-NC-4.0",
        commercial=False,
        licence_evidence="github.com/facebookresearch/anli, LICENSE",
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
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="SuperGLUE paper, section 3: may be used and passed on for research; no licence of its own",
    splits={"train": "train[:-50]", "validation": "train[-50:]", "test": "validation"},
    rows={"train": 200},
    fields=("premise", "hypothesis"),
    row=_cb_row,
    options=("yes", "no", "it is impossible to say"),  # entailment, contradiction, neutral
    metrics=("accuracy", "macro_f1"),
    templates=(
        Template(
            "judging_by_words",
            "{premise}\n\nJudging by these words, is it the case that {hypothesis}?\n{options}"),
        Template(
            "terse",
            "Discourse: {premise}\nTrue that {hypothesis}?\n{options}"),
        Template(
            "claim_first",
            "A person claims that {hypothesis}. All there is to go by is this scrap of talk or writing: {premise}\n"
            "Is the claim true?\n{options}"),
        Template(
            "options_first",
            "{options}\n\nYou have read the lines below and nothing else. Now you are asked whether {hypothesis}. "
            "What do you reply?\n\nThe lines: {premise}"),
        Template(
            "mentioned_or_meant",
            "People often mention a thing without saying that it is so: in a question, after 'if', as a wish or a "
            "doubt. Read the excerpt with that in mind. Is it treated as a fact that {hypothesis} (yes), as untrue "
            "(no), or is the matter left open (it is impossible to say)?\n{options}\n\nExcerpt: {premise}"),
        Template(
            "two_readers",
            "First reader: Here is what the page says. {premise}\nSecond reader: So tell me, is it right that "
            "{hypothesis}?\n{options}\nFirst reader:"),
        Template(
            "detective",
            "A detective goes through a piece of evidence line by line.\n\nEvidence: {premise}\n\nNote in the "
            "detective's book: find out if it is true that {hypothesis}.\n\nWhat answer does the evidence give?\n"
            "{options}"),
        Template(
            "clause_taken_out",
            "Text: {premise}\n\nA clause taken out of the text: {hypothesis}.\n\nTrusting whoever says or tells all "
            "this, is the clause true?\n{options}"),
        Template(
            "whether",
            "The question is whether {hypothesis}. Does the extract lead to a yes or a no, or does it make it "
            "impossible to say?\n\nExtract: {premise}\n{options}"),
        Template(
            "listening_test",
            "Listening test. You have a button for yes, one for no and one for when it is impossible to say. First "
            "the tape plays this: {premise}\n{options}\nVoice on the tape: Going by what you have just heard, is it "
            "true that {hypothesis}?\nButton to press:"),
        Template(
            "state_clause",
            "Find the thing that is said, asked, doubted, hoped or supposed in the last part of the passage and put "
            "it as a plain clause of its own. To the question whether that clause is true, going by the passage, the "
            "answer is: {answer}.\n\nPassage: {premise}\n\nClause:",
            "{hypothesis}", "inverted"),
    ),
)


RTE = Dataset(
    name="rte",
    paper_dataset="RTE",
    cluster="nli",
    tfds="super_glue/rte:1.0.2",
    hub=Hub("aps/super_glue", "rte"),
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="SuperGLUE paper, section 3: may be used and passed on for research; no licence of its own",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 2_290},
    fields=("premise", "hypothesis"),
    row=_rte_row,
    options=("yes", "no"),  # entailment, not_entailment
    metrics=("accuracy",),
    templates=(
        Template(
            "news_desk",
            "A news desk runs a headline only when the report under it bears it out.\n\nReport: {premise}\n\n"
            "Headline: {hypothesis}\n\nMay the headline run?\n{options}"),
        Template(
            "conclude",
            "{premise}\n\nHaving read that, can we conclude the following? {hypothesis}\n{options}"),
        Template(
            "hypothesis_first",
            "Somebody tells you this: {hypothesis}\nYou look it up and the only thing you find is this snippet: "
            "{premise}\nDoes the snippet confirm what you were told?\n{options}"),
        Template(
            "terse",
            "Text: {premise}\nHypothesis: {hypothesis}\nEntailed, yes or no?\n{options}"),
        Template(
            "options_first",
            "{options}\n\nSay whether the passage entails the conclusion that was drawn from it.\n\n"
            "Passage: {premise}\n\nConclusion: {hypothesis}"),
        Template(
            "essay_dialogue",
            "Student: The newspaper says: {premise}\nStudent: So in my essay I wrote: {hypothesis}\nStudent: Does my "
            "sentence follow from what the newspaper says?\n{options}\nTeacher:"),
        Template(
            "rule_explained",
            "One text entails another if an ordinary reader who believes the first would, for that reason, take the "
            "second to be true as well. Reply yes when that is so. Reply no in every other case: it makes no "
            "difference whether the second text is denied or merely finds no support.\n{options}\n\n"
            "First text: {premise}\n\nSecond text: {hypothesis}"),
        Template(
            "every_word_true",
            "Let us assume that every word of the dispatch is true.\nDispatch: {premise}\n\nMust the sentence that "
            "comes next be true as well? {hypothesis}\n{options}"),
        Template(
            "editor_signs",
            "An agency sent in these lines: {premise}\n\nAn editor who knows nothing else about the matter is handed "
            "a one-line version. Is it safe to sign it off as true?\n{options}\nOne-line version: {hypothesis}"),
        Template(
            "source_needed",
            "In an online reference work, this sentence is marked as lacking a source: {hypothesis}\nA volunteer "
            "proposes the passage below. Does it back up the whole sentence, so that the mark can be removed?\n"
            "{options}\n\nPassage: {premise}"),
        Template(
            "write_hypothesis",
            "Here is a short text: {premise}\n\nMake up one sentence to set beside it. Asked whether the sentence "
            "follows from the text, a careful reader has to reply: {answer}.\n\nSentence:",
            "{hypothesis}", "inverted"),
    ),
)


_MNLI_TEMPLATES = (
    Template(
        "said_and_summed_up",
        "One person said or wrote: {premise}\nAnother person puts forward: {hypothesis}\nIf the first of them is "
        "right, is the second right too?\n{options}"),
    Template(
        "premise_hypothesis",
        "Premise: {premise}\nHypothesis: {hypothesis}\nTaking the premise as true, is the hypothesis true?\n{options}"),
    Template(
        "interview",
        "Interviewer: On an earlier occasion you put it like this: {premise}\nInterviewer: Would it then be true to "
        "say the following? {hypothesis}\n{options}\nGuest:"),
    Template(
        "hypothesis_first",
        "Is the sentence in quotation marks true? \"{hypothesis}\"\nAll you may rely on is this line from a book, a "
        "report or a recorded talk: {premise}\n{options}"),
    Template(
        "options_first",
        "{options}\n\nAnswer one question about the pair below: given sentence one, is sentence two true?\n\n"
        "Sentence one: {premise}\nSentence two: {hypothesis}"),
    Template(
        "cases_spelt_out",
        "Picture a situation of which the opening sentence is an accurate account. If the closing sentence is then "
        "bound to be true, answer yes; if it is bound to be false, answer no; and if it could go either way, reply "
        "that it is not possible to tell.\n\nOpening sentence: {premise}\n\nClosing sentence: {hypothesis}\n\n"
        "{options}"),
    Template(
        "options_middle",
        "You trust the note below. Is the remark under it true?\n{options}\n\nNote: {premise}\nRemark: {hypothesis}"),
    Template(
        "archive_index",
        "An archive gives every line of its recordings and papers a short entry in the index.\n\nLine: {premise}\n"
        "Entry: {hypothesis}\n\nGoing by the line, is what the entry says true?\n{options}"),
    Template(
        "witness",
        "The witness declared: {premise}\nCounsel then put it to the court: {hypothesis}\nThe jury believes every "
        "word of the witness. For the jury, then, is what counsel said true?\n{options}"),
    Template(
        "one_fact_in_memory",
        "A program takes the single line in its memory as fact. It never replies no to a query merely because that "
        "line does not cover it.\nLine in memory: {premise}\n{options}\nQuery: is the following true? {hypothesis}\n"
        "Reply:"),
    Template(
        "second_of_pair",
        "A worksheet pairs sentences. The first of this pair is: {premise}\nThe key to the worksheet says that the "
        "right answer to \"Is the second sentence true, given the first?\" is: {answer}.\nWhat might the second "
        "sentence be?",
        "{hypothesis}", "inverted"),
)


def _mnli(kind: str, shares_training_with: str | None) -> Dataset:
    return Dataset(
        name=f"mnli_{kind}",
        paper_dataset="MNLI (m/mm)",
        cluster="nli",
        tfds="glue/mnli:2.0.0",
        hub=Hub("nyu-mll/glue", "mnli"),
        licence="LicenseRef-OANC AND CC-BY-3.0 AND CC-BY-SA-3.0",
        commercial=True,
        licence_evidence="MultiNLI paper, section 2.4: OANC's terms, fiction under CC BY 3.0 and CC BY-SA 3.0",
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": f"validation_{kind}"},
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
    licence="CC-BY-SA-4.0",
    commercial=True,
    licence_evidence="made of SQuAD 1.1, rajpurkar.github.io/SQuAD-explorer",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 104_540},
    fields=("question", "sentence"),
    row=_qnli_row,
    options=("yes", "no"),  # entailment: the sentence holds the answer; not_entailment: it does not
    metrics=("accuracy",),
    templates=(
        Template(
            "question_then_sentence",
            "Question: {question}\nSentence: {sentence}\nDoes the sentence contain the answer to the question?\n"
            "{options}"),
        Template(
            "encyclopedia_line",
            "This line comes from an encyclopedia: {sentence}\nA reader would like to know: {question}\nDoes the line "
            "tell the reader?\n{options}"),
        Template(
            "search_result",
            "Search query: {question}\nTop result: {sentence}\nCan the query be answered from this result alone?\n"
            "{options}"),
        Template(
            "library_desk",
            "Visitor: {question}\nLibrarian: All I have found is this sentence: {sentence}\nVisitor: Is what I asked "
            "answered there?\n{options}\nLibrarian:"),
        Template(
            "terse",
            "S: {sentence}\nQ: {question}\nAnswer given in S, yes or no?\n{options}"),
        Template(
            "options_first",
            "{options}\n\nSay whether somebody who has only the source sentence could answer what is asked.\n\n"
            "Asked: {question}\n\nSource sentence: {sentence}"),
        Template(
            "topic_is_not_enough",
            "A sentence can be on the subject of a question, and even use the same words, and still not give what was "
            "asked for. Answer yes only if the information wanted is really there.\n{options}\n\n"
            "Wanted: {question}\n\nOffered: {sentence}"),
        Template(
            "quiz_cards",
            "In a set of quiz cards, the front asks something and the back has to give the solution. A card whose back "
            "leaves the front unanswered is thrown out.\n\nFront: {question}\nBack: {sentence}\n\nShould this card "
            "stay in the set?\n{options}"),
        Template(
            "underlined",
            "In the chapter, a pupil has underlined this: {sentence}\nThe exercise was to underline the sentence that "
            "answers \"{question}\"\nHas the pupil picked a sentence that does so?\n{options}"),
        Template(
            "blacked_out",
            "On a page, everything has been blacked out except for one sentence: {sentence}\nDoes what is left give "
            "the answer to the question below?\n{options}\nQuestion: {question}"),
        Template(
            "write_question",
            "Sentence: {sentence}\n\nWrite a question on the same subject. When people are asked whether the sentence "
            "answers your question, they must be able to say: {answer}.\n\nQuestion:",
            "{question}", "inverted"),
    ),
)


WNLI = Dataset(
    name="wnli",
    paper_dataset="WNLI",
    cluster="nli",
    tfds="glue/wnli:2.0.0",
    hub=Hub("nyu-mll/glue", "wnli"),
    licence="CC-BY-4.0",
    commercial=True,
    licence_evidence="made of the Winograd schemas, cs.nyu.edu/~davise/papers/WinogradSchemas/WS.html",
    splits={"train": "train[:-30]", "validation": "train[-30:]", "test": "validation"},
    rows={"train": 600},
    fields=("sentence1", "sentence2"),
    row=_wnli_row,
    options=("no", "yes"),  # not_entailment, entailment
    metrics=("accuracy",),
    templates=(
        Template(
            "retold",
            "{sentence1}\n\nSomebody retells a part of this and says who or what is meant: {sentence2}\nHas it been "
            "understood correctly?\n{options}"),
        Template(
            "terse",
            "Original: {sentence1}\nPronoun filled in: {sentence2}\nRight reading, yes or no?\n{options}"),
        Template(
            "reading_first",
            "\"{sentence2}\"\nThat is how one reader took a detail of the text below. Is the reader right?\n\n"
            "Text: {sentence1}\n{options}"),
        Template(
            "language_class",
            "Teacher: Our example today is: {sentence1}\nPupil: I think it tells us this: {sentence2}\nPupil: Did I "
            "work out properly what the little word stands for?\n{options}\nTeacher:"),
        Template(
            "options_first",
            "{options}\n\nDecide whether the second line must be true if the first line is read in the way that makes "
            "sense.\n\nFirst line: {sentence1}\nSecond line: {sentence2}"),
        Template(
            "common_sense",
            "Words such as it, he, she and they often have two things or people that they could point to, and only "
            "common sense shows which of them is meant. In the interpretation given here, such a word has been "
            "replaced. Reply yes if the replacement is the one that was meant, and no if it is another.\n{options}\n\n"
            "Passage: {sentence1}\n\nInterpretation: {sentence2}"),
        Template(
            "true_in_story",
            "Here is a very short story. {sentence1}\n\nIs the next sentence true in the story?\n{options}\n"
            "Next sentence: {sentence2}"),
        Template(
            "translator",
            "Before she starts, a translator writes down what she takes an unclear word to refer to.\n\nTo be "
            "translated: {sentence1}\nHer note: {sentence2}\n\nWill the translation be right if she goes by her note?\n"
            "{options}"),
        Template(
            "author_asked",
            "An author wrote: {sentence1}\nAn editor asks the author in the margin: by that, do you mean the "
            "following? {sentence2}\nWhat does the author reply?\n{options}"),
        Template(
            "household_robot",
            "A household robot stores what it hears as simple facts. It has just stored this one: {sentence2}\nHas "
            "the robot understood the speaker as a person would?\n{options}\nThe speaker's words: {sentence1}"),
        Template(
            "fill_pronoun",
            "Repeat, as a short sentence, the part of the text that leaves open who or what is meant, with a name or "
            "a noun in place of the unclear word. Asked if the text really says so, one would have to answer: "
            "{answer}.\n\nText: {sentence1}\n\nShort sentence:",
            "{sentence2}", "inverted"),
    ),
)


SNLI = Dataset(
    name="snli",
    paper_dataset="SNLI",
    cluster="nli",
    tfds="snli:1.1.0",
    hub=Hub("stanfordnlp/snli", "plain_text"),
    licence="CC-BY-SA-4.0",
    commercial=True,
    licence_evidence="nlp.stanford.edu/projects/snli",
    splits={"train": "train", "validation": "validation[:200]", "test": "test"},
    rows={"train": 549_360},
    fields=("premise", "hypothesis"),
    row=_three_way_row,
    options=("yes", "it is not possible to tell", "no"),  # entailment, neutral, contradiction
    metrics=("accuracy",),
    templates=(
        Template(
            "photo_caption",
            "The caption of a photo reads: {premise}\nIs this true of the photo? {hypothesis}\n{options}"),
        Template(
            "picture_dialogue",
            "Ana: I can't see the picture from here. What is in it?\nBen: {premise}\nAna: So would I be right if I "
            "said this about it? {hypothesis}\n{options}\nBen:"),
        Template(
            "statement_first",
            "A statement about a scene: {hypothesis}\nAn account by someone who was looking at that scene: {premise}\n"
            "Is the statement true?\n{options}"),
        Template(
            "options_first",
            "{options}\n\nCompare the guess with the description of the snapshot. Is the guess true?\n\n"
            "Description: {premise}\nGuess: {hypothesis}"),
        Template(
            "same_moment",
            "A photographer described a shot in a few words. Later, somebody made a remark about the same shot: the "
            "same people, the same things, the same moment. The remark may have to be true (yes), it may be ruled out "
            "(no), or the description may leave it open (it is not possible to tell).\n\nDescription: {premise}\n"
            "Remark: {hypothesis}\n\nWhich of the three applies?\n{options}"),
        Template(
            "terse",
            "Scene: {premise}\nIs it so? {hypothesis}\n{options}"),
        Template(
            "alt_text",
            "You look after the image descriptions of a website. A visitor has left a comment on one of the images."
            "\n\nImage description: {premise}\nComment: {hypothesis}\n\nGoing by the image description, is the comment "
            "correct?\n{options}"),
        Template(
            "options_middle",
            "Imagine seeing just this: {premise}\nA line is added. Is it true of what you are seeing?\n{options}\n"
            "Added line: {hypothesis}"),
        Template(
            "camera_log",
            "An entry in the log of a camera reads: {premise}\nThe footage itself is lost. A supervisor who has "
            "only the entry is asked if the following was true at that moment: {hypothesis}\n{options}\n"
            "The supervisor answers:"),
        Template(
            "blindfold_game",
            "Party game. A blindfolded player is told one line about a picture and then has to add something of her "
            "own. She adds: {hypothesis}\nThe referee, who has not seen the picture either, knows only the line she "
            "was told. Is what she added true?\n{options}\nThe line she was told: {premise}"),
        Template(
            "write_statement",
            "What a photo shows: {premise}\n\nWrite a sentence about the same photo. Anyone who knows only the words "
            "above and is asked if your sentence is true should answer: {answer}.",
            "{hypothesis}", "inverted"),
        Template(
            "write_caption",
            "Write the caption of a photo. After reading your caption, people will be asked whether a certain sentence "
            "is true of the photo, and their answer should be: {answer}.\n\nThe sentence: {hypothesis}\n\nCaption:",
            "{premise}", "inverted"),
    ),
)


# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (ANLI_R1, ANLI_R2, ANLI_R3, CB, RTE, MNLI_MATCHED, MNLI_MISMATCHED, QNLI, WNLI, SNLI)
