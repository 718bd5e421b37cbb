"""Who trains, who is held out, and how often each dataset is drawn (sections 2.2 and 2.4 of the paper)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from flan_jax.data.catalogue import Catalogue
from flan_jax.data.clusters import CLUSTERS, RELATED, check_cluster
from flan_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
    """Configuration names by side; `why` says for each dropped one what it is related to."""

    train: list[str]
    dropped: list[str]
    eval: list[str]
    why: dict[str, str]


def held_out_split(catalogue: Catalogue, held_out: str | None) -> Split:
    """Train and evaluation sides for a held-out cluster; the clusters related to it do neither.

    Args:
      catalogue: the datasets there are.
      held_out: a cluster, or None or 'none' to train on everything.

    Raises:
      UserError: for an unknown cluster, or if a paper's dataset stands on both sides.
    """
    if held_out in (None, "none"):
        return Split([d.name for d in catalogue if "train" in d.splits], [], [], {})
    check_cluster(held_out)
    related = RELATED.get(held_out, ())
    split = Split(
        train=[d.name for d in catalogue if d.cluster not in (held_out, *related) and "train" in d.splits],
        dropped=[d.name for d in catalogue if d.cluster in related],
        eval=[d.name for d in catalogue.cluster(held_out)],
        why={d.name: f"{CLUSTERS[d.cluster]} is related to {CLUSTERS[held_out]}"
             for d in catalogue if d.cluster in related})
    check_disjoint(catalogue, split.train, split.eval)
    return split


def check_disjoint(catalogue: Catalogue, train: Iterable[str], evaluated: Iterable[str]) -> None:
    """Raises a UserError if a dataset of the paper, or a cluster, is both trained on and called held out."""
    evaluated = [catalogue[name] for name in evaluated]
    for name in train:
        for other in evaluated:
            mine = catalogue[name]
            if mine.paper_dataset == other.paper_dataset or mine.cluster == other.cluster:
                raise UserError(f"{name} trains while {other.name} of the same cluster ({other.cluster}) is held out, "
                                f"or dropped with what is: set HELD_OUT to another cluster, or do not train on {name}.")


@dataclasses.dataclass(frozen=True)
class CardRow:
    """One line of the mixture card. `rate` = min(rows after drops and cap, 3,000); `share` of all draws."""

    dataset: str
    cluster: str
    rows: int
    rate: int
    share: float
    templates: int


def mixture_card(clusters: Mapping[str, str], rows: Mapping[str, int], rates: Mapping[str, int],
                 templates: Mapping[str, int]) -> list[CardRow]:
    """One line a dataset. Examples-proportional with a rate maximum: share_m = r_m / sum r, r_m = min(e_m, 3,000)."""
    total = sum(rates.values())
    return [CardRow(name, clusters[name], count, rates[name], rates[name] / total, templates[name])
            for name, count in rows.items()]


def format_card(card: list[CardRow]) -> str:
    """The mixture card as text, one line a dataset."""
    lines = [f"{'dataset':<36}{'cluster':<40}{'rows':>8}{'rate':>7}{'share':>8}{'templates':>11}"]
    lines += [f"{r.dataset:<36}{r.cluster:<40}{r.rows:>8,}{r.rate:>7,}{r.share:>8.2%}{r.templates:>11}" for r in card]
    rates = sum(r.rate for r in card)
    return "\n".join([*lines, f"{len(card)} datasets, {sum(r.rows for r in card):,} rows, sum of rates {rates:,}"])
