"""The runs of a report as HTML: state, step, parameters, time and settings."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flan_jax.config import run_status
from flan_jax.report.page.escaping import text
from flan_jax.storage.locks import is_locked

# Settings that name a run, or places, and say nothing about its results.
_PLACES = ("MODEL_DIR", "CACHE_DIR", "DATA_DIR")
_TITLES = ("run", "state", "step", "model", "parameters", "time", "settings that differ")
_SYMBOLS = {"finished": "✓", "failed": "✗", "killed": "✗", "running": "▶", "saved": "◐"}


class RunEntry(NamedTuple):
    """A run as a page shows it.

    Attributes:
      name: in the report.
      record: `run.json`, with the `status` of now; empty without one.
      has_results: whether the report has numbers of it.
    """

    name: str
    record: Mapping[str, Any]
    has_results: bool

    @property
    def settings(self) -> dict[str, str]:
        """The settings as gin has them."""
        return {name: repr(value) for name, value in self.record.get("settings", {}).items()}


def run_entries(
    directories: Mapping[str, pathlib.Path], points: Mapping[pathlib.Path, Mapping[str, Any]]
) -> list[RunEntry]:
    """Returns the runs with results, then the points of a sweep without.

    Args:
      directories: of the runs with results, by their names in the report.
      points: of a sweep: the record of each by its directory.

    Raises:
      UserError: if a file of a run is damaged.
    """
    records = {directory.resolve(): record for directory, record in points.items()}
    entries = [
        RunEntry(name, records.get(directory.resolve()) or _read_record(directory), True)
        for name, directory in directories.items()
    ]
    known = {directory.resolve() for directory in directories.values()}
    waiting = [
        RunEntry(directory.name, record, has_results=False)
        for directory, record in records.items()
        if directory not in known
    ]
    return entries + waiting


def _read_record(directory: pathlib.Path) -> dict[str, Any]:
    record = dict(run_status.read_status(directory))
    if record.get("status") == run_status.RUNNING:
        if record.get("pid") == os.getpid():  # the report is the last thing it does
            record["status"] = run_status.FINISHED
        elif not is_locked(directory / run_status.LOCK):
            record["status"] = "killed"
    return record


def run_section(runs: Sequence[RunEntry]) -> str:
    """Returns the HTML of the runs: a table, and below it the settings that all share."""
    with_settings = [run for run in runs if run.settings]
    differing = _differing(with_settings)
    lines = [_cells(run, differing) for run in runs]
    titles = [title for title in _TITLES if any(line[title] for line in lines)]
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = []
    for line in lines:
        cells = [f'<td data-title="{title}">{line[title]}</td>' for title in titles]
        body.append(f"<tr>{''.join(cells)}</tr>")
    rows = "\n".join(body)
    table = (
        '<div class="scroll"><table id="runs-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return table + _shared_settings(with_settings, differing)


def _cells(run: RunEntry, differing: Sequence[str]) -> dict[str, str]:
    """The HTML of each column."""
    settings = [(name, run.settings[name]) for name in differing if name in run.settings]
    cells = (
        text(run.name),
        _state(run),
        _steps(run.record),
        text(run.record.get("size") or ""),
        _parameters(run.record),
        _time(run.record),
        " ".join(
            f'<code class="setting">{text(name)}={text(value)}</code>' for name, value in settings
        ),
    )
    return dict(zip(_TITLES, cells))


def _state(run: RunEntry) -> str:
    status = str(run.record.get("status") or "not recorded")
    symbol = _SYMBOLS.get(status, "·")
    html = f'<span class="state {text(status.replace(" ", "-"))}">{symbol} {text(status)}</span>'
    if not run.has_results:
        html += " <small>no results yet</small>"
    if status == run_status.FAILED and run.record.get("message"):
        html += f'<div class="message">{text(run.record["message"])}</div>'
    return html


def _steps(record: Mapping[str, Any]) -> str:
    if not isinstance(record.get("step"), int):
        return ""
    steps = record.get("steps")
    return f"{record['step']:,}" + (f" of {steps:,}" if isinstance(steps, int) else "")


def _parameters(record: Mapping[str, Any]) -> str:
    count, trained = record.get("parameters"), record.get("trained_parameters")
    if not isinstance(count, int):
        return ""
    return _short(count) + (
        f" <small>({_short(trained)} trained)</small>"
        if isinstance(trained, int) and trained != count
        else ""
    )


def _short(count: int) -> str:
    """A count in words: '1.67 M'."""
    for power, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= power:
            return f"{count / power:.3g} {letter}"
    return str(count)


def _time(record: Mapping[str, Any]) -> str:
    """How long a run took, with its beginning; '' where that is not recorded."""
    seconds, started = record.get("seconds"), record.get("started")
    parts = [_duration(seconds)] if isinstance(seconds, (int, float)) else []
    if started:
        parts.append(f"<small>{text(str(started)[:16].replace('T', ' '))}</small>")
    return " ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _shared_settings(runs: Sequence[RunEntry], differing: Sequence[str]) -> str:
    """The settings that all runs have with one value; of a single run all of them."""
    if not runs:
        return ""
    names = [name for name in runs[0].settings if name not in differing]
    if not names:
        return ""
    rows = "".join(
        f"<tr><td><code>{text(name)}</code></td>"
        f"<td><code>{text(runs[0].settings[name])}</code></td></tr>"
        for name in names
    )
    title = "Settings" if len(runs) == 1 else f"{len(names)} settings that all runs share"
    is_open = " open" if len(runs) == 1 else ""
    return (
        f"<details{is_open}><summary>{title}</summary>"
        f'<div class="scroll"><table class="settings"><tbody>{rows}</tbody></table></div></details>'
    )


def _differing(runs: Sequence[RunEntry]) -> list[str]:
    """The names of the settings that differ between runs, without those of places."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [
        name
        for name in names
        if name not in _PLACES and len({run.settings.get(name) for run in runs}) > 1
    ]
