"""The notes below the table: what each number is, and what to quote beside it."""

from __future__ import annotations

from collections.abc import Sequence

from flan_jax.metrics import metric_of_key, signature
from flan_jax.report.comparisons import Comparison

_NUMBERS = """\
All numbers are in percent. `mean`, `std` (n - 1), `min` and `max` are over templates: how much the
wording matters.
`s.e.` is the standard error from the rows evaluated, of the mean over templates: how much the
choice of rows matters; in parentheses, how much that of rows and wordings together. A cluster's
line is the mean over the paper's datasets, each the mean of its configurations, and its s.e. that
of this mean. `untuned` is the model before tuning (mean ± std over templates); `majority` always
gives the most frequent class of these rows. `tuned - untuned` is the difference with its 95 %
interval (Student's t), paired by rows; it is there where both were evaluated on the same rows,
templates and instructions. One of 20 such intervals is expected to miss the true difference;
`flan-jax report --compare` adjusts for the number of datasets."""
_SEEDS = """\
Runs that differ only by their seed are one line: each row's scores are averaged over the seeds
first, so that seeds do not count as more rows. `std over seeds` (n - 1) is that of the runs' means:
how much another seed changes."""
_BOUND = """\
≤ An upper bound, the mean of the templates' own standard errors: what each row contributes was not
kept (`predictions/*/*.units.json` beside the results); `flan-jax eval` writes it."""
_CHOSEN = """\
† Chosen on the rows that it is reported on, hence an upper bound; where the validation split is
evaluated too, the template is chosen there."""


def legend(lines: Sequence[Comparison]) -> list[str]:
    """Returns what the numbers of these lines are, as paragraphs of Markdown."""
    tuned = [line.tuned for line in lines if line.tuned]
    notes = [_NUMBERS]
    if any(summary.sd_seeds is not None for summary in tuned):
        notes.append(_SEEDS)
    if any(summary.stderr_is_bound for summary in tuned):
        notes.append(_BOUND)
    if any(summary.has_choice and not summary.best_by_validation for summary in tuned):
        notes.append(_CHOSEN)
    names = {metric_of_key(line.any.metric) for line in lines} - {None}
    return [*notes, *(f"\n{name}: `{signature(name)}`" for name in sorted(names))]
