"""`flan-jax tasks`: the catalogue for eyes and, with --json, for scripts.

list shows all datasets, show one of them, render its rows as instructions, check loads rows of
every dataset and renders them in every template, options style and instruction mode, split says who
trains and who is held out, overlap which held-out rows stand in training rows. The package that
this module belongs to fills the catalogue when it is imported.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from typing import Any

from flan_jax.catalogue import CATALOGUE, CLUSTERS
from flan_jax.catalogue.records import Dataset, Template, in_words
from flan_jax.catalogue.relations import RULES, describe
from flan_jax.catalogue.render import INSTRUCTIONS, STYLES, render
from flan_jax.catalogue.splits import HELD_OUT_FORMS, held_out_split
from flan_jax.catalogue.template_words import wording, wording_summary
from flan_jax.cli import dispatch
from flan_jax.config.flags import ArgumentParser
from flan_jax.data import dataset_check
from flan_jax.data.contamination.overlap import held_out_overlap
from flan_jax.data.exemplars import ExemplarPool
from flan_jax.data.rows import usable_rows
from flan_jax.data.sources.kinds import KINDS, open_source
from flan_jax.data.sources.slices import parse_spec
from flan_jax.data.user_modules import import_module
from flan_jax.errors import UserError
from flan_jax.messages import escaped, shown


def main(argv: Sequence[str]) -> int:
    """Runs `flan-jax tasks` with arguments; 1 if `check` found a problem, else 0."""
    flags = _parser().parse_args(argv)
    if flags.module:
        import_module(flags.module)
    return flags.do(flags) or 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="flan-jax tasks", description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    verbs = parser.add_subparsers(required=True, metavar="list|show|render|check|split|overlap")

    def verb(name: str, do, summary: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        sub.add_argument("--json", action="store_true", help="print JSON")
        sub.add_argument("--module", help="module or .py file that registers datasets of your own")
        sub.set_defaults(do=do)
        return sub

    listing = verb("list", _list, "every dataset, one line each")
    listing.add_argument("--cluster", help="only the datasets of this cluster")
    listing.add_argument(
        "--commercial",
        action="store_true",
        help="only datasets with a license that allows commercial use",
    )
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
    rendering.add_argument(
        "--seed", type=int, default=0, help="of shuffled options and the choice of exemplars"
    )
    checking = verb("check", _check, "load rows of every dataset and render them in every way")
    checking.add_argument("names", nargs="*", metavar="name", help="only these datasets")
    _add_source_flags(checking)
    checking.add_argument(
        "--num_rows", type=_count, default=100, help="at most this many rows a split (default 100)"
    )
    splitting = verb("split", _split, "who trains, who is dropped and who is evaluated")
    splitting.add_argument("--held_out", required=True, help=HELD_OUT_FORMS)
    splitting.add_argument(
        "--train_clusters",
        type=_count,
        help="only the first 1 to 7 training clusters, in the paper's order",
    )
    splitting.add_argument(
        "--datasets_per_cluster", type=_count, help="only so many training datasets a cluster"
    )
    splitting.add_argument(
        "--commercial_only",
        action="store_true",
        help="only datasets with a license that allows commercial use train",
    )
    splitting.add_argument(
        "--train_datasets",
        type=_count,
        help="at most so many training datasets, one of each cluster in turn",
    )
    _add_related_flag(splitting)
    overlapping = verb(
        "overlap", _overlap, "which held-out rows stand, word for word, in the training rows"
    )
    overlapping.add_argument("--held_out", required=True, help=HELD_OUT_FORMS)
    _add_related_flag(overlapping)
    _add_source_flags(overlapping)
    overlapping.add_argument(
        "--split",
        choices=("test", "validation", "train"),
        default="test",
        help="which rows of the held-out datasets (default test)",
    )
    overlapping.add_argument(
        "--max_rows", type=_count, help="only the first so many rows of each dataset"
    )
    return parser


def _add_source_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", choices=KINDS, default="bundled", help="where rows come from")
    parser.add_argument(
        "--data_dir",
        help="directory of the rows (jsonl: <dataset>/<split>.jsonl; hf: "
        "<hub id>/<config>/<split>/*.parquet)",
    )


def _add_related_flag(parser: argparse.ArgumentParser) -> None:
    meanings = "; ".join(f"{rule}: {meaning}" for rule, meaning in RULES.items())
    parser.add_argument(
        "--related", choices=tuple(RULES), default="text", help=f"{meanings} (default text)"
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def _list(flags: argparse.Namespace) -> None:
    datasets = CATALOGUE.cluster(flags.cluster) if flags.cluster else list(CATALOGUE)
    datasets = [d for d in datasets if d.commercial or not flags.commercial]
    if flags.json:
        print(json.dumps([_summary(d) for d in datasets], indent=1, ensure_ascii=False))
        return
    print(
        f"{'dataset':<36}{'cluster':<40}{'train rows':>10}  "
        f"{'options':<9}{'templates':<16}{'metric':<17}{'commercial':<12}license"
    )
    for d in datasets:
        rows = f"{d.rows['train']:,}" if "train" in d.rows else "?" if "train" in d.splits else "-"
        options = (
            "text"
            if d.options is None
            else "of row"
            if isinstance(d.options, str)
            else str(len(d.options))
        )
        inverted = len(d.templates) - len(d.forward())
        templates = f"{len(d.templates)}" + (f" ({inverted} inverted)" if inverted else "")
        print(
            f"{d.name:<36}{d.cluster:<40}{rows:>10}  {options:<9}{templates:<16}{d.metrics[0]:<17}"
            f"{in_words(d.commercial):<12}{d.license}"
        )
    print(
        f"{len(datasets)} configurations of {len({d.paper_dataset for d in datasets})} datasets in "
        f"{len({d.cluster for d in datasets})} clusters, {sum(len(d.templates) for d in datasets)} "
        "templates"
    )


def _summary(dataset: Dataset) -> dict[str, Any]:
    """The record of `tasks list --json`."""
    places = {
        "tfds": dataset.tfds,
        "hf": dataset.hub and dataset.hub.id,
        "jsonl": dataset.name,
        "bundled": dataset.name,
    }
    return {
        "name": dataset.name,
        "dataset": dataset.paper_dataset,
        "cluster": dataset.cluster,
        "split_names": list(dataset.splits),
        "options": dataset.options,
        "metrics": dataset.metrics,
        "license": dataset.license,
        "commercial": in_words(dataset.commercial),
        "license_evidence": dataset.license_evidence,
        "sources": {kind: place for kind, place in places.items() if place},
        "templates": [
            {
                "id": t.id,
                "kind": t.kind,
                "shows_options": t.shows_options,
                "inputs": t.inputs,
                "targets": t.targets,
            }
            for t in dataset.templates
        ],
    }


def _show(flags: argparse.Namespace) -> None:
    dataset = CATALOGUE[flags.name]
    if flags.json:
        more = {
            name: getattr(dataset, name)
            for name in (
                "splits",
                "rows",
                "fields",
                "evidence",
                "shares_training_with",
                "manual",
                "train_cap",
            )
        }
        print(json.dumps(_summary(dataset) | more, indent=1, ensure_ascii=False, default=dict))
        return
    options = (
        tuple(map(shown, dataset.options))
        if isinstance(dataset.options, tuple)
        else dataset.options or ("none: free text",)
    )
    facts = {
        "paper": f"{dataset.paper_dataset} ({CLUSTERS[dataset.cluster]})",
        "sources": ", ".join(
            f"{kind} {place}" for kind, place in _summary(dataset)["sources"].items()
        ),
        "splits": ", ".join(f"{ours} = {raw}" for ours, raw in dataset.splits.items()),
        "fields": ", ".join(dataset.fields),
        "options": options if isinstance(options, str) else ", ".join(options),
        "metrics": ", ".join(dataset.metrics),
        "license": (
            f"{dataset.license} (commercial use: {in_words(dataset.commercial)}; "
            f"{dataset.license_evidence})"
        ),
        "training": dataset.shares_training_with
        and f"the same rows as {dataset.shares_training_with}, which trains in its place",
        "manual": dataset.manual,
    }
    print(dataset.name)
    print("\n".join(f"  {name:<10}{fact}" for name, fact in facts.items() if fact))
    for template in dataset.templates:
        print(
            _indented(
                f"{template.id} ({template.kind}, {wording(dataset, template)})",
                template.inputs,
                template.targets,
            )
        )


def _indented(title: str, inputs: str, targets: str) -> str:
    lines = [f"    {line}".rstrip() for line in escaped(inputs).split("\n")]
    return "\n".join(
        ["", title, *lines, *(f"    => {line}" for line in escaped(targets).split("\n"))]
    )


def _render(flags: argparse.Namespace) -> None:
    dataset = CATALOGUE[flags.name]
    source = open_source(flags.source, flags.data_dir)
    templates = _templates(dataset, flags.template, flags.instructions)
    if flags.source in ("tfds", "hf") and (
        why := source.available(dataset, next(iter(dataset.splits)))
    ):
        raise UserError(
            f"{dataset.name}: {why}; `flan-jax prepare` downloads, --source=bundled needs no "
            f"download."
        )
    spec = flags.split or parse_spec(source.spec(dataset, next(iter(dataset.splits))))[0]
    pool = ExemplarPool(dataset, source, flags.seed) if flags.shots else None
    counts: collections.Counter[str] = collections.Counter()
    for index, row_id, row in itertools.islice(
        usable_rows(source, dataset, spec, counts), flags.num_rows
    ):
        exemplars = pool.draw(row, row_id, flags.shots) if pool else []
        for template in templates:
            text = render(
                dataset,
                template,
                row,
                row_id=row_id,
                options_style=flags.options_style,
                instructions=flags.instructions,
                exemplars=exemplars,
                seed=flags.seed,
            )
            if flags.json:
                print(
                    json.dumps(
                        {
                            "row": index,
                            "template": template.id,
                            "kind": template.kind,
                            "inputs": text.inputs,
                            "targets": text.targets,
                            "options": text.options,
                            "answer": text.answer,
                        },
                        ensure_ascii=False,
                    )
                )
            else:
                print(
                    _indented(
                        f"{row_id} {template.id} ({template.kind})", text.inputs, text.targets
                    )
                )
    dropped = [
        f"{count} {shown(name.removeprefix('dropped: '))}"
        for name, count in counts.items()
        if name != "rows read"
    ]
    if dropped:
        print(f"rows left out: {', '.join(dropped)}", file=sys.stderr)


def _templates(dataset: Dataset, wanted: str, instructions: str) -> Sequence[Template]:
    """The template of an id, or all; where nothing of their text is shown, one for all, which is
    said on stderr.

    Raises:
      UserError: for an unknown id, or an inverted template in a mode that never turns a row around.
    """
    inverts = instructions in ("template", "baseline")
    if wanted != "all":
        template = dataset.template(wanted)
        if template.kind == "inverted" and not inverts:
            raise UserError(
                f"{dataset.name}: {wanted!r} is inverted, and --instructions={instructions} never "
                "turns a row around; give a forward template."
            )
        return (template,)
    if instructions == "template":
        return dataset.templates
    inverted = tuple(
        template for template in dataset.templates if template.kind == "inverted" and inverts
    )
    chosen = dataset.forward()[:1] + inverted[:1]
    print(
        f"--instructions={instructions} shows nothing of a template's text; rendered as "
        f"{', '.join(template.id for template in chosen)}",
        file=sys.stderr,
    )
    return chosen


def _check(flags: argparse.Namespace) -> int:
    source = open_source(flags.source, flags.data_dir)
    datasets = [CATALOGUE[name] for name in flags.names] or list(CATALOGUE)
    reports = []
    if not flags.json:
        print(dataset_check.HEADER)
    for dataset in datasets:
        reports.append(dataset_check.check_dataset(source, dataset, flags.num_rows))
        if not flags.json:
            print(escaped(dataset_check.table_row(reports[-1])), flush=True)
    if flags.json:
        print(json.dumps([vars(report) for report in reports], indent=1, ensure_ascii=False))
    else:
        print(wording_summary(datasets))
        print(dataset_check.summary(reports, flags.source))
    statuses = {report.status for report in reports}
    return 0 if "ok" in statuses and "failed" not in statuses else 1


def _split(flags: argparse.Namespace) -> None:
    split = held_out_split(
        CATALOGUE,
        flags.held_out,
        flags.train_clusters,
        flags.datasets_per_cluster,
        flags.related,
        flags.train_datasets,
        flags.commercial_only,
    )
    if flags.json:
        overlaps = [
            {
                "train": o.train,
                "eval": o.evaluated,
                "shared": o.relation.why,
                "measured": o.relation.measured,
            }
            for o in split.overlaps
        ]
        print(
            json.dumps(
                {
                    "train": split.train,
                    "dropped": split.dropped,
                    "eval": split.eval,
                    "related": split.related,
                    "overlaps": overlaps,
                },
                indent=1,
            )
        )
        return
    for title, names in (("train", split.train), ("dropped", split.dropped), ("eval", split.eval)):
        datasets = {CATALOGUE[name].paper_dataset for name in names}
        print(f"{title} ({len(names)} configurations of {len(datasets)} datasets)")
        for name in names:
            print(f"  {name:<36}{CATALOGUE[name].cluster:<40}{split.why.get(name, '')}".rstrip())
    if split.eval:
        print("\n".join(describe(split.related, split.overlaps)))
        print(f"evaluated as unseen: {split.promise}")


def _overlap(flags: argparse.Namespace) -> None:
    source = open_source(flags.source, flags.data_dir)
    report, left_out = held_out_overlap(
        CATALOGUE, source, flags.held_out, flags.split, flags.max_rows, flags.related
    )
    limits = {
        name: min(CATALOGUE[name].train_cap, flags.max_rows or sys.maxsize) for name in report.train
    }
    capped = [name for name, rows in report.train.items() if rows >= limits[name]]
    if flags.json:
        print(
            json.dumps(
                dataclasses.asdict(report)
                | {
                    "read_up_to_limit": {n: limits[n] for n in capped},
                    "max_rows": flags.max_rows,
                    "left_out": left_out,
                },
                indent=1,
                ensure_ascii=False,
            )
        )
        return
    print(
        f"{'held out':<36}{'rows':>9}{'N words':>9}{'overlapping':>13}{'share':>9}{'only phrases':>14}"
    )
    for total in report.held_out:
        print(
            f"{total.name:<36}{total.rows:>9,}{total.words:>9}{total.overlapping:>13,}"
            f"{total.overlapping / max(total.rows, 1):>9.2%}{total.phrases_only:>14,}"
        )
        for pair in sorted(
            (p for p in report.pairs if p.held_out == total.name), key=lambda p: -p.held_out_rows
        ):
            where = ", ".join(f"{name} {count:,}" for name, count in pair.texts.items())
            print(
                f"  {pair.train}: {pair.held_out_rows:,} rows ({where}) with {pair.train_rows:,} "
                f"training rows\n"
                f"    {pair.held_out_row} and {pair.train_row}: {escaped(pair.example)}"
            )
    print(
        f"{sum(t.overlapping for t in report.held_out):,} of "
        f"{sum(t.rows for t in report.held_out):,} held-out rows share words with "
        f"{sum(report.train.values()):,} rows of {len(report.train)} training datasets"
    )
    if flags.max_rows is not None:
        print(f"only the first {flags.max_rows:,} rows of each dataset were read")
    elif capped:
        print(f"read up to the training cap, as a run does: {', '.join(capped)}")
    for name, reason in left_out.items():
        print(f"left out: {name}: {escaped(reason)}", file=sys.stderr)


if __name__ == "__main__":
    dispatch.run(main)
