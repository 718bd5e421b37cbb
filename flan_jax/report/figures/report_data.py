"""What figures are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from flan_jax.report.comparisons import Comparison
from flan_jax.report.run_facts import RunFacts


@dataclasses.dataclass(frozen=True)
class ReportData:
    """The numbers of a report and what is known of the runs behind them.

    Attributes:
      lines: of the table, see `comparisons.compare`.
      sources: where the evaluated rows come from.
      facts: of runs, by the names that the lines' series have.
    """

    lines: Sequence[Comparison]
    sources: Collection[str] = ()
    facts: Mapping[str, RunFacts] = dataclasses.field(default_factory=dict)
