"""From predictions on a dataset to rows of results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flan_jax import metrics
from flan_jax.catalogue.records import Dataset
from flan_jax.evaluation.result_rows import ResultRow, Setting
from flan_jax.metrics.numbers import Number
from flan_jax.metrics.targets import Prediction

if TYPE_CHECKING:
    from flan_jax.data.shards import EvalExamples


def metrics_of(dataset: Dataset, kind: str) -> Sequence[str]:
    """Returns the names of the metrics that measure a dataset in templates of this kind."""
    return dataset.metrics if kind == "forward" else dataset.inverted_metrics


def score_predictions(
    examples: EvalExamples, dataset: Dataset, predictions: Sequence[Prediction]
) -> dict[str, Number]:
    """Returns the numbers of all metrics of a dataset; the first is the one that tables show.

    Args:
      examples: the rows in a template.
      dataset: of the rows.
      predictions: one for each row.
    """
    names = metrics_of(dataset, examples.kind)
    return metrics.score_all(names, examples.texts, predictions)


def row_scores(
    examples: EvalExamples,
    dataset: Dataset,
    predictions: Sequence[Prediction],
    headline: Number,
) -> list[float]:
    """Returns the headline metric of each row by itself, in percent.

    The headline number is their mean, except for metrics that are not a mean over rows (BLEU, F1,
    Matthews, correlations; exact match over groups of rows): of these, F1 and correlations of a
    single row are 100 where it is right and 0 where it is wrong.

    Args:
      examples: the rows in a template.
      dataset: of the rows.
      predictions: one for each row.
      headline: the first number of `score_predictions`.
    """
    measure = headline.measure
    if measure.statistic == "ratio" and len(measure.units) == len(predictions):
        values, counts = measure.parts.T
        return (100 * values / counts).tolist()
    name = metrics_of(dataset, examples.kind)[0]
    numbers = [metrics.score(name, [t], [p]) for t, p in zip(examples.texts, predictions)]
    return [float(next(iter(number.values()))) for number in numbers]


def make_rows(
    examples: EvalExamples,
    dataset: Dataset,
    setting: Setting,
    scoring: str,
    numbers: Mapping[str, Number],
) -> list[ResultRow]:
    """Returns one row of results for each number.

    Args:
      examples: the rows in a template.
      dataset: of the rows.
      setting: the columns that all rows share.
      scoring: the column `scoring`.
      numbers: see `score_predictions`.
    """
    return [
        ResultRow(
            **dataclasses.asdict(setting),
            cluster=dataset.cluster,
            dataset=examples.dataset,
            split=examples.split,
            template=examples.template,
            kind=examples.kind,
            scoring=scoring,
            metric=key,
            value=float(number),
            stderr=number.stderr,
            n=len(examples.texts),
        )
        for key, number in numbers.items()
    ]
