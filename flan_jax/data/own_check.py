"""The check of a file of one's own: its form, its rows, what is left out, how long they are."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax.catalogue.records import Drop
from flan_jax.catalogue.row_fields import read_row
from flan_jax.data.own_data import OwnData
from flan_jax.data.row_lengths import LengthMeter
from flan_jax.data.sources.slices import parse_spec
from flan_jax.data.vocabulary import Vocabulary
from flan_jax.messages import escaped, shown


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
      examples: how many examples they make: a dialogue may be divided into its turns.
      left_out: reason -> (number of rows, the first one).
      counted: what a run counts of the rows that are used, such as 'inputs truncated'.
      lengths: of the examples, for each of `LengthMeter.columns`, as if there were no limits.
    """

    rows: int
    used: int
    examples: int
    left_out: dict[str, tuple[int, str]]
    counted: dict[str, int]
    lengths: dict[str, Lengths]


def check_own(
    own: OwnData, vocabulary: Vocabulary, limits: tuple[int, int], most: int | None
) -> dict[str, SplitReport]:
    """Returns a report on each split that trains or validates.

    Args:
      own: the file or directory.
      vocabulary: what lengths are counted in.
      limits: (S, T), the most tokens of inputs and targets in a run.
      most: at most this many rows of each split; None for all.
    """
    meter = LengthMeter(own.dataset, vocabulary, limits)
    specs = {split: spec for split, spec in own.dataset.splits.items() if split != "test"}
    return {split: _check_split(own, spec, meter, most) for split, spec in specs.items()}


def _check_split(own: OwnData, spec: str, meter: LengthMeter, most: int | None) -> SplitReport:
    lengths: list[tuple[int, int]] = []
    left_out: collections.Counter[str] = collections.Counter()
    counted: collections.Counter[str] = collections.Counter()
    first: dict[str, str] = {}
    rows, examples, raw_split = 0, 0, parse_spec(spec)[0]
    for index, raw in own.source.rows(own.dataset, spec):
        if rows == most:
            break
        rows += 1
        row_id = f"{raw_split}/{index}"
        row = read_row(own.dataset, raw)
        measured = None if isinstance(row, Drop) else meter.row(row, row_id)
        if measured and measured.kept:
            lengths += measured.examples
            examples += measured.kept
            counted.update(measured.counts)
            continue
        reason = list(measured.counts)[-1] if measured else row.reason
        left_out[reason] += 1
        first.setdefault(reason, row_id)
    return SplitReport(
        rows,
        rows - left_out.total(),
        examples,
        {reason: (count, first[reason]) for reason, count in left_out.items()},
        dict(counted),
        {name: _lengths(counts) for name, counts in zip(meter.columns, zip(*lengths or [(0, 0)]))},
    )


def _lengths(counts: Sequence[int]) -> Lengths:
    return Lengths(*np.quantile(counts, [0.5, 0.95, 1], method="higher").tolist())


def report_text(
    reports: Mapping[OwnData, Mapping[str, SplitReport]],
    vocabulary: Vocabulary,
    limits: tuple[int, int],
) -> str:
    """Returns the reports on files as text; see `check_own`."""
    lines = []
    for own, splits in reports.items():
        lines += [f"{own.dataset.name}: {own.described()}", _header(splits["train"])]
        for name, split in splits.items():
            lines += _split_lines(name, split)
    lines.append(
        "lengths in tokens of --vocabulary or --model, ends included, as if there were no limits; "
        "what is truncated or left out for its length is so in rows of "
        f"--lengths={limits[0]},{limits[1]}"
    )
    return escaped("\n".join([*lines, *getattr(vocabulary, "notes", ())]))


def _header(split: SplitReport) -> str:
    titles = (f"   {name:>9}: {'median':>7}{'95 %':>7}{'longest':>9}" for name in split.lengths)
    return f"{'split':<12}{'rows':>9}{'used':>9}{'examples':>10}{''.join(titles)}"


def _split_lines(name: str, split: SplitReport) -> list[str]:
    lengths = "".join(f"{'':<14}{lengths}" for lengths in split.lengths.values())
    lines = [f"{name:<12}{split.rows:>9,}{split.used:>9,}{split.examples:>10,}{lengths}"]
    if split.counted:
        counted = ", ".join(f"{count:,} {what}" for what, count in split.counted.items())
        lines.append(f"{'':<12}{counted}")
    lines += [
        f"{'':<12}left out: {count:,}, {shown(why)} (the first: {place}, counted from 0)"
        for why, (count, place) in split.left_out.items()
    ]
    return lines


def report_json(reports: Mapping[OwnData, Mapping[str, SplitReport]]) -> str:
    """Returns the reports on files for scripts."""
    records = [
        {
            "name": own.dataset.name,
            "form": own.form.name,
            "unread": own.unread,
            "splits": {name: _flat(split) for name, split in splits.items()},
        }
        for own, splits in reports.items()
    ]
    return json.dumps(records, indent=1, ensure_ascii=False)


def _flat(split: SplitReport) -> dict[str, Any]:
    record = dataclasses.asdict(split)
    return record | record.pop("lengths")
