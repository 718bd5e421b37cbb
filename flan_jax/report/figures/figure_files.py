"""The files of figures: `figures/NAME.pdf`, `.svg`, `.png`, and `.csv` with every drawn number.

The same numbers make the same bytes: there is no date in them. Nothing is drawn again, and
Matplotlib not even imported, where the numbers and the caption are those of the files.
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from flan_jax.errors import UserError
from flan_jax.report.figures.points import csv_text
from flan_jax.report.figures.registry import FIGURES
from flan_jax.report.figures.report_data import ReportData
from flan_jax.storage.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIRECTORY = "figures"
# Without metadata that changes from one time to the next.
_METADATA: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "png": {"Software": None},
}


class ReportFigure(NamedTuple):
    """A figure of a report.

    Attributes:
      name: its file name without ending.
      csv: its numbers.
      caption: what they are.
    """

    name: str
    csv: str
    caption: str


def make_figures(data: ReportData) -> list[ReportFigure]:
    """Returns the figures that the data have points for; nothing is drawn yet."""
    figures = []
    for name, figure in FIGURES.items():
        points = figure.points(data)
        if points:
            figures.append(ReportFigure(name, csv_text(points), figure.caption(points, data)))
    return figures


def write_figures(
    figures: list[ReportFigure], data: ReportData, directory: pathlib.Path, captions_before: str
) -> list[pathlib.Path]:
    """Draws the figures that changed; removes those of earlier reports that are none any more.

    Args:
      figures: of the data.
      data: as for `make_figures`.
      directory: of the report.
      captions_before: a text that has the captions of the files that are there.

    Returns:
      The files that were written.

    Raises:
      UserError: if a file cannot be written.
    """
    place, written = directory / DIRECTORY, []
    for name in FIGURES.keys() - {figure.name for figure in figures}:
        _remove(_files(place, name).values())
    for figure in figures:
        files = _files(place, figure.name)
        if _is_drawn(files, figure, captions_before):
            continue
        # The CSV comes last: it says that the others show its numbers.
        contents = {**draw(figure, data), "csv": figure.csv.encode()}
        for kind, file in files.items():
            write_file(file, contents[kind])
            written.append(file)
    return written


def draw(figure: ReportFigure, data: ReportData) -> dict[str, bytes]:
    """Returns a figure as 'pdf', 'svg' and 'png'."""
    from flan_jax.report.figures import style

    module = FIGURES[figure.name]
    with style.styled(figure.name):
        drawing = module.draw(module.points(data), figure.caption)
        return {kind: _saved(drawing, kind) for kind in _METADATA}


def _files(place: pathlib.Path, name: str) -> Mapping[str, pathlib.Path]:
    return {kind: place / f"{name}.{kind}" for kind in (*_METADATA, "csv")}


def _remove(files: Iterable[pathlib.Path]) -> None:
    """Removes files of which some may not be there.

    Raises:
      UserError: if one cannot be removed.
    """
    for file in files:
        try:
            if file.is_file():
                file.unlink()
        except OSError as error:
            raise UserError(
                f"cannot remove {file}, a figure of an earlier report ({error.strerror})."
            ) from error


def _is_drawn(
    files: Mapping[str, pathlib.Path], figure: ReportFigure, captions_before: str
) -> bool:
    """Whether the files show the numbers and the caption of a figure."""
    if not all(file.is_file() for file in files.values()):
        return False
    is_same = files["csv"].read_bytes() == figure.csv.encode()
    return is_same and figure.caption in captions_before


def _saved(drawing: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    drawing.savefig(file, format=kind, metadata=_METADATA[kind])
    return file.getvalue()
