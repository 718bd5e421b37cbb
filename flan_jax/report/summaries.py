"""From result rows to one summary for each dataset and model, over the templates.

Two kinds of uncertainty are kept apart everywhere: the standard deviation over templates says what
another wording changes, the standard error from rows what other rows of the same kind would. The
latter is computed from what each row contributes (`metrics.uncertainty`), for a mean over templates
as for the paired difference from the untuned model.
"""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from flan_jax.evaluation import unit_scores
from flan_jax.evaluation.result_rows import MAJORITY, ResultRow
from flan_jax.metrics.intervals import t_interval
from flan_jax.metrics.measures import Measure, are_of_same_units
from flan_jax.metrics.uncertainty import confidence_interval, error_of_both, standard_error

# By `unit_scores.key` of a row, what each unit of rows contributes to it.
Measures = Mapping[tuple, Measure]

# The scorings that tables show; the others are in results.csv.
_SHOWN_SCORINGS = ("sum", "greedy", MAJORITY)
# Follows the name of a cluster whose inverted templates are a task of their own: they have a table
# and a mean of their own.
INVERTED = " (inverted)"


class Series(NamedTuple):
    """A model under one setting: what a line of the table or a color of the figure stands for."""

    run: str
    model: str
    size: str
    step: int
    shots: int
    instruction_mode: str


@dataclasses.dataclass(frozen=True)
class Summary:
    """One dataset (or the mean of a cluster's) under one series, over its templates; in percent.

    Attributes:
      series: the model and setting of the numbers.
      cluster, dataset, split, metric: what was evaluated; the dataset of a cluster's mean is ''.
      mean, low, high: over templates.
      std: standard deviation over templates (n - 1), None for a single one. A cluster's: the mean
        over its datasets.
      stderr: standard error from rows of the mean over templates; None if it is not known. A
        cluster's: of its mean.
      stderr_both: standard error from rows and templates of the mean; None for a single template,
        or if what each row contributes was not kept. A cluster's: of its mean.
      interval: 95 % interval of the mean from rows, see `uncertainty.confidence_interval`; None
        without a standard error.
      stderr_is_bound: whether `stderr` is an upper bound, the mean of the templates' own, since
        what each row contributes was not kept.
      best, best_template: the best template and its number on `split`.
      best_by_validation: whether validation rows chose it; else `split` itself did, which flatters
        it.
      templates, n: names of the templates, of a mean 'dataset/template'; rows evaluated in each.
      values: the numbers of the templates; of a mean, empty.
      runs: names of the runs that the numbers are means over: several seeds, or a single run.
      sd_seeds: standard deviation over seeds (n - 1) of the mean over templates; None for a single
        run. A cluster's: of its mean.
      by_seed: of each of `runs`, its mean over templates.
      measures: what each unit of rows contributes, one for each template, the templates of each run
        one after the other; empty where that was not kept.
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
    stderr_both: float | None
    interval: tuple[float, float] | None
    stderr_is_bound: bool
    best: float
    best_template: str
    best_by_validation: bool
    templates: tuple[str, ...]
    n: int
    values: tuple[float, ...] = ()
    runs: tuple[str, ...] = ()
    sd_seeds: float | None = None
    by_seed: tuple[float, ...] = dataclasses.field(default=(), compare=False, repr=False)
    measures: tuple[Measure, ...] = dataclasses.field(default=(), compare=False, repr=False)

    @property
    def dof(self) -> int | None:
        """Degrees of freedom of the standard error from rows; None below two units."""
        units = len(self.measures[0].units) if self.measures else self.n
        return units - 1 if units > 1 else None

    @property
    def has_choice(self) -> bool:
        """Whether there is a best template: one of several, or the mean of those of datasets."""
        return len(self.templates) > 1 if self.dataset else self.low < self.high


def summarize(
    rows: Iterable[ResultRow],
    measures: Measures | None = None,
    seeds: Mapping[str, str] | None = None,
) -> list[Summary]:
    """Returns one summary for each dataset and series, in the order of the rows.

    Forward and inverted templates have summaries of their own. Of a run the evaluation with most
    rows counts, and of several the last step; the split 'test' goes before others. Runs that differ
    only by their seed are one series, the mean over them.

    Args:
      rows: of results files.
      measures: what each unit of rows contributes to a row.
      seeds: see `seeds.groups_of_seeds`.
    """
    shown = shown_rows(rows)
    most: dict[tuple, int] = collections.Counter()
    for row in shown:
        most[_of_any_step(row), row.split] = max(most[_of_any_step(row), row.split], row.n)
    shown = [row for row in shown if row.n == most[_of_any_step(row), row.split]]
    last: dict[tuple, tuple[bool, int]] = {}
    for row in shown:
        before = last.get(_of_any_step(row), (False, 0))
        last[_of_any_step(row)] = max(before, (row.split == "test", row.step))
    groups = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in shown:
        if row.step == last[_of_any_step(row)][1]:
            series = series_of(row)._replace(run=(seeds or {}).get(row.run, row.run))
            groups[series, *_of_any_step(row)[1:]][row.split].append(row)
    return [_summary(series, splits, measures or {}) for (series, *_), splits in groups.items()]


def series_of(row: ResultRow) -> Series:
    """Returns the series of a row."""
    return Series(row.run, row.model, row.size, row.step, row.shots, row.instruction_mode)


def shown_rows(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """Returns the rows of which tables are made.

    These are the rows of the scorings that tables show, and of each dataset the metric that comes
    first in its run. Inverted templates get a cluster of their own.
    """
    shown = [
        row if row.kind == "forward" else dataclasses.replace(row, cluster=row.cluster + INVERTED)
        for row in rows
        if row.scoring in _SHOWN_SCORINGS
    ]
    headline: dict[tuple, str] = {}
    for row in shown:
        headline.setdefault((row.run, row.cluster, row.dataset), row.metric)
    return [row for row in shown if row.metric == headline[row.run, row.cluster, row.dataset]]


def _of_any_step(row: ResultRow) -> tuple:
    # The majority class of other rows is another baseline, not an earlier evaluation.
    rows = row.n if row.model == MAJORITY else 0
    return series_of(row)._replace(step=0), row.cluster, row.dataset, rows


def _summary(series: Series, splits: dict[str, list[ResultRow]], measures: Measures) -> Summary:
    splits = {name: _of_equal_runs(rows) for name, rows in splits.items()}
    split = "test" if "test" in splits else next(iter(splits))
    kept = _measures_of(splits[split], measures)
    means = {name: _means_over_seeds(rows) for name, rows in splits.items()}
    rows = means[split]
    by_validation, best = _best(means, split)
    values = [row.value for row in rows]
    errors = [row.stderr for row in rows if row.stderr is not None]
    stderr = standard_error(kept) if kept else statistics.fmean(errors) if errors else None
    mean, n = statistics.fmean(values), max(row.n for row in rows)
    by_seed = _by_seed(splits[split])
    return Summary(
        series,
        rows[0].cluster,
        rows[0].dataset,
        split,
        rows[0].metric,
        mean=mean,
        std=statistics.stdev(values) if len(values) > 1 else None,
        low=min(values),
        high=max(values),
        stderr=stderr,
        stderr_both=error_of_both(kept, len(rows)) if kept else None,
        interval=_interval(mean, stderr, n, kept),
        stderr_is_bound=not kept and len(splits[split]) > 1 and stderr is not None,
        best=best.value,
        best_template=best.template if len(rows) > 1 else "",
        best_by_validation=by_validation,
        n=n,
        templates=tuple(row.template for row in rows),
        values=tuple(values),
        runs=tuple(by_seed),
        sd_seeds=statistics.stdev(by_seed.values()) if len(by_seed) > 1 else None,
        by_seed=tuple(by_seed.values()),
        measures=kept,
    )


def _of_equal_runs(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """The rows of those seeds that were evaluated in the same templates on as many rows.

    Of an untuned model, seeds may lack some; the most templates count.
    """
    evaluated: dict[str, set[tuple]] = collections.defaultdict(set)
    for row in rows:
        evaluated[row.run].add((row.template, row.n))
    most = max(evaluated.values(), key=lambda each: (len(each), sum(n for _, n in each)))
    return [row for row in rows if evaluated[row.run] == most]


def _means_over_seeds(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """A row for each template, in alphabetical order: the mean over the runs."""
    means = []
    for same in _by_template(rows).values():
        errors = [row.stderr for row in same if row.stderr is not None]
        value = statistics.fmean(row.value for row in same)
        stderr = statistics.fmean(errors) if errors else None
        means.append(dataclasses.replace(same[0], value=value, stderr=stderr))
    return means


def _by_template(rows: Sequence[ResultRow]) -> dict[str, list[ResultRow]]:
    groups: dict[str, list[ResultRow]] = {}
    for row in sorted(rows, key=lambda row: row.template):
        groups.setdefault(row.template, []).append(row)
    return groups


def _by_seed(rows: Sequence[ResultRow]) -> dict[str, float]:
    """Of each run, its mean over templates; by name."""
    values: dict[str, list[float]] = collections.defaultdict(list)
    for row in rows:
        values[row.run].append(row.value)
    return {run: statistics.fmean(values[run]) for run in sorted(values)}


def _interval(
    mean: float, stderr: float | None, n: int, measures: Sequence[Measure]
) -> tuple[float, float] | None:
    """The 95 % interval of a mean over templates, from the rows."""
    if measures:
        return confidence_interval(measures)
    return None if stderr is None or n < 2 else t_interval(mean, stderr, n - 1)


def _best(splits: dict[str, list[ResultRow]], split: str) -> tuple[bool, ResultRow]:
    """Whether validation rows choose the best template, and its row on `split`."""
    rows = splits[split]
    validation = {row.template: row.value for row in splits.get("validation", ())}
    has_all = validation.keys() >= {row.template for row in rows}
    by_validation = split != "validation" and has_all
    scores = validation if by_validation else {row.template: row.value for row in rows}
    # Of equally good ones, the first that was evaluated.
    return by_validation, max(rows, key=lambda row: scores[row.template])


def _measures_of(rows: Sequence[ResultRow], measures: Measures) -> tuple[Measure, ...]:
    """The measures of all rows, those of a run's templates one after the other.

    Empty unless all have the same templates and units, and give the rows' values.
    """
    rows = sorted(rows, key=lambda row: (row.run, row.template))
    templates = len({row.template for row in rows})
    if len(rows) != templates * len({row.run for row in rows}):
        return ()  # a seed lacks a template
    kept = [measures.get(unit_scores.key(row)) for row in rows]
    if None in kept or not are_of_same_units(kept):
        return ()
    if any(abs(measure.value() - row.value) > 1e-6 for measure, row in zip(kept, rows)):
        return ()  # of an earlier evaluation: the process was killed between the two files
    return tuple(kept)
