"""Commonsense: choose the event, the ending or the method that the everyday world makes plausible.

All four datasets bring their options with the row: COPA two events, HellaSwag four endings, PIQA
two ways to reach a goal, StoryCloze two last sentences.
"""

import re
from collections.abc import Sequence
from typing import Any

from flan_jax.catalogue import FROM_ROW, Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import csv_field, detokenized, lines, one_line

# The section marks that HellaSwag keeps from its how-to guides.
_GUIDE_MARK = re.compile(r"\[(?:header|title|step|substeps?)\]")
# The first letter of the sentence in which a HellaSwag text about a video breaks off: it comes in
# lower case.
_LAST_START = re.compile(r"(?<=[.!?] )[a-z](?=[^.!?]*$)")
# Last words of PIQA goals that the solutions continue; others end in a comma.
_UNFINISHED = re.compile(r"\b(?:can|could|should|must|will|may|you|is|are|by|to|the|a|an|and|or)$")
_COPA_QUESTIONS = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}


def _ended(text: str) -> str:
    """The text with a full stop, unless it ends in another mark; a final comma is replaced."""
    text = one_line(text).rstrip(" ,")
    return text if not text or text[-1] in ".?!:;\"'" else text + "."


def _choice(fields: dict[str, str], options: Sequence[str], label: int) -> dict[str, Any] | Drop:
    """The row of a multiple choice, or why it cannot be used."""
    if not 0 <= label < len(options):
        return Drop("no gold label")
    if not all(fields.values()) or not all(options):
        return Drop("empty text")
    if len(set(options)) < len(options):
        return Drop("two equal options")
    return {**fields, "options": list(options), "label": int(label)}


def _copa_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    relation = raw["question"].strip()
    if relation not in _COPA_QUESTIONS:
        return Drop("neither cause nor effect")
    fields = {
        "premise": _ended(raw["premise"]),
        "question": _COPA_QUESTIONS[relation],
        "relation": relation,
    }
    return _choice(fields, [one_line(raw["choice1"]), one_line(raw["choice2"])], raw["label"])


COPA = Dataset(
    name="copa",
    paper_dataset="CoPA",
    cluster="commonsense",
    tfds="super_glue/copa:1.0.2",
    hub=Hub("aps/super_glue", "copa"),
    license="BSD-2-Clause",
    commercial=True,
    license_evidence="people.ict.usc.edu/~gordon/copa.html",
    splits={"train": "train[:-50]", "validation": "train[-50:]", "test": "validation"},
    rows={"train": 350},
    fields=("premise", "question", "relation"),
    evidence=("premise", "question"),
    row=_copa_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=(
        Template("question_last", "All I know is this: {premise}\n{question}\n{options}"),
        Template(
            "relation_unknown", "Known: {premise}\nUnknown: its {relation}\n{question}\n{options}"
        ),
        Template(
            "options_first",
            (
                "{options}\nEvent: {premise}\nQuestion: {question}\nReply with the most sensible "
                "answer."
            ),
        ),
        Template("ana_and_ben", "Ana: {premise}\nBen: {question}\n{options}\nAna:"),
        Template("everyday_life", "Think of everyday life.\n{premise}\n{question}\n{options}"),
        Template(
            "causal_question", "Observation: {premise}\nCausal question: {question}\n{options}"
        ),
        Template(
            "line_of_story",
            "Story: {premise}\n{question}\n{options}\nLine that tells the {relation}:",
        ),
        Template("terse", "{premise}\n{question}\nMost likely:\n{options}"),
        Template(
            "direct_link",
            "{premise}\n{question}\nLook for a direct link, not a loose one.\n{options}",
        ),
        Template("event_last", "{question}\n{options}\nThe event was this: {premise}"),
        Template(
            "cause_or_effect",
            "First event: {premise}\nSecond event: {answer}\n"
            "Is the second event the cause or the effect of the first?",
            "{relation}",
            "inverted",
        ),
    ),
)


def _plain_guide(text: str) -> str:
    """A HellaSwag text without its section marks; each section ends as a sentence."""
    parts = [part.strip() for part in _GUIDE_MARK.split(one_line(detokenized(text)))]
    parts = [part for part in parts if part]
    return " ".join([_ended(part) for part in parts[:-1]] + [one_line(part) for part in parts[-1:]])


def _hellaswag_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    context = _LAST_START.sub(lambda letter: letter[0].upper(), _plain_guide(raw["context"]))
    fields = {"context": context, "topic": one_line(raw["activity_label"])}
    endings = [_plain_guide(ending).lstrip(" ,") for ending in raw["endings"]]
    return _choice(fields, endings, raw["label"])


def _hellaswag_hub_row(raw: dict[str, Any]) -> dict[str, Any]:
    # The hub's label is a text, empty where there is none.
    return {**raw, "label": int(raw["label"] or -1)}


HELLASWAG = Dataset(
    name="hellaswag",
    paper_dataset="HellaSwag",
    cluster="commonsense",
    tfds="hellaswag:1.1.0",
    hub=Hub("Rowan/hellaswag", rename={"context": "ctx"}, row=_hellaswag_hub_row),
    license="MIT",
    commercial=True,
    license_evidence="github.com/rowanz/hellaswag, LICENSE",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
    rows={"train": 39700},
    fields=("context", "topic"),
    evidence=("context",),
    row=_hellaswag_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=(
        Template(
            "how_it_goes_on",
            "What is the most likely way for this text to go on?\n\n{context}\n{options}",
        ),
        Template(
            "as_things_happen",
            "Finish this the way such things usually happen.\n\n{context}\n{options}",
        ),
        Template(
            "topic_and_text", "What comes next?\nTopic: {topic}\nText so far: {context}\n{options}"
        ),
        Template(
            "ending_of_passage", "{options}\nWhich ending belongs to this passage?\n{context}"
        ),
        Template(
            "on_the_subject",
            "Subject: {topic}\n{context}\n{options}\nContinuation that stays on the subject:",
        ),
        Template(
            "end_missing", "The end of this text is missing. What was it?\n{context}\n{options}"
        ),
        Template(
            "no_nonsense", "Continue this without any nonsense.\nBeginning: {context}\n{options}"
        ),
        Template("terse", "Complete with common sense: {context}\n{options}"),
        Template(
            "physically_possible",
            "What is physically possible and likely after this?\n{context}\n{options}",
        ),
        Template("remaining_text", "Unfinished: {context}\n{options}\nRemaining text:"),
        Template(
            "name_the_activity",
            "{context} {answer}\n\nWhich activity or subject is this about? Give a short label.",
            "{topic}",
            "inverted",
        ),
    ),
)


def _piqa_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    solutions = [one_line(raw["sol1"]), one_line(raw["sol2"])]
    # The wrong solution: only the inverted template shows it, beside the right one.
    goal = one_line(raw["goal"])
    goal = (
        f"{goal.rstrip(' ,')} ..."
        if _UNFINISHED.search(goal) or goal.endswith(",")
        else _ended(goal)
    )
    goal = goal[:1].upper() + goal[1:]
    return _choice({"goal": goal, "mistake": solutions[raw["label"] == 0]}, solutions, raw["label"])


PIQA = Dataset(
    name="piqa",
    paper_dataset="PiQA",
    cluster="commonsense",
    tfds="piqa:1.0.0",
    hub=Hub("baber/piqa", assumed=True),
    license="AFL-3.0",
    commercial=True,
    license_evidence="github.com/ybisk/ybisk.github.io, piqa; the card on the hub says unknown",
    splits={"train": "train[:-100]", "validation": "train[-100:]", "test": "validation"},
    rows={"train": 16010},
    fields=("goal", "mistake"),
    evidence=("goal",),
    row=_piqa_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=(
        Template(
            "holds_up_in_practice",
            "Everyday task or question: {goal}\nWhat holds up in practice?\n{options}",
        ),
        Template("sound_advice", "{goal}\n{options}\nSound advice:"),
        Template("options_then_goal", "{options}\nWhat is the practical answer to this?\n{goal}"),
        Template("looked_up", "I looked this up: {goal}\nWhich tip is right?\n{options}"),
        Template(
            "book_entry",
            "Entry in a book of everyday tips: {goal}\nHow does the entry go on?\n{options}",
        ),
        Template(
            "objects_and_materials",
            "{goal}\nThink of the objects and materials. What is correct?\n{options}",
        ),
        Template(
            "help_with_this", "I need help with this: {goal}\n{options}\nWhat should I know or do?"
        ),
        Template("prompt_and_response", "Prompt: {goal}\nSensible response:\n{options}"),
        Template("reply_that_works", "Wanted: a reply that really works.\n{goal}\n{options}"),
        Template("experience_says", "What does practical experience say?\n{goal}\n{options}"),
        Template(
            "goal_of_both",
            (
                "Right: {answer}\nWrong: {mistake}\n\nWrite the task, question or opening words "
                "that both belong to."
            ),
            "{goal}",
            "inverted",
        ),
    ),
)


def _story_cloze_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    # Labels count from 1; -1 means that there is none.
    endings = [one_line(csv_field(ending)) for ending in raw["endings"]]
    return _choice({"context": lines(csv_field(raw["context"]))}, endings, raw["label"] - 1)


STORY_CLOZE = Dataset(
    name="story_cloze",
    paper_dataset="StoryCloze",
    cluster="commonsense",
    tfds="story_cloze/2016:1.0.0",
    hub=None,
    license="LicenseRef-StoryCloze-on-request",
    commercial=None,
    license_evidence="cs.rochester.edu/nlp/rocstories: given out by form, no license stated",
    splits={"train": "validation[:-200]", "validation": "validation[-200:]", "test": "test"},
    rows={"train": 1670},
    manual="Ask for the data with the form at https://www.cs.rochester.edu/nlp/rocstories/. "
    "Rename the 2016 files to "
    "cloze_test_val__spring2016.csv and cloze_test_test__spring2016.csv and put both into the "
    "manual folder of "
    "TensorFlow Datasets.",
    fields=("context",),
    row=_story_cloze_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=(
        Template("natural_end", "{context}\n\nWhat would be the natural end of that?\n{options}"),
        Template("fifth", "Give the fifth sentence of this story.\n\n{context}\n{options}"),
        Template(
            "agrees_with_story",
            "{options}\nWhich last sentence agrees with everything in the story?\n{context}",
        ),
        Template(
            "grandmother",
            "Grandmother: {context}\nChild: And what happened in the end?\n{options}\nGrandmother:",
        ),
        Template(
            "final_sentence_missing",
            "The final sentence of this story got lost. What did it say?\n{context}\n{options}",
        ),
        Template(
            "what_they_want",
            "Think of what these people want and feel. What happens last?\n\n{context}\n{options}",
        ),
        Template("terse", "Beginning: {context}\nRight ending:\n{options}"),
        Template(
            "closing_line", "{context}\n{options}\nClosing line that does not clash with the plot:"
        ),
        Template("last_scene", "Plot: {context}\nWhat does the closing scene show?\n{options}"),
        Template(
            "story_last",
            (
                "What is a coherent conclusion to the story told below?\n{options}\nThe story: "
                "{context}"
            ),
        ),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (COPA, HELLASWAG, STORY_CLOZE, PIQA)
