"""Every test marked `devices`, in a process of its own that has eight: a CPU taken for so many."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__)
MARKED = [
    path
    for path in sorted(HERE.parent.glob("test_*.py"))
    if "mark.devices" in path.read_text() and path != HERE
]


@pytest.mark.slow
def test_on_eight_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, MARKED), "-m", "devices"],
        capture_output=True,
        text=True,
        env={**os.environ, **flags},
        timeout=600,
    )
    passed = re.search(r"(\d+) passed", run.stdout)
    assert run.returncode == 0 and "skipped" not in run.stdout and passed, run.stdout
    assert int(passed[1]) == 18, (
        "tests marked `devices` were added or lost: say here how many there are"
    )
