"""What each unit of rows contributes to a number, and the statistics that make a number of it.

The rows of an evaluation come in units that are independent of one another: the rows of a group
(the answers of one question, the translations of one sentence) make one unit, any other row is one
by itself. A `Measure` holds what each unit contributes, so that a number, its mean over templates
and a paired difference of two models are all computed from the same units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


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

    @property
    def is_correlation(self) -> bool:
        """Whether the statistic is of pairs of values, not of sums of the parts over units."""
        return self.statistic.endswith("correlation")

    @property
    def is_undefined(self) -> bool:
        """Whether it is a correlation with a constant, which has no standard error."""
        return self.is_correlation and not np.ptp(self.parts, axis=0).all()


Statistic = Callable[[np.ndarray], float]
# Name -> from parts [G, k] to the number as a share of 1.
STATISTICS: dict[str, Statistic] = {}


def statistic(name: str) -> Callable[[Statistic], Statistic]:
    """Returns a decorator that registers a function of parts [G, k] as a statistic of that name.

    Unless the name ends in 'correlation', it must depend only on the sums of the columns, and of a
    column that is the same in all units on whether it is 0.
    """

    def register(function: Statistic) -> Statistic:
        STATISTICS[name] = function
        return function

    return register


@statistic("ratio")
def ratio(parts: np.ndarray) -> float:
    """Returns the mean over rows of parts [G, 2]: sum of the first column / number of rows."""
    total, rows = parts.sum(axis=0)
    return float(total / rows)


def mean_value(measures: Sequence[Measure]) -> float:
    """Returns the mean of the numbers of measures, as a share of 1."""
    return float(np.mean([STATISTICS[each.statistic](each.parts) for each in measures]))


def are_of_same_units(measures: Sequence[Measure]) -> bool:
    """Returns whether all measures have the same units, statistic and shape."""
    kinds = {(measure.statistic, measure.units, measure.parts.shape) for measure in measures}
    return len(kinds) == 1


def check_same_units(measures: Sequence[Measure]) -> None:
    """Checks that measures can be averaged and compared.

    Raises:
      ValueError: if they differ in units, statistic or shape.
    """
    if not are_of_same_units(measures):
        raise ValueError("the measures are of different rows or statistics")
