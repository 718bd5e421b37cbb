r"""The language of MIXTURE_OR_TASK_NAME: what trains, and how often each part is drawn.

    flan+my.jsonl:3000+dolly.parquet:500
    flan:30000:40%+(aqua.jsonl+gsm8k.jsonl):100000:5%+t0/*.jsonl:20000:55%

Parts are joined by `+`. `:N` caps the rate of each dataset of a part: it is drawn in proportion to
its rows, but to N at most, as the paper's 3,000 (section 2.4). `:N%` is the share of a part of all
draws. A part in parentheses, or a pattern with `*`, has several members: its share is divided
between them in proportion to their capped rows. A backslash makes `+`, `(`, `)` and `:` parts of a
name: `c\+\+/my \(1\).jsonl`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from flan_jax.config.checks import quoted
from flan_jax.config.run_directory import HUB
from flan_jax.data.sources.file_rows import kind_of
from flan_jax.errors import UserError
from flan_jax.messages import shown

# The part that stands for the held-out mixture.
FLAN = "flan"
FORMS = (
    "parts are joined by '+': 'flan' (the held-out mixture), a dataset, a SeqIO task, a file, a "
    "directory, hf:org/name or (a+b); each may end in :N (a cap of its rate, such as :3000), in "
    ":N% (its share of all draws) or both; in a name '+', '(' and ')' have a backslash before them"
)

_RATE = re.compile(r":(\d[\d_]*|\d+(?:\.\d+)?%)$")
# What a backslash makes part of a name -> a character that stands for it while a text is parsed.
_STANDS_FOR = {mark: chr(0xE000 + place) for place, mark in enumerate("+():\\")}
_MARKS = str.maketrans({stands: mark for mark, stands in _STANDS_FOR.items()})
_ESCAPED = re.compile(r"\\([+():\\])")


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the mixture.

    Attributes:
      names: what trains: one name, or those in parentheses.
      cap: the most that the rate of each of its datasets is; None for the usual one.
      share: its fraction of all draws; None for what its rates amount to.
    """

    names: tuple[str, ...]
    cap: int | None = None
    share: float | None = None


def parse(text: str) -> list[Part]:
    """Returns the parts of a value of MIXTURE_OR_TASK_NAME.

    Raises:
      UserError: for a part that is empty, a bracket that is not closed, or rates that contradict
        each other.
    """
    hidden = _ESCAPED.sub(lambda match: _STANDS_FOR[match[1]], text)
    parts = [_part(piece, text) for piece in _split(hidden)]
    names = [name for part in parts for name in part.names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _error(text, f"it names {quoted(twice)} twice")
    shares = [part.share for part in parts if part.share is not None]
    total = sum(shares)
    if len(shares) == len(parts) and abs(total - 1) > 1e-4:
        raise _error(text, f"the shares add up to {total * 100:.6g}%, not to 100%")
    if shares and len(shares) < len(parts) and total >= 1:
        raise _error(text, f"the shares add up to {total * 100:.6g}% and leave nothing to the rest")
    return parts


def is_path(name: str) -> bool:
    """Returns whether the name of a part is written as a path: of files, or of a directory.

    The names of datasets and SeqIO tasks have no `/`, `~` or `*`, and no suffix of a file. A
    directory or a file without a suffix that is known is written with a `/`.
    """
    if name.startswith(HUB):
        return False
    return any(mark in name for mark in "/~*") or kind_of(name) is not None


def is_own(name: str) -> bool:
    """Returns whether a part is files of the user: by path, or of the hub as `hf:org/name`."""
    return name.startswith(HUB) or is_path(name)


def with_paths(text: str, change: Callable[[str], str]) -> str:
    """Returns the text with each path of it changed, such as to an absolute one.

    A text that `parse` refuses stays as it is.
    """
    try:
        parts = parse(text)
    except UserError:
        return text
    return "+".join(_written(part, change) for part in parts)


def without_own(text: str) -> str | None:
    """Returns the names in the text that are not `is_own`, without rates; None if none are left."""
    names = [name for part in parse(text) for name in part.names if not is_own(name)]
    return "+".join(names) or None


def _written(part: Part, change: Callable[[str], str]) -> str:
    names = "+".join(_escaped(change(name)) if is_path(name) else name for name in part.names)
    cap = "" if part.cap is None else f":{part.cap}"
    share = "" if part.share is None else f":{part.share * 100:.10g}%"
    return f"{names if len(part.names) == 1 else f'({names})'}{cap}{share}"


def _escaped(name: str) -> str:
    """A name with backslashes where `parse` would divide it."""
    return re.sub(r"[+()\\]|:(?!//)", r"\\\g<0>", name)


def _split(text: str) -> list[str]:
    """The text between the `+` that are in no parentheses."""
    pieces, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth not in (0, 1):
            raise _error(text, "parentheses come in pairs, not one within another")
        if character == "+" and not depth:
            pieces.append("")
        else:
            pieces[-1] += character
    if depth:
        raise _error(text, "a parenthesis is not closed")
    return pieces


def _part(piece: str, text: str) -> Part:
    name, caps, shares = piece.strip(), [], []
    while match := _RATE.search(name):
        rates = shares if match[1].endswith("%") else caps
        rates.append(float(match[1].rstrip("%").replace("_", "")))
        name = name[: match.start()]
    if len(caps) > 1 or len(shares) > 1:
        raise _error(text, f"{shown(piece)} has two caps or two shares")
    if 0 in caps or not all(0 < share <= 100 for share in shares):
        raise _error(text, f"{shown(piece)} is never drawn, or more than always")
    is_group = name.startswith("(") and name.endswith(")")
    names = [inner.strip() for inner in name[1:-1].split("+")] if is_group else [name]
    if not all(names):
        raise _error(text, "a part is empty")
    for inner in names:
        _check_name(inner, text)
    return Part(
        tuple(name.translate(_MARKS) for name in names),
        int(caps[0]) if caps else None,
        shares[0] / 100 if shares else None,
    )


def _check_name(name: str, text: str) -> None:
    if "(" in name or ")" in name:
        raise _error(text, f"{quoted(name)} has a parenthesis within a name")
    path, colon, rate = name.rpartition(":")
    if colon and (is_path(path) or path == FLAN) and not name.startswith(HUB):
        raise _error(text, f"{quoted(rate)} after {shown(path)} is not a number or a percentage")


def _error(text: str, problem: str) -> UserError:
    problem = problem.translate(_MARKS)
    return UserError(f"MIXTURE_OR_TASK_NAME {quoted(text)}: {problem}; {FORMS}.")
