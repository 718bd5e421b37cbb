"""Coreference: SuperGLUE WSC, Winogrande, definite pronoun resolution and, for evaluation only, WSC273.

A pronoun that is asked about stands in square brackets in its text, so that it is clear which one is meant where
the same pronoun occurs more than once.
"""

import re

from flan_jax.data.catalogue import FROM_ROW, Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import detokenised, ended


def _mark(text, pronoun):
    """The text with the first occurrence of the pronoun in brackets; the text itself where it does not occur."""
    whole = rf"(?<!\w){re.escape(pronoun)}(?!\w)"
    found = re.search(whole, text) or re.search(whole, text, re.IGNORECASE)
    return f"{text[:found.start()]}[{found.group()}]{text[found.end():]}" if found else text


def _mark_word(text, pronoun, index):
    """The text with the pronoun in brackets that is, or begins, the word at this index."""
    words = text.split()
    if index < len(words) and words[index].lower().startswith(pronoun.lower()):
        size = len(pronoun)
        words[index] = f"[{words[index][:size]}]{words[index][size:]}"
        return " ".join(words)
    return _mark(text, pronoun)


def _as_in(text, phrase):
    """The phrase with a small first letter if it occurs so in the text and not with a capital one."""
    small = phrase[:1].lower() + phrase[1:]
    return small if phrase not in text and small in text else phrase


def _small_article(phrase):
    """The phrase without the capital letter that its article has at the head of a sentence."""
    return re.sub(r"^(?:The|An?)(?= )", lambda found: found.group().lower(), phrase)


def _wsc_row(raw):
    text, noun, pronoun = raw["text"], detokenised(raw["span1_text"]), raw["span2_text"].strip().rstrip(".,;:!?\"'")
    if raw["label"] not in (0, 1):
        return Drop("no gold label")
    if not (text.strip() and noun and pronoun):
        return Drop("empty text, noun or pronoun")
    sentence = detokenised(_mark_word(text, pronoun, raw["span2_index"]))
    if "[" not in sentence:
        return Drop("the pronoun is not in the text")
    sentence = ended(sentence)
    return {"sentence": sentence, "noun": _as_in(detokenised(text), noun), "pronoun": pronoun, "label": raw["label"]}


def _winogrande_row(raw):
    before, *after = detokenised(raw["sentence"]).split("_")
    if raw["label"] not in (0, 1):
        return Drop("no gold label")
    if not after:
        return Drop("no blank in the sentence")
    if len(after) > 1:
        return Drop("more than one blank in the sentence")
    context = before.strip()
    options = [raw[name].strip() + after[0] for name in ("option1", "option2")]
    if not context or not raw["option1"].strip() or not raw["option2"].strip():
        return Drop("empty context or option")
    if options[0] == options[1]:
        return Drop("the two options are the same")
    return {"context": context, "options": options, "label": raw["label"]}


def _winogrande_hub_row(raw):
    # The hub names the right option '1' or '2', and gives '' where that is a secret.
    return {**raw, "label": int(raw["answer"] or 0) - 1}


def _dpr_row(raw):
    sentence, pronoun = ended(detokenised(raw["sentence"])), raw["pronoun"].strip()
    options = [_small_article(c.strip()) for c in raw["candidates"]]
    if raw["label"] not in (0, 1):
        return Drop("no gold label")
    if not (sentence and pronoun and all(options)):
        return Drop("empty sentence, pronoun or candidate")
    return {"sentence": _mark(sentence, pronoun), "pronoun": pronoun, "options": options, "label": raw["label"]}


def _wsc273_row(raw):
    text, pronoun = raw["text"], raw["pronoun_text"].strip()
    start, end = raw["pronoun_start"], raw["pronoun_end"]
    text = f"{text[:start]}[{pronoun}]{text[end:]}" if text[start:end] == pronoun else _mark(text, pronoun)
    options = [raw["option1_normalized"].strip(), raw["option2_normalized"].strip()]
    if raw["label"] not in (0, 1):
        return Drop("no gold label")
    if not (pronoun and all(options)):
        return Drop("empty pronoun or option")
    return {"text": ended(detokenised(text)), "pronoun": pronoun, "options": options, "label": raw["label"]}


def _wsc273_hub_row(raw):
    """The hub gives where the pronoun begins, and the options as a sentence would begin with them."""
    options = [option.strip() for option in raw["options"]]
    if raw["pronoun"][:1].islower():
        options = [re.sub(r"^(?:The|An?|My|Your|His|Her|Our|Their)(?= )", lambda found: found.group().lower(), option)
                   for option in options]
    return {**raw, "pronoun_text": raw["pronoun"], "pronoun_start": raw["pronoun_loc"],
            "pronoun_end": raw["pronoun_loc"] + len(raw["pronoun"]),
            "option1_normalized": options[0], "option2_normalized": options[1]}


WSC = Dataset(
    name="wsc",
    paper_dataset="WSC273",
    cluster="coreference",
    tfds="super_glue/wsc:1.0.2",
    hub=Hub("aps/super_glue", "wsc"),
    licence="CC-BY-4.0",
    commercial=True,
    licence_evidence="cs.nyu.edu/~davise/papers/WinogradSchemas/WS.html",
    splits={"train": "train[:-50]", "validation": "train[-50:]", "test": "validation"},
    rows={"train": 500, "test": 104},
    fields=("sentence", "noun", "pronoun"),
    row=_wsc_row,
    options=("no", "yes"),
    metrics=("accuracy",),
    templates=(
        Template(
            id="text_then_question",
            inputs='{sentence}\nIn this text, does the bracketed word "{pronoun}" refer to "{noun}"?\n{options}'),
        Template(
            id="check_claim",
            inputs='Text: {sentence}\nClaim: the word "{pronoun}" in brackets refers to "{noun}".\n'
            "Is the claim right?\n{options}"),
        Template(
            id="question_first",
            inputs='Does "{pronoun}" stand for "{noun}" in the passage that follows?\n{options}\nPassage: {sentence}'),
        Template(
            id="replacement_test",
            inputs='Suppose that "{noun}", in whatever form the grammar asks for, took the place of the bracketed '
            'pronoun "{pronoun}". Would the text still mean what its author wanted to say?\n{sentence}\n{options}'),
        Template(
            id="teacher_dialogue",
            inputs='Pupil: I have read this: "{sentence}" I believe that "{pronoun}" points to "{noun}". Is that '
            "correct?\n{options}\nTeacher:"),
        Template(
            id="options_first",
            inputs='{options}\nDo the phrase "{noun}" and the word "{pronoun}" in brackets denote the same person or '
            "thing here?\n{sentence}"),
        Template(
            id="terse",
            inputs='{sentence} Pronoun: "{pronoun}". Candidate: "{noun}". Match?\n{options}'),
        Template(
            id="annotator",
            inputs='You annotate coreference. Decide whether to link the pronoun "{pronoun}", set in brackets, to the '
            'phrase "{noun}".\nText to annotate: {sentence}\nShould they be linked?\n{options}'),
        Template(
            id="yes_or_no",
            inputs='Answer with yes or no: by "{pronoun}", set in brackets below, does the writer mean "{noun}"?\n'
            "{sentence}\n{options}"),
        Template(
            id="translator",
            inputs="A translator has to know what a pronoun means before finding a word for it in another language. "
            'Here the pronoun is "{pronoun}", in brackets: {sentence} The translator takes it to mean "{noun}". Is '
            "the translator right about that?\n{options}"),
    ),
)

WINOGRANDE = Dataset(
    name="winogrande",
    paper_dataset="Winogrande",
    cluster="coreference",
    tfds="winogrande:1.2.0",
    hub=Hub("allenai/winogrande", "winogrande_xl", splits={"train_xl": "train"}, row=_winogrande_hub_row),
    licence="LicenseRef-CC-BY",
    commercial=True,
    licence_evidence="github.com/allenai/winogrande: the dataset under CC-BY, without a version",
    splits={"train": "train_xl[:-200]", "validation": "train_xl[-200:]", "test": "validation"},
    rows={"train": 40_190, "test": 1_267},
    fields=("context",),
    row=_winogrande_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=(
        Template(
            id="finish_sentence",
            inputs="Finish the text so that it makes sense: {context}\n{options}"),
        Template(
            id="context_first",
            inputs="{context} ...\nHow does this most plausibly go on?\n{options}"),
        Template(
            id="question_first",
            inputs="Which ending agrees with common sense?\n{options}\nBeginning: {context}"),
        Template(
            id="storyteller",
            inputs='A storyteller pauses after the words "{context}" and then goes on to say:\n{options}'),
        Template(
            id="terse",
            inputs='Start: "{context}"\n{options}\nEnd:'),
        Template(
            id="options_first",
            inputs='{options}\nThe opening words are "{context}"; add the part that a sensible reader would expect.'),
        Template(
            id="editor_dialogue",
            inputs='Author: The ink is smudged, and this is all I can read of my note: "{context}"\n{options}\n'
            "Editor: Then it must have continued like this:"),
        Template(
            id="who_comes_next",
            inputs="Two people, things or ideas have been brought up, and one of them comes next. Work out from the "
            "situation which one it has to be, and complete the text.\n{context}\n{options}"),
        Template(
            id="reading_test",
            inputs="Reading test, part three: complete the unfinished statement by thinking about what happens in "
            'it.\nStatement: "{context}"\n{options}\nCompletion:'),
        Template(
            id="keyboard",
            inputs='You are typing a message on a phone with a clever keyboard. So far it says "{context}", and the '
            "keyboard should suggest:\n{options}"),
    ),
)

DEFINITE_PRONOUN_RESOLUTION = Dataset(
    name="definite_pronoun_resolution",
    paper_dataset="DPR",
    cluster="coreference",
    tfds="definite_pronoun_resolution:1.1.0",
    hub=Hub("community-datasets/definite_pronoun_resolution", "plain_text"),
    licence="NOASSERTION",
    commercial=None,
    licence_evidence="none at hlt.utdallas.edu/~vince/data/emnlp12",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
    rows={"train": 1_120, "test": 564},
    fields=("sentence", "pronoun"),
    row=_dpr_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=(
        Template(
            id="sentence_first",
            inputs='{sentence}\nWho or what is meant by "{pronoun}"?\n{options}'),
        Template(
            id="question_first",
            inputs='To whom or to what does "{pronoun}" refer in the sentence below?\n{options}\nSentence: {sentence}'),
        Template(
            id="avoid_pronoun",
            inputs='This sentence would be clearer with a name or a noun in place of "{pronoun}". Which one is it?\n'
            "{sentence}\n{options}"),
        Template(
            id="find_antecedent",
            inputs='Find the antecedent of the pronoun "{pronoun}": {sentence}\n{options}'),
        Template(
            id="parent_dialogue",
            inputs='Child: I do not get this: "{sentence}" Who or what is "{pronoun}" supposed to be?\n'
            "{options}\nParent:"),
        Template(
            id="options_first",
            inputs='{options}\nOf everyone and everything in the next sentence, one is mentioned again as "{pronoun}". '
            "Say which.\n{sentence}"),
        Template(
            id="terse",
            inputs="Sentence: {sentence} Pronoun: {pronoun}.\n{options}\nAntecedent:"),
        Template(
            id="plausibility",
            inputs="Grammar alone does not settle what some pronouns mean; one has to ask what is plausible in the "
            'world. Do so for "{pronoun}" and state what it means.\n{sentence}\n{options}'),
        Template(
            id="instead_of",
            inputs='A sentence reads: {sentence} Its writer uses "{pronoun}" so as not to repeat the following:\n'
            "{options}"),
        Template(
            id="subtitles",
            inputs='You write subtitles and make every pronoun plain for the viewers. What do you put for "{pronoun}"?'
            "\n{options}\nLine to be subtitled: {sentence}"),
    ),
)

WSC273 = Dataset(
    name="wsc273",
    paper_dataset="WSC273",
    cluster="coreference",
    tfds="wsc273:1.0.0",
    hub=Hub("ErnestSDavis/winograd_wsc", "wsc273", row=_wsc273_hub_row),
    licence="CC-BY-4.0",
    commercial=True,
    licence_evidence="cs.nyu.edu/~davise/papers/WinogradSchemas/WS.html",
    splits={"test": "test"},
    rows={"test": 273},
    fields=("text", "pronoun"),
    evidence=("text",),
    row=_wsc273_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=(
        Template(
            id="easily_misread",
            inputs="The word in brackets is easily misread: {text}\nWhat does it stand for?\n{options}"),
        Template(
            id="spell_out",
            inputs="Spell out the bracketed pronoun, so that even a hasty reader understands the text. {text}\n"
            "{options}\nSpelled out:"),
        Template(
            id="text_first",
            inputs='{text} Somebody asks what "{pronoun}" is supposed to mean here. Explain it with words from the '
            "text.\n{options}"),
        Template(
            id="riddle",
            inputs='Here is a riddle for common sense. {text} Who or what hides behind "{pronoun}"?\n{options}'),
        Template(
            id="options_first",
            inputs='{options}\nGiven how things are in the situation, who or what is "{pronoun}"?\n'
            "Situation: {text}"),
        Template(
            id="robot_dialogue",
            inputs='Robot: A person told me: "{text}" I do not know what the word in brackets means.\n'
            'Engineer: With "{pronoun}", that person had this in mind:\n{options}'),
        Template(
            id="terse",
            inputs="{text} Referent of [{pronoun}]:\n{options}"),
        Template(
            id="contract_lawyer",
            inputs="A lawyer checks each reference in a witness statement. The statement: {text} According to the "
            'lawyer, "{pronoun}" has to be understood as follows:\n{options}'),
        Template(
            id="wordy",
            inputs="Read the following with care. A word in brackets takes up something that is named elsewhere in the "
            "text, and only knowledge of the world can tell what. Name it.\n{text}\n{options}"),
        Template(
            id="proofreader",
            inputs='What would a careful proofreader write in the place of "{pronoun}"?\n{options}\n'
            "Manuscript: {text}"),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (DEFINITE_PRONOUN_RESOLUTION, WINOGRANDE, WSC, WSC273)
