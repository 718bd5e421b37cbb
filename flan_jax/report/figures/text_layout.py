"""Text in inches: how wide it is, and where it wraps. The same for every file format."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

# Inches of a line of text for each point of its size.
LINE = 1.3 / 72
_WORD = re.compile(r"\S*\s*")
# Where a word may be broken: after a sign that parts names.
_PART = re.compile(r"[^_\-/,.]*[_\-/,.]*\s*")
# Renderers hint glyphs, which makes a text a little wider than its outlines.
_SLACK = 1.03


@functools.lru_cache(maxsize=4096)
def width(text: str, size: float, is_bold: bool = False) -> float:
    """Returns the width of a line of text in inches, with a little slack."""
    weight = "bold" if is_bold else "normal"
    font = FontProperties(family="DejaVu Sans", weight=weight, size=size)
    points, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return points / 72 * _SLACK


def wrapped(text: str, most: float, size: float, is_bold: bool = False) -> list[str]:
    """Returns the lines of a text that are at most so wide; nothing of it is left out.

    Args:
      text: to wrap, at spaces; a word that is too wide also after the signs that part names.
      most: inches.
      size: of the font, in points.
      is_bold: whether it is bold.
    """
    lines = [""]
    for part in _parts(text, most, size, is_bold):
        if width((lines[-1] + part).rstrip(), size, is_bold) <= most:
            lines[-1] += part
        else:
            lines.append(part)
    return [line.rstrip() for line in lines if line.strip()] or [""]


def _parts(text: str, most: float, size: float, is_bold: bool) -> list[str]:
    """The parts between which a text may be broken.

    These are words; the parts of a word that is too wide, and the letters of such a part.
    """
    parts = []
    for word in _WORD.findall(text):
        if width(word.rstrip(), size, is_bold) <= most:
            parts.append(word)
            continue
        for part in _PART.findall(word):
            parts += [part] if width(part.rstrip(), size, is_bold) <= most else list(part)
    return parts


def columns(widths: Sequence[float], most: float) -> int:
    """Returns in how many columns entries of these widths fit, filled column by column.

    Args:
      widths: of the entries with the space between columns, in inches.
      most: inches for all columns.
    """
    for count in range(len(widths), 1, -1):
        rows = -(-len(widths) // count)
        wide = [max(widths[start : start + rows]) for start in range(0, len(widths), rows)]
        if len(wide) == count and sum(wide) <= most:
            return count
    return 1
