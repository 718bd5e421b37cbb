"""Programs that a test starts: their environment, whether they ended well, what they said last."""

import os
import re
import subprocess

_LAST = 4000  # characters: the whole output of a run hides its last words


def simulating(devices: int) -> dict[str, str]:
    """The environment of a program for which the CPU is so many devices; other flags stay."""
    count = "--xla_force_host_platform_device_count"
    flags = re.sub(rf"{count}=\d+", "", os.environ.get("XLA_FLAGS", ""))
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{flags} {count}={devices}".strip(),
    }


def ended_well(result: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    """Gives `result` of a program that must have ended with status 0."""
    assert result.returncode == 0, output_tail(result)
    return result


def output_tail(result: subprocess.CompletedProcess) -> str:
    """Its status, and the end of what it printed."""
    return (
        f"status {result.returncode}; ... "
        f"{((result.stdout or '') + (result.stderr or ''))[-_LAST:]}"
    )
