"""runs/: a lock per directory, and preparations that end early."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from flan_jax.errors import UserError
from flan_jax.runs import directories, preparation

HOLD = """
import pathlib, sys
from flan_jax.runs import directories
with directories.alone(pathlib.Path(sys.argv[1]), ".train.lock", "flan-jax train"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("error", [None, OSError("cannot write"), UserError("cannot write")])
def test_a_directory_removed_during_the_work_is_a_clear_error_message(tmp_path, error):
    says = "run was removed while flan-jax train worked in it: what was saved there is lost"
    with (
        pytest.raises(UserError, match=says),
        directories.alone(tmp_path / "run", ".train.lock", "flan-jax train"),
    ):
        shutil.rmtree(tmp_path / "run")
        if error:
            raise error
    with (
        pytest.raises(OSError, match="of its own"),
        directories.alone(tmp_path, ".train.lock", "flan-jax train"),
    ):
        raise OSError("of its own")


def test_a_second_run_in_a_directory_is_refused_until_the_first_ends(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == "held\n"
    says = (
        f"{re.escape(str(tmp_path))} is in use by flan-jax train \\(process {holder.pid} on host "
        f"{socket.gethostname()}, since 20"
    )
    with (
        pytest.raises(UserError, match=says),
        directories.alone(tmp_path, ".train.lock", "flan-jax train"),
    ):
        pass
    # another purpose, at the same time
    with directories.alone(tmp_path, ".eval.run.tuned.4.lock", "flan-jax eval"):
        pass
    holder.kill()
    holder.wait()
    with directories.alone(tmp_path, ".train.lock", "flan-jax train"):
        assert f'"process": {os.getpid()}' in (tmp_path / ".train.lock").read_text()


@pytest.mark.parametrize("number, status", [(signal.SIGKILL, 1), (signal.SIGTERM, 143)])
def test_a_preparation_ended_by_a_signal_is_a_clear_error_message(
    tmp_path, monkeypatch, capsys, number, status
):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nkill -{int(number)} $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert preparation._prepare([]) == status
    assert (
        f"the preparation of the data was ended by signal {int(number)}" in capsys.readouterr().err
    )
