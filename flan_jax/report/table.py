"""The comparisons as a Markdown table."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.evaluation.result_rows import CHAT
from flan_jax.metrics.uncertainty import Difference
from flan_jax.report.cluster_means import count_of_datasets
from flan_jax.report.comparisons import Comparison, means_are_alike
from flan_jax.report.notes import legend
from flan_jax.report.summaries import INVERTED, Summary


def table(
    lines: Sequence[Comparison], tuned_on: Collection[str] = (), sources: Collection[str] = ()
) -> str:
    """Returns the comparisons as Markdown, with a legend that says what each number is.

    Args:
      lines: see `comparisons.compare`.
      tuned_on: datasets that a model trained on: the text says which of them it shows.
      sources: where the evaluated rows come from, for the caption.
    """
    has_labels = len({line.label for line in lines if line.tuned or line.untuned}) > 1
    has_seeds = any(line.tuned and line.tuned.sd_seeds is not None for line in lines)
    text = ["# Results", "", caption(lines, sources)]
    for cluster in dict.fromkeys(line.cluster for line in lines):
        members = [line for line in lines if line.cluster == cluster]
        text += ["", f"## {heading(cluster)}", "", *_head(has_labels, has_seeds)]
        alike = means_are_alike(members)
        text += [markdown_line(_cells(line, has_labels, has_seeds, alike)) for line in members]
    text += ["", *legend(lines)]
    seen = sorted({line.dataset for line in lines} & set(tuned_on))
    if seen:
        names = ", ".join(seen)
        text += [
            "",
            f"Not held out, hence not zero-shot for the model that trained on it: {names}.",
        ]
    return "\n".join(text) + "\n"


def heading(cluster: str) -> str:
    """Returns a cluster's name for readers."""
    name = cluster.removesuffix(INVERTED)
    return CLUSTERS.get(name, name) + (", inverted templates" if name != cluster else "")


def caption(lines: Sequence[Comparison], sources: Collection[str] = ()) -> str:
    """Returns 't5_tiny, step 60; rows: bundled': sizes and steps of the tuned models, and sources.

    Args:
      lines: see `comparisons.compare`.
      sources: where the evaluated rows come from.
    """
    summaries = [line.tuned for line in lines if line.tuned and line.dataset]
    tuned = [summary.series for summary in summaries]
    sizes = ", ".join(sorted({series.size for series in tuned if series.size}))
    steps = ", ".join(map(str, sorted({series.step for series in tuned})))
    is_chat = any(CHAT in series.instruction_mode for series in tuned)
    seeds = {len(summary.runs) for summary in summaries}
    parts = [
        sizes,
        f"step {steps}" if steps else "",
        f"mean of {max(seeds)} seeds" if len(seeds) == 1 and max(seeds) > 1 else "",
        f"rows: {', '.join(sorted(sources))}" if sources else "",
        "inputs in the chat template" if is_chat else "",
    ]
    return "; ".join(part for part in parts if part)


def markdown_line(cells: Sequence[str]) -> str:
    """Returns a line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def number_text(value: float | None) -> str:
    """Returns a number with one decimal; '' for None."""
    return "" if value is None else f"{value:.1f}"


def signed_text(value: float) -> str:
    """Returns a difference with its sign and one decimal; '0.0' for one that rounds to it."""
    rounded = round(value, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def interval_text(interval: tuple[float, float] | None) -> str:
    """Returns '-1.2 to 3.4'; '' for None."""
    return "" if interval is None else f"{signed_text(interval[0])} to {signed_text(interval[1])}"


def _head(has_labels: bool, has_seeds: bool) -> list[str]:
    label, rule = (["model"], ["---"]) if has_labels else ([], [])
    seeds, seeds_rule = (["std over seeds"], ["--:"]) if has_seeds else ([], [])
    names = ["dataset", *label, "metric", "rows", "templates", "mean", *seeds]
    names += ["std over templates", "s.e. from rows (and wordings)", "min", "max", "best template"]
    names += ["untuned", "tuned - untuned (95 %)", "majority"]
    rules = ["---", *rule, "---", *seeds_rule] + ["--:"] * 7 + ["---", "--:", "--:", "--:"]
    return [markdown_line(names), markdown_line(rules)]


def _cells(line: Comparison, has_labels: bool, has_seeds: bool, alike: bool) -> list[str]:
    summary, tuned = line.any, line.tuned
    mean = number_text(tuned.mean) if tuned else ""
    seeds = [number_text(tuned.sd_seeds) if tuned else ""] if has_seeds else []
    splits = sorted({each.any.split for each in line.over} or {summary.split})
    mark = "" if splits == ["test"] else f" ({', '.join(splits)})"
    return [
        (line.dataset or name_of_mean(line, alike)) + mark,
        *([line.label] if has_labels else []),
        summary.metric,
        str(summary.n),
        str(len(summary.templates)),
        mean,
        *seeds,
        *(_tuned_cells(tuned) if tuned else [""] * 5),
        _untuned_text(line),
        difference_text(line.difference),
        number_text(line.majority.mean) if line.majority else "",
    ]


def name_of_mean(line: Comparison, alike: bool) -> str:
    """Returns '**mean of 3 datasets**', with their names where other means are of other ones.

    Args:
      line: of a mean.
      alike: see `comparisons.means_are_alike`.
    """
    datasets = [each.dataset for each in line.over]
    which = "" if alike else f": {', '.join(datasets)}"
    steps = sorted({each.tuned.series.step for each in line.over if each.tuned})
    mixed = f", steps {', '.join(map(str, steps))}" if len(steps) > 1 else ""
    return f"**mean of {count_of_datasets(datasets)}{which}{mixed}**"


def _tuned_cells(tuned: Summary) -> list[str]:
    return [
        number_text(tuned.std),
        _error(tuned),
        number_text(tuned.low),
        number_text(tuned.high),
        _best(tuned),
    ]


def _error(summary: Summary) -> str:
    """The standard error from rows, that from rows and wordings in parentheses."""
    both = "" if summary.stderr_both is None else f" ({number_text(summary.stderr_both)})"
    return ("≤ " if summary.stderr_is_bound else "") + number_text(summary.stderr) + both


def _best(summary: Summary) -> str:
    """The best template and its number; '' where there is only one template."""
    if not summary.has_choice:
        return ""
    mark = "" if summary.best_by_validation else "†"
    return f"{number_text(summary.best)}{mark} {summary.best_template}".strip()


def difference_text(difference: Difference | None) -> str:
    """Returns a difference with its 95 % interval: '+3.4 (-0.8 to +7.6)'; '' for None."""
    if difference is None:
        return ""
    if not difference.changed:
        return "0.0, no row differs"
    interval = interval_text(difference.interval)
    return signed_text(difference.value) + (f" ({interval})" if interval else "")


def _untuned_text(line: Comparison) -> str:
    """The untuned model's number, with its setting where that differs from the tuned model's."""
    untuned = line.untuned
    if untuned is None:
        return ""
    std = "" if untuned.std is None else f" ± {number_text(untuned.std)}"
    return number_text(untuned.mean) + std + setting_text(line)


def setting_text(line: Comparison) -> str:
    """Returns ' (baseline, 3 shots)', see `setting_differences`; '' where there are none."""
    differences = setting_differences(line)
    return f" ({', '.join(differences)})" if differences else ""


def setting_differences(line: Comparison) -> list[str]:
    """Returns what the untuned model was evaluated with, where it is not what the tuned one was.

    A mean has what one of its datasets has, with 'in part' where others do not.
    """
    untuned, tuned = line.untuned, line.tuned
    if not (untuned and tuned):
        return []
    each = [_other_setting(member) for member in line.over or (line,)]
    differences = [
        name if all(name in names for names in each) else f"{name} in part"
        for name in dict.fromkeys(name for names in each for name in names)
    ]
    if not differences and untuned.templates != tuned.templates:
        other = " other" if len(untuned.templates) == len(tuned.templates) else ""
        differences.append(f"{len(untuned.templates)}{other} templates")
    return differences


def _other_setting(line: Comparison) -> list[str]:
    """What a dataset's untuned model was evaluated with that is not the tuned one's."""
    theirs, ours = line.untuned.series, line.tuned.series
    differences = []
    if theirs.instruction_mode != ours.instruction_mode:
        differences.append(theirs.instruction_mode)
    if theirs.shots != ours.shots:
        differences.append(f"{theirs.shots} shots")
    return differences
