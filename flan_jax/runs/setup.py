"""A run before it works: devices, mesh, model and data, from the settings that gin has."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flan_jax.data.config import DataConfig
from flan_jax.data.run_data import RunData, open_data
from flan_jax.errors import UserError
from flan_jax.runs.directories import check_bucket, directory_of
from flan_jax.storage.places import place
from flan_jax.storage.remote import Remote

if TYPE_CHECKING:
    import jax
    import optax
    from flax import linen as nn

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


def open_run(
    profile_steps: int = 0,
    flags: argparse.Namespace | None = None,
    evaluates: bool = False,
    output: str | None = None,
) -> RunSetup:
    """Returns the model that gin configures on all devices, with its data.

    Joins the other processes, if any, and writes the first lines of the log.

    Args:
      profile_steps: see `TrainConfig`.
      flags: with those of `processes.add_flags`.
      evaluates: whether the run is evaluated and does not train; see `DataConfig.for_evaluation`.
      output: where an evaluation writes; None: MODEL_DIR.

    Raises:
      UserError: if the settings are not valid or do not fit together.
    """
    config = DataConfig()
    data_config = config.for_evaluation() if evaluates else config

    def check(model_dir: str) -> None:
        setting, name = ("--output", output) if output else ("MODEL_DIR", model_dir)
        check_bucket(name, setting, trains=not evaluates)

    return _open(data_config, profile_steps, flags, check)


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
    return _open(config, 0, flags, check=lambda model_dir: None)


def _open(
    data_config: DataConfig,
    profile_steps: int,
    flags: argparse.Namespace | None,
    check: Callable[[str], None],
) -> RunSetup:
    """The run of `open_run`; `check` gets MODEL_DIR before a device is used."""
    from flan_jax.parallel import devices
    from flan_jax.training.config import TrainConfig

    # Wrong settings are found before the processes connect: each reports them and ends by itself.
    config = TrainConfig(profile_steps=profile_steps)
    data = open_data(data_config, config.embedding_rows)
    devices.set_up(data_config.cache_directory() / "compiled", flags)
    run = place(config.model_dir, "MODEL_DIR")
    for setting, name in {
        "CACHE_DIR": data_config.cache_dir,
        "Train.baselines_dir": config.baselines_dir,
    }.items():
        there = place(name, setting) if name else None
        is_elsewhere = not isinstance(run, Remote) or run.bucket != getattr(there, "bucket", None)
        if isinstance(there, Remote) and is_elsewhere:
            check_bucket(name, setting, trains=False)
    check(config.model_dir)
    return build_run(config, data)


def build_run(config: TrainConfig, data: RunData) -> RunSetup:
    """Returns the model of these settings on a mesh of all devices; logs the mesh.

    Args:
      config: the settings of training.
      data: the data of the run.

    Raises:
      UserError: if model, vocabulary, batch, MESH and devices do not fit together.
    """
    from flan_jax.models.losses import resolved_chunks
    from flan_jax.optim.make import make_optimizer
    from flan_jax.parallel import partitioning
    from flan_jax.parallel.preemption import Preemption
    from flan_jax.peft.config import PeftConfig
    from flan_jax.training.state import ShardedState

    directory = directory_of(config.model_dir)
    model, optimizer = _build_model(config, data), make_optimizer()
    model, mesh = _on_mesh(config, data, model, optimizer)
    partitioning.check_batch_size(data.config.batch_size, mesh, config.microbatches)
    if data.layout.prompt and data.layout.prompt.start != model.config.vocab_size:
        raise ValueError("the ids of the prompt must follow those of the model: see `open_data`.")
    one_row = data.layout.shapes(1)
    resolved_chunks(
        config.loss_chunks, one_row["decoder_target_tokens"][1], model.config.vocab_size
    )
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


def _on_mesh(
    config: TrainConfig, data: RunData, model: nn.Module, optimizer: optax.GradientTransformation
) -> tuple[nn.Module, jax.sharding.Mesh]:
    """Returns the model with its remat resolved, and the mesh of MESH over all devices; logs both.

    Raises:
      UserError: if MESH does not fit the devices, or 'auto' finds none.
    """
    import jax

    from flan_jax.parallel import partitioning
    from flan_jax.parallel.hardware import chip_of
    from flan_jax.peft.config import PeftConfig
    from flan_jax.planning import mesh_search
    from flan_jax.planning.compiled import Choice, Job
    from flan_jax.planning.traffic import bytes_exchanged

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
    sizes = partitioning.mesh_sizes(shape, jax.device_count())
    remat, why_remat = mesh_search.remat_of(job, sizes, chip_of(jax.devices()[0].device_kind))
    choice = Choice(sizes, remat, config.microbatches)
    mesh = partitioning.make_mesh(sizes, traffic=bytes_exchanged(job, choice))
    _log.info(
        f"process {jax.process_index()} of {jax.process_count()}, {jax.device_count()} "
        f"{jax.default_backend()} devices, mesh {dict(mesh.shape)}"
    )
    if jax.process_index() == 0:
        for line in (*filter(None, (why, why_remat)), *data.vocabulary.notes):
            _log.info(line)
    return type(model)(dataclasses.replace(model.config, remat=remat)), mesh


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
