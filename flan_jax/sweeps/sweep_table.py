"""`sweep.csv`: the rows of all points' results.csv, with what differs between the points."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax.evaluation.result_rows import COLUMNS
from flan_jax.storage.copies import fetched, origin
from flan_jax.storage.files import write_file
from flan_jax.sweeps.grid import Point
from flan_jax.sweeps.plan import Sweep

FILE = "sweep.csv"
# Of run.json, beside the settings of the point.
_RECORDED = (
    "status",
    "step",
    "steps",
    "size",
    "parameters",
    "trained_parameters",
    "held_out",
    "tokens",
    "seconds",
)


def write_table(sweep: Sweep, uploads: bool = True) -> int:
    """Writes `sweep.csv` if it changes; returns its number of rows.

    Columns: those of results.csv; `point`, `evaluation` (with other settings than the run's own;
    empty for those) and `gin_files`; 'sweep.NAME' for each axis of the grid
    (where a point does not set it, the value that its run has); 'run.NAME' of each run's record,
    and its seed.

    Args:
      sweep: with the points.
      uploads: whether the file of a sweep in a bucket is written there, and not only to its copy.
    """
    axes = list(dict.fromkeys(name for point in sweep.points for name in point.settings))
    states, results = sweep.states(), sweep.results()
    rows = []
    for point in sweep.points:
        files = {name: path for (of, name), path in results.items() if of == point.name}
        rows += _rows(point, states[point.name], files, axes)
    if not rows:
        return 0
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = fetched(sweep.directory / FILE)
    if not path.is_file() or path.read_bytes() != text.getvalue().encode():
        write_file(path, text.getvalue())
        if uploads and (there := origin(path)):
            there.write_bytes(text.getvalue())
    return len(rows)


def _rows(
    point: Point,
    record: Mapping[str, Any],
    files: Mapping[str, pathlib.Path],
    axes: Sequence[str],
) -> list[dict[str, Any]]:
    """Returns the rows of a point's results, also of its evaluations, with what belongs to them.

    Args:
      point: of the sweep.
      record: see `Sweep.state_of`.
      files: the results by evaluation; see `Sweep.results`.
      axes: names of the settings that differ between the points.
    """
    settings = {**record.get("settings", {}), **point.settings}
    added = {"gin_files": " ".join(point.gin_files)}
    added |= {f"sweep.{axis}": settings.get(axis, "") for axis in axes}
    added |= {f"run.{name}": record.get(name, "") for name in _RECORDED}
    added["run.seed"] = settings.get("SEED", "")
    rows = []
    for evaluation, path in files.items():
        place = {"point": point.name, "evaluation": evaluation}
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rows.append({**{column: row[column] for column in COLUMNS}, **place, **added})
    return rows
