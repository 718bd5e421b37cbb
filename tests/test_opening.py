"""What verbs open: one program at a time in the directory of a run or of results."""

import os
import re
import socket
import subprocess
import sys

import pytest

from flan_jax import opening
from flan_jax.errors import UserError

HOLD = """
import pathlib, sys
from flan_jax import opening
with opening.alone(pathlib.Path(sys.argv[1]), ".train.lock", "flan-jax train"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_in_a_directory_is_refused_until_the_first_one_is_dead(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], text=True, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    assert holder.stdout.readline() == "held\n"
    says = (f"{re.escape(str(tmp_path))} is in use by flan-jax train \\(process {holder.pid} on host "
            f"{socket.gethostname()}, since 20")
    with pytest.raises(UserError, match=says), opening.alone(tmp_path, ".train.lock", "flan-jax train"):
        pass
    with opening.alone(tmp_path, ".eval.run.tuned.4.lock", "flan-jax eval"):  # another purpose, at the same time
        pass
    holder.kill()
    holder.wait()
    with opening.alone(tmp_path, ".train.lock", "flan-jax train"):
        assert f'"process": {os.getpid()}' in (tmp_path / ".train.lock").read_text()
