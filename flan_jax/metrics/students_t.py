"""Student's t distribution; importing SciPy's takes as long as the rest of a report.

Numerical Recipes, third edition, section 6.4: the incomplete beta function as a continued fraction,
by Lentz's method.
"""

from __future__ import annotations

import functools
import math

_TINY = 1e-300  # in place of a denominator of 0


def tail(dof: float, t: float) -> float:
    """Returns the probability of a value above `t`.

    Args:
      dof: degrees of freedom, at least 1.
      t: not negative.
    """
    a, ratio = dof / 2, (t / math.sqrt(dof)) ** 2
    x, rest = 1 / (1 + ratio), ratio / (1 + ratio)
    front = _gamma_ratio(a) * math.sqrt(rest / math.pi) * math.exp(-a * math.log1p(ratio))
    if x < (a + 1) / (a + 2.5):
        return front * _continued_fraction(a, 0.5, x) / a / 2
    return 0.5 - front * _continued_fraction(0.5, a, rest)


@functools.lru_cache(maxsize=4096)
def quantile(dof: float) -> float:
    """Returns the 97.5 % quantile, by bisection.

    Args:
      dof: degrees of freedom, at least 1.
    """
    low, high = 1.9, 13.0  # those of the normal distribution and of one degree of freedom
    while True:
        middle = low + (high - low) / 2
        if not low < middle < high:
            return high
        low, high = (middle, high) if tail(dof, middle) > 0.025 else (low, middle)


def _gamma_ratio(a: float) -> float:
    """Returns gamma(a + 1/2) / gamma(a)."""
    if a < 50:
        return math.exp(math.lgamma(a + 0.5) - math.lgamma(a))
    # The logarithms of large numbers would cancel each other: Tricomi and Erdelyi's series.
    series = 1 - 1 / (8 * a) + 1 / (128 * a**2) + 5 / (1024 * a**3) - 21 / (32768 * a**4)
    return math.sqrt(a) * (series - 399 / (262144 * a**5) + 869 / (4194304 * a**6))


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Returns the continued fraction of the incomplete beta function of a, b and x."""
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    result, m, factor = d, 0, 0.0
    while abs(factor - 1) > 1e-15:
        m += 1
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 / _not_zero(1 + even * d), _not_zero(1 + even / c)
        result *= d * c
        d, c = 1 / _not_zero(1 + odd * d), _not_zero(1 + odd / c)
        factor = d * c
        result *= factor
    return result


def _not_zero(x: float) -> float:
    return x if abs(x) > _TINY else _TINY
