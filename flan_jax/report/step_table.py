"""The means of the clusters step by step, as a Markdown table."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterable

from flan_jax.evaluation.result_rows import MAJORITY, UNTUNED, ResultRow
from flan_jax.report.cluster_means import mean_over_datasets, paper_dataset
from flan_jax.report.comparisons import make_labels
from flan_jax.report.summaries import series_of, shown_rows
from flan_jax.report.table import heading, markdown_line, number_text

# (label, split, step, cluster) -> dataset -> its rows.
_Points = dict[tuple[str, str, int, str], dict[str, list[ResultRow]]]


def progress(rows: Iterable[ResultRow]) -> str:
    """Returns the means of the clusters over their datasets at each step; '' for a single step.

    A step has a line for each model, cluster and split; `rows` of a line are those of all its
    datasets together.

    Args:
      rows: of results files.
    """
    points = _points(rows)
    steps = collections.defaultdict(set)
    for label, split, step, cluster in points:
        steps[label, split, cluster].add(step)
    lines = [
        _line(label, split, step, cluster, datasets)
        for (label, split, step, cluster), datasets in sorted(points.items())
        if len(steps[label, split, cluster]) > 1
    ]
    if not lines:
        return ""
    names = ["model", "cluster", "split", "step", "datasets", "rows", "metric", "mean"]
    rules = ["---"] * 3 + ["--:"] * 3 + ["---", "--:"]
    head = [markdown_line(names), markdown_line(rules)]
    return "\n".join(["", "## Step by step", "", *head, *lines, ""])


def _points(rows: Iterable[ResultRow]) -> _Points:
    tuned = [row for row in shown_rows(rows) if row.model not in (UNTUNED, MAJORITY)]
    labels = make_labels(series_of(row) for row in tuned)
    points: _Points = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in tuned:
        points[labels[series_of(row)], row.split, row.step, row.cluster][row.dataset].append(row)
    return points


def _line(
    label: str, split: str, step: int, cluster: str, datasets: dict[str, list[ResultRow]]
) -> str:
    means = {
        name: statistics.fmean(row.value for row in members) for name, members in datasets.items()
    }
    metrics = {row.metric for members in datasets.values() for row in members}
    cells = [
        label,
        heading(cluster),
        split,
        str(step),
        str(len(set(map(paper_dataset, datasets)))),
        str(sum(members[0].n for members in datasets.values())),
        metrics.pop() if len(metrics) == 1 else "mixed",
        number_text(mean_over_datasets(means)),
    ]
    return markdown_line(cells)
