"""A sweep on disk: `sweep.json` has its points, and `run.json` of each run its state."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from flan_jax.config import gin_files, run_status
from flan_jax.errors import UserError
from flan_jax.evaluation.results_store import RESULTS
from flan_jax.messages import listed
from flan_jax.storage.files import read_json, readable, write_file
from flan_jax.storage.locks import is_locked
from flan_jax.sweeps.grid import Point

FILE = "sweep.json"
LOGS = "logs"
NOT_STARTED, KILLED = "not started", "killed"
_ADVICE = "put the file back that `flan-jax sweep` wrote, or remove it and give the grid again"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The points of a sweep, and what all of them share.

    Attributes:
      directory: of the sweep.
      arguments: of `flan-jax train`, for all points.
      points: in the order of the grid.
    """

    directory: pathlib.Path
    arguments: list[str]
    points: list[Point]

    def command(self, point: Point) -> list[str]:
        """Returns the arguments of `flan-jax train` for a point."""
        files = [text for text in self.arguments if text.startswith("--gin_file=")]
        others = [text for text in self.arguments if text not in files]
        added = point.arguments()
        added_files = [text for text in added if text.startswith("--gin_file=")]
        return [
            *files,
            *added_files,
            # The last checkpoint is enough; what follows may set another number.
            "--gin.Train.keep=1",
            *others,
            *(text for text in added if text not in added_files),
            f"--gin.MODEL_DIR={self.directory / point.name}",
        ]

    def results(self) -> dict[str, pathlib.Path]:
        """Returns the results files that are there, by the names of their points."""
        files = {point.name: self.directory / point.name / RESULTS for point in self.points}
        return {name: file for name, file in files.items() if file.is_file()}

    def states(self) -> dict[str, dict[str, Any]]:
        """Returns the record of each point by name, `status` as `state_of` has it."""
        return {point.name: self.state_of(point) for point in self.points}

    def state_of(self, point: Point) -> dict[str, Any]:
        """Returns `run.json` of a point; its `status` may also be 'not started' or 'killed'."""
        directory = self.directory / point.name
        record = run_status.read_status(directory)
        if is_locked(directory / run_status.LOCK):
            return {**record, "status": run_status.RUNNING}
        if not record:
            return {"status": NOT_STARTED}
        if record["status"] == run_status.RUNNING:
            return {**record, "status": KILLED}
        return record


def read_sweep(directory: pathlib.Path) -> Sweep | None:
    """Returns the sweep of a directory; None without one.

    Raises:
      UserError: if `sweep.json` is damaged.
    """
    file = directory / FILE
    if not file.is_file():
        return None
    record = read_json(file, advice=_ADVICE)
    with readable(file, _ADVICE):
        found = [
            Point(name, tuple(point["gin_files"]), dict(point["settings"]))
            for name, point in record["points"].items()
        ]
        return Sweep(directory, list(record["arguments"]), found)


def keep(sweep: Sweep) -> None:
    """Writes `sweep.json`, or compares it with the sweep that the directory holds.

    Raises:
      UserError: if that is another sweep.
    """
    before = read_sweep(sweep.directory)
    if before is None:
        points = {
            point.name: {"gin_files": point.gin_files, "settings": point.settings}
            for point in sweep.points
        }
        record = {"arguments": sweep.arguments, "points": points}
        write_file(sweep.directory / FILE, json.dumps(record, indent=1) + "\n")
        return
    difference = _difference(before, sweep)
    if difference:
        raise UserError(
            f"{sweep.directory} holds another sweep ({difference}); give another directory, or "
            "leave the grid out to go on with what is there."
        )


def _difference(before: Sweep, now: Sweep) -> str:
    """What differs between two sweeps; empty for equal ones."""
    names, names_now = ([point.name for point in sweep.points] for sweep in (before, now))
    lacking = [name for name in names if name not in names_now]
    new = [name for name in names_now if name not in names]
    arguments = [text for text in now.arguments if text not in before.arguments]
    arguments += [f"no {text}" for text in before.arguments if text not in now.arguments]
    parts = [
        f"without {listed(lacking)}" if lacking else "",
        f"with {listed(new)}" if new else "",
        f"other arguments: {listed(arguments)}" if arguments else "",
    ]
    return "; ".join(filter(None, parts))


def check_points(sweep: Sweep) -> None:
    """Checks the settings of every point, as `flan-jax train` would.

    Raises:
      UserError: that lists what is wrong with each.
    """
    problems = [
        f"{point.name}: {problem}"
        for point in sweep.points
        if (problem := _problem(sweep.command(point)))
    ]
    if problems:
        raise UserError(
            f"{len(problems)} of {len(sweep.points)} points cannot run, and none was started:\n  "
            + "\n  ".join(problems)
        )


def _problem(arguments: Sequence[str]) -> str:
    """What is wrong with the settings of a run; empty if nothing is."""
    from flan_jax.data.config import DataConfig
    from flan_jax.data.run_data import open_data
    from flan_jax.models.architectures import make_model
    from flan_jax.optim.make import make_optimizer
    from flan_jax.peft.config import PeftConfig
    from flan_jax.training.config import TrainConfig

    try:
        gin_files.parse_command_line(arguments, gin_files.CONFIGURED)
        TrainConfig(), PeftConfig(), make_optimizer()
        data = open_data(DataConfig())
        make_model(data.config.architecture, data.vocabulary.size)
    except UserError as error:
        return str(error)
    return ""
