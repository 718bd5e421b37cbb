"""Coreference: SuperGLUE WSC, Winogrande, definite pronoun resolution and, to evaluate, WSC273.

The pronoun in question is in square brackets in its text: the same pronoun may occur more than
once.
"""

import re
from typing import Any

from flan_jax.catalogue import FROM_ROW, Dataset, Drop, Hub, Template
from flan_jax.tasks.cleaning import detokenized, ended


def _mark(text: str, pronoun: str) -> str:
    """The text with the first occurrence of the pronoun in brackets, if it occurs."""
    whole = rf"(?<!\w){re.escape(pronoun)}(?!\w)"
    match = re.search(whole, text) or re.search(whole, text, re.IGNORECASE)
    return f"{text[: match.start()]}[{match.group()}]{text[match.end() :]}" if match else text


def _mark_word(text: str, pronoun: str, index: int) -> str:
    """The text with the pronoun in brackets that is, or begins, the word at this index."""
    words = text.split()
    if index < len(words) and words[index].lower().startswith(pronoun.lower()):
        size = len(pronoun)
        words[index] = f"[{words[index][:size]}]{words[index][size:]}"
        return " ".join(words)
    return _mark(text, pronoun)


def _as_in(text: str, phrase: str) -> str:
    """The phrase with a small first letter if it occurs in the text only in that form."""
    small = phrase[:1].lower() + phrase[1:]
    return small if phrase not in text and small in text else phrase


def _small_article(phrase: str) -> str:
    """The phrase without the capital letter that its article has at the head of a sentence."""
    return re.sub(r"^(?:The|An?)(?= )", lambda match: match.group().lower(), phrase)


def _wsc_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    text, noun, pronoun = (
        raw["text"],
        detokenized(raw["span1_text"]),
        raw["span2_text"].strip().rstrip(".,;:!?\"'"),
    )
    if raw["label"] not in (0, 1):
        return Drop("no gold label")
    if not (text.strip() and noun and pronoun):
        return Drop("empty text, noun or pronoun")
    sentence = detokenized(_mark_word(text, pronoun, raw["span2_index"]))
    if "[" not in sentence:
        return Drop("the pronoun is not in the text")
    sentence = ended(sentence)
    return {
        "sentence": sentence,
        "noun": _as_in(detokenized(text), noun),
        "pronoun": pronoun,
        "label": raw["label"],
    }


def _winogrande_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    before, *after = detokenized(raw["sentence"]).split("_")
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


def _winogrande_hub_row(raw: dict[str, Any]) -> dict[str, Any]:
    # The hub names the right option '1' or '2', and gives '' where that is a secret.
    return {**raw, "label": int(raw["answer"] or 0) - 1}


def _dpr_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    sentence, pronoun = ended(detokenized(raw["sentence"])), raw["pronoun"].strip()
    options = [_as_in(sentence, _small_article(c.strip())) for c in raw["candidates"]]
    if raw["label"] not in (0, 1):
        return Drop("no gold label")
    if not (sentence and pronoun and all(options)):
        return Drop("empty sentence, pronoun or candidate")
    return {
        "sentence": _mark(sentence, pronoun),
        "pronoun": pronoun,
        "options": options,
        "label": raw["label"],
    }


def _wsc273_row(raw: dict[str, Any]) -> dict[str, Any] | Drop:
    text, pronoun = raw["text"], raw["pronoun_text"].strip()
    start, end = raw["pronoun_start"], raw["pronoun_end"]
    text = (
        f"{text[:start]}[{pronoun}]{text[end:]}"
        if text[start:end] == pronoun
        else _mark(text, pronoun)
    )
    options = [raw["option1_normalized"].strip(), raw["option2_normalized"].strip()]
    if raw["label"] not in (0, 1):
        return Drop("no gold label")
    if not (pronoun and all(options)):
        return Drop("empty pronoun or option")
    return {
        "text": ended(detokenized(text)),
        "pronoun": pronoun,
        "options": options,
        "label": raw["label"],
    }


def _wsc273_hub_row(raw: dict[str, Any]) -> dict[str, Any]:
    """The hub has the position of the pronoun, and options as at the beginning of a sentence."""
    options = [option.strip() for option in raw["options"]]
    if raw["pronoun"][:1].islower():
        options = [
            re.sub(
                r"^(?:The|An?|My|Your|His|Her|Our|Their)(?= )",
                lambda match: match.group().lower(),
                option,
            )
            for option in options
        ]
    return {
        **raw,
        "pronoun_text": raw["pronoun"],
        "pronoun_start": raw["pronoun_loc"],
        "pronoun_end": raw["pronoun_loc"] + len(raw["pronoun"]),
        "option1_normalized": options[0],
        "option2_normalized": options[1],
    }


WSC = Dataset(
    name="wsc",
    paper_dataset="WSC273",
    cluster="coreference",
    tfds="super_glue/wsc:1.0.2",
    hub=Hub("aps/super_glue", "wsc"),
    license="CC-BY-4.0",
    commercial=True,
    license_evidence="cs.nyu.edu/~davise/papers/WinogradSchemas/WS.html",
    splits={"train": "train[:-50]", "validation": "train[-50:]", "test": "validation"},
    rows={"train": 500, "test": 104},
    fields=("sentence", "noun", "pronoun"),
    row=_wsc_row,
    options=("no", "yes"),
    metrics=("accuracy",),
    templates=(
        Template(
            "text_then_question",
            (
                '{sentence}\nIn this text, does the bracketed word "{pronoun}" refer to "{noun}"?\n'
                "{options}"
            ),
        ),
        Template(
            "check_claim",
            'Text: {sentence}\nClaim: the word "{pronoun}" in brackets refers to "{noun}".\nIs '
            "the claim right?\n"
            "{options}",
        ),
        Template(
            "question_first",
            (
                'Does "{pronoun}" stand for "{noun}" in the passage that follows?\n{options}\n'
                "Passage: {sentence}"
            ),
        ),
        Template(
            "same_meaning_with_noun",
            (
                '{sentence}\nWith "{noun}" in place of "{pronoun}", is the meaning still the '
                "same?\n"
                "{options}"
            ),
        ),
        Template(
            "pupil_reads",
            'I take "{pronoun}" to be "{noun}" here. Is that correct?\n{sentence}\n{options}',
        ),
        Template("points_to", '{options}\nDoes "{pronoun}" point to "{noun}" here?\n{sentence}'),
        Template(
            "candidate",
            (
                'Sentence: {sentence}\nPronoun: "{pronoun}"\nCandidate: "{noun}"\nIs it a match?\n'
                "{options}"
            ),
        ),
        Template(
            "coreference_link",
            '{sentence}\nShould a coreference link join "{pronoun}" to "{noun}"?\n{options}',
        ),
        Template(
            "writer_means", 'By "{pronoun}", does the writer mean "{noun}"?\n{sentence}\n{options}'
        ),
        Template(
            "right_antecedent",
            (
                'Antecedent of "{pronoun}": "{noun}"\n{options}\nIs this the right antecedent?\n'
                "{sentence}"
            ),
        ),
    ),
)

WINOGRANDE = Dataset(
    name="winogrande",
    paper_dataset="Winogrande",
    cluster="coreference",
    tfds="winogrande:1.2.0",
    hub=Hub(
        "allenai/winogrande", "winogrande_xl", splits={"train_xl": "train"}, row=_winogrande_hub_row
    ),
    license="LicenseRef-CC-BY",
    commercial=True,
    license_evidence="github.com/allenai/winogrande: the dataset under CC-BY, without a version",
    splits={"train": "train_xl[:-200]", "validation": "train_xl[-200:]", "test": "validation"},
    rows={"train": 40_190, "test": 1_267},
    fields=("context",),
    row=_winogrande_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=(
        Template("finish_sentence", "Finish the text so that it makes sense: {context}\n{options}"),
        Template(
            "most_plausible_rest", "How does this most plausibly go on?\n{context}\n{options}"
        ),
        Template(
            "question_first",
            "Which ending agrees with common sense?\n{options}\nBeginning: {context}",
        ),
        Template(
            "careful_reader", "Complete this as a careful reader would.\n{context}\n{options}"
        ),
        Template("terse", "Start: {context}\n{options}\nEnd:"),
        Template(
            "no_contradiction",
            "{options}\nWhat can be added here without a contradiction?\n{context}",
        ),
        Template(
            "what_has_to_follow", "Given this much, what has to follow?\n{context}\n{options}"
        ),
        Template(
            "last_words_missing", "The last words are missing. What are they?\n{context}\n{options}"
        ),
        Template("reason_it_out", "Work out how this must end.\nUnfinished: {context}\n{options}"),
        Template(
            "which_one_fits",
            "Decide which of the two named here fits, and complete the text.\n{options}\n{context}",
        ),
    ),
)

DEFINITE_PRONOUN_RESOLUTION = Dataset(
    name="definite_pronoun_resolution",
    paper_dataset="DPR",
    cluster="coreference",
    tfds="definite_pronoun_resolution:1.1.0",
    hub=Hub("community-datasets/definite_pronoun_resolution", "plain_text"),
    license="NOASSERTION",
    commercial=None,
    license_evidence="none at hlt.utdallas.edu/~vince/data/emnlp12",
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
    rows={"train": 1_120, "test": 564},
    fields=("sentence", "pronoun"),
    row=_dpr_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=(
        Template("sentence_first", '{sentence}\nWho or what is meant by "{pronoun}"?\n{options}'),
        Template(
            "question_first",
            (
                'To whom or to what does "{pronoun}" refer in the sentence below?\n{options}\n'
                "Sentence: {sentence}"
            ),
        ),
        Template(
            "instead_of_pronoun",
            '{sentence}\nWhich noun or name would be clearer than "{pronoun}"?\n{options}',
        ),
        Template(
            "find_antecedent",
            'Find the antecedent of the pronoun "{pronoun}": {sentence}\n{options}',
        ),
        Template(
            "child_and_parent",
            'Child: {sentence}\nSo who or what is "{pronoun}"?\n{options}\nParent:',
        ),
        Template(
            "mentioned_again",
            '{options}\nWho or what is mentioned a second time here, as "{pronoun}"?\n{sentence}',
        ),
        Template(
            "antecedent", 'Sentence: {sentence}\nPronoun: "{pronoun}"\n{options}\nAntecedent:'
        ),
        Template(
            "by_plausibility",
            'Going by what is plausible, who or what is "{pronoun}"?\n{sentence}\n{options}',
        ),
        Template(
            "not_repeated",
            '{sentence}\nWhat does the writer avoid repeating by using "{pronoun}"?\n{options}',
        ),
        Template(
            "coreferent_phrase",
            'Phrase that is coreferent with "{pronoun}":\n{options}\n{sentence}',
        ),
    ),
)

WSC273 = Dataset(
    name="wsc273",
    paper_dataset="WSC273",
    cluster="coreference",
    tfds="wsc273:1.0.0",
    hub=Hub("ErnestSDavis/winograd_wsc", "wsc273", row=_wsc273_hub_row),
    license="CC-BY-4.0",
    commercial=True,
    license_evidence="cs.nyu.edu/~davise/papers/WinogradSchemas/WS.html",
    splits={"test": "test"},
    rows={"test": 273},
    fields=("text", "pronoun"),
    evidence=("text",),
    row=_wsc273_row,
    options=FROM_ROW,
    metrics=("accuracy",),
    templates=(
        Template("brackets", "What does the word in brackets stand for?\n{text}\n{options}"),
        Template("spelled_out", "{text}\n{options}\nBracketed pronoun, spelled out:"),
        Template(
            "words_of_the_text", '{text}\nExplain "{pronoun}" with words from the text.\n{options}'
        ),
        Template("hides_behind", '{text}\nWho or what hides behind "{pronoun}"?\n{options}'),
        Template(
            "options_first",
            '{options}\nGiven this situation, who or what is "{pronoun}"?\nSituation: {text}',
        ),
        Template(
            "in_mind",
            "Who or what did the writer have in mind with the bracketed word?\n{text}\n{options}",
        ),
        Template("referent", '{text}\nReferent of "{pronoun}":\n{options}'),
        Template(
            "unambiguous",
            'To make this unambiguous, what should replace "{pronoun}"?\n{text}\n{options}',
        ),
        Template(
            "common_sense_question",
            "Common sense question: {text}\n{options}\nThe pronoun in brackets means:",
        ),
        Template(
            "supposed_to_mean", '{text}\nWhat is "{pronoun}" supposed to mean here?\n{options}'
        ),
    ),
)

# In the order of FLAN's code, which DATASETS_PER_CLUSTER and TRAIN_DATASETS follow.
DATASETS = (DEFINITE_PRONOUN_RESOLUTION, WINOGRANDE, WSC, WSC273)
