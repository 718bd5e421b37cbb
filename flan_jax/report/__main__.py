"""The verb `report`: the table and the figure of one or several runs' results.

flan-jax report runs/nli runs/commonsense --output=paper
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from flan_jax.cli import dispatch
from flan_jax.config.flags import ArgumentParser
from flan_jax.errors import UserError
from flan_jax.evaluation.results_store import RESULTS
from flan_jax.report.write import report_on
from flan_jax.storage.paths import local_path

_DESCRIPTION = (
    "Prints each dataset's mean and spread over templates; writes report.md and report.png."
)


def main(argv: Sequence[str]) -> int:
    """Runs `flan-jax report` with arguments; returns the exit status."""
    parser = ArgumentParser("flan-jax report", description=_DESCRIPTION)
    parser.add_argument(
        "results", nargs="+", metavar="RESULTS", help="a results.csv, or a run directory with one"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="where to write; needed for several results, else beside them",
    )
    arguments = parser.parse_args(argv)
    paths = [_results_path(name) for name in arguments.results]
    if arguments.output is not None:
        output = local_path(arguments.output, "--output")
    elif len(paths) == 1:
        output = paths[0].parent
    else:
        raise UserError(
            "a report of several results belongs to none of their directories; say with "
            "--output=DIR where it goes."
        )
    report_on(paths, output)
    return 0


def _results_path(name: str) -> pathlib.Path:
    path = local_path(name, "RESULTS")
    return path / RESULTS if path.is_dir() else path


if __name__ == "__main__":
    dispatch.run(main)
