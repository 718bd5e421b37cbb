"""Places to train on several hosts, and the commands or manifests that start a run there."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flan_jax import __version__
from flan_jax.cli.job_set import CHIPS_PER_HOST, GENERATIONS, job_set
from flan_jax.config.flags import whole_number
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest
from flan_jax.signals import SAVED
from flan_jax.storage.paths import local_path

# The verbs that run on several hosts.
VERBS = ("train", "eval", "generate")
# TPU VMs: prefix of the accelerator type -> the software that its VMs boot with.
_TPU_SOFTWARE = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
_WHEEL = re.compile(r"flan_jax-[^-]+(-\d[^-]*)?(-[^-]+){3}\.whl")
_TPU_VM_STEPS = ("create", "install", "train")
_APPLY = [["kubectl", "apply", "-f", "-"]]
_DEFAULT_PORT = 8476


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
      build: returns the launch for the flags and the arguments of the verb.
      needs: flags that are required.
      takes: flags that are optional.
    """

    build: Callable[[argparse.Namespace, list[str]], Launch]
    needs: Sequence[str] = ()
    takes: Sequence[str] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """All flags of the backend."""
        return (*self.needs, *self.takes)


def local(flags: argparse.Namespace, arguments: list[str]) -> Launch:
    """Returns processes on this machine, which share its GPUs or simulate devices on the CPU."""
    count, devices = whole_number(flags, "num_processes"), whole_number(flags, "devices", 1)
    coordinator = f"localhost:{whole_number(flags, 'port', _DEFAULT_PORT)}"
    commands = []
    for index in range(count):
        if flags.gpus:
            gpus = range(index * devices, (index + 1) * devices)
            variables = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
        else:
            variables = {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            }
        assignments = [f"{name}={value}" for name, value in variables.items()]
        commands.append(["env", *assignments, *_verb(arguments, coordinator, count, index)])
    lines = [f"{shlex.join(command)} &" for command in commands]
    return Launch("\n".join([*lines, "wait"]), commands, together=True)


def plain(flags: argparse.Namespace, arguments: list[str]) -> Launch:
    """Returns the command of each host.

    Process 0 runs on the first host, and the others must reach its port.
    """
    hosts = [
        f"[{host}]" if host.count(":") > 1 and "[" not in host else host
        for host in flags.hosts.split(",")
    ]
    are_names = all(re.fullmatch(r"[\w.:\[\]-]+", host) for host in hosts)
    if len(set(hosts)) < len(hosts) or not are_names:
        raise UserError(
            f"--hosts={flags.hosts} must be different host names or addresses, as in "
            "--hosts=10.0.0.1,10.0.0.2."
        )
    coordinator = f"{hosts[0]}:{whole_number(flags, 'port', _DEFAULT_PORT)}"
    lines = [
        f"# on {host}\n{shlex.join(_verb(arguments, coordinator, len(hosts), index))}"
        for index, host in enumerate(hosts)
    ]
    return Launch("\n".join(lines), ())


def tpu_vm(flags: argparse.Namespace, arguments: list[str]) -> Launch:
    """Returns commands that make a TPU slice, install a wheel on its hosts, and train on them.

    JAX finds the processes.
    """
    generation = flags.accelerator_type.rpartition("-")[0]
    if generation not in _TPU_SOFTWARE and not flags.version:
        raise UserError(
            f"--accelerator_type={flags.accelerator_type} is of none of the generations "
            f"{', '.join(_TPU_SOFTWARE)} (as in v4-32 or v5litepod-16); give the software of its "
            "VMs with --version too."
        )
    steps = (flags.steps or ",".join(_TPU_VM_STEPS)).split(",")
    unknown = [step for step in steps if step not in _TPU_VM_STEPS]
    if unknown:
        raise UserError(
            f"--steps has {unknown[0]!r}, but its steps are {', '.join(_TPU_VM_STEPS)}"
            f"{did_you_mean(nearest(unknown[0], _TPU_VM_STEPS))}"
        )
    if "install" in steps:
        _check_wheel(flags)
    version = flags.version or _TPU_SOFTWARE[generation]
    commands_of = _tpu_vm_commands(flags, arguments, version)
    commands = [command for step in _TPU_VM_STEPS if step in steps for command in commands_of[step]]
    return Launch("\n".join(map(shlex.join, commands)), commands)


def _check_wheel(flags: argparse.Namespace) -> None:
    """Checks --wheel; one that is missing is only a note where nothing is run.

    Raises:
      UserError: if it is not given, not a wheel of flan_jax, or missing.
    """
    if not flags.wheel:
        raise UserError(
            "--backend=tpu_vm needs --wheel=FILE.whl to install; `pip wheel --no-deps "
            "--wheel-dir=dist .` in a checkout makes it (or leave the installation out: "
            "--steps=train)."
        )
    wheel = local_path(flags.wheel, "--wheel")
    if not _WHEEL.fullmatch(wheel.name):
        raise UserError(
            f"--wheel={flags.wheel} is not a wheel of flan_jax, such as "
            f"flan_jax-{__version__}-py3-none-any.whl."
        )
    if not wheel.is_file():
        missing = (
            f"--wheel={flags.wheel} is not here; `pip wheel --no-deps --wheel-dir=dist .` "
            f"in a checkout makes it."
        )
        if flags.run:
            raise UserError(missing)
        print(f"note: {missing}", file=sys.stderr)


def _tpu_vm_commands(
    flags: argparse.Namespace, arguments: list[str], version: str
) -> dict[str, list[list[str]]]:
    """Returns the commands of each of `_TPU_VM_STEPS`."""
    wheel = pathlib.Path(flags.wheel or "").expanduser()
    gcloud, name = ["gcloud", "compute", "tpus", "tpu-vm"], _name(flags)
    place = [f"--zone={flags.zone}", *([f"--project={flags.project}"] if flags.project else [])]
    ssh = [*gcloud, "ssh", name, *place, "--worker=all"]
    # The image's Python is older than ours: uv installs a newer one.
    extras = "tpu,gcs" if any("=gs://" in argument for argument in arguments) else "tpu"
    package = shlex.quote(f"./{wheel.name}[{extras}]")
    install = (
        "python3 -m pip install --quiet --user uv && ~/.local/bin/uv venv --quiet --clear "
        "--python=3.12 flan && ~/.local/bin/uv pip install --quiet --python=flan/bin/python "
        f"{package}"
    )
    create = [
        *gcloud,
        "create",
        name,
        *place,
        f"--accelerator-type={flags.accelerator_type}",
        f"--version={version}",
        *(["--spot"] if flags.spot else []),
    ]
    return {
        "create": [create],
        "install": [
            [*gcloud, "scp", str(wheel), f"{name}:", *place, "--worker=all"],
            [*ssh, f"--command={install}"],
        ],
        "train": [[*ssh, f"--command=flan/bin/{shlex.join(_verb(arguments))}"]],
    }


def gcluster(flags: argparse.Namespace, arguments: list[str]) -> Launch:
    """Returns a JobSet of GKE: an indexed Job per slice, a pod per host.

    GKE sets the variables by which JAX finds the processes.
    """
    return Launch(job_set(flags, _verb(arguments), _name(flags)), _APPLY, stdin=True)


def slurm(flags: argparse.Namespace, arguments: list[str]) -> Launch:
    """Returns a batch script with one task per GPU, as JAX expects it under SLURM.

    JAX finds the processes.
    """
    nodes, gpus = whole_number(flags, "nodes"), whole_number(flags, "gpus_per_node")
    options = {
        "job-name": _name(flags),
        "nodes": nodes,
        "ntasks-per-node": gpus,
        "gpus-per-node": gpus,
        "cpus-per-task": whole_number(flags, "cpus_per_task", 8),
        "time": flags.time,
        "partition": flags.partition,
        "account": flags.account,
        "output": "%x-%j.log",
        "open-mode": "append",
        "signal": "TERM@120",
    }
    # srun does not take the number of cores from the script (since SLURM 22.05).
    srun = f"srun --cpus-per-task={options['cpus-per-task']} --kill-on-bad-exit=1"
    lines = [
        "#!/bin/bash",
        *sbatch_lines(options),
        "#SBATCH --requeue",
        f"{srun} {shlex.join(_verb(arguments))}",
        *requeue_lines("$SLURM_JOB_ID"),
    ]
    return Launch("\n".join(lines), [["sbatch"]], stdin=True)


def sbatch_lines(options: Mapping[str, Any]) -> list[str]:
    """Returns the options of a batch script by name, without those that are None.

    Raises:
      UserError: for a value with a blank.
    """
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if re.search(r"\s", str(value)):
            raise UserError(
                f"--{option}={value!r} has a blank in it, which SLURM's options cannot have."
            )
    return [f"#SBATCH --{option}={value}" for option, value in given.items()]


def requeue_lines(job: str) -> list[str]:
    """Returns the end of a batch script, which queues a job again that saved and did not finish.

    Args:
      job: its id, as a variable of the shell.
    """
    # A job that was canceled ends with the same status, but its state is no longer RUNNING.
    state = f"$(squeue --noheader --jobs={job} --format=%T)"
    return [
        "status=$?",
        f"# {SAVED}: saved, not finished",
        f'if [ $status -eq {SAVED} ] && [ "{state}" = RUNNING ]; then',
        f"  scontrol requeue {job}",
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
        gcluster,
        ("tpu", "topology", "image"),
        ("claim", "name", "slices", "chips_per_host", "queue"),
    ),
    "slurm": Backend(
        slurm, ("nodes", "gpus_per_node"), ("name", "cpus_per_task", "time", "partition", "account")
    ),
    "print": Backend(plain, ("hosts",), ("port",)),
}
FLAG_HELP = {
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
    "steps": f"only some of {','.join(_TPU_VM_STEPS)}",
    "tpu": ", ".join(GENERATIONS),
    "topology": "chips along each side of the slice, such as 4x4 or 4x4x4",
    "image": "container with flan_jax[tpu] in it",
    "claim": "PersistentVolumeClaim that all pods mount at /runs, for what is not in a bucket",
    "slices": "how many slices (default: 1)",
    "chips_per_host": f"chips of a node (default: {CHIPS_PER_HOST})",
    "queue": "LocalQueue of Kueue that starts the JobSet",
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
SWITCHES = ("gpus", "spot")


def _name(flags: argparse.Namespace) -> str:
    name = flags.name or "flan"
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?", name):
        raise UserError(
            f"--name={name} must be lower-case letters, digits and hyphens, such as flan-nli."
        )
    return name


def _verb(arguments: list[str], coordinator: str = "", count: int = 1, index: int = 0) -> list[str]:
    """Returns the command of a process; without a coordinator JAX finds the others."""
    command = ["flan-jax", *([] if arguments[0] in VERBS else ["train"]), *arguments]
    if coordinator:
        command += [
            f"--coordinator={coordinator}",
            f"--num_processes={count}",
            f"--process_id={index}",
        ]
    return command
