"""`flan-jax train`: the whole run: prepare if needed, train, checkpoint, evaluate, report."""

from __future__ import annotations

import sys
import time

from flan_jax.cli import dispatch
from flan_jax.config import gin_files
from flan_jax.config.flags import ArgumentParser
from flan_jax.parallel import processes
from flan_jax.runs.setup import open_run
from flan_jax.runs.train_run import conclude_again, train_run
from flan_jax.runs.up_to_date import Command


@processes.end_together
def main(argv: list[str] | None = None) -> int:
    """Runs the verb: `--gin_file=F --gin.NAME=value ...`; the same command resumes a run."""
    started = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    flags = gin_files.parse_command_line(argv, gin_files.CONFIGURED, make_parser())
    command = Command("train", flags)
    data = command.is_done()
    if data is not None:
        return conclude_again(data, command.directory)
    run = open_run(flags.profile, flags)
    processes.mute_others()
    status = train_run(run, flags.gin_arguments, started)
    if status == 0:
        command.note_done(run.data)
    return status


def make_parser() -> ArgumentParser:
    """Returns the parser of the verb's own flags."""
    parser = ArgumentParser(prog="flan-jax train", description=__doc__)
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="STEPS",
        help="write a profiler trace of this many steps into MODEL_DIR/profile",
    )
    processes.add_flags(parser)
    return parser


if __name__ == "__main__":
    dispatch.run(main)
