"""Numbers on a horizontal axis: a row for each dataset, and in it a lane for each model.

The rows of a cluster are below its heading.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from flan_jax.report.figures import style, text_layout
from flan_jax.report.figures.points import PAPER, Point
from flan_jax.report.figures.sheet import MARGIN, Sheet
from flan_jax.report.table import heading

# Inches.
_PITCH, _DENSE_PITCH, _ROW_PAD, _HEADING = 0.115, 0.092, 0.075, 0.235
_BELOW, _ABOVE, _TICK_LABELS = 0.42, 0.06, 0.2
_LEAST_AXES = 1.75
# Lanes beyond which they are closer, and inches beyond which the axis is above, too.
_MANY_LANES, _TALL = 60, 6.0


@dataclasses.dataclass
class Row:
    """A row of the figure.

    Attributes:
      cluster: below whose heading it is; '' for none.
      name: of the dataset, or of what else the row has.
      is_mean: whether it is a mean over datasets.
      points: in it.
      lanes: what has a lane of its own; see `Layout.lane`.
      label: the lines of its name.
      top, bottom: inches below the top of the axes.
    """

    cluster: str
    name: str
    is_mean: bool
    points: list[Point]
    lanes: list[Hashable]
    label: list[str] = dataclasses.field(default_factory=list)
    top: float = 0.0
    bottom: float = 0.0


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is where in a figure with lanes.

    Attributes:
      row: the name of a point's row.
      lane: what has a lane of its own in the row; None for what spans it.
      is_mean: whether a point's row is that of a mean.
    """

    row: Callable[[Point], str]
    lane: Callable[[Point], Hashable | None]
    is_mean: Callable[[Point], bool] = lambda point: not point.dataset


# Draws a point: axes, point, y of its lane (of its row, if it spans that), its row.
Draw = Callable[[Axes, Point, float, Row], None]


def draw_lanes(
    points: Sequence[Point],
    layout: Layout,
    draw: Draw,
    axis: str,
    handles: Sequence[Line2D | Patch],
    caption: str,
    limits: tuple[float, float] | None = (0, 100),
) -> Figure:
    """Returns a figure of points in rows and lanes.

    Args:
      points: in the order of rows and lanes.
      layout: what is where.
      draw: draws a point.
      axis: the name of the axis.
      handles: of the legend.
      caption: of the figure.
      limits: which the axis has at least; None for those of the points and 0.
    """
    rows = _rows(points, layout)
    names_wide = max(text_layout.width(row.name, style.SMALL, row.is_mean) for row in rows)
    is_narrow = names_wide + _LEAST_AXES + 3 * MARGIN <= style.NARROW and len(handles) < 6
    width = style.NARROW if is_narrow else style.WIDE
    left = min(names_wide, 0.42 * width) + 2 * MARGIN
    # A little more than the widest name, which must not wrap for a rounding error.
    _wrap_labels(rows, left - 2 * MARGIN + 0.01)
    headings, height = _place(rows)
    is_tall = height > _TALL
    above = _ABOVE + (_TICK_LABELS if is_tall else 0)
    sheet = Sheet(width, above + height + _BELOW, handles, caption)
    axes = sheet.axes(left, above, width - left - 2 * MARGIN, height)
    for row in rows:
        for point in row.points:
            draw(axes, point, _y_of(point, row, layout), row)
    _set_limits(axes, points, limits, height)
    _finish(sheet, axes, rows, axis, is_tall)
    _write_headings(sheet, axes, headings, above)
    return sheet.figure


def _write_headings(
    sheet: Sheet, axes: Axes, headings: Sequence[tuple[str, float]], above: float
) -> None:
    """Writes the names of the clusters above their rows."""
    for name, top in headings:
        # On white: the lines of the grid are not drawn through it.
        axes.axhspan(top, top + _HEADING, facecolor="white", linewidth=0, zorder=1)
        sheet.text(MARGIN, above + top + 0.06, name, fontsize=style.NORMAL, fontweight="bold")


def _rows(points: Sequence[Point], layout: Layout) -> list[Row]:
    """The rows of points, cluster by cluster."""
    rows: dict[tuple[str, str], Row] = {}
    for cluster in dict.fromkeys(point.cluster for point in points):
        for point in (point for point in points if point.cluster == cluster):
            name = layout.row(point)
            row = Row(cluster, name, layout.is_mean(point), [], [])
            row = rows.setdefault((cluster, name), row)
            row.points.append(point)
            lane = layout.lane(point)
            if lane is not None and lane not in row.lanes:
                row.lanes.append(lane)
    return list(rows.values())


def _wrap_labels(rows: Sequence[Row], most: float) -> None:
    for row in rows:
        row.label = text_layout.wrapped(row.name, most, style.SMALL, row.is_mean)


def _place(rows: Sequence[Row]) -> tuple[list[tuple[str, float]], float]:
    """Places rows; returns the headings with where they begin, and where everything ends."""
    pitch = _PITCH if sum(len(row.lanes) for row in rows) <= _MANY_LANES else _DENSE_PITCH
    headings, top = [], 0.0
    for cluster, members in itertools.groupby(rows, lambda row: row.cluster):
        if cluster:
            headings.append((heading(cluster), top))
            top += _HEADING
        for row in members:
            least = len(row.label) * style.SMALL * text_layout.LINE
            row.top = top
            row.bottom = top = top + max(max(len(row.lanes), 1) * pitch, least) + _ROW_PAD
        top += 0.03
    return headings, top


def _y_of(point: Point, row: Row, layout: Layout) -> float:
    """The middle of a point's lane, or of its row."""
    lane, middle = layout.lane(point), (row.top + row.bottom) / 2
    if lane is None:
        return middle
    pitch = min((row.bottom - row.top - _ROW_PAD) / len(row.lanes), _PITCH)
    return middle + (row.lanes.index(lane) - (len(row.lanes) - 1) / 2) * pitch


def _set_limits(
    axes: Axes, points: Sequence[Point], limits: tuple[float, float] | None, height: float
) -> None:
    """Sets the limits so that every point is whole.

    Errors end at the limits of what can be scored; the CSV has their ends.
    """
    if limits is None:
        ends = [0.0, *(end for point in points for end in style.ends(point))]
    else:
        ends = [*limits, *(end for point in points for end in style.possible_ends(point))]
    low, high = min(ends), max(ends)
    room = 0.015 * (high - low) or 5.0
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(height, 0)


def _finish(sheet: Sheet, axes: Axes, rows: Sequence[Row], axis: str, is_tall: bool) -> None:
    """Draws the names of the rows, the bands behind every other row, and the axis."""
    for _, members in itertools.groupby(rows, lambda row: row.cluster):
        for row in list(members)[1::2]:
            axes.axhspan(row.top, row.bottom, facecolor=style.BAND, linewidth=0, zorder=0)
    middles = [(row.top + row.bottom) / 2 for row in rows]
    axes.set_yticks(middles, ["\n".join(row.label) for row in rows], fontsize=style.SMALL)
    for label, row in zip(axes.get_yticklabels(), rows):
        label.set_fontweight("bold" if row.is_mean else "normal")
    axes.tick_params(axis="y", length=0, pad=4)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.tick_params(axis="x", labelsize=style.SMALL, top=is_tall, labeltop=is_tall)
    axes.grid(axis="x", zorder=0)
    middle = (axes.get_position().x0 + axes.get_position().x1) / 2
    below = text_layout.LINE * style.SMALL + 0.09
    place = axes.get_position().y0 - below / sheet.height
    sheet.figure.text(
        middle, place, axis, fontsize=style.NORMAL, color=style.INK, ha="center", va="top"
    )


def name_of_metric(points: Sequence[Point]) -> str:
    """Returns 'accuracy', or 'score' where the points have several metrics."""
    metrics = {point.metric for point in points if point.metric and point.kind != PAPER}
    return metrics.pop() if len(metrics) == 1 else "score"


def dataset_label(points: Sequence[Point]) -> Callable[[Point], str]:
    """Returns a function to the label of a point's dataset.

    It has the number of rows and the metric where the points have several.
    """
    several = name_of_metric(points) == "score"
    counts_of_all = {point.n for point in points if point.dataset and point.n is not None}
    rows: dict[tuple[str, str], set[int]] = {}
    metrics: dict[tuple[str, str], str] = {}
    for point in points:
        key = point.cluster, point.dataset
        if point.kind != PAPER and point.n is not None:
            rows.setdefault(key, set()).add(point.n)
            metrics.setdefault(key, point.metric)

    def label(point: Point) -> str:
        key = point.cluster, point.dataset
        if not point.dataset:
            return "mean"
        metric = f" ({metrics.get(key, '')})" if several else ""
        counts = ", ".join(f"{count:,}" for count in sorted(rows.get(key, ())))
        count = f", n = {counts}" if len(counts_of_all) > 1 else ""
        return f"{point.dataset}{metric}{count}"

    return label
