"""The table as a picture: a bar per model and dataset, clusters one below the other."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from flan_jax.report.comparisons import Comparison, means_are_alike
from flan_jax.report.summaries import Summary
from flan_jax.report.table import caption, heading

# Tuned models in their order; readable in gray and by color-blind eyes (Okabe and Ito).
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
# The models beyond the sixth have the same colors again, hatched.
_HATCHES = ("", "///", "...", "xxx")
_UNTUNED, _INK = "#bdbdbd", "#333333"
# Heights in units of a bar.
_GAP, _HEADING = 0.75, 1.5
_INCHES_PER_BAR = 0.17


class _Tick(NamedTuple):
    """A name beside the bars."""

    place: float
    name: str
    is_mean: bool


def draw(lines: Sequence[Comparison], sources: Collection[str] = ()) -> bytes:
    """Returns a PNG at 150 dpi of the lines of a table.

    Bars are means over templates with their standard deviation as whiskers, a diamond the best
    template, a dashed line the majority class; the numbers have their standard error from rows.

    Args:
      lines: see `comparisons.compare`.
      sources: where the evaluated rows come from, for the caption.
    """
    labels = list(dict.fromkeys(line.label for line in lines if line.tuned))
    figure = Figure(figsize=(7.0, 1.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    ticks: list[_Tick] = []
    top = 0.0
    for cluster in dict.fromkeys(line.cluster for line in lines):
        members = [line for line in lines if line.cluster == cluster]
        top = _draw_cluster(axes, top, members, labels, ticks)
    figure.set_size_inches(7.0, 0.85 + _INCHES_PER_BAR * top)
    _finish(axes, top, ticks)
    figure.suptitle(caption(lines, sources), fontsize=8, color=_INK)
    figure.legend(
        handles=_legend(lines, labels),
        loc="outside lower center",
        ncols=5,
        fontsize=8,
        frameon=False,
        columnspacing=1.4,
        handlelength=1.6,
    )
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _draw_cluster(
    axes: Axes,
    top: float,
    lines: Sequence[Comparison],
    labels: Sequence[str],
    ticks: list[_Tick],
) -> float:
    """Draws a cluster from `top` downwards and adds its ticks; returns where it ends."""
    cluster, metrics = lines[0].cluster, {line.any.metric for line in lines}
    title = heading(cluster) + (f" ({min(metrics)})" if len(metrics) == 1 else "")
    axes.text(0.8, top + 0.55, title, fontsize=9, fontweight="bold", va="center", color=_INK)
    top += _HEADING
    shows_mean = means_are_alike(lines)
    for dataset in dict.fromkeys(line.dataset for line in lines if line.dataset or shows_mean):
        group = [line for line in lines if line.dataset == dataset]
        bottom = _draw_group(axes, top, group, labels)
        summary = group[0].any
        name = dataset or "mean"
        if dataset and len(metrics) > 1:
            name += f" ({summary.metric})"
        if dataset:
            name += f", n = {summary.n:,}"
        ticks.append(_Tick((top + bottom) / 2, name, is_mean=not dataset))
        top = bottom + _GAP
    return top


def _draw_group(
    axes: Axes, top: float, group: Sequence[Comparison], labels: Sequence[str]
) -> float:
    """Draws the bars of one dataset from `top` downwards; returns where they end."""
    bars = [(line.tuned, *_style(labels.index(line.label))) for line in group if line.tuned]
    place = top
    bars += [(summary, _UNTUNED, "") for summary in _distinct(line.untuned for line in group)]
    for summary, *style in bars:
        _draw_bar(axes, place + 0.5, summary, *style)
        place += 1
    place = max(place, top + 1)
    for majority in _distinct(line.majority for line in group):
        axes.plot(
            [majority.mean] * 2,
            [top - 0.15, place + 0.15],
            color=_INK,
            linewidth=1.1,
            linestyle=(0, (2, 1.2)),
        )
    return place


def _style(number: int) -> tuple[str, str]:
    """Color and hatch of a tuned model."""
    return _COLORS[number % len(_COLORS)], _HATCHES[number // len(_COLORS) % len(_HATCHES)]


def _draw_bar(axes: Axes, place: float, summary: Summary, color: str, hatch: str) -> None:
    axes.barh(
        place, summary.mean, height=0.92, color=color, hatch=hatch, edgecolor="white", linewidth=0
    )
    if _has_spread(summary):
        axes.errorbar(
            summary.mean,
            place,
            xerr=summary.std,
            color=_INK,
            elinewidth=0.9,
            capsize=2.0,
            capthick=0.9,
        )
    if _has_best(summary) and color != _UNTUNED:
        axes.plot(
            summary.best,
            place,
            marker="D",
            markersize=3.6,
            markerfacecolor="white",
            markeredgecolor=_INK,
            markeredgewidth=0.8,
            zorder=4,
        )
    bound = "≤" if summary.stderr_is_bound else ""
    error = "" if summary.stderr is None else f" ± {bound}{summary.stderr:.1f}"
    axes.annotate(
        f"{summary.mean:.1f}{error}",
        (1.01, place),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=7.5,
        color=_INK if color != _UNTUNED else "#8a8a8a",
        fontweight="normal" if summary.dataset else "bold",
        annotation_clip=False,
    )


def _has_spread(summary: Summary | None) -> bool:
    return summary is not None and summary.std is not None and summary.dataset != ""


def _has_best(summary: Summary | None) -> bool:
    return summary is not None and summary.best_template != ""


def _distinct(summaries: Iterable[Summary | None]) -> list[Summary]:
    return list(dict.fromkeys(s for s in summaries if s is not None))


def _finish(axes: Axes, bottom: float, ticks: Sequence[_Tick]) -> None:
    axes.set_ylim(bottom, -0.1)
    axes.set_xlim(left=min(axes.get_xlim()[0], 0), right=100)
    axes.set_yticks([t.place for t in ticks], [t.name for t in ticks], fontsize=8)
    for label, tick in zip(axes.get_yticklabels(), ticks):
        label.set_fontweight("bold" if tick.is_mean else "normal")
    axes.set_xlabel("score (%)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.7)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.axvline(0, color=_INK, linewidth=0.8)


def _legend(lines: Sequence[Comparison], labels: Sequence[str]) -> list[Patch | Line2D]:
    drawn = [line for line in lines if line.dataset or _shows_mean(line.cluster, lines)]
    handles: list[Patch | Line2D] = []
    for number, label in enumerate(labels):
        color, hatch = _style(number)
        patch = Patch(facecolor=color, hatch=hatch, edgecolor="white", linewidth=0, label=label)
        handles.append(patch)
    if any(line.untuned for line in lines):
        handles.append(Patch(color=_UNTUNED, label="untuned"))
    if any(_has_spread(line.tuned) or _has_spread(line.untuned) for line in drawn):
        handles.append(_mark("std over templates", marker="|", markersize=5, linewidth=0.9))
    if any(_has_best(line.tuned) for line in drawn):
        diamond = {"marker": "D", "markersize": 3.6, "markerfacecolor": "white"}
        handles.append(_mark("best template", linestyle="", markeredgecolor=_INK, **diamond))
    if any(line.majority for line in drawn):
        handles.append(_mark("majority class", linewidth=1.1, linestyle=(0, (2, 1.2))))
    if any(_has_error(line.tuned) or _has_error(line.untuned) for line in drawn):
        handles.append(Line2D([], [], linestyle="", label="± s.e. from rows"))
    return handles


def _shows_mean(cluster: str, lines: Sequence[Comparison]) -> bool:
    return means_are_alike([line for line in lines if line.cluster == cluster])


def _has_error(summary: Summary | None) -> bool:
    return summary is not None and summary.stderr is not None


def _mark(label: str, **style: Any) -> Line2D:
    return Line2D([], [], color=_INK, label=label, **style)
