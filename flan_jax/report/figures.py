"""The figures of a report by file name.

To add a figure, write a function from comparisons and sources to PNG bytes in a file of its own,
and list it here. Matplotlib takes as long to import as the rest of a report, so a figure imports
it when it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from flan_jax.report.comparisons import Comparison


def _bars(lines: Sequence[Comparison], sources: Collection[str]) -> bytes:
    from flan_jax.report import bars

    return bars.draw(lines, sources)


FIGURES: dict[str, Callable[[Sequence[Comparison], Collection[str]], bytes]] = {
    "report.png": _bars,
}
