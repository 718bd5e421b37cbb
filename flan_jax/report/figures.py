"""The table as a picture: a bar per model and dataset, clusters one below the other."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from flan_jax.report.summary import Comparison, Summary, caption, heading, means_are_alike

# Tuned models in their order; readable in grey and by colour-blind eyes (Okabe and Ito).
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
# The models beyond the sixth have the same colours again, hatched.
_HATCHES = ("", "///", "...", "xxx")
_UNTUNED, _INK = "#bdbdbd", "#333333"
# Heights in units of a bar.
_GAP, _HEADING = 0.75, 1.5
_INCHES_PER_BAR = 0.17


def draw(lines: Sequence[Comparison], sources: Collection[str] = ()) -> bytes:
    """A PNG at 150 dpi of the comparisons that `report.compare` gives.

    Bars are means over templates with their standard deviation as whiskers, a diamond the best
    template, a dashed line the majority class; the numbers have their standard error from rows.

    Args:
      lines: see `report.compare`.
      sources: where the evaluated rows come from, for the caption.
    """
    labels = list(dict.fromkeys(line.label for line in lines if line.tuned))
    figure = Figure(figsize=(7.0, 1.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    ticks: list[tuple[float, str, bool]] = []
    top = 0.0
    for cluster in dict.fromkeys(line.cluster for line in lines):
        own = [line for line in lines if line.cluster == cluster]
        metrics = {line.any.metric for line in own}
        title = heading(cluster) + (f" ({min(metrics)})" if len(metrics) == 1 else "")
        axes.text(0.8, top + 0.55, title, fontsize=9, fontweight="bold", va="center", color=_INK)
        top += _HEADING
        datasets = dict.fromkeys(
            line.dataset for line in own if line.dataset or means_are_alike(own)
        )
        for dataset in datasets:
            group = [line for line in own if line.dataset == dataset]
            bottom = _draw_group(axes, top, group, labels)
            name = dataset or "mean"
            if dataset and len(metrics) > 1:
                name += f" ({group[0].any.metric})"
            name += f", n = {group[0].any.n:,}" if dataset else ""
            ticks.append(((top + bottom) / 2, name, not dataset))
            top = bottom + _GAP
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


def _draw_group(
    axes: Axes, top: float, group: Sequence[Comparison], labels: Sequence[str]
) -> float:
    """Draws the bars of one dataset from `top` downwards; returns where they end."""
    bars = [(line.tuned, *_style(labels.index(line.label))) for line in group if line.tuned]
    place = top
    for summary, *style in [
        *bars,
        *((s, _UNTUNED, "") for s in _distinct(line.untuned for line in group)),
    ]:
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
    """Colour and hatch of a tuned model."""
    return _COLOURS[number % len(_COLOURS)], _HATCHES[number // len(_COLOURS) % len(_HATCHES)]


def _draw_bar(axes: Axes, place: float, summary: Summary, colour: str, hatch: str) -> None:
    axes.barh(
        place, summary.mean, height=0.92, color=colour, hatch=hatch, edgecolor="white", linewidth=0
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
    if _has_best(summary) and colour != _UNTUNED:
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
        color=_INK if colour != _UNTUNED else "#8a8a8a",
        fontweight="normal" if summary.dataset else "bold",
        annotation_clip=False,
    )


def _has_spread(summary: Summary | None) -> bool:
    return summary is not None and summary.std is not None and summary.dataset != ""


def _has_best(summary: Summary | None) -> bool:
    return summary is not None and summary.best_template != ""


def _distinct(summaries) -> list[Summary]:
    return list(dict.fromkeys(s for s in summaries if s is not None))


def _finish(axes: Axes, bottom: float, ticks: Sequence[tuple[float, str, bool]]) -> None:
    axes.set_ylim(bottom, -0.1)
    axes.set_xlim(left=min(axes.get_xlim()[0], 0), right=100)
    axes.set_yticks([place for place, _, _ in ticks], [name for _, name, _ in ticks], fontsize=8)
    for tick, (_, _, is_mean) in zip(axes.get_yticklabels(), ticks):
        tick.set_fontweight("bold" if is_mean else "normal")
    axes.set_xlabel("score (%)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.7)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.axvline(0, color=_INK, linewidth=0.8)


def _legend(lines: Sequence[Comparison], labels: Sequence[str]) -> list[Patch | Line2D]:
    handles: list[Patch | Line2D] = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0, label=label)
        for label, (colour, hatch) in zip(labels, map(_style, range(len(labels))))
    ]
    if any(line.untuned for line in lines):
        handles.append(Patch(color=_UNTUNED, label="untuned"))
    drawn = [
        line
        for line in lines
        if line.dataset or means_are_alike([x for x in lines if x.cluster == line.cluster])
    ]
    if any(_has_spread(line.tuned) or _has_spread(line.untuned) for line in drawn):
        handles.append(
            Line2D(
                [],
                [],
                color=_INK,
                marker="|",
                markersize=5,
                linewidth=0.9,
                label="std over templates",
            )
        )
    if any(_has_best(line.tuned) for line in drawn):
        handles.append(
            Line2D(
                [],
                [],
                linestyle="",
                marker="D",
                markersize=3.6,
                markerfacecolor="white",
                markeredgecolor=_INK,
                label="best template",
            )
        )
    if any(line.majority for line in drawn):
        handles.append(
            Line2D(
                [], [], color=_INK, linewidth=1.1, linestyle=(0, (2, 1.2)), label="majority class"
            )
        )
    if any(
        summary and summary.stderr is not None
        for line in drawn
        for summary in (line.tuned, line.untuned)
    ):
        handles.append(Line2D([], [], linestyle="", label="± s.e. from rows"))
    return handles
