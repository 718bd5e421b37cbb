"""`flan-jax tasks list` and `show`: the datasets of the catalogue as text or JSON."""

from __future__ import annotations

import argparse
import json
from typing import Any

from flan_jax.catalogue import CATALOGUE, CLUSTERS
from flan_jax.catalogue.records import Dataset, in_words
from flan_jax.catalogue.template_words import wording
from flan_jax.messages import escaped, shown


def list_datasets(flags: argparse.Namespace) -> None:
    """Prints all datasets, or those of --cluster or --commercial, one line each."""
    datasets = CATALOGUE.cluster(flags.cluster) if flags.cluster else list(CATALOGUE)
    datasets = [d for d in datasets if d.commercial or not flags.commercial]
    if flags.json:
        print(json.dumps([_summary(d) for d in datasets], indent=1, ensure_ascii=False))
        return
    print(
        f"{'dataset':<36}{'cluster':<40}{'train rows':>10}  "
        f"{'options':<9}{'templates':<16}{'metric':<17}{'commercial':<12}license"
    )
    for dataset in datasets:
        print(_list_line(dataset))
    print(
        f"{len(datasets)} configurations of {len({d.paper_dataset for d in datasets})} datasets in "
        f"{len({d.cluster for d in datasets})} clusters, {sum(len(d.templates) for d in datasets)} "
        "templates"
    )


def _list_line(dataset: Dataset) -> str:
    if "train" in dataset.splits:
        rows = f"{dataset.rows['train']:,}" if "train" in dataset.rows else "?"
    else:
        rows = "-"
    if dataset.options is None:
        options = "text"
    else:
        options = "of row" if isinstance(dataset.options, str) else str(len(dataset.options))
    inverted = len(dataset.templates) - len(dataset.forward())
    templates = f"{len(dataset.templates)}" + (f" ({inverted} inverted)" if inverted else "")
    return (
        f"{dataset.name:<36}{dataset.cluster:<40}{rows:>10}  {options:<9}{templates:<16}"
        f"{dataset.metrics[0]:<17}{in_words(dataset.commercial):<12}{dataset.license}"
    )


def _summary(dataset: Dataset) -> dict[str, Any]:
    """The record of a dataset in `tasks list --json`."""
    places = {
        "tfds": dataset.tfds,
        "hf": dataset.hub and dataset.hub.id,
        "jsonl": dataset.name,
        "bundled": dataset.name,
    }
    return {
        "name": dataset.name,
        "dataset": dataset.paper_dataset,
        "cluster": dataset.cluster,
        "split_names": list(dataset.splits),
        "options": dataset.options,
        "metrics": dataset.metrics,
        "license": dataset.license,
        "commercial": in_words(dataset.commercial),
        "license_evidence": dataset.license_evidence,
        "sources": {kind: place for kind, place in places.items() if place},
        "templates": [
            {
                "id": t.id,
                "kind": t.kind,
                "shows_options": t.shows_options,
                "inputs": t.inputs,
                "targets": t.targets,
            }
            for t in dataset.templates
        ],
    }


# Attributes that `tasks show --json` has, and `tasks list --json` has not.
_DETAILS = (
    "splits",
    "rows",
    "fields",
    "evidence",
    "shares_training_with",
    "manual",
    "train_cap",
)


def show_dataset(flags: argparse.Namespace) -> None:
    """Prints the record of a dataset and its templates."""
    dataset = CATALOGUE[flags.name]
    if flags.json:
        record = _summary(dataset) | {name: getattr(dataset, name) for name in _DETAILS}
        print(json.dumps(record, indent=1, ensure_ascii=False, default=dict))
        return
    print(dataset.name)
    print("\n".join(f"  {name:<10}{fact}" for name, fact in _facts(dataset).items() if fact))
    for template in dataset.templates:
        title = f"{template.id} ({template.kind}, {wording(dataset, template)})"
        print(indented(title, template.inputs, template.targets))


def _facts(dataset: Dataset) -> dict[str, str | None]:
    """What `tasks show` prints of a dataset; a fact that is None is not printed."""
    options = dataset.options or "none: free text"
    if isinstance(options, tuple):
        options = ", ".join(map(shown, options))
    places = _summary(dataset)["sources"].items()
    twin = dataset.shares_training_with
    return {
        "paper": f"{dataset.paper_dataset} ({CLUSTERS[dataset.cluster]})",
        "sources": ", ".join(f"{kind} {place}" for kind, place in places),
        "splits": ", ".join(f"{ours} = {raw}" for ours, raw in dataset.splits.items()),
        "fields": ", ".join(dataset.fields),
        "options": options,
        "metrics": ", ".join(dataset.metrics),
        "license": (
            f"{dataset.license} (commercial use: {in_words(dataset.commercial)}; "
            f"{dataset.license_evidence})"
        ),
        "training": twin and f"the same rows as {twin}, which trains in its place",
        "manual": dataset.manual,
    }


def indented(title: str, inputs: str, targets: str) -> str:
    """Returns a row as text: a title, what the model reads, and after arrows its target."""
    input_lines = [f"    {line}".rstrip() for line in escaped(inputs).split("\n")]
    target_lines = [f"    => {line}" for line in escaped(targets).split("\n")]
    return "\n".join(["", title, *input_lines, *target_lines])
