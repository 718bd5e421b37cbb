"""`sweep.csv`: the rows of all points' results.csv, with what differs between the points."""

from __future__ import annotations

import csv
import io
from typing import Any

from flan_jax.evaluation.result_rows import COLUMNS
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


def write_table(sweep: Sweep) -> int:
    """Writes `sweep.csv` if it changes; returns its number of rows.

    Columns: those of results.csv; `point`, `evaluation` (with other settings than the run's own;
    empty for those) and `gin_files`; 'sweep.NAME' for each axis of the grid
    (where a point does not set it, the value that its run has); 'run.NAME' of each run's record,
    and its seed.
    """
    axes = list(dict.fromkeys(name for point in sweep.points for name in point.settings))
    rows = [row for point in sweep.points for row in _rows(sweep, point, axes)]
    if not rows:
        return 0
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = sweep.directory / FILE
    if not path.is_file() or path.read_bytes() != text.getvalue().encode():
        write_file(path, text.getvalue())
    return len(rows)


def _rows(sweep: Sweep, point: Point, axes: list[str]) -> list[dict[str, Any]]:
    """Returns the rows of a point's results, also of its evaluations, with what belongs to them."""
    record = sweep.state_of(point)
    settings = {**record.get("settings", {}), **point.settings}
    added = {"gin_files": " ".join(point.gin_files)}
    added |= {f"sweep.{axis}": settings.get(axis, "") for axis in axes}
    added |= {f"run.{name}": record.get(name, "") for name in _RECORDED}
    added["run.seed"] = settings.get("SEED", "")
    rows = []
    for (name, evaluation), path in sweep.results().items():
        if name != point.name:
            continue
        place = {"point": name, "evaluation": evaluation}
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rows.append({**{column: row[column] for column in COLUMNS}, **place, **added})
    return rows
