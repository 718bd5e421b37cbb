"""The check of a source: the first rows of a dataset, rendered in every way a run can choose.

A dataset is 'ok', 'manual' (its rows must be fetched by hand, and the steps are given),
'unavailable' (with the reason) or 'failed': rows that cannot be read or rendered.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from flan_jax.catalogue.records import Dataset, Drop, Template
from flan_jax.catalogue.render import INSTRUCTIONS, STYLES, Rendered, render
from flan_jax.catalogue.row_fields import read_row
from flan_jax.data.sources.base import Source
from flan_jax.errors import UserError
from flan_jax.messages import shown

# If none of the rows that are checked is usable, so many are read to find one.
_MOST_UNUSABLE = 1000

HEADER = f"{'status':<12}{'dataset':<36}rows read"


@dataclasses.dataclass
class DatasetReport:
    """The results of the check of a dataset.

    Attributes:
      name, cluster: of the dataset.
      status: 'ok', 'manual', 'unavailable' or 'failed'.
      rows: rows read of each of our splits.
      dropped: how many of them are not usable, by reason.
      templates: how many each row was rendered in.
      unavailable: why a split has no rows here.
      manual: the steps to fetch the rows by hand, for status 'manual'.
      problems: what failed, one line each with split, row and template.
    """

    name: str
    cluster: str
    status: str = "ok"
    rows: dict[str, int] = dataclasses.field(default_factory=dict)
    dropped: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    templates: int = 0
    unavailable: dict[str, str] = dataclasses.field(default_factory=dict)
    manual: str | None = None
    problems: list[str] = dataclasses.field(default_factory=list)


def table_row(report: DatasetReport) -> str:
    """Returns the report as a row under `HEADER`, with what is missing or wrong indented below."""
    rows = ", ".join(f"{split} {count}" for split, count in report.rows.items())
    dropped = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
    reasons = [f"{split}: {why}" for split, why in report.unavailable.items()]
    if report.status == "manual":
        reasons = [report.manual]
    elif report.status == "unavailable":
        reasons = list(report.unavailable.values())[:1]
    line = f"{report.status:<12}{report.name:<36}{rows}"
    line += f" (left out: {dropped})" if dropped else ""
    details = [f"{'':<12}{detail}" for detail in report.problems + reasons]
    return "\n".join([line.rstrip(), *details])


def summary(reports: Sequence[DatasetReport], source: str) -> str:
    """Returns the line below the table: how many datasets have which status."""
    count = collections.Counter(report.status for report in reports)
    by_hand = f", {count['manual']} to be fetched by hand" if count["manual"] else ""
    return (
        f"{count['ok']} ok, {count['failed']} failed, {count['unavailable']} without rows in "
        f"{source}{by_hand}; {sum(sum(r.rows.values()) for r in reports):,} rows, each in every "
        "template, options style and instruction mode, with 0 and 1 shots"
    )


def check_dataset(source: Source, dataset: Dataset, num_rows: int) -> DatasetReport:
    """Returns a report on the first rows of each split, rendered in every way a run can choose.

    Each row is rendered alone and after the row before it, which stands for an exemplar.

    Args:
      source: where the rows are.
      dataset: a record of the catalogue.
      num_rows: how many rows of each split.
    """
    report = DatasetReport(dataset.name, dataset.cluster, templates=len(dataset.templates))
    for split in dataset.splits:
        _check_split(source, dataset, split, num_rows, report)
    if report.problems:
        report.status = "failed"
    elif not any(report.rows.values()):
        report.manual = source.manual_steps(dataset)
        report.status = "manual" if report.manual else "unavailable"
    return report


def _check_split(
    source: Source, dataset: Dataset, split: str, num_rows: int, report: DatasetReport
) -> None:
    """Checks the first rows of a split, and reads on until one is usable."""
    place, exemplar, unusable = split, None, None
    try:
        why = source.available(dataset, split)
        if why:
            report.unavailable[split] = why
            return
        report.rows[split] = 0
        rows = source.rows(dataset, source.spec(dataset, split))
        for index, raw in itertools.islice(rows, _MOST_UNUSABLE):
            if report.rows[split] >= num_rows and (exemplar is not None or num_rows == 0):
                break
            place = f"{split}/{index}"
            row = read_row(dataset, raw)
            if isinstance(row, Drop):
                report.dropped[row.reason] += 1
                unusable = unusable or f"{place} ({row.reason}) is {shown(raw)}"
            else:
                _check_row(dataset, row, exemplar, place, report)
                exemplar = row
            report.rows[split] += 1
    except Exception as error:  # a dataset that cannot be read must not hide the others
        report.problems.append(f"{place}: {_first_line(error)}")
        return
    if exemplar is None and report.rows[split]:
        report.problems.append(f"{split}: no row of {report.rows[split]:,} is usable; {unusable}")


def _ways(dataset: Dataset) -> Iterator[tuple[str, str, tuple[Template, ...]]]:
    """Yields (options style, instruction mode, templates) for each way that makes a difference.

    Where a mode shows nothing of a template's text, one template stands for all of its kind.
    Letters without a list of options are left out: a run refuses them.
    """
    forward, inverted = (
        dataset.forward(),
        tuple(t for t in dataset.templates if t.kind == "inverted"),
    )
    for style, mode in itertools.product(STYLES if dataset.options else STYLES[:1], INSTRUCTIONS):
        if mode == "template":
            yield style, mode, dataset.templates
        elif mode == "baseline":
            yield style, mode, forward[:1] + inverted[:1]
        elif style != "lettered":
            yield style, mode, forward[:1]


def _check_row(
    dataset: Dataset,
    row: dict[str, Any],
    exemplar: dict[str, Any] | None,
    place: str,
    report: DatasetReport,
) -> None:
    """Renders a row in every way, alone and after an exemplar; reports the problems."""
    for style, mode, templates in _ways(dataset):
        for exemplars in [()] if exemplar is None else [(), (exemplar,)]:
            seen: dict[str, str] = {}
            for template in templates:
                text = render(
                    dataset,
                    template,
                    row,
                    row_id=place,
                    options_style=style,
                    instructions=mode,
                    exemplars=exemplars,
                )
                problem = _problem(template, text)
                twin = seen.setdefault(text.inputs, template.id)
                if not problem and twin != template.id:
                    problem = f"has the same input as {twin}"
                if problem:
                    _add_problem(report, place, template.id, problem, (style, mode, len(exemplars)))


def _add_problem(
    report: DatasetReport, place: str, template: str, problem: str, way: tuple[str, str, int]
) -> None:
    """Adds a problem once: the first row with it, and the first way of rendering, stand for all."""
    style, mode, shots = way
    named = (
        ""
        if way == ("fixed", "template", 0)
        else f" (options {style}, instructions {mode}, {shots} shots)"
    )
    if not any(f" {template} {problem}" in known for known in report.problems):
        report.problems.append(f"{place} {template} {problem}{named}")


def _problem(template: Template, text: Rendered) -> str | None:
    """What is wrong with a rendered row; None if nothing is."""
    if not text.inputs.strip() or not text.targets.strip():
        return "is empty"
    if text.inputs != text.inputs.strip() or text.targets != text.targets.strip():
        return "begins or ends with white space"
    if text.options is not None and text.answer not in text.options:
        return f"has the answer {text.answer!r}, which is not an option"
    if text.options is not None and any(not option for option in text.options):
        return "has an empty option"
    if template.kind == "forward" and text.targets != text.answer:
        return f"asks for {text.targets!r}, not for the answer"
    return None


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or "failed").splitlines()[0]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
