"""What the SeqIO tasks of the catalogue are made of: rows, vocabulary and rendering."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import gin

from flan_jax.catalogue.relations import RULES
from flan_jax.catalogue.render import INSTRUCTIONS, STYLES
from flan_jax.config.checks import check_fields
from flan_jax.config.settings import setting
from flan_jax.data.sources.base import Source
from flan_jax.data.sources.kinds import KINDS, open_source
from flan_jax.data.vocabulary import Vocabulary, load_vocabulary

if TYPE_CHECKING:
    import seqio


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SeqioTasks:
    """What the tasks are made of; bind it in gin (gin/t5x/tasks.gin), or call `configure`."""

    source: str = setting(None, "bundled", "where rows come from", choices=KINDS)
    data_dir: str | None = setting(None, None, "where `source` reads", path=True)
    vocabulary: str = setting(
        None,
        "bytes",
        "'bytes', a SentencePiece model or a tokenizer.json",
        path=lambda name: name != "bytes",
    )
    options_style: str = setting(None, "fixed", "how options are shown", choices=STYLES)
    instructions: str = setting(None, "template", "how rows are written", choices=INSTRUCTIONS)
    seed: int = setting(
        None, 0, "decides templates, shuffled options and exemplars", least=0, below=2**32
    )
    shots: int = setting(
        None, 0, "exemplars before each row, as many as fit in the input", least=0, below=1025
    )
    architecture: str | None = setting(
        None, None, "the model that reads the vocabulary: 't5', 'decoder' or None"
    )
    related: str = setting(
        None,
        "text",
        "what of the datasets related to a held-out one trains in `flan_heldout_...`",
        choices=tuple(RULES),
    )
    commercial_only: bool = setting(
        None, False, "True: only datasets with a license that allows commercial use train there"
    )

    def __post_init__(self):
        check_fields(self, "SeqioTasks")

    @functools.cached_property
    def opened_source(self) -> Source:
        """Returns the source of rows."""
        return open_source(self.source, self.data_dir)

    @functools.cached_property
    def loaded_vocabulary(self) -> Vocabulary:
        """Returns the vocabulary."""
        return load_vocabulary(self.vocabulary, self.architecture)


_settings: SeqioTasks | None = None


def settings() -> SeqioTasks:
    """Returns the settings in force: read from gin at the first look-up, kept until replaced."""
    global _settings
    _settings = _settings or SeqioTasks()
    return _settings


def use_settings(values: SeqioTasks) -> None:
    """Replaces the settings in force."""
    global _settings
    _settings = values


def seqio_vocabulary() -> seqio.Vocabulary:
    """Returns the vocabulary of the tasks for a model of stock T5X. Imports TensorFlow."""
    from flan_jax.data.seqio.vocabulary import as_seqio

    return as_seqio(settings().loaded_vocabulary)
