"""What the verbs build before they work: devices, mesh, model, data and directories."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import logging
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flan_jax import signals
from flan_jax.cli.console import log_counts
from flan_jax.data.config import DataConfig
from flan_jax.data.run_data import RunData, open_data
from flan_jax.errors import UserError
from flan_jax.parallel import processes
from flan_jax.storage.locks import locked
from flan_jax.storage.paths import local_path

if TYPE_CHECKING:
    import jax
    import optax
    from flax import linen as nn

    from flan_jax.data import eval_data
    from flan_jax.parallel.preemption import Preemption
    from flan_jax.training.config import TrainConfig
    from flan_jax.training.state import ShardedState

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunSetup:
    """A model on its mesh, with the settings and the data of a run.

    Attributes:
      config: the settings of training.
      data: the data of the run; its rows may still have to be `prepared`.
      directory: MODEL_DIR.
      model: a T5 or a decoder.
      optimizer: of the model.
      mesh: all devices of the run.
      sharded: shapes and shardings of the state on the mesh.
      preemption: wrap training and evaluation in its `handled`.
    """

    config: TrainConfig
    data: RunData
    directory: pathlib.Path
    model: nn.Module
    optimizer: optax.GradientTransformation
    mesh: jax.sharding.Mesh
    sharded: ShardedState
    preemption: Preemption


def open_run(profile_steps: int = 0, flags: argparse.Namespace | None = None) -> RunSetup:
    """Returns the model that gin configures on all devices, with its data.

    Joins the other processes, if any, and writes the first lines of the log.

    Args:
      profile_steps: see `TrainConfig`.
      flags: with those of `processes.add_flags`.

    Raises:
      UserError: if the settings are not valid or do not fit together.
    """
    return _open(DataConfig(), profile_steps, flags)


def open_model(flags: argparse.Namespace | None = None) -> RunSetup:
    """Returns the same as `open_run`, without the settings that only reading rows needs.

    The data that the model was tuned on may be elsewhere.

    Args:
      flags: see `open_run`.
    """
    unset = dict.fromkeys(
        [
            "mixture_or_task_name",
            "mixture_or_task_module",
            "train_clusters",
            "datasets_per_cluster",
            "eval_datasets",
            "data_dir",
        ]
    )
    config = dataclasses.replace(
        DataConfig(), **unset, source="bundled", held_out="none", decontaminate=False
    )
    return _open(config, 0, flags)


def _open(
    data_config: DataConfig, profile_steps: int, flags: argparse.Namespace | None
) -> RunSetup:
    from flan_jax.parallel import devices
    from flan_jax.training.config import TrainConfig

    # Wrong settings are found before the processes connect: each reports them and ends by itself.
    config = TrainConfig(profile_steps=profile_steps)
    data = open_data(data_config, config.embedding_rows)
    devices.set_up(data_config.cache_directory() / "compiled", flags)
    run = build_run(config, data)
    processes.mute_others()
    return run


def build_run(config: TrainConfig, data: RunData) -> RunSetup:
    """Returns the model of these settings on a mesh of all devices; logs the mesh.

    Args:
      config: the settings of training.
      data: the data of the run.

    Raises:
      UserError: if model, vocabulary, batch, MESH and devices do not fit together.
    """
    from flan_jax.models.losses import check_chunks
    from flan_jax.optim.make import make_optimizer
    from flan_jax.parallel import partitioning
    from flan_jax.parallel.preemption import Preemption
    from flan_jax.peft.config import PeftConfig
    from flan_jax.training.state import ShardedState

    directory = local_path(config.model_dir, "MODEL_DIR")
    model, optimizer = _build_model(config, data), make_optimizer()
    mesh = _build_mesh(config, data, model, optimizer)
    partitioning.check_batch_size(data.config.batch_size, mesh, config.microbatches)
    if data.layout.prompt and data.layout.prompt.start != model.config.vocab_size:
        raise ValueError("the ids of the prompt must follow those of the model: see `open_data`.")
    one_row = data.layout.shapes(1)
    check_chunks(config.loss_chunks, one_row["decoder_target_tokens"][1])
    sharded = ShardedState(
        model, optimizer, mesh, one_row, config.seed, config.param_dtype, PeftConfig()
    )
    return RunSetup(config, data, directory, model, optimizer, mesh, sharded, Preemption())


def _build_model(config: TrainConfig, data: RunData) -> nn.Module:
    """Returns the model, with as many rows in its embedding as the vocabulary needs.

    Raises:
      UserError: if vocabulary and model do not fit.
    """
    from flan_jax.data.vocabulary import padded_size
    from flan_jax.models.architectures import make_model

    rows = config.embedding_rows or padded_size(data.vocabulary)
    if rows < data.vocabulary.size:
        raise UserError(
            f"the model has {rows} rows in its embedding (Train.embedding_rows), but "
            f"VOCABULARY has {data.vocabulary.size} ids; give the vocabulary that belongs to "
            "the model."
        )
    model = make_model(data.config.architecture, rows)
    start_id = getattr(model.config, "decoder_start_id", data.config.decoder_start_id)
    if start_id != data.config.decoder_start_id:
        raise UserError(
            f"T5Config.decoder_start_id is {start_id} and Data.decoder_start_id "
            f"{data.config.decoder_start_id}; set both with --gin.DECODER_START_ID."
        )
    return model


def _build_mesh(
    config: TrainConfig, data: RunData, model: nn.Module, optimizer: optax.GradientTransformation
) -> jax.sharding.Mesh:
    """Returns the mesh of MESH over all devices, and logs it.

    Raises:
      UserError: if MESH does not fit the devices, or 'auto' finds none.
    """
    import jax

    from flan_jax.parallel import partitioning
    from flan_jax.peft.config import PeftConfig
    from flan_jax.planning import mesh_search
    from flan_jax.planning.compiled import Job

    architecture, batch_size = data.config.architecture, data.config.batch_size
    job = Job(
        model,
        optimizer,
        config,
        architecture,
        batch_size,
        data.config.lengths(),
        PeftConfig(),
    )
    shape, why = mesh_search.mesh_of(job, jax.devices())
    mesh = partitioning.make_mesh(shape)
    _log.info(
        f"process {jax.process_index()} of {jax.process_count()}, {jax.device_count()} "
        f"{jax.default_backend()} devices, mesh {dict(mesh.shape)}"
    )
    if jax.process_index() == 0:
        for line in (*([why] if why else []), *data.vocabulary.notes):
            _log.info(line)
    return mesh


def read_parameters(
    run: RunSetup,
    path: str,
    step: int | str | None = None,
    merge: bool = False,
    bases: dict[str, Any] | None = None,
) -> tuple[int, Any]:
    """Returns the step and the parameters, on the mesh, of a checkpoint.

    Args:
      run: the model that the parameters are for.
      path: a run or a step of ours, a checkpoint of T5X, Hugging Face or GGUF, or an adapter of
        Hugging Face, whose base is the directory it names, else INITIAL_CHECKPOINT_PATH.
      step: of a run; 'best' has the lowest validation loss, None is the last.
      merge: whether adapters, if there are any, are merged into the kernels.
      bases: see `load_parameters`.

    Raises:
      UserError: if there is no such checkpoint, or it does not match the model.
    """
    import jax

    from flan_jax.checkpoints.load import load_parameters, merged_into

    abstract, base = run.sharded.abstract_base, run.config.initial_checkpoint_path
    step, params = load_parameters(path, abstract, step, run.model.config, bases, base)
    if merge:
        params = merged_into(abstract, params)
    if jax.process_index() == 0:
        _log.info(f"parameters of step {step} from {path}")
    return step, params


def check_parameters(run: RunSetup, path: str, step: int | str | None = None) -> int:
    """Checks that `read_parameters` can read a checkpoint; reads only its shapes.

    Returns:
      The step.

    Raises:
      UserError: see `read_parameters`.
    """
    from flan_jax.checkpoints.load import find_parameters

    base = run.config.initial_checkpoint_path
    checkpoint, _ = find_parameters(path, run.sharded.abstract_base, step, run.model.config, base)
    return checkpoint.step


class Evaluate(Protocol):
    """Evaluates parameters on the held-out rows; see `make_evaluate`."""

    def __call__(
        self,
        name: str,
        params: Any,
        step: int,
        protocol: eval_data.Protocol | None = None,
        while_training: bool = False,
    ) -> bool:
        """Adds the numbers of a model to `results.csv`.

        Args:
          name: of the model in the results, such as 'tuned'.
          params: its parameters, on the mesh.
          step: of its checkpoint.
          protocol: how the rows are rendered, and how many; the one of the settings if None.
          while_training: whether only the numbers are written, without predictions.

        Returns:
          Whether everything is evaluated; False on preemption.
        """
        ...


def make_evaluate(
    run: RunSetup,
    data: RunData,
    output: pathlib.Path | None = None,
    run_directory: pathlib.Path | None = None,
) -> Evaluate:
    """Returns the function that evaluates on the held-out rows; it opens the results when called.

    Args:
      run: the model.
      data: the data of the run; its held-out rows are in the cache.
      output: directory of the results; None for that of the run.
      run_directory: of the run that the parameters belong to; None for that of `run`.
    """
    import jax

    from flan_jax.evaluation import evaluator, shared_baselines
    from flan_jax.evaluation.held_out import Copy, HeldOut
    from flan_jax.evaluation.known_runs import remember_run, run_name
    from flan_jax.evaluation.result_rows import UNTUNED, Setting
    from flan_jax.evaluation.results_store import ResultsStore
    from flan_jax.training import run_record

    output, run_directory = output or run.directory, run_directory or run.directory

    open_results = functools.cache(lambda: ResultsStore(output))

    def evaluate(
        name: str,
        params: Any,
        step: int,
        protocol: eval_data.Protocol | None = None,
        while_training: bool = False,
    ) -> bool:
        if jax.process_index() == 0:
            trained_on = run_record.trained_on(run_directory, data)
            remember_run(output, run_directory, trained_on, data.config.source)
        results, protocol = open_results(), protocol or data.eval.eval_protocol
        # In the loop the step itself has just checked.
        if not while_training and run.preemption.requested():
            return False
        style = data.config.options_style
        setting = Setting(
            run=run_name(run_directory),
            step=step,
            model=name,
            size=run.config.size,
            shots=data.config.shots,
            instruction_mode=protocol.instructions
            if style == "fixed"
            else f"{protocol.instructions}, options {style}",
        )

        def make(results: ResultsStore, setting: Setting, copy: Copy | None = None) -> HeldOut:
            return HeldOut(
                *(data, run.model, run.mesh, results, setting, protocol, while_training, copy)
            )

        stop, baselines = run.preemption.requested, run.config.baselines_dir
        if name == UNTUNED and baselines and not while_training:
            place, split = local_path(baselines, "Train.baselines_dir"), data.config.eval_split
            return shared_baselines.evaluate(
                make, params, step, results, setting, place, split, stop
            )
        return evaluator.evaluate(make(results, setting), params, step, results, stop)

    return evaluate


@contextlib.contextmanager
def alone(directory: pathlib.Path, name: str, purpose: str) -> Iterator[None]:
    """Keeps a second program like this one out of a directory while the block runs.

    Process 0 locks for all processes of a run.

    Args:
      directory: of the run or of its results.
      name: of the lock file in it.
      purpose: what this program does, for the message of the other one.

    Raises:
      UserError: on all processes, if another program works there; and if the directory is removed
        meanwhile.
    """
    with contextlib.ExitStack() as stack:
        in_use = None
        if processes.index_and_count()[0] == 0:
            try:
                stack.enter_context(locked(directory / name, purpose))
            except UserError as error:
                in_use = error
        if processes.any_of_all(in_use is not None):
            raise in_use or UserError(f"process 0 cannot use {directory}; its log says why.")
        removed = UserError(
            f"{directory} was removed while {purpose} worked in it: what was saved there is lost; "
            "the same command does it again."
        )
        # false where hosts do not share the directory; `Checkpoints` reports that
        is_here = (directory / name).exists()
        try:
            yield
        except Exception as error:
            # Whatever failed first, the removal is the cause.
            if is_here and not (directory / name).exists():
                raise removed from error
            raise
        if is_here and not (directory / name).exists():
            raise removed


def prepared(data: RunData, argv: list[str], only: str | None = None) -> RunData:
    """Returns the data with its rows in the cache; prepares them first if some are missing.

    `flan-jax prepare` runs in a process of its own, on the first of several hosts; the others wait.

    Args:
      data: the data of a run.
      argv: the gin arguments of this verb, for `prepare`.
      only: 'eval' for what an evaluation of a checkpoint needs.

    Returns:
      `data`, or the same settings opened again if they were prepared meanwhile.

    Raises:
      SystemExit: if the preparation failed, with its status; it has printed why.
    """
    import jax
    from jax.experimental import multihost_utils

    first, prepares, status = jax.process_index() == 0, False, 0
    if first:
        prepares = bool(data.undownloaded() or data.missing(only))
    if prepares:
        status = _prepare([*([f"--only={only}"] if only else []), *argv])
    if jax.process_count() > 1:
        processes.wait_for_all("the token cache")
        outcome = np.array([prepares, status], np.int32)
        prepares, status = multihost_utils.broadcast_one_to_all(outcome).tolist()
    if status:
        raise SystemExit(status)
    if prepares or not first:
        # Rows may have been downloaded meanwhile: all hosts look them up after the first one did.
        data = open_data(data.config, data.layout.prompt.start)
    if (prepares or not first) and data.missing(only):
        raise UserError(
            f"the token cache in {data.directory} lacks what was just prepared: is it on storage "
            "that all hosts see, and are the data left alone? Then run the same command again."
        )
    if first and not prepares:  # the preparation prints this, too
        log_counts(data, only)
    return data


def _prepare(arguments: list[str]) -> int:
    """Runs `flan-jax prepare` and returns its status; it ends when this process ends."""
    command = [sys.executable, "-m", "flan_jax.prepare", "--for_a_run", *arguments]
    # The other end of this pipe is closed when this process is gone.
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if status >= 0:
        return status
    print(
        f"flan-jax: error: the preparation of the data was ended by signal {-status}, perhaps for "
        "lack of memory; the same command resumes it, and flan-jax prepare --workers=1 needs "
        "less.",
        file=sys.stderr,
    )
    return signals.SAVED if status == -signal.SIGTERM else 1


def make_directory(name: str, setting: str = "MODEL_DIR") -> pathlib.Path:
    """Returns the directory of a run or of results; makes it and checks that it can be written.

    Args:
      name: of the directory.
      setting: or flag that gives it, for the message.

    Raises:
      UserError: if it cannot be written, or is a URL.
    """
    directory = local_path(name, setting)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise UserError(
            f"{setting} {name!r} cannot be written ({error.strerror}); give another directory."
        ) from error
    return directory
