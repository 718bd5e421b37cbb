"""Standard errors from rows: of a number, of its mean over templates, and of a paired difference of
two models.

The rows of an evaluation come in units that are independent of one another: the rows of a group
(the answers of one question, the translations of one sentence) make one unit, any other row is one
by itself. A `Measure` holds what each unit contributes, so that a number, its mean over templates
and a difference are all computed from the same units.
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
        """The number, in percent."""
        return 100 * STATISTICS[self.statistic](self.parts)


class Difference(NamedTuple):
    """The number of one model less that of another, on the same units in the same templates; in
    percent.

    Attributes:
      value: the difference of the means over templates.
      stderr: its standard error from paired units; None below two units.
      changed: how many units contribute differently in at least one template.
    """

    value: float
    stderr: float | None
    changed: int


def ratio(parts: np.ndarray) -> float:
    """Mean over rows: the sum of the first column over that of the second, the number of rows."""
    total, rows = parts.sum(axis=0)
    return float(total / rows)


def f1(parts: np.ndarray) -> float:
    """F1 of summed (true positives, false positives, false negatives); 1 where there is nothing to
    find or found.
    """
    hits, false_hits, misses = parts.sum(axis=0)
    return float(2 * hits / (2 * hits + false_hits + misses)) if hits + false_hits + misses else 1.0


def macro_f1(parts: np.ndarray) -> float:
    """Mean F1 over the classes that occur; three columns (as for `f1`) for each class."""
    counts = parts.reshape(len(parts), -1, 3).sum(axis=0)
    return float(np.mean([f1(one[None]) for one in counts if one.any()]))


def correlation(parts: np.ndarray) -> float:
    """Pearson's correlation of two columns; where one is constant and it is undefined, 1 if both
    are equal, else 0.
    """
    x, y = parts.T
    x_spread, y_spread = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x_spread**2).sum() * (y_spread**2).sum()))
    if scale == 0:
        return float(np.array_equal(x, y))
    return float((x_spread * y_spread).sum()) / scale


def rank_correlation(parts: np.ndarray) -> float:
    """Spearman's correlation of two columns, with mean ranks for ties."""
    return correlation(np.stack([_ranks(column) for column in parts.T], axis=1))


def bleu(parts: np.ndarray) -> float:
    """Corpus BLEU from summed columns: matches and totals of orders 1 to 4, lengths of system and
    reference.

    Only where no unit has four tokens are the missing orders left out (they would make every score
    0); the last column says whether the evaluation has such units, in each of them.
    """
    import sacrebleu

    total = parts[:, :10].sum(axis=0).astype(np.int64).tolist()
    return (
        sacrebleu.BLEU.compute_bleu(
            total[:4],
            total[4:8],
            total[8],
            total[9],
            smooth_method="exp",
            effective_order=not parts[:, 10].any(),
        ).score
        / 100
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs. float64, same shape."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[where]


# Name -> from parts [G, k] to the number as a share of 1.
STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "ratio": ratio,
    "f1": f1,
    "macro_f1": macro_f1,
    "correlation": correlation,
    "rank_correlation": rank_correlation,
    "bleu": bleu,
}


def standard_error(measures: Sequence[Measure]) -> float | None:
    """The standard error of the mean over templates of a number, from the units that it was
    measured on; in percent.

    With x_r the mean over T templates of what row r scores, m the mean over R rows and units g of
    G: sqrt(G / (G - 1) sum_g (sum_{r in g} (x_r - m))^2) / R (Liang and Zeger 1986; Miller 2024,
    arXiv 2411.00640, section 2.2). Numbers that are no mean over rows: the standard deviation over
    units that are resampled, the same ones in every template, with a fixed seed.

    Args:
      measures: of the same units, one for each template.

    Returns:
      None below two units, and for a correlation with a constant.

    Raises:
      ValueError: if the units differ.
    """
    _check_same_units(measures)
    if len(measures[0].units) < 2 or any(_is_undefined(measure) for measure in measures):
        return None
    if measures[0].statistic == "ratio":
        return 100 * _linear_error(np.mean([_influence(measure) for measure in measures], axis=0))
    return 100 * float(
        np.std(
            [_mean_of(measures, chosen) for chosen in _resampled(len(measures[0].units))], ddof=1
        )
    )


def paired_difference(ours: Sequence[Measure], theirs: Sequence[Measure]) -> Difference:
    """The mean over templates of one model less that of another, with the error of the paired
    difference.

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
    """Whether all measures are of the same units in the same order, by the same statistic of as
    many numbers.
    """
    return (
        len({(measure.statistic, measure.units, measure.parts.shape) for measure in measures}) == 1
    )


def _check_same_units(measures: Sequence[Measure]) -> None:
    if not are_of_same_units(measures):
        raise ValueError("the measures are of different rows or statistics")


def _is_undefined(measure: Measure) -> bool:
    """Whether a correlation has a constant side: it is undefined, and so is how much it would move
    with other rows.
    """
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
