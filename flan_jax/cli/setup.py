"""What the verbs open before they work: the devices, a run, its data, its directories."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

from flan_jax import signals
from flan_jax.cli.console import print_counts
from flan_jax.data.config import DataConfig
from flan_jax.data.run_data import RunData, open_data
from flan_jax.errors import UserError
from flan_jax.parallel import processes
from flan_jax.storage.locks import locked
from flan_jax.storage.paths import local_path


def open_run(profile_steps: int = 0, flags: argparse.Namespace | None = None):
    """The `loop.Run` that gin configures, on all devices; its data may still have to be `prepared`.

    Joins the other processes, if any. The run prints the first line of the log.

    Args:
      profile_steps: see `TrainConfig`.
      flags: with those of `processes.add_flags`.
    """
    return _open_run(DataConfig(), profile_steps, flags)


def open_model(flags: argparse.Namespace | None = None):
    """As `open_run`, without what only reading rows needs: the data that the model was tuned on may
    be elsewhere.
    """
    nothing = dict.fromkeys(
        [
            "mixture_or_task_name",
            "mixture_or_task_module",
            "train_clusters",
            "datasets_per_cluster",
            "eval_datasets",
            "data_dir",
        ]
    )
    return _open_run(
        dataclasses.replace(
            DataConfig(), **nothing, source="bundled", held_out="none", decontaminate=False
        ),
        0,
        flags,
    )


def _open_run(config: DataConfig, profile_steps: int, flags: argparse.Namespace | None):
    from flan_jax.parallel import devices
    from flan_jax.training import loop
    from flan_jax.training.config import TrainConfig

    # Mistakes in the settings are found before the processes join: each of them says so and ends by
    # itself.
    train_config, data = TrainConfig(profile_steps=profile_steps), open_data(config)
    devices.set_up(config.cache_directory() / "compiled", flags)
    run = loop.Run(train_config, data)
    processes.mute_others()
    return run


@contextlib.contextmanager
def alone(directory: pathlib.Path, name: str, purpose: str) -> Iterator[None]:
    """Keeps a second program like this one out of a directory while the block runs; process 0 locks
    for all of a run.

    Args:
      directory: of the run or of its results.
      name: of the lock file in it.
      purpose: what this program does, for the message of the other one.

    Raises:
      UserError: on all processes, if another program is at work there; and if the directory is
        removed meanwhile.
    """
    with contextlib.ExitStack() as stack:
        taken = None
        if processes.index_and_count()[0] == 0:
            try:
                stack.enter_context(locked(directory / name, purpose))
            except UserError as error:
                taken = error
        if processes.any_of_all(taken is not None):
            raise taken or UserError(f"process 0 cannot use {directory}; its log says why.")
        gone = UserError(
            f"{directory} was removed while {purpose} worked in it: what was saved there is lost; "
            "the same command does it again."
        )
        # not where hosts do not share it; `Checkpoints` says so
        was_there = (directory / name).exists()
        try:
            yield
        except Exception as error:  # whatever failed first
            if was_there and not (directory / name).exists():
                raise gone from error
            raise
        if was_there and not (directory / name).exists():
            raise gone


def prepared(data: RunData, argv: list[str], only: str | None = None) -> RunData:
    """Returns the data with its rows in the cache; `flan-jax prepare` runs first if some are missing.

    It runs in a process of its own. Of several hosts the first one prepares and the others wait.

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
    if prepares:
        data = open_data(data.config)  # its rows may have been downloaded meanwhile
    if (prepares or not first) and data.missing(only):
        raise UserError(
            f"the token cache in {data.directory} lacks what was just prepared: is it on storage "
            "that all hosts see, and are the data left alone? Then run the same command again."
        )
    if first and not prepares:  # the preparation prints this, too
        print_counts(data, only)
    return data


def _prepare(arguments: list[str]) -> int:
    """Runs `flan-jax prepare`, which ends with this process, however that ends; returns its
    status.
    """
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
        "want of memory; the same command goes on with what is there, and flan-jax prepare "
        "--workers=1 needs less.",
        file=sys.stderr,
    )
    return signals.SAVED if status == -signal.SIGTERM else 1


def make_directory(name: str, setting: str = "MODEL_DIR") -> pathlib.Path:
    """The directory of a run or of results, made and found writable; `setting` is what it was given
    as.

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
