"""`flan-jax tasks`: shows the catalogue as text or, with --json, as JSON.

`list` shows all datasets, `show` one of them, `render` its rows as instructions. `check` loads rows
of every dataset and renders them in every template, options style and instruction mode; of a file
of your own it shows form, counts and lengths. `render` and `check` take such a file, or a directory
of them, in the place of a name. `split` shows which datasets train and which are held out,
`overlap` which held-out rows occur in training rows. The package of this module fills the catalogue
when it is imported.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from flan_jax.catalogue import CATALOGUE, CLUSTERS
from flan_jax.catalogue.records import Dataset, Template, in_words
from flan_jax.catalogue.relations import RULES, describe
from flan_jax.catalogue.render import INSTRUCTIONS, STYLES, Rendered, render
from flan_jax.catalogue.splits import HELD_OUT_FORMS, Split, held_out_split
from flan_jax.catalogue.template_words import wording, wording_summary
from flan_jax.cli import dispatch
from flan_jax.config.flags import ArgumentParser
from flan_jax.data import dataset_check, own_check
from flan_jax.data.contamination.overlap import held_out_overlap, report_text
from flan_jax.data.exemplars import ExemplarPool
from flan_jax.data.mixture_language import is_own
from flan_jax.data.own_data import open_named
from flan_jax.data.rows import usable_rows
from flan_jax.data.sources.base import Source
from flan_jax.data.sources.kinds import KINDS, open_source
from flan_jax.data.sources.slices import parse_spec
from flan_jax.data.user_modules import import_module
from flan_jax.data.vocabulary import load_vocabulary
from flan_jax.errors import UserError
from flan_jax.messages import escaped, shown


def main(argv: Sequence[str]) -> int:
    """Runs `flan-jax tasks` with arguments; returns 1 if `check` finds a problem, else 0."""
    flags = make_parser().parse_args(argv)
    if flags.module:
        import_module(flags.module)
    return flags.do(flags) or 0


def make_parser() -> ArgumentParser:
    """Returns the parser of the verb, with its sub-verbs."""
    parser = ArgumentParser(
        prog="flan-jax tasks", description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    verbs = parser.add_subparsers(required=True, metavar="list|show|render|check|split|overlap")

    def verb(
        name: str, do: Callable[[argparse.Namespace], int | None], summary: str
    ) -> argparse.ArgumentParser:
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
    showing = verb("show", _show, "a dataset: sources, fields, options, templates")
    showing.add_argument("name", help="a dataset, such as rte")
    _add_render_flags(verb("render", _render, "rows of a dataset, written with its templates"))
    checking = verb("check", _check, "load rows of every dataset and render them in every way")
    checking.add_argument(
        "names", nargs="*", metavar="name", help="only these datasets, or files of your own"
    )
    _add_source_flags(checking)
    checking.add_argument(
        "--num_rows",
        type=_count,
        help="at most this many rows a split (default 100; of a file of your own all)",
    )
    checking.add_argument(
        "--vocabulary",
        default="bytes",
        help="of the lengths of a file's rows: 'bytes' (default), a SentencePiece model or a "
        "tokenizer.json",
    )
    _add_split_flags(verb("split", _split, "which datasets train, are dropped, are evaluated"))
    _add_overlap_flags(
        verb("overlap", _overlap, "which held-out rows occur, word for word, in training rows")
    )
    return parser


def _add_render_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a dataset, or a file of your own")
    _add_source_flags(parser)
    parser.add_argument("--split", help="raw split of the source, e.g. train or validation[:10]")
    parser.add_argument("--num_rows", type=_count, default=1, help="how many rows (default 1)")
    parser.add_argument("--template", default="all", help="id of a template, or all (default)")
    parser.add_argument(
        "--options_style", choices=STYLES, default="fixed", help="how options are shown"
    )
    parser.add_argument(
        "--instructions", choices=INSTRUCTIONS, default="template", help="how rows are written"
    )
    parser.add_argument("--shots", type=_count, default=0, help="exemplars shown before the row")
    parser.add_argument(
        "--seed", type=int, default=0, help="of shuffled options and the choice of exemplars"
    )


def _add_split_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--held_out", required=True, help=HELD_OUT_FORMS)
    parser.add_argument(
        "--train_clusters",
        type=_count,
        help="only the first 1 to 7 training clusters, in the paper's order",
    )
    parser.add_argument(
        "--datasets_per_cluster", type=_count, help="only so many training datasets a cluster"
    )
    parser.add_argument(
        "--commercial_only",
        action="store_true",
        help="only datasets with a license that allows commercial use train",
    )
    parser.add_argument(
        "--train_datasets",
        type=_count,
        help="at most so many training datasets, one of each cluster in turn",
    )
    _add_related_flag(parser)


def _add_overlap_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="*",
        metavar="file",
        help="files of your own that train in the place of the catalogue",
    )
    parser.add_argument("--held_out", required=True, help=HELD_OUT_FORMS)
    _add_related_flag(parser)
    _add_source_flags(parser)
    parser.add_argument(
        "--split",
        choices=("test", "validation", "train"),
        default="test",
        help="which rows of the held-out datasets (default test)",
    )
    parser.add_argument(
        "--max_rows", type=_count, help="only the first so many rows of each dataset"
    )


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
    for dataset in datasets:
        print(_list_line(dataset))
    print(
        f"{len(datasets)} configurations of {len({d.paper_dataset for d in datasets})} datasets in "
        f"{len({d.cluster for d in datasets})} clusters, {sum(len(d.templates) for d in datasets)} "
        "templates"
    )


def _list_line(dataset: Dataset) -> str:
    if "train" in dataset.splits:
        rows = f"{dataset.rows['train']:,}" if "train" in dataset.rows else "?"
    else:
        rows = "-"
    if dataset.options is None:
        options = "text"
    else:
        options = "of row" if isinstance(dataset.options, str) else str(len(dataset.options))
    inverted = len(dataset.templates) - len(dataset.forward())
    templates = f"{len(dataset.templates)}" + (f" ({inverted} inverted)" if inverted else "")
    return (
        f"{dataset.name:<36}{dataset.cluster:<40}{rows:>10}  {options:<9}{templates:<16}"
        f"{dataset.metrics[0]:<17}{in_words(dataset.commercial):<12}{dataset.license}"
    )


def _summary(dataset: Dataset) -> dict[str, Any]:
    """The record of a dataset in `tasks list --json`."""
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


# Attributes that `tasks show --json` has, and `tasks list --json` has not.
_DETAILS = (
    "splits",
    "rows",
    "fields",
    "evidence",
    "shares_training_with",
    "manual",
    "train_cap",
)


def _show(flags: argparse.Namespace) -> None:
    dataset = CATALOGUE[flags.name]
    if flags.json:
        record = _summary(dataset) | {name: getattr(dataset, name) for name in _DETAILS}
        print(json.dumps(record, indent=1, ensure_ascii=False, default=dict))
        return
    print(dataset.name)
    print("\n".join(f"  {name:<10}{fact}" for name, fact in _facts(dataset).items() if fact))
    for template in dataset.templates:
        title = f"{template.id} ({template.kind}, {wording(dataset, template)})"
        print(_indented(title, template.inputs, template.targets))


def _facts(dataset: Dataset) -> dict[str, str | None]:
    """What `tasks show` prints of a dataset; a fact that is None is not printed."""
    options = dataset.options or "none: free text"
    if isinstance(options, tuple):
        options = ", ".join(map(shown, options))
    places = _summary(dataset)["sources"].items()
    twin = dataset.shares_training_with
    return {
        "paper": f"{dataset.paper_dataset} ({CLUSTERS[dataset.cluster]})",
        "sources": ", ".join(f"{kind} {place}" for kind, place in places),
        "splits": ", ".join(f"{ours} = {raw}" for ours, raw in dataset.splits.items()),
        "fields": ", ".join(dataset.fields),
        "options": options,
        "metrics": ", ".join(dataset.metrics),
        "license": (
            f"{dataset.license} (commercial use: {in_words(dataset.commercial)}; "
            f"{dataset.license_evidence})"
        ),
        "training": twin and f"the same rows as {twin}, which trains in its place",
        "manual": dataset.manual,
    }


def _indented(title: str, inputs: str, targets: str) -> str:
    input_lines = [f"    {line}".rstrip() for line in escaped(inputs).split("\n")]
    target_lines = [f"    => {line}" for line in escaped(targets).split("\n")]
    return "\n".join(["", title, *input_lines, *target_lines])


def _render(flags: argparse.Namespace) -> None:
    dataset, source = _opened(flags)
    templates = _templates(dataset, flags.template, flags.instructions)
    first_split = next(iter(dataset.splits))
    why = source.available(dataset, first_split) if flags.source in ("tfds", "hf") else None
    if why:
        raise UserError(
            f"{dataset.name}: {why}; `flan-jax prepare` downloads, --source=bundled needs no "
            f"download."
        )
    spec = flags.split or parse_spec(source.spec(dataset, first_split))[0]
    pool = ExemplarPool(dataset, source, flags.seed) if flags.shots else None
    counts: collections.Counter[str] = collections.Counter()
    rows = itertools.islice(usable_rows(source, dataset, spec, counts), flags.num_rows)
    for index, row_id, row in rows:
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
                print(_rendered_json(index, template, text))
            else:
                title = f"{row_id} {template.id} ({template.kind})"
                print(_indented(title, text.inputs, text.targets))
    del counts["rows read"]
    dropped = [f"{n} {shown(name.removeprefix('dropped: '))}" for name, n in counts.items()]
    if dropped:
        print(f"rows left out: {', '.join(dropped)}", file=sys.stderr)


def _opened(flags: argparse.Namespace) -> tuple[Dataset, Source]:
    """The dataset to render, and where its rows are."""
    if not _is_own(flags.name):
        return CATALOGUE[flags.name], open_source(flags.source, flags.data_dir)
    first, *others = open_named([flags.name])
    if others:
        raise UserError(f"{flags.name} matches {len(others) + 1} files; give one of them.")
    return first.dataset, first.source


def _is_own(name: str) -> bool:
    return name not in CATALOGUE and (is_own(name) or os.path.exists(name))


def _rendered_json(index: int, template: Template, text: Rendered) -> str:
    record = {
        "row": index,
        "template": template.id,
        "kind": template.kind,
        "inputs": text.inputs,
        "targets": text.targets,
        "options": text.options,
        "answer": text.answer,
    }
    return json.dumps(record, ensure_ascii=False)


def _templates(dataset: Dataset, wanted: str, instructions: str) -> Sequence[Template]:
    """The template of an id, or all of them.

    In a mode that shows nothing of their text, one template stands for all; stderr has its id.

    Raises:
      UserError: for an unknown id, or an inverted template in a mode that has only forward ones.
    """
    inverts = instructions in ("template", "baseline")
    if wanted != "all":
        template = dataset.template(wanted)
        if template.kind == "inverted" and not inverts:
            raise UserError(
                f"{dataset.name}: {wanted!r} is inverted, and --instructions={instructions} "
                "renders only forward templates; give one of those."
            )
        return (template,)
    if instructions == "template":
        return dataset.templates
    inverted = tuple(template for template in dataset.templates if template.kind == "inverted")
    chosen = dataset.forward()[:1] + (inverted[:1] if inverts else ())
    print(
        f"--instructions={instructions} shows nothing of a template's text; rendered as "
        f"{', '.join(template.id for template in chosen)}",
        file=sys.stderr,
    )
    return chosen


def _check(flags: argparse.Namespace) -> int:
    own = open_named([name for name in flags.names if _is_own(name)])
    if not own:
        return _check_datasets(flags)
    if not all(map(_is_own, flags.names)):
        raise UserError("give either datasets or files, since the reports on them differ.")
    vocabulary = load_vocabulary(flags.vocabulary)
    reports = {each: own_check.check_own(each, vocabulary, flags.num_rows) for each in own}
    write = own_check.report_json if flags.json else own_check.report_text
    print(write(reports))
    return 0 if all(splits["train"].used for splits in reports.values()) else 1


def _check_datasets(flags: argparse.Namespace) -> int:
    num_rows = 100 if flags.num_rows is None else flags.num_rows
    source = open_source(flags.source, flags.data_dir)
    datasets = [CATALOGUE[name] for name in flags.names] or list(CATALOGUE)
    reports = []
    if not flags.json:
        print(dataset_check.HEADER)
    for dataset in datasets:
        reports.append(dataset_check.check_dataset(source, dataset, num_rows))
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
        print(_split_json(split))
        return
    for title, names in (("train", split.train), ("dropped", split.dropped), ("eval", split.eval)):
        datasets = {CATALOGUE[name].paper_dataset for name in names}
        print(f"{title} ({len(names)} configurations of {len(datasets)} datasets)")
        for name in names:
            print(f"  {name:<36}{CATALOGUE[name].cluster:<40}{split.why.get(name, '')}".rstrip())
    if split.eval:
        print("\n".join(describe(split.related, split.overlaps)))
        print(f"evaluated as unseen: {split.guarantee}")


def _split_json(split: Split) -> str:
    overlaps = [
        {
            "train": overlap.train,
            "eval": overlap.evaluated,
            "shared": overlap.relation.why,
            "measured": overlap.relation.measured,
        }
        for overlap in split.overlaps
    ]
    record = {
        "train": split.train,
        "dropped": split.dropped,
        "eval": split.eval,
        "related": split.related,
        "overlaps": overlaps,
    }
    return json.dumps(record, indent=1)


def _overlap(flags: argparse.Namespace) -> None:
    source = open_source(flags.source, flags.data_dir)
    own = [(each.dataset, each.source) for each in open_named(flags.files)]
    report, left_out = held_out_overlap(
        CATALOGUE, source, flags.held_out, flags.split, flags.max_rows, flags.related, own
    )
    caps = {dataset.name: dataset.train_cap for dataset in (*CATALOGUE, *(d for d, _ in own))}
    limits = {name: min(caps[name], flags.max_rows or sys.maxsize) for name in report.train}
    capped = [name for name, rows in report.train.items() if rows >= limits[name]]
    if flags.json:
        record = dataclasses.asdict(report) | {
            "read_up_to_limit": {name: limits[name] for name in capped},
            "max_rows": flags.max_rows,
            "left_out": left_out,
        }
        print(json.dumps(record, indent=1, ensure_ascii=False))
        return
    print(report_text(report))
    if flags.max_rows is not None:
        print(f"only the first {flags.max_rows:,} rows of each dataset were read")
    elif capped:
        print(f"read up to the training cap, as a run does: {', '.join(capped)}")
    for name, reason in left_out.items():
        print(f"left out: {name}: {escaped(reason)}", file=sys.stderr)


if __name__ == "__main__":
    dispatch.run(main)
