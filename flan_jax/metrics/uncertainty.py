"""Standard errors from rows: of a number, its mean over templates or seeds, and differences.

A standard error says how much the number would move with other rows of the same kind. The spread
over templates and that over seeds are other matters: only `error_of_both` and `over_seeds` add them
to it, under names of their own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flan_jax.metrics.intervals import t_interval, t_p_value, wilson_interval
from flan_jax.metrics.measures import Measure, check_same_units, mean_value
from flan_jax.metrics.resampling import (
    SMALL_SAMPLE,
    bootstrap_interval,
    bootstrap_values,
    sign_flip_p_value,
)

# Percent; what lies below is the rounding error of equal differences.
_ZERO = 1e-9


class Difference(NamedTuple):
    """The number of one model less that of another, in percent.

    Both are on the same units in the same templates.

    Attributes:
      value: the difference of the means over templates.
      stderr: its standard error from paired units; None below two units.
      changed: how many units contribute differently in at least one template.
      dof: degrees of freedom of the standard error: number of units - 1, of a mean over datasets
        Satterthwaite's; None without a standard error.
      sign_p: p-value of the sign-flip test; only where some units differ, below `SMALL_SAMPLE`.
      bootstrap: 95 % interval of the paired bootstrap; where `sign_p` is.
    """

    value: float
    stderr: float | None
    changed: int
    dof: float | None = None
    sign_p: float | None = None
    bootstrap: tuple[float, float] | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval by Student's t; None where the units do not differ from one another."""
        if not self.stderr or self.dof is None:
            return None
        return t_interval(self.value, self.stderr, self.dof)

    @property
    def p(self) -> float | None:
        """The two-sided p-value by Student's t; None without a standard error.

        If all units differ by the same, t is undefined: 1 if that is 0, else that of the sign-flip
        test.
        """
        if self.stderr is None or self.dof is None:
            return None
        if not self.stderr:
            return 1.0 if abs(self.value) < _ZERO else 2.0**-self.dof
        return t_p_value(self.value, self.stderr, self.dof)


class OverSeeds(NamedTuple):
    """A number's mean over runs that differ only in their seed, in percent.

    Attributes:
      value: the mean over runs (and templates).
      sd: standard deviation over runs (n - 1); None for a single run.
      stderr: standard error from rows of the mean, whatever the seeds; None below two units.
      stderr_both: standard error from rows and seeds; None if one of the two is.
      seeds: number of runs.
    """

    value: float
    sd: float | None
    stderr: float | None
    stderr_both: float | None
    seeds: int


def standard_error(measures: Sequence[Measure]) -> float | None:
    """Returns the standard error of a number's mean over templates, from its units; in percent.

    With x_r the mean over T templates of what row r scores, m the mean over R rows and units g of
    G: sqrt(G / (G - 1) sum_g (sum_{r in g} (x_r - m))^2) / R (Liang and Zeger 1986; Miller 2024,
    arXiv 2411.00640, section 2.2). For numbers that are not a mean over rows a bootstrap:
    the standard deviation over resampled units, the same in every template, with a fixed seed.

    Args:
      measures: of the same units, one for each template, or for each template of each seed.

    Returns:
      The standard error; None below two units, and for a correlation with a constant.

    Raises:
      ValueError: if the units differ.
    """
    check_same_units(measures)
    if not _has_error(measures):
        return None
    return 100 * _norm(_mean_deviations(measures))


def error_of_both(measures: Sequence[Measure], templates: int | None = None) -> float | None:
    """Returns the standard error of a number's mean for other rows and other wordings; in percent.

    Rows and templates are crossed: the square is V_rows + std_t^2 / T - MS_res / (R T), at least
    each of the first two parts, with V_rows the square of `standard_error`, std_t the standard
    deviation over T templates, and MS_res the mean square of the residuals of rows and templates,
    which both parts contain (Brennan 2001, Generalizability Theory, section 3.2).

    Args:
      measures: of the same units, one for each template, or the templates of each seed one after
        the other.
      templates: how many there are; None: as many as measures.

    Returns:
      The standard error; None below two units or two templates, and for a correlation with a
      constant.

    Raises:
      ValueError: if the units differ.
    """
    count = templates or len(measures)
    return _crossed_error([measures[template::count] for template in range(count)])


def over_seeds(runs: Sequence[Sequence[Measure]]) -> OverSeeds:
    """Returns the mean over runs that differ only in their seed.

    Seeds are averaged for each row; they are not more rows.

    Args:
      runs: of each run, the measures of its templates; all of the same units.

    Raises:
      ValueError: if the units differ.
    """
    values = [100 * mean_value(run) for run in runs]
    every = [measure for run in runs for measure in run]
    return OverSeeds(
        statistics.fmean(values),
        statistics.stdev(values) if len(values) > 1 else None,
        standard_error(every),
        _crossed_error(runs),
        len(runs),
    )


def confidence_interval(measures: Sequence[Measure]) -> tuple[float, float] | None:
    """Returns the 95 % interval from rows of a number's mean over templates, in percent.

    By Student's t with G - 1 degrees of freedom; where all rows score 0, or all score 1, Wilson's.

    Args:
      measures: of the same units, one for each template, or for each template of each seed.

    Returns:
      The interval; None where there is no standard error.

    Raises:
      ValueError: if the units differ.
    """
    check_same_units(measures)
    share = _extreme_share(measures)
    if share is not None:
        low, high = wilson_interval(share, len(measures[0].units))
        return 100 * low, 100 * high
    stderr = standard_error(measures)
    if stderr is None:
        return None
    return t_interval(100 * mean_value(measures), stderr, len(measures[0].units) - 1)


def paired_difference(ours: Sequence[Measure], theirs: Sequence[Measure]) -> Difference:
    """Returns the mean over templates of one model less that of another, paired by units.

    Args:
      ours: one for each template, or the templates of each seed one after the other.
      theirs: of the same units, in the same templates.

    Raises:
      ValueError: if the units differ.
    """
    check_same_units([*ours, *theirs])
    ours, theirs = _repeated_to_equal_length(ours, theirs)
    units = len(ours[0].units)
    value = 100 * (mean_value(ours) - mean_value(theirs))
    different = [(a.parts != b.parts).any(axis=1) for a, b in zip(ours, theirs)]
    changed = int(np.any(different, axis=0).sum())
    if not _has_error([*ours, *theirs]):
        return Difference(value, None, changed)
    stderr = 100 * _norm(_mean_deviations(ours) - _mean_deviations(theirs))
    stderr = stderr if stderr > _ZERO else 0.0
    if not changed or units >= SMALL_SAMPLE:
        return Difference(value, stderr, changed, units - 1)
    sign_p, bootstrap = sign_flip_p_value(ours, theirs), bootstrap_interval(ours, theirs)
    return Difference(value, stderr, changed, units - 1, sign_p, bootstrap)


def _has_error(measures: Sequence[Measure]) -> bool:
    return len(measures[0].units) > 1 and not any(each.is_undefined for each in measures)


def _extreme_share(measures: Sequence[Measure]) -> float | None:
    """0 if every row scores 0 and 1 if every row scores 1 in all templates, of shares; else None.

    Also None for other statistics, whose 0 or 100 % is not that of each row.
    """
    if measures[0].statistic != "ratio":
        return None
    scores, rows = np.concatenate([each.parts for each in measures]).T
    return next((share for share in (0.0, 1.0) if (scores == share * rows).all()), None)


def _crossed_error(repetitions: Sequence[Sequence[Measure]]) -> float | None:
    """The standard error of a mean over rows and over repetitions (templates or runs), in percent.

    See `error_of_both`.
    """
    every = [measure for repetition in repetitions for measure in repetition]
    check_same_units(every)
    count = len(repetitions)
    if count < 2 or not _has_error(every):
        return None
    deviations = np.stack([_mean_deviations(repetition) for repetition in repetitions])
    mean = deviations.mean(axis=0)
    of_rows = float((mean**2).sum())
    of_repetitions = statistics.variance([mean_value(each) for each in repetitions]) / count
    of_residuals = float(((deviations - mean) ** 2).sum()) / (count - 1) / count
    both = max(of_rows + of_repetitions - of_residuals, of_rows, of_repetitions)
    return 100 * math.sqrt(both)


def _mean_deviations(measures: Sequence[Measure]) -> np.ndarray:
    return np.mean([_deviations(measure) for measure in measures], axis=0)


def _deviations(measure: Measure) -> np.ndarray:
    """Numbers [K] whose sum of squares is the number's variance, and that add up over measures.

    Of a mean over rows, how much each unit moves it; else, its deviation on each resample.
    """
    if measure.statistic == "ratio":
        units = len(measure.units)
        return math.sqrt(units / (units - 1)) * _influence(measure)
    values = bootstrap_values(measure)
    return (values - values.mean()) / math.sqrt(len(values) - 1)


def _influence(measure: Measure) -> np.ndarray:
    """How much each unit moves a mean over rows, to first order: float64 [G]."""
    total, rows = measure.parts.T
    return (total - rows * (total.sum() / rows.sum())) / rows.sum()


def _norm(deviations: np.ndarray) -> float:
    return math.sqrt(float((deviations**2).sum()))


def _repeated_to_equal_length(
    ours: Sequence[Measure], theirs: Sequence[Measure]
) -> tuple[Sequence[Measure], Sequence[Measure]]:
    """Both, repeated as a whole: three seeds meet one run, or two; means stay what they are."""
    length = math.lcm(len(ours), len(theirs))
    return list(ours) * (length // len(ours)), list(theirs) * (length // len(theirs))
