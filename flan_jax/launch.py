"""`flan-jax launch --backend=B [flags] -- ARGUMENTS`: commands that train on several hosts.

ARGUMENTS are those of `flan-jax train`, or `eval` or `generate` and those of that verb. It prints
command lines or a manifest and ends; with --run it runs or submits them. Scheduling, watching and
restarting is left to SLURM and Kubernetes, by the exit status; the same command resumes a run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from flan_jax.cli import dispatch
from flan_jax.cli.job_set import MOUNT
from flan_jax.cli.launch_backends import BACKENDS, FLAG_HELP, SWITCHES, VERBS, Launch
from flan_jax.config import gin_files
from flan_jax.config.flags import ArgumentParser
from flan_jax.errors import NotHere, UserError
from flan_jax.messages import did_you_mean, nearest
from flan_jax.parallel.processes import FLAG_VARIABLES
from flan_jax.storage.places import is_remote


def main(argv: list[str] | None = None) -> int:
    """Runs the verb. After `--` follow the arguments of `train`, or another of `VERBS` with its."""
    argv = sys.argv[1:] if argv is None else list(argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    flags, arguments = make_parser().parse_args(argv[:cut]), argv[cut + 1 :]
    _check(flags, arguments)
    launch = BACKENDS[flags.backend].build(flags, arguments)
    _check_wrapped(flags, arguments)
    if not flags.run:
        print(launch.text)
        return 0
    if not launch.commands:
        raise UserError(
            "--backend=print only prints; start what it prints on each host, or choose another "
            "--backend."
        )
    return start(launch)


def make_parser() -> ArgumentParser:
    """Returns the parser of the verb's own flags."""
    parser = ArgumentParser(
        prog="flan-jax launch",
        description=__doc__,
        allow_abbrev=False,
        usage="flan-jax launch --backend=B [flags] -- [train|eval|generate] ARGUMENTS",
    )
    parser.add_argument("--backend", help=", ".join(BACKENDS))
    parser.add_argument(
        "--run", action="store_true", help="run or submit what is printed otherwise"
    )
    for name, text in FLAG_HELP.items():
        users = ", ".join(_users_of(name))
        if name in SWITCHES:
            parser.add_argument(
                f"--{name}", action="store_true", default=None, help=f"{users}: {text}"
            )
        else:
            parser.add_argument(f"--{name}", metavar="X", help=f"{users}: {text}")
    return parser


def _check(flags: argparse.Namespace, arguments: list[str]) -> None:
    """Checks the backend, its flags, and that the arguments of the verb are there.

    Raises:
      UserError: if they are not valid.
    """
    if flags.backend not in BACKENDS:
        near = did_you_mean(nearest(flags.backend or "", BACKENDS))
        raise UserError(
            f"--backend={flags.backend} is not one of {', '.join(BACKENDS)}{near}"
            if flags.backend
            else f"no --backend given; the backends are {', '.join(BACKENDS)}."
        )
    backend = BACKENDS[flags.backend]
    for name in FLAG_HELP:
        if getattr(flags, name) is not None and name not in backend.flags:
            users = " and ".join(_users_of(name))
            raise UserError(
                f"--{name} has no effect with --backend={flags.backend}; it is for {users}."
            )
    for name in backend.needs:
        if not getattr(flags, name):
            raise UserError(f"--backend={flags.backend} needs --{name}: {FLAG_HELP[name]}.")
    _check_arguments(flags, arguments)


def _users_of(flag: str) -> list[str]:
    """Returns the backends that have a flag."""
    return [name for name, backend in BACKENDS.items() if flag in backend.flags]


def _check_arguments(flags: argparse.Namespace, arguments: list[str]) -> None:
    verb = arguments[0] if arguments and arguments[0] in VERBS else "train"
    others = [argument for argument in arguments if argument != verb]
    has_gin_file = any(argument.startswith("--gin_file") for argument in others)
    if not others or (verb == "train" and not has_gin_file):
        raise UserError(
            f"the arguments of {verb} are missing; write them after --, as in: flan-jax launch "
            f"--backend={flags.backend} ... -- {verb} --gin_file=gin/flan.gin "
            f"--gin.MODEL_DIR=runs/nli."
        )
    if arguments[0] not in VERBS and not arguments[0].startswith("-"):
        raise UserError(
            f"what follows -- begins with {arguments[0]!r}, but the verbs that run on several "
            f"hosts are {', '.join(VERBS)}: write one of them, or nothing for train, and its "
            "arguments."
        )
    for argument in arguments:
        if argument.partition("=")[0].removeprefix("--") in FLAG_VARIABLES:
            raise UserError(f"{argument} after -- is set by the launcher; leave it out.")


def _check_wrapped(flags: argparse.Namespace, arguments: list[str]) -> None:
    """Parses the arguments of the verb as the verb does, unless its files are on other machines.

    Raises:
      UserError: for what the verb would refuse, and for pods that would write into their
        containers.
    """
    verb, *arguments = arguments if arguments[0] in VERBS else ("train", *arguments)
    module = importlib.import_module(f"flan_jax.{verb}")
    try:
        wrapped = gin_files.parse_command_line(
            arguments, gin_files.CONFIGURED, module.make_parser()
        )
    except NotHere as error:
        if flags.backend == "local":
            raise
        print(f"note: the arguments of {verb} are not checked: {error}", file=sys.stderr)
        return
    from flan_jax.data.config import DataConfig
    from flan_jax.training.config import TrainConfig

    written = {"MODEL_DIR": TrainConfig().model_dir, "CACHE_DIR": DataConfig().cache_dir}
    if verb == "eval" and wrapped.output:
        written = {"--output": wrapped.output, "CACHE_DIR": written["CACHE_DIR"]}
    if verb == "generate":
        written = {"--output": wrapped.output} if wrapped.output else {}
    for name, path in written.items() if flags.backend == "gcluster" else ():
        is_mounted = flags.claim and str(path).startswith(f"{MOUNT}/")
        if not (is_mounted or is_remote(path)):
            flag = name if name.startswith("--") else f"--gin.{name}"
            raise UserError(
                f"{name} is {path}, which ends with the container and which the other pods do not "
                f"see; give {flag}=gs://BUCKET/..., or {flag}={MOUNT}/..., where --claim is "
                "mounted."
            )


def start(launch: Launch) -> int:
    """Runs the commands; returns the status of the first that failed, else 0.

    Raises:
      UserError: if a program is not installed here.
    """
    # `flan-jax` is that of this Python's environment, also where it is not activated.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    try:
        if launch.together:
            return _run_together(launch.commands, environment)
        for command in launch.commands:
            status = subprocess.run(
                command,
                env=environment,
                text=True,
                check=False,
                input=launch.text if launch.stdin else None,
            ).returncode
            if status:
                return status
    except FileNotFoundError as error:
        raise UserError(
            f"--run needs the program {error.filename!r}, which is not installed here; without "
            "--run everything is printed, for a machine that has it."
        ) from error
    return 0


def _run_together(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> int:
    """Runs processes at the same time; prints their output, each line after its process's number.

    Returns:
      The status of the first that failed, else 0.
    """
    started = [
        subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for command in commands
    ]

    def copy(index: int) -> None:
        for line in started[index].stdout:
            print(f"[{index}] {line}", end="", flush=True)

    # A signal that ends the launcher ends the processes: each saves its step, and the launcher ends
    # with their status.
    before = signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in started])
    threads = [threading.Thread(target=copy, args=(index,)) for index in range(len(started))]
    for thread in threads:
        thread.start()
    try:
        statuses = [process.wait() for process in started]
    except KeyboardInterrupt:  # the terminal has sent it to the processes too
        statuses = [process.wait() for process in started]
    finally:
        signal.signal(signal.SIGTERM, before)
    for thread in threads:
        thread.join()
    failed = [status for status in statuses if status]
    # A status below 0 is a signal's; a shell says 128 more.
    return (failed[0] if failed[0] > 0 else 128 - failed[0]) if failed else 0


if __name__ == "__main__":
    dispatch.run(main)
