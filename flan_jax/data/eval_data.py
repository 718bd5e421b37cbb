"""The held-out side of a run: which datasets, in which templates, under which protocols."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from flan_jax.catalogue.records import Dataset, Template
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.catalogue.splits import Split
from flan_jax.data.availability import Availability
from flan_jax.data.cache import TokenCache
from flan_jax.data.config import DataConfig
from flan_jax.data.packs import Shard
from flan_jax.data.shards import EvalExamples
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest


class Protocol(NamedTuple):
    """How held-out rows are evaluated.

    Attributes:
      instructions: the instruction mode; see `render.render`.
      max_rows: at most so many rows of a dataset; None for all of the split.
    """

    instructions: str
    max_rows: int | None


class EvalData:
    """What a run evaluates. Opens what the cache has; `flan_jax.prepare` builds what it lacks.

    Args:
      config: the data of the run.
      cache: where the tokens of this run's rendering are.
      split: the training side and the held-out side of the catalogue under these settings.
      availability: of the run.
    """

    def __init__(
        self, config: DataConfig, cache: TokenCache, split: Split, availability: Availability
    ):
        self._config, self._split, self._availability = config, split, availability
        self._caches = {config.instructions: cache}

    # Protocols.

    @property
    def eval_protocol(self) -> Protocol:
        """How a checkpoint is evaluated unless another protocol is given."""
        return Protocol(self._config.instructions, self._config.eval_max_rows)

    @property
    def untuned_protocol(self) -> Protocol:
        """How a run evaluates the model before tuning."""
        instructions = self._config.untuned_instructions or self._config.instructions
        return self.eval_protocol._replace(instructions=instructions)

    @property
    def training_protocol(self) -> Protocol:
        """How a run evaluates every EVAL_EVERY steps."""
        rows = self._config.eval_every_rows
        return self.eval_protocol._replace(max_rows=min(rows, self._config.eval_max_rows or rows))

    def protocols(self) -> list[Protocol]:
        """Returns the protocols of a whole run, each once."""
        protocols = [self.eval_protocol, self.untuned_protocol]
        if self._config.eval_every:
            protocols.append(self.training_protocol)
        return list(dict.fromkeys(protocols))

    # Datasets and templates.

    @property
    def names(self) -> list[str]:
        """Names of what is to be evaluated, available or not.

        Raises:
          UserError: if EVAL_DATASETS has a name that is not in the catalogue.
        """
        names = self._config.eval_datasets
        if names is None:
            return self._split.eval
        return [CATALOGUE[name].name for name in names.split("+")]

    def datasets(self) -> list[str]:
        """Returns the names of what is evaluated and available; the rest is noted in `left_out`.

        Raises:
          UserError: if something is to be evaluated and nothing of it is available.
        """
        config = self._config
        names = self._availability.available(self.names, config.eval_split)
        if self.names and not names:
            first = self.names[0]
            what = (
                "dataset of EVAL_DATASETS"
                if config.eval_datasets
                else f"dataset of the held-out cluster {config.held_out}"
            )
            raise UserError(
                f"no {what} is available from DATA_SOURCE={config.source} (the first: {first} "
                f"{self._availability.left_out[first]}); provide one or choose another "
                "EVAL_SPLIT; HELD_OUT=none trains without a zero-shot evaluation."
            )
        return names

    def jobs(self, protocol: Protocol | None = None) -> list[tuple[Dataset, Template]]:
        """Returns every available dataset with each template that EVAL_TEMPLATES allows.

        Without natural-language instructions all templates read the same, and the first one stands
        for all. A dataset without any of the ids that EVAL_TEMPLATES names is noted in `left_out`.

        Args:
          protocol: None for `eval_protocol`.

        Raises:
          UserError: if EVAL_TEMPLATES names an id that no dataset has.
        """
        instructions, names = (protocol or self.eval_protocol).instructions, self.datasets()
        templates_of = {name: self._templates(CATALOGUE[name], instructions) for name in names}
        self._check_template_ids(names)
        self._availability.left_out |= {
            name: "none of EVAL_TEMPLATES"
            for name, templates in templates_of.items()
            if not templates
        }
        return [
            (CATALOGUE[name], template)
            for name, templates in templates_of.items()
            for template in templates
        ]

    def _templates(self, dataset: Dataset, instructions: str) -> tuple[Template, ...]:
        """Forward templates, then the inverted ones that are evaluated as a task of their own."""
        if instructions == "baseline":
            return dataset.forward()[:1] + dataset.inverted()[:1]
        if instructions != "template":
            return dataset.forward()[:1]
        chosen = self._config.eval_templates
        if not isinstance(chosen, str):
            return dataset.forward()[:chosen] + dataset.inverted()[:chosen]
        ids = chosen.split("+")
        return tuple(template for template in _evaluable(dataset) if template.id in ids)

    def _check_template_ids(self, names: list[str]) -> None:
        """Raises a UserError if EVAL_TEMPLATES names an id that none of the datasets has."""
        chosen = self._config.eval_templates
        if not isinstance(chosen, str) or not names:
            return
        known = {template.id for name in names for template in _evaluable(CATALOGUE[name])}
        unknown = [template_id for template_id in chosen.split("+") if template_id not in known]
        if unknown:
            near = did_you_mean(
                nearest(unknown[0], sorted(known)), f"; there are {', '.join(sorted(known))}."
            )
            raise UserError(
                f"EVAL_TEMPLATES: what is evaluated has no template {unknown[0]!r}{near}"
            )

    # Shards: a dataset in a template under a protocol, by default `eval_protocol`.

    def key(self, dataset: Dataset, template: Template, protocol: Protocol | None = None) -> str:
        """Returns the key of a shard, which stands for its contents."""
        protocol = protocol or self.eval_protocol
        return self._cache(protocol).eval_key(
            dataset, self._config.eval_split, template, protocol.max_rows
        )

    def examples(
        self, dataset: Dataset, template: Template, protocol: Protocol | None = None
    ) -> EvalExamples | None:
        """Returns the rows of a shard; None if they are not in the cache."""
        protocol = protocol or self.eval_protocol
        return self._cache(protocol).eval_examples(
            dataset, self._config.eval_split, template, protocol.max_rows
        )

    def render(
        self, dataset: Dataset, template: Template, protocol: Protocol | None = None
    ) -> Shard:
        """Renders a shard."""
        protocol = protocol or self.eval_protocol
        return self._cache(protocol).render_eval(
            dataset, self._config.eval_split, template, protocol.max_rows
        )

    def build(self, dataset: Dataset, template: Template, protocol: Protocol | None = None) -> str:
        """Puts a shard into the cache if it is not there; returns its key."""
        protocol = protocol or self.eval_protocol
        return self._cache(protocol).build_eval(
            dataset, self._config.eval_split, template, protocol.max_rows
        )

    def counts(
        self, dataset: Dataset, template: Template, protocol: Protocol | None = None
    ) -> dict[str, int]:
        """Returns what was counted in a shard: 'rows', 'rows read', dropped, truncated."""
        packs = self._caches[self._config.instructions].packs
        return packs.find(self.key(dataset, template, protocol)).meta["counts"]

    def check_rows(self) -> None:
        """Checks that some dataset has a usable row, if there are any; their rows are in the cache.

        Raises:
          UserError: if there is none.
        """
        # A row is usable in every template or in none.
        one_of_each = {dataset.name: (dataset, template) for dataset, template in self.jobs()}
        if one_of_each and not any(self.counts(*pair)["rows"] for pair in one_of_each.values()):
            raise UserError(
                f"no row of {', '.join(one_of_each)} is usable, so there is nothing to evaluate; "
                "`flan-jax tasks check` shows why. Evaluate other datasets (EVAL_DATASETS)."
            )

    def missing(
        self, protocols: Iterable[Protocol] | None = None
    ) -> list[tuple[Dataset, Template, Protocol]]:
        """Returns the shards that are not in the cache.

        Args:
          protocols: None for those of a whole run.
        """
        jobs = self._jobs_of(self.protocols() if protocols is None else protocols)
        packs = self._caches[self._config.instructions].packs
        are_whole = packs.are_whole([self.key(*job) for job in jobs])
        return [job for job, is_whole in zip(jobs, are_whole) if not is_whole]

    def keys_in_use(self) -> set[str]:
        """Returns the keys of the shards that a run with these settings reads."""
        return {self.key(*job) for job in self._jobs_of(self.protocols())}

    def _jobs_of(self, protocols: Iterable[Protocol]) -> list[tuple[Dataset, Template, Protocol]]:
        return [
            (dataset, template, protocol)
            for protocol in protocols
            for dataset, template in self.jobs(protocol)
        ]

    def _cache(self, protocol: Protocol) -> TokenCache:
        """The cache of a protocol's rendering; all of them share the files."""
        instructions = protocol.instructions
        if instructions not in self._caches:
            first = self._caches[self._config.instructions]
            rendering = dataclasses.replace(first.rendering, instructions=instructions)
            self._caches[instructions] = first.beside(first.source, rendering)
        return self._caches[instructions]


def _evaluable(dataset: Dataset) -> tuple[Template, ...]:
    return dataset.forward() + dataset.inverted()
