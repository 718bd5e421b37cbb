"""The figures of a report as inline SVG."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

from flan_jax.report.figures.figure_files import DIRECTORY, ReportFigure
from flan_jax.report.page.escaping import text

_KINDS = ("pdf", "svg", "png", "csv")
# What an XML file has around its <svg>, and what Matplotlib says about itself in it.
_AROUND = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", re.DOTALL)
_ID = re.compile(r' id="([^"]+)"')
_REFERENCE = re.compile(r'(\bhref="#|url\(#|\baria-labelledby=")([^")]+)')
_STYLE = re.compile(r' style="([^"]*)"')
_NO_ROTATION = re.compile(r' transform="rotate\(-?0 [^"]*\)"')
_PLACES = re.compile(r' (?:d|x|y|x1|x2|y1|y2|transform)="[^"]*"')
_LONG_NUMBER = re.compile(r"(\d+\.\d\d)\d+")
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
        f'<figure><div class="canvas" tabindex="0">{svg}</div>'
        f"<figcaption>{text(figure.caption)} ({links})</figcaption></figure>"
    )


def inline_svg(svg: str, prefix: str) -> str:
    """Returns an SVG file of Matplotlib as an element of a page, about half as long.

    Coordinates have two decimals, equal styles are one class, and ids that nothing refers to go.

    Args:
      svg: text of the file.
      prefix: put before its ids and classes, which must differ from those of other figures.
    """
    element = _BETWEEN_TAGS.sub("><", _AROUND.sub("", svg).strip())
    used = {match[2] for match in _REFERENCE.finditer(element)}
    element = _ID.sub(
        lambda match: f' id="{prefix}{match[1]}"' if match[1] in used else "", element
    )
    element = _REFERENCE.sub(lambda match: f"{match[1]}{prefix}{match[2]}", element)
    element = _PLACES.sub(_shortened, _NO_ROTATION.sub("", element))
    return _with_classes(element, prefix)


def _shortened(attribute: re.Match[str]) -> str:
    """An attribute of coordinates with two decimals; factors of a scale keep all."""
    if "scale" in attribute[0]:
        return attribute[0]
    return _LONG_NUMBER.sub(r"\1", attribute[0]).replace(" \n", " ").replace("\n", " ")


def _with_classes(element: str, prefix: str) -> str:
    """An SVG element with a class for each style."""
    names: dict[str, str] = {}

    def named(match: re.Match[str]) -> str:
        return f' class="{names.setdefault(match[1], f"{prefix}{len(names)}")}"'

    classed = _STYLE.sub(named, element)
    rules = "".join(f".{name}{{{style}}}" for style, name in names.items())
    begin = classed.index(">") + 1
    return f"{classed[:begin]}<style>{rules}</style>{classed[begin:]}" if rules else classed
