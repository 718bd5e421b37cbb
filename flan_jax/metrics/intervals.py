"""95 % intervals and p-values of a number with a standard error, and of a share of 0 or 100 %."""

from __future__ import annotations

import math

from flan_jax.metrics import students_t

# The 97.5 % quantile of the normal distribution.
_Z = 1.959963984540054


def t_interval(value: float, stderr: float, dof: float) -> tuple[float, float]:
    """Returns the 95 % interval of a number by Student's t.

    Args:
      value: the number.
      stderr: its standard error, in the same unit.
      dof: degrees of freedom of the standard error, at least 1.
    """
    half = students_t.quantile(dof) * stderr
    return value - half, value + half


def t_p_value(value: float, stderr: float, dof: float) -> float:
    """Returns the two-sided p-value of a number against 0 by Student's t.

    Args:
      value: the number.
      stderr: its standard error, above 0.
      dof: degrees of freedom of the standard error, at least 1.
    """
    return 2 * students_t.tail(dof, abs(value) / stderr)


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Returns Wilson's 95 % score interval of a share, which has a width also at 0 and 1.

    Wilson 1927, Journal of the American Statistical Association 22, p. 209.

    Args:
      share: from 0 to 1.
      n: number of independent rows.
    """
    center = share + _Z**2 / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def welch_satterthwaite(variances: list[float], dofs: list[float]) -> float | None:
    """Returns the degrees of freedom of a sum of independent variances; None if all are 0.

    Satterthwaite 1946, Biometrics Bulletin 2, p. 110.

    Args:
      variances: of the parts of the sum.
      dofs: the degrees of freedom of each.
    """
    total = math.fsum(variances)
    if not total:
        return None
    return total**2 / math.fsum(each**2 / dof for each, dof in zip(variances, dofs))
