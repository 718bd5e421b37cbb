"""From result rows to the paper's table: each dataset over its templates, beside the untuned model and majority class.

Two kinds of uncertainty are kept apart everywhere: the standard deviation over templates says what another wording
does, the standard error from rows says what other rows of the same kind would do.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from flan_jax.data.clusters import CLUSTERS
from flan_jax.errors import UserError
from flan_jax.evaluation.metrics import signature
from flan_jax.evaluation.results import MAJORITY, UNTUNED, ResultRow

# The scorings that tables show; the others are in results.csv.
_SHOWN_SCORINGS = ("sum", "greedy", MAJORITY)
# Behind the name of a cluster whose inverted templates are a task of their own: they stand and count apart.
_INVERTED = " (inverted)"
# Headline metric -> the function whose signature belongs below a table.
_SIGNED = {"bleu": "bleu", "rouge1": "rouge"}


class Series(NamedTuple):
    """A model under one setting: what a line of the table or a colour of the figure stands for."""

    run: str
    model: str
    size: str
    step: int
    shots: int
    instruction_mode: str


@dataclasses.dataclass(frozen=True)
class Summary:
    """One dataset (or the mean of a cluster's) under one series, over its templates; numbers in percent.

    Attributes:
      series: whose numbers these are.
      cluster, dataset, split, metric: of what; the dataset of a cluster's mean is ''.
      mean, low, high: over templates.
      std: standard deviation over templates (n - 1), None for a single one. A cluster's: the mean over its datasets.
      stderr: standard error from rows, the mean over templates; None if rows have none. A cluster's: of its mean.
      best, best_template: the best template and its number on `split`.
      best_by_validation: whether validation rows chose it; else `split` itself did, which flatters it.
      templates, n: names of the templates, of a mean 'dataset/template'; rows evaluated in each.
    """

    series: Series
    cluster: str
    dataset: str
    split: str
    metric: str
    mean: float
    std: float | None
    low: float
    high: float
    stderr: float | None
    best: float
    best_template: str
    best_by_validation: bool
    templates: tuple[str, ...]
    n: int


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A line of the table: a tuned model's numbers beside its baselines, any of which may be missing.

    Attributes:
      over: of a mean, the lines that it is of.
    """

    cluster: str
    dataset: str
    label: str
    tuned: Summary | None
    untuned: Summary | None
    majority: Summary | None
    over: tuple[Comparison, ...] = ()

    @property
    def any(self) -> Summary:
        """One of those that are there, for what they share: metric, split, rows."""
        return self.tuned or self.untuned or self.majority


def compare(rows: Iterable[ResultRow]) -> list[Comparison]:
    """All datasets by cluster, in the paper's order of clusters, each cluster followed by its mean (dataset '').

    Of a run the evaluation with most rows counts, and of several the last step; of a dataset the split 'test' if it was
    evaluated, and the metric that comes first. Inverted templates, such as translation into English, make up a cluster
    of their own.

    Raises:
      UserError: if there is no row to show.
    """
    lines: list[Comparison] = []
    by_cluster = collections.defaultdict(list)
    for summary in summarise(rows):
        by_cluster[summary.cluster].append(summary)
    if not by_cluster:
        raise UserError("the results hold no row that a table shows; run `flan-jax eval` first.")
    order = [name for cluster in CLUSTERS for name in (cluster, cluster + _INVERTED)]
    order += sorted(set(by_cluster) - set(order))
    labels = _labels([s.series for summaries in by_cluster.values() for s in summaries])
    for cluster in order:
        if cluster not in by_cluster:
            continue
        datasets = sorted({s.dataset for s in by_cluster[cluster]})
        own = [line for dataset in datasets
               for line in _lines([s for s in by_cluster[cluster] if s.dataset == dataset], labels)]
        lines += own + _cluster_means(own)
    return lines


def summarise(rows: Iterable[ResultRow]) -> list[Summary]:
    """One summary per dataset and series, over forward templates (or inverted ones), in the order of the rows."""
    shown = _shown(rows)
    most: dict[tuple, int] = {}
    for row in shown:
        most[_of_any_step(row), row.split] = max(most.get((_of_any_step(row), row.split), 0), row.n)
    shown = [row for row in shown if row.n == most[_of_any_step(row), row.split]]
    last: dict[tuple, tuple[bool, int]] = {}
    for row in shown:
        last[_of_any_step(row)] = max(last.get(_of_any_step(row), (False, 0)), (row.split == "test", row.step))
    groups = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in shown:
        if row.step == last[_of_any_step(row)][1]:
            groups[_series(row), row.cluster, row.dataset][row.split].append(row)
    return [_summary(series, splits) for (series, *_), splits in groups.items()]


def progress(rows: Iterable[ResultRow]) -> str:
    """The means of the clusters over their datasets step by step, as a Markdown table; '' if there is one step only.

    A step has a line for each number of rows that its datasets were evaluated on, in all of them together.
    """
    tuned = [row for row in _shown(rows) if row.model not in (UNTUNED, MAJORITY)]
    labels = _labels(_series(row) for row in tuned)
    points = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in tuned:
        points[labels[_series(row)], row.split, row.step, row.cluster][row.dataset].append(row)
    several = {(label, split, cluster) for label, split, step, cluster in points
               if any((label, split, other, cluster) in points for other in {row.step for row in tuned} - {step})}
    lines = []
    for (label, split, step, cluster), datasets in sorted(points.items()):
        if (label, split, cluster) in several:
            mean = statistics.fmean(statistics.fmean(row.value for row in own) for own in datasets.values())
            metrics = {row.metric for own in datasets.values() for row in own}
            lines.append(_line([label, heading(cluster), split, str(step), str(len(datasets)),
                                str(sum(own[0].n for own in datasets.values())),
                                metrics.pop() if len(metrics) == 1 else "mixed", _number(mean)]))
    head = ["model", "cluster", "split", "step", "datasets", "rows", "metric", "mean"]
    return "\n".join(["", "## Step by step", "", _line(head), _line(["---"] * 3 + ["--:"] * 3 + ["---", "--:"]), *lines,
                      ""]) if lines else ""


def heading(cluster: str) -> str:
    """A cluster's name for readers."""
    name = cluster.removesuffix(_INVERTED)
    return CLUSTERS.get(name, name) + (", inverted templates" if name != cluster else "")


def table(lines: Sequence[Comparison], tuned_on: Collection[str] = ()) -> str:
    """The comparisons as a Markdown table with a legend that says what each number is.

    `tuned_on` are datasets of which a model trained on rows: the text says which of them it shows.
    """
    several = len({line.label for line in lines if line.tuned}) > 1
    head = ["dataset", *(["model"] if several else []), "metric", "rows", "templates", "mean", "std over templates",
            "s.e. from rows", "min", "max", "best template", "untuned", "majority"]
    text = []
    for cluster in dict.fromkeys(line.cluster for line in lines):
        text += ["", f"## {heading(cluster)}", "", _line(head),
                 _line(["---", *(["---"] if several else []), "---"] + ["--:"] * 7 + ["---", "--:", "--:"])]
        own = [line for line in lines if line.cluster == cluster]
        text += [_line(_cells(line, several, means_are_alike(own))) for line in own]
    seen = sorted({line.dataset for line in lines} & set(tuned_on))
    warning = ["", f"Not held out, hence not zero-shot for the model that trained on it: {', '.join(seen)}."]
    return "\n".join(["# Results", *text, "", *_legend(lines), *(warning if seen else [])]) + "\n"


def means_are_alike(lines: Sequence[Comparison]) -> bool:
    """Whether the means of a cluster's lines are over the same datasets and splits: others do not compare."""
    return len({tuple((one.dataset, one.any.split) for one in line.over) for line in lines if line.over}) <= 1


# --- Summaries --------------------------------------------------------------------------------------------------------


def _series(row: ResultRow) -> Series:
    return Series(row.run, row.model, row.size, row.step, row.shots, row.instruction_mode)


def _of_any_step(row: ResultRow) -> tuple:
    return _series(row)._replace(step=0), row.cluster, row.dataset


def _shown(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """The rows of which tables are made: scorings that they show, and of each dataset the metric that comes first."""
    shown = [row if row.kind == "forward" else dataclasses.replace(row, cluster=row.cluster + _INVERTED)
             for row in rows if row.scoring in _SHOWN_SCORINGS]
    headline: dict[tuple, str] = {}
    for row in shown:
        headline.setdefault((row.cluster, row.dataset), row.metric)
    return [row for row in shown if row.metric == headline[row.cluster, row.dataset]]


def _summary(series: Series, splits: dict[str, list[ResultRow]]) -> Summary:
    split = "test" if "test" in splits else next(iter(splits))
    rows = splits[split]
    by_validation = split != "validation" and {r.template for r in splits.get("validation", ())} >= {
        r.template for r in rows}
    judges = {r.template: r.value for r in (splits["validation"] if by_validation else rows)}
    best = max(rows, key=lambda row: judges[row.template])
    values = [row.value for row in rows]
    errors = [row.stderr for row in rows if row.stderr is not None]
    return Summary(
        series, rows[0].cluster, rows[0].dataset, split, rows[0].metric, mean=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 else None, low=min(values), high=max(values),
        stderr=statistics.fmean(errors) if errors else None, best=best.value, best_template=best.template,
        best_by_validation=by_validation, n=max(row.n for row in rows),
        templates=tuple(sorted(row.template for row in rows)))


def _lines(of_dataset: Sequence[Summary], labels: dict[Series, str]) -> list[Comparison]:
    baselines = {name: [s for s in of_dataset if s.series.model == name] for name in (UNTUNED, MAJORITY)}
    tuned = [s for s in of_dataset if s.series.model not in baselines]
    cluster, dataset = of_dataset[0].cluster, of_dataset[0].dataset
    if not tuned:
        return [Comparison(cluster, dataset, "", None, *(next(iter(found), None) for found in baselines.values()))]
    return [Comparison(cluster, dataset, labels[summary.series], summary,
                       *(_nearest(found, summary) for found in baselines.values())) for summary in tuned]


def _nearest(baselines: Sequence[Summary], tuned: Summary) -> Summary | None:
    """The baseline that shares most of the setting; only one on the same rows and metric is comparable.

    An untuned model is that of the same run: what others began with says nothing of what tuning did here.
    """
    same = [s for s in baselines if (s.split, s.metric, s.n) == (tuned.split, tuned.metric, tuned.n)
            and (s.series.model == MAJORITY or (s.series.run, s.series.size) == (tuned.series.run, tuned.series.size))]
    return max(same, default=None, key=lambda s: sum(a == b for a, b in zip(s.series, tuned.series)))


def _labels(series: Iterable[Series]) -> dict[Series, str]:
    """A name for each tuned series, of only those columns in which they differ."""
    tuned = list(dict.fromkeys(s for s in series if s.model not in (UNTUNED, MAJORITY)))
    differ = [name for name in ("model", "size", "run", "shots", "instruction_mode")
              if len({getattr(s, name) for s in tuned}) > 1]
    words = {"shots": "{} shots", "instruction_mode": "instructions: {}"}
    return {s: ", ".join(words.get(name, "{}").format(getattr(s, name)) for name in differ or ["model"]) for s in tuned}


def _cluster_means(lines: Sequence[Comparison]) -> list[Comparison]:
    """The mean over a cluster's datasets for each label; none for a single dataset."""
    means = []
    for label in dict.fromkeys(line.label for line in lines):
        own = [line for line in lines if line.label == label]
        if len(own) > 1:
            columns = [[getattr(line, name) for line in own] for name in ("tuned", "untuned", "majority")]
            # A baseline that lacks a dataset has no mean to hold against the model's.
            found = [_mean_of(column) if all(column) else None for column in columns]
            if any(found):
                means.append(Comparison(own[0].cluster, "", label, *found, tuple(own)))
    return means


def _mean_of(summaries: Sequence[Summary]) -> Summary:
    def mean(name):
        values = [getattr(s, name) for s in summaries]
        return None if None in values else statistics.fmean(values)

    errors = [s.stderr for s in summaries]
    stderr = None if None in errors else math.sqrt(sum(e**2 for e in errors)) / len(errors)
    metrics = {s.metric for s in summaries}
    return dataclasses.replace(
        summaries[0], dataset="", metric=metrics.pop() if len(metrics) == 1 else "mixed", stderr=stderr,
        **{name: mean(name) for name in ("mean", "std", "low", "high", "best")}, best_template="",
        best_by_validation=all(s.best_by_validation for s in summaries), n=sum(s.n for s in summaries),
        templates=tuple(f"{s.dataset}/{template}" for s in summaries for template in s.templates))


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(line: Comparison, several: bool, alike: bool) -> list[str]:
    of, tuned = line.any, line.tuned
    steps = sorted({one.tuned.series.step for one in line.over if one.tuned})
    mixed = f", steps {', '.join(map(str, steps))}" if len(steps) > 1 else ""
    which = "" if alike else f": {', '.join(one.dataset for one in line.over)}"
    name = line.dataset or f"**mean of {len(line.over)} datasets{which}{mixed}**"
    splits = sorted({one.any.split for one in line.over} or {of.split})
    mark = "" if splits == ["test"] else f" ({', '.join(splits)})"
    cells = [name + mark, *([line.label] if several else []), of.metric, str(of.n), str(len(of.templates))]
    if tuned is None:
        cells += [""] * 6
    else:
        numbers = (tuned.mean, tuned.std, tuned.stderr, tuned.low, tuned.high)
        flattered = "" if tuned.best_by_validation else "†"
        cells += [*map(_number, numbers), f"{_number(tuned.best)}{flattered} {tuned.best_template}".strip()]
    return cells + [_against(line.untuned, tuned), _number(line.majority.mean) if line.majority else ""]


def _against(untuned: Summary | None, tuned: Summary | None) -> str:
    """The untuned model's number, with how it was asked if the tuned one was asked in another way."""
    if untuned is None:
        return ""
    asked, other = untuned.series, tuned.series if tuned is not None else untuned.series
    ways = [asked.instruction_mode] if asked.instruction_mode != other.instruction_mode else []
    ways += [f"{asked.shots} shots"] if asked.shots != other.shots else []
    if tuned is not None and not ways and untuned.templates != tuned.templates:
        other = " other" if len(untuned.templates) == len(tuned.templates) else ""
        ways = [f"{len(untuned.templates)}{other} templates"]
    way = f" ({', '.join(ways)})" if ways else ""
    return _number(untuned.mean) + (f" ± {_number(untuned.std)}" if untuned.std is not None else "") + way


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _legend(lines: Sequence[Comparison]) -> list[str]:
    legend = [
        "All numbers are in percent. `mean`, `std` (n - 1), `min` and `max` are over templates: how much the wording",
        "matters.",
        "`s.e.` is the standard error from the rows evaluated, averaged over templates: how much the choice of rows",
        "matters. A cluster's line is the mean over its datasets, its s.e. that of this mean. `untuned` is the model",
        "before tuning (mean ± std over templates); `majority` always answers the most frequent class of these rows.",
    ]
    if any(line.tuned and not line.tuned.best_by_validation for line in lines):
        legend += ["† Chosen on the rows that it is reported on, hence an upper bound; where the validation split is",
                   "evaluated too, the template is chosen there."]
    signed = {_SIGNED[line.any.metric] for line in lines if line.any.metric in _SIGNED}
    return [*legend, *(f"\n{name}: `{signature(name)}`" for name in sorted(signed))]
