"""`flan-jax tasks render`: rows as instructions, of the catalogue or of a file of one's own."""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import sys
from collections.abc import Sequence

from flan_jax.catalogue import CATALOGUE
from flan_jax.catalogue.records import Dataset, Template
from flan_jax.catalogue.render import INSTRUCTIONS, STYLES, Rendered, render
from flan_jax.checkpoints.model_by_name import vocabulary_of
from flan_jax.cli.tasks_show import indented
from flan_jax.data.chat.choose import AUTO
from flan_jax.data.encode import Rendering
from flan_jax.data.exemplars import ExemplarPool
from flan_jax.data.mixture_language import is_own
from flan_jax.data.own_data import open_named
from flan_jax.data.row_lengths import LengthMeter, RowLengths
from flan_jax.data.rows import usable_rows
from flan_jax.data.sources.base import Source
from flan_jax.data.sources.kinds import KINDS, open_source
from flan_jax.data.sources.slices import parse_spec
from flan_jax.data.vocabulary import Vocabulary, load_vocabulary
from flan_jax.errors import UserError
from flan_jax.messages import shown

# TASK_FEATURE_LENGTHS of a run that does not set it.
_LENGTHS = (Rendering.input_length, Rendering.target_length)


def add_render_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `render`."""
    parser.add_argument("name", help="a dataset, or a file of your own")
    add_source_flags(parser)
    add_length_flags(parser)
    parser.add_argument("--split", help="raw split of the source, e.g. train or validation[:10]")
    parser.add_argument("--num_rows", type=count, default=1, help="how many rows (default 1)")
    parser.add_argument("--template", default="all", help="id of a template, or all (default)")
    parser.add_argument(
        "--options_style", choices=STYLES, default="fixed", help="how options are shown"
    )
    parser.add_argument(
        "--instructions", choices=INSTRUCTIONS, default="template", help="how rows are written"
    )
    parser.add_argument("--shots", type=count, default=0, help="exemplars shown before the row")
    parser.add_argument(
        "--seed", type=int, default=0, help="of shuffled options and the choice of exemplars"
    )


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --source and --data_dir."""
    parser.add_argument("--source", choices=KINDS, default="bundled", help="where rows come from")
    parser.add_argument(
        "--data_dir",
        help="directory of the rows (jsonl: <dataset>/<split>.jsonl; hf: "
        "<hub id>/<config>/<split>/*.parquet)",
    )


def add_length_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags by which rows of a file are measured; see `measuring`."""
    parser.add_argument(
        "--vocabulary",
        help="of the lengths of a file's rows: 'bytes' (default), a SentencePiece model or a "
        "tokenizer.json, with its chat template if it is of an instruct model",
    )
    parser.add_argument(
        "--model",
        help="in place of --vocabulary: the model that is to be tuned, with its tokenizer and chat "
        "template; a name or path as in MODEL",
    )
    parser.add_argument(
        "--lengths",
        type=_two_lengths,
        metavar="S,T",
        help="most tokens of a file's inputs and targets, as in TASK_FEATURE_LENGTHS "
        f"(default {_LENGTHS[0]},{_LENGTHS[1]})",
    )


def measuring(flags: argparse.Namespace) -> tuple[Vocabulary, tuple[int, int]]:
    """Returns the vocabulary and the limits of `add_length_flags`.

    Raises:
      UserError: if both a vocabulary and a model are given, or one cannot be read.
    """
    name = flags.vocabulary or "bytes"
    if flags.model is not None:
        if flags.vocabulary is not None:
            raise UserError("--vocabulary and --model exclude each other; leave one out.")
        name = vocabulary_of(flags.model, "--model")
    return load_vocabulary(name, None, AUTO), flags.lengths or _LENGTHS


def refuse_length_flags(flags: argparse.Namespace) -> None:
    """Refuses the flags of `add_length_flags` for a dataset of the catalogue.

    Raises:
      UserError: if one is given.
    """
    for name in ("vocabulary", "model", "lengths"):
        if getattr(flags, name) is not None:
            raise UserError(
                f"--{name} has no effect on datasets of the catalogue; it is for a file of your "
                "own. Leave it out."
            )


def _two_lengths(text: str) -> tuple[int, int]:
    numbers = text.split(",")
    if len(numbers) != 2 or not all(n.isdecimal() and int(n) >= 2 for n in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} must be two numbers from 2 up, as in 1024,256")
    return int(numbers[0]), int(numbers[1])


def count(text: str) -> int:
    """Returns the number of a flag's text, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def render_rows(flags: argparse.Namespace) -> None:
    """Prints rows of a dataset or file in one or all of its templates.

    Those of a file have their lengths in tokens beside them.
    """
    dataset, source = _opened(flags)
    meter = _meter(flags, dataset)
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
        lengths = meter.row(row, row_id) if meter else None
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
                print(_rendered_json(index, template, text, meter, lengths))
            else:
                title = f"{row_id} {template.id} ({template.kind})"
                title += _lengths_in_words(meter, lengths) if meter else ""
                print(indented(title, text.inputs, text.targets))
    del counts["rows read"]
    dropped = [f"{n} {shown(name.removeprefix('dropped: '))}" for name, n in counts.items()]
    if dropped:
        print(f"rows left out: {', '.join(dropped)}", file=sys.stderr)


def _opened(flags: argparse.Namespace) -> tuple[Dataset, Source]:
    """The dataset to render, and where its rows are."""
    if not is_own_file(flags.name):
        refuse_length_flags(flags)
        return CATALOGUE[flags.name], open_source(flags.source, flags.data_dir)
    first, *others = open_named([flags.name])
    if others:
        raise UserError(f"{flags.name} matches {len(others) + 1} files; give one of them.")
    return first.dataset, first.source


def _meter(flags: argparse.Namespace, dataset: Dataset) -> LengthMeter | None:
    """What measures the rows of a file; None for the catalogue, and with exemplars."""
    if dataset.name in CATALOGUE or flags.shots:
        return None
    return LengthMeter(dataset, *measuring(flags))


def _lengths_in_words(meter: LengthMeter, lengths: RowLengths) -> str:
    pairs = [zip(meter.columns, example) for example in lengths.examples]
    examples = [", ".join(f"{name} {number:,}" for name, number in pair) for pair in pairs]
    counts = [shown(name) for name in lengths.counts]
    if not lengths.kept:
        counts = [f"left out: {counts[-1]}"]
    return "; ".join([f"; tokens: {' | '.join(examples)}" if examples else "", *counts])


def is_own_file(name: str) -> bool:
    """Returns whether a name is that of a file, not of a dataset of the catalogue."""
    return name not in CATALOGUE and (is_own(name) or os.path.exists(name))


def _rendered_json(
    index: int,
    template: Template,
    text: Rendered,
    meter: LengthMeter | None,
    lengths: RowLengths | None,
) -> str:
    record = {
        "row": index,
        "template": template.id,
        "kind": template.kind,
        "inputs": text.inputs,
        "targets": text.targets,
        "options": text.options,
        "answer": text.answer,
    }
    if meter:
        record["tokens"] = [dict(zip(meter.columns, example)) for example in lengths.examples]
        record |= {"examples": lengths.kept, "counts": lengths.counts}
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
