"""`flan-jax eval`: evaluates a checkpoint on the held-out cluster, in every template; reports."""

from __future__ import annotations

import logging
import sys

from flan_jax.cli import dispatch
from flan_jax.config import gin_files, run_directory
from flan_jax.config.flags import ArgumentParser, add_step_flag
from flan_jax.parallel import processes
from flan_jax.report.write import conclude
from flan_jax.runs.directories import uploading
from flan_jax.runs.evaluating import Request, evaluate_checkpoints
from flan_jax.runs.setup import open_run
from flan_jax.runs.up_to_date import Command

_log = logging.getLogger(__name__)


@processes.end_together
def main(argv: list[str] | None = None) -> int:
    """Evaluates a run, with its directory or its gin arguments; returns the exit status.

    What is in the output's `results.csv` already is not evaluated again.
    """
    argv = sys.argv[1:] if argv is None else argv
    flags = gin_files.parse_command_line(argv, gin_files.CONFIGURED, make_parser())
    command = Command("eval", flags, flags.output)
    if command.is_done() is not None:
        _log.info("everything is evaluated already, and nothing has changed since")
        return conclude(command.directory, True, "")
    run = open_run(flags=flags, evaluates=True, output=flags.output)
    processes.mute_others()
    request = Request(flags.checkpoint, flags.adapters, flags.step, flags.output, flags.name)
    evaluated = evaluate_checkpoints(run, request, flags.gin_arguments)
    with uploading(evaluated.output):
        status = conclude(evaluated.output, evaluated.finished, run.preemption.cause)
    if status == 0:
        command.note_done(run.data)
    return status


def make_parser() -> ArgumentParser:
    """Returns the parser of the verb's own flags."""
    parser = ArgumentParser(prog="flan-jax eval", description=__doc__)
    run_directory.add_flag(parser)
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="a run, one of its steps, or a checkpoint of "
        "another program (default: the last in MODEL_DIR)",
    )
    add_step_flag(parser)
    parser.add_argument(
        "--adapters",
        metavar="A,B,...",
        help="runs with PEFT, their steps, or adapters of Hugging Face, that tune the same base: "
        "each is evaluated, and the base is read once",
    )
    parser.add_argument("--output", metavar="DIR", help="where results go (default: MODEL_DIR)")
    parser.add_argument("--name", help="column `model` of the results (default: tuned)")
    processes.add_flags(parser)
    return parser


if __name__ == "__main__":
    dispatch.run(main)
