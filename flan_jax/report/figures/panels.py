"""Numbers over a setting: a panel for each cluster, and in it a curve for each kind of model."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

from flan_jax.report.figures import lanes, style, text_layout
from flan_jax.report.figures.points import MAJORITY, PAPER, TUNED, UNTUNED, Point
from flan_jax.report.figures.sheet import MARGIN, Sheet
from flan_jax.report.table import heading

# Inches.
_HEIGHT, _LEFT, _GAP, _BELOW, _TITLE_LINE = 1.55, 0.5, 0.25, 0.46, 0.15
_MOST_COLUMNS = 3
# Shares of the axis: from one curve to the next at a place, and of all curves there.
_STEP, _SPREAD = 0.035, 0.16


@dataclasses.dataclass(frozen=True)
class Axis:
    """The horizontal axis.

    Attributes:
      name: below it.
      ticks: the label of each place.
      is_log: whether it is logarithmic.
    """

    name: str
    ticks: Mapping[float, str]
    is_log: bool = False


def draw_panels(
    points: Sequence[Point],
    name: str,
    tick: Callable[[float], str],
    caption: str,
    is_log: bool = False,
) -> Figure:
    """Returns a figure of curves over a setting.

    Args:
      points: of all panels.
      name: of the horizontal axis.
      tick: the label of a place on it.
      caption: of the figure.
      is_log: whether the horizontal axis is logarithmic.
    """
    axis = Axis(name, {x: tick(x) for x in places_of(points)}, is_log)
    looks, metric = looks_of(points), lanes.name_of_metric(points)
    handles = [*style.handles_of_models(points, looks), *style.handles_of_errors(points)]
    clusters = list(dict.fromkeys(point.cluster for point in points))
    columns = min(_columns(len(clusters)), len(clusters))
    width = style.NARROW if columns == 1 else style.WIDE
    inner = (width - _LEFT - 2 * MARGIN - (columns - 1) * _GAP) / columns
    titles = [_title(cluster, inner) for cluster in clusters]
    tops, body = _tops(titles, columns)
    sheet = Sheet(width, body, handles, caption)
    limits = _limits(points)
    for number, cluster in enumerate(clusters):
        row, column = divmod(number, columns)
        left, top = MARGIN + _LEFT + column * (inner + _GAP), tops[row]
        axes = sheet.axes(left, top, inner, _HEIGHT)
        axes.set_ylim(*limits)
        _set_places(axes, axis, inner)
        _draw(axes, [point for point in points if point.cluster == cluster], axis, looks, inner)
        axes.tick_params(axis="y", labelleft=column == 0)
        axes.grid(axis="y")
        _write_names(sheet, left, top, inner, titles[number], axis.name)
        if column == 0:
            name, middle = f"{metric} (%)", top + _HEIGHT / 2
            sheet.text(MARGIN, middle, name, fontsize=style.NORMAL, rotation=90, va="center")
    return sheet.figure


def _write_names(
    sheet: Sheet, left: float, top: float, width: float, title: Sequence[str], axis: str
) -> None:
    """Writes the title above axes that begin at `left` and `top`, and their axis' name below."""
    above = top - len(title) * _TITLE_LINE + 0.01
    bold = {"fontsize": style.NORMAL, "fontweight": "bold", "linespacing": 1.15}
    sheet.text(left, above, "\n".join(title), **bold)
    below = top + _HEIGHT + 0.21
    sheet.text(left + width / 2, below, axis, fontsize=style.NORMAL, ha="center")


def _columns(panels: int) -> int:
    """As many columns as leave no panel alone in its row, if that is possible."""
    return 2 if panels in (2, 4) else _MOST_COLUMNS


def _tops(titles: Sequence[Sequence[str]], columns: int) -> tuple[list[float], float]:
    """Where the axes of each row of panels begin, below their titles, and where the last ends."""
    tops, top = [], MARGIN
    for start in range(0, len(titles), columns):
        tops.append(top + max(map(len, titles[start : start + columns])) * _TITLE_LINE)
        top = tops[-1] + _HEIGHT + _BELOW
    return tops, top


def _title(cluster: str, width: float) -> list[str]:
    return text_layout.wrapped(heading(cluster), width, style.NORMAL, is_bold=True)


def _limits(points: Sequence[Point]) -> tuple[float, float]:
    """The limits of all panels: every point and what its errors may reach."""
    ends = [end for point in points for end in style.possible_ends(point)]
    low, high = min(ends), max(ends)
    room = max(0.06 * (high - low), 2.0)
    return low - room, high + room


def _set_places(axes: Axes, axis: Axis, width: float) -> None:
    """Sets the limits and ticks of the horizontal axis; labels that do not fit are left out."""
    places = sorted(axis.ticks)
    if axis.is_log:
        axes.set_xscale("log")
    low, high = _position(places[0], axis), _position(places[-1], axis)
    room = 0.1 * (high - low) or 0.5
    ends = low - room, high + room
    axes.set_xlim(*(10**end if axis.is_log else end for end in ends))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.set_xticks(places, _fitting(axis, places, ends, width), fontsize=style.SMALL)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.tick_params(axis="y", labelsize=style.SMALL)


def _fitting(
    axis: Axis, places: Sequence[float], ends: tuple[float, float], width: float
) -> list[str]:
    """The labels of ticks, empty where one would touch that before it."""
    labels, free = [], -math.inf
    for place in places:
        text = axis.ticks[place]
        middle = (_position(place, axis) - ends[0]) / (ends[1] - ends[0]) * width
        half = text_layout.width(text, style.SMALL) / 2
        fits = middle - half > free
        labels.append(text if fits else "")
        free = middle + half + 0.05 if fits else free
    return labels


def _position(place: float, axis: Axis) -> float:
    return math.log10(place) if axis.is_log else place


def _draw(
    axes: Axes,
    points: Sequence[Point],
    axis: Axis,
    looks: Mapping[str, style.Look],
    width: float,
) -> None:
    """Draws the curves of a panel, beside one another at each place."""
    curves: dict[tuple[str, str], list[Point]] = collections.defaultdict(list)
    for point in points:
        curves[point.kind, point.series].append(point)
    own = [key for key in curves if key[0] in (TUNED, UNTUNED)]
    step = min(_STEP, _SPREAD / max(len(own), 1))
    bar = min(style.BAR, 0.85 * step * width * 72)
    for (kind, name), members in curves.items():
        members = sorted(members, key=lambda point: point.x)
        if kind == MAJORITY:
            _draw_majority(axes, members)
            continue
        shift = own.index((kind, name)) - (len(own) - 1) / 2 if kind != PAPER else 0.0
        places = [_shifted(axes, point.x, axis, shift * step) for point in members]
        values = [point.value for point in members]
        if kind == PAPER:
            style.add(axes, places, values, **style.paper_curve(members[0]))
            continue
        look = style.look_of(members[0], looks)
        style.add(axes, places, values, **style.curve(look))
        for place, point in zip(places, members):
            style.mark(axes, place, point.value, point, look, is_upright=True, bar=bar)


def _draw_majority(axes: Axes, points: Sequence[Point]) -> None:
    """A line where the class is the same for all, else a piece at each place."""
    low, high = axes.get_xlim()
    for value in dict.fromkeys(point.value for point in points):
        style.add(axes, [low, high], [value, value], **style.majority_line())


def _shifted(axes: Axes, place: float, axis: Axis, shift: float) -> float:
    """A place, moved by a share of the axis so that the curves' errors are side by side."""
    low, high = axes.get_xlim()
    span = _position(high, axis) - _position(low, axis)
    moved = _position(place, axis) + shift * span
    return 10**moved if axis.is_log else moved


def places_of(points: Sequence[Point]) -> list[float]:
    """Returns the places of the measured points, in their order."""
    return sorted({point.x for point in points if point.kind in (TUNED, UNTUNED)})


def looks_of(points: Sequence[Point]) -> dict[str, style.Look]:
    """Returns the looks of the tuned models, by curve."""
    names = dict.fromkeys(point.series for point in points if point.kind == TUNED)
    return {name: style.look(number) for number, name in enumerate(names)}
