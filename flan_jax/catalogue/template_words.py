"""Measures the wording of templates: words of instruction, dialogues, how the data are set off.

A template is a prompt that a person would type. The bar for the catalogue, which
tests/test_template_bar.py holds: a median of at most 12 words of instruction, no template with more
than 30, at most one dialogue for each dataset, no counterfactual frame, the data on lines of their
own or in quotation marks, and a wording that fits every options style.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Iterable

from flan_jax.catalogue.records import FROM_ROW, Dataset, Template, placeholders

MEDIAN_WORDS, MOST_WORDS, MOST_DIALOGUES = 12, 30, 1

_FIELD = re.compile(r"\{\w+\}")
# A run of letters and digits; an apostrophe or a hyphen within it does not end it.
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

_NAMES = (
    "Aino|Amélie|Ana|Anna|Ben|Bob|Alice|Elsa|Jan|Kim|Lena|Leo|Marina|Mia|Mikko|Noor|Omar|Paul|Petra|Ravi|Sam|"
    "Sergei|Tom|Vera"
)
_ROLES = (
    "agent|analyst|anchor|annotator|archivist|asker|assistant|author|boss|caller|chatbot|child|clerk|"
    "colleague|computer|contestant|counsel|critic|customer|daughter|detective|director|doctor|driver|editor|"
    "engineer|examiner|expert|father|friend|grandfather|grandmother|guest|helper|host|intern|interpreter|"
    "interviewer|judge|lawyer|learner|lecturer|librarian|listener|man|manager|moderator|mother|narrator|neighbor|"
    "officer|operator|parent|passenger|patient|person|player|presenter|producer|professor|pupil|quizmaster|"
    "reader|referee|reporter|reviewer|robot|sister|speaker|student|supervisor|teacher|tourist|translator|tutor|"
    "user|viewer|visitor|volunteer|witness|woman|writer"
)
_SPEECH = (
    "(?:(?:has|had|have|just|then|also) )*"
    "(?:answer|ask|bet|claim|comment|declare|explain|object|remark|repl|"
    "say|state|tell|want|wonder|write|said|told|wrote)(?:s|ed|d|ies|ied)?"
)
_DIALOGUE = re.compile(
    # A turn: "Teacher:", "First reader:", "Sam writes back:", "Assistant, in a few words:".
    rf"^(?:(?:[\w'’-]+ )?(?i:{_ROLES})|{_NAMES})"
    rf"(?:,[^{{}}:.?!\n]*| {_SPEECH}[^{{}}:.?!\n]*)?:(?=[ \n]|$)"
    # Role play: "You are a librarian", "You moderate a forum".
    r"|\bYou (?:are (?:an?|the|\w+ing)|work|own|run|moderate|annotate|edit|teach|check|choose|"
    r"host|look after|write) "
    # Reported speech: "A visitor asks", "Somebody told me".
    rf"|\b(?i:(?:{_ROLES}|someone|somebody|one|another) {_SPEECH})\b",
    re.MULTILINE,
)
_TURN = re.compile(r"^([A-Z][\w'’ -]{0,30}):(?= |$)", re.MULTILINE)

_COUNTERFACTUAL = re.compile(
    r"\b(?:suppos(?:e|ing)|imagin(?:e|ing)|pretend|(?:let us )?assum(?:e|ing)|what if|"
    r"if you were|as if you)\b|"
    r"(?:^|[.?!] |\n)Picture (?:an?|the|that)\b",
    re.IGNORECASE,
)

# What may stand before data on their line: a heading that ends in a colon, a bullet or a number,
# other data.
_BEFORE = re.compile(r"(?:[^.?!]*:\s|(?:[-*•]|\d+[.)])\s)?(?:\{\w+\}[ ,;|]+)*")
_AFTER = re.compile(r"(?:[ ,;|]+\{\w+\})*(?: ?(?:\.\.\.|…|[.?!]))?")

_REPLY = (
    r"\b(?:answer|enter|file|fill in|give|label|mark|press|print|put|reply|respond|say|state|tag|"
    r"type|write)\b"
)
_LISTED = re.compile(
    r"\b(?:options?|choices?|alternatives|listed|choose|pick|select)\b", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class Wording:
    """The wording of a template, without the text of its row.

    Attributes:
      words: number of words of instruction (`instruction_words`).
      dialogue: whether it is a dialogue (`is_dialogue`).
      counterfactual: whether it has a counterfactual frame ("Suppose ...", "Imagine ...").
      run_in: the data within a sentence, neither on a line of their own nor in quotation marks.
      styles: why it does not fit every options style; '' if it does.
    """

    words: int
    dialogue: bool
    counterfactual: bool
    run_in: tuple[str, ...]
    styles: str

    def faults(self) -> list[str]:
        """Returns which rules of all templates it breaks; dialogues are counted by dataset."""
        faults = []
        if self.words > MOST_WORDS:
            faults.append(f"{self.words} words of instruction, more than {MOST_WORDS}")
        if self.counterfactual:
            faults.append("a counterfactual frame")
        faults += [f"{{{name}}} within a sentence" for name in self.run_in]
        if self.styles:
            faults.append(self.styles)
        return faults

    def __str__(self) -> str:
        return ", ".join([f"{self.words} words", *["dialogue"] * self.dialogue, *self.faults()])


def wording(dataset: Dataset, template: Template) -> Wording:
    """Returns the wording of a template of a dataset."""
    return Wording(
        instruction_words(template),
        is_dialogue(template),
        bool(_COUNTERFACTUAL.search(_FIELD.sub("", template.inputs))),
        run_in(dataset, template),
        _unfit_for_styles(dataset, template),
    )


def instruction_words(template: Template) -> int:
    """Returns the number of words of inputs and targets without placeholders.

    Labels such as 'Premise:' count, too.
    """
    return len(_WORD.findall(_FIELD.sub(" ", f"{template.inputs}\n{template.targets}")))


def is_dialogue(template: Template) -> bool:
    """Returns whether the input is role play or talk.

    That is turns of speakers, 'You are a ...', or 'A visitor asks ...'.
    """
    turns = _TURN.findall(template.inputs)
    return bool(_DIALOGUE.search(template.inputs)) or len(set(turns)) < len(turns)


def run_in(dataset: Dataset, template: Template) -> tuple[str, ...]:
    """Returns the data of a template that stand within a sentence of the instruction.

    Data are the fields of the dataset's evidence, and an answer in free text or of a row's own
    options. A field is set off in quotation marks, or on a line that has nothing else but a heading
    with a colon, further fields and a mark.
    """
    data = {*(dataset.fields if dataset.evidence is None else dataset.evidence)}
    data |= {"answer"} if dataset.options in (None, FROM_ROW) else set()
    return tuple(
        name
        for name in dict.fromkeys(placeholders(template.inputs))
        if name in data and not _set_off(template.inputs, name)
    )


def _set_off(text: str, name: str) -> bool:
    for line in text.split("\n"):
        for place in re.finditer(rf"\{{{name}\}}", line):
            before, after = line[: place.start()], line[place.end() :]
            quoted = before.count('"') % 2 == 1 and '"' in after
            if not quoted and not (_BEFORE.fullmatch(before) and _AFTER.fullmatch(after)):
                return False
    return True


def _unfit_for_styles(dataset: Dataset, template: Template) -> str:
    """Why a forward template is wrong with lettered or hidden options; '' if it is not."""
    if template.kind != "forward" or not dataset.options:
        return ""
    text = _FIELD.sub("", template.inputs)
    listed = _LISTED.search(text)
    if listed:
        return f"{listed.group()!r} refers to a list that OPTIONS_STYLE='none' does not show"
    options = () if dataset.options == FROM_ROW else dataset.options
    words = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    wants_words = words and re.search(rf"{_REPLY}[^.?!\n]*\b(?:{words})\b", text, re.IGNORECASE)
    if wants_words or re.search(r"\byes or no\b", text, re.IGNORECASE):
        return "requests words that are not answers with OPTIONS_STYLE='lettered'"
    return ""


def wording_summary(datasets: Iterable[Dataset]) -> str:
    """Returns a line with median, ninth decile and maximum of words, and number of dialogues."""
    counted = {(d.paper_dataset, t): wording(d, t) for d in datasets for t in d.templates}
    words = sorted(w.words for w in counted.values())
    return (
        f"{len(words)} templates; words of instruction: median {statistics.median(words):g}, 90 % "
        f"at most {words[(9 * len(words) - 1) // 10]}, longest {words[-1]}; dialogues: "
        f"{sum(w.dialogue for w in counted.values())}; with faults: "
        f"{sum(bool(w.faults()) for w in counted.values())}"
    )
