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
