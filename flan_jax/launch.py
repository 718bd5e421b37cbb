"""`flan-jax launch --backend=B [flags] -- ARGUMENTS`: what to type, or to submit, to train on
several hosts.

ARGUMENTS are those of `flan-jax train`, or `eval` or `generate` and those of that verb. It prints
command lines or a manifest and ends; with --run it runs or submits them. Nothing here schedules,
watches or restarts: SLURM and Kubernetes do, by the exit status, and the same command resumes a
run.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import math
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

from flan_jax import __version__
from flan_jax.cli import dispatch
from flan_jax.config import gin_files as gin_config
from flan_jax.config.flags import ArgumentParser
from flan_jax.errors import NotHere, UserError
from flan_jax.messages import did_you_mean, nearest
from flan_jax.parallel.processes import FLAG_VARIABLES
from flan_jax.signals import SAVED

# TPU VMs: what an accelerator type begins with -> the software that its VMs boot with.
_TPU_SOFTWARE = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
# GKE: our name of a generation -> the label of its nodes.
_GKE_TPU = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
}
_CHIPS_PER_HOST = 4  # of a slice with several hosts, in each of these generations
# Where the pods of a JobSet have their storage.
_MOUNT = "/runs"
_WHEEL = re.compile(r"flan_jax-[^-]+(-\d[^-]*)?(-[^-]+){3}\.whl")
# GKE: how often a JobSet begins again, and what its pods have to save in.
_MOST_RESTARTS, _GRACE_S = 100, 120
_STEPS = ("create", "install", "train")
_VERBS = ("train", "eval", "generate")


@dataclasses.dataclass(frozen=True)
class Launch:
    """What a backend prints.

    Attributes:
      text: commands, a script or a manifest.
      commands: what --run runs, one after the other; the first one that fails ends it.
      stdin: whether the command reads `text`.
      together: whether the commands run at the same time, as the processes of one run.
    """

    text: str
    commands: Sequence[Sequence[str]]
    stdin: bool = False
    together: bool = False


@dataclasses.dataclass(frozen=True)
class Backend:
    """A place to train.

    Attributes:
      build: gives the launch from the flags and the arguments of train.
      needs: its flags that must be given.
      takes: those that may be.
    """

    build: Callable[[argparse.Namespace, list[str]], Launch]
    needs: Sequence[str] = ()
    takes: Sequence[str] = ()


def local(flags: argparse.Namespace, arguments: list[str]) -> Launch:
    """Processes on this machine: they share its GPUs evenly, or each simulates devices on the
    CPU.
    """
    count, devices = _number(flags, "num_processes"), _number(flags, "devices", 1)
    coordinator = f"localhost:{_number(flags, 'port', 8476)}"
    commands = []
    for index in range(count):
        if flags.gpus:
            variables = {
                "CUDA_VISIBLE_DEVICES": ",".join(str(index * devices + i) for i in range(devices))
            }
        else:
            variables = {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            }
        commands.append(
            [
                "env",
                *(f"{name}={value}" for name, value in variables.items()),
                *_verb(arguments, coordinator, count, index),
            ]
        )
    lines = [f"{shlex.join(command)} &" for command in commands]
    return Launch("\n".join([*lines, "wait"]), commands, together=True)


def plain(flags: argparse.Namespace, arguments: list[str]) -> Launch:
    """The command of each host; process 0 runs on the first one, and the others must reach its
    port.
    """
    hosts = [
        f"[{host}]" if host.count(":") > 1 and "[" not in host else host
        for host in flags.hosts.split(",")
    ]
    if len(set(hosts)) < len(hosts) or not all(
        re.fullmatch(r"[\w.:\[\]-]+", host) for host in hosts
    ):
        raise UserError(
            f"--hosts={flags.hosts} must be different host names or addresses, as in "
            "--hosts=10.0.0.1,10.0.0.2."
        )
    coordinator = f"{hosts[0]}:{_number(flags, 'port', 8476)}"
    lines = [
        f"# on {host}\n{shlex.join(_verb(arguments, coordinator, len(hosts), index))}"
        for index, host in enumerate(hosts)
    ]
    return Launch("\n".join(lines), ())


def tpu_vm(flags: argparse.Namespace, arguments: list[str]) -> Launch:
    """Makes a TPU slice, installs a wheel on all of its hosts, and trains on them; JAX finds the
    processes.
    """
    generation = flags.accelerator_type.rpartition("-")[0]
    if generation not in _TPU_SOFTWARE and not flags.version:
        raise UserError(
            f"--accelerator_type={flags.accelerator_type} is of none of the generations "
            f"{', '.join(_TPU_SOFTWARE)} (as in v4-32 or v5litepod-16); give the software of its "
            "VMs with --version too."
        )
    steps = (flags.steps or ",".join(_STEPS)).split(",")
    unknown = [step for step in steps if step not in _STEPS]
    if unknown:
        raise UserError(
            f"--steps has {unknown[0]!r}, but its steps are {', '.join(_STEPS)}"
            f"{did_you_mean(nearest(unknown[0], _STEPS))}"
        )
    wheel = pathlib.Path(flags.wheel or "").expanduser()
    if "install" in steps and flags.wheel and not _WHEEL.fullmatch(wheel.name):
        raise UserError(
            f"--wheel={flags.wheel} is not a wheel of flan_jax, such as "
            f"flan_jax-{__version__}-py3-none-any.whl."
        )
    if "install" in steps and flags.wheel and not wheel.is_file():
        missing = (
            f"--wheel={flags.wheel} is not here; `pip wheel --no-deps --wheel-dir=dist .` "
            f"in a checkout makes it."
        )
        if flags.run:
            raise UserError(missing)
        print(f"note: {missing}", file=sys.stderr)
    if "install" in steps and not flags.wheel:
        raise UserError(
            "--backend=tpu_vm needs --wheel=FILE.whl to install; `pip wheel --no-deps "
            "--wheel-dir=dist .` in a checkout makes it (or leave the installation out: "
            "--steps=train)."
        )
    gcloud, name = ["gcloud", "compute", "tpus", "tpu-vm"], _name(flags)
    where = [f"--zone={flags.zone}", *([f"--project={flags.project}"] if flags.project else [])]
    ssh = [*gcloud, "ssh", name, *where, "--worker=all"]
    # The image's Python is older than ours: uv brings one.
    package = shlex.quote(f"./{wheel.name}[tpu]")
    install = (
        "python3 -m pip install --quiet --user uv && ~/.local/bin/uv venv --quiet --clear "
        "--python=3.12 flan && ~/.local/bin/uv pip install --quiet --python=flan/bin/python "
        f"{package}"
    )
    made = {
        "create": [
            [
                *gcloud,
                "create",
                name,
                *where,
                f"--accelerator-type={flags.accelerator_type}",
                f"--version={flags.version or _TPU_SOFTWARE[generation]}",
                *(["--spot"] if flags.spot else []),
            ]
        ],
        "install": [
            [*gcloud, "scp", str(wheel), f"{name}:", *where, "--worker=all"],
            [*ssh, f"--command={install}"],
        ],
        "train": [[*ssh, f"--command=flan/bin/{shlex.join(_verb(arguments))}"]],
    }
    commands = [command for step in _STEPS if step in steps for command in made[step]]
    return Launch("\n".join(map(shlex.join, commands)), commands)


def gcluster(flags: argparse.Namespace, arguments: list[str]) -> Launch:
    """A JobSet of GKE: one indexed Job a slice, one pod a host; GKE tells JAX who is who."""
    if flags.tpu not in _GKE_TPU:
        raise UserError(
            f"--tpu={flags.tpu} is not one of "
            f"{', '.join(_GKE_TPU)}{did_you_mean(nearest(flags.tpu, _GKE_TPU))}"
        )
    sides = 1 if flags.tpu in ("v5e", "v6e") else 2
    if not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{sides}}}", flags.topology):
        raise UserError(
            f"--topology={flags.topology} must be the chips along each side of the slice, such as "
            "4x4 (v5e, v6e) or 4x4x4 (v4, v5p, tpu7x)."
        )
    chips = math.prod(map(int, flags.topology.split("x")))
    on_host = _number(flags, "chips_per_host", min(chips, _CHIPS_PER_HOST))
    if chips % on_host:
        raise UserError(
            f"--topology={flags.topology} has {chips} chips, which are no whole number of hosts "
            f"with {on_host} each; give another --chips_per_host."
        )
    name, text = _name(flags), json.dumps
    # Kubernetes would fill in "$(NAME)", and makes one "$" of two.
    listed = "\n".join(
        f"              - {text(argument.replace('$', '$$'))}" for argument in _verb(arguments)
    )
    return Launch(
        f"""\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {text(name)}
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: {_MOST_RESTARTS}
    rules:
    - action: FailJobSet
      onJobFailureReasons:
      - PodFailurePolicy
  replicatedJobs:
  - name: slice
    replicas: {_number(flags, "slices", 1)}
    template:
      spec:
        completionMode: Indexed
        completions: {chips // on_host}
        parallelism: {chips // on_host}
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes:
              operator: In
              values: [2]
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: {_GRACE_S}
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: {_GKE_TPU[flags.tpu]}
              cloud.google.com/gke-tpu-topology: {flags.topology}
            containers:
            - name: train
              image: {text(flags.image)}
              command:
{listed}
              resources:
                limits:
                  google.com/tpu: {on_host}
              volumeMounts:
              - name: runs
                mountPath: {_MOUNT}
            volumes:
            - name: runs
              persistentVolumeClaim:
                claimName: {text(flags.claim)}""",
        [["kubectl", "apply", "-f", "-"]],
        stdin=True,
    )


def slurm(flags: argparse.Namespace, arguments: list[str]) -> Launch:
    """A batch script: one task a GPU, as JAX expects it under SLURM, where it finds the processes
    by itself.
    """
    nodes, gpus = _number(flags, "nodes"), _number(flags, "gpus_per_node")
    options = {
        "job-name": _name(flags),
        "nodes": nodes,
        "ntasks-per-node": gpus,
        "gpus-per-node": gpus,
        "cpus-per-task": _number(flags, "cpus_per_task", 8),
        "time": flags.time,
        "partition": flags.partition,
        "account": flags.account,
        "output": "%x-%j.log",
        "open-mode": "append",
        "signal": "TERM@120",
    }
    for option, value in options.items():
        if value is not None and re.search(r"\s", str(value)):
            raise UserError(
                f"--{option}={value!r} has a blank in it, which SLURM's options cannot have."
            )
    lines = [
        f"#SBATCH --{option}={value}" for option, value in options.items() if value is not None
    ]
    # srun does not take the number of cores from the script (since SLURM 22.05).
    srun = f"srun --cpus-per-task={options['cpus-per-task']} --kill-on-bad-exit=1"
    return Launch(
        "\n".join(
            [
                "#!/bin/bash",
                *lines,
                "#SBATCH --requeue",
                f"{srun} {shlex.join(_verb(arguments))}",
                *_REQUEUE,
            ]
        ),
        [["sbatch"]],
        stdin=True,
    )


# A job that was cancelled ends with the same status, but is not running any more.
_REQUEUE = [
    "status=$?",
    f"# {SAVED}: saved, not finished",
    (
        f'if [ $status -eq {SAVED} ] && [ "$(squeue --noheader --jobs=$SLURM_JOB_ID --format=%T)" '
        f"= "
        f"RUNNING ]; then"
    ),
    "  scontrol requeue $SLURM_JOB_ID",
    "fi",
    "exit $status",
]

BACKENDS = {
    "local": Backend(local, ("num_processes",), ("devices", "gpus", "port")),
    "tpu_vm": Backend(
        tpu_vm,
        ("zone", "accelerator_type"),
        ("name", "project", "wheel", "version", "spot", "steps"),
    ),
    "gcluster": Backend(
        gcluster, ("tpu", "topology", "image", "claim"), ("name", "slices", "chips_per_host")
    ),
    "slurm": Backend(
        slurm, ("nodes", "gpus_per_node"), ("name", "cpus_per_task", "time", "partition", "account")
    ),
    "print": Backend(plain, ("hosts",), ("port",)),
}
_HELP = {
    "num_processes": "how many processes",
    "devices": "devices of each process (default: 1)",
    "gpus": "the devices are this machine's GPUs (default: simulated on the CPU)",
    "port": "on which process 0 listens for the others (default: 8476)",
    "hosts": "names or addresses, joined by commas; process 0 is on the first",
    "zone": "such as us-central2-b",
    "project": "of Google Cloud (default: gcloud's)",
    "accelerator_type": "such as v4-32, v5litepod-16, v5p-128, v6e-16",
    "wheel": "of flan_jax, to install",
    "version": "software of the VMs (default: by the accelerator type)",
    "spot": "VMs that may be taken away",
    "steps": f"only some of {','.join(_STEPS)}",
    "tpu": ", ".join(_GKE_TPU),
    "topology": "chips along each side of the slice, such as 4x4 or 4x4x4",
    "image": "container with flan_jax[tpu] in it",
    "claim": "PersistentVolumeClaim that all pods mount at /runs, for MODEL_DIR and CACHE_DIR",
    "slices": "how many slices (default: 1)",
    "chips_per_host": f"chips of a node (default: {_CHIPS_PER_HOST})",
    "nodes": "how many nodes",
    "gpus_per_node": "GPUs of each, one process a GPU",
    "cpus_per_task": "cores of each process (default: 8)",
    "time": (
        "limit, such as 24:00:00; two minutes before it the run saves, ends and is queued again"
    ),
    "partition": "of the cluster",
    "account": "that is billed",
    "name": "of the job or the TPU (default: flan)",
}
_SWITCHES = ("gpus", "spot")


def main(argv: list[str] | None = None) -> int:
    """The verb. What follows `--` are the arguments of `flan-jax train`, or another of `_VERBS` and
    its arguments.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    flags, arguments = _parser().parse_args(argv[:cut]), argv[cut + 1 :]
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
    return _run(launch)


def _parser() -> ArgumentParser:
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
    for name, text in _HELP.items():
        users = ", ".join(backend for backend in BACKENDS if name in _flags_of(backend))
        if name in _SWITCHES:
            parser.add_argument(
                f"--{name}", action="store_true", default=None, help=f"{users}: {text}"
            )
        else:
            parser.add_argument(f"--{name}", metavar="X", help=f"{users}: {text}")
    return parser


def _flags_of(backend: str) -> tuple[str, ...]:
    return (*BACKENDS[backend].needs, *BACKENDS[backend].takes)


def _check(flags: argparse.Namespace, arguments: list[str]) -> None:
    """Raises a UserError for a backend, or flags, that cannot be."""
    if flags.backend not in BACKENDS:
        near = did_you_mean(nearest(flags.backend or "", BACKENDS))
        raise UserError(
            f"--backend={flags.backend} is not one of {', '.join(BACKENDS)}{near}"
            if flags.backend
            else f"no --backend given; the backends are {', '.join(BACKENDS)}."
        )
    for name in _HELP:
        if getattr(flags, name) is not None and name not in _flags_of(flags.backend):
            users = " and ".join(backend for backend in BACKENDS if name in _flags_of(backend))
            raise UserError(
                f"--{name} has no effect with --backend={flags.backend}; it is for {users}."
            )
    for name in BACKENDS[flags.backend].needs:
        if not getattr(flags, name):
            raise UserError(f"--backend={flags.backend} needs --{name}: {_HELP[name]}.")
    verb = arguments[0] if arguments and arguments[0] in _VERBS else "train"
    others = [argument for argument in arguments if argument != verb]
    if not others or (
        verb == "train" and not any(argument.startswith("--gin_file") for argument in others)
    ):
        raise UserError(
            f"the arguments of {verb} are missing; write them after --, as in: flan-jax launch "
            f"--backend={flags.backend} ... -- {verb} --gin_file=gin/flan.gin "
            f"--gin.MODEL_DIR=runs/nli."
        )
    if arguments[0] not in _VERBS and not arguments[0].startswith("-"):
        raise UserError(
            f"what follows -- begins with {arguments[0]!r}, but the verbs that run on several "
            f"hosts are {', '.join(_VERBS)}: write one of them, or nothing for train, and its "
            "arguments."
        )
    for argument in arguments:
        if argument.partition("=")[0].removeprefix("--") in FLAG_VARIABLES:
            raise UserError(f"{argument} after -- is for the launcher to say; leave it out.")


def _check_wrapped(flags: argparse.Namespace, arguments: list[str]) -> None:
    """Reads the arguments of the verb as it will; what is not on this machine is left to the
    others.

    Raises:
      UserError: for what the verb would refuse, and for pods that would write into their
        containers.
    """
    verb, *arguments = arguments if arguments[0] in _VERBS else ("train", *arguments)
    make_parser = importlib.import_module(f"flan_jax.{verb}").make_parser
    try:
        wrapped = gin_config.parse_command_line(arguments, gin_config.CONFIGURED, make_parser())
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
        if not str(path).startswith(f"{_MOUNT}/"):
            flag = name if name.startswith("--") else f"--gin.{name}"
            raise UserError(
                f"{name} is {path}, which ends with the container and which the other pods do not "
                f"see; give {flag}={_MOUNT}/..., where --claim is mounted."
            )


def _number(flags: argparse.Namespace, name: str, default: int | None = None) -> int:
    text = getattr(flags, name)
    if text is None:
        return default
    if not re.fullmatch(r"[1-9]\d*", text):
        raise UserError(f"--{name}={text} must be a whole number of at least 1.")
    return int(text)


def _name(flags: argparse.Namespace) -> str:
    name = flags.name or "flan"
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?", name):
        raise UserError(
            f"--name={name} must be lower-case letters, digits and hyphens, such as flan-nli."
        )
    return name


def _verb(arguments: list[str], coordinator: str = "", count: int = 1, index: int = 0) -> list[str]:
    """The command of one process; without a coordinator JAX finds the others."""
    command = ["flan-jax", *([] if arguments[0] in _VERBS else ["train"]), *arguments]
    if coordinator:
        command += [
            f"--coordinator={coordinator}",
            f"--num_processes={count}",
            f"--process_id={index}",
        ]
    return command


def _run(launch: Launch) -> int:
    """Runs the commands; the status of the first one that failed, else 0."""
    # `flan-jax` is the one beside this Python, also where its environment is not activated.
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
    """Runs processes at the same time, their output line by line after their numbers."""
    started = [
        subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for command in commands
    ]

    def copy(index: int) -> None:
        for line in started[index].stdout:
            print(f"[{index}] {line}", end="", flush=True)

    # Who ends the launcher ends the processes: each saves its step, and its status is the
    # launcher's.
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
