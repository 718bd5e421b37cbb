"""Writes the tables of results.md from the rows in results/, which docs/collect_results.py writes.

  python docs/make_results.py [DIRECTORY]

Each table replaces the lines between `<!-- table: NAME -->` and `<!-- end -->`. Numbers, errors and
intervals are computed from the scores of single rows, by the functions of `flan-jax report`.
"""

from __future__ import annotations

import pathlib
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from experiment_runs import (
    Line,
    Run,
    Scores,
    majority,
    mean,
    read_runs,
    same_answer,
)

import flan_jax.tasks  # noqa: F401 (registers the datasets)
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.metrics.multiple_comparisons import holm
from flan_jax.metrics.uncertainty import Difference
from flan_jax.report.cluster_means import count_of_datasets

PAGE = pathlib.Path(__file__).parent / "results.md"
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)


def table(heads: Sequence[str], names: tuple[str, str], lines: Sequence[Line]) -> list[str]:
    """Returns a table of differences, with p-values adjusted for the number of its lines."""
    differences = [line.difference() for line in lines]
    adjusted = holm({number: each.p for number, each in enumerate(differences)})
    columns = [*heads, "datasets", *names, "majority", "difference (95 %)", "with templates (95 %)"]
    columns += ["p", "p, Holm", *(f"same answer, {name}" for name in names)]
    text = [_row(columns), _row(["---"] * (len(heads) + 1) + ["--:"] * 9)]
    for number, (line, difference) in enumerate(zip(lines, differences)):
        cells = [*line.labels, count_of_datasets(list(line.a))]
        cells += [f"{mean(line.a):.1f}", f"{mean(line.b):.1f}", majority(line.b)]
        cells += [_difference(difference), _interval(line.of_other_templates())]
        cells += [_p(difference.p), _p(adjusted[number])]
        cells += [same_answer(line.a), same_answer(line.b)]
        text.append(_row(cells))
    return text


def losses(heads: Sequence[str], lines: Sequence[tuple[tuple[str, ...], Run]]) -> list[str]:
    """Returns a table of validation losses and of what the runs cost."""
    columns = [*heads, "trained parameters", "tokens", "loss before", "after"]
    text = [_row(columns), _row(["---"] * len(heads) + ["--:"] * 4)]
    for labels, run in lines:
        record = run.record
        cells = [f"{int(record['trained_parameters']):,}", f"{int(record['tokens']):,}"]
        values = [record["loss_before"], record["loss_after"]]
        cells += [f"{float(value):.3f}" if value else "" for value in values]
        text.append(_row([*labels, *cells]))
    return text


def _difference(difference: Difference) -> str:
    interval = _interval(difference)
    return f"{difference.value:+.1f} ({interval})" if interval else f"{difference.value:+.1f}"


def _interval(difference: Difference) -> str:
    if difference.interval is None:
        return ""
    low, high = difference.interval
    return f"{low:+.1f} to {high:+.1f}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


# The tables of the page.


def methods() -> list[str]:
    """Tuned in three ways less untuned, by held-out cluster and seed."""
    return table(
        ("held out", "method", "seed"),
        ("tuned", "untuned"),
        [Line(_method(run), run.of("tuned"), run.of("untuned")) for run in _methods()],
    )


def methods_over_seeds() -> list[str]:
    """The same differences, those of one method and cluster side by side."""
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for run in _methods():
        held_out, method, seed = _method(run)
        line = Line((), run.of("tuned"), run.of("untuned"))
        groups.setdefault((held_out, method), {})[seed] = line.difference().value
    seeds = sorted({seed for values in groups.values() for seed in values})
    heads = ["held out", "method", *(f"seed {seed}" for seed in seeds), "mean"]
    heads += ["standard deviation over seeds"]
    text = [_row(heads), _row(["---"] * 2 + ["--:"] * (len(heads) - 2))]
    for labels, values in groups.items():
        if len(values) > 1:
            cells = [f"{values[seed]:+.1f}" if seed in values else "" for seed in seeds]
            cells += [f"{statistics.fmean(values.values()):+.1f}"]
            cells += [f"{statistics.stdev(values.values()):.1f}"]
            text.append(_row([*labels, *cells]))
    return text


def _methods() -> list[Run]:
    return sorted(read_runs("methods"), key=_method)


def _method(run: Run) -> tuple[str, str, str]:
    """Held-out cluster, method and seed of a run."""
    return run.settings["HELD_OUT"], run.method, str(run.settings["SEED"])


def method_losses() -> list[str]:
    """Validation losses of the same runs."""
    return losses(("held out", "method", "seed"), [(_method(run), run) for run in _methods()])


def clusters() -> list[str]:
    """Tuned on some clusters less untuned: all held-out datasets, then each cluster of them."""
    runs = sorted(read_runs("clusters"), key=lambda run: run.settings["TRAIN_CLUSTERS"])
    return table(
        ("training clusters", "held out"),
        ("tuned", "untuned"),
        [
            Line(
                (str(run.settings["TRAIN_CLUSTERS"]), cluster or "all"),
                _of_cluster(run.of("tuned"), cluster),
                _of_cluster(run.of("untuned"), cluster),
            )
            for cluster in ("", *_clusters(runs))
            for run in runs
        ],
    )


def sizes() -> list[str]:
    """Tuned less untuned, by the size of the model."""
    return table(
        ("model", "parameters"),
        ("tuned", "untuned"),
        [Line(labels, run.of("tuned"), run.of("untuned")) for labels, run in _sizes()],
    )


def size_losses() -> list[str]:
    """Validation losses of the same runs."""
    return losses(("model",), [(labels[:1], run) for labels, run in _sizes()])


def _sizes() -> list[tuple[tuple[str, str], Run]]:
    """The models by size, with name and number of parameters; SmolLM2's is a run of `methods`."""
    runs = [(run.method, run) for run in read_runs("sizes")]
    runs += [
        ("smollm2_135m", run)
        for run in read_runs("methods")
        if _method(run) == ("sentiment", "full", "0")
    ]
    runs.sort(key=lambda named: int(named[1].record["parameters"]))
    return [((name, f"{int(run.record['parameters']):,}"), run) for name, run in runs]


def _clusters(runs: Iterable[Run]) -> list[str]:
    """Returns the clusters of the datasets that were evaluated, in their order."""
    datasets = dict.fromkeys(name for run in runs for name in run.of("tuned"))
    return list(dict.fromkeys(CATALOGUE[name].cluster for name in datasets))


def _of_cluster(scores: Scores, cluster: str) -> Scores:
    """The scores of the datasets of a cluster; '': of all."""
    return {n: s for n, s in scores.items() if cluster in ("", CATALOGUE[n].cluster)}


def instructions() -> list[str]:
    """Tuned less untuned, by the instructions of training and of evaluation."""
    runs = _by_setting("instructions", "INSTRUCTIONS")
    lines = []
    for trained, run in runs.items():
        for shown in dict.fromkeys([trained, "template"]):
            untuned = runs[shown].of("untuned", shown)
            lines.append(Line((trained, shown), run.of("tuned", shown), untuned))
    return table(("tuned on", "evaluated on"), ("tuned", "untuned"), lines)


def tuned_less_untuned(name: str, setting: str) -> list[str]:
    """Returns the table of an experiment with one setting."""
    return table(
        (f"`{setting}`",),
        ("tuned", "untuned"),
        [
            Line((str(run.settings[setting]),), run.of("tuned"), run.of("untuned"))
            for run in read_runs(name)
        ],
    )


def _by_setting(name: str, setting: str) -> dict[object, Run]:
    """The runs of an experiment by the value of a setting.

    Raises:
      ValueError: if two have the same, such as those of two seeds.
    """
    runs = read_runs(name)
    by_value = {run.settings[setting]: run for run in runs}
    if len(by_value) < len(runs):
        raise ValueError(f"{name} has two runs of one {setting}; give each seed a line of its own")
    return by_value


def compared(name: str, setting: str, reference: object, head: str = "") -> list[str]:
    """Returns the table of the tuned models less the one whose setting is the reference."""
    runs = _by_setting(name, setting)
    b = runs.pop(reference).of("tuned", "template")
    return table(
        (head or f"`{setting}`",),
        ("tuned as named", f"tuned with {reference}"),
        [Line((str(value),), run.of("tuned", "template"), b) for value, run in runs.items()],
    )


TABLES: dict[str, Callable[[], list[str]]] = {
    "methods": methods,
    "methods_over_seeds": methods_over_seeds,
    "method_losses": method_losses,
    "clusters": clusters,
    "instructions": instructions,
    "instructions_compared": partial(
        compared, "instructions", "INSTRUCTIONS", "template", "tuned on"
    ),
    "sizes": sizes,
    "size_losses": size_losses,
    "related": partial(tuned_less_untuned, "related", "RELATED"),
    "related_compared": partial(compared, "related", "RELATED", "text"),
    "shots": partial(tuned_less_untuned, "shots", "SHOTS"),
    "shots_compared": partial(compared, "shots", "SHOTS", 0),
    "chat_template": partial(tuned_less_untuned, "chat_template", "CHAT_TEMPLATE"),
    "chat_template_compared": partial(compared, "chat_template", "CHAT_TEMPLATE", None),
}


def page(text: str) -> str:
    """Returns the page with its tables written anew."""
    return MARKED.sub(
        lambda match: "\n".join([match[1].rstrip(), "", *TABLES[match[2]](), "", match[3]]), text
    )


def main() -> None:
    """Writes results.md with new tables, here or into the directory given."""
    directory = pathlib.Path(sys.argv[1]) if sys.argv[1:] else PAGE.parent
    text = page(PAGE.read_text(encoding="utf-8"))
    (directory / PAGE.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
