"""Two tuned models compared dataset by dataset, paired on equal rows and templates."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from flan_jax.errors import UserError
from flan_jax.evaluation.result_rows import MAJORITY, UNTUNED
from flan_jax.messages import listed
from flan_jax.metrics.multiple_comparisons import holm
from flan_jax.metrics.uncertainty import Difference, paired_difference
from flan_jax.report.cluster_means import mean_difference, mean_summary
from flan_jax.report.inputs import read_rows, row_sources
from flan_jax.report.summaries import Summary, summarize


class Setting(NamedTuple):
    """How a dataset was shown to a model."""

    shots: int
    instruction_mode: str

    def __str__(self) -> str:
        return f"{self.shots} shots, INSTRUCTIONS {self.instruction_mode}"


# Of a model: (setting, cluster, dataset) -> its numbers.
_Numbers = dict[tuple[Setting, str, str], Summary]


class Model(NamedTuple):
    """One of the two models.

    Attributes:
      name: for readers.
      numbers: by setting, cluster and dataset.
      sources: where the evaluated rows come from, as far as it was noted.
    """

    name: str
    numbers: _Numbers
    sources: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Line:
    """A dataset, or the mean of a cluster's, of both models.

    Attributes:
      setting: of the first model; that of the second may have other shots.
      cluster, dataset: what was evaluated; the dataset of a mean is ''.
      ours, theirs: the numbers.
      difference: of the first model less the second.
      p_holm: its p-value, adjusted for the number of datasets; None for a mean.
      over: of a mean, the datasets.
    """

    setting: Setting
    cluster: str
    dataset: str
    ours: Summary
    theirs: Summary
    difference: Difference
    p_holm: float | None = None
    over: tuple[str, ...] = ()


class HeadToHead(NamedTuple):
    """A comparison of two models.

    Attributes:
      names: of the models.
      lines: by cluster, each cluster followed by its mean.
      only: for each model, what only it was evaluated on.
    """

    names: tuple[str, str]
    lines: list[Line]
    only: tuple[list[str], list[str]]


def read_model(name: str, paths: Sequence[pathlib.Path]) -> Model:
    """Returns the tuned model of results files; the mean over seeds where only they differ.

    Args:
      name: for readers.
      paths: of the results files.

    Raises:
      UserError: if a file is missing or damaged, or they have no tuned model, or several.
    """
    inputs = read_rows(paths)
    tuned = [row for row in inputs.rows if row.model not in (UNTUNED, MAJORITY)]
    summaries = summarize(tuned, inputs.measures, inputs.seeds)
    models = sorted({(s.series.run, s.series.model) for s in summaries})
    if not models:
        raise UserError(f"{name} has no results of a tuned model; run `flan-jax eval` first.")
    if len(models) > 1:
        listing = listed(" ".join(model) for model in models)
        raise UserError(
            f"{name} has several models ({listing}), and a comparison is of two; give one run of "
            "each. Runs that differ only by SEED count as one."
        )
    numbers = {(_setting(s), s.cluster, s.dataset): s for s in summaries}
    return Model(name, numbers, frozenset(row_sources(paths)))


def compare_models(ours: Model, theirs: Model) -> HeadToHead:
    """Returns the differences of two models on the datasets that both were evaluated on.

    Raises:
      UserError: if there is none, or their rows come from other sources, or rows or templates of
        one of them differ; it says which.
    """
    if ours.sources and theirs.sources and ours.sources != theirs.sources:
        raise UserError(
            f"{ours.name} was evaluated on rows of {listed(sorted(ours.sources))}, {theirs.name} "
            f"on rows of {listed(sorted(theirs.sources))}: rows of one id may differ; evaluate "
            "both with the same DATA_SOURCE."
        )
    pairs = _pairs(ours, theirs)
    problems = [
        f"{dataset}: {problem}"
        for (_, _, dataset), pair in pairs.items()
        if (problem := _problem(*pair))
    ]
    if problems:
        listing = "\n  ".join(problems)
        raise UserError(
            f"{ours.name} and {theirs.name} cannot be compared row by row; evaluate both on the "
            "same rows in the same templates (`flan-jax eval` with the same EVAL_ROWS, "
            f"EVAL_TEMPLATES and EVAL_SPLIT). What differs:\n  {listing}"
        )
    lines = [
        Line(*key, *pair, paired_difference(pair[0].measures, pair[1].measures))
        for key, pair in pairs.items()
    ]
    adjusted = holm({number: line.difference.p for number, line in enumerate(lines)})
    lines = [dataclasses.replace(line, p_holm=adjusted[i]) for i, line in enumerate(lines)]
    of_ours, of_theirs = ({id(pair[side]) for pair in pairs.values()} for side in (0, 1))
    only = _others(ours, of_ours), _others(theirs, of_theirs)
    return HeadToHead((ours.name, theirs.name), _with_means(lines), only)


def _setting(summary: Summary) -> Setting:
    return Setting(summary.series.shots, summary.series.instruction_mode)


def _pairs(ours: Model, theirs: Model) -> dict[tuple[Setting, str, str], tuple[Summary, Summary]]:
    """The numbers of both by setting, cluster and dataset, of what both have.

    Where each was evaluated in one setting, the number of shots may differ.
    """
    settings = [{setting for setting, *_ in model.numbers} for model in (ours, theirs)]
    partner = {setting: setting for setting in settings[0] & settings[1]}
    if not partner and len(settings[0]) == len(settings[1]) == 1:
        (one,), (other,) = settings
        partner = {one: other} if one.instruction_mode == other.instruction_mode else {}
    if not partner:
        raise UserError(
            f"{ours.name} was evaluated with {listed(sorted(settings[0]))}, {theirs.name} with "
            f"{listed(sorted(settings[1]))}: these are other prompts; evaluate both with the same "
            "INSTRUCTIONS and SHOTS."
        )
    pairs = {}
    for key, summary in ours.numbers.items():
        other = theirs.numbers.get((partner.get(key[0]), *key[1:]))
        if other is not None:
            pairs[key] = (summary, other)
    if not pairs:
        datasets = [sorted({key[2] for key in model.numbers}) for model in (ours, theirs)]
        raise UserError(
            f"{ours.name} and {theirs.name} have no dataset in common: {listed(datasets[0])} and "
            f"{listed(datasets[1])}."
        )
    return dict(sorted(pairs.items(), key=lambda item: item[0]))


def _problem(ours: Summary, theirs: Summary) -> str:
    """Why the numbers of a dataset cannot be compared row by row; empty if they can."""
    if ours.split != theirs.split:
        return f"split {ours.split} and {theirs.split}"
    if ours.metric != theirs.metric:
        return f"metric {ours.metric} and {theirs.metric}"
    if ours.templates != theirs.templates:
        lacking = [name for name in ours.templates if name not in theirs.templates]
        added = [name for name in theirs.templates if name not in ours.templates]
        parts = [
            f"templates {listed(names)} only of the {which}"
            for names, which in ((lacking, "first"), (added, "second"))
            if names
        ]
        return "; ".join(parts)
    for summary, which in ((ours, "first"), (theirs, "second")):
        if not summary.measures:
            return (
                f"what each row contributes is not there for the {which} "
                "(predictions/*/*.units.json); run `flan-jax eval` again"
            )
    units, other_units = ours.measures[0].units, theirs.measures[0].units
    if ours.n != theirs.n or units != other_units:
        common = len(set(units) & set(other_units))
        same = f", {common} of {len(units)} ids in common" if ours.n == theirs.n else ""
        return f"{ours.n} and {theirs.n} rows{same}"
    if ours.measures[0].parts.shape != theirs.measures[0].parts.shape:
        return "the metric counts other classes"
    return ""


def _others(model: Model, compared: set[int]) -> list[str]:
    """The datasets of a model that are not compared, with their setting."""
    return [
        f"{dataset} ({summary.split}, {setting})"
        for (setting, _, dataset), summary in sorted(model.numbers.items(), key=lambda i: i[0])
        if id(summary) not in compared
    ]


def _with_means(lines: Sequence[Line]) -> list[Line]:
    """The lines by setting and cluster, followed by their mean where there are several."""
    result = []
    for place in dict.fromkeys((line.setting, line.cluster) for line in lines):
        members = [line for line in lines if (line.setting, line.cluster) == place]
        result += members
        if len(members) > 1:
            result.append(_mean(members))
    return result


def _mean(lines: Sequence[Line]) -> Line:
    return Line(
        lines[0].setting,
        lines[0].cluster,
        "",
        mean_summary([line.ours for line in lines]),
        mean_summary([line.theirs for line in lines]),
        mean_difference({line.dataset: line.difference for line in lines}),
        over=tuple(line.dataset for line in lines),
    )
