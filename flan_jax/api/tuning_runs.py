"""`train` tunes a model in the directory of a run, and `resume` continues one."""

from __future__ import annotations

import json
import os
import pathlib
import time
from typing import Any

from flan_jax.api.loaded import Model, load
from flan_jax.api.mixtures import Mixture
from flan_jax.api.settings import Configuration
from flan_jax.config import run_directory
from flan_jax.errors import UserError
from flan_jax.log import root_handlers_kept
from flan_jax.storage.copies import origin
from flan_jax.storage.paths import short_path
from flan_jax.storage.places import Place, place
from flan_jax.storage.working_copy import forget, original


def train(
    model: Model,
    data: Mixture,
    steps: int,
    model_dir: str | os.PathLike,
    *,
    peft: str | None = None,
    **settings: Any,
) -> Run:
    """Tunes a model and returns the run; `model` itself stays as it is.

    The run is that of `flan-jax train` with the same settings: checkpoints, `config.gin`,
    `metrics.jsonl` and the rest are in `model_dir`, the same call continues it exactly after an
    interruption (Ctrl-C saves a checkpoint), and so does
    `flan-jax train --gin_file=MODEL_DIR/config.gin`, which also evaluates at the end. The memory of
    the parameters of `model` is freed meanwhile.

    Args:
      model: what training begins with; where its parameters are random, data and settings must have
        its SEED.
      data: what it trains on.
      steps: updates in all (TRAIN_STEPS).
      model_dir: the directory of the run (MODEL_DIR): a path, or gs://bucket/name.
      peft: 'lora', 'prompt' or 'ia3', with the settings of its recipe, gin/peft/lora.gin and so on
        (AdamW at a learning rate of its own); None: all parameters train.
      **settings: others of docs/settings.md by their names in lower case, such as `learning_rate`,
        `optimizer`, `batch_size`, `lora_rank` or `checkpoint_every`.

    Raises:
      UserError: if settings do not fit together, the directory holds another run, or another
        program works there.
      Diverged: if a loss, a gradient or a parameter is not finite; nothing of that step is saved.
    """
    if not isinstance(model, Model) or not isinstance(data, Mixture):
        raise UserError("train takes a model of flan_jax.load and data of flan_jax.mixture.")
    if data.model is not None and data.model.start != model.start:
        raise UserError(
            f"data was made for {data.model.name}, not for {model.name}; make it with "
            "mixture(..., model=model)."
        )
    configuration = model.start.and_bindings(data.bindings)
    if peft is not None:
        configuration = configuration.and_file(_recipe(peft))
    there = place(model_dir, "model_dir")
    directory = there.absolute() if isinstance(there, pathlib.Path) else there
    given = {"train_steps": steps, "model_dir": str(directory)}
    configuration = configuration.with_settings("train", settings, given)
    if model.checkpoint is None:
        _check_seed(model, configuration)
    model.release()
    return _train(configuration)


def resume(model_dir: str | os.PathLike, steps: int | None = None, **settings: Any) -> Run:
    """Continues a run of `train` or of `flan-jax train` with its own settings.

    Args:
      model_dir: the directory of the run: a path, or gs://bucket/name.
      steps: updates in all; None: as many as before.
      **settings: what is different from now on, such as `checkpoint_every`; see `train`.

    Raises:
      UserError: if it is not the directory of a run, or see `train`.
    """
    config = run_directory.config_of(os.fspath(model_dir))
    if config is None:
        raise UserError(f"{os.fspath(model_dir)!r} is not the directory of a run.")
    given = {} if steps is None else {"train_steps": steps}
    name = str(origin(config) or config.absolute())
    return _train(Configuration((name,)).with_settings("resume", settings, given))


def _check_seed(model: Model, configuration: Configuration) -> None:
    """Raises a UserError if random parameters are not those that a run begins with."""
    before, now = _seed(model.start), _seed(configuration)
    if before != now:
        raise UserError(
            f"the parameters of {model.name} are random, from SEED={before}, but the data or the "
            f"settings have SEED={now}; give both the same: load(..., seed={now})."
        )


def _seed(configuration: Configuration) -> int:
    """The seed of parameters."""
    from flan_jax.training.config import TrainConfig

    with configuration.applied():
        return TrainConfig().seed


def _recipe(peft: str) -> str:
    """The gin file of a method of parameter-efficient tuning.

    Raises:
      UserError: if there is no such method.
    """
    from flan_jax.config.checks import check_choice
    from flan_jax.peft.config import METHODS

    check_choice("peft", peft, METHODS, optional=True)
    return f"gin/peft/{peft}.gin"


def _train(configuration: Configuration) -> Run:
    from flan_jax.runs.setup import open_run
    from flan_jax.runs.train_run import train_run

    started = time.perf_counter()
    with configuration.applied() as arguments:
        setup = open_run()
        directory = original(setup.directory)
        try:
            with root_handlers_kept():
                status = train_run(setup, arguments, started, evaluates=False)
        finally:
            forget(setup.directory)  # the next call begins with what the bucket has then
        return Run(directory, finished=status == 0)


class Run:
    """A run that was trained; `train` and `resume` return it.

    Attributes:
      directory: its MODEL_DIR: a path, or the place in a bucket.
      finished: whether all its steps are taken; False after an interruption, when it is saved.
    """

    def __init__(self, directory: Place, finished: bool = True):
        self.directory, self.finished = directory, finished

    def __repr__(self) -> str:
        state = "finished" if self.finished else "not finished"
        is_here = isinstance(self.directory, pathlib.Path)
        shown = short_path(self.directory) if is_here else self.directory
        return f"<Run {shown}, {state}>"

    def __fspath__(self) -> str:
        return str(self.directory)

    def metrics(self) -> list[dict[str, float]]:
        """Returns the lines of `metrics.jsonl`: of each step `step`, `loss` and others.

        The loss is the mean cross entropy of target tokens in nats; lines with `validation_loss`
        are of checkpoints.
        """
        from flan_jax.training.metrics_log import FILE

        lines = (self.directory / FILE).read_bytes().decode().splitlines()
        return [json.loads(line) for line in lines]

    def model(self, step: int | str | None = None, **settings: Any) -> Model:
        """Returns its model: `load(run.directory, step=step, ...)`."""
        return load(str(self.directory), step=step, **settings)
