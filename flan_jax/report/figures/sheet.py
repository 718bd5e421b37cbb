"""A sheet: axes, below them the legend and the caption; everything inside, nothing overlapping.

The height follows from the contents. All lengths are inches.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerLine2D
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from flan_jax.report.figures import text_layout
from flan_jax.report.figures.style import DPI, INK, SMALL

MARGIN = 0.08
_HANDLE, _HANDLE_PAD, _COLUMN_PAD = 0.24, 0.07, 0.16
_LEGEND_LINE, _CAPTION_LINE = 0.138, SMALL * text_layout.LINE


class Sheet:
    """A figure of which the place of the axes is given.

    Attributes:
      figure: what is drawn.
      width, height: of the whole figure.
    """

    def __init__(
        self, width: float, body: float, handles: Sequence[Line2D | Patch], caption: str
    ) -> None:
        """Makes the figure with its legend and caption.

        Args:
          width: of the figure.
          body: height of what is above the legend.
          handles: of the legend.
          caption: wrapped to the width.
        """
        inner = width - 2 * MARGIN
        labels = [_wrapped_label(each.get_label(), inner) for each in handles]
        lines = text_layout.wrapped(caption, inner, SMALL)
        columns, legend = _legend_layout(labels, inner)
        below = len(lines) * _CAPTION_LINE + 2 * MARGIN
        self.width, self.height = width, body + legend + below
        self.figure = Figure(figsize=(self.width, self.height), dpi=DPI)
        self.figure.text(
            MARGIN / width,
            (below - MARGIN) / self.height,
            "\n".join(lines),
            fontsize=SMALL,
            color=INK,
            va="top",
            linespacing=1.1,
        )
        if handles:
            self._add_legend(handles, labels, columns, below + legend)

    def _add_legend(
        self,
        handles: Sequence[Line2D | Patch],
        labels: Sequence[Sequence[str]],
        columns: int,
        top: float,
    ) -> None:
        """Adds the legend, its upper edge `top` above the bottom of the figure."""
        points = SMALL / 72
        self.figure.legend(
            handles=list(handles),
            labels=["\n".join(lines) for lines in labels],
            loc="upper left",
            bbox_to_anchor=(MARGIN / self.width, top / self.height),
            ncols=columns,
            fontsize=SMALL,
            frameon=False,
            borderaxespad=0,
            borderpad=0,
            handlelength=_HANDLE / points,
            handletextpad=_HANDLE_PAD / points,
            columnspacing=_COLUMN_PAD / points,
            labelspacing=0.35,
            labelcolor=INK,
            handler_map={Line2D: HandlerLine2D(numpoints=1)},
        )

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Returns axes whose upper left corner is `left` and `top` of that of the figure."""
        bottom = self.height - top - height
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )

    def text(self, left: float, top: float, text: str, **style: object) -> None:
        """Writes a text whose upper left corner is `left` and `top` of that of the figure."""
        place = left / self.width, 1 - top / self.height
        self.figure.text(*place, text, **{"va": "top", "color": INK, **style})


def _wrapped_label(label: str, inner: float) -> list[str]:
    return text_layout.wrapped(label, inner - _HANDLE - _HANDLE_PAD, SMALL)


def _legend_layout(labels: Sequence[Sequence[str]], inner: float) -> tuple[int, float]:
    """The number of columns of a legend, and its height with the space below it."""
    if not labels:
        return 1, 0.0
    beside = _HANDLE + _HANDLE_PAD + _COLUMN_PAD
    widths = [max(text_layout.width(line, SMALL) for line in lines) + beside for lines in labels]
    columns = text_layout.columns(widths, inner + _COLUMN_PAD)
    rows = -(-len(labels) // columns)
    # A row is as high as its highest entry.
    heights = [max(map(len, labels[start::rows])) for start in range(rows)]
    return columns, sum(heights) * _LEGEND_LINE + 0.03
