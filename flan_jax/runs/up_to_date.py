"""`.done.json`: what a command depended on when it had everything done.

The same command with the same settings, rows, files and code has nothing to do: it ends at once,
without JAX, and without reading a checkpoint. Whatever cannot be compared quickly (several
processes, buckets, the hub, rows of SeqIO tasks) is looked at in full each time.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import pathlib
import socket
from collections.abc import Iterable, Sequence
from typing import Any

import gin

import flan_jax
from flan_jax.config import gin_files
from flan_jax.config.declared_settings import declared_settings
from flan_jax.config.run_directory import HUB, PACKAGE
from flan_jax.data.config import DataConfig
from flan_jax.data.run_data import RunData, open_data
from flan_jax.errors import UserError
from flan_jax.parallel import processes
from flan_jax.report.write import WRITTEN
from flan_jax.storage.files import read_json, write_file
from flan_jax.storage.hashing import digest, file_digest
from flan_jax.storage.places import place
from flan_jax.storage.remote import Remote
from flan_jax.training.config import TrainConfig

FILE = ".done.json"
_MOST_COMMANDS = 20  # in the record of a directory
_MOST_FILES = 20_000  # a longer listing takes as long as the command
_WHOLE = 2**22  # files of at most so many bytes beside the record are compared by their contents
# Settings whose rows and tokens are compared by the keys of the cache.
_OF_ROWS = ("DATA_DIR", "CACHE_DIR")
# What decides the devices, and with them the dtype of the computation; beside their files.
_VARIABLES = ("JAX_", "XLA_", "CUDA_", "TPU_", "HIP_")


class _Unknown(Exception):
    """Something that the command depends on cannot be compared quickly."""


class Command:
    """A command with its settings, and the directory in which it keeps what it has done."""

    def __init__(self, verb: str, flags: argparse.Namespace, output: str | None = None):
        """Notes the settings as they are now.

        Args:
          verb: 'train' or 'eval'.
          flags: its parsed flags.
          output: where the results of `eval` are; None: MODEL_DIR.
        """
        self._flags, self._evaluates = flags, verb == "eval"
        directory = TrainConfig().model_dir if output is None else output
        self.directory = place(directory, "MODEL_DIR" if output is None else "--output")
        self._paths = [directory, *_paths(flags)]
        self._is_alone = processes.is_alone(flags) and isinstance(self.directory, pathlib.Path)
        self._machine = _machine()  # JAX adds variables to the environment
        settings = gin.config_str()  # a run makes paths absolute in it
        self._name = digest([verb, {**vars(flags), "log_level": None}, settings, os.getcwd()])

    def is_done(self) -> RunData | None:
        """Returns the data, if everything is as it was when the command had everything done."""
        before = self._read().get(self._name)
        if before is None:
            return None
        try:
            data = self._open_data()
            return data if self._state(data) == before else None
        except (_Unknown, UserError, OSError):
            return None  # the command itself reports what is wrong

    def note_done(self, data: RunData) -> None:
        """Writes the record, after the last file of the command."""
        try:
            state = self._state(data)
        except (_Unknown, UserError, OSError):
            return
        others = {name: each for name, each in self._read().items() if name != self._name}
        kept = dict(list(others.items())[1 - _MOST_COMMANDS :])
        write_file(self.directory / FILE, json.dumps({**kept, self._name: state}, indent=0))

    def _read(self) -> dict[str, str]:
        if not self._is_alone or not (self.directory / FILE).is_file():
            return {}
        try:
            return read_json(self.directory / FILE)
        except UserError:
            return {}  # damaged: written again at the end

    def _open_data(self) -> RunData:
        config = DataConfig()
        if self._evaluates:
            config = config.for_evaluation()
        return open_data(config, TrainConfig().embedding_rows)

    def _state(self, data: RunData) -> str:
        """Returns a digest of everything but the command itself."""
        if not self._is_alone:
            raise _Unknown
        return digest([self._machine, _code(), _keys(data, self._evaluates), _files(self._paths)])


def _paths(flags: argparse.Namespace) -> list[str]:
    """Returns the paths that settings and flags name, but for those of rows."""
    adapters = (getattr(flags, "adapters", None) or "").split(",")
    values = [getattr(flags, "checkpoint", None), *adapters]
    settings = gin_files.settings()
    for declared in declared_settings(gin_files.CONFIGURED):
        value = settings.get(declared.name)
        if declared.name not in _OF_ROWS and declared.setting.is_path(value):
            values.append(value)
    return [value for value in dict.fromkeys(values) if value]


def _machine() -> Any:
    variables = {name: text for name, text in os.environ.items() if name.startswith(_VARIABLES)}
    devices = [sorted(glob.glob(pattern)) for pattern in processes.ACCELERATOR_FILES]
    return [socket.gethostname(), variables, devices]


def _code() -> Any:
    """The version, and the files of a checkout, in which code changes without it."""
    package = pathlib.Path(__file__).parents[1]
    files = {file for each in (package, package / "tasks") for file in each.rglob("*.py")}
    return [flan_jax.__version__, [[str(file), *_stamp(file)] for file in sorted(files)]]


def _keys(data: RunData, evaluates: bool) -> Any:
    """The keys of all rows: they stand for the rows and for how they are written."""
    held_out = data.eval
    protocols = [held_out.eval_protocol] if evaluates else held_out.protocols()
    keys = [
        held_out.key(dataset, template, protocol)
        for protocol in (protocols if held_out.names else [])
        for dataset, template in held_out.jobs(protocol)
    ]
    if evaluates:
        return keys
    if data.train.trained.seqio_tasks:
        raise _Unknown
    names = {split: data.train.datasets(split) for split in ("train", "validation")}
    trained = [data.train.shard_key(name, 0, split) for split in names for name in names[split]]
    return [keys, trained]


def _files(paths: Iterable[str]) -> Any:
    """What files of directories, and files by themselves, look like from outside.

    Raises:
      _Unknown: where there are too many, or one is not on the disk.
    """
    listing: dict[str, Any] = {}
    for name in paths:
        if name.startswith(PACKAGE):  # the name has the version
            continue
        path = place(name, "a setting")
        if isinstance(path, Remote) or name.startswith(HUB):
            raise _Unknown
        path = path.absolute()
        for file in path.rglob("*") if path.is_dir() else [path]:
            # A report is brought up to date in any case.
            is_report = file != path and file.relative_to(path).parts[0] in WRITTEN
            if not is_report and not file.name.endswith((".lock", FILE)):
                listing[str(file)] = _contents(file, path)
            if len(listing) > _MOST_FILES:
                raise _Unknown
    return sorted(listing.items())


def _contents(file: pathlib.Path, directory: pathlib.Path) -> Sequence[Any]:
    if not file.exists():
        return []
    if file.is_dir():
        return ["directory"]
    # Some small files of a run are written anew each time.
    if file.parent == directory and file.stat().st_size <= _WHOLE:
        return [file_digest(file)]
    return _stamp(file)


def _stamp(file: pathlib.Path) -> Sequence[Any]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
