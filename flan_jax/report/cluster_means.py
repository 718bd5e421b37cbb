"""Means over the paper's datasets, of which one may have several configurations in the catalogue.

Each dataset counts the same, and is itself the mean of its configurations.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import flan_jax.tasks  # noqa: F401 (registers the datasets)
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.metrics.intervals import t_interval, welch_satterthwaite
from flan_jax.metrics.uncertainty import Difference
from flan_jax.report.summaries import Summary


def paper_dataset(configuration: str) -> str:
    """Returns the dataset of the paper that a configuration belongs to.

    A configuration that is not in the catalogue is a dataset of its own.
    """
    return CATALOGUE[configuration].paper_dataset if configuration in CATALOGUE else configuration


def count_of_datasets(configurations: Sequence[str]) -> str:
    """Returns '2 datasets', or '2 datasets (4 configurations)' where the paper counts fewer."""
    papers = len(set(map(paper_dataset, configurations)))
    datasets = "1 dataset" if papers == 1 else f"{papers} datasets"
    if papers == len(configurations):
        return datasets
    return f"{datasets} ({len(configurations)} configurations)"


def mean_over_datasets(values: Mapping[str, float]) -> float:
    """Returns the mean over the paper's datasets of numbers by configuration."""
    weights = _weights(list(values))
    return math.fsum(weight * value for weight, value in zip(weights, values.values()))


def mean_summary(summaries: Sequence[Summary]) -> Summary:
    """Returns the mean of summaries of one series, one for each configuration, as a summary."""

    def mean(name: str) -> float | None:
        values = {s.dataset: getattr(s, name) for s in summaries}
        return None if None in values.values() else mean_over_datasets(values)

    metrics = {s.metric for s in summaries}
    return dataclasses.replace(
        summaries[0],
        dataset="",
        metric=metrics.pop() if len(metrics) == 1 else "mixed",
        stderr=_error_over_datasets({s.dataset: s.stderr for s in summaries}),
        stderr_both=_error_over_datasets({s.dataset: s.stderr_both for s in summaries}),
        interval=_interval_over_datasets(summaries),
        stderr_is_bound=any(s.stderr_is_bound for s in summaries),
        measures=(),
        values=(),
        by_seed=(),
        sd_seeds=_sd_of_seeds(summaries),
        **{name: mean(name) for name in ("mean", "std", "low", "high", "best")},
        best_template="",
        best_by_validation=all(s.best_by_validation for s in summaries if s.has_choice),
        n=sum(s.n for s in summaries),
        templates=tuple(f"{s.dataset}/{template}" for s in summaries for template in s.templates),
    )


def mean_difference(differences: Mapping[str, Difference | None]) -> Difference | None:
    """Returns the mean of differences by configuration; None if one of them is None."""
    if None in differences.values():
        return None
    errors = {name: each.stderr for name, each in differences.items()}
    return Difference(
        mean_over_datasets({name: each.value for name, each in differences.items()}),
        _error_over_datasets(errors),
        sum(each.changed for each in differences.values()),
        _dof_over_datasets(errors, {name: each.dof for name, each in differences.items()}),
    )


def _interval_over_datasets(summaries: Sequence[Summary]) -> tuple[float, float] | None:
    """The 95 % interval of a mean over datasets, from the rows of each."""
    errors = {s.dataset: s.stderr for s in summaries}
    error = _error_over_datasets(errors)
    dof = _dof_over_datasets(errors, {s.dataset: s.dof for s in summaries})
    if error is None or dof is None:
        return None
    return t_interval(mean_over_datasets({s.dataset: s.mean for s in summaries}), error, dof)


def _sd_of_seeds(summaries: Sequence[Summary]) -> float | None:
    """The standard deviation over seeds of the mean over datasets."""
    if len({s.runs for s in summaries}) > 1 or len(summaries[0].runs) < 2:
        return None
    by_dataset = {s.dataset: s.by_seed for s in summaries}
    means = [
        mean_over_datasets({name: values[seed] for name, values in by_dataset.items()})
        for seed in range(len(summaries[0].runs))
    ]
    return statistics.stdev(means)


def _error_over_datasets(errors: Mapping[str, float | None]) -> float | None:
    """The standard error of `mean_over_datasets`; None if one of the datasets has none.

    Datasets are independent of one another.
    """
    if None in errors.values():
        return None
    return math.sqrt(math.fsum(_variances(errors)))


def _dof_over_datasets(
    errors: Mapping[str, float | None], dofs: Mapping[str, float | None]
) -> float | None:
    """The degrees of freedom of `_error_over_datasets`; None where that is None or 0."""
    if None in errors.values() or None in dofs.values():
        return None
    return welch_satterthwaite(_variances(errors), list(dofs.values()))


def _variances(errors: Mapping[str, float]) -> list[float]:
    """What each configuration adds to the variance of the mean over the paper's datasets."""
    weights = _weights(list(errors))
    return [(weight * error) ** 2 for weight, error in zip(weights, errors.values())]


def _weights(configurations: Sequence[str]) -> list[float]:
    """How much each configuration counts in the mean over the paper's datasets."""
    papers = [paper_dataset(name) for name in configurations]
    count = collections.Counter(papers)
    return [1 / (len(count) * count[paper]) for paper in papers]
