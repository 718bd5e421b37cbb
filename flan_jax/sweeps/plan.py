"""A sweep in its directory: `sweep.json` has its points, and `run.json` of each run its state.

Of a sweep in a bucket there is a copy on this machine (`storage/copies.py`), which all processes
here share; each reading of a file compares it with the bucket. Each run uploads its own files.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from flan_jax.config import gin_files, run_directory, run_status
from flan_jax.config.declared_settings import declared_settings
from flan_jax.config.gin_parsing import argument_value
from flan_jax.errors import UserError
from flan_jax.evaluation.results_store import RESULTS
from flan_jax.messages import listed
from flan_jax.storage.bucket_lock import is_held
from flan_jax.storage.copies import fetch_all, fetched, origin, read_again
from flan_jax.storage.files import read_json, readable
from flan_jax.storage.locks import is_locked
from flan_jax.storage.places import Place
from flan_jax.storage.remote import Remote
from flan_jax.storage.update import update
from flan_jax.sweeps.absolute_paths import (
    absolute_argument,
    absolute_gin_file,
    absolute_settings,
)
from flan_jax.sweeps.grid import Point, setting_arguments

FILE = run_directory.SWEEP_FILE
_FORMAT = 2  # of the file; before there was none, and texts of settings had no quotes
LOGS, BASELINES = "logs", "baselines"
NOT_STARTED, NOT_EVALUATED, KILLED = "not started", "not evaluated", "killed"
# Which state of several evaluations stands for all.
_FIRST = (run_status.RUNNING, run_status.FAILED, KILLED, run_status.SAVED, NOT_STARTED)
_ADVICE = "put the file back that `flan-jax sweep` wrote, or remove it and give the grid again"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The points of a sweep, and what all of them share.

    Attributes:
      directory: of the sweep; of one in a bucket, its copy on this machine.
      arguments: of `flan-jax train`, for all points.
      points: in the order of the grid.
      evaluations: settings by name; which of them a point has, it says itself.
    """

    directory: pathlib.Path
    arguments: list[str]
    points: list[Point]
    evaluations: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def place(self) -> Place:
        """The directory of the sweep, which may be in a bucket."""
        return origin(self.directory) or self.directory

    def command(self, point: Point) -> list[str]:
        """Returns the arguments of `flan-jax train` for a point."""
        files = [text for text in self.arguments if text.startswith("--gin_file=")]
        others = [text for text in self.arguments if text not in files]
        added = point.arguments()
        added_files = [text for text in added if text.startswith("--gin_file=")]
        return [
            *files,
            *added_files,
            # What follows may set others. The last checkpoint is enough.
            "--gin.Train.keep=1",
            f"--gin.Train.baselines_dir={self.place / BASELINES}",
            *others,
            *(text for text in added if text not in added_files),
            f"--gin.MODEL_DIR={self.place / point.name}",
        ]

    def evaluation_command(self, point: Point, name: str) -> list[str]:
        """Returns the arguments of `flan-jax eval` for an evaluation of a point."""
        output = self.evaluation(point, name)
        return [*self.evaluation_settings(point, name), f"--output={origin(output) or output}"]

    def evaluation_settings(self, point: Point, name: str) -> list[str]:
        """Returns the gin arguments of an evaluation of a point."""
        return [*self.command(point), *setting_arguments(self.evaluations[name])]

    def evaluation(self, point: Point, name: str) -> pathlib.Path:
        """Returns the directory of the results of an evaluation of a point."""
        return self.directory / point.name / "evaluations" / name

    def results(self) -> dict[tuple[str, str], pathlib.Path]:
        """Returns the results files that are there, by point and evaluation ('' for its own)."""
        files = {}
        for point in self.points:
            files[point.name, ""] = self.directory / point.name / RESULTS
            for name in point.evaluations:
                files[point.name, name] = self.evaluation(point, name) / RESULTS
        fetch_all(files.values())
        return {key: file for key, file in files.items() if file.is_file()}

    def states(self) -> dict[str, dict[str, Any]]:
        """Returns the record of each point by name, `status` as `state_of` has it."""
        self._fetch_states(self.points)
        return {point.name: self._state_of(point) for point in self.points}

    def records(self) -> dict[pathlib.Path, dict[str, Any]]:
        """Returns `states` by the directory of each point."""
        return {self.directory / name: state for name, state in self.states().items()}

    def state_of(self, point: Point) -> dict[str, Any]:
        """Returns `run.json` of a point; its `status` may also be 'not started' or 'killed'.

        It is 'finished' when its evaluations are, too; `evaluations` has their states.
        """
        self._fetch_states([point])
        return self._state_of(point)

    def _fetch_states(self, points: Sequence[Point]) -> None:
        """Reads from a bucket what `_state` needs of some points."""
        directories = [self.directory / point.name for point in points]
        directories += [
            self.evaluation(point, name) for point in points for name in point.evaluations
        ]
        names = (run_status.FILE, run_status.LOCK)
        read_again(directory / name for directory in directories for name in names)

    def _state_of(self, point: Point) -> dict[str, Any]:
        """Returns the record of a point, as `state_of`, by what was fetched."""
        record = _state(self.directory / point.name)
        if not point.evaluations:
            return record
        states = {name: _state(self.evaluation(point, name)) for name in point.evaluations}
        record["evaluations"] = {name: state["status"] for name, state in states.items()}
        open_states = [s for s in states.values() if s["status"] != run_status.FINISHED]
        if record["status"] == run_status.FINISHED and open_states:
            worst = min(open_states, key=lambda state: _FIRST.index(state["status"]))
            keys = ("status", "exit_status", "message", "crashes")
            record |= {key: worst[key] for key in keys if key in worst}
            if worst["status"] == NOT_STARTED:
                record["status"] = NOT_EVALUATED
        return record


def _state(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the record of a run or an evaluation, with its state."""
    record = run_status.read_status(directory)
    if is_in_use(directory):
        return {**record, "status": run_status.RUNNING}
    if not record:
        return {"status": NOT_STARTED}
    if record["status"] == run_status.RUNNING:
        return {**record, "status": KILLED}
    return record


def is_in_use(directory: pathlib.Path) -> bool:
    """Returns whether a process works in the directory of a run or of an evaluation.

    Of one in a bucket, by the copy of the lock; see `bucket_lock.is_held`.
    """
    lock = directory / run_status.LOCK
    if origin(directory) is None:
        return is_locked(lock)
    return lock.is_file() and is_held(lock.read_bytes())


def read_run(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the record of a run or an evaluation, as it is now; empty without one.

    Raises:
      UserError: if it is damaged.
    """
    read_again([directory / run_status.FILE])
    return run_status.read_status(directory)


def read_sweep(directory: pathlib.Path) -> Sweep | None:
    """Returns the sweep of a directory; None without one.

    Raises:
      UserError: if `sweep.json` is damaged, or the bucket cannot be read.
    """
    file = fetched(directory / FILE)
    if not file.is_file():
        return None
    record = read_json(file, advice=_ADVICE)
    with readable(file, _ADVICE):
        return _of_record(directory, record)


def _of_record(directory: pathlib.Path, record: dict[str, Any]) -> Sweep:
    """Returns the sweep that a `sweep.json` describes."""
    settings_of = dict if record.get("format") == _FORMAT else _as_read
    points = [
        Point(
            name,
            tuple(point["gin_files"]),
            settings_of(point["settings"]),
            tuple(point.get("evaluations", ())),
        )
        for name, point in record["points"].items()
    ]
    evaluations = {
        name: settings_of(settings) for name, settings in record.get("evaluations", {}).items()
    }
    return Sweep(directory, list(record["arguments"]), points, evaluations)


def _as_read(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings of a file without a format: texts were passed on without quotes."""
    return {
        name: argument_value(f"--gin.{name}", value.strip()) if isinstance(value, str) else value
        for name, value in settings.items()
    }


def _record(sweep: Sweep) -> dict[str, Any]:
    """Returns the contents of `sweep.json`."""
    points = {
        point.name: {
            "gin_files": point.gin_files,
            "settings": point.settings,
            "evaluations": point.evaluations,
        }
        for point in sweep.points
    }
    return {
        "format": _FORMAT,
        "arguments": sweep.arguments,
        "evaluations": sweep.evaluations,
        "points": points,
    }


def keep(sweep: Sweep) -> Sweep:
    """Writes `sweep.json`, with absolute paths, or returns the equal sweep of the directory.

    Raises:
      UserError: if that is another sweep, a point of a new one cannot run, or the file cannot be
        written.
    """
    before = read_sweep(sweep.directory)
    sweep = _with_absolute_paths(checked(sweep) if before is None else sweep)
    record = json.dumps(_record(sweep), indent=1) + "\n"
    if before is None:
        before = _write_first(sweep, record.encode())
    now = _of_record(sweep.directory, json.loads(record))  # a tuple is a list, as in the file
    difference = _difference(_with_absolute_paths(before), now)
    if difference:
        raise UserError(
            f"{sweep.place} holds another sweep ({difference}); give another directory, or "
            "leave the grid out to go on with what is there."
        )
    return before


def _with_absolute_paths(sweep: Sweep) -> Sweep:
    """Returns a sweep with absolute paths; its points keep their names."""
    flag, declared = "--gin_search_paths=", declared_settings()
    searched = [text.removeprefix(flag) for text in sweep.arguments if text.startswith(flag)]
    search_paths = [path for text in searched for path in text.split(",")]
    points = [
        dataclasses.replace(
            point,
            gin_files=tuple(absolute_gin_file(name, search_paths) for name in point.gin_files),
            settings=absolute_settings(point.settings, declared),
        )
        for point in sweep.points
    ]
    return Sweep(
        sweep.directory,
        [absolute_argument(text, declared) for text in sweep.arguments],
        points,
        {
            name: absolute_settings(settings, declared)
            for name, settings in sweep.evaluations.items()
        },
    )


def _write_first(sweep: Sweep, contents: bytes) -> Sweep:
    """Writes `sweep.json` unless another process was first; returns what the file has then."""
    if isinstance(sweep.place, Remote):
        sweep.place.check_writable()  # a bucket that does not exist has the same answer as no file
    update(sweep.place / FILE, lambda before: contents if before is None else None)
    return read_sweep(sweep.directory)


def _difference(before: Sweep, now: Sweep) -> str:
    """What differs between two sweeps; empty for equal ones."""
    points, points_now = (
        {point.name: point.arguments() for point in sweep.points} for sweep in (before, now)
    )
    evaluations, evaluations_now = (
        {name: setting_arguments(settings) for name, settings in sweep.evaluations.items()}
        for sweep in (before, now)
    )
    differences = {
        "without": [name for name in points if name not in points_now],
        "with": [name for name in points_now if name not in points],
        "other points:": _changed(points, points_now),
        "other evaluations:": [
            *(name for name in evaluations_now if name not in evaluations),
            *(f"no {name}" for name in evaluations if name not in evaluations_now),
            *_changed(evaluations, evaluations_now),
        ],
        "other arguments:": [
            *(text for text in now.arguments if text not in before.arguments),
            *(f"no {text}" for text in before.arguments if text not in now.arguments),
            *_reordered(before.arguments, now.arguments),
        ],
    }
    return "; ".join(f"{kind} {listed(names)}" for kind, names in differences.items() if names)


def _changed(before: dict[str, list[str]], now: dict[str, list[str]]) -> list[str]:
    """The names that have other arguments, with these."""
    return [
        f"{name} with {' '.join(now[name])}, not {' '.join(before[name])}"
        for name in now
        if name in before and now[name] != before[name]
    ]


def _reordered(before: list[str], now: list[str]) -> list[str]:
    """The arguments that have one name and the same values in another order: the last one wins."""
    values, values_now = _by_name(before), _by_name(now)
    return [
        " before ".join(texts)
        for name, texts in values_now.items()
        if set(texts) == set(values.get(name, ())) and texts != values[name]
    ]


def _by_name(arguments: list[str]) -> dict[str, list[str]]:
    """The arguments by what stands before their values."""
    named: dict[str, list[str]] = {}
    for text in arguments:
        named.setdefault(text.partition("=")[0], []).append(text)
    return named


def checked(sweep: Sweep) -> Sweep:
    """Returns a sweep whose points can run, each with the evaluations that differ from its own.

    Raises:
      UserError: that lists what is wrong with each point.
    """
    points, problems = [], []
    for point in sweep.points:
        try:
            points.append(_checked(sweep, point))
        except UserError as error:
            problems.append(f"{point.name}: {error}")
    if problems:
        raise UserError(
            f"{len(problems)} of {len(sweep.points)} points cannot run, and none was started:\n  "
            + "\n  ".join(problems)
        )
    return dataclasses.replace(sweep, points=points)


def _checked(sweep: Sweep, point: Point) -> Point:
    """Returns a point with its evaluations.

    Raises:
      UserError: if its settings, or those of an evaluation, cannot work.
    """
    own = check_settings(sweep.command(point))
    differing = []
    for name in sweep.evaluations:
        try:
            if check_settings(sweep.evaluation_settings(point, name)) != own:
                differing.append(name)
        except UserError as error:
            raise UserError(f"evaluation {name}: {error}") from error
    return dataclasses.replace(point, evaluations=tuple(differing))


def check_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the settings of a run by name, checked as `flan-jax train` would.

    Raises:
      UserError: if they cannot work.
    """
    from flan_jax.data.config import DataConfig
    from flan_jax.data.run_data import open_data
    from flan_jax.models.architectures import make_model
    from flan_jax.optim.make import make_optimizer
    from flan_jax.peft.config import PeftConfig
    from flan_jax.training.config import TrainConfig
    from flan_jax.training.trackers import registry as trackers

    gin_files.parse_command_line(arguments, gin_files.CONFIGURED)
    trackers.check(TrainConfig().tracker)
    PeftConfig(), make_optimizer()
    data = open_data(DataConfig())
    make_model(data.config.architecture, data.vocabulary.size)
    return gin_files.settings()
