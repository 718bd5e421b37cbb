"""The check of a file of one's own: its form, its rows, what is left out, how long they are."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping

import numpy as np

from flan_jax.catalogue.records import Drop
from flan_jax.catalogue.row_fields import read_row
from flan_jax.data.own_data import OwnData
from flan_jax.data.sources.slices import parse_spec
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.messages import escaped, shown

HEADER = (
    f"{'split':<12}{'rows':>9}{'used':>9}   inputs: {'median':>7}{'95 %':>7}{'longest':>9}"
    f"   targets: {'median':>7}{'95 %':>7}{'longest':>9}"
)


@dataclasses.dataclass
class Lengths:
    """Lengths of texts in tokens: the median, the 95th percentile and the longest."""

    median: int
    percentile_95: int
    longest: int

    def __str__(self) -> str:
        return f"{self.median:>7,}{self.percentile_95:>7,}{self.longest:>9,}"


@dataclasses.dataclass
class SplitReport:
    """The rows of a split.

    Attributes:
      rows: how many it has.
      used: how many are not left out.
      left_out: reason -> (number of rows, the first one).
      inputs, targets: their lengths.
    """

    rows: int
    used: int
    left_out: dict[str, tuple[int, str]]
    inputs: Lengths
    targets: Lengths


def check_own(own: OwnData, vocabulary: Vocabulary, most: int | None) -> dict[str, SplitReport]:
    """Returns a report on each split that trains or validates.

    Args:
      own: the file or directory.
      vocabulary: what lengths are counted in.
      most: at most this many rows of each split; None for all.
    """
    specs = {split: spec for split, spec in own.dataset.splits.items() if split != "test"}
    return {split: _check_split(own, spec, vocabulary, most) for split, spec in specs.items()}


def _check_split(own: OwnData, spec: str, vocabulary: Vocabulary, most: int | None) -> SplitReport:
    lengths: dict[str, list[int]] = {"inputs": [], "targets": []}
    counts: collections.Counter[str] = collections.Counter()
    first: dict[str, str] = {}
    rows, raw_split = 0, parse_spec(spec)[0]
    for index, raw in own.source.rows(own.dataset, spec):
        if rows == most:
            break
        rows += 1
        row = read_row(own.dataset, raw)
        if isinstance(row, Drop):
            counts[row.reason] += 1
            first.setdefault(row.reason, f"{raw_split}/{index}")
            continue
        if "inputs" in row:
            lengths["inputs"].append(len(vocabulary.encode_input(row["inputs"])))
        lengths["targets"].append(len(vocabulary.encode_target(row["answer"])) + 1)
    left_out = {reason: (count, first[reason]) for reason, count in counts.items()}
    used = len(lengths["targets"])
    return SplitReport(rows, used, left_out, *map(_lengths, lengths.values()))


def _lengths(counts: list[int]) -> Lengths:
    quantiles = np.quantile(counts or [0], [0.5, 0.95, 1], method="higher")
    return Lengths(*quantiles.tolist())


def report_text(reports: Mapping[OwnData, Mapping[str, SplitReport]]) -> str:
    """Returns the reports on files as text."""
    lines = []
    for own, splits in reports.items():
        lines += [f"{own.dataset.name}: {own.described()}", HEADER]
        for name, split in splits.items():
            lines.append(
                f"{name:<12}{split.rows:>9,}{split.used:>9,}           {split.inputs}"
                f"            {split.targets}"
            )
            lines += [
                f"{'':<12}left out: {count:,}, {shown(why)} (the first: {place}, counted from 0)"
                for why, (count, place) in split.left_out.items()
            ]
    return escaped("\n".join([*lines, "lengths in tokens of --vocabulary, ends included"]))


def report_json(reports: Mapping[OwnData, Mapping[str, SplitReport]]) -> str:
    """Returns the reports on files for scripts."""
    records = [
        {
            "name": own.dataset.name,
            "form": own.form.name,
            "unread": own.unread,
            "splits": {name: dataclasses.asdict(split) for name, split in splits.items()},
        }
        for own, splits in reports.items()
    ]
    return json.dumps(records, indent=1, ensure_ascii=False)
