"""Reads JSON lines: rows, rows at positions, and how many there are."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from flan_jax.errors import UserError

_ESCAPED = re.compile(rb"\\.")
_ESCAPED_TEXT = re.compile(r"\\.")
# A longer row is not continued: it lacks a quotation mark.
_MOST_CHARACTERS = 2**26
# The escape of a surrogate: JSON writes a character beyond 16 bits as two of them.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_jsonl(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a JSONL file.

    A row whose text has raw line breaks may extend over several lines.

    Args:
      path: the file.

    Raises:
      UserError: for a line that is incomplete, is not a JSON object or not UTF-8, has a number with
        too many digits or is nested too deeply; it names the file and the line.
    """
    return (_object(text, f"{path}:{number}") for number, text in _texts(path))


def _texts(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """(number of its first line, JSON) of each row."""
    lines = _lines(path)
    for number, text in lines:
        if not text.strip() and not any(more.strip() for _, more in lines):
            return
        yield number, _whole_row(text, lines)


def _whole_row(text: str, lines: Iterator[tuple[int, str]]) -> str:
    """The line, and the lines after it up to the end of a text that it begins."""
    parts, size, open_text = [text], len(text), _ends_within_a_text(text)
    while open_text and size < _MOST_CHARACTERS:
        more = next(lines, None)
        if more is None:
            break
        parts.append(more[1])
        size += len(more[1])
        open_text ^= _ends_within_a_text(more[1])
    return "".join(parts)


def _ends_within_a_text(line: str) -> bool:
    marks = _ESCAPED_TEXT.sub("", line) if "\\" in line else line
    return marks.count('"') % 2 == 1


def rows_at(path: pathlib.Path, positions: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (position, row) of ascending positions in a JSONL file.

    Args:
      path: the file.
      positions: numbers of rows, ascending.

    Raises:
      UserError: as `read_jsonl`.
    """
    left = iter(positions.tolist())
    wanted = next(left, None)
    for position, (number, text) in enumerate(_texts(path)):
        if wanted is None:
            return
        if position == wanted:
            yield position, _object(text, f"{path}:{number}")
            wanted = next(left, None)


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        place = f"at column {error.colno}"
        if error.lineno > 1:
            place += f" of line {error.lineno} of the row; is a quotation mark missing?"
        raise UserError(
            f"{where}: not a complete JSON object ({error.msg.removesuffix(' at')} {place}); "
            "repair or remove the line."
        ) from error
    except (ValueError, RecursionError) as error:  # a whole number of thousands of digits
        why = (
            "nested too deeply"
            if isinstance(error, RecursionError)
            else "it has a number of too many digits"
        )
        raise UserError(
            f"{where}: not readable JSON ({why}); repair or remove the line."
        ) from error
    if not isinstance(row, dict):
        kind = "null" if row is None else type(row).__name__
        raise UserError(f"{where}: a row must be a JSON object, not {kind}.")
    if _SURROGATE.search(text):
        _check_unicode(row, where)
    return row


def _check_unicode(row: dict[str, Any], where: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: lone surrogate {error.object[error.start]!r}, as in a text that was cut "
            "within a character; repair or remove the line."
        ) from error


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """(number, text) of each line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                # Windows marks a file's beginning
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}:{number}: byte {error.start + 1} of the line is not UTF-8; save the "
                    "file in that encoding."
                ) from error


def count_jsonl(path: pathlib.Path) -> int:
    """Returns the number of rows of a JSONL file.

    Parses it only if some line does not end an object, or ends within a text.
    """
    count = 0
    with open(path, "rb") as file:
        for line in file:
            marks = _ESCAPED.sub(b"", line) if b"\\" in line else line
            if not line.rstrip().endswith(b"}") or marks.count(b'"') % 2:
                return sum(1 for _ in read_jsonl(path))
            count += 1
    return count
