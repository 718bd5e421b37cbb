"""`sweep.csv`: the rows of all points' results.csv, with what differs between the points."""

from __future__ import annotations

import csv
import io

from flan_jax.evaluation.results_store import RESULTS
from flan_jax.storage.files import write_file
from flan_jax.sweeps.plan import Sweep

FILE = "sweep.csv"
# Of run.json, beside the settings of the point.
_RECORDED = ("parameters", "trained_parameters", "status", "step")


def write_table(sweep: Sweep) -> int:
    """Writes `sweep.csv`; returns its number of rows.

    Columns: those of results.csv, `point`, the axes of the grid, and of each run its parameters,
    status and step.
    """
    axes = list(dict.fromkeys(name for point in sweep.points for name in point.settings))
    rows, columns = [], []
    for point in sweep.points:
        path = sweep.directory / point.name / RESULTS
        if not path.is_file():
            continue
        record = sweep.state_of(point)
        added = {"point": point.name, "gin_files": " ".join(point.gin_files)}
        added |= {f"sweep.{axis}": point.settings.get(axis, "") for axis in axes}
        added |= {f"run.{name}": record.get(name, "") for name in _RECORDED}
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows += [{**row, **added} for row in reader]
            columns = list(dict.fromkeys([*columns, *(reader.fieldnames or ()), *added]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(sweep.directory / FILE, text.getvalue())
    return len(rows)
