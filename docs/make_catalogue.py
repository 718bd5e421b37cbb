"""Writes catalogue.md and templates.md from the catalogue, here or into a directory: `make docs`.

The pages contain only what is in the records of `tasks/`; tests/test_docs.py compares the two.
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Iterable, Mapping

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE
from flan_jax.catalogue.clusters import CLUSTERS, RELATED_CLUSTERS
from flan_jax.catalogue.records import TRAIN_CAP, Dataset, Template, in_words
from flan_jax.data.sources.bundled import BundledSource

_GENERATED = (
    "<!-- Written by `make docs` from the records in tasks/; edit those, not this page. -->"
)
_MOST_OPTIONS_SHOWN = 6


def pages() -> dict[str, str]:
    """File name in docs/ -> text of the page, from the catalogue as it is now."""
    return {
        "catalogue.md": catalogue_page(list(CATALOGUE)),
        "templates.md": templates_page(list(CATALOGUE)),
    }


def catalogue_page(datasets: list[Dataset]) -> str:
    """Totals, then a table a cluster with a line a configuration."""
    lines = [
        "# The catalogue",
        _GENERATED,
        "",
        *_totals(datasets),
        "",
        "Every template is on [its own page](templates.md). `flan-jax tasks show NAME` has all of "
        "a dataset's record, `flan-jax tasks render NAME` its rows in every template.",
        "",
        "| column | says |",
        "| --- | --- |",
        "| configuration | its name on the command line; the link leads to its templates |",
        "| dataset | the dataset of the paper's Figure 3 that it belongs to |",
        "| train rows | as the paper's code counts them, in tens: less the rows that it validates "
        f"on, in most records before a cut to the first 30,000; at most {TRAIN_CAP:,} are used |",
        "| answer | the options in the dataset's own order (`-` in an input), or free text |",
        "| metrics | the first one is in the tables of a report |",
        "| license | of the data, as its authors state it: an SPDX expression; `LicenseRef-`: "
        "terms of its own; `NOASSERTION`: none stated; the [evidence](#licenses) is at the end |",
        (
            "| commercial | whether it allows commercial use; `COMMERCIAL_ONLY=True` trains only "
            "on `yes` |"
        ),
        (
            "| TFDS | builder, configuration and version in TensorFlow Datasets; **manual**: see "
            "below the table |"
        ),
        "| Hugging Face | the repository whose parquet files are read, without its code; splits "
        "and fields are those of `dataset_infos.json` in github.com/huggingface/datasets of 1 "
        "September 2022, or, of a copy by others, *assumed* |",
        "| bundled | rows that come with the package, train + validation + test |",
        "| templates | how many, and how many of them are inverted |",
    ]
    for cluster, title in CLUSTERS.items():
        lines += ["", *_cluster_section(title, [d for d in datasets if d.cluster == cluster])]
    return "\n".join([*lines, "", *_license_section(datasets)]) + "\n"


def templates_page(datasets: list[Dataset]) -> str:
    """All templates, dataset by dataset; configurations with the same templates stand together."""
    lines = [
        "# The templates",
        _GENERATED,
        "",
        "Input, then after the arrow what the model is to answer. A training row meets another of "
        "its dataset's templates in each epoch; an evaluation uses the forward ones, all of them. "
        "`{options}` becomes the list of the options. [The catalogue](catalogue.md) has the rest "
        "of each record.",
    ]
    for cluster, title in CLUSTERS.items():
        lines += ["", f"## {title}"]
        for group in groups(d for d in datasets if d.cluster == cluster):
            lines += ["", *_templates_section(group)]
    return "\n".join(lines) + "\n"


def groups(datasets: Iterable[Dataset]) -> list[list[Dataset]]:
    """Datasets that share their templates, in order of registration."""
    by_templates: dict[tuple[Template, ...], list[Dataset]] = {}
    for dataset in datasets:
        by_templates.setdefault(dataset.templates, []).append(dataset)
    return list(by_templates.values())


def _totals(datasets: list[Dataset]) -> list[str]:
    rows = [
        (
            CLUSTERS[c],
            [d for d in datasets if d.cluster == c],
            ", ".join(CLUSTERS[r] for r in RELATED_CLUSTERS.get(c, ())),
        )
        for c in CLUSTERS
    ]
    lines = [
        (
            "| cluster | datasets | configurations | templates | inverted | not trained on when it "
            "is held out |"
        ),
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for title, members, related in [*rows, ("**all**", datasets, "")]:
        templates = [t for group in groups(members) for t in group[0].templates]
        name = title if members is datasets else f"[{title}](#{anchor(title)})"
        lines.append(
            f"| {name} | {len({d.paper_dataset for d in members})} | {len(members)} | "
            f"{len(templates)} | {sum(t.kind == 'inverted' for t in templates)} | {related} |"
        )
    per_configuration = sum(len(d.templates) for d in datasets)
    return [
        *lines,
        "",
        "Datasets as the paper's Figure 3 counts them. Templates that several configurations share "
        f"count once; counted for each configuration there are {per_configuration}.",
    ]


def _cluster_section(title: str, datasets: list[Dataset]) -> list[str]:
    groups_of = {d.name: group for group in groups(datasets) for d in group}
    lines = [
        f"## {title}",
        "",
        "| configuration | dataset | train rows | answer | metrics | license | commercial | TFDS | "
        "Hugging Face | bundled | templates |",
        "| --- " * 11 + "|",
    ]
    for d in datasets:
        inverted = len(d.templates) - len(d.forward())
        cells = [
            f"[{d.name}](templates.md#{anchor(_heading(groups_of[d.name]))})",
            d.paper_dataset,
            _train_rows(d),
            _answer(d),
            ", ".join(d.metrics),
            d.license,
            in_words(d.commercial),
            (f"`{d.tfds}`" if d.tfds else "none") + (" **manual**" if d.manual else ""),
            _hub(d),
            _bundled_rows(d),
            f"{len(d.templates)}" + (f", {inverted} inverted" if inverted else ""),
        ]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    manual = [d for d in datasets if d.manual]
    return lines + (
        ["", "By hand, for TFDS:", "", *(f"- {d.name}: {plain(d.manual)}" for d in manual)]
        if manual
        else []
    )


def _hub(dataset: Dataset) -> str:
    hub = dataset.hub
    return (
        "none"
        if hub is None
        else f"`{hub.id}` {hub.config}" + (", *assumed*" if hub.assumed else "")
    )


def _license_section(datasets: list[Dataset]) -> list[str]:
    commercial = [d for d in datasets if d.commercial]
    lines = [
        "## Licenses",
        "",
        f"{len(commercial)} of {len(datasets)} configurations have a license that allows "
        f"commercial use: "
        '`flan-jax tasks list --commercial`. "Unknown" counts as no. The records say what the '
        "authors of a "
        "dataset state; who holds rights in its texts is another question. Read the terms before "
        "you rely on "
        "them.",
        "",
        "| configurations | license | commercial | where it is stated, or why none is known |",
        "| --- | --- | --- | --- |",
    ]
    by_evidence: dict[tuple[str, str, str], list[str]] = {}
    for d in datasets:
        by_evidence.setdefault((d.license, in_words(d.commercial), d.license_evidence), []).append(
            d.name
        )
    return lines + [
        "| " + " | ".join(_cell(cell) for cell in (", ".join(names), *key)) + " |"
        for key, names in by_evidence.items()
    ]


def _train_rows(dataset: Dataset) -> str:
    if "train" not in dataset.splits:
        return "evaluation only"
    rows = f"{dataset.rows['train']:,}" if "train" in dataset.rows else "not published"
    return rows + (
        f", those of {dataset.shares_training_with}" if dataset.shares_training_with else ""
    )


def _answer(dataset: Dataset) -> str:
    if dataset.options is None:
        return "free text"
    if isinstance(dataset.options, str):
        return "options of the row"
    if len(dataset.options) > _MOST_OPTIONS_SHOWN:
        return f"{len(dataset.options)} options"
    return ", ".join(f"'{option}'" for option in dataset.options)


def _bundled_rows(dataset: Dataset) -> str:
    source = BundledSource()
    counts = [
        sum(1 for _ in source.rows(dataset, split))
        for split in dataset.splits
        if source.available(dataset, split) is None
    ]
    return " + ".join(map(str, counts)) or "none"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _heading(group: list[Dataset]) -> str:
    return ", ".join(d.name for d in group)


def _templates_section(group: list[Dataset]) -> list[str]:
    first = group[0]
    fields = ", ".join(f"`{name}`" for name in first.fields)
    alike = " and alike" if len({str(d.splits) for d in group}) > 1 else ""
    lines = [
        f"### {_heading(group)}",
        "",
        f"Fields: {fields}. Splits: {_splits(first.splits)}{alike}. {_all_options(first)}",
    ]
    for template in first.templates:
        lines += [
            "",
            f"**{plain(template.id)}** ({template.kind})",
            "",
            *_quoted(template.inputs + "\n\n→ " + template.targets),
        ]
    return lines


def _splits(splits: Mapping[str, str]) -> str:
    return ", ".join(f"{ours} = `{raw}`" for ours, raw in splits.items())


def _all_options(dataset: Dataset) -> str:
    if dataset.options is None:
        return "Free text."
    if isinstance(dataset.options, str):
        return "Every row brings its options."
    return f"Options: {plain(', '.join(dataset.options))}."


def _quoted(text: str) -> list[str]:
    """The text as a Markdown quotation that keeps its line breaks."""
    lines = text.split("\n")
    broken = [
        line + "\\" if line and following else line
        for line, following in zip(lines, [*lines[1:], ""])
    ]
    return [f"> {plain_line}".rstrip() for plain_line in map(_marked_fields, broken)]


def _marked_fields(line: str) -> str:
    """A line whose fields stand out and whose other characters mean nothing to Markdown."""
    body, hard_break = (line[:-1], "\\") if line.endswith("\\") else (line, "")
    parts = re.split(r"(\{\w+\})", body)
    marked = "".join(
        f"`{part}`" if re.fullmatch(r"\{\w+\}", part) else plain(part) for part in parts
    )
    return re.sub(r"^([-+=]|\d+(?=[.)]))", r"\\\1", marked) + hard_break


def plain(text: str) -> str:
    """The text with the characters escaped that mean something to Markdown."""
    return re.sub(r"([\\`*_<>\[\]#|~$&])", r"\\\1", text)


def anchor(heading: str) -> str:
    """The part of a link that leads to a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


if __name__ == "__main__":
    directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    for name, text in pages().items():
        (directory / name).write_text(text, encoding="utf-8")
        print(f"wrote {directory / name}")
