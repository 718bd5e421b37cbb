"""`mixture.json`: what a run trains on; it must be the same when the run is resumed."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from flan_jax.checkpoints import base_record
from flan_jax.checkpoints.located import located
from flan_jax.config import run_directory
from flan_jax.data.config import DataConfig
from flan_jax.data.run_data import RunData
from flan_jax.data.train_names import in_catalogue
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import read_json, readable, write_file

_FILE = "mixture.json"
_ADVICE = (
    "it records what the run trains on: put it back, or delete it if settings and data are those "
    "that the run began with; then run the same command again"
)
# Lists of datasets in `mixture.json`, in words.
_DATASETS = {"eval": "the evaluated datasets", "dropped": "the dropped datasets"}
# At most this many names of datasets are in a message.
_SHOWN = 4
# Recorded for readers; it follows from the rest.
INITIAL_STEP = "initial_step"
_MAY_DIFFER = ("left_out", "overlaps", "trained_before", INITIAL_STEP)
_INITIAL = "initial_checkpoint_path"


def settings_of(config: DataConfig, initial_checkpoint_path: str | None) -> dict[str, Any]:
    """Returns the settings that must be the same when a run is resumed."""
    return {
        "held_out": config.held_out,
        "related": config.related,
        "commercial_only": config.commercial_only,
        "seed": config.seed,
        "pack": config.pack,
        "options_style": config.options_style,
        "instructions": config.instructions,
        "shots": config.shots,
        "decontaminate": config.decontaminate,
        "architecture": config.architecture,
        "batch_size": config.batch_size,
        "task_feature_lengths": list(config.lengths()),
        _INITIAL: run_directory.absolute(initial_checkpoint_path),
    }


def record_of(data: RunData) -> dict[str, Any]:
    """Returns the data that the settings select, which must be the same when a run is resumed.

    The mixture card is part of it.
    """
    return {
        "eval": data.eval.names,
        "dropped": data.split.dropped,
        "left_out": data.left_out,
        "overlaps": [
            {
                "train": shared.train,
                "eval": shared.evaluated,
                "shared": shared.relation.why,
                "measured": shared.relation.measured,
            }
            for shared in data.split.overlaps
        ],
        "card": [dataclasses.asdict(row) for row in data.train.card(data.train.members())],
        "shards": {m.name: data.train.shard_key(m.name, 0) for m in data.train.members()},
        "vocabulary": data.vocabulary.fingerprint,
    }


def check_same(directory: pathlib.Path, record: dict[str, Any]) -> None:
    """Checks that a run that is resumed trains on what it began with.

    Raises:
      UserError: if `mixture.json` differs from the record, or cannot be read.
    """
    before = _read(directory)
    differing = [
        key
        for key in record
        if before.get(key, record[key]) != record[key] and key not in _MAY_DIFFER
    ]
    if _INITIAL in differing and _has_moved(before[_INITIAL], record[_INITIAL]):
        differing.remove(_INITIAL)
    if not differing:
        return
    with readable(directory / _FILE, _ADVICE):
        changes = "; ".join(_change(key, before[key], record[key]) for key in differing)
    hint = ""
    if set(differing) <= {*_DATASETS, "card", "shards"}:
        hint = (
            " With the same settings and data, another version of flan_jax began the run: resume "
            "it with that version, or begin another run from its parameters with "
            f"--gin.INITIAL_CHECKPOINT_PATH={directory} and another MODEL_DIR. eval, generate and "
            "convert accept the run as it is."
        )
    raise UserError(
        f"MODEL_DIR {str(directory)!r} holds a run that trains on something else: {changes} (see "
        f"mixture.json there). Use the settings and data it began with, or another MODEL_DIR.{hint}"
    )


def _change(key: str, before: Any, now: Any) -> str:
    """Returns what has changed in an entry of `mixture.json`, in words."""
    if key in _DATASETS:
        return f"{_DATASETS[key]}: {_changed_names(before, now)}"
    if key == "card":
        rows = [{row["dataset"]: row for row in card} for card in (before, now)]
        return f"the mixture: {_changed_names(*rows)}"
    if key == "shards":
        others = [name for name in before if name in now and before[name] != now[name]]
        return f"other rows or texts of {_some(others)}" if others else "the set of training rows"
    return f"{key.upper()} is {before!r} there and {now!r} here"


def _changed_names(before: Collection[str], now: Collection[str]) -> str:
    """Returns which datasets of a list, or which values of theirs, have changed."""
    gone, new = [n for n in before if n not in now], [n for n in now if n not in before]
    parts = [f"without {_some(gone)}"] * bool(gone) + [f"with {_some(new)}"] * bool(new)
    if parts:
        return " and ".join(parts) + " here"
    if isinstance(before, Mapping):
        others = [name for name in before if before[name] != now[name]]
        if others:
            return f"other numbers of {_some(others)}"
    return "in another order"


def _some(names: Sequence[str]) -> str:
    first = ", ".join(map(shown, names[:_SHOWN]))
    return first if len(names) <= _SHOWN else f"{first} and {len(names) - _SHOWN} others"


def _has_moved(before: object, now: object) -> bool:
    """Returns whether two INITIAL_CHECKPOINT_PATHs may be the same checkpoint.

    Older runs recorded the path as it was typed, and the checkpoint may have moved.
    """
    if not isinstance(before, str) or not isinstance(now, str):
        return False
    return now.endswith("/" + before.removeprefix("./")) or (
        located(now).exists() and not located(before).exists()
    )


def keep(directory: pathlib.Path, record: dict[str, Any], fresh: bool) -> None:
    """Writes `mixture.json` at the start of a run; checks that it is the same on a restart.

    Args:
      directory: of the run.
      record: what to write, or to compare with.
      fresh: whether the run has no checkpoint yet.

    Raises:
      UserError: see `check_same`.
    """
    path = directory / _FILE
    if not fresh and path.is_file():
        check_same(directory, record)
    elif jax.process_index() == 0:
        write_file(path, json.dumps(record, indent=1))


def trained_on(directory: pathlib.Path, data: RunData) -> list[str]:
    """Returns the datasets on which a run, and the runs it started from, were trained.

    They are read from `mixture.json`: a run may be evaluated with other settings than it was
    trained with, such as another HELD_OUT. Without that file a run was trained on the datasets of
    `data`; for the checkpoint of another program the list is empty.

    Args:
      directory: of the run.
      data: of the present settings.
    """
    names = _trained_on(directory, set())
    if names is None:
        return data.train.candidates() if (directory / "config.gin").exists() else []
    return in_catalogue(names)


def trained_before(initial_checkpoint_path: str | None) -> list[str]:
    """Returns the datasets on which the model of an initial checkpoint was trained.

    The list is empty without one, and for the checkpoint of another program.
    """
    if initial_checkpoint_path is None:
        return []
    place = run_directory.run_of(located(initial_checkpoint_path))
    return in_catalogue(_trained_on(place, set()) or ())


def began_with(directory: pathlib.Path, initial_checkpoint_path: str | None) -> list[str]:
    """Returns what a run that is resumed recorded as `trained_before`.

    Without a record it is `trained_before` of the initial checkpoint.
    """
    record = _read(directory)
    if "trained_before" not in record:
        return trained_before(initial_checkpoint_path)
    with readable(directory / _FILE, _ADVICE):
        return in_catalogue(record["trained_before"])


def initial_step(directory: pathlib.Path) -> int | None:
    """Returns the step of the initial checkpoint that a run began with; None if it is unknown."""
    step = _read(directory).get(INITIAL_STEP)
    if step is None:  # by an older version
        record = base_record.find(directory)
        step = record and record.step
    return step


def _trained_on(directory: pathlib.Path, seen: set[pathlib.Path]) -> list[str] | None:
    """Returns the datasets in the records of a run and of the runs it started from.

    None without a record. `seen` are directories of runs that were read already.
    """
    record, place = _read(directory), directory.resolve()
    if not record or place in seen:
        return None
    with readable(directory / _FILE, _ADVICE):
        names = [*(row["dataset"] for row in record["card"]), *record.get("trained_before", ())]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("a dataset is not a string")
    initial = record.get(_INITIAL)
    if "trained_before" not in record and isinstance(initial, str):  # by an older version
        before = run_directory.run_of(located(initial))
        names += _trained_on(before, seen | {place}) or []
    return list(dict.fromkeys(names))


def _read(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the record of a run; empty without the file.

    Raises:
      UserError: if it is damaged.
    """
    path = directory / _FILE
    return read_json(path, advice=_ADVICE) if path.is_file() else {}
