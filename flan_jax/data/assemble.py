"""From a configuration to data: who trains, what the cache lacks, the plan, the batches, the
held-out rows.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.catalogue.mixture_card import CardRow
from flan_jax.catalogue.records import RATE_CAP, Dataset, Template, in_words
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.catalogue.splits import Split, held_out_split
from flan_jax.data import packing
from flan_jax.data.batches import Batches
from flan_jax.data.cache import EvalExamples, TokenCache, TrainShard, lost_of
from flan_jax.data.config import DataConfig
from flan_jax.data.contamination.filter import HeldOutFilter
from flan_jax.data.encode import Rendering
from flan_jax.data.layout import make_layout
from flan_jax.data.packing import Member, MissingEpochs, Plan, Planner, plan_once
from flan_jax.data.packs import Shard
from flan_jax.data.seqio.recipes import mixture_recipes, task_recipes
from flan_jax.data.sources.base import counts_once, unavailable
from flan_jax.data.sources.kinds import open_source
from flan_jax.data.user_modules import import_module
from flan_jax.data.vocabulary import load_vocabulary
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest, shown
from flan_jax.storage.hashing import digest


class Protocol(NamedTuple):
    """How held-out rows are asked: the instruction mode (see `render.render`), and at most how many
    of a dataset.
    """

    instructions: str
    max_rows: int | None


class Data:
    """The data of one configuration. Opens what the cache holds; `flan_jax.prepare` builds what it
    lacks.
    """

    def __init__(self, config: DataConfig):
        import flan_jax.tasks  # noqa: F401  (fills the catalogue)

        if config.mixture_or_task_module is not None:
            import_module(config.mixture_or_task_module)
        self.config = config
        source_length, target_length = config.lengths()
        self.vocabulary = load_vocabulary(config.vocabulary, config.architecture)
        first = (
            self.vocabulary.bos_id if config.architecture == "decoder" else config.decoder_start_id
        )
        self.layout = make_layout(config.architecture, source_length, target_length, first)
        self.source = open_source(config.source, config.data_dir)
        rendering = Rendering(
            source_length,
            target_length,
            config.options_style,
            config.instructions,
            config.seed,
            config.shots,
        )
        self.directory = config.cache_directory()
        self.cache = TokenCache(self.directory, self.source, self.vocabulary, rendering)
        self._eval_caches = {config.instructions: self.cache}
        self.split: Split = held_out_split(
            CATALOGUE,
            config.held_out,
            config.train_clusters,
            config.datasets_per_cluster,
            config.related,
            config.train_datasets,
            config.commercial_only,
        )
        self.seqio_tasks: dict[str, Any] = {}
        self._train_names = self._resolve()
        self.left_out: dict[str, str] = {}
        self._members: dict[str, list[Member]] = {}
        self._training_datasets: dict[str, Dataset] = {}
        self._plans: dict[str, Plan] = {}
        self._planner: Planner | None = None
        if config.decontaminate:
            held_out = [CATALOGUE[name] for name in self.eval_datasets()]
            self.cache.held_out_filter = HeldOutFilter(held_out, self.source, config.eval_split)

    def _resolve(self) -> list[str]:
        name = self.config.mixture_or_task_name
        if name is None:
            return self.split.train
        names = _own_datasets(name, self.config.related, self.config.commercial_only)
        if names is None:
            self._check_may_be_registered(name)
            from flan_jax.data.seqio import shards as seqio_shards

            self.seqio_tasks = seqio_shards.resolve(name, self.cache)
            names = list(self.seqio_tasks)
            ignored = {
                "DECONTAMINATE": self.config.decontaminate,
                "TEMPLATES": self.config.templates,
                "COMMERCIAL_ONLY": self.config.commercial_only,
            }
            setting = next((setting for setting, value in ignored.items() if value), None)
            if setting is not None:
                raise UserError(
                    f"{setting} does nothing to SeqIO task {names[0]!r}, whose own code makes its "
                    f"rows; leave {setting} out, or train on datasets of the catalogue."
                )
        self._check_licences(names)
        self.split.check(CATALOGUE, [d for d in map(_dataset_of, names) if d is not None])
        return names

    def _check_licences(self, names: Iterable[str]) -> None:
        for dataset in (CATALOGUE[name] for name in names if name in CATALOGUE):
            if self.config.commercial_only and not dataset.commercial:
                raise UserError(
                    f"COMMERCIAL_ONLY is True, and commercial use of {dataset.name} is "
                    f"{in_words(dataset.commercial)!r} (licence {dataset.licence}); train on "
                    f"another one."
                )

    def _check_may_be_registered(self, name: str) -> None:
        """Raises a UserError, before SeqIO and TensorFlow are imported for it, if nothing can have
        this name.
        """
        if name in CLUSTERS:
            raise UserError(
                f"MIXTURE_OR_TASK_NAME is one dataset, SeqIO task or mixture, and {name!r} is a "
                "cluster; `flan-jax tasks list` shows its datasets."
            )
        ours = [*task_recipes(), *mixture_recipes()]
        if name in ours or self.config.mixture_or_task_module is not None or "seqio" in sys.modules:
            return
        near = nearest(name, [*(dataset.name for dataset in CATALOGUE), *ours])
        hint = did_you_mean(
            near, "; a task of your own needs MIXTURE_OR_TASK_MODULE, the module that registers it."
        )
        raise UserError(
            f"MIXTURE_OR_TASK_NAME {shown(repr(name))} is not a dataset of the catalogue "
            f"(`flan-jax tasks list`), nor a registered SeqIO task or mixture{hint}"
        )

    @property
    def evaluated(self) -> list[str]:
        """Names of what is to be evaluated, available or not.

        Raises:
          UserError: if EVAL_DATASETS names a dataset that there is not.
        """
        names = self.config.eval_datasets
        return (
            self.split.eval
            if names is None
            else [CATALOGUE[name].name for name in names.split("+")]
        )

    def unchecked(self) -> list[str]:
        """SeqIO tasks of somebody else, of which nobody can say whether they overlap with what is
        held out.
        """
        return [name for name in self.seqio_tasks if _dataset_of(name) is None]

    def undownloaded(self) -> list[str]:
        """What trains or is held out and does not lie on disk, though the source could download
        it.
        """
        return [
            name
            for name in dict.fromkeys([*self.candidates(), *self.evaluated])
            if self.source.downloadable(CATALOGUE[name])
        ]

    def candidates(self) -> list[str]:
        """Datasets of the catalogue that would train if they were available."""
        return in_catalogue(self._train_names)

    def train_datasets(self) -> list[str]:
        """Names of what trains and is available; the rest is noted in `left_out`.

        Raises:
          UserError: under `strict` if something is not available; always if nothing is.
        """
        names = self._available(self._train_names, "train")
        if not names:
            first = self._train_names[0]
            raise UserError(
                f"none of the {len(self._train_names)} training datasets is available from "
                f"DATA_SOURCE={self.config.source} (the first: {first} {self.left_out[first]})."
            )
        return names

    def eval_datasets(self) -> list[str]:
        """Names of what is evaluated and available; the rest is noted in `left_out`."""
        names = self._available(self.evaluated, self.config.eval_split)
        if self.evaluated and not names:
            first = self.evaluated[0]
            what = (
                "dataset of EVAL_DATASETS"
                if self.config.eval_datasets
                else f"dataset of the held-out cluster {self.config.held_out}"
            )
            raise UserError(
                f"no {what} is available from DATA_SOURCE={self.config.source} (the first: {first} "
                f"{self.left_out[first]}); provide one or choose another EVAL_SPLIT; HELD_OUT=none "
                "trains without a zero-shot evaluation."
            )
        return names

    def _available(self, names: Iterable[str], split: str) -> list[str]:
        """Those of `names` that have the split here; the rest is noted in `left_out`."""
        reasons = {name: self._unavailable(name, split) for name in names}
        self.left_out |= {name: reason for name, reason in reasons.items() if reason is not None}
        return [name for name, reason in reasons.items() if reason is None]

    def _unavailable(self, name: str, split: str) -> str | None:
        if name in self.seqio_tasks:
            return None
        dataset = CATALOGUE[name]
        if split == "train" and (
            reason := counts_once(CATALOGUE, dataset, self._train_names, self.source)
        ):
            return reason
        reason = unavailable(self.source, dataset, split, self.config.shots)
        if reason is not None and self.config.strict:
            raise UserError(
                f"{name} {reason}, and STRICT_DATA is True; provide it, or set STRICT_DATA=False."
            )
        return reason

    def training_dataset(self, name: str) -> Dataset:
        """A dataset of the catalogue with the templates that it trains with."""
        if name not in self._training_datasets:
            dataset = CATALOGUE[name]
            templates = dataset.first_templates(self.config.templates)
            self._training_datasets[name] = dataclasses.replace(dataset, templates=templates)
        return self._training_datasets[name]

    # Training side. `split` is 'train', or 'validation' for the loss that chooses the best
    # checkpoint.

    def shard_key(self, name: str, epoch: int, split: str = "train") -> str:
        """The key of the shard with the examples of (dataset, epoch); it stands for its
        contents.
        """
        if name in self.seqio_tasks:
            return self.seqio_tasks[name].key(epoch)
        return self.cache.train_key(self.training_dataset(name), epoch, split)

    def open_shard(self, name: str, epoch: int, split: str = "train") -> TrainShard | None:
        """The examples of (dataset, epoch); None if they are not in the cache."""
        if name in self.seqio_tasks:
            return self.seqio_tasks[name].open(epoch)
        return self.cache.open_train(self.training_dataset(name), epoch, split)

    def render_shard(self, name: str, epoch: int, split: str = "train") -> Shard:
        """Renders the shard with the examples of (dataset, epoch)."""
        if name in self.seqio_tasks:
            return self.seqio_tasks[name].render(epoch)
        return self.cache.render_train(self.training_dataset(name), epoch, split)

    def build_shard(self, name: str, epoch: int, split: str = "train") -> str:
        """Renders and keeps the shard with the examples of (dataset, epoch), unless it is there;
        returns its key.
        """
        shard = self.cache.packs.find(self.shard_key(name, epoch, split))
        return (
            self.cache.keep(self.render_shard(name, epoch, split)) if shard is None else shard.key
        )

    def counts(self, name: str, split: str = "train") -> dict[str, int]:
        """What was counted over the first epoch: 'rows', 'rows read', and what was dropped and
        cut.
        """
        return self.cache.packs.find(self.shard_key(name, 0, split)).meta["counts"]

    def names(self, split: str = "train") -> list[str]:
        """What trains; for 'validation' those of them that have such a split here."""
        names = self.train_datasets()
        if split == "train":
            return names
        return [
            n
            for n in names
            if n in CATALOGUE and self.source.available(CATALOGUE[n], split) is None
        ]

    def missing(self, split: str = "train") -> list[tuple[str, int]]:
        """(dataset, 0) of each training dataset whose first epoch is not in the cache."""
        return self._not_built([(n, 0) for n in self.names(split)], split)

    def _not_built(self, wanted: list[tuple[str, int]], split: str) -> list[tuple[str, int]]:
        self.cache.packs.refresh()
        whole = self.cache.packs.are_whole([self.shard_key(*pair, split) for pair in wanted])
        return [pair for pair, there in zip(wanted, whole) if not there]

    def members(self, split: str = "train") -> list[Member]:
        """The mixture; datasets of which no row is usable are left out.

        Raises:
          MissingEpochs: if a first epoch is not built.
          UserError: if no training row is usable.
        """
        if split in self._members:
            return self._members[split]
        missing = self.missing(split)
        if missing:
            raise MissingEpochs(set(missing))
        members = []
        for name in self.names(split):
            counts = self.counts(name, split)
            rows = counts["rows"]
            if rows:
                rate = getattr(self.seqio_tasks.get(name), "rate", None)
                members.append(Member(name, rows, min(rows, RATE_CAP) if rate is None else rate))
            elif split == "train":
                why = ", ".join(f"{n:,} {text}" for text, n in lost_of(counts).items())
                self.left_out[name] = (
                    f"no row of {counts['rows read']:,} is usable{why and ': '}{why}"
                )
        if split == "train" and not members:
            first = self.names(split)[0]
            raise UserError(
                f"there is no row to train on (the first dataset: {first}, {self.left_out[first]})."
            )
        self._members[split] = members
        return members

    def card(self, members: list[Member]) -> list[CardRow]:
        """The mixture card of the members: rates r_m = min(rows e_m, 3,000), shares r_m / sum r."""
        total = sum(m.rate for m in members)
        return [
            CardRow(m.name, *self._described(m.name), m.rows, m.rate, m.rate / total)
            for m in members
        ]

    def _described(self, name: str) -> tuple[str, int, int | None]:
        """Cluster, templates and cap of what trains; somebody's SeqIO task has none of them."""
        if name in CATALOGUE:
            dataset = self.training_dataset(name)
            return dataset.cluster, len(dataset.templates), dataset.train_cap
        ours = _dataset_of(name)
        return "SeqIO", 0, CATALOGUE[ours].train_cap if ours else None

    def plan(self, split: str = "train") -> Plan | None:
        """The packing plan of the run, from the cache or made now; None if it has no rows.

        Raises:
          MissingEpochs: if it needs shards that are not built.
        """
        if split in self._plans:
            return self._plans[split]
        members = self.members(split)
        rows = self._rows_of_plan(split)
        if not members or not rows:
            return None
        capacity, path = self.layout.capacity, self._plan_path(split)
        plan = Plan.load(path)
        if plan is not None:
            absent = self._not_built(
                [(members[m].name, epoch) for m, epoch in plan.epochs()], split
            )
            if absent:
                raise MissingEpochs(set(absent))
            self._plans[split] = plan
            return plan
        lengths = functools.partial(self._lengths, split)
        if split == "train":
            if self._planner is None:
                self._planner = Planner(
                    members, lengths, capacity, self.config.seed, self.config.pack, self._has_epoch
                )
            plan = self._planner.plan(rows)
        else:
            plan = plan_once(members, lengths, capacity, self.config.seed, rows)
        plan.save(path)
        self._plans[split] = plan
        return plan

    def _rows_of_plan(self, split: str) -> int:
        steps = self.config.train_steps if split == "train" else self.config.validation_batches
        return steps * self.config.batch_size

    def _plan_path(self, split: str) -> pathlib.Path:
        """Where the plan of a run lies; first epochs must be there."""
        members = self.members(split)
        shards = [self.shard_key(m.name, 0, split) for m in members]
        key = digest(
            [
                packing.FORMAT,
                split,
                [dataclasses.asdict(m) for m in members],
                self.layout.capacity,
                self.config.seed,
                self._rows_of_plan(split),
                self.config.pack,
                shards,
            ]
        )
        return self.directory / "plans" / f"{key[:16]}.npz"

    def plans_in_use(self) -> set[pathlib.Path]:
        """Where the plans lie that a run with this configuration reads, if its first epochs are
        there.
        """
        return {
            self._plan_path(split) for split in ("train", "validation") if not self.missing(split)
        }

    def keys_in_use(self) -> set[str]:
        """The keys of the shards that a run with this configuration reads, as far as they are in
        the cache.
        """
        keys = {self.eval_key(*job) for job in self._eval_wanted(None)}
        for split in ("train", "validation"):
            keys |= {self.shard_key(name, 0, split) for name in self.names(split)}
            plan = None if self.missing(split) else Plan.load(self._plan_path(split))
            if plan is not None:
                members = self.members(split)
                keys |= {
                    self.shard_key(members[m].name, epoch, split) for m, epoch in plan.epochs()
                }
        return keys

    def batches(self, split: str = "train") -> Batches | None:
        """The batches of the run; None if there are none."""
        plan = self.plan(split)
        if plan is None:
            return None
        return Batches(
            plan,
            self.members(split),
            functools.partial(self.open_shard, split=split),
            self.layout,
            self.config.batch_size,
        )

    def _lengths(self, split: str, name: str, epoch: int) -> np.ndarray | None:
        shard = self.open_shard(name, epoch, split)
        return None if shard is None else self.layout.sizes(shard)

    def _has_epoch(self, name: str, epoch: int) -> bool:
        return self.cache.packs.find(self.shard_key(name, epoch)) is not None

    # Held-out side.

    @property
    def asked(self) -> Protocol:
        """How a checkpoint is asked, unless another protocol is given."""
        return Protocol(self.config.instructions, self.config.eval_max_rows)

    @property
    def asked_untuned(self) -> Protocol:
        """How a run asks the model before tuning."""
        return self.asked._replace(
            instructions=self.config.untuned_instructions or self.config.instructions
        )

    @property
    def asked_while_training(self) -> Protocol:
        """How a run asks every EVAL_EVERY steps."""
        rows = self.config.eval_every_rows
        return self.asked._replace(max_rows=min(rows, self.config.eval_max_rows or rows))

    def eval_jobs(self, asked: Protocol | None = None) -> list[tuple[Dataset, Template]]:
        """Every available dataset that is evaluated, with each of the templates that EVAL_TEMPLATES
        allows.

        Without natural-language instructions all templates read the same: there is one then, the
        first. A dataset without any of the ids that EVAL_TEMPLATES names is noted in `left_out`.

        Raises:
          UserError: if EVAL_TEMPLATES names an id that no dataset has.
        """
        instructions, names = (asked or self.asked).instructions, self.eval_datasets()
        jobs = {name: self._eval_templates(CATALOGUE[name], instructions) for name in names}
        if isinstance(self.config.eval_templates, str):
            known = {template.id for name in names for template in _evaluable(CATALOGUE[name])}
            unknown = [
                wanted for wanted in self.config.eval_templates.split("+") if wanted not in known
            ]
            if names and unknown:
                near = did_you_mean(
                    nearest(unknown[0], sorted(known)), f"; there are {', '.join(sorted(known))}."
                )
                raise UserError(
                    f"EVAL_TEMPLATES: what is evaluated has no template {unknown[0]!r}{near}"
                )
        self.left_out |= {
            name: "none of EVAL_TEMPLATES" for name, templates in jobs.items() if not templates
        }
        return [
            (CATALOGUE[name], template)
            for name, templates in jobs.items()
            for template in templates
        ]

    def _eval_templates(self, dataset: Dataset, instructions: str) -> tuple[Template, ...]:
        """Forward templates, then the inverted ones that are evaluated as a task of their own."""
        if instructions == "baseline":
            return dataset.forward()[:1] + dataset.inverted()[:1]
        if instructions != "template":
            return dataset.forward()[:1]
        wanted = self.config.eval_templates
        if not isinstance(wanted, str):
            return dataset.forward()[:wanted] + dataset.inverted()[:wanted]
        return tuple(
            template for template in _evaluable(dataset) if template.id in wanted.split("+")
        )

    def eval_examples(
        self, dataset: Dataset, template: Template, asked: Protocol | None = None
    ) -> EvalExamples | None:
        """The rows of a held-out dataset in a template; None if they are not in the cache."""
        cache, *which = self._eval_shard(dataset, template, asked)
        return cache.eval_examples(*which)

    def eval_key(self, dataset: Dataset, template: Template, asked: Protocol | None = None) -> str:
        """The key of the shard of a held-out dataset in a template; it stands for its contents."""
        cache, *which = self._eval_shard(dataset, template, asked)
        return cache.eval_key(*which)

    def eval_counts(
        self, dataset: Dataset, template: Template, asked: Protocol | None = None
    ) -> dict[str, int]:
        """What was counted when a shard that is there was made: 'rows', 'rows read', and what was
        dropped and cut.
        """
        return self.cache.packs.find(self.eval_key(dataset, template, asked)).meta["counts"]

    def render_eval(
        self, dataset: Dataset, template: Template, asked: Protocol | None = None
    ) -> Shard:
        """Renders the rows of a held-out dataset in a template."""
        cache, *which = self._eval_shard(dataset, template, asked)
        return cache.render_eval(*which)

    def build_eval(
        self, dataset: Dataset, template: Template, asked: Protocol | None = None
    ) -> str:
        """Puts the rows of a held-out dataset in a template into the cache; returns the key of
        their shard.
        """
        cache, *which = self._eval_shard(dataset, template, asked)
        return cache.build_eval(*which)

    def _eval_shard(self, dataset: Dataset, template: Template, asked: Protocol | None) -> tuple:
        """The cache that holds a shard, and what it is called with there."""
        asked = asked or self.asked
        if asked.instructions not in self._eval_caches:
            rendering = dataclasses.replace(self.cache.rendering, instructions=asked.instructions)
            cache = TokenCache(self.directory, self.source, self.vocabulary, rendering)
            cache.packs = self.cache.packs
            self._eval_caches[asked.instructions] = cache
        return (
            self._eval_caches[asked.instructions],
            dataset,
            self.config.eval_split,
            template,
            asked.max_rows,
        )

    def ready(self) -> bool:
        """Whether the cache holds everything the run needs."""
        try:
            self.plan("train")
            self.plan("validation")
        except MissingEpochs:
            return False
        return not self.eval_missing()

    def eval_ready(self) -> bool:
        """Whether the cache holds every held-out dataset in every template, as a checkpoint is
        asked.
        """
        return not self.eval_missing([self.asked])

    def eval_missing(
        self, protocols: Iterable[Protocol] | None = None
    ) -> list[tuple[Dataset, Template, Protocol]]:
        """The held-out datasets and templates that are not in the cache, for these protocols or all
        those of a run.
        """
        wanted = self._eval_wanted(protocols)
        whole = self.cache.packs.are_whole([self.eval_key(*job) for job in wanted])
        return [job for job, there in zip(wanted, whole) if not there]

    def _eval_wanted(
        self, protocols: Iterable[Protocol] | None
    ) -> list[tuple[Dataset, Template, Protocol]]:
        if protocols is None:
            on_the_way = [self.asked_while_training] if self.config.eval_every else []
            protocols = dict.fromkeys([self.asked, self.asked_untuned, *on_the_way])
        return [
            (dataset, template, asked)
            for asked in protocols
            for dataset, template in self.eval_jobs(asked)
        ]


def in_catalogue(names: Iterable[str]) -> list[str]:
    """The datasets of the catalogue that train under these names, each once; without SeqIO tasks of
    others.
    """
    return [name for name in dict.fromkeys(map(_dataset_of, names)) if name is not None]


def _dataset_of(name: str) -> str | None:
    """The dataset of the catalogue whose rows train under a name: its own or one of ours in SeqIO;
    else None.
    """
    if name in CATALOGUE:
        return name
    task = task_recipes().get(name)
    return task.dataset if task is not None else None


def _own_datasets(name: str, related: str, commercial_only: bool) -> list[str] | None:
    """The datasets of the catalogue that train under a name, also one of our own in SeqIO; None for
    another's name.
    """
    if name in CATALOGUE:
        return [name]
    task, mixture = task_recipes().get(name), mixture_recipes().get(name)
    if task is not None and task.template is None:
        return [task.dataset]
    if mixture is not None and not mixture.evaluated:
        return held_out_split(
            CATALOGUE, mixture.held_out, related=related, commercial_only=commercial_only
        ).train
    return None


def _evaluable(dataset: Dataset) -> tuple[Template, ...]:
    return dataset.forward() + dataset.inverted()
