"""Cleaning of raw text that row functions of several clusters share.

The tokenized corpora among the sources put blanks around punctuation and split contractions. Their
rows may stand beside rows that never were tokenized, so every rule here leaves alone what ordinary
text has: decimals such as '.5', abbreviations, addresses, smileys, ' - ', and an apostrophe that
opens a quotation or a word ('s-Hertogenbosch).
"""

import re
from collections.abc import Iterable
from typing import Any

from flan_jax.catalogue import Drop

# Windows-1252 read as Latin-1 leaves dashes, dots and quotation marks as control characters; all
# others are noise.
_CONTROLS = {
    code: "" for code in (*range(0x09), 0x0E, 0x0F, *range(0x10, 0x1C), 0x7F, 0x200B, 0xFEFF)
}
_CONTROLS |= {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}
# UTF-8 read as Windows-1252: typographic marks, and letters with accents.
_MISREAD = re.compile("â€[™˜œ“”¦]|Ã[\xa1-\xbf]")


def _characters(text: str | None) -> str:
    """The text with the right characters, if it was decoded with a wrong encoding."""
    text = (text or "").translate(_CONTROLS)
    return _MISREAD.sub(lambda match: match[0].encode("cp1252").decode("utf-8", "replace"), text)


def one_line(text: str | None) -> str:
    """Returns the text with single blanks as white space and none at its ends; '' for None."""
    return " ".join(_characters(text).split())


def lines(text: str | None) -> str:
    """Returns the text with its lines, each as of `one_line`; at most one empty line in a row."""
    tidied = "\n".join(map(one_line, _characters(text).splitlines()))
    return re.sub(r"\n{3,}", "\n\n", tidied).strip("\n")


def csv_field(text: str | None) -> str:
    """Returns what a field of a CSV or TSV file means, if it was read with its quotation marks.

    "" is one mark within it. A field that was cut has no mark at its end.
    """
    text = (text or "").strip()
    if re.fullmatch(r'"(?:[^"]|"")*"', text):
        text = text[1:-1]
    elif re.fullmatch(r'"(?:[^"]|"")*', text):
        text = text[1:]
    return text.replace('""', '"').strip()


# What a tokenizer splits off a word: "do n't", "it 's". Two blanks before it are a gap where a word
# is missing, and with ' or - after it, it is a word in quotation marks or the beginning of another
# one: both stay.
_CONTRACTION = re.compile(
    r"(?<=\w) (?=(?:n't|'(?:s|ve|ll|re|d|m))\b(?!['-]))|(?<=[a-z]n) (?='t\b)", re.IGNORECASE
)

# The bracket names of the Penn Treebank.
_BRACKETS = {"-lrb-": "(", "-rrb-": ")", "-lsb-": "[", "-rsb-": "]", "-lcb-": "{", "-rcb-": "}"}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _pair_of_marks(match: re.Match) -> str:
    """The two marks beside what they quote.

    They stay if an odd number of marks precedes them and the number of all marks is even.
    """
    text, before = match.string, match.string[: match.start()]
    return match[0] if before.count('"') % 2 and text.count('"') % 2 == 0 else f'"{match[1]}"'


def _lone_quotation_mark(match: re.Match) -> str:
    """The mark without the blank after it if it opens a quotation, else without the one before."""
    before, text = match.string[: match.start()], match.string
    # Every other mark closes; where their number is odd, one of them is missing, or a number has
    # inches.
    closes = (
        before.endswith((*".,?!", *"0123456789")) if text.count('"') % 2 else before.count('"') % 2
    )
    return '"' + match[2] if closes else match[1] + '"'


def _rules(*pairs: tuple[str, Any]) -> tuple[tuple[re.Pattern, Any], ...]:
    return tuple((re.compile(pattern), new) for pattern, new in pairs)


# Words that a tokenizer split in another way: "I ' m", "wo nt", "i m", "that s", "gon na", "'
# em", "' n '".
_SPLIT_WORDS = _rules(
    (r"(?i)(?<=\w) (['’]) (?=(?:s|t|ve|ll|re|d|m)\b(?! ?['’-]))", r"\1"),
    (
        (
            r"(?i)\b(ai|are|ca|could|did|do|does|had|has|have|is|must|need|should|was|were|wo|"
            r"would) nt\b"
        ),
        r"\1n't",
    ),
    (r"\b([Ii]) (m|ve|ll)\b(?!['’])", r"\1'\2"),
    (r"(?i)\b(you|we|they) (re|ve|ll)\b(?!['’])", r"\1'\2"),
    (r"(?i)\b(he|she|it|that|what|there|who) (s|ll)\b(?!['’])", r"\1'\2"),
    (r"(?i)\b(gon|wan) (?=na\b)|\b(got) (?=ta\b)|\b(gim|lem) (?=me\b)", r"\1\2\3"),
    (r"(?i)(?<!\S)' n '(?!\S)", "'n'"),
    (r"(?i)(?<!\S)' (?=(?:em|til|cause|bout)\b)", "'"),
)
# Marks between words, in this order: a pattern, and its replacement.
_MARKS = _rules(
    # Quotation marks with blanks on both sides: a pair; one before a mark, which closes; one
    # without a partner.
    (r'(?<!\S)" ([^"]*) "(?!\S)', _pair_of_marks),
    (r'(?<=\S) "(?= ?[.,;:?!)](?: |$))', '"'),
    (r'(^| )"( |$)', _lone_quotation_mark),
    (r"(?<!\S)([‘“]) (?=\S)", r"\1"),
    (r"(?<=\S) (?=[’”](?:[ .,;:?!)]|$))", ""),
    # A sign of currency, of number or of percent belongs to its number, a colon or slash between
    # numbers to both.
    (r"(?<=[$£€#]) (?=\d)|(?<=\d) (?=%)", ""),
    (r"(?<=\d) ([:/]) (?=\d)", r"\1"),
    # Brackets, but not those of smileys such as ': )' and ': ('.
    (r"(?<![^\s\"'(\[])(?<![:;] )([(\[]) (?=\S)", r"\1"),
    (r"(?<![\s:;]) (?=[)\]](?:[\s.,;:!?\"')\]]|$))", ""),
    # An ellipsis; a second full stop; then all marks, unless more than a mark follows the blank:
    # '.5', ':)'.
    (r"(?<=\w) \. \. \.(?= |$)", "..."),
    (r"(?<=[.?!]) \.(?= |$)", ""),
    (r"(?<=\d) , (?=000\b)", ","),
    (r" (?=[.,?!](?:[ \"'’”)\]]|$)|[:;](?: (?!\))|\"|$))", ""),
)

# A hyphen with blanks on both sides looks like a dash. A word that often stands before a hyphen
# tells them apart ...
_BEFORE = _words(
    "all anti bi by co cross double e eighty ex fast fifty first five forty four full good great "
    "half hard high inter long low medium mid middle mini multi new nine ninety non one open over "
    "part post pre quarter re sci second self semi seven seventy short single six sixty soft step "
    "sub super ten third thirty three top tri twenty two uber ultra under up vice warm well wide "
    "world x"
)
# ... or one that often stands behind it ...
_BEHIND = _words(
    "aged away balanced based blown bound catching class consuming down eyed fashioned fi filled "
    "free friendly going haired inch inspired ish kilometer kilometre known less level like "
    "looking lunch made mail mails meter metre mile minded minute month off old olds oriented out "
    "packed party person priced proof quality rated related running school shirt shirts shopping "
    "size sized star style styled taking term themed up ups wide winning worker workers year years"
)
# ... or both together.
_COMPOUNDS = _words(
    "brand-new breast-feeding drive-through drive-thru get-together get-togethers gung-ho "
    "hitch-hike in-law in-laws jump-start laid-back light-blue no-ball no-go no-hitter no-one "
    "on-stage passer-by red-eye remote-control role- model so-called spot-on stir-fry thank-you "
    "to-do turn-on wi-fi"
)
# Behind a dash a clause may begin with one of these.
_CLAUSE = _words(
    "a also although an and are as at be because been but by did do does especially even for from "
    "had has have he her his how i if in including is it its just my never no not now of on only "
    "or our she so than that the their then there these they this those though to very was we well "
    "were what when where which while who why with you your"
)
# What stands between the hyphens of 'mother-in-law' and 'face-to-face'.
_WITHIN = _words("a and at by de die for in la n not o of on or the to up")
_SPACED_HYPHENS = re.compile(r"(?<![\w-])\w[\w.'-]*(?: - \w[\w'-]*)+(?![\w-])")
# Words that have a quotation mark of their own.
_OPENS = re.compile(r"'(?!(?:s|m|re|ve|ll|d|t|em|n|til|cause|bout|tis|twas)\b)[^\W\d]")
_CLOSES = re.compile(r"[\w.,?!]'[.,;:?!)]*$")
# Words in -s that are not possessives, words that a noun or a quotation must follow, and verbs
# before a comma and a quotation.
_NOT_POSSESSIVE = _words(
    "always as does goes has his hers is its ours plus says theirs this thus us was yes yours"
)
_LEADS = _words(": a an and as called for her his its my named of or our the their with your")
_SAYING = _words(
    "added adding adds asked asking explained replied said saying says told tweeted writes "
    "writing wrote"
)
# A mark that should open, or close, and stands on the wrong side; after a digit or punctuation it
# may be right.
_WRONG_SIDE = (re.compile(r'[^\W\d]" '), re.compile(r'[^\s.,?!:;] "\w'))
# What only tokenized text has.
_TOKENIZED = re.compile(r"\w [.,?!](?=\s|$)|\w (?:n't|'(?:s|m|re|ve|ll))\b|[$£€] \d")


def _hyphenated(text: str, tokenized: bool) -> str:
    """The text without the blanks around hyphens; most of an untokenized text may be dashes."""
    if tokenized:  # names such as 'Wilmer - Davis', but not 'Ann Lee - Bo Li'
        text = re.sub(
            r"(?<![A-Z]\w)\b((?<![A-Z][a-z] )[A-Z][a-z]+) - (?=[A-Z][a-z]+\b)", r"\1-", text
        )
    return _SPACED_HYPHENS.sub(lambda match: _joined(match[0].split(" - "), tokenized), text)


def _joined(words: list[str], tokenized: bool) -> str:
    within = [word.lower() for word in words[1:-1]]
    if within and (_WITHIN.issuperset(within) or all(len(word) == 1 for word in words)):
        return "-".join(words)
    text = words[0]
    for before, behind in zip(words, words[1:]):
        stem = re.sub("'s?$", "", behind).lower()
        hyphen = _always(before, behind) or tokenized and _likely(before, stem, len(words))
        text += ("-" if hyphen else " - ") + behind
    return text


def _always(before: str, behind: str) -> bool:
    letter = len(before) == 1 and before.isalpha() and before not in "AaIi" and behind[0].isalpha()
    return f"{before}-{behind}".lower() in _COMPOUNDS or letter and behind.lower() not in _CLAUSE


def _likely(before: str, behind: str, words: int) -> bool:
    if before.isdigit() and behind.isdigit():
        return (
            len(before) == len(behind)
            or len(before) == 4
            and len(behind) == 2
            or len(behind) < len(before) < 4
        )
    if behind in _CLAUSE or behind == "like" and words > 2:
        return False
    rated = before.endswith("ly") and behind.endswith("ed")  # 'highly-rated'
    return rated or before.lower() in _BEFORE or behind in _BEHIND


def _quotation_marks(text: str) -> str:
    """The text with " for `` and '' of the Penn Treebank, which PAWS has swapped in places."""
    text = re.sub(r"(?<!\S)' '(?!\S)", "''", text)
    first = re.search("``|''", text)
    # Where both ends of a quotation are ``, the blanks stay for the rules that pair marks.
    if first and first[0] == "``" and ("''" in text or text.count("``") % 2):
        text = re.sub(r" ?''(?!['\w])", '"', text.replace("`` ", '"'))
    # Of three apostrophes the first one is a quotation mark of its own.
    return re.sub(r"``|''(?!')", '"', text)


def _apostrophes(text: str) -> str:
    """The text with its lone apostrophes beside what they quote, or at the end of a word.

    Such words are "girls '" and "goin '". An apostrophe without a partner that is neither there nor
    at an end of the text stays alone.
    """
    words = ["", *text.split(" "), ""]
    marks = [
        i
        for i, word in enumerate(words)
        if word == "'" or _OPENS.match(word) or _CLOSES.search(word)
    ]
    opened = False
    for n, i in enumerate(marks):
        before, odd = words[i - 1], len(marks[n:]) % 2
        if words[i] != "'":
            opened = bool(_OPENS.match(words[i])) and not _CLOSES.search(words[i])
            continue
        owner, word_follows = _is_owner(words, i), words[i + 1][:1].isalnum()
        if word_follows and _leads(words, i):
            closes, opened = False, True
        elif opened:
            closes, opened = True, owner and not odd
        elif not odd:
            closes = owner and words[marks[n + 1]] == "'" and _is_owner(words, marks[n + 1])
            opened = not closes
        elif (
            owner
            or before.endswith((",", "in"))
            or before.endswith((".", "?", "!"))
            and not word_follows
        ):
            closes = True
        elif before and len(marks) == 1:
            continue
        else:
            closes, opened = False, True
        words[i] = "\b'" if closes else "'\b"
    return re.sub(" ?\b ?", "", " ".join(words[1:-1])) if marks else text


def _is_owner(words: list[str], place: int) -> bool:
    before, behind = words[place - 1], words[place + 1]
    owns = (
        before.endswith("s")
        and not before.endswith(("'s", "’s"))
        and before.lower() not in _NOT_POSSESSIVE
    )
    return owns and behind[:1].isalnum()


def _leads(words: list[str], place: int) -> bool:
    before = words[place - 1].lower()
    return before in _LEADS or before == "," and words[place - 2].lower() in _SAYING


def _moved(text: str) -> str:
    """The text with marks beside a wrong word ('said" I am" and') moved to the right one."""
    parts = text.split('"')
    if len(parts) % 2 == 0:
        return text
    wrong_side = [
        bool(_WRONG_SIDE[i % 2].search(f'{before[-2:]}"{after[:1]}'))
        for i, (before, after) in enumerate(zip(parts, parts[1:]))
    ]
    # If two in a row look wrong, they are right, and another mark has no partner.
    if not any(wrong_side) or any(
        first and second for first, second in zip(wrong_side, wrong_side[1:])
    ):
        return text
    for i, wrong in enumerate(wrong_side):
        if wrong and i % 2:
            parts[i], parts[i + 1] = parts[i].rstrip(), " " + parts[i + 1]
        elif wrong:
            parts[i], parts[i + 1] = parts[i] + " ", parts[i + 1].lstrip()
    return '"'.join(parts)


def _detokenized_line(text: str, tokenized: bool) -> str:
    text = re.sub(r"(?i)-[lr][rsc]b-", lambda match: _BRACKETS[match[0].lower()], text)
    text = re.sub(r"(?<!\S)` ([^`]*?) '(?!\S)", r"'\1'", _quotation_marks(text))
    for pattern, new in _SPLIT_WORDS:
        text = pattern.sub(new, text)
    text = _apostrophes(text)
    for pattern, new in _MARKS:
        text = pattern.sub(new, text)
    return _hyphenated(_moved(text) if tokenized else text, tokenized)


def detokenized(text: str | None) -> str:
    """Returns a text of a tokenized corpus as people write it.

    The words, marks and lines of an ordinary text stay.
    """
    tokenized = bool(_TOKENIZED.search(text or ""))
    rows = lines(_CONTRACTION.sub("", text or "")).split("\n")
    return "\n".join(_detokenized_line(row, tokenized) for row in rows)


def ended(text: str, mark: str = ".") -> str:
    """Returns the text with `mark` at its end, if it has none, so that a sentence may follow."""
    return text + mark if re.search(r"[^\W_]$|(?<![.?!])[)\]]$|[%$]$", text) else text


def distinct(texts: Iterable[str]) -> list[str]:
    """Returns the texts, each on one line and once, without empty ones, in order."""
    return list(dict.fromkeys(text for text in map(one_line, texts) if text))


def column(sequence: Any, key: str) -> list[Any]:
    """Returns one column of a sequence of records.

    The sequence is a dict of lists, a list of dicts or the column itself.
    """
    if isinstance(sequence, dict):
        return list(sequence.get(key) or ())
    return [item[key] if isinstance(item, dict) else item for item in sequence]


def labeled(label: int, classes: int, **fields: str) -> dict[str, Any] | Drop:
    """Returns the fields with the class id of the row.

    It is a `Drop` if the id is not one of `classes`, or a field is empty.
    """
    if label not in range(classes):
        return Drop("no gold label")
    return {**fields, "label": int(label)} if all(fields.values()) else Drop("empty text")
