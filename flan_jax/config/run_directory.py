"""The directory of a run: its `config.gin` is found in it, also after it was moved or copied.

In the place of a run, verbs that only read parameters take a model by its name, too.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re

from flan_jax.config.gin_search import DEFAULT_GIN_FILE
from flan_jax.errors import NotHere, UserError
from flan_jax.storage.copies import fetch_all, origin, path_of
from flan_jax.storage.places import is_remote
from flan_jax.storage.places import place as named
from flan_jax.storage.working_copy import original

CONFIG, CHECKPOINTS = "config.gin", "checkpoints"
SWEEP_FILE = "sweep.json"  # in the directory above that of a run: the run is a point of a sweep

_STEP = re.compile(r"(checkpoint[_-]|step[_-])?\d+")
_STEP_LEVELS = 2  # directories above a step, up to that of its run
HUB = "hf:"  # what the name of a model on the hub begins with
PACKAGE = "pip:"  # and that of a model in a Python package
# Files that the directory of a model has: ours, Hugging Face's or T5X's.
_OF_MODELS = ("model.gin", "config.json", "adapter_config.json", "checkpoint")


def sweep_of(directory: pathlib.Path) -> str | None:
    """Returns the name of the sweep that the run in a directory is a point of; None if of none."""
    there = original(directory.absolute()).parent
    return there.name if (there / SWEEP_FILE).exists() else None


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Adds the argument RUN_DIR, which takes the place of --gin_file and MODEL_DIR."""
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN_DIR",
        help="the directory of a run, or of one of its steps: its config.gin, its checkpoint; or a "
        "model: a checkpoint of any format, hf:org/name or pip:NAME==VERSION",
    )


def add_config_of_run(flags: argparse.Namespace) -> None:
    """Puts the `config.gin` of a run, by RUN_DIR or --checkpoint, before the other gin files.

    Where RUN_DIR is one of the run's steps, that step becomes the checkpoint. Where it is a model,
    `flags.model` names it, and the gin file is that of the default run. Where it is neither, it is
    the first prompt if the verb has `prompts` and other flags name the model.

    Raises:
      UserError: if RUN_DIR is not the directory of a run.
    """
    run, checkpoint = getattr(flags, "run", None), getattr(flags, "checkpoint", None)
    has_prompts = hasattr(flags, "prompts")
    config = None if run is None else config_of(run)
    if run is not None and config is None and not flags.gin_file and is_model(run):
        flags.model = run
        flags.gin_file.insert(0, DEFAULT_GIN_FILE)
        return
    if run is not None and config is None:
        if not has_prompts or not (flags.gin_file or checkpoint):
            problem = UserError if os.path.isdir(os.path.expanduser(run)) else NotHere
            raise problem(_not_a_run(run, has_prompts))
        flags.prompts.insert(0, run)
        flags.run = run = None
    if run is None:
        config = config_of(checkpoint) if checkpoint and not flags.gin_file else None
    elif checkpoint is None and not _is_same(config.parent, run):
        flags.checkpoint = run  # one of the run's steps
    if config is not None:
        flags.gin_file.insert(0, str(origin(config) or config))


def _is_same(directory: pathlib.Path, name: str) -> bool:
    return directory.resolve() == _path_of(name).resolve()


def config_of(place: str) -> pathlib.Path | None:
    """Returns the `config.gin` of a run, of its `checkpoints`, or of one of its steps, or None."""
    path = _path_of(place)
    if path.name == CONFIG and path.is_file():
        return path
    file = run_of(path) / CONFIG if path.is_dir() or is_remote(place) else None
    return file if file is not None and file.is_file() else None


def is_model(place: str) -> bool:
    """Returns whether a text names a model: on the hub, in a package, or a checkpoint by its files.

    A GGUF file is one, too. Files of a run's steps are not looked at: see `config_of`.
    """
    path = _path_of(place)
    if place.startswith((HUB, PACKAGE)) or (path.suffix == ".gguf" and path.is_file()):
        return True
    return any((path / name).is_file() for name in _OF_MODELS)


def _path_of(place: str) -> pathlib.Path:
    """The path of a run or model; in the copy of a bucket with the files that show what it is."""
    if not is_remote(place):
        return pathlib.Path(place).expanduser()
    path = path_of(named(place, "RUN_DIR"))
    runs = [path, *(parent for parent in path.parents[:_STEP_LEVELS] if origin(parent))]
    fetch_all([path, *(path / name for name in _OF_MODELS), *(run / CONFIG for run in runs)])
    return path


def _not_a_run(place: str, has_prompts: bool) -> str:
    hint = "; prompts come after it: flan-jax generate RUN_DIR PROMPT" if has_prompts else ""
    return (
        f"{place!r} is not the directory of a run (it has no {CONFIG}), nor a model{hint}; or give "
        "--gin_file and --gin.MODEL_DIR."
    )


def run_of(checkpoint: pathlib.Path) -> pathlib.Path:
    """Returns the directory of the run that a checkpoint belongs to, else the checkpoint itself."""
    place = checkpoint.absolute()
    while not (place / CONFIG).is_file() and (
        place.name == CHECKPOINTS or _STEP.fullmatch(place.name)
    ):
        place = place.parent
    return checkpoint if place == checkpoint.absolute() else place


def home_of(gin_file: pathlib.Path) -> str | None:
    """Returns the directory of a run if this is its `config.gin`, else None.

    The run may have been moved since that was written.
    """
    if gin_file.name != CONFIG:
        return None
    directory = origin(gin_file.parent) or gin_file.parent
    return str(directory) if (directory / CHECKPOINTS).exists() else None


def absolute(path: str | None) -> str | None:
    """Returns a path that a user typed, absolute; None where there is none.

    The name of what is in a bucket is so already.
    """
    return path if not path or is_remote(path) else os.path.abspath(os.path.expanduser(path))
