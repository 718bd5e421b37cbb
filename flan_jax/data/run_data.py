"""The data of a run, opened from its settings: what trains, what is evaluated, what is missing."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import NamedTuple

from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.catalogue.splits import Split, held_out_split
from flan_jax.data.availability import Availability
from flan_jax.data.cache import TokenCache
from flan_jax.data.chat.chat_vocabulary import ChatVocabulary
from flan_jax.data.config import DataConfig
from flan_jax.data.contamination.filter import HeldOutFilter
from flan_jax.data.encode import Rendering
from flan_jax.data.eval_data import EvalData, Protocol
from flan_jax.data.layout import Layout, make_layout
from flan_jax.data.packing import MissingEpochs
from flan_jax.data.packs import Shard
from flan_jax.data.sources.base import Source
from flan_jax.data.sources.kinds import open_source
from flan_jax.data.train_data import TrainData
from flan_jax.data.train_names import resolve_train_names
from flan_jax.data.user_modules import import_module
from flan_jax.data.vocabulary import Vocabulary, load_vocabulary, padded_size


@dataclasses.dataclass(frozen=True)
class RunData:
    """The data of one configuration, opened; see `open_data`.

    Attributes:
      config: the settings.
      vocabulary: text to token ids and back.
      layout: how examples lie in a packed row.
      source: where rows are read.
      split: the training side and the held-out side of the catalogue under these settings.
      cache: the token cache of this rendering.
      train: the training side.
      eval: the held-out side.
      left_out: name -> why it neither trains nor is evaluated although the settings name it; grows
        as names are looked up.
    """

    config: DataConfig
    vocabulary: Vocabulary
    layout: Layout
    source: Source
    split: Split
    cache: TokenCache
    train: TrainData
    eval: EvalData
    left_out: dict[str, str]

    @property
    def directory(self) -> pathlib.Path:
        """Where the token cache lies."""
        return self.cache.directory

    @property
    def is_chat(self) -> bool:
        """Whether what a model reads goes through a chat template."""
        return isinstance(self.vocabulary, ChatVocabulary)

    def undownloaded(self) -> list[str]:
        """Returns what trains or is evaluated and that the source can download but has not yet."""
        names = dict.fromkeys([*self.train.candidates(), *self.eval.names])
        return [name for name in names if self.source.downloadable(CATALOGUE[name])]

    def missing(self, only: str | None = None) -> list[Job]:
        """Returns the shards that a run needs and the cache lacks; empty if everything is there.

        Which epochs a plan needs is known only when the first epochs are there: when these have
        been built, there may be more. What a cache in a bucket has is copied first.

        Args:
          only: 'eval' for what an evaluation of a checkpoint needs.
        """
        jobs = self._missing(only)
        while jobs and self.cache.fetch([job.key(self) for job in jobs]):
            jobs = self._missing(only)
        return jobs

    def _missing(self, only: str | None) -> list[Job]:
        if only == "eval":
            return self.missing_eval([self.eval.eval_protocol])
        jobs: list[Job] = []
        for split in ("train", "validation"):
            try:
                self.train.plan(split)
            except MissingEpochs as error:
                jobs += train_jobs(split, error)
                break  # the plan of the other split is worth nothing without this one
        return jobs + self.missing_eval()

    def missing_eval(self, protocols: list[Protocol] | None = None) -> list[Job]:
        """Returns the held-out shards that the cache lacks.

        Args:
          protocols: None for those of a whole run.
        """
        return [
            EvalJob(dataset.name, template.id, protocol)
            for dataset, template, protocol in self.eval.missing(protocols)
        ]


class TrainJob(NamedTuple):
    """A shard of training examples to render: the rows of a dataset in one epoch."""

    split: str
    name: str
    epoch: int

    def key(self, data: RunData) -> str:
        """Returns the key of the shard."""
        return data.train.shard_key(self.name, self.epoch, self.split)

    def render(self, data: RunData) -> Shard:
        """Renders the shard."""
        return data.train.render_shard(self.name, self.epoch, self.split)


class EvalJob(NamedTuple):
    """A shard of held-out rows to render: a dataset in one template under a protocol."""

    name: str
    template: str
    protocol: Protocol

    def key(self, data: RunData) -> str:
        """Returns the key of the shard."""
        dataset = CATALOGUE[self.name]
        return data.eval.key(dataset, dataset.template(self.template), self.protocol)

    def render(self, data: RunData) -> Shard:
        """Renders the shard."""
        dataset = CATALOGUE[self.name]
        return data.eval.render(dataset, dataset.template(self.template), self.protocol)


Job = TrainJob | EvalJob


def train_jobs(split: str, error: MissingEpochs) -> list[Job]:
    """Returns the jobs that build what a plan of a split lacks."""
    return [TrainJob(split, name, epoch) for name, epoch in sorted(error.wanted)]


def open_data(config: DataConfig, embedding_rows: int | None = None) -> RunData:
    """Opens the data of a run. Reads no rows, except those whose digests are part of cache keys.

    Args:
      config: the settings.
      embedding_rows: of the model, after which the ids of a prompt begin; None: as many as the
        vocabulary needs.

    Raises:
      UserError: for settings that contradict each other, the catalogue or the files they name.
    """
    import flan_jax.tasks  # noqa: F401  (fills the catalogue; not before --help)

    if config.mixture_or_task_module is not None:
        import_module(config.mixture_or_task_module)
    vocabulary = load_vocabulary(config.vocabulary, config.architecture, config.chat_template)
    is_decoder = config.architecture == "decoder"
    first_id = vocabulary.bos_id if is_decoder else config.decoder_start_id
    rows = embedding_rows or padded_size(vocabulary)
    prompt = range(rows, rows + config.prompt_length)
    layout = make_layout(config.architecture, *config.lengths(), first_id, prompt)
    source = open_source(config.source, config.data_dir)
    rendering, bucket = _rendering(config), config.cache_bucket()
    cache = TokenCache(config.cache_directory(), source, vocabulary, rendering, bucket)
    split = held_out_split(
        CATALOGUE,
        config.held_out,
        config.train_clusters,
        config.datasets_per_cluster,
        config.related,
        config.train_datasets,
        config.commercial_only,
    )
    trained = resolve_train_names(config, split, cache)
    others = {*trained.seqio_tasks, *trained.own}
    availability = Availability(config, source, trained.names, others)
    evaluated = EvalData(config, _eval_cache(config, cache), split, availability)
    if config.decontaminate:
        datasets = [CATALOGUE[name] for name in evaluated.datasets()]
        cache.held_out_filter = HeldOutFilter(datasets, source, config.eval_split)
    train = TrainData(config, cache, layout, trained, availability)
    return RunData(
        config,
        vocabulary,
        layout,
        source,
        split,
        cache,
        train,
        evaluated,
        availability.left_out,
    )


def _eval_cache(config: DataConfig, cache: TokenCache) -> TokenCache:
    """The cache of rows that are evaluated: that of training rows, unless their style is mixed."""
    style, shots = config.eval_options_style, config.eval_shots
    rendering = dataclasses.replace(cache.rendering, options_style=style, shots=shots)
    return cache if rendering == cache.rendering else cache.beside(cache.source, rendering)


def _rendering(config: DataConfig) -> Rendering:
    return Rendering(
        *config.example_lengths(),
        config.options_style,
        config.instructions,
        config.seed,
        config.shots,
        config.loss_on,
    )
