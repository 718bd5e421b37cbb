"""What the SeqIO tasks of the catalogue are made of: rows, vocabulary and rendering."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import gin

from flan_jax.catalogue.relations import RULES
from flan_jax.catalogue.render import INSTRUCTIONS, STYLES
from flan_jax.config.checks import check_choice, check_fields
from flan_jax.data.sources.base import Source
from flan_jax.data.sources.kinds import KINDS, open_source
from flan_jax.data.vocabulary import Vocabulary, load_vocabulary
from flan_jax.storage.paths import local_path

if TYPE_CHECKING:
    import seqio


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SeqioTasks:
    """What the tasks are made of; bind it in gin, or call `configure`.

    Attributes:
      source, data_dir: 'tfds', 'hf', 'jsonl' or 'bundled', and where it reads.
      vocabulary, architecture: 'bytes', a SentencePiece file, or a tokenizer.json, and the model
        that reads it: 't5', 'decoder' or None; see `vocabulary.load_vocabulary`.
      options_style, instructions: see `render.render`.
      seed: decides template choice, shuffled options and exemplars.
      shots: exemplars before each row, as many as fit in the input.
      related, commercial_only: what trains in the mixtures `flan_heldout_...`; see
        `mixture.held_out_split`.
    """

    source: str = "bundled"
    data_dir: str | None = None
    vocabulary: str = "bytes"
    options_style: str = "fixed"
    instructions: str = "template"
    seed: int = 0
    shots: int = 0
    architecture: str | None = None
    related: str = "text"
    commercial_only: bool = False

    def __post_init__(self):
        check_fields(self, "SeqioTasks", {"seed": (0, 2**32), "shots": (0, 1025)})
        for name, known in (
            ("options_style", STYLES),
            ("instructions", INSTRUCTIONS),
            ("source", KINDS),
            ("related", RULES),
        ):
            check_choice(f"SeqioTasks.{name}", getattr(self, name), known)
        for name in ("data_dir", "vocabulary"):
            if getattr(self, name) is not None:
                local_path(getattr(self, name), f"SeqioTasks.{name}")

    @functools.cached_property
    def opened_source(self) -> Source:
        """Where rows are read."""
        return open_source(self.source, self.data_dir)

    @functools.cached_property
    def loaded_vocabulary(self) -> Vocabulary:
        """What makes tokens of them."""
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
