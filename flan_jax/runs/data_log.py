"""Log lines about a run's data: what trains, what is held out, what was left out or truncated."""

from __future__ import annotations

import collections
import logging
from collections.abc import Collection

from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.catalogue.mixture_card import CardRow, format_card, format_clusters
from flan_jax.catalogue.relations import describe, shared_texts
from flan_jax.data.encode import EXEMPLARS_LEFT_OUT
from flan_jax.data.packing import Plan
from flan_jax.data.run_data import RunData
from flan_jax.data.shards import losses
from flan_jax.messages import escaped, shown

_log = logging.getLogger(__name__)
_LONGEST_CARD = 20  # datasets


def log_sides(data: RunData) -> None:
    """Logs what trains (the mixture card), what is held out, dropped with it, and left out."""
    if data.train.candidates() or data.eval.names:
        _log.info("rows: %s", data.source.description)
    for name, own in data.train.trained.own.items():
        _log.info("%s: %s", name, own.described())
    _log_held_out(data)
    members = data.train.members()
    log_left_out(data)
    _log_unchecked(data)
    _log_card(data.train.card(members))
    validated = {member.name for member in data.train.members("validation")}
    without = [member.name for member in members if member.name not in validated]
    if without:
        _log.info("without validation rows: %s", ", ".join(without))
    _log.info("packing fills %s", data.train.plan().filled_text())


def _log_card(card: list[CardRow]) -> None:
    """Logs the mixture card: of many datasets by cluster, and each at the level debug."""
    is_long = len(card) > _LONGEST_CARD
    for line in format_card(card).splitlines():
        _log.log(logging.DEBUG if is_long else logging.INFO, "%s", line)
    if is_long:
        for line in format_clusters(card).splitlines():
            _log.info("%s", line)
        _log.info("each dataset: mixture.json, or --log_level=debug")


def _log_unchecked(data: RunData) -> None:
    """Logs what trains and is not compared with the rows that are evaluated."""
    unchecked = data.train.unchecked()
    files = [name for name in unchecked if name in data.train.trained.own]
    tasks = [name for name in unchecked if name not in files]
    if data.eval.names and tasks:
        _log.info("not checked for overlap with held-out data: SeqIO task %s", ", ".join(tasks))
    if data.eval.names and files:
        _log.info(
            "not checked for overlap with held-out data: %s (`flan-jax tasks overlap FILE` does, "
            "DECONTAMINATE=True leaves out rows that share words with it)",
            ", ".join(files),
        )
    if data.config.commercial_only and data.train.trained.own:
        _log.info("no license is known of %s", ", ".join(data.train.trained.own))


def _log_held_out(data: RunData) -> None:
    held_out, split = data.config.held_out, data.split
    _log.info("held out: %s: %s", CLUSTERS.get(held_out, held_out), ", ".join(split.eval) or "-")
    _log.info("evaluated: %s", ", ".join(data.eval.datasets()) or "-")
    if data.eval.names:
        not_held_out = [name for name in data.eval.names if name not in split.eval]
        guarantee = split.guarantee
        if not_held_out:
            guarantee = f"not guaranteed: {', '.join(not_held_out)} is not held out"
        _log.info("evaluated as unseen: %s", guarantee)
    for reason in dict.fromkeys(split.why.values()):
        dropped = [name for name in split.dropped if split.why[name] == reason]
        _log.info("dropped (%s): %s", reason, ", ".join(dropped))
    if split.eval:
        for line in describe(split.related, split.overlaps):
            _log.info("%s", line)


def log_trained_on(data: RunData, trained_on: Collection[str]) -> None:
    """Logs which evaluated datasets a model trained on: their numbers are not zero-shot.

    Args:
      data: what is evaluated.
      trained_on: the training datasets of the model's run.
    """
    trained = sorted(set(data.eval.names) & set(trained_on))
    if trained:
        _log.warning("not held out: %s (the model was trained on it)", ", ".join(trained))
    others = [name for name in data.eval.names if name not in trained]
    for shared in shared_texts(trained_on, others):
        evaluated = ", ".join(shared.evaluated)
        _log.warning(
            "not held out: %s: the model was trained on %s, which %s",
            evaluated,
            shared.train,
            shared,
        )


def log_left_out(data: RunData) -> None:
    """Logs which datasets of the settings neither train nor are evaluated, and why."""
    for name, reason in data.left_out.items():
        _log.info("left out: %s (%s)", name, escaped(reason))


def log_counts(data: RunData, only: str | None = None) -> None:
    """Logs how many rows were dropped and texts truncated.

    Args:
      data: with all its rows in the cache.
      only: 'eval' for the held-out rows alone.
    """
    if only != "eval":
        log_plan(data, data.train.plan())
    log_eval_counts(data)


def log_plan(data: RunData, plan: Plan) -> None:
    """Logs how full the packed rows are, and what was dropped or truncated of each dataset."""
    _log.info(
        "packing: %s examples in %s rows, %s filled",
        f"{len(plan.member):,}",
        f"{len(plan):,}",
        plan.filled_text(),
    )
    for member in data.train.members():
        _log_losses(data, member.name)
    # Few rows of a file decide which checkpoint is the best one.
    validated = [] if data.train.missing("validation") else data.train.datasets("validation")
    for name in validated:
        if name in data.train.trained.own:
            _log_losses(data, name, "validation")


def _log_losses(data: RunData, name: str, split: str = "train") -> None:
    """Logs what was dropped or truncated of a dataset; nothing if nothing was."""
    counts = data.train.counts(name, split)
    details = [f"{count:,} {shown(what)}" for what, count in losses(counts).items()]
    if details:
        is_own = name in data.train.trained.own  # a row of it may be several examples
        _log.info(
            "  %s: %s rows read, %s %s; %s",
            name if split == "train" else f"{name}, {split}",
            f"{counts['rows read']:,}",
            f"{counts['rows']:,}",
            "examples" if is_own else "kept",
            ", ".join(details),
        )


def log_eval_counts(data: RunData) -> None:
    """Logs what was dropped or truncated of the held-out rows, summed over templates."""
    lost, rows = collections.defaultdict(collections.Counter), collections.Counter()
    for dataset, template in data.eval.jobs():
        counts = data.eval.counts(dataset, template)
        rows[dataset.name] += counts["rows"]
        lost[dataset.name].update(losses(counts))
    for name, counts in lost.items():
        if counts:
            # of all the exemplars that were drawn
            drawn = {EXEMPLARS_LEFT_OUT: f" of {rows[name] * data.config.eval_shots:,}"}
            details = [
                f"{count:,}{drawn.get(what, '')} {shown(what)}" for what, count in counts.items()
            ]
            _log.info(
                "  held out, over all templates: %s: %s rows; %s",
                name,
                f"{rows[name]:,}",
                ", ".join(details),
            )
