"""The figures of a report as inline SVG."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

from flan_jax.report.figures.figure_files import DIRECTORY, ReportFigure
from flan_jax.report.page.escaping import text

_KINDS = ("pdf", "svg", "png", "csv")
# What an XML file has around its <svg>, and what matplotlib says about itself in it.
_AROUND = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", re.DOTALL)
_ID = re.compile(r'\bid="([^"]+)"')
_REFERENCE = re.compile(r'(\bhref="#|url\(#|\baria-labelledby=")([^")]+)')
_BETWEEN_TAGS = re.compile(r">\s+<")


def figure_section(figures: Sequence[ReportFigure], directory: pathlib.Path) -> str:
    """Returns the HTML of the figures, each with its caption and links to its files.

    Args:
      figures: whose files are in `figures` of the directory.
      directory: of the report.
    """
    return "\n".join(
        _figure(number, figure, directory / DIRECTORY) for number, figure in enumerate(figures)
    )


def _figure(number: int, figure: ReportFigure, place: pathlib.Path) -> str:
    links = ", ".join(
        f'<a href="{DIRECTORY}/{figure.name}.{kind}">{kind.upper()}</a>' for kind in _KINDS
    )
    svg = inline_svg((place / f"{figure.name}.svg").read_text(encoding="utf-8"), f"f{number}-")
    label = text(figure.name.replace("_", " "))
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return (
        f'<figure><div class="canvas">{svg}</div>'
        f"<figcaption>{text(figure.caption)} ({links})</figcaption></figure>"
    )


def inline_svg(svg: str, prefix: str) -> str:
    """Returns an SVG file as an element of a page.

    Args:
      svg: text of the file.
      prefix: put before its ids, which must differ from those of other figures.
    """
    element = _AROUND.sub("", svg).strip()
    element = _ID.sub(lambda match: f'id="{prefix}{match[1]}"', element)
    element = _REFERENCE.sub(lambda match: f"{match[1]}{prefix}{match[2]}", element)
    return _BETWEEN_TAGS.sub("><", element)
