"""The mixture card: rows, rate and share of each training dataset (section 2.4 of the paper)."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class CardRow:
    """One line of the mixture card: `rows` after drops, of which there are `cap` at most; `share`
    of all draws.
    """

    dataset: str
    cluster: str
    templates: int
    cap: int | None
    rows: int
    rate: int
    share: float


def format_card(card: list[CardRow]) -> str:
    """The mixture card as text, one line a dataset."""
    lines = [
        f"{'dataset':<36}{'cluster':<40}{'rows':>8}{'cap':>8}{'rate':>7}{'share':>8}{'templates':>11}"
    ]
    lines += [
        f"{r.dataset:<36}{r.cluster:<40}{r.rows:>8,}{r.cap or '-':>8{',' if r.cap else ''}}{r.rate:>7,}"
        f"{r.share:>8.2%}{r.templates:>11}"
        for r in card
    ]
    rates = sum(r.rate for r in card)
    return "\n".join(
        [
            *lines,
            f"{len(card)} datasets, {sum(r.rows for r in card):,} rows, sum of rates {rates:,}",
        ]
    )
