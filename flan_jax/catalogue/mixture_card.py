"""The mixture card: rows, rate and share of each training dataset (section 2.4 of the paper)."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class CardRow:
    """One line of the mixture card.

    Attributes:
      dataset, cluster: names.
      templates: number of templates that train.
      cap: at most this many rows are used; None without a limit.
      rows: number of rows after drops.
      rate: draws in proportion to the other datasets' rates: rows, at most 3,000 unless
        MIXTURE_OR_TASK_NAME has another cap, or a share.
      share: fraction of all draws.
    """

    dataset: str
    cluster: str
    templates: int
    cap: int | None
    rows: int
    rate: float
    share: float


def format_card(card: list[CardRow]) -> str:
    """Returns the mixture card as text, one line a dataset."""
    titles = ("dataset", "cluster", "rows", "cap", "rate", "share", "templates")
    rows = [
        (
            row.dataset,
            row.cluster,
            f"{row.rows:,}",
            f"{row.cap:,}" if row.cap else "-",
            f"{row.rate:,.0f}",
            f"{row.share:.2%}",
            str(row.templates),
        )
        for row in card
    ]
    return "\n".join([*_aligned([titles, *rows], 2), _total(card)])


def format_clusters(card: list[CardRow]) -> str:
    """Returns the mixture card as text, one line a cluster."""
    clusters: dict[str, list[CardRow]] = {}
    for row in card:
        clusters.setdefault(row.cluster, []).append(row)
    rows = [
        (
            name,
            str(len(members)),
            f"{sum(row.rows for row in members):,}",
            f"{sum(row.share for row in members):.2%}",
        )
        for name, members in clusters.items()
    ]
    titles = ("cluster", "datasets", "rows", "share")
    return "\n".join([*_aligned([titles, *rows], 1), _total(card)])


def _aligned(rows: list[tuple[str, ...]], names: int) -> list[str]:
    """Lines of cells in columns: the first `names` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if place < names else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]


def _total(card: list[CardRow]) -> str:
    rows, rates = sum(row.rows for row in card), sum(row.rate for row in card)
    return f"{len(card)} datasets, {rows:,} rows, sum of rates {rates:,.0f}"
