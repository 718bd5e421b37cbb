"""A metric's value with its standard error, computed from what each row contributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flan_jax.metrics.measures import Measure
from flan_jax.metrics.targets import Target, groups
from flan_jax.metrics.uncertainty import standard_error


class Number(float):
    """A metric's value with the units that it comes from, and its standard error.

    Attributes:
      measure: what each unit of rows contributes; its units are named by the number of their first
        row.
      stderr: standard error in the unit of the value; None below two units and for correlations
        with a constant.
    """

    measure: Measure
    stderr: float | None

    def __new__(cls, measure: Measure) -> Number:
        """Returns the value of a measure as a number."""
        number = super().__new__(cls, measure.value())
        number.measure, number.stderr = measure, standard_error([measure])
        return number


def mean(values: Sequence[float] | np.ndarray, targets: Sequence[Target]) -> Number:
    """Returns the mean of values [rows] over rows; the rows of a group are one unit."""
    return summed("ratio", _with_counts(values), targets)


def mean_over_groups(values: Sequence[float], targets: Sequence[Target]) -> Number:
    """Returns the mean of values [groups], each of which counts once whatever its group's size."""
    units = tuple(int(rows[0]) for rows in groups(targets))
    return Number(Measure("ratio", units, _with_counts(values)))


def summed(statistic: str, rows: np.ndarray, targets: Sequence[Target]) -> Number:
    """Returns a statistic of sums over rows [n, k]; the rows of a group are one unit."""
    if all(target.get("group") is None for target in targets):
        return Number(Measure(statistic, tuple(range(len(rows))), rows.astype(np.float64)))
    members = groups(targets)
    parts = np.stack([rows[numbers].sum(axis=0) for numbers in members]).astype(np.float64)
    return Number(Measure(statistic, tuple(int(numbers[0]) for numbers in members), parts))


def paired(
    statistic: str, golds: Sequence[float] | np.ndarray, guesses: Sequence[float] | np.ndarray
) -> Number:
    """Returns a correlation of two numbers a row [n].

    Each row is a unit of its own, since sums over groups have no ranks.
    """
    parts = np.stack([np.asarray(golds, np.float64), np.asarray(guesses, np.float64)], axis=1)
    return Number(Measure(statistic, tuple(range(len(parts))), parts))


def _with_counts(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The columns of the statistic 'ratio': a value and the number of rows that it stands for."""
    return np.stack([np.asarray(values, np.float64), np.ones(len(values))], axis=1)
