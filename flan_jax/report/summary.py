"""From result rows to the paper's table: each dataset over its templates, beside the untuned model
and majority class.

Two kinds of uncertainty are kept apart everywhere: the standard deviation over templates says what
another wording does, the standard error from rows says what other rows of the same kind would do.
The latter is computed from what each row contributes (`uncertainty`), for a mean over templates as
for the paired difference from the untuned model.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import flan_jax.tasks  # noqa: F401 (registers the datasets)
from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.errors import UserError
from flan_jax.evaluation import unit_scores as measures
from flan_jax.evaluation.results import MAJORITY, UNTUNED, ResultRow
from flan_jax.metrics import signature
from flan_jax.metrics.uncertainty import (
    Difference,
    Measure,
    are_of_same_units,
    paired_difference,
    standard_error,
)

Measures = Mapping[tuple, Measure]

# The scorings that tables show; the others are in results.csv.
_SHOWN_SCORINGS = ("sum", "greedy", MAJORITY)
# Behind the name of a cluster whose inverted templates are a task of their own: they stand and
# count apart.
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
    """One dataset (or the mean of a cluster's) under one series, over its templates; numbers in
    percent.

    Attributes:
      series: whose numbers these are.
      cluster, dataset, split, metric: of what; the dataset of a cluster's mean is ''.
      mean, low, high: over templates.
      std: standard deviation over templates (n - 1), None for a single one. A cluster's: the mean
        over its datasets.
      stderr: standard error from rows of the mean over templates; None if it is not known. A
        cluster's: of its mean.
      stderr_is_bound: whether `stderr` is an upper bound, the mean of the templates' own, since
        what each row contributes was not kept.
      best, best_template: the best template and its number on `split`.
      best_by_validation: whether validation rows chose it; else `split` itself did, which flatters
        it.
      templates, n: names of the templates, of a mean 'dataset/template'; rows evaluated in each.
      measures: what each unit of rows contributes, one for each template; empty where that was not
        kept.
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
    stderr_is_bound: bool
    best: float
    best_template: str
    best_by_validation: bool
    templates: tuple[str, ...]
    n: int
    measures: tuple[Measure, ...] = dataclasses.field(default=(), compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A line of the table: a tuned model's numbers beside its baselines, any of which may be
    missing.

    Attributes:
      over: of a mean, the lines that it is of.
      difference: tuned less untuned, paired by rows; None unless both were evaluated on the same
        rows in the same templates and what each row contributes was kept.
    """

    cluster: str
    dataset: str
    label: str
    tuned: Summary | None
    untuned: Summary | None
    majority: Summary | None
    over: tuple[Comparison, ...] = ()
    difference: Difference | None = None

    @property
    def any(self) -> Summary:
        """One of those that are there, for what they share: metric, split, rows."""
        return self.tuned or self.untuned or self.majority


def compare(rows: Iterable[ResultRow], known: Measures | None = None) -> list[Comparison]:
    """All datasets by cluster, in the paper's order of clusters, each cluster followed by its mean
    (dataset '').

    Of a run the evaluation with most rows counts, and of several the last step; of a dataset the
    split 'test' if it was evaluated, and the metric that comes first. Inverted templates, such as
    translation into English, make up a cluster of their own. A cluster's mean is over the paper's
    datasets, each the mean of its configurations.

    Args:
      rows: of results files.
      known: by `measures.key` of a row, what each unit of rows contributes to it.

    Raises:
      UserError: if there is no row to show.
    """
    lines: list[Comparison] = []
    by_cluster = collections.defaultdict(list)
    for summary in summarise(rows, known):
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
        own = [
            line
            for dataset in datasets
            for line in _lines([s for s in by_cluster[cluster] if s.dataset == dataset], labels)
        ]
        lines += own + _cluster_means(own)
    return lines


def summarise(rows: Iterable[ResultRow], known: Measures | None = None) -> list[Summary]:
    """One summary per dataset and series, over forward templates (or inverted ones), in the order
    of the rows.
    """
    shown = _shown(rows)
    most: dict[tuple, int] = {}
    for row in shown:
        most[_of_any_step(row), row.split] = max(most.get((_of_any_step(row), row.split), 0), row.n)
    shown = [row for row in shown if row.n == most[_of_any_step(row), row.split]]
    last: dict[tuple, tuple[bool, int]] = {}
    for row in shown:
        last[_of_any_step(row)] = max(
            last.get(_of_any_step(row), (False, 0)), (row.split == "test", row.step)
        )
    groups = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in shown:
        if row.step == last[_of_any_step(row)][1]:
            groups[_series(row), row.cluster, row.dataset][row.split].append(row)
    return [_summary(series, splits, known or {}) for (series, *_), splits in groups.items()]


def progress(rows: Iterable[ResultRow]) -> str:
    """The means of the clusters over their datasets step by step, as a Markdown table; '' if there
    is one step only.

    A step has a line for each number of rows that its datasets were evaluated on, in all of them
    together.
    """
    tuned = [row for row in _shown(rows) if row.model not in (UNTUNED, MAJORITY)]
    labels = _labels(_series(row) for row in tuned)
    points = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in tuned:
        points[labels[_series(row)], row.split, row.step, row.cluster][row.dataset].append(row)
    several = {
        (label, split, cluster)
        for label, split, step, cluster in points
        if any(
            (label, split, other, cluster) in points
            for other in {row.step for row in tuned} - {step}
        )
    }
    lines = []
    for (label, split, step, cluster), datasets in sorted(points.items()):
        if (label, split, cluster) in several:
            mean = _mean_over_datasets(
                {name: statistics.fmean(row.value for row in own) for name, own in datasets.items()}
            )
            metrics = {row.metric for own in datasets.values() for row in own}
            lines.append(
                _line(
                    [
                        label,
                        heading(cluster),
                        split,
                        str(step),
                        str(len(set(map(_paper_dataset, datasets)))),
                        str(sum(own[0].n for own in datasets.values())),
                        metrics.pop() if len(metrics) == 1 else "mixed",
                        _number(mean),
                    ]
                )
            )
    head = ["model", "cluster", "split", "step", "datasets", "rows", "metric", "mean"]
    return (
        "\n".join(
            [
                "",
                "## Step by step",
                "",
                _line(head),
                _line(["---"] * 3 + ["--:"] * 3 + ["---", "--:"]),
                *lines,
                "",
            ]
        )
        if lines
        else ""
    )


def heading(cluster: str) -> str:
    """A cluster's name for readers."""
    name = cluster.removesuffix(_INVERTED)
    return CLUSTERS.get(name, name) + (", inverted templates" if name != cluster else "")


def table(
    lines: Sequence[Comparison], tuned_on: Collection[str] = (), sources: Collection[str] = ()
) -> str:
    """The comparisons as a Markdown table with a legend that says what each number is.

    Args:
      lines: see `compare`.
      tuned_on: datasets of which a model trained on rows: the text says which of them it shows.
      sources: where the evaluated rows come from, for readers.
    """
    several = len({line.label for line in lines if line.tuned}) > 1
    head = [
        "dataset",
        *(["model"] if several else []),
        "metric",
        "rows",
        "templates",
        "mean",
        "std over templates",
        "s.e. from rows",
        "min",
        "max",
        "best template",
        "untuned",
        "tuned - untuned (s.e.)",
        "majority",
    ]
    text = []
    for cluster in dict.fromkeys(line.cluster for line in lines):
        text += [
            "",
            f"## {heading(cluster)}",
            "",
            _line(head),
            _line(
                ["---", *(["---"] if several else []), "---"]
                + ["--:"] * 7
                + ["---", "--:", "--:", "--:"]
            ),
        ]
        own = [line for line in lines if line.cluster == cluster]
        text += [_line(_cells(line, several, means_are_alike(own))) for line in own]
    seen = sorted({line.dataset for line in lines} & set(tuned_on))
    warning = [
        "",
        f"Not held out, hence not zero-shot for the model that trained on it: {', '.join(seen)}.",
    ]
    return (
        "\n".join(
            [
                "# Results",
                "",
                caption(lines, sources),
                *text,
                "",
                *_legend(lines),
                *(warning if seen else []),
            ]
        )
        + "\n"
    )


def caption(lines: Sequence[Comparison], sources: Collection[str] = ()) -> str:
    """'t5_tiny, step 60; rows: bundled': the sizes and steps of the tuned models, and the source of
    the rows.
    """
    tuned = [line.tuned.series for line in lines if line.tuned and line.dataset]
    sizes = ", ".join(sorted({one.size for one in tuned if one.size}))
    steps = ", ".join(map(str, sorted({one.step for one in tuned})))
    parts = [
        sizes,
        f"step {steps}" if steps else "",
        f"rows: {', '.join(sorted(sources))}" if sources else "",
    ]
    return "; ".join(part for part in parts if part)


def means_are_alike(lines: Sequence[Comparison]) -> bool:
    """Whether the means of a cluster's lines are over the same datasets and splits: others do not
    compare.
    """
    return (
        len(
            {
                tuple((one.dataset, one.any.split) for one in line.over)
                for line in lines
                if line.over
            }
        )
        <= 1
    )


# --- Summaries
# --------------------------------------------------------------------------------------------------------


def _series(row: ResultRow) -> Series:
    return Series(row.run, row.model, row.size, row.step, row.shots, row.instruction_mode)


def _of_any_step(row: ResultRow) -> tuple:
    return _series(row)._replace(step=0), row.cluster, row.dataset


def _shown(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """The rows of which tables are made: scorings that they show, and of each dataset the metric
    that comes first.
    """
    shown = [
        row if row.kind == "forward" else dataclasses.replace(row, cluster=row.cluster + _INVERTED)
        for row in rows
        if row.scoring in _SHOWN_SCORINGS
    ]
    headline: dict[tuple, str] = {}
    for row in shown:
        headline.setdefault((row.cluster, row.dataset), row.metric)
    return [row for row in shown if row.metric == headline[row.cluster, row.dataset]]


def _summary(series: Series, splits: dict[str, list[ResultRow]], known: Measures) -> Summary:
    split = "test" if "test" in splits else next(iter(splits))
    rows = sorted(splits[split], key=lambda row: row.template)
    by_validation = split != "validation" and {
        r.template for r in splits.get("validation", ())
    } >= {r.template for r in rows}
    judges = {r.template: r.value for r in (splits["validation"] if by_validation else rows)}
    # of equals the one that was evaluated first
    best = max(splits[split], key=lambda row: judges[row.template])
    values = [row.value for row in rows]
    kept = _measures_of(rows, known)
    errors = [row.stderr for row in rows if row.stderr is not None]
    stderr = standard_error(kept) if kept else statistics.fmean(errors) if errors else None
    return Summary(
        series,
        rows[0].cluster,
        rows[0].dataset,
        split,
        rows[0].metric,
        mean=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        low=min(values),
        high=max(values),
        stderr=stderr,
        stderr_is_bound=not kept and len(rows) > 1 and stderr is not None,
        best=best.value,
        best_template=best.template if len(rows) > 1 else "",
        best_by_validation=by_validation,
        n=max(row.n for row in rows),
        templates=tuple(row.template for row in rows),
        measures=kept,
    )


def _measures_of(rows: Sequence[ResultRow], known: Measures) -> tuple[Measure, ...]:
    """The measures of all rows, which must be of the same units and give the rows' values; else
    none.
    """
    found = [known.get(measures.key(row)) for row in rows]
    if None in found or not are_of_same_units(found):
        return ()
    if any(abs(measure.value() - row.value) > 1e-6 for measure, row in zip(found, rows)):
        return ()  # of an earlier evaluation: the process was killed between the two files
    return tuple(found)


def _lines(of_dataset: Sequence[Summary], labels: dict[Series, str]) -> list[Comparison]:
    baselines = {
        name: [s for s in of_dataset if s.series.model == name] for name in (UNTUNED, MAJORITY)
    }
    tuned = [s for s in of_dataset if s.series.model not in baselines]
    cluster, dataset = of_dataset[0].cluster, of_dataset[0].dataset
    if not tuned:
        return [
            Comparison(
                cluster,
                dataset,
                "",
                None,
                *(next(iter(found), None) for found in baselines.values()),
            )
        ]
    nearest = [[_nearest(found, summary) for found in baselines.values()] for summary in tuned]
    return [
        Comparison(
            cluster,
            dataset,
            labels[summary.series],
            summary,
            untuned,
            majority,
            difference=_difference(summary, untuned),
        )
        for summary, (untuned, majority) in zip(tuned, nearest)
    ]


def _difference(tuned: Summary, untuned: Summary | None) -> Difference | None:
    if untuned is None or not (tuned.measures and untuned.measures):
        return None
    # Prompts of another instruction mode are written under the name of a template, but are not that
    # template.
    if (tuned.templates, tuned.series.instruction_mode) != (
        untuned.templates,
        untuned.series.instruction_mode,
    ):
        return None
    if not are_of_same_units([*tuned.measures, *untuned.measures]):
        return None
    return paired_difference(tuned.measures, untuned.measures)


def _nearest(baselines: Sequence[Summary], tuned: Summary) -> Summary | None:
    """The baseline that shares most of the setting; only one on the same rows and metric is
    comparable.

    An untuned model is that of the same run: what others began with says nothing of what tuning did
      here.
    """
    same = [
        s
        for s in baselines
        if (s.split, s.metric, s.n) == (tuned.split, tuned.metric, tuned.n)
        and (
            s.series.model == MAJORITY
            or (s.series.run, s.series.size) == (tuned.series.run, tuned.series.size)
        )
    ]
    return max(
        same, default=None, key=lambda s: sum(a == b for a, b in zip(s.series, tuned.series))
    )


def _labels(series: Iterable[Series]) -> dict[Series, str]:
    """A name for each tuned series, of only those columns in which they differ."""
    tuned = list(dict.fromkeys(s for s in series if s.model not in (UNTUNED, MAJORITY)))
    differ = [
        name
        for name in ("model", "size", "run", "shots", "instruction_mode")
        if len({getattr(s, name) for s in tuned}) > 1
    ]
    words = {"shots": "{} shots", "instruction_mode": "instructions: {}"}
    return {
        s: ", ".join(words.get(name, "{}").format(getattr(s, name)) for name in differ or ["model"])
        for s in tuned
    }


def _cluster_means(lines: Sequence[Comparison]) -> list[Comparison]:
    """The mean over a cluster's datasets for each label; none for a single dataset."""
    means = []
    for label in dict.fromkeys(line.label for line in lines):
        own = [line for line in lines if line.label == label]
        if len(own) > 1:
            columns = [
                [getattr(line, name) for line in own] for name in ("tuned", "untuned", "majority")
            ]
            # A baseline that lacks a dataset has no mean to hold against the model's.
            found = [_mean_of(column) if all(column) else None for column in columns]
            if any(found):
                means.append(
                    Comparison(own[0].cluster, "", label, *found, tuple(own), _mean_difference(own))
                )
    return means


def _paper_dataset(configuration: str) -> str:
    """The dataset of the paper that a configuration belongs to; of one that is not in the
    catalogue, itself.
    """
    return CATALOGUE[configuration].paper_dataset if configuration in CATALOGUE else configuration


def _weights(configurations: Sequence[str]) -> list[float]:
    """How much each configuration counts in the mean over the paper's datasets, each the mean of
    its configurations.
    """
    papers = [_paper_dataset(name) for name in configurations]
    count = collections.Counter(papers)
    return [1 / (len(count) * count[paper]) for paper in papers]


def _mean_over_datasets(values: Mapping[str, float]) -> float:
    """The mean of numbers by configuration over the paper's datasets."""
    return math.fsum(
        weight * value for weight, value in zip(_weights(list(values)), values.values())
    )


def _error_over_datasets(errors: Mapping[str, float | None]) -> float | None:
    """The standard error of that mean; datasets are independent of one another. None if one of them
    has none.
    """
    if None in errors.values():
        return None
    return math.sqrt(
        math.fsum(
            (weight * error) ** 2 for weight, error in zip(_weights(list(errors)), errors.values())
        )
    )


def _mean_difference(lines: Sequence[Comparison]) -> Difference | None:
    """The mean of the differences; None if one of them is not known."""
    differences = {line.dataset: line.difference for line in lines}
    if None in differences.values():
        return None
    return Difference(
        _mean_over_datasets({name: one.value for name, one in differences.items()}),
        _error_over_datasets({name: one.stderr for name, one in differences.items()}),
        sum(one.changed for one in differences.values()),
    )


def _mean_of(summaries: Sequence[Summary]) -> Summary:
    def mean(name):
        values = {s.dataset: getattr(s, name) for s in summaries}
        return None if None in values.values() else _mean_over_datasets(values)

    stderr = _error_over_datasets({s.dataset: s.stderr for s in summaries})
    metrics = {s.metric for s in summaries}
    return dataclasses.replace(
        summaries[0],
        dataset="",
        metric=metrics.pop() if len(metrics) == 1 else "mixed",
        stderr=stderr,
        stderr_is_bound=any(s.stderr_is_bound for s in summaries),
        measures=(),
        **{name: mean(name) for name in ("mean", "std", "low", "high", "best")},
        best_template="",
        best_by_validation=all(s.best_by_validation for s in summaries),
        n=sum(s.n for s in summaries),
        templates=tuple(f"{s.dataset}/{template}" for s in summaries for template in s.templates),
    )


# --- Markdown
# ---------------------------------------------------------------------------------------------------------


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(line: Comparison, several: bool, alike: bool) -> list[str]:
    of, tuned = line.any, line.tuned
    steps = sorted({one.tuned.series.step for one in line.over if one.tuned})
    mixed = f", steps {', '.join(map(str, steps))}" if len(steps) > 1 else ""
    which = "" if alike else f": {', '.join(one.dataset for one in line.over)}"
    name = (
        line.dataset
        or f"**mean of {count_of_datasets([one.dataset for one in line.over])}{which}{mixed}**"
    )
    splits = sorted({one.any.split for one in line.over} or {of.split})
    mark = "" if splits == ["test"] else f" ({', '.join(splits)})"
    cells = [
        name + mark,
        *([line.label] if several else []),
        of.metric,
        str(of.n),
        str(len(of.templates)),
    ]
    if tuned is None:
        cells += [""] * 6
    else:
        stderr = ("≤ " if tuned.stderr_is_bound else "") + _number(tuned.stderr)
        cells += [
            _number(tuned.mean),
            _number(tuned.std),
            stderr,
            _number(tuned.low),
            _number(tuned.high),
            _best(tuned),
        ]
    return cells + [
        _against(line.untuned, tuned),
        _difference_text(line.difference),
        _number(line.majority.mean) if line.majority else "",
    ]


def count_of_datasets(configurations: Sequence[str]) -> str:
    """'2 datasets', or '2 datasets (4 configurations)' where the paper counts fewer than there are
    lines.
    """
    papers = len(set(map(_paper_dataset, configurations)))
    datasets = "1 dataset" if papers == 1 else f"{papers} datasets"
    return datasets + (
        "" if papers == len(configurations) else f" ({len(configurations)} configurations)"
    )


def _best(summary: Summary) -> str:
    """The best template and its number; '' where there is a single one, which nobody chose."""
    if summary.dataset and len(summary.templates) == 1:
        return ""
    return (
        f"{_number(summary.best)}{'' if summary.best_by_validation else '†'} "
        f"{summary.best_template}"
    ).strip()


def _difference_text(difference: Difference | None) -> str:
    if difference is None:
        return ""
    if not difference.changed:
        return "0.0, no row differs"
    value = round(difference.value, 1) + 0.0  # no -0.0
    return f"{value:+.1f}" + (
        f" ({_number(difference.stderr)})" if difference.stderr is not None else ""
    )


def _against(untuned: Summary | None, tuned: Summary | None) -> str:
    """The untuned model's number, with how it was asked if the tuned one was asked in another
    way.
    """
    if untuned is None:
        return ""
    asked, other = untuned.series, tuned.series if tuned is not None else untuned.series
    ways = [asked.instruction_mode] if asked.instruction_mode != other.instruction_mode else []
    ways += [f"{asked.shots} shots"] if asked.shots != other.shots else []
    if tuned is not None and not ways and untuned.templates != tuned.templates:
        other = " other" if len(untuned.templates) == len(tuned.templates) else ""
        ways = [f"{len(untuned.templates)}{other} templates"]
    way = f" ({', '.join(ways)})" if ways else ""
    return (
        _number(untuned.mean)
        + (f" ± {_number(untuned.std)}" if untuned.std is not None else "")
        + way
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _legend(lines: Sequence[Comparison]) -> list[str]:
    legend = [
        (
            "All numbers are in percent. `mean`, `std` (n - 1), `min` and `max` are over "
            "templates: how much the wording"
        ),
        "matters.",
        (
            "`s.e.` is the standard error from the rows evaluated, of the mean over templates: how "
            "much the choice of rows"
        ),
        (
            "matters. A cluster's line is the mean over the paper's datasets, each the mean of its "
            "configurations, and its"
        ),
        (
            "s.e. that of this mean. `untuned` is the model before tuning (mean ± std over "
            "templates); `majority` always"
        ),
        (
            "gives the most frequent class of these rows. `tuned - untuned` is the difference with "
            "its standard error,"
        ),
        (
            "paired by rows; it is there where both were evaluated on the same rows, templates and "
            "instructions."
        ),
    ]
    if any(line.tuned and line.tuned.stderr_is_bound for line in lines):
        legend += [
            (
                "≤ An upper bound, the mean of the templates' own standard errors: what each row "
                "contributes was"
            ),
            (
                "not kept (`predictions/*/*.units.json` beside the results); `flan-jax eval` "
                "writes it."
            ),
        ]
    if any(line.tuned and "†" in _best(line.tuned) for line in lines):
        legend += [
            (
                "† Chosen on the rows that it is reported on, hence an upper bound; where the "
                "validation split is"
            ),
            "evaluated too, the template is chosen there.",
        ]
    signed = {_SIGNED[line.any.metric] for line in lines if line.any.metric in _SIGNED}
    return [*legend, *(f"\n{name}: `{signature(name)}`" for name in sorted(signed))]
