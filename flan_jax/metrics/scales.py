"""Metrics of answers that are numbers on a scale: correlations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flan_jax.metrics.measures import statistic
from flan_jax.metrics.numbers import Number, paired
from flan_jax.metrics.registry import metric
from flan_jax.metrics.targets import Prediction, Target, number_of


@metric()
def pearson(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Pearson's correlation times 100 of the answers as numbers.

    'pearson_value' is against the unrounded 'value'.
    """
    return _correlations("pearson", "correlation", targets, predictions)


@metric()
def spearman(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Spearman's rank correlation times 100, with mean ranks for ties.

    'spearman_value' is against the unrounded 'value'.
    """
    return _correlations("spearman", "rank_correlation", targets, predictions)


def _correlations(
    name: str, statistic: str, targets: Sequence[Target], predictions: Sequence[Prediction]
) -> dict[str, Number]:
    guesses = [number_of(t, p) for t, p in zip(targets, predictions)]
    golds = [number_of(t, t["answer"]) for t in targets]
    numbers = {name: paired(statistic, golds, guesses)}
    if all(t.get("value") is not None for t in targets):
        values = [float(t["value"]) for t in targets]
        numbers[f"{name}_value"] = paired(statistic, values, guesses)
    return numbers


@statistic("correlation")
def correlation(parts: np.ndarray) -> float:
    """Returns Pearson's correlation of two columns [G, 2].

    Where one is constant and it is undefined: 1 if both are equal, else 0.
    """
    x, y = parts.T
    x_spread, y_spread = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x_spread**2).sum() * (y_spread**2).sum()))
    # The mean of equal values may be off in its last digit, so that `scale` is not 0.
    if scale == 0 or not np.ptp(parts, axis=0).all():
        return float(np.array_equal(x, y))
    return float((x_spread * y_spread).sum()) / scale


@statistic("rank_correlation")
def rank_correlation(parts: np.ndarray) -> float:
    """Returns Spearman's correlation of two columns [G, 2], with mean ranks for ties.

    Where one is constant and it is undefined: 1 if both are equal, else 0.
    """
    if not np.ptp(parts, axis=0).all():
        return correlation(parts)  # the ranks of two constants are equal
    return correlation(np.stack([_ranks(column) for column in parts.T], axis=1))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs. float64, same shape."""
    _, positions, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[positions]
