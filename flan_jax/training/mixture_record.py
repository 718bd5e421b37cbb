"""`mixture.json`: what a run trains on, which must be the same when it is resumed."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax

from flan_jax.data.assemble import Data, DataConfig, in_catalogue
from flan_jax.errors import UserError
from flan_jax.files import read_json, readable, write_file

_FILE = "mixture.json"
_ADVICE = ("it says what the run trains on: put it back, or delete it if settings and data are those that the run "
           "began with; then run the same command again")
# What `mixture.json` calls otherwise than a configuration does.
_IN_WORDS = {"eval": "list of evaluated datasets", "dropped": "list of dropped datasets", "card": "mixture",
             "shards": "set of training rows"}
# What is recorded for the reader and follows from the rest.
_MAY_DIFFER = ("left_out", "overlaps")


def settings_of(config: DataConfig, initial_checkpoint_path: str | None) -> dict[str, Any]:
    """What must be set as it was when a run is resumed."""
    return {
        "held_out": config.held_out, "related": config.related,
        "seed": config.seed, "pack": config.pack, "options_style": config.options_style,
        "instructions": config.instructions, "shots": config.shots, "decontaminate": config.decontaminate,
        "architecture": config.architecture, "batch_size": config.batch_size,
        "task_feature_lengths": list(config.lengths()), "initial_checkpoint_path": initial_checkpoint_path,
    }


def record_of(data: Data) -> dict[str, Any]:
    """What these settings make of the data, the card included; must be the same when a run is resumed, too."""
    return {
        "eval": data.evaluated, "dropped": data.split.dropped, "left_out": data.left_out,
        "overlaps": [{"train": shared.train, "eval": shared.evaluated, "shared": shared.relation.why,
                      "measured": shared.relation.measured} for shared in data.split.overlaps],
        "card": [dataclasses.asdict(row) for row in data.card(data.members())],
        "shards": {m.name: data.shard_key(m.name, 0) for m in data.members()},
        "vocabulary": data.vocabulary.fingerprint,
    }


def check_same(directory: pathlib.Path, record: dict[str, Any]) -> None:
    """Makes sure that a run that is resumed trains on what it began with.

    Raises:
      UserError: if `mixture.json` has something of the record otherwise, or cannot be read.
    """
    before = _read(directory)
    differing = [key for key in record if before.get(key, record[key]) != record[key] and key not in _MAY_DIFFER]
    if differing:
        names = ", ".join(_IN_WORDS.get(key, key.upper()) for key in differing)
        raise UserError(f"MODEL_DIR {str(directory)!r} holds a run with another {names} (see "
                        "mixture.json there); use the settings and data it began with, or another MODEL_DIR.")


def keep(directory: pathlib.Path, record: dict[str, Any], fresh: bool) -> None:
    """Writes `mixture.json` at the start of a run; on a restart, makes sure that it is still the same."""
    path = directory / _FILE
    if not fresh and path.is_file():
        check_same(directory, record)
    elif jax.process_index() == 0:
        write_file(path, json.dumps(record, indent=1))


def trained_on(directory: pathlib.Path, data: Data) -> list[str]:
    """The datasets on which the run of a directory trained, by its `mixture.json`; without one, those of `data`.

    A run may be evaluated with settings that it did not train with: with another HELD_OUT, others would train.
    """
    record = _read(directory)
    if not record:
        return data.candidates()
    with readable(directory / _FILE, _ADVICE):
        names = [row["dataset"] for row in record["card"]]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("a dataset is not a text")
    return in_catalogue(names)


def _read(directory: pathlib.Path) -> dict[str, Any]:
    """The record of a run, empty where there is none.

    Raises:
      UserError: if it is damaged.
    """
    path = directory / _FILE
    return read_json(path, advice=_ADVICE) if path.is_file() else {}
