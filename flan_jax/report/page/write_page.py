"""Assembling `report.html` from its template, style and script, and what they show."""

from __future__ import annotations

import base64
import functools
import hashlib
import pathlib
import string
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from flan_jax.config.run_status import FINISHED
from flan_jax.report.before_after import BeforeAfter, as_html, verdicts_html
from flan_jax.report.comparisons import Comparison
from flan_jax.report.figures.figure_files import ReportFigure
from flan_jax.report.notes import legend
from flan_jax.report.page.browsed_rows import PredictionFiles, browsed_rows
from flan_jax.report.page.escaping import json_for_script, paragraphs, text
from flan_jax.report.page.inline_figures import figure_section
from flan_jax.report.page.results_table import results_table
from flan_jax.report.page.run_entries import RunEntry, run_section
from flan_jax.report.table import caption
from flan_jax.storage.files import write_file

FILE = "report.html"
# A page of this size opens at once and passes through e-mail. The rows take what the rest leaves,
# but at least so much.
_PAGE_BYTES, _LEAST_FOR_ROWS = 450_000, 100_000
_HERE = pathlib.Path(__file__).parent


class PageInputs(NamedTuple):
    """What a page shows.

    Attributes:
      lines: of the table; see `comparisons.compare`.
      sources: where the evaluated rows come from.
      tuned_on: datasets that a run trained on.
      runs: all runs, those without results too.
      files: of predictions.
      figures: whose files are beside the page.
      changes: what tuning changed, of a report on one run.
    """

    lines: Sequence[Comparison]
    sources: Collection[str]
    tuned_on: Collection[str]
    runs: Sequence[RunEntry]
    files: PredictionFiles
    figures: Sequence[ReportFigure]
    changes: BeforeAfter = BeforeAfter()


def write_page(inputs: PageInputs, directory: pathlib.Path) -> list[pathlib.Path]:
    """Writes `report.html`, unless it is there with the same contents; returns what was written.

    Raises:
      UserError: if predictions are damaged, or the file cannot be written.
    """
    page = page_html(inputs, directory).encode("utf-8")
    file = directory / FILE
    if file.is_file() and file.read_bytes() == page:
        return []
    write_file(file, page)
    return [file]


def page_html(inputs: PageInputs, directory: pathlib.Path) -> str:
    """Returns the page, whose bytes depend on the inputs alone.

    Args:
      inputs: what it shows.
      directory: where it goes, for the names of the files beside it.
    """
    figures = figure_section(inputs.figures, directory)
    parts: dict[str, Any] = {
        "title": text(directory.resolve().name),
        "caption": text(caption(inputs.lines, inputs.sources)),
        "counts": text(_counts(inputs)),
        "notices": _notices(inputs),
        "verdicts": verdicts_html(inputs.changes),
        "changes": as_html(inputs.changes),
        "table": results_table(inputs.lines),
        "legend": "".join(map(paragraphs, legend(inputs.lines))),
        "figures": figures or "<p>This report has no figures.</p>",
        "runs": run_section(inputs.runs),
        "style": _source("style.css"),
        "script": _source("page.js"),
        "script_digest": _digest(_source("page.js")),
    }
    size = sum(len(part.encode()) for part in parts.values())
    room = max(_PAGE_BYTES - size, _LEAST_FOR_ROWS)
    rows = browsed_rows(inputs.lines, inputs.files, directory, room)
    template = string.Template(_source("template.html"))
    return template.substitute(parts, rows=json_for_script(rows))


@functools.cache
def _source(name: str) -> str:
    """A file of the package."""
    return (_HERE / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """The script's digest as a content security policy has it: no other script may run."""
    digest = hashlib.sha256(script.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def _counts(inputs: PageInputs) -> str:
    runs, results = len(inputs.runs), sum(bool(line.dataset) for line in inputs.lines)
    return f"{runs} {'run' if runs == 1 else 'runs'}, {results} results"


def _notices(inputs: PageInputs) -> str:
    """What a reader must know first: runs that are not finished, datasets that are not held out."""
    notices = []
    states = {run.name: run.record.get("status", FINISHED) for run in inputs.runs}
    unfinished = [f"{name} ({state})" for name, state in states.items() if state != FINISHED]
    if unfinished:
        count = f"{len(unfinished)} of {len(inputs.runs)}"
        notices.append(f"{count} runs are not finished: {', '.join(unfinished)}.")
    seen = sorted({line.dataset for line in inputs.lines} & set(inputs.tuned_on))
    if seen:
        notices.append(
            "Not held out, hence not zero-shot for the model that trained on it: "
            f"{', '.join(seen)}."
        )
    return "".join(f'<p class="notice">{text(notice)}</p>' for notice in notices)
