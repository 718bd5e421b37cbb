"""The runs behind results: `runs.json` says what each name in the column `run` stands for."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable
from typing import Any

from flan_jax.messages import shown
from flan_jax.storage.files import read_json, readable, write_file
from flan_jax.storage.locks import alone_in
from flan_jax.storage.places import place
from flan_jax.storage.working_copy import address

RUNS = "runs.json"


def known_runs(directory: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the runs of the results in a directory by name, in the order they were evaluated.

    Each has its 'directory', the datasets it 'trained_on' and the 'source' of the evaluated rows.

    Raises:
      UserError: if the file is damaged.
    """
    path = directory / RUNS
    advice = "delete it: it is written again with the next evaluation"
    runs = read_json(path, advice=advice) if path.is_file() else {}
    with readable(path, advice):
        for name, run in runs.items():
            texts = [run["directory"], run.get("source", ""), *run["trained_on"]]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError(f"{shown(name)} lacks its directory or what it trained on")
    return runs


def remember_run(
    directory: pathlib.Path, run: pathlib.Path, trained_on: Iterable[str], source: str = ""
) -> None:
    """Notes beside the results what the run that the column `run` names is.

    Args:
      directory: of the results.
      run: the run's directory.
      trained_on: the datasets that it trained on.
      source: where the evaluated rows come from, for readers.

    Raises:
      UserError: if the file is damaged or cannot be written.
    """
    record = {"directory": address(run), "trained_on": sorted(trained_on), "source": source}
    with alone_in(directory):
        runs = {**known_runs(directory), run_name(run): record}
        write_file(directory / RUNS, json.dumps(runs, indent=1))


def run_name(directory: pathlib.Path) -> str:
    """Returns the name of a run in the column `run`: its directory's, and after a move the old one.

    A copy, beside which the original still exists, is another run.
    """
    home, known = address(directory), known_runs(directory)
    homes = {name: run["directory"] for name, run in known.items()}
    names_here = [name for name, other in homes.items() if other == home]
    if names_here:
        return names_here[0]
    first = next(iter(homes), None)
    has_moved = first is not None and not place(homes[first], RUNS).exists()
    return first if has_moved else directory.resolve().name
