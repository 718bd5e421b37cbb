"""The look of all figures: sizes, colors, marks, and what they are drawn with.

Points have a pale thick bar for the 95 % interval from rows and a thin line for the standard
deviation over templates. Models differ in color (Okabe and Ito 2008) and in shape; what is not
tuned is hollow and gray.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from flan_jax.report.figures.paper_scores import (
    FLAN,
    FLAN_FEW_SHOT,
    FLAN_ZERO_SHOT,
    GPT3,
    LAMDA,
)
from flan_jax.report.figures.points import MAJORITY, PAPER, TUNED, UNTUNED, Point

# Inches: a column of a paper, and both.
NARROW, WIDE = 3.4, 6.75
# Points.
SMALL, NORMAL = 7.0, 8.0
BAR = 4.2
INK, GRAY, GRID, BAND = "#222222", "#7f7f7f", "#e4e4e4", "#f6f6f6"
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "p")
# Color, shape and size.
_PAPER_LOOKS = {
    FLAN: ("#8a4b08", "*", 6.0),
    FLAN_FEW_SHOT: ("#8a4b08", "*", 6.0),
    FLAN_ZERO_SHOT: ("#8a4b08", (4, 1, 0), 5.5),
    GPT3: ("#5b2a86", (3, 0, 0), 4.6),
    LAMDA: ("#5b2a86", (4, 0, 0), 4.6),
}
# Scores that may be negative.
_SIGNED = ("matthews", "pearson", "pearson_value", "spearman", "spearman_value")
_PALE = 0.33  # opacity
DPI = 200

_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": SMALL,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": NORMAL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    # Text stays text, which can be searched and which journals require. DejaVu Sans is wide: what
    # a browser has instead does not overlap either.
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    # Names of runs may have a dollar sign.
    "text.parse_math": False,
    "text.usetex": False,
}


class Look(NamedTuple):
    """Color and shape of a model."""

    color: str
    shape: str
    is_hollow: bool = False


HOLLOW = Look(GRAY, "o", is_hollow=True)


@contextlib.contextmanager
def styled(name: str) -> Iterator[None]:
    """Draws in the style of this file, whatever a user has set for Matplotlib elsewhere.

    Args:
      name: of the figure; two figures in one page have other ids of what they define.
    """
    with matplotlib.style.context(["default", {**_SETTINGS, "svg.hashsalt": name}]):
        yield


def look(number: int) -> Look:
    """Returns the look of the model of that number; 56 differ."""
    color = number % len(_COLORS)
    return Look(_COLORS[color], _SHAPES[(color + number // len(_COLORS)) % len(_SHAPES)])


def looks_of_models(points: Sequence[Point]) -> dict[str, Look]:
    """Returns the looks of the models of points by name; one without a tuned point is hollow."""
    models = [p for p in points if p.kind == TUNED or (p.kind == UNTUNED and p.series)]
    tuned = {point.series for point in models if point.kind == TUNED}
    return {
        name: look(number) if name in tuned else HOLLOW._replace(shape=look(number).shape)
        for number, name in enumerate(dict.fromkeys(point.series for point in models))
    }


def look_of(point: Point, looks: Mapping[str, Look]) -> Look:
    """Returns the look of a point's model; before tuning it is gray and hollow.

    Args:
      point: tuned or untuned.
      looks: of the models, by their names.
    """
    tuned = looks.get(point.series, HOLLOW)
    return tuned if point.kind == TUNED else HOLLOW._replace(shape=tuned.shape)


def mark(
    axes: Axes,
    x: float,
    y: float,
    point: Point,
    look: Look,
    is_upright: bool = False,
    bar: float = BAR,
) -> None:
    """Draws a point with its interval from rows and its spread over templates.

    Args:
      axes: to draw in.
      x: where the point is.
      y: where the point is.
      point: what is drawn.
      look: of its model.
      is_upright: whether the number is on the y axis.
      bar: how thick the interval is, in points.
    """
    if point.low is not None and point.high is not None:
        line(axes, x, y, point.low, point.high, is_upright, **pale_bar(look.color, bar))
    if point.std is not None:
        ends = point.value - point.std, point.value + point.std
        line(axes, x, y, *ends, is_upright, **thin_line(look.color))
    if point.std_seeds is not None:
        for end in (point.value - point.std_seeds, point.value + point.std_seeds):
            place = (x, end) if is_upright else (end, y)
            add(axes, *zip(place), **seed_end(look, is_upright))
    if not point.is_equal:
        axes.scatter(
            [x], [y], s=75, marker="s", facecolor="none", edgecolor=look.color, hatch="/" * 7,
            linewidth=0.5, zorder=3, clip_on=False,
        )  # fmt: skip
    add(axes, [x], [y], **dot(look))


def ends(point: Point) -> list[float]:
    """Returns the number and the ends of its errors."""
    values = [point.value, *(end for end in (point.low, point.high) if end is not None)]
    for std in (point.std, point.std_seeds):
        values += [] if std is None else [point.value - std, point.value + std]
    return values


def possible_ends(point: Point) -> list[float]:
    """Returns the number and the ends of its errors as far as scores reach, 0 or -100 to 100."""
    least = -100.0 if point.metric in _SIGNED else 0.0
    return [point.value, *(min(max(end, least), 100.0) for end in ends(point))]


def line(
    axes: Axes, x: float, y: float, low: float, high: float, is_upright: bool, **style: Any
) -> None:
    """Draws a line from `low` to `high` on the axis of the numbers."""
    add(axes, *(([x, x], [low, high]) if is_upright else ([low, high], [y, y])), **style)


def add(axes: Axes, xs: Sequence[float], ys: Sequence[float], **style: Any) -> None:
    """Draws points or a line; `plot` takes twice as long, as it follows the limits of the data."""
    axes.add_artist(Line2D(xs, ys, **style))


def dot(look: Look, size: float = 4.4) -> dict[str, Any]:
    """Returns the style of a point."""
    return {
        "linestyle": "",
        "marker": look.shape,
        "markersize": size,
        "markerfacecolor": "white" if look.is_hollow else look.color,
        "markeredgecolor": look.color,
        "markeredgewidth": 0.9,
        "clip_on": False,
        "zorder": 5,
    }


def pale_bar(color: str, bar: float = BAR) -> dict[str, Any]:
    """Returns the style of an interval from rows."""
    return {
        "color": color,
        "linewidth": bar,
        "alpha": _PALE,
        "solid_capstyle": "butt",
        "zorder": 2.5,
    }


def thin_line(color: str) -> dict[str, Any]:
    """Returns the style of a spread over templates."""
    return {"color": color, "linewidth": 0.8, "solid_capstyle": "butt", "zorder": 4}


def tick(look: Look = HOLLOW) -> dict[str, Any]:
    """Returns the style of a template."""
    return {
        "linestyle": "",
        "marker": "|",
        "markersize": 5.5,
        "markeredgewidth": 1.0,
        "markeredgecolor": look.color,
        "clip_on": False,
        "zorder": 4.5,
    }


def seed_end(look: Look = HOLLOW, is_upright: bool = False) -> dict[str, Any]:
    """Returns the style of an end of the spread over seeds: a bracket."""
    return {**tick(look), "marker": "_" if is_upright else "|", "markersize": 6.5, "clip_on": True}


def paper_mark(point: Point) -> dict[str, Any]:
    """Returns the style of a number of the paper; hollow where it is recalled."""
    color, shape, size = _PAPER_LOOKS[point.series]
    return {**dot(Look(color, shape, is_hollow=bool(point.note)), size), "markeredgewidth": 0.7}


def curve(look: Look) -> dict[str, Any]:
    """Returns the style of the line between the points of a curve."""
    dashes = (0, (3, 1.5)) if look.is_hollow else "solid"
    return {"color": look.color, "linewidth": 1.0, "linestyle": dashes, "zorder": 3.5}


def paper_curve(point: Point) -> dict[str, Any]:
    """Returns the style of a curve of the paper."""
    return {**paper_mark(point), "linestyle": (0, (4, 2)), "linewidth": 1.0, "color": "#8a4b08"}


def majority_line() -> dict[str, Any]:
    """Returns the style of the majority class."""
    return {"color": INK, "linewidth": 1.0, "linestyle": (0, (1.6, 1.1)), "zorder": 3}


def handle(label: str, **style: Any) -> Line2D:
    """Returns an entry of a legend in the style of a line or a point."""
    style = {key: value for key, value in style.items() if key not in ("clip_on", "zorder")}
    return Line2D([], [], label=label, **style)


def handles_of_models(points: Sequence[Point], looks: Mapping[str, Look]) -> list[Line2D]:
    """Returns the entries of the legend for models, the majority class and the paper.

    Args:
      points: of the figure.
      looks: of the models, by their names.
    """
    handles = [handle(name or TUNED, **dot(look)) for name, look in looks.items()]
    # A model without a tuned point has an entry already.
    named = {name for name, look in looks.items() if look.is_hollow}
    untuned = [point for point in points if point.kind == UNTUNED and point.series not in named]
    if untuned:
        has_own = len(looks) > 1 and any(point.series for point in untuned)
        name = "untuned (shape of the tuned model)" if has_own else "untuned"
        handles.append(handle(name, **dot(HOLLOW)))
    if any(point.kind == MAJORITY for point in points):
        handles.append(handle("majority class", **majority_line()))
    papers = {point.series: point for point in points if point.kind == PAPER and not point.note}
    papers = {point.series: point for point in points if point.kind == PAPER} | papers
    return handles + [handle(f"{name} (paper)", **paper_mark(p)) for name, p in papers.items()]


def handles_of_errors(
    points: Sequence[Point], interval: str = "95 % interval from rows"
) -> list[Line2D | Patch]:
    """Returns the entries of the legend for what the points' bars and lines are.

    Args:
      points: of the figure.
      interval: what the pale bar is.
    """
    handles: list[Line2D | Patch] = []
    if any(point.low is not None for point in points):
        handles.append(handle(interval, **pale_bar(GRAY)))
    if any(point.std for point in points):
        handles.append(handle("std over templates", **thin_line(GRAY)))
    if any(point.std_seeds is not None for point in points):
        handles.append(handle("± std over seeds", **seed_end()))
    if not all(point.is_equal for point in points):
        handles.append(
            Patch(facecolor="none", edgecolor=GRAY, hatch="/" * 7, label="mean over other rows")
        )
    return handles
