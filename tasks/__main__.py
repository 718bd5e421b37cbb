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
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence

from flan_jax.catalogue import CATALOGUE
from flan_jax.catalogue.relations import RULES, describe
from flan_jax.catalogue.splits import HELD_OUT_FORMS, Split, held_out_split
from flan_jax.catalogue.template_words import wording_summary
from flan_jax.cli import dispatch
from flan_jax.cli.tasks_render import (
    add_length_flags,
    add_render_flags,
    add_source_flags,
    count,
    is_own_file,
    measuring,
    refuse_length_flags,
    render_rows,
)
from flan_jax.cli.tasks_show import list_datasets, show_dataset
from flan_jax.config.flags import ArgumentParser
from flan_jax.data import dataset_check, own_check
from flan_jax.data.contamination.overlap import held_out_overlap, report_text
from flan_jax.data.own_data import open_named
from flan_jax.data.sources.kinds import open_source
from flan_jax.data.user_modules import import_module
from flan_jax.errors import UserError
from flan_jax.messages import escaped


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

    listing = verb("list", list_datasets, "every dataset, one line each")
    listing.add_argument("--cluster", help="only the datasets of this cluster")
    listing.add_argument(
        "--commercial",
        action="store_true",
        help="only datasets with a license that allows commercial use",
    )
    showing = verb("show", show_dataset, "a dataset: sources, fields, options, templates")
    showing.add_argument("name", help="a dataset, such as rte")
    add_render_flags(verb("render", render_rows, "rows of a dataset, written with its templates"))
    checking = verb("check", _check, "load rows of every dataset and render them in every way")
    checking.add_argument(
        "names", nargs="*", metavar="name", help="only these datasets, or files of your own"
    )
    add_source_flags(checking)
    checking.add_argument(
        "--num_rows",
        type=count,
        help="at most this many rows a split (default 100; of a file of your own all)",
    )
    add_length_flags(checking)
    _add_split_flags(verb("split", _split, "which datasets train, are dropped, are evaluated"))
    _add_overlap_flags(
        verb("overlap", _overlap, "which held-out rows occur, word for word, in training rows")
    )
    return parser


def _add_split_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--held_out", required=True, help=HELD_OUT_FORMS)
    parser.add_argument(
        "--train_clusters",
        type=count,
        help="only the first 1 to 7 training clusters, in the paper's order",
    )
    parser.add_argument(
        "--datasets_per_cluster", type=count, help="only so many training datasets a cluster"
    )
    parser.add_argument(
        "--commercial_only",
        action="store_true",
        help="only datasets with a license that allows commercial use train",
    )
    parser.add_argument(
        "--train_datasets",
        type=count,
        help="at most so many training datasets, one of each cluster in turn",
    )
    _add_related_flag(parser)


def _add_overlap_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="*",
        metavar="file",
        help="files of your own that train instead of the catalogue",
    )
    parser.add_argument("--held_out", required=True, help=HELD_OUT_FORMS)
    _add_related_flag(parser)
    add_source_flags(parser)
    parser.add_argument(
        "--split",
        choices=("test", "validation", "train"),
        default="test",
        help="which rows of the held-out datasets (default test)",
    )
    parser.add_argument(
        "--max_rows", type=count, help="only the first so many rows of each dataset"
    )


def _add_related_flag(parser: argparse.ArgumentParser) -> None:
    meanings = "; ".join(f"{rule}: {meaning}" for rule, meaning in RULES.items())
    parser.add_argument(
        "--related", choices=tuple(RULES), default="text", help=f"{meanings} (default text)"
    )


def _check(flags: argparse.Namespace) -> int:
    own = open_named([name for name in flags.names if is_own_file(name)])
    if not own:
        refuse_length_flags(flags)
        return _check_datasets(flags)
    if not all(map(is_own_file, flags.names)):
        raise UserError("give either datasets or files, since the reports on them differ.")
    vocabulary, limits = measuring(flags)
    reports = {each: own_check.check_own(each, vocabulary, limits, flags.num_rows) for each in own}
    if flags.json:
        print(own_check.report_json(reports))
    else:
        print(own_check.report_text(reports, vocabulary, limits))
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
