"""Each tuned model's numbers beside those of the untuned model and of the majority class."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.errors import UserError
from flan_jax.evaluation.result_rows import MAJORITY, UNTUNED, ResultRow
from flan_jax.metrics.measures import are_of_same_units
from flan_jax.metrics.uncertainty import Difference, paired_difference
from flan_jax.report.cluster_means import mean_difference, mean_summary
from flan_jax.report.summaries import INVERTED, Measures, Series, Summary, summarize


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A line of the table: a tuned model's numbers beside its baselines; any may be missing.

    The untuned model of a run without a tuned one has a line of its own.

    Attributes:
      cluster, dataset: what was evaluated; the dataset of a mean is ''.
      label: name of the tuned model, or of the untuned one of a line of its own.
      tuned, untuned, majority: the numbers.
      over: of a mean, the lines that it is over.
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
        """A summary that is not missing, for what all share: metric, split, rows."""
        return self.tuned or self.untuned or self.majority


def compare(
    rows: Iterable[ResultRow],
    measures: Measures | None = None,
    seeds: Mapping[str, str] | None = None,
) -> list[Comparison]:
    """Returns the lines of the table by cluster, each cluster followed by its mean (dataset '').

    Clusters are in the paper's order. Inverted templates, such as translation into English, make up
    a cluster of their own. A cluster's mean is over the paper's datasets, each the mean of its
    configurations. Which rows count: see `summarize`.

    Args:
      rows: of results files.
      measures: what each unit of rows contributes to a row.
      seeds: see `seeds.groups_of_seeds`.

    Raises:
      UserError: if there is no row to show.
    """
    summaries = summarize(rows, measures, seeds)
    if not summaries:
        raise UserError("the results hold no row that a table shows; run `flan-jax eval` first.")
    order = [name for cluster in CLUSTERS for name in (cluster, cluster + INVERTED)]
    order += sorted({s.cluster for s in summaries} - set(order))
    by_dataset = collections.defaultdict(list)
    for summary in sorted(summaries, key=lambda s: (order.index(s.cluster), s.dataset)):
        by_dataset[summary.cluster, summary.dataset].append(summary)
    labels = make_labels(s.series for members in by_dataset.values() for s in _models(members))
    by_cluster: dict[str, list[Comparison]] = collections.defaultdict(list)
    for (cluster, _), members in by_dataset.items():
        by_cluster[cluster] += _dataset_lines(members, labels)
    return [line for lines in by_cluster.values() for line in (*lines, *mean_lines(lines))]


def make_labels(series: Iterable[Series]) -> dict[Series, str]:
    """Returns a name for each series, of only those columns in which they differ."""
    series = list(dict.fromkeys(series))
    columns = ("model", "size", "run", "shots", "instruction_mode")
    differ = [name for name in columns if len({getattr(s, name) for s in series}) > 1]
    words = {"shots": "{} shots", "instruction_mode": "instructions: {}"}

    def label(s: Series) -> str:
        names = differ or ["model"]
        return ", ".join(words.get(name, "{}").format(getattr(s, name)) for name in names)

    return {s: label(s) for s in series}


def means_are_alike(lines: Sequence[Comparison]) -> bool:
    """Returns whether the means of a cluster's lines are over the same datasets and splits."""
    contents = {
        tuple((each.dataset, each.any.split) for each in line.over) for line in lines if line.over
    }
    return len(contents) <= 1


def mean_lines(lines: Sequence[Comparison]) -> list[Comparison]:
    """Returns the mean over a cluster's datasets for each label; none for a single dataset.

    Args:
      lines: of the datasets of one cluster.
    """
    means = []
    for label in dict.fromkeys(line.label for line in lines):
        members = [line for line in lines if line.label == label]
        if len(members) < 2:
            continue
        columns = [
            [getattr(line, name) for line in members] for name in ("tuned", "untuned", "majority")
        ]
        # A baseline that lacks a dataset has no mean to compare with the model's.
        summaries = [mean_summary(column) if all(column) else None for column in columns]
        if any(summaries):
            difference = mean_difference({line.dataset: line.difference for line in members})
            cluster = members[0].cluster
            means.append(Comparison(cluster, "", label, *summaries, tuple(members), difference))
    return means


def _models(summaries: Sequence[Summary]) -> list[Summary]:
    """The tuned models of a dataset, then the untuned ones of runs that have no tuned one there."""
    tuned = [s for s in summaries if s.series.model not in (UNTUNED, MAJORITY)]
    runs = {(s.series.run, s.series.size) for s in tuned}
    untuned = [s for s in summaries if s.series.model == UNTUNED]
    return tuned + [s for s in untuned if (s.series.run, s.series.size) not in runs]


def _dataset_lines(summaries: Sequence[Summary], labels: dict[Series, str]) -> list[Comparison]:
    cluster, dataset = summaries[0].cluster, summaries[0].dataset
    untuned = [s for s in summaries if s.series.model == UNTUNED]
    majority = [s for s in summaries if s.series.model == MAJORITY]
    lines = []
    for summary in _models(summaries):
        is_tuned = summary.series.model != UNTUNED
        baseline = _nearest(untuned, summary) if is_tuned else summary
        line = Comparison(
            cluster,
            dataset,
            labels[summary.series],
            summary if is_tuned else None,
            baseline,
            _nearest(majority, summary),
            difference=_difference(summary, baseline) if is_tuned else None,
        )
        lines.append(line)
    if lines:
        return lines
    return [Comparison(cluster, dataset, "", None, None, max(majority, key=lambda s: s.n))]


def _difference(tuned: Summary, untuned: Summary | None) -> Difference | None:
    if untuned is None or not (tuned.measures and untuned.measures):
        return None
    # Prompts of another instruction mode are written under the name of a template, but are not that
    # template.
    prompts = (tuned.templates, tuned.series.instruction_mode)
    if prompts != (untuned.templates, untuned.series.instruction_mode):
        return None
    if not are_of_same_units([*tuned.measures, *untuned.measures]):
        return None
    return paired_difference(tuned.measures, untuned.measures)


def _nearest(baselines: Sequence[Summary], tuned: Summary) -> Summary | None:
    """The baseline that shares most of the setting; only one on the same rows and metric compares.

    The untuned model must be that of the same run: what others began with says nothing about what
    tuning did here.
    """

    def is_comparable(s: Summary) -> bool:
        same_rows = (s.split, s.metric, s.n) == (tuned.split, tuned.metric, tuned.n)
        same_run = (s.series.run, s.series.size) == (tuned.series.run, tuned.series.size)
        return same_rows and (s.series.model == MAJORITY or same_run)

    def shared(s: Summary) -> int:
        return sum(a == b for a, b in zip(s.series, tuned.series))

    return max(filter(is_comparable, baselines), default=None, key=shared)
