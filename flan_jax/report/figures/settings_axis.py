"""Models along a setting: which value of it each has, and which other settings part them.

Models that differ in nothing but the setting of the axis (and the held-out cluster) are one curve.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from flan_jax.report.cluster_means import mean_summary
from flan_jax.report.comparisons import Comparison, mean_lines
from flan_jax.report.figures.points import (
    MAJORITY,
    MEAN,
    TUNED,
    UNTUNED,
    Point,
    other_setting,
    point_of,
    rows_of_mean,
    unequal,
)
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.run_facts import RunFacts, differing
from flan_jax.report.summaries import Summary

# Never part of what a curve is: the panels are clusters, and seeds are averaged where they can be.
_NEVER = ("HELD_OUT", "EVAL_DATASETS", "MIXTURE_OR_TASK_NAME", "SEED")
# Of a line itself, in place of the settings that a run was trained with.
_OF_LINES = ("SHOTS", "INSTRUCTIONS", "SIZE")
_KINDS = (TUNED, UNTUNED, MAJORITY)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A tuned model in one evaluation, and where it is on the axis.

    Models that differ only in what they hold out, and are evaluated on other datasets, are one.

    Attributes:
      x: its place.
      curve: what parts it from models at the same place; '' if nothing does.
      facts: of its run, or of the first of them.
      lines: of it in the table.
    """

    x: Any
    curve: str
    facts: RunFacts
    lines: tuple[Comparison, ...]


def models_along(
    data: ReportData,
    place: Callable[[Comparison, RunFacts], Any],
    axis: Collection[str],
    size_word: Callable[[str], str] = str,
) -> list[Model]:
    """Returns the tuned models in the order of the report, if the axis has two places or more.

    Args:
      data: of the report.
      place: returns the place of a line's model on the axis; None for a model without.
      axis: the settings that are the axis.
      size_word: what of the name of a size parts curves.
    """
    groups = _by_label(data)
    known = {label: _facts(lines[0], data) for label, lines in groups.items()}
    places = {label: place(lines[0], known[label]) for label, lines in groups.items()}
    placed = {label: lines for label, lines in groups.items() if places[label] is not None}
    if len({places[label] for label in placed}) < 2:
        return []
    curves = _curves(placed, known, axis, size_word)
    same = collections.defaultdict(list)
    for label in placed:
        same[places[label], curves[label]].append(label)
    models = []
    for (x, curve), labels in same.items():
        if _are_apart([groups[label] for label in labels]):
            lines = tuple(line for label in labels for line in groups[label])
            models.append(Model(x, curve, known[labels[0]], lines))
        else:
            # Nothing that is known parts them, so the names of their runs do.
            for label in labels:
                name = ", ".join(text for text in (curve, label) if text)
                models.append(Model(x, name, known[label], tuple(groups[label])))
    return models


def with_models_joined(data: ReportData) -> ReportData:
    """Returns the data with one name for models that differ only in what they hold out.

    Their lines are of different datasets; the sweep of a model over the clusters is one series.
    """
    groups = _by_label(data)
    known = {label: _facts(lines[0], data) for label, lines in groups.items()}
    same = collections.defaultdict(list)
    for label, curve in _curves(groups, known, (), str).items():
        same[curve].append(label)
    names = {}
    for curve, labels in same.items():
        if len(labels) > 1 and _are_apart([groups[label] for label in labels]):
            names |= dict.fromkeys(labels, curve or TUNED)
    lines = [
        dataclasses.replace(line, label=names.get(line.label, line.label)) for line in data.lines
    ]
    return dataclasses.replace(data, lines=lines)


def _by_label(data: ReportData) -> dict[str, list[Comparison]]:
    """The lines of each tuned model whose run is known."""
    groups: dict[str, list[Comparison]] = collections.defaultdict(list)
    for line in data.lines:
        if line.tuned and line.tuned.runs and line.tuned.runs[0] in data.facts:
            groups[line.label].append(line)
    return groups


def _facts(line: Comparison, data: ReportData) -> RunFacts:
    return data.facts[line.tuned.runs[0]]


def _are_apart(models: Sequence[Sequence[Comparison]]) -> bool:
    """Whether models are of other datasets, and those of one cluster have no means of their own."""
    lines = [line for model in models for line in model]
    datasets = [(line.cluster, line.dataset) for line in lines if line.dataset]
    owners = collections.Counter(
        cluster for model in models for cluster in {line.cluster for line in model}
    )
    has_own_means = any(line.over and owners[line.cluster] > 1 for line in lines)
    return len(set(datasets)) == len(datasets) and not has_own_means


def means_of_clusters(models: Sequence[Model], has_mean: bool) -> list[Point]:
    """Returns each model's mean in each cluster, tuned and untuned; of one dataset, its number.

    Args:
      models: see `models_along`.
      has_mean: whether to add the mean over the clusters, where there are several.
    """
    clusters = dict.fromkeys(line.cluster for model in models for line in model.lines)
    points = []
    for cluster in clusters:
        lines = {model: _line_of(model, cluster) for model in models}
        shown = {model: line for model, line in lines.items() if line}
        contents = {model: _rows(line) for model, line in shown.items()}
        points += _points(shown, contents)
    if has_mean and len(clusters) > 1:
        points += _means_over_clusters(models, list(clusters))
    return points


def points_of_datasets(models: Sequence[Model], names: Mapping[Model, str]) -> list[Point]:
    """Returns the tuned scores of each dataset and the means of the clusters, a series a model.

    Args:
      models: see `models_along`.
      names: of the series.
    """
    places = dict.fromkeys(
        (line.cluster, line.dataset) for model in models for line in model.lines if line.tuned
    )
    points = []
    # A cluster's mean follows its datasets, also those that only some models have.
    for cluster, dataset in sorted(places, key=lambda place: (_order(place, places), not place[1])):
        lines = {
            model: line
            for model in models
            for line in model.lines
            if (line.cluster, line.dataset) == (cluster, dataset)
        }
        contents = [_rows(line) for line in lines.values()]
        odd = unequal(contents) if not dataset else [False] * len(lines)
        for (model, line), is_odd in zip(lines.items(), odd):
            more = {"x": _plain(model.x), "is_equal": not is_odd}
            points.append(point_of(line.tuned, names[model], TUNED, **more))
    return points


def _order(place: tuple[str, str], places: Mapping[tuple[str, str], None]) -> int:
    clusters = list(dict.fromkeys(cluster for cluster, _ in places))
    return clusters.index(place[0])


def _points(lines: Mapping[Model, Comparison], contents: Mapping[Model, frozenset]) -> list[Point]:
    """The points of a panel; which of them are over other rows follows from `contents`."""
    odd = dict(zip(contents, unequal(list(contents.values()))))
    points = []
    for model, line in lines.items():
        more = {"x": _plain(model.x), "is_equal": not odd[model]}
        for kind in (TUNED, UNTUNED):
            summary = line.tuned if kind == TUNED else line.untuned
            if summary:
                note = other_setting(line) if kind == UNTUNED else ""
                points.append(point_of(summary, model.curve, kind, note=note, **more))
        if line.majority:
            points.append(point_of(line.majority, "", MAJORITY, x=_plain(model.x)))
    return _once(points)


def _once(points: Sequence[Point]) -> list[Point]:
    """Untuned models that several curves have at one place once, without the name of a curve."""
    counts = collections.Counter(point.replaced(series="") for point in set(points))
    shared = [
        point.replaced(series="") if counts[point.replaced(series="")] > 1 else point
        for point in points
    ]
    kept = dict(zip(points, shared))
    result = [kept[p] if p.kind == UNTUNED else p for p in points]
    return sorted(dict.fromkeys(result), key=lambda point: _KINDS.index(point.kind))


def _plain(place: Any) -> Any:
    """A place as a point has it: numbers stay, anything else is a text."""
    return place if isinstance(place, (int, float)) else str(place)


def _means_over_clusters(models: Sequence[Model], clusters: Sequence[str]) -> list[Point]:
    """The points of the mean over clusters, of models that have all of them."""
    lines, contents = {}, {}
    for model in models:
        members = [_line_of(model, cluster) for cluster in clusters]
        if not all(members):
            continue
        tuned, untuned = ([getattr(line, kind) for line in members] for kind in (TUNED, UNTUNED))
        mean = _mean_over_clusters(tuned), _mean_over_clusters(untuned) if all(untuned) else None
        lines[model] = Comparison(MEAN, "", model.curve, *mean, None, tuple(members))
        contents[model] = frozenset().union(*(_rows(line) for line in members))
    return _points(lines, contents)


def _mean_over_clusters(summaries: Sequence[Summary]) -> Summary:
    """The mean over clusters, each of which counts the same."""
    each = [dataclasses.replace(s, dataset=s.cluster, runs=s.runs[:1]) for s in summaries]
    mean = mean_summary(each)
    return dataclasses.replace(mean, cluster=MEAN, runs=summaries[0].runs)


def _line_of(model: Model, cluster: str) -> Comparison | None:
    """The mean of a model over a cluster; of a single dataset there, its line."""
    lines = [line for line in model.lines if line.cluster == cluster]
    means = [line for line in lines if line.over]
    if len(lines) > 1 and not means:
        # The datasets of runs that are one model.
        means = mean_lines([dataclasses.replace(line, label=model.curve) for line in lines])
    return next(iter([*means, *lines]), None)


def _rows(line: Comparison) -> frozenset:
    return rows_of_mean([each.any for each in line.over or (line,)])


def _curves(
    groups: Mapping[str, Sequence[Comparison]],
    known: Mapping[str, RunFacts],
    axis: Collection[str],
    size_word: Callable[[str], str],
) -> dict[str, str]:
    """The name of each model's curve: what differs between the models beside the axis."""
    names = differing([known[label] for label in groups])
    names = [name for name in names if name not in (*_NEVER, *_OF_LINES, *axis)]
    words = {label: _words(lines[0], known[label], names, axis) for label, lines in groups.items()}
    for label, lines in groups.items():
        words[label].insert(0, size_word(lines[0].tuned.series.size))
    columns = list(zip(*words.values()))
    keep = [number for number, column in enumerate(columns) if len(set(column)) > 1]
    return {
        label: ", ".join(text for text in (texts[number] for number in keep) if text)
        for label, texts in words.items()
    }


def _words(
    line: Comparison, facts: RunFacts, names: Sequence[str], axis: Collection[str]
) -> list[str]:
    """What a line's model is, in words: settings of its run, then of its evaluation."""
    words = [f"{name} {shown(facts.settings.get(name))}" for name in names]
    series = line.tuned.series
    words += [] if "SHOTS" in axis else [f"{series.shots} shots"]
    if "INSTRUCTIONS" in axis:
        # The axis has the mode; what follows it ('chat template') parts curves.
        words += [series.instruction_mode.partition(", ")[2]]
    else:
        trained = facts.settings.get("INSTRUCTIONS")
        words += [f"instructions: {trained} → {series.instruction_mode}"]
    return words


def shown(value: object) -> str:
    """Returns a setting's value for readers: of a path, its last part."""
    if isinstance(value, str) and "/" in value:
        return pathlib.PurePosixPath(value).name
    return str(value)
