"""The bootstrap over units, and two checks of a paired difference of few units.

Student's t needs differences that are about normal or many of them. Below `SMALL_SAMPLE` units the
paired bootstrap (Efron and Tibshirani 1993, chapter 13) and the sign-flip test (Fisher's
randomization test for pairs) say whether it can be trusted; neither assumes normal differences.

All draws have a fixed seed, so that the same results give the same report.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np

from flan_jax.metrics.measures import STATISTICS, Measure

# Units; from here on, Student's t is close enough.
SMALL_SAMPLE = 100
# Draws for a standard error, and for an interval, whose ends are rarer.
_DRAWS_FOR_ERROR = 300
_DRAWS_FOR_INTERVAL = 1000
# Sign flips; a statistic that is not a mean is computed again for each of them.
_FLIPS, _FLIPS_OF_STATISTIC = 10_000, 1_000


def bootstrap_values(measure: Measure) -> np.ndarray:
    """Returns the number of a measure on resampled units, float64 [draws], as a share of 1.

    Measures of equally many units have the same draws.
    """
    units = len(measure.units)
    draws = _draws(units, _DRAWS_FOR_ERROR)
    if measure.is_correlation:
        function = STATISTICS[measure.statistic]
        return np.array([function(measure.parts[chosen]) for chosen in draws])
    sums = [np.bincount(chosen, minlength=units) @ measure.parts for chosen in draws]
    return _of_sums(measure, np.stack(sums))


def bootstrap_interval(ours: Sequence[Measure], theirs: Sequence[Measure]) -> tuple[float, float]:
    """Returns the 95 % percentile interval of a paired difference, in percent.

    Args:
      ours: of one model, below `SMALL_SAMPLE` units.
      theirs: of another, of the same units.
    """
    means = [np.mean([_values_of_few(each) for each in side], axis=0) for side in (ours, theirs)]
    low, high = np.percentile(100 * (means[0] - means[1]), [2.5, 97.5])
    return float(low), float(high)


def sign_flip_p_value(ours: Sequence[Measure], theirs: Sequence[Measure]) -> float:
    """Returns the two-sided p-value of a paired difference when models are exchanged at random.

    (k + 1) / (draws + 1), where k of the draws, in each of which every unit's two results change
    sides with probability 1/2, give a difference at least as large.

    Args:
      ours: of one model, one for each template, below `SMALL_SAMPLE` units.
      theirs: of another, of the same units in the same templates.
    """
    if ours[0].statistic == "ratio":
        totals = [np.mean([each.parts[:, 0] for each in side], axis=0) for side in (ours, theirs)]
        difference = totals[0] - totals[1]
        drawn, seen = _signs(len(difference)) @ difference, difference.sum()
    else:
        drawn, seen = _flipped(ours, theirs), _difference(ours, theirs)
    tolerance = 1e-9 * max(1.0, abs(seen))
    return float((np.abs(drawn) >= abs(seen) - tolerance).sum() + 1) / (len(drawn) + 1)


def _values_of_few(measure: Measure) -> np.ndarray:
    """The number on resamples of few units: float64 [draws]."""
    chosen = _few_draws(len(measure.units))
    if measure.is_correlation:
        function = STATISTICS[measure.statistic]
        return np.array([function(measure.parts[each]) for each in chosen])
    return _of_sums(measure, _counts(len(measure.units)) @ measure.parts)


def _of_sums(measure: Measure, sums: np.ndarray) -> np.ndarray:
    """The number of each of several sums of parts [draws, k]: float64 [draws]."""
    if measure.statistic == "ratio":
        return sums[:, 0] / sums[:, 1]
    function = STATISTICS[measure.statistic]
    return np.array([function(row[None]) for row in sums])


def _draws(units: int, draws: int) -> Iterable[np.ndarray]:
    """The same draws of `units` units with replacement every time."""
    generator = np.random.default_rng(0)
    return (generator.integers(0, units, units) for _ in range(draws))


@functools.lru_cache(maxsize=4)
def _few_draws(units: int) -> np.ndarray:
    """Draws for an interval: int64 [draws, units]."""
    return np.stack(list(_draws(units, _DRAWS_FOR_INTERVAL)))


@functools.lru_cache(maxsize=4)
def _counts(units: int) -> np.ndarray:
    """How often each of the draws for an interval has each unit: float64 [draws, units]."""
    counts = [np.bincount(chosen, minlength=units) for chosen in _few_draws(units)]
    return np.array(counts, np.float64)


@functools.lru_cache(maxsize=4)
def _signs(units: int) -> np.ndarray:
    """1 or -1 for each unit: float64 [flips, units]."""
    return np.random.default_rng(0).choice([-1.0, 1.0], (_FLIPS, units))


def _flipped(ours: Sequence[Measure], theirs: Sequence[Measure]) -> np.ndarray:
    """The difference after each exchange of units: float64 [flips]."""
    exchanges = _signs(len(ours[0].units))[:_FLIPS_OF_STATISTIC] < 0
    return np.array([_difference(ours, theirs, exchange[:, None]) for exchange in exchanges])


def _difference(
    ours: Sequence[Measure], theirs: Sequence[Measure], exchange: np.ndarray | bool = False
) -> float:
    """The difference of the means over templates, the units of `exchange` [G, 1] on other sides."""
    function = STATISTICS[ours[0].statistic]
    differences = [
        function(np.where(exchange, b.parts, a.parts))
        - function(np.where(exchange, a.parts, b.parts))
        for a, b in zip(ours, theirs)
    ]
    return float(np.mean(differences))
