"""What a run trains on, by name: each dataset, file or SeqIO task with its shards and its rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from flan_jax.catalogue.records import RATE_CAP, Dataset
from flan_jax.data.cache import TokenCache
from flan_jax.data.packs import Shard
from flan_jax.data.shards import TrainShard


class TrainPart(Protocol):
    """What trains under a name.

    Attributes:
      rate: its mixing rate; None for its number of rows, capped.
    """

    rate: float | None

    def key(self, epoch: int, split: str = "train") -> str:
        """Returns the key of the shard of an epoch, which stands for its contents."""

    def open(self, epoch: int, split: str = "train") -> TrainShard | None:
        """Returns the examples of an epoch; None if they are not in the cache."""

    def render(self, epoch: int, split: str = "train") -> Shard:
        """Renders the shard of an epoch."""


@dataclasses.dataclass(frozen=True)
class DatasetPart:
    """A dataset of the catalogue, or a file of one's own.

    Attributes:
      dataset: its record, with the templates that it trains with.
      cache: its source, its rendering, and where its tokens are.
    """

    dataset: Dataset
    cache: TokenCache
    rate: float | None = None

    def key(self, epoch: int, split: str = "train") -> str:
        """Returns the key of the shard of an epoch."""
        return self.cache.train_key(self.dataset, epoch, split)

    def open(self, epoch: int, split: str = "train") -> TrainShard | None:
        """Returns the examples of an epoch; None if they are not in the cache."""
        return self.cache.open_train(self.dataset, epoch, split)

    def render(self, epoch: int, split: str = "train") -> Shard:
        """Renders the shard of an epoch."""
        return self.cache.render_train(self.dataset, epoch, split)

    def has(self, split: str) -> bool:
        """Returns whether the source has rows of a split."""
        return self.cache.source.available(self.dataset, split) is None


@dataclasses.dataclass(frozen=True)
class Rates:
    """How often each name is drawn.

    Attributes:
      caps: name -> the most that its rate is; RATE_CAP for others.
      shares: (names, fraction of all draws) of each part that has a share.
    """

    caps: Mapping[str, int] = dataclasses.field(default_factory=dict)
    shares: Sequence[tuple[frozenset[str], float]] = ()

    def of(self, rows: Mapping[str, int], own: Mapping[str, float]) -> dict[str, float]:
        """Returns the unnormalized rate of each name.

        It is r = min(rows, cap), or what a SeqIO mixture states. The rates of a part with share s
        are scaled to add up to s / (1 - sum of shares) times those without one.

        Args:
          rows: the number of rows of each name that is drawn.
          own: the rate of each name that brings one.
        """
        rates: dict[str, float] = {
            name: own.get(name, min(count, self.caps.get(name, RATE_CAP)))
            for name, count in rows.items()
        }
        shares = [(names & rates.keys(), share) for names, share in self.shares]
        shares = [(names, share) for names, share in shares if names]
        if not shares:
            return rates
        shared = frozenset().union(*(names for names, _ in shares))
        rest = sum(rate for name, rate in rates.items() if name not in shared)
        total = rest / (1 - sum(share for _, share in shares)) if rest else sum(rates.values())
        whole = 1.0 if rest else sum(share for _, share in shares)
        for names, share in shares:
            scale = total * share / whole / sum(rates[name] for name in names)
            rates |= {name: rates[name] * scale for name in names}
        return rates
