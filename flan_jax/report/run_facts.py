"""What a report knows of the runs behind its numbers: their settings, size and training data."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flan_jax.config.run_status import ADVICE, FILE, read_status
from flan_jax.report.cluster_means import paper_dataset
from flan_jax.storage.files import readable

# Settings that say nothing about the model: where files are, and what is done on the way.
_OF_THE_PLACE = ("MODEL_DIR", "CACHE_DIR", "DATA_DIR", "MESH", "EVAL_EVERY", "EVAL_EVERY_ROWS")


class RunFacts(NamedTuple):
    """A run as `run.json` records it.

    Attributes:
      settings: by name, such as 'HELD_OUT'.
      parameters: their number; None if it was not recorded.
      datasets: number of the paper's datasets that it trains on; None if it was not recorded.
    """

    settings: Mapping[str, Any]
    parameters: int | None
    datasets: int | None


def read_facts(directories: Mapping[str, pathlib.Path]) -> dict[str, RunFacts]:
    """Returns the facts of runs by name; runs without `run.json` are left out.

    Args:
      directories: of the runs, by their names in the report.

    Raises:
      UserError: if a `run.json` is damaged.
    """
    facts = {}
    for name, directory in directories.items():
        record = read_status(directory)
        if record:
            with readable(directory / FILE, ADVICE):
                facts[name] = _facts_of(record)
    return facts


def _facts_of(record: Mapping[str, Any]) -> RunFacts:
    """The facts of a record; raises a ValueError if it is damaged."""
    settings, parameters = record.get("settings", {}), record.get("parameters")
    train = record.get("train") or []
    if not isinstance(settings, dict):
        raise ValueError("its settings are not an object")
    if not (parameters is None or type(parameters) is int and parameters > 0):
        raise ValueError(f"parameters is {parameters!r}")
    if not (isinstance(train, list) and all(isinstance(name, str) for name in train)):
        raise ValueError("train is not a list of datasets")
    return RunFacts(settings, parameters, len(set(map(paper_dataset, train))) or None)


def differing(facts: Sequence[RunFacts]) -> list[str]:
    """Returns the names of the settings in which runs differ, those of the place left out.

    Settings of a model's architecture ('T5Config.emb_dim') are left out, too: the size stands for
    them.
    """
    names = dict.fromkeys(name for each in facts for name in each.settings)
    return [
        name
        for name in names
        if name not in _OF_THE_PLACE
        and "." not in name
        and len({repr(each.settings.get(name)) for each in facts}) > 1
    ]
