"""Writes fidelity.md from the records in tasks/, here or into the directory given: `make docs`."""

from __future__ import annotations

import pathlib
import sys

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE, CLUSTERS, FROM_ROW, Dataset
from flan_jax.tasks.original import DEPARTURES, EVERYWHERE, Departure, original

_GENERATED = (
    "<!-- Written by `make docs` from tasks/original.py and the catalogue; edit those, "
    "not this page. -->"
)


def page() -> str:
    """The whole page, from the catalogue as it is now."""
    lines = [
        "# Fidelity to FLAN",
        _GENERATED,
        "",
        "How each configuration is evaluated here and in the code of the FLAN paper "
        "(google-research/FLAN, 2021), and why where the two differ. What stands in no list is "
        "done as there. Splits are the same in all of them: the test rows are FLAN's; at most "
        f"{CATALOGUE['snli'].train_cap:,} training rows are used. [Splits and "
        "ablations](ablations.md) has what differs in what trains.",
        "",
        "## Everywhere",
        "",
        *_departures(EVERYWHERE),
    ]
    for cluster, title in CLUSTERS.items():
        lines += [
            "",
            f"## {title}",
            "",
            (
                "| configuration | test split | answer here | in FLAN | metrics here | in FLAN | "
                "TFDS |"
            ),
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        datasets = CATALOGUE.cluster(cluster)
        lines += [_row(dataset) for dataset in datasets]
        by_departures: dict[tuple[Departure, ...], list[str]] = {}
        for dataset in datasets:
            by_departures.setdefault(DEPARTURES.get(dataset.name, ()), []).append(dataset.name)
        for departures, names in by_departures.items():
            lines += [
                "",
                f"{', '.join(names)}:" if departures else f"As in FLAN: {', '.join(names)}.",
                *(["", *_departures(departures)] if departures else []),
            ]
    return "\n".join(lines) + "\n"


def _row(dataset: Dataset) -> str:
    there = original(dataset.name, dataset.cluster, dataset.tfds)
    builder = dataset.tfds if dataset.tfds == there.tfds else f"{dataset.tfds} (FLAN: {there.tfds})"
    answer = {None: "free text", FROM_ROW: "options of the row"}.get(dataset.options) or " / ".join(
        dataset.options
    )
    cells = (
        dataset.name,
        dataset.splits["test"],
        answer,
        there.answer,
        ", ".join(dataset.metrics),
        there.metrics,
        builder,
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _departures(departures: tuple[Departure, ...]) -> list[str]:
    return [
        "| in FLAN | here | why |",
        "| --- | --- | --- |",
        *(f"| {' | '.join(departure)} |" for departure in departures),
    ]


if __name__ == "__main__":
    directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    (directory / "fidelity.md").write_text(page(), encoding="utf-8")
    print(f"wrote {directory / 'fidelity.md'}")
