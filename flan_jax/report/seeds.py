"""Runs that differ only by their seed: a report shows their mean as one model."""

from __future__ import annotations

import collections
import json
import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from flan_jax.config.run_status import read_status
from flan_jax.evaluation.result_rows import MAJORITY, UNTUNED, ResultRow
from flan_jax.messages import listed
from flan_jax.report.summaries import shown_rows

_log = logging.getLogger(__name__)

# Settings in which the runs of a group may differ: the seed, and what changes no number.
_FREE = ("SEED", "MODEL_DIR", "CACHE_DIR", "Train.baselines_dir", "TRACKER", "LOG_EVERY")


def groups_of_seeds(rows: Iterable[ResultRow], homes: Mapping[str, pathlib.Path]) -> dict[str, str]:
    """Returns the name of its group for each run whose seed is all that differs from another one.

    A group whose runs were not all evaluated on the same datasets, templates, rows, steps and
    metrics is not one: each run is a model of its own then, and a line of the log says why.

    Args:
      rows: of results files.
      homes: the directories of the runs by name; `run.json` there has the settings.
    """
    evaluated = _evaluated(rows)
    groups: dict[str, str] = {}
    for seeds in _by_settings(homes):
        runs = sorted(seeds)
        if len(runs) < 2:
            continue
        differing = [run for run in runs if evaluated[run] != evaluated[runs[0]]]
        if len(set(seeds.values())) < len(runs):
            _log.info(f"seeds not averaged: of {listed(runs)} two have the same SEED")
        elif differing:
            _log.info(
                f"seeds not averaged: {listed(differing)} and {runs[0]} were evaluated on other "
                "datasets, templates, rows, steps or metrics"
            )
        else:
            name = _name(runs)
            taken = name in homes or name in groups.values()
            groups |= dict.fromkeys(runs, " + ".join(runs) if taken else name)
    return groups


def _by_settings(homes: Mapping[str, pathlib.Path]) -> list[dict[str, int]]:
    """The SEED of each run by name, for each set of other settings."""
    groups: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for run, home in homes.items():
        settings = read_status(home).get("settings")
        if isinstance(settings, dict) and "SEED" in settings:
            fixed = {
                name: value
                for name, value in settings.items()
                # None is also the value of a setting that a run before it was there does not have.
                if name not in _FREE and value is not None
            }
            groups[json.dumps(fixed, sort_keys=True)][run] = settings["SEED"]
    return list(groups.values())


def _evaluated(rows: Iterable[ResultRow]) -> dict[str, set[tuple]]:
    """What each run's tuned model was evaluated on."""
    evaluated = collections.defaultdict(set)
    for row in shown_rows(rows):
        if row.model not in (UNTUNED, MAJORITY):
            setting = (row.model, row.step, row.shots, row.instruction_mode, row.scoring)
            evaluated[row.run].add(
                (*setting, row.dataset, row.split, row.template, row.n, row.metric)
            )
    return evaluated


def _name(runs: Sequence[str]) -> str:
    """Returns 't5_tiny-nli (3 seeds)': what the names of the runs share, as far as it is words."""
    words = [pathlib.PurePath(run).name.split("-") for run in runs]
    shared = [word for word in words[0] if all(word in others for others in words[1:])]
    count = f"{len(runs)} seeds"
    return f"{'-'.join(shared)} ({count})" if shared else count
