"""p-values of several comparisons, adjusted for their number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Name = TypeVar("Name")


def holm(p_values: Mapping[Name, float | None]) -> dict[Name, float | None]:
    """Returns p-values adjusted by Holm's step-down method, in the order given.

    The i-th smallest of m is multiplied by m - i + 1, and is at least as large as those before it;
    below 0.05, it is significant with a probability of at most 5 % for any false finding among all
    m. Holm 1979, Scandinavian Journal of Statistics 6, p. 65.

    Args:
      p_values: by name; one that is None stays so and is not counted.
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[Name, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for number, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - number)))
        adjusted[name] = largest
    return adjusted
