"""The settings of a run's data; bound in `gin/flan.gin`, each checked when it is set."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import gin

from flan_jax.catalogue.relations import RULES
from flan_jax.catalogue.render import INSTRUCTIONS, STYLES
from flan_jax.config.checks import (
    INT32,
    check_choice,
    check_fields,
    check_number,
    quoted,
    setting_name,
)
from flan_jax.data.cache import DEFAULT_DIRECTORY
from flan_jax.errors import UserError
from flan_jax.storage.paths import local_path

SPLITS = ("train", "validation", "test")

# What numbers may be: (the least, what they must be below).
_BOUNDS = {
    **dict.fromkeys(
        [
            "train_steps",
            "templates",
            "train_clusters",
            "datasets_per_cluster",
            "eval_every",
            "eval_every_rows",
            "eval_max_rows",
        ],
        (1, None),
    ),
    "batch_size": (1, 2**20),
    "validation_batches": (0, 2**20),
    "shots": (0, 1025),
    "seed": (0, 2**32),  # what JAX keeps of a seed
    "decoder_start_id": (0, 2**24),
}
# Most tokens of an example.
_LONGEST = 2**20


@gin.configurable("Data")
@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train on and what to hold out; bound in `gin/flan.gin`.

    Attributes:
      held_out: what is kept for zero-shot evaluation: a cluster, 'none', or another of
        `mixture.HELD_OUT_FORMS`.
      related: what of the datasets related to a held-out one may train: a key of `relations.RULES`.
      commercial_only: train only on datasets with a licence that allows commercial use.
      train_clusters, datasets_per_cluster: train on so many clusters, and datasets of each; see
        `mixture.held_out_split`; None for all.
      train_datasets: train on at most so many datasets, one of each cluster in turn; None for all.
      templates: train with so many templates of each dataset; see `Dataset.first_templates`; None
        for all.
      mixture_or_task_name: what trains instead of the held-out mixture: a configuration of the
        catalogue, or the name of any SeqIO task or mixture; None for the held-out mixture.
      mixture_or_task_module: module ('my_tasks') or file ('my_tasks.py') that registers datasets or
        SeqIO tasks.
      architecture: 't5' or 'decoder': how examples lie in a packed row; see `layouts`.
      source, data_dir: 'tfds', 'hf', 'jsonl' or 'bundled', and where it reads.
      strict: True makes a dataset that is not available an error; False leaves it out with a
        printed line.
      vocabulary: 'bytes', a SentencePiece file, or a tokenizer.json; see
        `vocabulary.load_vocabulary`.
      decoder_start_id: what the decoder of a T5 reads first, Hugging Face's
        `decoder_start_token_id`.
      task_feature_lengths: {'inputs': S, 'targets': T}, most tokens of an example; a packed row
        holds S and T tokens, that of a decoder S + T.
      batch_size: packed rows in a global batch.
      train_steps: steps of the run.
      seed: decides template choice, draws and orders.
      options_style, instructions: see `render.render`.
      shots: exemplars before each row, in training and evaluation, as many as fit in the input.
      decontaminate: leave out training rows that share words with a held-out row; see
        `decontaminate`.
      pack: whether several examples share a row.
      validation_batches: batches of the training datasets' validation splits on which a
        checkpoint's loss is taken.
      eval_datasets: what is evaluated instead of what is held out: names of configurations joined
        by '+'.
      eval_templates: the ids, joined by '+', of the templates that are evaluated where a dataset
        has them, or how many of its forward templates, the first ones; None for all of them.
      eval_split, eval_max_rows: which rows are evaluated; None for all of the split.
      eval_every, eval_every_rows: while training, evaluate every so many steps on so many rows of
        each dataset; None for at the end alone.
      untuned_instructions: the instruction mode in which the untuned model is asked; None for that
        of the tuned one.
      cache_dir: where tokens are kept; None for ~/.cache/flan_jax.
    """

    held_out: str | None = "nli"
    related: str = "text"
    commercial_only: bool = False
    train_clusters: int | None = None
    datasets_per_cluster: int | None = None
    train_datasets: int | None = None
    templates: int | None = None
    mixture_or_task_name: str | None = None
    mixture_or_task_module: str | None = None
    architecture: str = "t5"
    source: str = "bundled"
    data_dir: str | None = None
    strict: bool = False
    vocabulary: str = "bytes"
    decoder_start_id: int = 0
    task_feature_lengths: Any = None
    batch_size: int = 8
    train_steps: int = 300
    seed: int = 0
    options_style: str = "fixed"
    instructions: str = "template"
    shots: int = 0
    decontaminate: bool = False
    pack: bool = True
    validation_batches: int = 8
    eval_datasets: str | None = None
    eval_templates: str | int | None = None
    eval_split: str = "test"
    eval_max_rows: int | None = None
    eval_every: int | None = None
    eval_every_rows: int = 32
    untuned_instructions: str | None = None
    cache_dir: str | None = None

    def cache_directory(self) -> pathlib.Path:
        """Where tokens are kept."""
        return local_path(
            DEFAULT_DIRECTORY if self.cache_dir is None else self.cache_dir, "CACHE_DIR"
        )

    def __post_init__(self):
        check_fields(self, "Data", _BOUNDS)
        for name, choices in (
            ("options_style", STYLES),
            ("instructions", INSTRUCTIONS),
            ("untuned_instructions", INSTRUCTIONS),
            ("eval_split", SPLITS),
            ("related", RULES),
        ):
            check_choice(
                setting_name("Data", name), getattr(self, name), choices, name.startswith("untuned")
            )
        for name in ("cache_dir", "data_dir", "vocabulary", "mixture_or_task_module"):
            if getattr(self, name) is not None:
                local_path(getattr(self, name), setting_name("Data", name))
        if self.source == "bundled" and self.data_dir is not None:
            raise UserError(
                f"{setting_name('Data', 'data_dir')} is not read with DATA_SOURCE=bundled, the "
                "rows that come with the package; set DATA_SOURCE to jsonl, hf or tfds, or leave "
                "it out."
            )
        self._check_rows()
        for name in ("instructions", "untuned_instructions"):
            mode = getattr(self, name)
            if self.options_style == "lettered" and mode in ("none", "dataset_name"):
                raise UserError(
                    "OPTIONS_STYLE=lettered asks for a letter, and "
                    f"{setting_name('Data', name)}={mode} does not show which option has which; "
                    "set one of the two otherwise."
                )
        if not isinstance(self.eval_templates, str | None):
            number = check_number(
                "EVAL_TEMPLATES without ids", self.eval_templates, whole=True, least=1
            )
            object.__setattr__(self, "eval_templates", number)
        self.lengths()

    def _check_rows(self) -> None:
        """Raises a UserError if a run takes more rows than can be counted."""
        for steps, name in (
            (self.train_steps, "TRAIN_STEPS"),
            (self.validation_batches, "Data.validation_batches"),
        ):
            if steps * self.batch_size >= INT32:
                raise UserError(
                    f"{name}={steps:,} and BATCH_SIZE={self.batch_size:,} make "
                    f"{steps * self.batch_size:,} rows, and a run counts fewer than {INT32:,}; "
                    "lower one of them."
                )

    def lengths(self) -> tuple[int, int]:
        """(S, T). Raises a UserError if they are not two positive numbers."""
        lengths = (
            {"inputs": 1024, "targets": 256}
            if self.task_feature_lengths is None
            else self.task_feature_lengths
        )
        if not isinstance(lengths, dict) or set(lengths) != {"inputs", "targets"}:
            raise UserError(
                "TASK_FEATURE_LENGTHS must look like {'inputs': 1024, 'targets': 256}, "
                f"not {quoted(lengths)}."
            )
        inputs, targets = (
            check_number(
                f"{name!r} of TASK_FEATURE_LENGTHS",
                lengths[name],
                whole=True,
                least=2,
                below=_LONGEST,
            )
            for name in ("inputs", "targets")
        )
        return inputs, targets
