"""Results that several programs add to in one bucket: none replaces what another one has added.

On a disk they take turns (`locks.alone_in`). In a bucket each has a copy of the files; a program
that finds that another one was first puts its own changes into what is there.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
from collections.abc import Mapping
from typing import Any

from flan_jax.evaluation.known_runs import RUNS
from flan_jax.evaluation.result_rows import ResultRow, parse_results, results_text
from flan_jax.evaluation.results_store import EVALUATED, RESULTS, SIGNATURES, evaluation_of_row
from flan_jax.storage.files import parse_json
from flan_jax.storage.working_copy import Merge


def merge_results(base: bytes | None, ours: bytes, theirs: bytes | None) -> bytes:
    """Returns a `results.csv` with what was changed on both sides; ours wins.

    Args:
      base: what both began with; None without the file.
      ours: the contents here.
      theirs: the contents in the bucket.
    """
    groups = _changed(*map(_groups, (base, ours, theirs)))
    return results_text(itertools.chain.from_iterable(groups.values())).encode()


def merge_objects(base: bytes | None, ours: bytes, theirs: bytes | None, indent: int) -> bytes:
    """Returns a JSON object with the keys that were changed on both sides; see `merge_results`."""
    objects = (
        {} if text is None else parse_json(text, "a file of results in the bucket")
        for text in (base, ours, theirs)
    )
    return json.dumps(_changed(*objects), indent=indent).encode()


MERGES: Mapping[str, Merge] = {
    RESULTS: merge_results,
    EVALUATED: functools.partial(merge_objects, indent=0),
    SIGNATURES: functools.partial(merge_objects, indent=1),
    RUNS: functools.partial(merge_objects, indent=1),
}


def _groups(text: bytes | None) -> dict[Any, list[ResultRow]]:
    """The rows by their evaluation."""
    if text is None:
        return {}
    groups: dict[Any, list[ResultRow]] = {}
    for row in parse_results(io.StringIO(text.decode(), newline=""), RESULTS):
        groups.setdefault(evaluation_of_row(row), []).append(row)
    return groups


def _changed(base: dict[Any, Any], ours: dict[Any, Any], theirs: dict[Any, Any]) -> dict[Any, Any]:
    """Theirs, with what differs between the base and ours as it is in ours."""
    merged = {key: value for key, value in theirs.items() if key in ours or key not in base}
    own = {key: value for key, value in ours.items() if value != base.get(key)}
    return {**merged, **own}
