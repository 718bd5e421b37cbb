"""What the prompt of a run begins as: tokens of its vocabulary, or a prompt that was trained."""

from __future__ import annotations

import pathlib

import numpy as np

from flan_jax.checkpoints.formats import huggingface_prompt
from flan_jax.checkpoints.formats.adapter_config import is_adapter
from flan_jax.checkpoints.located import located
from flan_jax.checkpoints.open import open_tensors
from flan_jax.errors import UserError
from flan_jax.models.adapters import PROMPT
from flan_jax.peft.config import is_prompt_file
from flan_jax.peft.prompt import Start, Vocabulary, check_vectors, embedding_means, read_vectors
from flan_jax.peft.tuning import Tuning


def prompt_start(tuning: Tuning, vocabulary: Vocabulary, seed: int) -> Start | None:
    """Returns what PROMPT_INIT says; None for a random prompt, or without one.

    Args:
      tuning: of the run.
      vocabulary: of the run.
      seed: chooses tokens.

    Raises:
      UserError: if PROMPT_INIT is neither a way to begin nor the path of a prompt, or the prompt
        there does not fit the model.
    """
    if not tuning.needs_start:
        return None
    name = tuning.config.prompt_init
    if not is_prompt_file(name):
        return embedding_means(tuning.config, vocabulary, seed)
    path = located(name, "PROMPT_INIT")
    if not path.exists():
        raise UserError(
            f"PROMPT_INIT {name!r} is neither 'vocabulary', 'uniform', 'labels: ...' nor 'text: "
            "...', and no file or run is there; correct it."
        )
    return check_vectors(_read(path), tuning.prompt_shape, path)


def _read(path: pathlib.Path) -> np.ndarray:
    """Returns the prompt of a .npy file, of an adapter of Hugging Face, or of a run."""
    if not path.is_dir():
        return read_vectors(path)
    return huggingface_prompt.read_vectors(path) if is_adapter(path) else _of_run(path)


def _of_run(path: pathlib.Path) -> np.ndarray:
    """Returns the prompt of the last checkpoint of a run, or of one of its steps."""
    tensors = open_tensors(path).tensors
    names = [name for name in tensors if name.rpartition("/")[2] == PROMPT]
    if not names:
        raise UserError(
            f"PROMPT_INIT: {path} has no prompt; give a run with PEFT='prompt', or a .npy file."
        )
    return tensors[names[0]].read()
