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
from flan_jax.report.write import compare_on, report_on
from flan_jax.storage.paths import local_path
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
    paths = [path for name in arguments.results for path in _results_paths(name)]
    points = {}
    for name in arguments.results:
        points |= _points(name)
    if arguments.output is not None:
        output = local_path(arguments.output, "--output")
    elif len(arguments.results) == 1:
        place = local_path(arguments.results[0], "RESULTS")
        output = place if place.is_dir() else place.parent
    else:
        raise UserError(
            "a report of several results belongs to none of their directories; say with "
            "--output=DIR where it goes."
        )
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
    paths = [[path for name in names for path in _results_paths(name)] for names in given]
    names = [_name(names) for names in given]
    compare_on(
        *paths,
        tuple(models if names[0] == names[1] else names),
        None if output is None else local_path(output, "--output"),
    )
    return 0


def _split(name: str) -> list[str]:
    """Returns the results of a model: several have commas between them, such as its seeds."""
    return [name] if local_path(name, "RESULTS").exists() else name.split(",")


def _name(results: Sequence[str]) -> str:
    """Returns a name of results for readers, from those of their directories."""
    places = [local_path(name, "RESULTS") for name in results]
    homes = [place.parent if place.suffix == ".csv" else place for place in places]
    return ", ".join(home.resolve().name for home in homes)


def _results_paths(name: str) -> list[pathlib.Path]:
    """Returns the results file of an argument, or those of the runs of a sweep."""
    path = local_path(name, "RESULTS")
    sweep = read_sweep(path)
    if sweep is None:
        return [path / RESULTS if path.is_dir() else path]
    found = list(sweep.results().values())
    if not found:
        raise UserError(
            f"no run of the sweep in {path} has results yet; run flan-jax sweep {path}."
        )
    write_table(sweep)
    states = {name: state["status"] for name, state in sweep.states().items()}
    unfinished = [f"{name} ({state})" for name, state in states.items() if state != FINISHED]
    if unfinished:
        print(f"{len(unfinished)} of {len(states)} points are not finished: {listed(unfinished)}\n")
    return found


def _points(name: str) -> dict[pathlib.Path, dict[str, Any]]:
    """Returns the records of the points of a sweep by directory; none for a run."""
    sweep = read_sweep(local_path(name, "RESULTS"))
    return sweep.records() if sweep else {}


if __name__ == "__main__":
    dispatch.run(main)
