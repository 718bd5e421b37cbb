"""Text from files, rows and command lines as messages show it.

Messages have no control characters and no endless lists.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

# Texts that messages and log lines show otherwise.
_SHOWN_AS: dict[str, str] = {}

# Bidirectional classes of the invisible characters that reorder the text around them.
_REORDERING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def show_as(text: str, name: str) -> None:
    """Lets messages and log lines show `name` in place of a text: the bucket of a working copy."""
    _SHOWN_AS[text] = name


def renamed(text: str) -> str:
    """Returns a text with the names of `show_as` in place of what they stand for."""
    for old, new in _SHOWN_AS.items():
        text = text.replace(old, new)
    return text


def escaped(text: str) -> str:
    r"""Returns the text with control characters written as escapes (`\x1b`).

    Line breaks and tabs stay.

    A terminal obeys such characters: a row, a file name or a checkpoint could move the cursor or
    hide what follows. Lone surrogates, which no terminal can encode, and characters that reorder
    text are escaped, too.
    """
    if text.isprintable():
        return text
    return "".join(_escape(c) if _is_control(c) else c for c in text)


def _is_control(character: str) -> bool:
    if character in "\n\t":
        return False
    return (
        unicodedata.category(character) in ("Cc", "Cs")
        or unicodedata.bidirectional(character) in _REORDERING
    )


def _escape(character: str) -> str:
    code = ord(character)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def shown(value: object, most: int = 200) -> str:
    """Returns the text of a value on one line for a message: escaped, and at most `most` long.

    What is longer is cut in the middle.
    """
    text = escaped(str(value)).replace("\n", "\\n")
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-(most // 2) :]}"


def first_line(error: Exception) -> str:
    """Returns the first line of what an error says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(names: Iterable[object], most: int = 5) -> str:
    """Returns the names with commas between them: 'a, b, c and 78 more'."""
    names = list(names)
    text = ", ".join(shown(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most:,} more"


def nearest(name: object, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Returns the one of `names` that is spelled most like `name`; None if none is near.

    The case does not matter.
    """
    if not isinstance(name, str):
        return None
    by_fold = {known.casefold(): known for known in names}
    near = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=cutoff)
    return by_fold[near[0]] if near else None


def did_you_mean(near: str | None, otherwise: str = ".") -> str:
    """Returns the end of a message about an unknown name: '; did you mean X?', or `otherwise`."""
    return f"; did you mean {near}?" if near else otherwise
