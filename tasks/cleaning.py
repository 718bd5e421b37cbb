"""Raw rows put in order, where row functions of several clusters do it alike.

The tokenised corpora among the sources put blanks around punctuation and split contractions. Their rows may stand
beside rows that never were tokenised, so every rule here leaves alone what ordinary text has: decimals such as '.5',
abbreviations, addresses, smileys, ' - ', and an apostrophe that opens a quotation or a word ('s-Hertogenbosch).
"""

import re
from collections.abc import Iterable
from typing import Any

from flan_jax.data.catalogue import Drop

# What a tokeniser splits off a word: "do n't", "it 's". Two blanks before it are a gap where a word is missing, and
# with ' or - after it, it is a word in quotation marks or the beginning of another one: both stay.
_CONTRACTION = re.compile(r"(?<=\w) (?=(?:n't|'(?:s|ve|ll|re|d|m))\b(?!['-]))|(?<=[a-z]n) (?='t\b)", re.IGNORECASE)


def _lone_quotation_mark(found: re.Match) -> str:
    """The mark without the blank after it if it opens a quotation, without the one before it if it closes one."""
    before, text = found.string[:found.start()], found.string
    # Every other mark closes; where their number is odd, one of them is missing, and punctuation has to tell.
    closes = before.endswith((".", ",", "?", "!")) if text.count('"') % 2 else before.count('"') % 2
    return '"' + found[2] if closes else found[1] + '"'


# The rules of `detokenised` for what stands between words, in their order: what is found, what stands in its place.
_RULES = tuple((re.compile(pattern), new) for pattern, new in (
    # Quotation marks with blanks on both sides: a pair; one before a mark, which closes; one without a partner.
    (r'(?<!\S)" ([^"]*) "(?!\S)', r'"\1"'),
    (r'(?<=\S) "(?= ?[.,;:?!)](?: |$))', '"'),
    (r'(^| )"( |$)', _lone_quotation_mark),
    # A sign of currency or of percent belongs to its number, a colon between numbers to both: "12 : 01".
    (r"(?<=\$) (?=\d)|(?<=\d) (?=%)", ""),
    (r"(?<=\d) : (?=\d)", ":"),
    # Brackets, but not those of smileys such as ': )' and ': ('.
    (r"(?<![^\s\"'(\[])(?<![:;] )([(\[]) (?=\S)", r"\1"),
    (r"(?<![\s:;]) (?=[)\]](?:[\s.,;:!?\"')\]]|$))", ""),
    # An ellipsis; a second full stop; then all marks, unless more than a mark follows the blank: '.5', ':)'.
    (r"(?<=\w) \. \. \.(?= |$)", "..."),
    (r"(?<=[.?!]) \.(?= |$)", ""),
    (r" (?=[.,?!](?:[ \"')\]]|$)|[:;](?: (?!\))|\"|$))", ""),
))


def one_line(text: str | None) -> str:
    """The text with every run of white space as one blank, and none at its ends; '' for None."""
    return " ".join((text or "").split())


def _quotation_marks(text: str) -> str:
    """The text with " for the `` and '' of the Penn Treebank, which PAWS has the wrong way round in places."""
    first = re.search("``|''", text)
    if first and first[0] == "``":
        text = re.sub(r" ?''(?!['\w])", '"', text.replace("`` ", '"'))
    # Of three apostrophes the first one is a quotation mark of its own.
    return re.sub(r"``|''(?!')", '"', text)


def detokenised(text: str) -> str:
    """A text of a tokenised corpus as people write it, on one line; an ordinary text keeps its words and marks."""
    text = _quotation_marks(one_line(_CONTRACTION.sub("", text)))
    text = re.sub(r"(?<!\S)` ([^`]*?) '(?!\S)", r"'\1'", text)
    # A lone apostrophe after an s is a possessive; two of them may be a quotation.
    text = text.replace("s ' ", "s' ") if text.count(" ' ") == 1 else text
    for pattern, new in _RULES:
        text = pattern.sub(new, text)
    return text


def ended(text: str, mark: str = ".") -> str:
    """The text with `mark` at its end where it has none: templates may write it before another sentence."""
    return text + mark if text and (text[-1].isalnum() or text[-1] in ")]%$") else text


def distinct(texts: Iterable[str]) -> list[str]:
    """The texts, each on one line and once, without empty ones, in their order."""
    return list(dict.fromkeys(text for text in map(one_line, texts) if text))


def column(sequence: Any, key: str) -> list[Any]:
    """One column of a sequence of records, which comes as a dict of lists, a list of dicts or the column itself."""
    if isinstance(sequence, dict):
        return list(sequence.get(key) or ())
    return [item[key] if isinstance(item, dict) else item for item in sequence]


def labelled(label: int, classes: int, **fields: str) -> dict[str, Any] | Drop:
    """The fields with the row's class id, or a Drop where the id is none of `classes` or a field is empty."""
    if label not in range(classes):
        return Drop("no gold label")
    return {**fields, "label": int(label)} if all(fields.values()) else Drop("empty text")
