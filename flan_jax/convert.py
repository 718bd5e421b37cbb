"""`flan-jax convert`: T5X, Hugging Face and GGUF into ours, any into T5X's and Hugging Face's.

What was trained beside a frozen base is merged into it, or with --to=peft and --unmerged written
without it.
"""

from __future__ import annotations

import argparse
import sys
import time

from flan_jax.checkpoints.reader import DTYPES, FORMATS
from flan_jax.cli import dispatch
from flan_jax.config.flags import ArgumentParser, add_step_flag
from flan_jax.errors import UserError
from flan_jax.storage.places import place

_TARGETS = ("t5x", "hf", "flan", "peft")


def main(argv: list[str] | None = None) -> int:
    """Runs the verb; tensors are converted one at a time.

    Args:
      argv: `RUN_DIR --to=FORMAT --output=DIR`, or `--input=PATH` in place of RUN_DIR.

    Returns:
      The exit status.

    Raises:
      UserError: for arguments or a checkpoint that cannot be used.
    """
    started = time.perf_counter()
    flags = _parse_flags(sys.argv[1:] if argv is None else argv)
    # --help is answered without what reads and writes checkpoints.
    from flan_jax.runs.converting import convert

    convert(flags, started)
    return 0


def _parse_flags(argv: list[str]) -> argparse.Namespace:
    """The flags, with `input` and `output` as paths and `format` as its files show it."""
    flags = make_parser().parse_args(argv)
    if (flags.input is None) == (flags.place is None):
        raise UserError(
            "give what to convert once: RUN_DIR (or another checkpoint) or --input=PATH."
        )
    from flan_jax.checkpoints.hub_models import local_checkpoint
    from flan_jax.checkpoints.open import detect_format

    flags.input = local_checkpoint(flags.input or flags.place, "--input")
    flags.output = place(flags.output, "--output")
    flags.format = flags.format or detect_format(flags.input)
    if flags.unmerged and flags.to != "flan":
        raise UserError("--unmerged goes with --to=flan; --to=peft never merges, the others do.")
    if flags.base and flags.format != "peft" and flags.to != "peft":
        raise UserError(
            "--base is the base of an adapter of Hugging Face, or its name for --to=peft; leave it "
            "out."
        )
    return flags


def make_parser() -> ArgumentParser:
    """Returns the parser of the verb's own flags."""
    parser = ArgumentParser(prog="flan-jax convert", description=__doc__)
    parser.add_argument("place", nargs="?", metavar="RUN_DIR", help="the same as --input")
    parser.add_argument(
        "--from", dest="format", choices=FORMATS, help="format of the input (default: by its files)"
    )
    parser.add_argument("--to", choices=_TARGETS, required=True, help="format of the output")
    parser.add_argument(
        "--input",
        metavar="PATH",
        help="a run, one of its steps, a T5X checkpoint, a Hugging Face directory (of a model or "
        "of an adapter), a GGUF file, or hf:org/name[@revision] on the hub",
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="a directory that does not exist yet"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the parameters written (default: as they are stored)"
    )
    parser.add_argument(
        "--base",
        metavar="PATH",
        help="the base model of an adapter (default: the directory or GGUF file that it names); of "
        "a run that is converted --to=peft: the name or path that peft loads it by",
    )
    parser.add_argument(
        "--unmerged",
        action="store_true",
        help="with --to=flan: adapters stay beside their base, whose path base.json has",
    )
    add_step_flag(parser)
    parser.add_argument(
        "--with_optimizer",
        action="store_true",
        help="the optimizer's state too (flan; t5x: that of Adafactor)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="tokenizer file, or a directory of such, to go with it, or "
        "'bytes' (default: the one beside the input)",
    )
    return parser


if __name__ == "__main__":
    dispatch.run(main)
