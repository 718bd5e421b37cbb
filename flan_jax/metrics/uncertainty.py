"""Standard errors from rows: of a number, its mean over templates, and a paired difference.

The rows of an evaluation come in units that are independent of one another: the rows of a group
(the answers of one question, the translations of one sentence) make one unit, any other row is one
by itself. A `Measure` holds what each unit contributes, so that a number, its mean over templates
and a paired difference of two models are all computed from the same units.

A standard error says how much the number would move with other rows of the same kind; the spread
over templates is another matter and is never mixed with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 300


class Measure(NamedTuple):
    """One number of an evaluation, unit by unit.

    Attributes:
      statistic: a key of `STATISTICS`.
      units: names of the units, G of them: the row id of the first row of each.
      parts: what each unit contributes to the statistic, float64 [G, k].
    """

    statistic: str
    units: tuple[str, ...]
    parts: np.ndarray

    def value(self) -> float:
        """Returns the number, in percent."""
        return 100 * STATISTICS[self.statistic](self.parts)


class Difference(NamedTuple):
    """The number of one model less that of another, in percent.

    Both are on the same units in the same templates.

    Attributes:
      value: the difference of the means over templates.
      stderr: its standard error from paired units; None below two units.
      changed: how many units contribute differently in at least one template.
    """

    value: float
    stderr: float | None
    changed: int


Statistic = Callable[[np.ndarray], float]
# Name -> from parts [G, k] to the number as a share of 1.
STATISTICS: dict[str, Statistic] = {}


def statistic(name: str) -> Callable[[Statistic], Statistic]:
    """Returns a decorator that registers a function of parts [G, k] as a statistic of that name."""

    def register(function: Statistic) -> Statistic:
        STATISTICS[name] = function
        return function

    return register


@statistic("ratio")
def ratio(parts: np.ndarray) -> float:
    """Returns the mean over rows of parts [G, 2]: sum of the first column / number of rows."""
    total, rows = parts.sum(axis=0)
    return float(total / rows)


def standard_error(measures: Sequence[Measure]) -> float | None:
    """Returns the standard error of a number's mean over templates, from its units; in percent.

    With x_r the mean over T templates of what row r scores, m the mean over R rows and units g of
    G: sqrt(G / (G - 1) sum_g (sum_{r in g} (x_r - m))^2) / R (Liang and Zeger 1986; Miller 2024,
    arXiv 2411.00640, section 2.2). For numbers that are not a mean over rows a bootstrap:
    the standard deviation over resampled units, the same in every template, with a fixed seed.

    Args:
      measures: of the same units, one for each template.

    Returns:
      The standard error; None below two units, and for a correlation with a constant.

    Raises:
      ValueError: if the units differ.
    """
    _check_same_units(measures)
    if len(measures[0].units) < 2 or any(_is_undefined(measure) for measure in measures):
        return None
    if measures[0].statistic == "ratio":
        return 100 * _linear_error(np.mean([_influence(measure) for measure in measures], axis=0))
    means = [_mean_of(measures, chosen) for chosen in _resampled(len(measures[0].units))]
    return 100 * float(np.std(means, ddof=1))


def paired_difference(ours: Sequence[Measure], theirs: Sequence[Measure]) -> Difference:
    """Returns the mean over templates of one model less that of another, paired by units.

    Args:
      ours: one for each template.
      theirs: of the same units, in the same templates.

    Raises:
      ValueError: if the units differ.
    """
    _check_same_units([*ours, *theirs])
    everything = np.arange(len(ours[0].units))
    value = 100 * (_mean_of(ours, everything) - _mean_of(theirs, everything))
    changed = np.any([(a.parts != b.parts).any(axis=1) for a, b in zip(ours, theirs)], axis=0)
    if len(everything) < 2 or any(_is_undefined(measure) for measure in [*ours, *theirs]):
        return Difference(value, None, int(changed.sum()))
    if ours[0].statistic == "ratio":
        influence = np.mean([_influence(a) - _influence(b) for a, b in zip(ours, theirs)], axis=0)
        stderr = _linear_error(influence)
    else:
        again = [
            _mean_of(ours, chosen) - _mean_of(theirs, chosen)
            for chosen in _resampled(len(everything))
        ]
        stderr = float(np.std(again, ddof=1))
    return Difference(value, 100 * stderr, int(changed.sum()))


def are_of_same_units(measures: Sequence[Measure]) -> bool:
    """Returns whether all measures have the same units, statistic and shape."""
    kinds = {(measure.statistic, measure.units, measure.parts.shape) for measure in measures}
    return len(kinds) == 1


def _check_same_units(measures: Sequence[Measure]) -> None:
    if not are_of_same_units(measures):
        raise ValueError("the measures are of different rows or statistics")


def _is_undefined(measure: Measure) -> bool:
    """Whether a correlation has a constant side: then it and its standard error are undefined."""
    return measure.statistic.endswith("correlation") and not np.ptp(measure.parts, axis=0).all()


def _influence(measure: Measure) -> np.ndarray:
    """How much each unit moves a mean over rows, to first order: float64 [G]."""
    total, rows = measure.parts.T
    return (total - rows * (total.sum() / rows.sum())) / rows.sum()


def _linear_error(influence: np.ndarray) -> float:
    units = len(influence)
    return math.sqrt(units / (units - 1) * float((influence**2).sum()))


def _mean_of(measures: Sequence[Measure], chosen: np.ndarray) -> float:
    return float(
        np.mean([STATISTICS[measure.statistic](measure.parts[chosen]) for measure in measures])
    )


def _resampled(units: int) -> list[np.ndarray]:
    """The same draws of `units` units with replacement every time."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, units, units) for _ in range(RESAMPLES)]
