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
    lines = [
        f"{'dataset':<36}{'cluster':<40}{'rows':>8}{'cap':>8}{'rate':>7}{'share':>8}{'templates':>11}"
    ]
    lines += [_line(row) for row in card]
    rows, rates = sum(row.rows for row in card), sum(row.rate for row in card)
    lines.append(f"{len(card)} datasets, {rows:,} rows, sum of rates {rates:,.0f}")
    return "\n".join(lines)


def _line(row: CardRow) -> str:
    cap = f"{row.cap:,}" if row.cap else "-"
    return (
        f"{row.dataset:<36}{row.cluster:<40}{row.rows:>8,}{cap:>8}{row.rate:>7,.0f}"
        f"{row.share:>8.2%}{row.templates:>11}"
    )
