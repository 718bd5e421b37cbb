"""The training side of a run: shards of examples, the mixture, the packing plan, the batches."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import numpy as np

from flan_jax.catalogue.mixture_card import CardRow
from flan_jax.catalogue.records import Dataset
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.data import packing
from flan_jax.data.availability import Availability
from flan_jax.data.batches import Batches
from flan_jax.data.cache import TokenCache
from flan_jax.data.config import DataConfig
from flan_jax.data.layout import Layout
from flan_jax.data.packing import Member, MissingEpochs, Plan, Planner, plan_once
from flan_jax.data.packs import Shard
from flan_jax.data.shards import TrainShard, losses
from flan_jax.data.train_names import TrainNames, dataset_of, in_catalogue
from flan_jax.data.train_parts import DatasetPart, TrainPart
from flan_jax.errors import UserError
from flan_jax.storage.hashing import digest


class TrainData:
    """What a run trains on. Opens what the cache has; `flan_jax.prepare` builds what it lacks.

    The argument `split` of the methods is 'train', or 'validation' for the rows of the training
    datasets whose loss chooses the best checkpoint.

    Attributes:
      trained: what MIXTURE_OR_TASK_NAME names.

    Args:
      config: the data of the run.
      cache: where the tokens of this run's rendering are.
      layout: how examples lie in a row.
      trained: what trains if it is available; see `train_names.resolve_train_names`.
      availability: of the run.
    """

    def __init__(
        self,
        config: DataConfig,
        cache: TokenCache,
        layout: Layout,
        trained: TrainNames,
        availability: Availability,
    ):
        self.trained = trained
        self._config, self._cache, self._layout = config, cache, layout
        self._names, self._availability = trained.names, availability
        self._parts: dict[str, TrainPart] = dict(trained.seqio_tasks)
        self._members: dict[str, list[Member]] = {}
        self._plans: dict[str, Plan] = {}
        self._planner: Planner | None = None

    # Names.

    def candidates(self) -> list[str]:
        """Returns the datasets of the catalogue that train if they are available."""
        return in_catalogue(self._names)

    def unchecked(self) -> list[str]:
        """Returns what is not compared with the held-out rows: it may share text with them.

        These are the SeqIO tasks of users; and their files, unless DECONTAMINATE is True.
        """
        tasks = [name for name in self.trained.seqio_tasks if dataset_of(name) is None]
        return tasks if self._config.decontaminate else [*tasks, *self.trained.own]

    def datasets(self, split: str = "train") -> list[str]:
        """Returns the names of what trains and is available; the rest is noted in `left_out`.

        For 'validation' those of them that have such rows.

        Raises:
          UserError: under STRICT_DATA if something is not available; always if nothing is.
        """
        names = self._availability.available(self._names, "train")
        if not names:
            first = self._names[0]
            raise UserError(
                f"none of the {len(self._names)} training datasets is available from "
                f"DATA_SOURCE={self._config.source} (the first: {first} "
                f"{self._availability.left_out[first]})."
            )
        if split == "train":
            return names
        parts = {name: self._part(name) for name in names}
        return [
            name
            for name, part in parts.items()
            if isinstance(part, DatasetPart) and part.has(split)
        ]

    def dataset(self, name: str) -> Dataset:
        """Returns a dataset with the templates that it trains with (TEMPLATES), or a file."""
        return self._part(name).dataset

    def _part(self, name: str) -> TrainPart:
        if name not in self._parts:
            self._parts[name] = self._own_part(name) or self._catalogue_part(name)
        return self._parts[name]

    def _own_part(self, name: str) -> DatasetPart | None:
        own = self.trained.own.get(name)
        if own is None:
            return None
        rendering = own.rendering(self._cache.rendering, self._config.architecture)
        return DatasetPart(own.dataset, self._cache.beside(own.source, rendering))

    def _catalogue_part(self, name: str) -> DatasetPart:
        dataset = CATALOGUE[name]
        templates = dataset.first_templates(self._config.templates)
        return DatasetPart(dataclasses.replace(dataset, templates=templates), self._cache)

    # Shards.

    def shard_key(self, name: str, epoch: int, split: str = "train") -> str:
        """Returns the key of the shard of (dataset, epoch), which stands for its contents."""
        return self._part(name).key(epoch, split)

    def open_shard(self, name: str, epoch: int, split: str = "train") -> TrainShard | None:
        """Returns the examples of (dataset, epoch); None if they are not in the cache."""
        return self._part(name).open(epoch, split)

    def render_shard(self, name: str, epoch: int, split: str = "train") -> Shard:
        """Renders the shard of (dataset, epoch)."""
        return self._part(name).render(epoch, split)

    def build_shard(self, name: str, epoch: int, split: str = "train") -> str:
        """Puts the shard of (dataset, epoch) into the cache if it is not there; returns its key."""
        key = self.shard_key(name, epoch, split)
        if self._cache.packs.find(key) is not None:
            return key
        return self._cache.keep(self.render_shard(name, epoch, split))

    def counts(self, name: str, split: str = "train") -> dict[str, int]:
        """Returns what was counted in the first epoch: 'rows', 'rows read', dropped, truncated."""
        return self._cache.packs.find(self.shard_key(name, 0, split)).meta["counts"]

    def missing(self, split: str = "train") -> list[tuple[str, int]]:
        """Returns (dataset, 0) of each training dataset whose first epoch is not in the cache."""
        return self._not_built([(name, 0) for name in self.datasets(split)], split)

    def _not_built(self, epochs: list[tuple[str, int]], split: str) -> list[tuple[str, int]]:
        packs = self._cache.packs
        packs.refresh()
        are_whole = packs.are_whole([self.shard_key(*pair, split) for pair in epochs])
        return [pair for pair, is_whole in zip(epochs, are_whole) if not is_whole]

    def keys_in_use(self) -> set[str]:
        """Returns the keys of the shards in the cache that a run with these settings reads."""
        keys = set()
        for split in ("train", "validation"):
            keys |= {self.shard_key(name, 0, split) for name in self.datasets(split)}
            plan = None if self.missing(split) else Plan.load(self._plan_path(split))
            if plan is not None:
                members = self.members(split)
                keys |= {
                    self.shard_key(members[m].name, epoch, split) for m, epoch in plan.epochs()
                }
        return keys

    # The mixture.

    def members(self, split: str = "train") -> list[Member]:
        """Returns the mixture; datasets of which no row is usable are left out.

        Raises:
          MissingEpochs: if a first epoch is not built.
          UserError: if no training row is usable.
        """
        if split in self._members:
            return self._members[split]
        missing = self.missing(split)
        if missing:
            raise MissingEpochs(set(missing))
        left_out, usable = self._availability.left_out, {}
        for name in self.datasets(split):
            counts = self.counts(name, split)
            rows = counts["rows"]
            if rows:
                usable[name] = rows
            elif split == "train":
                why = ", ".join(f"{n:,} {text}" for text, n in losses(counts).items())
                left_out[name] = f"no row of {counts['rows read']:,} is usable{why and ': '}{why}"
        if split == "train" and not usable:
            first = self.datasets(split)[0]
            raise UserError(
                f"there is no row to train on (the first dataset: {first}, {left_out[first]})."
            )
        own = {name: self._part(name).rate for name in usable}
        own = {name: rate for name, rate in own.items() if rate is not None}
        rates = self.trained.rates.of(usable, own)
        self._members[split] = [Member(name, rows, rates[name]) for name, rows in usable.items()]
        return self._members[split]

    def card(self, members: list[Member]) -> list[CardRow]:
        """Returns the mixture card: rates r_m (`Rates`), shares r_m / sum r."""
        total = sum(m.rate for m in members)
        return [
            CardRow(m.name, *self._described(m.name), m.rows, m.rate, m.rate / total)
            for m in members
        ]

    def _described(self, name: str) -> tuple[str, int, int | None]:
        """Cluster, number of templates and cap of what trains; what is a user's has no cap."""
        if name in self.trained.own:
            return self.dataset(name).cluster, 0, None
        if name in CATALOGUE:
            dataset = self.dataset(name)
            return dataset.cluster, len(dataset.templates), dataset.train_cap
        dataset_name = dataset_of(name)
        return "SeqIO", 0, CATALOGUE[dataset_name].train_cap if dataset_name else None

    # The plan and the batches.

    def plan(self, split: str = "train") -> Plan | None:
        """Returns the packing plan, from the cache or made now; None if it has no rows.

        Raises:
          MissingEpochs: if it needs shards that are not built.
        """
        if split in self._plans:
            return self._plans[split]
        members = self.members(split)
        if not members or not self._plan_rows(split):
            return None
        path = self._plan_path(split)
        plan = Plan.load(path)
        if plan is None:
            plan = self._make_plan(members, split)
            plan.save(path)
        else:
            epochs = [(members[m].name, epoch) for m, epoch in plan.epochs()]
            missing = self._not_built(epochs, split)
            if missing:
                raise MissingEpochs(set(missing))
        self._plans[split] = plan
        return plan

    def _make_plan(self, members: list[Member], split: str) -> Plan:
        lengths, capacity = functools.partial(self._lengths, split), self._layout.capacity
        seed, rows = self._config.seed, self._plan_rows(split)
        if split != "train":
            return plan_once(members, lengths, capacity, seed, rows)
        # One planner for all attempts: it keeps the windows that it packed before a shard lacked.
        if self._planner is None:
            self._planner = Planner(
                members, lengths, capacity, seed, self._config.pack, self._has_epoch
            )
        return self._planner.plan(rows)

    def _plan_rows(self, split: str) -> int:
        config = self._config
        steps = config.train_steps if split == "train" else config.validation_batches
        return steps * config.batch_size

    def _plan_path(self, split: str) -> pathlib.Path:
        """Where the plan of a run lies; first epochs must be in the cache."""
        members = self.members(split)
        key = digest(
            [
                packing.FORMAT,
                split,
                [dataclasses.asdict(m) for m in members],
                self._layout.capacity,
                self._config.seed,
                self._plan_rows(split),
                self._config.pack,
                [self.shard_key(m.name, 0, split) for m in members],
            ]
        )
        return self._cache.directory / "plans" / f"{key[:16]}.npz"

    def plans_in_use(self) -> set[pathlib.Path]:
        """Returns the paths of the plans that a run with these settings reads.

        Those whose first epochs are not in the cache cannot be named and are left out.
        """
        return {
            self._plan_path(split) for split in ("train", "validation") if not self.missing(split)
        }

    def batches(self, split: str = "train") -> Batches | None:
        """Returns the batches of the run; None if there are none.

        Raises:
          MissingEpochs: if they need shards that are not built.
        """
        plan = self.plan(split)
        if plan is None:
            return None
        open_shard = functools.partial(self.open_shard, split=split)
        return Batches(plan, self.members(split), open_shard, self._layout, self._config.batch_size)

    def _lengths(self, split: str, name: str, epoch: int) -> np.ndarray | None:
        shard = self.open_shard(name, epoch, split)
        return None if shard is None else self._layout.sizes(shard)

    def _has_epoch(self, name: str, epoch: int) -> bool:
        return self._cache.packs.find(self.shard_key(name, epoch)) is not None
