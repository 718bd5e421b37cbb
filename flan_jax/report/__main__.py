"""The verb `report`: the table and the figure of one or several runs' results.

flan-jax report runs/nli runs/commonsense --output=paper
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Collection, Iterable, Sequence

from flan_jax import signals
from flan_jax.cli import dispatch
from flan_jax.config.flags import ArgumentParser
from flan_jax.errors import UserError
from flan_jax.evaluation import unit_scores
from flan_jax.evaluation.results import MAJORITY, RESULTS, ResultRow, key, known_runs, read_results
from flan_jax.metrics.uncertainty import Measure
from flan_jax.report import summary
from flan_jax.storage.files import write_file
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
    if len(paths) > 1 and arguments.output is None:
        raise UserError(
            "a report of several results is of none of them alone; say with --output=DIR where it "
            "goes."
        )
    output = (
        paths[0].parent if arguments.output is None else local_path(arguments.output, "--output")
    )
    _report(paths, output)
    return 0


def _report(paths: Sequence[pathlib.Path], output: pathlib.Path, redraws: bool = True) -> None:
    rows, known = _all_rows(paths)
    text, files = write_report(rows, output, _tuned_on(paths), known, _sources(paths), redraws)
    print(text)
    for file in files:
        print(f"wrote {file}")


def conclude(directory: pathlib.Path, finished: bool, cause: str) -> int:
    """Ends an evaluation: table and picture, made by the first of several processes, or why there
    are none yet.

    Returns the exit status. `finished` is False if the signal `cause` ended it.
    """
    import jax

    if not finished:
        print(
            f"{cause}: the evaluation is not finished; the same command does the rest.", flush=True
        )
        return signals.SAVED
    if jax.process_index() == 0:
        if not (directory / RESULTS).exists():
            raise UserError(
                "no row was evaluated, so that there is nothing to report; the lines above say why "
                "each dataset was left out."
            )
        _report([directory / RESULTS], directory, redraws=False)
    return 0


def write_report(
    rows: Iterable[ResultRow],
    directory: str | pathlib.Path,
    tuned_on: Collection[str] = (),
    known: summary.Measures | None = None,
    sources: Collection[str] = (),
    redraws: bool = True,
) -> tuple[str, list[pathlib.Path]]:
    """Writes report.md and report.png into a directory; returns the table's text and the paths of
    what was written.

    Args:
      rows: of results files.
      directory: where the files go.
      tuned_on: datasets of which a run trained on rows: the text says which of them it shows.
      known: by `measures.key` of a row, what each unit of rows contributes to it.
      sources: where the evaluated rows come from, for readers.
      redraws: whether to write both files also where they are there and show the same numbers.

    Raises:
      UserError: if the rows hold nothing to report, or the directory cannot be written.
    """
    rows = list(rows)
    lines = summary.compare(rows, known)
    text = summary.table(lines, tuned_on, sources) + summary.progress(rows)
    files = [pathlib.Path(directory) / name for name in ("report.md", "report.png")]
    if (
        not redraws
        and all(file.is_file() for file in files)
        and files[0].read_bytes() == text.encode()
    ):
        return text, []  # to draw imports Matplotlib, which takes as long as the rest
    from flan_jax.report import figures

    for file, contents in zip(files, (text.encode(), figures.draw(lines, sources))):
        write_file(file, contents)
    return text, files


def _all_rows(paths: Sequence[pathlib.Path]) -> tuple[list[ResultRow], dict[tuple, Measure]]:
    """The rows of all files and the measures behind them; runs of one name get their paths for
    names.

    They are told apart by their directories, or, of a run that was copied, by a number that both
    have.
    """
    files = {path: read_results(path) for path in {path.resolve(): path for path in paths}.values()}
    # run -> its directory -> where we first saw it
    homes: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for path, rows in files.items():
        for run in {row.run for row in rows}:
            homes[run].setdefault(_home(path, run), str(path.parent))
    seen = collections.Counter(
        key(row) for rows in files.values() for row in rows if row.model != MAJORITY
    )
    twice = {row.run for rows in files.values() for row in rows if seen[key(row)] > 1}

    def named(row: ResultRow, path: pathlib.Path) -> ResultRow:
        if len(homes[row.run]) > 1:
            return dataclasses.replace(row, run=homes[row.run][_home(path, row.run)])
        return dataclasses.replace(row, run=str(path.parent)) if row.run in twice else row

    kept = {path: dict(unit_scores.read_all(path.parent)) for path in files}
    pairs = [
        (named(row, path), kept[path].get(unit_scores.key(row)))
        for path, rows in files.items()
        for row in rows
    ]
    return [row for row, _ in pairs], {
        unit_scores.key(row): measure for row, measure in pairs if measure is not None
    }


def _home(path: pathlib.Path, run: str) -> str:
    return known_runs(path.parent).get(run, {}).get("directory", str(path.parent.resolve()))


def _tuned_on(paths: Sequence[pathlib.Path]) -> set[str]:
    """The datasets on which the runs trained whose results these are."""
    return {
        name
        for path in paths
        for run in known_runs(path.parent).values()
        for name in run["trained_on"]
    }


def _sources(paths: Sequence[pathlib.Path]) -> set[str]:
    """Where the evaluated rows come from, as far as it was noted."""
    return {
        source
        for path in paths
        for run in known_runs(path.parent).values()
        if (source := run.get("source"))
    }


def _results_path(name: str) -> pathlib.Path:
    path = local_path(name, "RESULTS")
    return path / "results.csv" if path.is_dir() else path


if __name__ == "__main__":
    dispatch.run(main)
