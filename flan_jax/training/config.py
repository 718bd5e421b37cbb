"""The settings of training: mesh, seed, checkpoints, memory and logging."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin

from flan_jax.config.checks import check_choice, check_fields, check_number, quoted, setting_name
from flan_jax.errors import UserError
from flan_jax.storage.paths import local_path

# What numbers may be: (the least, what they must be below).
_BOUNDS = {
    **dict.fromkeys(
        ["checkpoint_every", "keep", "microbatches", "loss_chunks", "log_every"], (1, None)
    ),
    "seed": (0, 2**32),
    "z_loss": (0, 1e6),
    "label_smoothing": (0, 1),
    "embedding_rows": (1, 2**24),
}


@gin.configurable("Train", denylist=["profile_steps"])
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train; bound in `gin/flan.gin`.

    Attributes:
      model_dir: directory of the run: checkpoints, logs, results.
      initial_checkpoint_path: parameters to start from (a run of ours, a T5X checkpoint, a Hugging
        Face directory or a GGUF file), or None.
      mesh: {'data': D, 'fsdp': F, 'model': M}; absent axes are 1, one may be -1. 'auto': by guess
        the fastest that holds the model; see `chooser.mesh_of`.
      seed: of parameters and dropout.
      z_loss, label_smoothing: see `losses.token_loss`.
      checkpoint_every: steps between checkpoints; the last step is always saved.
      keep: how many of the last checkpoints stay; the one with the best validation loss stays too.
      size: name of the model's size in results, e.g. 't5_tiny'.
      embedding_rows: rows of the embedding; None for the vocabulary's size up to the next multiple
        of 128.
      param_dtype: of the parameters, 'float32' or 'bfloat16'; the latter are rounded by chance when
        they are updated.
      microbatches: parts of a batch that are computed one after the other: less memory, the same
        step but for what dropout drops.
      loss_chunks: parts of a row whose logits are computed one after the other: less memory, the
        same step.
      log_every: steps between printed lines.
      tensorboard: whether to write event files.
      profile_steps: steps that are traced for a profiler, from the third of this start on; 0: none.
    """

    model_dir: str = "runs/flan"
    initial_checkpoint_path: str | None = None
    mesh: Any = None
    seed: int = 0
    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    checkpoint_every: int = 500
    keep: int = 3
    size: str = ""
    embedding_rows: int | None = None
    param_dtype: str = "float32"
    microbatches: int = 1
    loss_chunks: int = 1
    log_every: int = 10
    tensorboard: bool = False
    profile_steps: int = 0

    def __post_init__(self):
        check_number("--profile", self.profile_steps, whole=True, least=0)
        check_fields(self, "Train", _BOUNDS)
        check_choice(
            setting_name("Train", "param_dtype"), self.param_dtype, ("float32", "bfloat16")
        )
        if not isinstance(self.mesh, dict) and self.mesh not in (None, "auto"):
            raise UserError(
                f"{setting_name('Train', 'mesh')} must be None, 'auto' or sizes such as {{'data': "
                f"2, 'fsdp': 4}}, not {quoted(self.mesh)}."
            )
        for name in ("model_dir", "initial_checkpoint_path"):
            if getattr(self, name) is not None:
                local_path(getattr(self, name), setting_name("Train", name))
