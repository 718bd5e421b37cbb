"""`flan-jax tasks`: the catalogue for eyes and, with --json, for scripts.

list shows all datasets, show one of them, render its rows as instructions, check loads rows of every dataset and
renders every template, split says who trains and who is held out. The package that this module belongs to fills the
catalogue when it is imported.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from flan_jax import cli
from flan_jax.data import sources
from flan_jax.data.catalogue import CATALOGUE, Dataset, Drop, Template
from flan_jax.data.clusters import CLUSTERS
from flan_jax.data.exemplars import ExemplarPool
from flan_jax.data.mixture import HELD_OUT_FORMS, UNSEEN, held_out_split
from flan_jax.data.render import INSTRUCTIONS, STYLES, Rendered, read_row, render
from flan_jax.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Runs `flan-jax tasks` with arguments; 1 if `check` found a problem, else 0."""
    flags = _parser().parse_args(argv)
    return flags.do(flags) or 0


def _parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(prog="flan-jax tasks", description=__doc__.split("\n", 1)[0], allow_abbrev=False)
    verbs = parser.add_subparsers(required=True, metavar="list|show|render|check|split")

    def verb(name: str, do, summary: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        sub.add_argument("--json", action="store_true", help="print JSON")
        sub.set_defaults(do=do)
        return sub

    listing = verb("list", _list, "every dataset, one line each")
    listing.add_argument("--cluster", help="only the datasets of this cluster")
    verb("show", _show, "a dataset: sources, fields, options, templates").add_argument("name")
    rendering = verb("render", _render, "rows of a dataset, written with its templates")
    rendering.add_argument("name")
    _add_source_flags(rendering)
    rendering.add_argument("--split", help="raw split of the source, e.g. train or validation[:10]")
    rendering.add_argument("--num_rows", type=_count, default=1, help="how many rows (default 1)")
    rendering.add_argument("--template", default="all", help="id of a template, or all (default)")
    rendering.add_argument("--options_style", choices=STYLES, default="fixed")
    rendering.add_argument("--instructions", choices=INSTRUCTIONS, default="template")
    rendering.add_argument("--shots", type=_count, default=0, help="exemplars shown before the row")
    rendering.add_argument("--seed", type=int, default=0, help="of shuffled options and the choice of exemplars")
    checking = verb("check", _check, "load rows of every dataset and render every template")
    checking.add_argument("names", nargs="*", metavar="name", help="only these datasets")
    _add_source_flags(checking)
    checking.add_argument("--num_rows", type=_count, default=100, help="at most this many rows a split (default 100)")
    splitting = verb("split", _split, "who trains, who is dropped and who is evaluated")
    splitting.add_argument("--held_out", required=True, help=HELD_OUT_FORMS)
    splitting.add_argument("--train_clusters", type=_count, help="only the first 1 to 7 training clusters, in the "
                                                                 "paper's order")
    splitting.add_argument("--datasets_per_cluster", type=_count, help="only so many training datasets a cluster")
    return parser


def _add_source_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", choices=sources.KINDS, default="bundled", help="where rows come from")
    parser.add_argument("--data_dir", help="directory of the rows (jsonl: <dataset>/<split>.jsonl)")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def _list(flags: argparse.Namespace) -> None:
    datasets = CATALOGUE.cluster(flags.cluster) if flags.cluster else list(CATALOGUE)
    if flags.json:
        print(json.dumps([_summary(d) for d in datasets], indent=1, ensure_ascii=False))
        return
    print(f"{'dataset':<36}{'cluster':<40}{'train rows':>10}  {'options':<9}{'templates':<16}metric")
    for d in datasets:
        rows = f"{d.rows['train']:,}" if "train" in d.rows else "?" if "train" in d.splits else "-"
        options = "text" if d.options is None else "of row" if isinstance(d.options, str) else str(len(d.options))
        inverted = len(d.templates) - len(d.forward())
        templates = f"{len(d.templates)}" + (f" ({inverted} inverted)" if inverted else "")
        print(f"{d.name:<36}{d.cluster:<40}{rows:>10}  {options:<9}{templates:<16}{d.metrics[0]}")
    print(f"{len(datasets)} configurations of {len({d.paper_dataset for d in datasets})} datasets in "
          f"{len({d.cluster for d in datasets})} clusters, {sum(len(d.templates) for d in datasets)} templates")


def _summary(dataset: Dataset) -> dict[str, Any]:
    """The record of `tasks list --json`."""
    places = {"tfds": dataset.tfds, "hf": dataset.hub, "jsonl": dataset.name, "bundled": dataset.name}
    return {
        "name": dataset.name, "dataset": dataset.paper_dataset, "cluster": dataset.cluster,
        "split_names": list(dataset.splits), "options": dataset.options, "metrics": dataset.metrics,
        "licence": dataset.licence, "sources": {kind: place for kind, place in places.items() if place},
        "templates": [{"id": t.id, "kind": t.kind, "shows_options": t.shows_options, "inputs": t.inputs,
                       "targets": t.targets} for t in dataset.templates],
    }


def _show(flags: argparse.Namespace) -> None:
    dataset = CATALOGUE[flags.name]
    if flags.json:
        more = {name: getattr(dataset, name) for name in
                ("splits", "rows", "fields", "evidence", "shares_training_with", "manual", "train_cap")}
        print(json.dumps(_summary(dataset) | more, indent=1, ensure_ascii=False, default=dict))
        return
    options = dataset.options or ("none: free text",)
    facts = {
        "paper": f"{dataset.paper_dataset} ({CLUSTERS[dataset.cluster]})",
        "sources": ", ".join(f"{kind} {place}" for kind, place in _summary(dataset)["sources"].items()),
        "splits": ", ".join(f"{ours} = {raw}" for ours, raw in dataset.splits.items()),
        "fields": ", ".join(dataset.fields),
        "options": options if isinstance(options, str) else ", ".join(options),
        "metrics": ", ".join(dataset.metrics),
        "licence": dataset.licence,
        "training": dataset.shares_training_with and
        f"the same rows as {dataset.shares_training_with}, which trains in its place",
        "manual": dataset.manual,
    }
    print(dataset.name)
    print("\n".join(f"  {name:<10}{fact}" for name, fact in facts.items() if fact))
    for template in dataset.templates:
        print(_indented(f"{template.id} ({template.kind})", template.inputs, template.targets))


def _indented(title: str, inputs: str, targets: str) -> str:
    lines = [f"    {line}".rstrip() for line in inputs.split("\n")]
    return "\n".join(["", title, *lines, *(f"    => {line}" for line in targets.split("\n"))])


def _render(flags: argparse.Namespace) -> None:
    dataset = CATALOGUE[flags.name]
    source = sources.open_source(flags.source, flags.data_dir)
    templates = dataset.templates if flags.template == "all" else (dataset.template(flags.template),)
    if flags.source == "tfds" and (why := source.available(dataset, next(iter(dataset.splits)))):
        raise UserError(f"{dataset.name}: {why}; `flan-jax prepare` downloads, --source=bundled needs no download.")
    spec = flags.split or sources.parse_spec(source.spec(dataset, next(iter(dataset.splits))))[0]
    pool = ExemplarPool(dataset, source, flags.seed) if flags.shots else None
    dropped: collections.Counter[str] = collections.Counter()
    for index, row_id, row in itertools.islice(_usable_rows(source, dataset, spec, dropped), flags.num_rows):
        exemplars = pool.draw(row, row_id, flags.shots) if pool else []
        for template in templates:
            text = render(dataset, template, row, row_id=row_id, options_style=flags.options_style,
                          instructions=flags.instructions, exemplars=exemplars, seed=flags.seed)
            if flags.json:
                print(json.dumps({"row": index, "template": template.id, "kind": template.kind, "inputs": text.inputs,
                                  "targets": text.targets, "options": text.options, "answer": text.answer},
                                 ensure_ascii=False))
            else:
                print(_indented(f"{row_id} {template.id} ({template.kind})", text.inputs, text.targets))
    if dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        print(f"rows left out: {reasons}", file=sys.stderr)


def _usable_rows(source, dataset: Dataset, spec: str, dropped) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(position, row id, fields) of the rows that are not dropped; the others are counted by reason."""
    for index, raw in source.rows(dataset, spec):
        row = read_row(dataset, raw)
        if isinstance(row, Drop):
            dropped[row.reason] += 1
        else:
            yield index, sources.row_id(dataset, spec, index), row


@dataclasses.dataclass
class _Report:
    """What `check` found out about a dataset; `unavailable` gives the reason by split."""

    name: str
    cluster: str
    status: str = "ok"
    rows: dict[str, int] = dataclasses.field(default_factory=dict)
    dropped: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    templates: int = 0
    unavailable: dict[str, str] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)


def _check(flags: argparse.Namespace) -> int:
    source = sources.open_source(flags.source, flags.data_dir)
    datasets = [CATALOGUE[name] for name in flags.names] or list(CATALOGUE)
    reports = []
    for dataset in datasets:
        reports.append(_check_dataset(source, dataset, flags.num_rows))
        if not flags.json:
            print(_report_line(reports[-1]), flush=True)
    count = collections.Counter(report.status for report in reports)
    if flags.json:
        print(json.dumps([vars(report) for report in reports], indent=1, ensure_ascii=False))
    else:
        print(f"{count['ok']} ok, {count['failed']} failed, {count['unavailable']} without rows in {flags.source}; "
              f"{sum(sum(r.rows.values()) for r in reports):,} rows, each in every template")
    return 0 if count["ok"] and not count["failed"] else 1


def _report_line(report: _Report) -> str:
    rows = ", ".join(f"{split} {count}" for split, count in report.rows.items())
    dropped = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
    reasons = [f"{split}: {why}" for split, why in report.unavailable.items()]
    details = report.problems + (reasons[:1] if report.status == "unavailable" else reasons)
    line = f"{report.status:<12}{report.name:<36}{rows}" + (f" (left out: {dropped})" if dropped else "")
    return "\n".join([line.rstrip(), *(f"{'':<12}{detail}" for detail in details)])


def _check_dataset(source, dataset: Dataset, num_rows: int) -> _Report:
    """Renders the first rows of each split in every template and looks at the results."""
    report = _Report(dataset.name, dataset.cluster, templates=len(dataset.templates))
    for split in dataset.splits:
        place = split
        try:
            if why := source.available(dataset, split):
                report.unavailable[split] = why
                continue
            report.rows[split] = 0
            for index, raw in itertools.islice(source.rows(dataset, source.spec(dataset, split)), num_rows):
                place = f"{split}/{index}"
                _check_row(dataset, raw, place, report)
                report.rows[split] += 1
        except Exception as error:  # One dataset that cannot be read must not hide the others.
            report.problems.append(f"{place}: {_first_line(error)}")
    report.status = "failed" if report.problems else "ok" if any(report.rows.values()) else "unavailable"
    return report


def _check_row(dataset: Dataset, raw: dict[str, Any], place: str, report: _Report) -> None:
    row = read_row(dataset, raw)
    if isinstance(row, Drop):
        report.dropped[row.reason] += 1
        return
    seen: dict[str, str] = {}
    for template in dataset.templates:
        text = render(dataset, template, row, row_id=place)
        problem = _problem(template, text)
        twin = seen.setdefault(text.inputs, template.id)
        if not problem and twin != template.id:
            problem = f"has the same input as {twin}"
        # The first row with a problem stands for all.
        if problem and not any(known.endswith(f"{template.id} {problem}") for known in report.problems):
            report.problems.append(f"{place} {template.id} {problem}")


def _problem(template: Template, text: Rendered) -> str | None:
    """What is wrong with a rendered row, if anything."""
    if not text.inputs.strip() or not text.targets.strip():
        return "is empty"
    if text.inputs != text.inputs.strip() or text.targets != text.targets.strip():
        return "begins or ends with white space"
    if text.options is not None and text.answer not in text.options:
        return f"has the answer {text.answer!r}, which is no option"
    if text.options is not None and any(not option for option in text.options):
        return "has an empty option"
    if template.kind == "forward" and text.targets != text.answer:
        return f"asks for {text.targets!r}, not for the answer"
    return None


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or "failed").splitlines()[0]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _split(flags: argparse.Namespace) -> None:
    split = held_out_split(CATALOGUE, flags.held_out, flags.train_clusters, flags.datasets_per_cluster)
    if flags.json:
        print(json.dumps({"train": split.train, "dropped": split.dropped, "eval": split.eval}, indent=1))
        return
    for title, names in (("train", split.train), ("dropped", split.dropped), ("eval", split.eval)):
        datasets = {CATALOGUE[name].paper_dataset for name in names}
        print(f"{title} ({len(names)} configurations of {len(datasets)} datasets)")
        for name in names:
            print(f"  {name:<36}{CATALOGUE[name].cluster:<40}{split.why.get(name, '')}".rstrip())
    if split.eval:
        print(f"evaluated as unseen: {UNSEEN[split.unseen]}")


if __name__ == "__main__":
    cli.run(main)
