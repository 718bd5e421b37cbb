"""Commonsense: choose the event, the ending or the method that the everyday world makes plausible.

All four datasets bring their options with the row: COPA two events, HellaSwag four endings, PIQA two ways to reach
a goal, StoryCloze two last sentences.
"""

import re

from flan_jax.data.catalogue import FROM_ROW, Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import csv_field, detokenised, lines, one_line

# The section marks that HellaSwag keeps from its how-to guides.
_GUIDE_MARK = re.compile(r"\[(?:header|title|step|substeps?)\]")
# The first letter of the sentence in which a HellaSwag text about a video breaks off: it comes in lower case.
_LAST_START = re.compile(r"(?<=[.!?] )[a-z](?=[^.!?]*$)")
# Last words of PIQA goals that the solutions continue.
_UNFINISHED = re.compile(r"\b(?:can|could|should|must|will|may|you|is|are|by|to|the|a|an|and|or)$")
_COPA_QUESTIONS = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}


def _ended(text):
    """The text with a full stop, unless it ends in a mark of its own; a comma at the end gives way."""
    text = one_line(text).rstrip(" ,")
    return text if not text or text[-1] in ".?!:;\"'" else text + "."


def _choice(fields, options, label):
    """The row of a multiple choice, or why it cannot be used."""
    if not 0 <= label < len(options):
        return Drop("no gold label")
    if not all(fields.values()) or not all(options):
        return Drop("empty text")
    if len(set(options)) < len(options):
        return Drop("two equal options")
    return {**fields, "options": list(options), "label": int(label)}


def _copa_row(raw):
    relation = raw["question"].strip()
    if relation not in _COPA_QUESTIONS:
        return Drop("neither cause nor effect")
    fields = {"premise": _ended(raw["premise"]), "question": _COPA_QUESTIONS[relation], "relation": relation}
    return _choice(fields, [one_line(raw["choice1"]), one_line(raw["choice2"])], raw["label"])


COPA = Dataset(
    name="copa",
    paper_dataset="CoPA",
    cluster="commonsense",
    tfds="super_glue/copa:1.0.2",
    hub=Hub("aps/super_glue", "copa"),
    licence="BSD-2-Clause",
    commercial=True,
    licence_evidence="people.ict.usc.edu/~gordon/copa.html",
    splits={"train": "train[:-50]", "validation": "train[-50:]", "test": "validation"},
    rows={"train": 350},
    fields=("premise", "question", "relation"),
    evidence=("premise", "question"),
    row=_copa_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=(
        Template("question_last", "Here is something that happened: {premise} {question}\n{options}"),
        Template(
            "link_missing",
            "An event and its {relation} belong together, but only the event is known: {premise}\n"
            "Supply the other half. {question}\n{options}"),
        Template(
            "options_first",
            "{options}\nEvent: {premise}\nQuestion: {question}\nReply with the most sensible answer."),
        Template(
            "two_friends",
            "Ana: {premise}\nBen: Really? {question}\n{options}\nWhat is Ana most likely to tell him?"),
        Template(
            "curious_child",
            "A child hears someone say \"{premise}\" and wants to know more. {question} "
            "Give the child the answer that makes the most sense.\n{options}"),
        Template(
            "observation",
            "Exercise in causal reasoning. Observation: {premise} Think about how the world works before you reply. "
            "{question}\n{options}"),
        Template(
            "story_line",
            "A very short story has one line so far: {premise} The author still needs a line that tells the "
            "{relation}.\n{options}\nWhat should it be? In other words: {question}"),
        Template("terse", "Event: {premise}\n{question}\nMore plausible {relation}:\n{options}"),
        Template(
            "question_first",
            "{question} Use common sense to answer, and mind that a loose connection is not enough.\n"
            "What we know: {premise}\n{options}"),
        Template(
            "cause_or_effect",
            "First event: {premise}\nSecond event: {answer}\n"
            "Is the second event the cause or the effect of the first?",
            "{relation}",
            "inverted"),
    ),
)


def _plain_guide(text):
    """A HellaSwag text without its section marks; each section ends as a sentence."""
    parts = [part.strip() for part in _GUIDE_MARK.split(one_line(detokenised(text)))]
    parts = [part for part in parts if part]
    return " ".join([_ended(part) for part in parts[:-1]] + [one_line(part) for part in parts[-1:]])


def _hellaswag_row(raw):
    context = _LAST_START.sub(lambda letter: letter[0].upper(), _plain_guide(raw["context"]))
    fields = {"context": context, "topic": one_line(raw["activity_label"])}
    endings = [_plain_guide(ending).lstrip(" ,") for ending in raw["endings"]]
    return _choice(fields, endings, raw["label"])


def _hellaswag_hub_row(raw):
    # The hub's label is a text, empty where there is none.
    return {**raw, "label": int(raw["label"] or -1)}


HELLASWAG = Dataset(
    name="hellaswag",
    paper_dataset="HellaSwag",
    cluster="commonsense",
    tfds="hellaswag:1.1.0",
    hub=Hub("Rowan/hellaswag", rename={"context": "ctx"}, row=_hellaswag_hub_row),
    licence="MIT",
    commercial=True,
    licence_evidence="github.com/rowanz/hellaswag, LICENSE",
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
            "What is the most likely way for this text to go on?\n\n{context}\n{options}"),
        Template(
            "breaks_off",
            "A text breaks off after these words: \"{context}\"\n{options}\n"
            "Finish it in the way that fits ordinary experience best."),
        Template(
            "with_topic",
            "Topic: {topic}. Continue the unfinished text so that it stays sensible and on topic.\n"
            "Text so far: {context}\n{options}"),
        Template("options_first", "{options}\nWhich ending belongs to the passage \"{context}\"?"),
        Template(
            "clip_writer",
            "You are writing a text to go with a short clip. Its subject: {topic}. You already have this: "
            "\"{context}\" How should the text carry on?\n{options}"),
        Template(
            "torn_page",
            "Mia: After the words \"{context}\" the page is torn off. What do you think came next?\n"
            "Tom: Only one ending makes sense to me.\n{options}"),
        Template(
            "nonsense_aside",
            "Plenty of endings would be nonsense here, but one follows naturally. Give that one.\n"
            "Beginning: {context}\n{options}"),
        Template("terse", "Complete with common sense: {context}\n{options}"),
        Template(
            "robot_prediction",
            "A robot was given this beginning: \"{context}\" It has to predict the rest. Its prediction must be "
            "physically possible and keep to the subject, which is \"{topic}\". What does a good robot predict?\n"
            "{options}"),
        Template(
            "name_the_topic",
            "Give a short label, as a video archive or a collection of guides would use it, for the activity or "
            "subject of this text: {context} {answer}",
            "{topic}",
            "inverted"),
    ),
)


def _piqa_row(raw):
    solutions = [one_line(raw["sol1"]), one_line(raw["sol2"])]
    # The solution that is not right: only the turned-around template shows it, beside the right one.
    goal = one_line(raw["goal"])
    goal = f"{goal} ..." if _UNFINISHED.search(goal) else _ended(goal)
    goal = goal[:1].upper() + goal[1:]
    return _choice({"goal": goal, "mistake": solutions[raw["label"] == 0]}, solutions, raw["label"])


PIQA = Dataset(
    name="piqa",
    paper_dataset="PiQA",
    cluster="commonsense",
    tfds="piqa:1.0.0",
    hub=Hub("baber/piqa"),
    licence="AFL-3.0",
    commercial=True,
    licence_evidence="github.com/ybisk/ybisk.github.io, piqa; the card on the hub says unknown",
    splits={"train": "train[:-100]", "validation": "train[-100:]", "test": "validation"},
    rows={"train": 16010},
    fields=("goal", "mistake"),
    evidence=("goal",),
    row=_piqa_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=(
        Template("practical_way", "{goal} What is a practical way to do this?\n{options}"),
        Template(
            "household_advice",
            "Household advice wanted. Here is the goal: {goal} Which method would really work?\n{options}"),
        Template(
            "options_first",
            "{options}\nSomebody who knows how things behave in the real world is asked for help with this: {goal} "
            "What do they advise?"),
        Template(
            "hardware_shop",
            "Customer: I need some help. {goal}\nShop assistant: I have done that many times.\n{options}\n"
            "What does the assistant tell the customer to do?"),
        Template(
            "handbook_heading",
            "You are editing a handbook of everyday tips. Under the heading \"{goal}\" print a tip that does "
            "the job.\n{options}"),
        Template(
            "think_of_materials",
            "Think of the objects involved, their shapes, sizes and materials, and of what happens when they are "
            "used. Task: {goal} Which solution is right?\n{options}"),
        Template("my_aim", "Here is what I would like to do or to know: {goal}\n{options}\nTell me what I should try."),
        Template("terse", "Goal: {goal}\nSolution that works:\n{options}"),
        Template(
            "forum_moderator",
            "The moderator of a do-it-yourself forum removes replies that would fail or make a mess, and keeps the "
            "correct one. Which reply to the post \"{goal}\" is kept?\n{options}"),
        Template(
            "goal_from_solution",
            "A manual says what to do: \"{answer}\" It also warns of a way that fails: \"{mistake}\" Write the goal "
            "that somebody who follows the manual wants to reach, or the question that the manual answers.",
            "{goal}",
            "inverted"),
    ),
)


def _story_cloze_row(raw):
    # The label counts from one; -1 stands for none.
    endings = [one_line(csv_field(ending)) for ending in raw["endings"]]
    return _choice({"context": lines(csv_field(raw["context"]))}, endings, raw["label"] - 1)


STORY_CLOZE = Dataset(
    name="story_cloze",
    paper_dataset="StoryCloze",
    cluster="commonsense",
    tfds="story_cloze/2016:1.0.0",
    hub=None,
    licence="LicenseRef-StoryCloze-on-request",
    commercial=None,
    licence_evidence="cs.rochester.edu/nlp/rocstories: given out by form, no licence stated",
    splits={"train": "validation[:-200]", "validation": "validation[-200:]", "test": "test"},
    rows={"train": 1670},
    manual="Ask for the data with the form at https://www.cs.rochester.edu/nlp/rocstories/. Rename the 2016 files to "
    "cloze_test_val__spring2016.csv and cloze_test_test__spring2016.csv and put both into the manual folder of "
    "TensorFlow Datasets.",
    fields=("context",),
    row=_story_cloze_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=(
        Template("question_last", "{context} How does this story end?\n{options}"),
        Template(
            "fifth_sentence",
            "Read the first four sentences of a five-sentence story and give the fifth.\n\n{context}\n{options}"),
        Template(
            "options_first",
            "{options}\nStory: {context} Close it with the sentence that agrees with everything told before."),
        Template(
            "bedtime",
            "Grandmother: {context}\nChild: And what happened in the end?\n{options}\n"
            "Write what the grandmother says next."),
        Template(
            "forgetful_pupil",
            "A pupil wrote a story and forgot the final sentence. \"{context}\" Supply an ending that is right in "
            "tone and logic.\n{options}"),
        Template(
            "wants_and_feelings",
            "Think of what the people in this story want and feel, then say what probably happens last.\n\n"
            "{context}\n{options}"),
        Template("terse", "Beginning: {context}\nRight ending:\n{options}"),
        Template(
            "two_drafts",
            "Two drafts of a tiny story differ only in the closing line. One draft makes sense, while the other "
            "clashes with the plot. The part they share is this: {context}\n{options}\n"
            "How does the sensible draft close?"),
        Template(
            "closing_scene",
            "Imagine that you are filming this short plot: {context} What should the closing scene show?\n{options}"),
        Template(
            "story_last",
            "What is a coherent conclusion to the story told below?\n{options}\nThe story: {context}"),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (COPA, HELLASWAG, STORY_CLOZE, PIQA)
