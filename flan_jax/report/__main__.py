"""The verb `report`: the table and the figures of one or several runs' results.

flan-jax report runs/nli runs/commonsense --output=paper
flan-jax report --compare runs/lora runs/full --output=paper
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from flan_jax.cli import dispatch
from flan_jax.config.flags import ArgumentParser
from flan_jax.config.run_status import FINISHED
from flan_jax.errors import UserError
from flan_jax.evaluation.results_store import RESULTS
from flan_jax.messages import listed
from flan_jax.report.inputs import is_read
from flan_jax.report.write import COMPARISON, MARKDOWN, WRITTEN, compare_on, report_on
from flan_jax.storage.copies import read_path, uploading_changes
from flan_jax.sweeps.plan import read_sweep
from flan_jax.sweeps.sweep_table import write_table

_DESCRIPTION = (
    "Prints each dataset's mean and spread over templates; writes report.md, report.html and "
    "figures/."
)


def main(argv: Sequence[str]) -> int:
    """Runs `flan-jax report` with arguments; returns the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.compare:
        return _compare(arguments.compare, arguments.results, arguments.output)
    if not arguments.results:
        parser.error("the following arguments are required: RESULTS")
    names = [str(_path(name)) for name in arguments.results]
    is_beside = arguments.output is None
    paths = [path for name in names for path in _results_paths(name, is_beside)]
    points = {}
    for name in names:
        points |= _points(name)
    if arguments.output is not None:
        output = _output(arguments.output)
    elif len(names) == 1:
        place = pathlib.Path(names[0])
        output = place if place.is_dir() else place.parent
    else:
        raise UserError(
            "a report of several results belongs to none of their directories; say with "
            "--output=DIR where it goes."
        )
    with uploading_changes(output, WRITTEN, last=MARKDOWN):
        report_on(paths, output, points=points)
    return 0


def make_parser() -> ArgumentParser:
    """Returns the parser of the verb's own flags."""
    parser = ArgumentParser("flan-jax report", description=_DESCRIPTION)
    parser.add_argument(
        "results",
        nargs="*",
        metavar="RESULTS",
        help="a results.csv, the directory of a run, or that of a sweep",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two results instead: their differences, paired by rows; writes compare.md and "
        "compare.csv to --output; the seeds of one have commas between them",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="where to write; needed for several results, else beside them",
    )
    return parser


def _compare(models: Sequence[str], others: Sequence[str], output: str | None) -> int:
    """Compares two results; returns the exit status."""
    if others:
        raise UserError(
            f"--compare is of two results, and {listed(others)} is there too; give "
            "--compare A B alone."
        )
    given = [_split(name) for name in models]
    paths = [[path for name in names for path in _results_paths(name, False)] for names in given]
    names = [_name(names) for names in given]
    names = tuple(models if names[0] == names[1] else names)
    if output is None:
        compare_on(*paths, names, None)
        return 0
    directory = _output(output)
    with uploading_changes(directory, WRITTEN, last=COMPARISON):
        compare_on(*paths, names, directory)
    return 0


def _split(name: str) -> list[str]:
    """Returns the results of a model: several have commas between them, such as its seeds."""
    whole = _path(name)
    return [str(whole)] if whole.exists() else [str(_path(part)) for part in name.split(",")]


def _name(results: Sequence[str]) -> str:
    """Returns a name of results for readers, from those of their directories."""
    places = [pathlib.Path(name) for name in results]
    homes = [place.parent if place.suffix == ".csv" else place for place in places]
    return ", ".join(home.resolve().name for home in homes)


def _results_paths(name: str, uploads: bool) -> list[pathlib.Path]:
    """Returns the results file of an argument, or those of the runs of a sweep.

    Args:
      name: the argument, as a path.
      uploads: whether `sweep.csv` is written into the bucket of a sweep there.
    """
    path = pathlib.Path(name)
    sweep = read_sweep(path)
    if sweep is None:
        return [path / RESULTS if path.is_dir() else path]
    found = list(sweep.results().values())
    if not found:
        raise UserError(
            f"no run of the sweep in {sweep.place} has results yet; run flan-jax sweep "
            f"{sweep.place}."
        )
    write_table(sweep, uploads)
    states = {name: state["status"] for name, state in sweep.states().items()}
    unfinished = [f"{name} ({state})" for name, state in states.items() if state != FINISHED]
    if unfinished:
        print(f"{len(unfinished)} of {len(states)} points are not finished: {listed(unfinished)}\n")
    return found


def _path(name: str) -> pathlib.Path:
    """The path of results; of those in a bucket, that of a copy of what a report reads."""
    return read_path(name, "RESULTS", is_read)


def _output(name: str) -> pathlib.Path:
    """The path where a report goes; for one in a bucket, the copy that is uploaded."""
    return read_path(name, "--output", lambda name: name == MARKDOWN)


def _points(name: str) -> dict[pathlib.Path, dict[str, Any]]:
    """Returns the records of the points of a sweep by directory; none for a run."""
    sweep = read_sweep(pathlib.Path(name))
    return sweep.records() if sweep else {}


if __name__ == "__main__":
    dispatch.run(main)
