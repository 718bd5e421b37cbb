"""Which arrays of a model a regular expression names; each of its alternatives must name one.

Paths are compared without the numbers of layers, so that the same expression names the same arrays
in stacked and unstacked trees: `encoder/layers/mlp/wo`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from flan_jax.errors import UserError
from flan_jax.messages import listed

_ATTENTION = ("query", "key", "value", "out")
# The last parts of the paths of modules, by name of a choice.
NAMED = {
    "all": (*_ATTENTION, "wi", "wi_0", "wi_1", "wi_2", "wo"),
    "attention": _ATTENTION,
    "qv": ("query", "value"),
}
_NUMBER = re.compile(r"\blayers_\d+\b")


def plain(path: str) -> str:
    """Returns a path without the numbers of layers: `encoder/layers/mlp/wo`."""
    return _NUMBER.sub("layers", path)


def matching(expression: str, paths: Iterable[str], setting: str) -> list[str]:
    """Returns the paths whose last parts an expression matches.

    Args:
      expression: alternatives with `|` between, such as `query|mlp/wi_.*`.
      paths: of modules or of arrays, with or without numbers of layers.
      setting: that has the expression, for messages.

    Raises:
      UserError: if it is no regular expression, or one of its alternatives matches nothing.
    """
    paths = list(paths)
    found: set[str] = set()
    for alternative in _alternatives(expression):
        try:
            pattern = re.compile(rf"(?:.*/)?(?:{alternative})")
        except re.error as error:
            raise UserError(
                f"{setting} {expression!r} is not a regular expression ({error}); correct it."
            ) from None
        hits = [path for path in paths if pattern.fullmatch(plain(path))]
        if not hits:
            endings = sorted({"/".join(plain(path).split("/")[-2:]) for path in paths})
            raise UserError(
                f"{setting}: {alternative!r} matches nothing in this model; it has "
                f"{listed(endings)}. Correct the expression."
            )
        found.update(hits)
    return [path for path in paths if path in found]


def _alternatives(expression: str) -> list[str]:
    """The parts of an expression between the `|` that are in no bracket."""
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(expression):
        depth += (sign in "([") - (sign in ")]")
        if sign == "|" and depth == 0:
            parts.append(expression[start:place])
            start = place + 1
    return [*parts, expression[start:]]
