"""`flan-jax sweep DIR`: a run for each point of a grid of settings; the same command resumes.

Each run is in DIR/NAME, its output in DIR/logs/NAME.log. What is finished is not done again.
`--gin.NAME=VALUE` sets a value for all points. Example: flan-jax sweep runs/seeds
--gin_file=gin/flan.gin --sweep.HELD_OUT=nli,sentiment --sweep.SEED=0,1,2
"""

from __future__ import annotations

import argparse
import json
import logging
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from flan_jax.checkpoints import bucket_clients
from flan_jax.cli import dispatch, sweep_backends
from flan_jax.config import gin_files, run_status
from flan_jax.config.flags import ArgumentParser, add_gin_flags
from flan_jax.config.gin_parsing import argument_value, split_bindings
from flan_jax.errors import UserError
from flan_jax.launch import start
from flan_jax.messages import listed, shown
from flan_jax.storage.bucket_lock import locked_in_bucket
from flan_jax.storage.copies import copy_of, origin, path_of, uploading_changes
from flan_jax.storage.locks import locked
from flan_jax.storage.places import place
from flan_jax.sweeps import grid, local, plan, sweep_table
from flan_jax.sweeps.plan import Sweep

_log = logging.getLogger(__name__)

_AXIS = re.compile(r"--(?:sweep|evaluate)\.([^=]+)=(.*)", re.DOTALL)
# A text in quotes, or a character; the apostrophe of a word begins no quotes.
_TOKEN = re.compile(r"""(?<!\w)'(?:\\.|[^'\\])*'|(?<!\w)"(?:\\.|[^"\\])*"|.""", re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    """Runs the verb; returns the exit status: 0 when every point is finished."""
    local.end_with_parent()
    argv = sys.argv[1:] if argv is None else argv
    axes, again = _axes(argv, "--sweep."), _axes(argv, "--evaluate.")
    rest = [argument for argument in argv if not _AXIS.fullmatch(argument)]
    flags = _flags(rest)
    if flags.json and not flags.status:
        raise UserError("--json has no effect without --status; add --status.")
    sweep_backends.check_flags(flags)
    directory = _directory(flags.directory)
    sweep = _sweep(directory, rest, flags, axes, again)
    if flags.status:
        return _print_status(sweep, flags.json)
    if flags.point is not None:
        return _run_point(sweep, flags.point)
    if flags.prepare:
        return _prepare(sweep)
    if flags.backend != "local":
        return _queue(sweep, flags, _configuring(argv, flags))
    lock = locked if isinstance(sweep.place, pathlib.Path) else locked_in_bucket
    with lock(sweep.place / ".sweep.lock", "flan-jax sweep"):
        return _run_here(sweep, flags)


def make_parser() -> ArgumentParser:
    """Returns the parser of the verb's own flags."""
    parser = ArgumentParser(prog="flan-jax sweep", description=__doc__)
    parser.add_argument("directory", metavar="DIR", help="of the sweep and its runs")
    parser.add_argument(
        "--sweep.NAME",
        dest="axis",
        metavar="A,B",
        help="an axis of the grid: the setting NAME has these values; in a gin file Sweep.grid",
    )
    parser.add_argument(
        "--evaluate.NAME",
        dest="evaluation",
        metavar="A,B",
        help="evaluate each tuned model again with the setting NAME at each of these values; in a "
        "gin file Sweep.evaluations",
    )
    parser.add_argument("--jobs", type=_count, default=1, help="runs at a time here (default: 1)")
    parser.add_argument(
        "--retries",
        type=int,
        default=0,
        help="how often a run that crashes is started again, all calls of the command together "
        "(default: 0); a run that was saved is always resumed",
    )
    parser.add_argument("--gpus", action="store_true", help="one GPU for each job")
    parser.add_argument("--status", action="store_true", help="print the state of each point")
    parser.add_argument("--json", action="store_true", help="with --status: as JSON")
    parser.add_argument("--retry", action="store_true", help="also the points that failed")
    parser.add_argument("--point", metavar="K", help="run one point here: its number or its name")
    parser.add_argument(
        "--prepare", action="store_true", help="prepare the data of all points, and no more"
    )
    parser.add_argument(
        "--backend",
        choices=("local", "slurm", "gcluster", "print"),
        default="local",
        help="local: runs here; slurm: prints an array script; gcluster: prints JobSets; print: a "
        "line for each point",
    )
    parser.add_argument(
        "--run", action="store_true", dest="submits", help="submit what is printed otherwise"
    )
    sweep_backends.add_flags(parser)
    return parser


def _directory(name: str) -> pathlib.Path:
    """Returns the directory of a sweep; of one in a bucket, where its copy on this machine is.

    Raises:
      UserError: if it is not a valid name, or of a bucket in which no run can be.
    """
    there = place(name, "DIR")
    if isinstance(there, pathlib.Path):
        return there.absolute()
    bucket_clients.check(there, "DIR")
    return path_of(there)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of runs")
    return int(text)


def _axes(arguments: Sequence[str], prefix: str) -> dict[str, list[Any]]:
    """Returns the values of each `--sweep.NAME=a,b` by NAME.

    Args:
      arguments: of the verb.
      prefix: `--sweep.` or `--evaluate.`.

    Raises:
      UserError: for an axis without values, with an empty one, or given twice.
    """
    axes: dict[str, list[Any]] = {}
    for argument in arguments:
        if not argument.startswith(prefix):
            continue
        match = _AXIS.fullmatch(argument)
        if not match or not match[2].strip():
            raise UserError(f"{shown(argument)} has no values; write {prefix}NAME=a,b,c.")
        name, parts = match[1], _split(match[2])
        if name in axes:
            raise UserError(
                f"{prefix}{name} is given twice; write all values in one: {prefix}{name}=a,b,c."
            )
        if "" in parts:
            raise UserError(
                f"{shown(argument)} has an empty value; take a comma out (\"''\" is an empty text)."
            )
        axes[name] = [_value(prefix, name, part) for part in parts]
    return axes


def _value(prefix: str, name: str, text: str) -> Any:
    return text if name == grid.GIN_FILE else argument_value(f"{prefix}{name}", text)


def _split(text: str) -> list[str]:
    """The parts between the commas in no bracket and no quotes, without outer blanks."""
    parts, depth = [""], 0
    for token in _TOKEN.findall(text):
        depth += (token in "([{") - (token in ")]}")
        if token == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts]


def _flags(arguments: list[str]) -> argparse.Namespace:
    """Returns the verb's own flags, and the gin files, without reading them."""
    parser = make_parser()
    add_gin_flags(parser)
    _, rest = split_bindings(arguments)
    return parser.parse_intermixed_args(rest)


def _sweep(
    directory: pathlib.Path,
    arguments: list[str],
    flags: argparse.Namespace,
    axes: dict[str, list[Any]],
    again: dict[str, list[Any]],
) -> Sweep:
    """Returns the sweep that the arguments give, or the one that the directory holds.

    Raises:
      UserError: if there is none, or the two differ, or a point cannot run.
    """
    if not flags.gin_file and not axes and not again:
        known = plan.read_sweep(directory)
        if known is None:
            raise UserError(
                f"{origin(directory) or directory} holds no sweep; give "
                "--gin_file=gin/sweep/tiny.gin, or another file and --sweep.NAME=a,b."
            )
        _check_unchanged(known, arguments)
        return known
    parsed = gin_files.parse_command_line(arguments, gin_files.CONFIGURED, make_parser())
    sweep_backends.check_cache(flags)
    config = grid.SweepConfig()
    points = grid.points(config.grid, axes)
    evaluations = grid.evaluations(config.evaluations, again)
    is_new = plan.read_sweep(directory) is None
    sweep = Sweep(directory, parsed.gin_arguments, points, evaluations)
    if sweep_backends.is_elsewhere(flags, directory):
        return plan.checked(sweep)
    sweep = plan.keep(sweep)
    if is_new:
        _log.info(f"{len(points)} points: {listed([point.name for point in points])}")
    return sweep


def _check_unchanged(sweep: Sweep, arguments: list[str]) -> None:
    """Raises a UserError if arguments would change a setting of a sweep that is there."""
    bindings, _ = split_bindings(arguments)
    if bindings:
        name, text = bindings[0]
        raise UserError(
            f"--gin.{name}={shown(text)} has no effect on the sweep in {sweep.place}; leave it out "
            "to go on with that, or give another directory, --gin_file and the grid."
        )


def _open_points(sweep: Sweep, flags: argparse.Namespace) -> tuple[list[grid.Point], list[str]]:
    """Returns the points to run, and the names of those that failed and are not tried again.

    Points that run already, in another job or on another machine, are in neither.
    """
    todo, failed = [], []
    for point, state in zip(sweep.points, sweep.states().values()):
        is_failed = state["status"] == run_status.FAILED and not flags.retry
        is_given_up = state.get("exit_status") == 2 or state.get("crashes", 0) > flags.retries
        if is_failed and is_given_up:
            failed.append(point.name)
        elif state["status"] == run_status.RUNNING:
            _log.info(f"{point.name} is running already")
        elif state["status"] != run_status.FINISHED:
            todo.append(point)
    return todo, failed


def _run_here(sweep: Sweep, flags: argparse.Namespace) -> int:
    """Runs what is not finished on this machine, and reports; returns the exit status."""
    todo, failed = _open_points(sweep, flags)
    if not todo and not failed:
        sweep_table.write_table(sweep)
        return _print_end(sweep)
    if todo:
        if local.prepare(sweep):
            _log.error(f"some data cannot be prepared: {sweep.place / plan.LOGS}/prepare.log")
        # Failures of earlier starts count, unless --retry forgives them.
        before = {name: state.get("crashes", 0) for name, state in sweep.states().items()}
        crashes = {name: flags.retries + flags.retry * count for name, count in before.items()}
        failed += local.run_points(sweep, todo, flags.jobs, crashes, flags.gpus)
    _report(sweep)
    if failed:
        names = ", ".join(failed)
        raise UserError(
            f"{len(failed)} of {len(sweep.points)} points failed: {names}; see "
            f"{sweep.place / plan.LOGS}, then flan-jax sweep {sweep.place} --retry."
        )
    return _print_end(sweep)


def _print_end(sweep: Sweep) -> int:
    """Prints whether all points are finished; returns 0 if so, 1 while some run elsewhere."""
    names = [n for n, s in sweep.states().items() if s["status"] != run_status.FINISHED]
    if names:
        print(f"{len(names)} of {len(sweep.points)} points run elsewhere: {listed(names)}")
        return 1
    print(f"all {len(sweep.points)} points are finished; flan-jax report {sweep.place}")
    return 0


def _prepare(sweep: Sweep) -> int:
    """Prepares the data of all points that are not finished; returns the exit status."""
    from flan_jax.data.config import DataConfig
    from flan_jax.prepare import prepare

    states, prepared, problems = sweep.states(), [], []
    for point in sweep.points:
        if states[point.name]["status"] == run_status.FINISHED:
            continue
        evaluations = [sweep.evaluation_settings(point, name) for name in point.evaluations]
        for arguments, only in [(sweep.command(point), None), *((e, "eval") for e in evaluations)]:
            try:
                gin_files.parse_command_line(arguments, gin_files.CONFIGURED)
                wanted = (DataConfig(), only)
                if wanted not in prepared:
                    prepared.append(wanted)
                    prepare(wanted[0], only=only)
            except UserError as error:
                problems.append(f"{point.name}: {error}")
    _log.info(f"the data of {len(sweep.points)} points: {len(prepared)} different configurations")
    if problems:
        raise UserError("these data cannot be prepared:\n  " + "\n  ".join(problems))
    return 0


def _report(sweep: Sweep) -> None:
    """Writes sweep.csv and the report of the points with results, if there are any."""
    from flan_jax.report.inputs import is_read
    from flan_jax.report.write import MARKDOWN, WRITTEN, report_on

    if not isinstance(sweep.place, pathlib.Path):
        copy_of(sweep.place, is_read)
    if sweep_table.write_table(sweep):
        results, records = list(sweep.results().values()), sweep.records()
        with uploading_changes(sweep.directory, WRITTEN, last=MARKDOWN):
            report_on(results, sweep.directory, points=records)


def _run_point(sweep: Sweep, which: str) -> int:
    """Runs one point in this process, as SLURM's array jobs do; returns its exit status."""
    names = [point.name for point in sweep.points]
    index = names.index(which) if which in names else int(which) if which.isdecimal() else -1
    if not 0 <= index < len(names):
        raise UserError(
            f"--point={which} is neither a number from 0 to {len(names) - 1} nor one of "
            f"{listed(names)}."
        )
    point = sweep.points[index]
    if plan.read_run(sweep.directory / point.name).get("status") != run_status.FINISHED:
        from flan_jax.train import main as train

        status = train(sweep.command(point))
        if status:
            return status
    for name in point.evaluations:
        status = _evaluate(sweep, point, name)
        if status:
            return status
    return 0


def _evaluate(sweep: Sweep, point: grid.Point, name: str) -> int:
    """Evaluates a trained point with other settings; returns the exit status."""
    from flan_jax import eval as evaluation
    from flan_jax.parallel import processes
    from flan_jax.runs.directories import alone, make_directory, uploading

    copy = sweep.evaluation(point, name)
    if plan.read_run(copy).get("status") == run_status.FINISHED:
        return 0
    processes.join()
    directory = make_directory(str(origin(copy) or copy), "DIR")
    is_first = processes.index_and_count()[0] == 0
    with (
        alone(directory, run_status.LOCK, "flan-jax sweep"),
        uploading(directory),
        run_status.recorded(directory, is_first) as record,
    ):
        record.update(settings=sweep.evaluations[name])
        record.exit_status = evaluation.main(sweep.evaluation_command(point, name))
        return record.exit_status


def _print_status(sweep: Sweep, as_json: bool) -> int:
    """Prints the state of each point; returns 0 when all are finished."""
    states = sweep.states()
    if as_json:
        print(json.dumps(states, indent=1))
    else:
        width = max(map(len, states))
        for number, (name, state) in enumerate(states.items()):
            steps = f"step {state['step']} of {state['steps']}" if "steps" in state else ""
            message = state.get("message", "") if state["status"] == run_status.FAILED else ""
            text = f"{steps:<18}{shown(message, 100)}"
            print(f"{number:>4}  {name:<{width}}  {state['status']:<15}{text}".rstrip())
            for evaluation, status in state.get("evaluations", {}).items():
                print(f"{'':>6}{evaluation:<{width}}  {status}")
    return 0 if all(s["status"] == run_status.FINISHED for s in states.values()) else 1


def _configuring(argv: list[str], flags: argparse.Namespace) -> list[str]:
    """Returns the arguments that give the sweep: gin files, settings, axes, as they were typed."""
    bindings, _ = split_bindings([text for text in argv if not _AXIS.fullmatch(text)])
    return [
        *(f"--gin_file={name}" for name in flags.gin_file),
        *(f"--gin_search_paths={name}" for name in flags.gin_search_paths),
        *(f"--gin.{name}={text}" for name, text in bindings),
        *(text for text in argv if _AXIS.fullmatch(text)),
    ]


def _queue(sweep: Sweep, flags: argparse.Namespace, typed: list[str]) -> int:
    """Prints or submits the points that are not finished; returns the exit status."""
    todo, failed = _open_points(sweep, flags)
    if failed:
        _log.error(f"failed before, and left out without --retry: {listed(failed)}")
    if not todo:
        print(f"# none of {len(sweep.points)} points is to be run")
        return 0
    launch = sweep_backends.launch_of(sweep, todo, flags, typed)
    if flags.submits:
        return start(launch)
    print(launch.text)
    return 0


if __name__ == "__main__":
    dispatch.run(main)
