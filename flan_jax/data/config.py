"""The settings of a run's data, each checked when it is set."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import gin

from flan_jax.catalogue.relations import RULES
from flan_jax.catalogue.render import INSTRUCTIONS, MIXED, STYLES
from flan_jax.config.checks import (
    INT32,
    check_choice,
    check_fields,
    check_number,
    quoted,
    setting_name,
)
from flan_jax.config.settings import setting
from flan_jax.data.chat.segments import LOSS_ON
from flan_jax.data.mixture_language import with_paths, without_own
from flan_jax.data.sources.kinds import KINDS
from flan_jax.errors import UserError
from flan_jax.peft.config import PeftConfig
from flan_jax.storage.mirror import DEFAULT_CACHE, Mirror
from flan_jax.storage.places import Place, place
from flan_jax.storage.remote import Remote

SPLITS = ("train", "validation", "test")
# Most tokens of an example.
_LONGEST = 2**20
_LENGTHS = {"inputs": 1024, "targets": 256}


@gin.configurable("Data", denylist=["prompt_length"])
@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train on and what to hold out."""

    held_out: str | None = setting(
        "HELD_OUT",
        "nli",
        "clusters that do not train and are evaluated zero-shot: one, several, 'superglue', ...",
    )
    related: str = setting(
        "RELATED",
        "text",
        "'text': datasets that share text with a held-out one do not train; 'paper': they do",
        choices=tuple(RULES),
    )
    commercial_only: bool = setting(
        "COMMERCIAL_ONLY",
        False,
        "True: only datasets with a license that allows commercial use train",
    )
    train_clusters: int | None = setting(
        "TRAIN_CLUSTERS",
        None,
        "train on the first 1 to 7 clusters in the order of the paper's Figure 6",
        least=1,
    )
    datasets_per_cluster: int | None = setting(
        "DATASETS_PER_CLUSTER",
        None,
        "train on the first 1, 2, 3, 4 ... datasets of each cluster",
        least=1,
    )
    train_datasets: int | None = setting(
        "TRAIN_DATASETS",
        None,
        "train on at most so many datasets (15 in the paper's code), one of each cluster in turn",
        least=1,
    )
    templates: int | None = setting(
        "TEMPLATES",
        None,
        "train with the first 1, 2, 4, 7, 10 ... templates of each dataset; None: all",
        least=1,
    )
    mixture_or_task_name: str | None = setting(
        "MIXTURE_OR_TASK_NAME",
        None,
        "what trains instead of the held-out mixture ('flan'): datasets, files, SeqIO tasks, such "
        "as 'flan+my.jsonl:3000'",
        paths_in=with_paths,
    )
    mixture_or_task_module: str | None = setting(
        "MIXTURE_OR_TASK_MODULE",
        None,
        "module or .py file that registers it",
        path=lambda name: name.endswith(".py"),
    )
    architecture: str = setting(
        "ARCHITECTURE",
        "t5",
        "the model, 't5' or 'decoder'; a file of gin/size sets it",
    )
    source: str = setting(
        "DATA_SOURCE",
        "bundled",
        "where rows come from",
        choices=KINDS,
    )
    data_dir: str | None = setting(
        "DATA_DIR",
        None,
        "where DATA_SOURCE reads; None: the default place of 'tfds' and 'hf'",
        path=True,
    )
    strict: bool = setting(
        "STRICT_DATA",
        False,
        "True: a dataset that is not available ends the run",
    )
    vocabulary: str = setting(
        "VOCABULARY",
        "bytes",
        "'bytes', a SentencePiece model or a tokenizer.json",
        path=lambda name: name != "bytes",
    )
    chat_template: str | None = setting(
        "CHAT_TEMPLATE",
        "auto",
        "'auto': that of an instruct model's tokenizer, which writes all that the model reads; a "
        "file with another one; None: without",
        path=lambda name: name != "auto",
    )
    loss_on: str = setting(
        "LOSS_ON",
        "assistant",
        "which messages of a dialogue are trained: the assistant's, the last one of them, or all",
        choices=LOSS_ON,
    )
    decoder_start_id: int = setting(
        "DECODER_START_ID",
        0,
        "first token that the decoder of a T5 reads",
        least=0,
        below=2**24,
    )
    task_feature_lengths: Any = setting(
        "TASK_FEATURE_LENGTHS",
        _LENGTHS,
        "most tokens of an example, and of a packed row",
    )
    batch_size: int = setting(
        "BATCH_SIZE",
        8,
        "packed rows; 8 x 1,024 input tokens is the paper's batch",
        least=1,
        below=2**20,
    )
    train_steps: int = setting("TRAIN_STEPS", 300, "updates in all", least=1)
    seed: int = setting(
        "SEED",
        0,
        "decides templates, draws and orders",
        least=0,
        below=2**32,  # what JAX keeps of a seed
    )
    options_style: str = setting(
        "OPTIONS_STYLE",
        "fixed",
        "how options are shown; 'mixed': half of the training rows show none and the others any "
        "style, by hash; the evaluation is 'fixed'",
        choices=(*STYLES, MIXED),
    )
    instructions: str = setting(
        "INSTRUCTIONS",
        "template",
        "how rows are written; 'baseline' is for models that are not tuned",
        choices=INSTRUCTIONS,
    )
    shots: int | str = setting(
        "SHOTS",
        0,
        "exemplars before each row, as many as fit; 'mixed': half of the training rows have none "
        "and the others 1, 2 or 5, by hash; the evaluation is zero-shot",
    )
    decontaminate: bool = setting(
        "DECONTAMINATE",
        False,
        "True: training rows that share 8 to 13 words in a row with a held-out one are left out "
        "and counted; `flan-jax tasks overlap` shows them",
    )
    pack: bool = setting(None, True, "whether several examples share a row")
    validation_batches: int = setting(
        None,
        8,
        "batches of validation rows of what trains, for the loss of every checkpoint",
        least=0,
        below=2**20,
    )
    eval_datasets: str | None = setting(
        "EVAL_DATASETS",
        None,
        "evaluated instead of what is held out, e.g. 'copa+arc_easy'",
    )
    eval_templates: str | int | None = setting(
        "EVAL_TEMPLATES",
        None,
        "how many templates of a dataset are evaluated, or their ids ('terse+email'); None: all",
    )
    eval_split: str = setting("EVAL_SPLIT", "test", "the split that is evaluated", choices=SPLITS)
    eval_max_rows: int | None = setting(
        "EVAL_ROWS",
        None,
        "at most this many rows of each dataset that is evaluated; None: all",
        least=1,
    )
    eval_every: int | None = setting(
        "EVAL_EVERY",
        None,
        "evaluate every so many steps, too; None: only at the end",
        least=1,
    )
    eval_every_rows: int = setting(
        "EVAL_EVERY_ROWS",
        32,
        "rows of each dataset for EVAL_EVERY",
        least=1,
    )
    untuned_instructions: str | None = setting(
        "UNTUNED_INSTRUCTIONS",
        None,
        "how rows are written for the untuned model; None: like the tuned one",
        choices=INSTRUCTIONS,
    )
    cache_dir: str | None = setting(
        "CACHE_DIR",
        None,
        f"token cache; None: {DEFAULT_CACHE}",
        path=True,
    )
    # Tokens of a prompt in front of each example (PEFT='prompt').
    prompt_length: int = dataclasses.field(default_factory=lambda: PeftConfig().prompt_tokens)

    def cache_directory(self) -> pathlib.Path:
        """Returns where tokens are kept; of a cache in a bucket, its copy on the disk."""
        directory = self._cache_place()
        return Mirror(directory).local if isinstance(directory, Remote) else directory

    def cache_bucket(self) -> Remote | None:
        """Returns the cache in a bucket whose copy `cache_directory` is; None for one on disk."""
        directory = self._cache_place()
        return directory if isinstance(directory, Remote) else None

    def _cache_place(self) -> Place:
        return place(DEFAULT_CACHE if self.cache_dir is None else self.cache_dir, "CACHE_DIR")

    @property
    def eval_shots(self) -> int:
        """Returns the exemplars before each row that is evaluated."""
        return 0 if isinstance(self.shots, str) else self.shots

    @property
    def eval_options_style(self) -> str:
        """Returns how the options of a row that is evaluated are shown."""
        return "fixed" if self.options_style == MIXED else self.options_style

    def for_evaluation(self) -> DataConfig:
        """Returns the settings without the files of the user, which only training reads.

        Where a run is evaluated they may be elsewhere.
        """
        name = self.mixture_or_task_name
        if name is None:
            return self
        return dataclasses.replace(self, mixture_or_task_name=without_own(name))

    def __post_init__(self):
        check_fields(self, "Data")
        length = check_number("prompt_length", self.prompt_length, whole=True, least=0, below=2**14)
        object.__setattr__(self, "prompt_length", length)
        if self.source == "bundled" and self.data_dir is not None:
            raise UserError(
                f"{setting_name('Data', 'data_dir')} is not read with DATA_SOURCE=bundled, the "
                "rows that come with the package; set DATA_SOURCE to jsonl, hf or tfds, or leave "
                "it out."
            )
        if self.loss_on == "all" and self.architecture == "t5":
            raise UserError(
                "LOSS_ON='all' trains what an encoder only reads; set LOSS_ON='assistant' or "
                "'last', or use a decoder-only model."
            )
        self._check_rows()
        for name in ("instructions", "untuned_instructions"):
            mode = getattr(self, name)
            letters = ("lettered", MIXED) if name == "instructions" else ("lettered",)
            if self.options_style in letters and mode in ("none", "dataset_name"):
                raise UserError(
                    f"the answer with OPTIONS_STYLE={self.options_style} is a letter, and "
                    f"{setting_name('Data', name)}={mode} does not show which option has which; "
                    "change one of the two."
                )
        name = setting_name("Data", "shots")
        if isinstance(self.shots, str):
            check_choice(f"{name}, unless it is a number,", self.shots, (MIXED,))
        else:
            shots = check_number(name, self.shots, whole=True, least=0, below=1025)
            object.__setattr__(self, "shots", shots)
        if not isinstance(self.eval_templates, str | None):
            number = check_number(
                "EVAL_TEMPLATES without ids", self.eval_templates, whole=True, least=1
            )
            object.__setattr__(self, "eval_templates", number)
        self.example_lengths()

    def _check_rows(self) -> None:
        """Raises a UserError if a run takes more rows than int32 can count."""
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
        """Returns (S, T), the most tokens of inputs and of targets.

        Raises:
          UserError: if they are not two positive numbers.
        """
        lengths = _LENGTHS if self.task_feature_lengths is None else self.task_feature_lengths
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

    def example_lengths(self) -> tuple[int, int]:
        """Returns the most tokens of the inputs and of the targets of an example.

        They are those of a row, (S, T), but for the prompt.

        Raises:
          UserError: if the prompt leaves no room.
        """
        inputs, targets = self.lengths()
        if inputs - self.prompt_length < 2:
            raise UserError(
                f"a prompt of PROMPT_LENGTH={self.prompt_length} leaves no room in "
                f"TASK_FEATURE_LENGTHS, whose 'inputs' are {inputs} tokens; raise them to more "
                f"than {self.prompt_length + 1}, or give a shorter prompt."
            )
        return inputs - self.prompt_length, targets
