"""A SLURM of one node on the loopback address, for tests on a machine where it is installed."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=30
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Returns the programs of SLURM that are not installed here."""
    return [name for name in PROGRAMS if not shutil.which(name, path=_path())]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@contextlib.contextmanager
def cluster(directory: pathlib.Path, ports: tuple[int, int]):
    """Runs a SLURM with its files in a directory; yields the variables that its commands need."""
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (directory / name).mkdir()
    configuration = directory / "slurm.conf"
    configuration.write_text(_CONFIGURATION.format(host=host, ports=ports, directory=directory))
    key = directory / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    variables = {"SLURM_CONF": str(configuration), "PATH": _path()}
    environment = {**os.environ, **variables}
    munged = [
        *("munged", "--force", f"--key-file={key}", f"--socket={directory}/munge.socket"),
        *(f"--pid-file={directory}/munged.pid", f"--log-file={directory}/munged.log"),
        f"--seed-file={directory}/seed",
    ]
    try:
        for command in (munged, ["slurmctld", "-c"], ["slurmd", "-N", host]):
            subprocess.run(command, env=environment, check=True)
        _await_idle(environment)
        yield variables
    finally:
        subprocess.run(["scancel", "--full", "--user=root"], env=environment, check=False)
        for name in ("slurmd", "slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                _end(int((directory / f"{name}.pid").read_text()))


def _end(process: int) -> None:
    """Ends a daemon, which may wait for the steps of a job that are gone."""
    os.kill(process, signal.SIGTERM)
    deadline = time.time() + 20
    while time.time() < deadline:
        os.kill(process, 0)  # an error, once it is gone
        time.sleep(0.2)
    os.kill(process, signal.SIGKILL)


def _await_idle(environment: dict[str, str]) -> None:
    deadline = time.time() + 60
    while time.time() < deadline:
        states = subprocess.run(
            ["sinfo", "--noheader", "--format=%t"], env=environment, capture_output=True, text=True
        )
        if "idle" in states.stdout:
            return
        time.sleep(0.5)
    raise TimeoutError(f"SLURM's node is not idle: {states.stdout}{states.stderr}")
