"""What verbs print of a run's data: who trains, what is held out, how full rows are, what was left
out or cut.
"""

from __future__ import annotations

import collections
from collections.abc import Collection

from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.catalogue.mixture_card import format_card
from flan_jax.catalogue.relations import describe, shared_texts
from flan_jax.data.encode import EXEMPLARS_LEFT_OUT
from flan_jax.data.packing import Plan
from flan_jax.data.run_data import RunData
from flan_jax.data.shards import losses
from flan_jax.messages import escaped, shown


def print_sides(data: RunData) -> None:
    """Who trains (the mixture card), who is held out, who is dropped with it, and who is
    missing.
    """
    print(f"rows: {data.source.description}")
    held_out = data.config.held_out
    print(f"held out: {CLUSTERS.get(held_out, held_out)}: {', '.join(data.split.eval) or '-'}")
    print(f"evaluated: {', '.join(data.eval.datasets()) or '-'}")
    if data.eval.names:
        trained = [name for name in data.eval.names if name not in data.split.eval]
        promise = (
            f"no promise, {', '.join(trained)} is not held out" if trained else data.split.promise
        )
        print(f"evaluated as unseen: {promise}")
    for why in dict.fromkeys(data.split.why.values()):
        print(
            f"dropped ({why}): "
            f"{', '.join(n for n in data.split.dropped if data.split.why[n] == why)}"
        )
    if data.split.eval:
        print("\n".join(describe(data.split.related, data.split.overlaps)))
    members = data.train.members()
    print_left_out(data)
    if data.split.eval and data.train.unchecked():
        print(
            f"not checked for overlap with what is held out: SeqIO task "
            f"{', '.join(data.train.unchecked())}"
        )
    print(format_card(data.train.card(members)))
    validation = {m.name for m in data.train.members("validation")}
    without = [m.name for m in members if m.name not in validation]
    if without:
        print(f"without validation rows: {', '.join(without)}")
    print(f"packing fills {data.train.plan().filled_text()}", flush=True)


def print_trained(data: RunData, trained_on: Collection[str]) -> None:
    """Which of what is evaluated the model's run trained on: numbers of these are not zero-shot."""
    trained = sorted(set(data.eval.names) & set(trained_on))
    if trained:
        print(f"not held out: {', '.join(trained)} (the model was trained on it)", flush=True)
    for shared in shared_texts(
        trained_on, [name for name in data.eval.names if name not in trained]
    ):
        print(
            (
                f"not held out: {', '.join(shared.evaluated)}: the model was trained on "
                f"{shared.train}, which {shared}"
            ),
            flush=True,
        )


def print_left_out(data: RunData) -> None:
    """What neither trains nor is evaluated though it was asked for, and why."""
    for name, reason in data.left_out.items():
        print(f"left out: {name} ({escaped(reason)})", flush=True)


def print_counts(data: RunData, only: str | None = None) -> None:
    """What was shortened, cut or dropped of all rows, or of those that are evaluated (`only`
    'eval').
    """
    if only != "eval":
        print_plan(data, data.train.plan())
    print_eval_counts(data)


def print_plan(data: RunData, plan: Plan) -> None:
    """How full the rows are, and what was shortened, cut or dropped on the way."""
    print(
        (
            f"packing: {len(plan.member):,} examples in {len(plan):,} rows, {plan.filled_text()} "
            f"filled"
        ),
        flush=True,
    )
    for member in data.train.members():
        counts = data.train.counts(member.name)
        lost = losses(counts)
        if lost:
            detail = ", ".join(f"{v:,} {shown(k)}" for k, v in lost.items())
            print(
                (
                    f"  {member.name}: {counts['rows read']:,} rows read, {counts['rows']:,} kept; "
                    f"{detail}"
                ),
                flush=True,
            )


def print_eval_counts(data: RunData) -> None:
    """What was dropped, shortened or cut of the held-out rows, summed over templates."""
    lost, rows = collections.defaultdict(collections.Counter), collections.Counter()
    for dataset, template in data.eval.jobs():
        counts = data.eval.counts(dataset, template)
        rows[dataset.name] += counts["rows"]
        lost[dataset.name].update(losses(counts))
    for name, counts in lost.items():
        if counts:
            drawn = {EXEMPLARS_LEFT_OUT: f" of {rows[name] * data.config.shots:,}"}
            print(
                f"  held out, over all templates: {name}: {rows[name]:,} rows; "
                + ", ".join(f"{v:,}{drawn.get(k, '')} {shown(k)}" for k, v in counts.items()),
                flush=True,
            )
