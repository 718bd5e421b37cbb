"""Writing a report by the verb and at the end of an evaluation: text, figures and page."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flan_jax import signals
from flan_jax.errors import UserError
from flan_jax.evaluation.results_store import RESULTS
from flan_jax.messages import renamed
from flan_jax.parallel import processes
from flan_jax.report import before_after
from flan_jax.report.before_after import BeforeAfter, before_after_of, read_before_after
from flan_jax.report.comparisons import Comparison, compare
from flan_jax.report.figures.figure_files import (
    DIRECTORY,
    ReportFigure,
    make_figures,
    write_figures,
)
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.head_to_head import compare_models, read_model
from flan_jax.report.head_to_head_table import as_csv, markdown
from flan_jax.report.inputs import read_rows, row_sources, tuned_on
from flan_jax.report.page.run_entries import run_entries
from flan_jax.report.page.write_page import FILE as PAGE
from flan_jax.report.page.write_page import PageInputs, write_page
from flan_jax.report.run_facts import read_facts
from flan_jax.report.step_table import progress
from flan_jax.report.table import table
from flan_jax.report.terminal import results_text
from flan_jax.storage.files import write_file
from flan_jax.storage.working_copy import shown_place, working_copy_of

COMPARISON, COMPARISON_CSV = "compare.md", "compare.csv"
MARKDOWN, _PICTURE = "report.md", "report.png"
# What a report and a comparison write into their directory.
WRITTEN = (MARKDOWN, PAGE, _PICTURE, DIRECTORY, COMPARISON, COMPARISON_CSV)
_log = logging.getLogger(__name__)


def report_on(
    paths: Sequence[pathlib.Path],
    output: pathlib.Path,
    points: Mapping[pathlib.Path, Mapping[str, Any]] | None = None,
) -> None:
    """Prints the table of results files; writes it, its figures and the page.

    Args:
      paths: of results files.
      output: the directory where the report goes.
      points: of a sweep: the record of each by its directory.

    Raises:
      UserError: if a file is missing or damaged, or the directory cannot be written.
    """
    report = write_report(paths, output, points)
    print(report.tables)
    for file in report.files:
        print(renamed(f"wrote {file}"))
    if not report.files:
        print(renamed(f"{output / MARKDOWN}, its figures and its page are up to date"))


class Report(NamedTuple):
    """A report on results.

    Attributes:
      lines: of the table; see `comparisons.compare`.
      changes: what tuning changed, of a report on one run.
      tables: the tables as Markdown.
      figures: the figures.
      files: those that were written; others show the same numbers already.
    """

    lines: Sequence[Comparison]
    changes: BeforeAfter
    tables: str
    figures: Sequence[ReportFigure]
    files: Sequence[pathlib.Path]


def write_report(
    paths: Sequence[pathlib.Path],
    output: pathlib.Path,
    points: Mapping[pathlib.Path, Mapping[str, Any]] | None = None,
) -> Report:
    """Writes the table, the figures and the page of results files; see `report_on`.

    Files that show the same numbers already stay as they are.
    """
    inputs = read_rows(paths)
    lines = compare(inputs.rows, inputs.measures, inputs.seeds)
    data = ReportData(lines, row_sources(paths), read_facts(inputs.homes))
    figures = make_figures(data)
    changes = read_before_after(lines, tuned_on(paths), inputs.homes)
    text = table(lines, tuned_on(paths), data.sources) + progress(inputs.rows)
    text += before_after.as_markdown(changes)
    files = _write_text(text, figures, data, output)
    page = PageInputs(
        lines=lines,
        sources=data.sources,
        tuned_on=tuned_on(paths),
        runs=run_entries(inputs.homes, points or {}),
        files=inputs.predictions,
        figures=figures,
        changes=changes,
    )
    files += write_page(page, output)
    return Report(lines, changes, text, figures, files)


def compare_on(
    ours: Sequence[pathlib.Path],
    theirs: Sequence[pathlib.Path],
    names: tuple[str, str],
    output: pathlib.Path | None,
) -> None:
    """Prints the comparison of two models; writes compare.md and compare.csv.

    Args:
      ours: results files of the first model.
      theirs: of the second.
      names: of the models, for readers.
      output: the directory where the files go; None: nowhere.

    Raises:
      UserError: if the models cannot be compared, or the directory cannot be written.
    """
    models = [read_model(name, paths) for name, paths in zip(names, (ours, theirs))]
    comparison = compare_models(*models)
    text = markdown(comparison)
    print(text)
    if output is not None:
        for name, contents in ((COMPARISON, text), (COMPARISON_CSV, as_csv(comparison))):
            write_file(output / name, contents)
            print(f"wrote {output / name}")


def conclude(directory: pathlib.Path, finished: bool, cause: str, is_evaluated: bool = True) -> int:
    """Ends an evaluation: the first of several processes reports on the results of a directory.

    Args:
      directory: of the results.
      finished: whether everything was evaluated; else there is no report yet.
      cause: the signal that ended an unfinished evaluation.
      is_evaluated: False for a run without held-out datasets, which has sample answers only.

    Returns:
      The exit status.

    Raises:
      UserError: if there are no results.
    """
    if not finished:
        _log.info("%s: the evaluation is not finished; the same command does the rest", cause)
        return signals.SAVED
    if processes.index_and_count()[0] != 0:
        return 0
    if not is_evaluated:
        print("\n" + results_text([], before_after_of(directory)))
        return 0
    if not (directory / RESULTS).exists():
        raise UserError(
            "no row was evaluated, so there is nothing to report; the lines above say why "
            "each dataset was left out."
        )
    copy, place = working_copy_of(directory), shown_place(directory)
    if copy is not None:
        if (directory / MARKDOWN).is_file() and not copy.has_changed(RESULTS):
            print(f"{place}/{MARKDOWN}, its figures and its page are up to date")
            return 0
        copy.fetch_for_report()
    report = write_report([directory / RESULTS], directory)
    print("\n" + results_text(report.lines, report.changes))
    print(f"report: {place}/{PAGE} (opens in a browser), {MARKDOWN}")
    names = ", ".join(figure.name for figure in report.figures)
    print(f"figures: {place}/{DIRECTORY}: {names}")
    return 0


def _write_text(
    text: str, figures: Sequence[ReportFigure], data: ReportData, directory: pathlib.Path
) -> list[pathlib.Path]:
    """Writes report.md with these tables, and its figures; returns what was written."""
    markdown, before = directory / MARKDOWN, ""
    if markdown.is_file():
        before = markdown.read_text(encoding="utf-8", errors="replace")
    files = write_figures(figures, data, directory, before)
    files += _copy_first(figures, directory)
    contents = text + _shown(figures)
    # The text comes last: it says that the pictures show the same numbers.
    if contents != before:
        write_file(markdown, contents)
        files.insert(0, markdown)
    return files


def _shown(figures: Sequence[ReportFigure]) -> str:
    """The figures with their captions, as Markdown."""
    lines = ["", "## Figures"]
    for figure in figures:
        # The picture's own text has the caption, too; here it can be searched.
        lines += ["", f"![{figure.name}]({DIRECTORY}/{figure.name}.png)", "", figure.caption]
    return "\n".join([*lines, ""]) if figures else ""


def _copy_first(figures: Sequence[ReportFigure], directory: pathlib.Path) -> list[pathlib.Path]:
    """Copies the picture of the first figure to report.png; returns it if it changed."""
    if not figures:
        return []
    picture = (directory / DIRECTORY / f"{figures[0].name}.png").read_bytes()
    file = directory / _PICTURE
    if file.is_file() and file.read_bytes() == picture:
        return []
    write_file(file, picture)
    return [file]
