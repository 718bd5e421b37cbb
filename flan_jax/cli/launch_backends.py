"""Places to train on several hosts, and the commands or manifests that start a run there."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Sequence

from flan_jax import __version__
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest
from flan_jax.signals import SAVED

# The verbs that run on several hosts.
VERBS = ("train", "eval", "generate")
# Where the pods of a JobSet mount their storage.
MOUNT = "/runs"

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
# GKE: our name of a generation -> the label of its nodes.
_GKE_TPU = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
}
_FLAT_GKE_TPU = ("v5e", "v6e")  # their slices have two dimensions, the others three
_CHIPS_PER_HOST = 4  # of a slice with several hosts, in each of these generations
# GKE: how often a JobSet is restarted, and the seconds in which its pods save.
_MOST_RESTARTS, _GRACE_S = 100, 120
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
    count, devices = _number(flags, "num_processes"), _number(flags, "devices", 1)
    coordinator = f"localhost:{_number(flags, 'port', _DEFAULT_PORT)}"
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
    coordinator = f"{hosts[0]}:{_number(flags, 'port', _DEFAULT_PORT)}"
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
    wheel = pathlib.Path(flags.wheel).expanduser()
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
    package = shlex.quote(f"./{wheel.name}[tpu]")
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
    if flags.tpu not in _GKE_TPU:
        raise UserError(
            f"--tpu={flags.tpu} is not one of "
            f"{', '.join(_GKE_TPU)}{did_you_mean(nearest(flags.tpu, _GKE_TPU))}"
        )
    chips = _chips_of_slice(flags)
    chips_per_host = _number(flags, "chips_per_host", min(chips, _CHIPS_PER_HOST))
    if chips % chips_per_host:
        raise UserError(
            f"--topology={flags.topology} has {chips} chips, which are no whole number of hosts "
            f"with {chips_per_host} each; give another --chips_per_host."
        )
    # Kubernetes expands "$(NAME)", and "$$" is its escape of "$".
    command = [argument.replace("$", "$$") for argument in _verb(arguments)]
    text = _JOB_SET.format(
        name=json.dumps(_name(flags)),
        most_restarts=_MOST_RESTARTS,
        slices=_number(flags, "slices", 1),
        hosts=chips // chips_per_host,
        grace_seconds=_GRACE_S,
        accelerator=_GKE_TPU[flags.tpu],
        topology=flags.topology,
        image=json.dumps(flags.image),
        command="\n".join(f"              - {json.dumps(argument)}" for argument in command),
        chips_per_host=chips_per_host,
        mount=MOUNT,
        claim=json.dumps(flags.claim),
    )
    return Launch(text, [["kubectl", "apply", "-f", "-"]], stdin=True)


def _chips_of_slice(flags: argparse.Namespace) -> int:
    """Returns the chips of the slice of --topology.

    Raises:
      UserError: if it is not sizes along the dimensions of the generation.
    """
    more_dimensions = 1 if flags.tpu in _FLAT_GKE_TPU else 2
    if not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{more_dimensions}}}", flags.topology):
        raise UserError(
            f"--topology={flags.topology} must be the chips along each side of the slice, such as "
            "4x4 (v5e, v6e) or 4x4x4 (v4, v5p, tpu7x)."
        )
    return math.prod(map(int, flags.topology.split("x")))


_JOB_SET = """\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {name}
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: {most_restarts}
    rules:
    - action: FailJobSet
      onJobFailureReasons:
      - PodFailurePolicy
  replicatedJobs:
  - name: slice
    replicas: {slices}
    template:
      spec:
        completionMode: Indexed
        completions: {hosts}
        parallelism: {hosts}
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
            terminationGracePeriodSeconds: {grace_seconds}
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: {accelerator}
              cloud.google.com/gke-tpu-topology: {topology}
            containers:
            - name: train
              image: {image}
              command:
{command}
              resources:
                limits:
                  google.com/tpu: {chips_per_host}
              volumeMounts:
              - name: runs
                mountPath: {mount}
            volumes:
            - name: runs
              persistentVolumeClaim:
                claimName: {claim}"""


def slurm(flags: argparse.Namespace, arguments: list[str]) -> Launch:
    """Returns a batch script with one task per GPU, as JAX expects it under SLURM.

    JAX finds the processes.
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
    options = {option: value for option, value in options.items() if value is not None}
    for option, value in options.items():
        if re.search(r"\s", str(value)):
            raise UserError(
                f"--{option}={value!r} has a blank in it, which SLURM's options cannot have."
            )
    # srun does not take the number of cores from the script (since SLURM 22.05).
    srun = f"srun --cpus-per-task={options['cpus-per-task']} --kill-on-bad-exit=1"
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{option}={value}" for option, value in options.items()),
        "#SBATCH --requeue",
        f"{srun} {shlex.join(_verb(arguments))}",
        *_REQUEUE,
    ]
    return Launch("\n".join(lines), [["sbatch"]], stdin=True)


# A job that was canceled ends with the same status, but its state is no longer RUNNING.
_STATE = "$(squeue --noheader --jobs=$SLURM_JOB_ID --format=%T)"
_REQUEUE = [
    "status=$?",
    f"# {SAVED}: saved, not finished",
    f'if [ $status -eq {SAVED} ] && [ "{_STATE}" = RUNNING ]; then',
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
SWITCHES = ("gpus", "spot")


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
    """Returns the command of a process; without a coordinator JAX finds the others."""
    command = ["flan-jax", *([] if arguments[0] in VERBS else ["train"]), *arguments]
    if coordinator:
        command += [
            f"--coordinator={coordinator}",
            f"--num_processes={count}",
            f"--process_id={index}",
        ]
    return command
