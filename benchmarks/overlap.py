"""The speed and the memory of the contamination report.

  python benchmarks/overlap.py [--data_dir=ROWS] [--held_out=nli] [--json=FILE]

Synthetic rows: words drawn by Zipf's law, all texts different, so that rows overlap only by
coincidence. With --data_dir also the report on real rows from JSON lines, reading and row functions
included.
"""

import argparse
import json
import pathlib
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from flan_jax.catalogue import CATALOGUE, Dataset, Template
from flan_jax.data.contamination.index import HeldOutIndex, Rows
from flan_jax.data.contamination.overlap import compare, held_out_overlap
from flan_jax.data.sources.kinds import open_source

FLAN_ROWS = 1_300_000
VOCABULARY = 300_000
POOL_ROWS = 5_000


def synthetic_dataset(name: str) -> Dataset:
    """A dataset of one text field."""
    return Dataset(
        name=name,
        cluster="nli",
        splits={"train": "train"},
        fields=("text",),
        row=dict,
        options=("yes", "no"),
        templates=(Template("plain", "{text}\n{options}"),),
    )


def synthetic_rows(name: str, count: int, words: int, seed: int) -> Rows:
    """Returns `count` rows of `words` words.

    A pool of texts is rotated and numbered, as drawing them all would take longer.
    """
    draw = np.random.default_rng(seed)
    pool = [[f"word{n}" for n in draw.zipf(1.2, words) % VOCABULARY] for _ in range(POOL_ROWS)]

    def rows() -> Iterator[tuple[str, dict]]:
        for i in range(count):
            text, turn = pool[i % POOL_ROWS], i // POOL_ROWS % words
            yield str(i), {"text": " ".join([*text[turn:], str(i), *text[:turn]]), "label": 0}

    return Rows(synthetic_dataset(name), rows())


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result) of a call."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def peak_mib() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_synthetic(flags: argparse.Namespace, results: dict[str, Any]) -> None:
    """Adds the speed of the report and of the filter on synthetic rows to `results`."""

    def held_out() -> Rows:
        return synthetic_rows("held_out", flags.held_out_rows, flags.words, 0)

    def trained(count: int = flags.rows) -> Rows:
        return synthetic_rows("trained", count, flags.words, 1)

    making, _ = timed(lambda: sum(1 for _ in trained().rows))
    results["index of held-out rows, s"], index = timed(lambda: HeldOutIndex([held_out()]))
    results["held-out words, millions"] = flags.held_out_rows * flags.words / 1e6
    searching, _ = timed(lambda: index.search(trained()))
    searching -= making
    results["report, training rows/s"] = flags.rows / searching
    results["report, training words/s"] = flags.rows * flags.words / searching
    once = timed(lambda: compare([trained()], [held_out()]))[0] - making - searching
    results["report, before and after the training rows, s"] = once
    results["report of 1.3 M training rows, minutes"] = (
        once + FLAN_ROWS / flags.rows * searching
    ) / 60
    results["report, peak MiB"] = peak_mib()
    results["filter, first use, s"], results["filter, digest"] = timed(lambda: index.digest)
    dataset, rows = trained().dataset, [row for _, row in trained(20_000).rows]
    results["filter in blocks, rows/s"] = (
        len(rows) / timed(lambda: list(index.matches(dataset, rows)))[0]
    )
    one_by_one = timed(lambda: [index.match(dataset, row) for row in rows[:2_000]])[0]
    results["filter row by row, rows/s"] = 2_000 / one_by_one
    results["filter, peak MiB"] = peak_mib()


def measure_real(flags: argparse.Namespace, results: dict[str, Any]) -> None:
    """Adds the speed of the whole verb on real rows to `results`."""
    import flan_jax.tasks  # noqa: F401  (fills the catalogue)

    source = open_source("jsonl", flags.data_dir)
    seconds, (report, _) = timed(lambda: held_out_overlap(CATALOGUE, source, flags.held_out))
    rows = sum(report.train.values())
    results["real rows, training"], results["real rows, held out"] = (
        rows,
        sum(t.rows for t in report.held_out),
    )
    results["real rows, s"], results["real rows, training rows/s"] = seconds, rows / seconds
    results["real rows, 1.3 M training rows, minutes"] = FLAN_ROWS / (rows / seconds) / 60


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir")
    parser.add_argument("--held_out", default="nli")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--held_out_rows", type=int, default=50_000)
    parser.add_argument(
        "--words", type=int, default=230, help="of a row; 1.3 M such rows have 300 M words"
    )
    parser.add_argument("--json")
    flags = parser.parse_args()
    results: dict[str, Any] = {}
    if flags.data_dir:
        measure_real(flags, results)
    measure_synthetic(flags, results)
    print(
        "\n".join(
            f"{name:<50}" + (f"{value:>14,.2f}" if not isinstance(value, str) else f"  {value}")
            for name, value in results.items()
        )
    )
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
