"""A computing verb starts again with large pages, in the same process, once."""

import json
import os
import subprocess
import sys

import pytest

from flan_jax import huge_pages
from flan_jax.cli import dispatch

PROGRAM = """
import json, os, sys
from flan_jax.huge_pages import SWITCH, start_again_with_huge_pages
print(json.dumps([os.getpid(), os.environ.get(SWITCH), sys.argv[1:]]), flush=True)
start_again_with_huge_pages()
block = bytearray(b"1") * (64 << 20)
pages = [line.split() for line in open("/proc/self/smaps_rollup") if "AnonHuge" in line]
print(json.dumps([os.getpid(), os.environ.get(SWITCH), int(pages[0][1])]))
"""


def lines(**environment) -> list:
    arguments = [sys.executable, "-c", PROGRAM, "--gin.NAME=a b", ""]
    environment = {**os.environ, **environment}
    run = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.skipif(
    not huge_pages._pages_are_given_on_request() or huge_pages._glibc() < huge_pages._FIRST_GLIBC,
    reason="this machine gives no large pages on request",
)
def test_the_process_starts_again_with_its_arguments_and_has_large_pages():
    first, second, (pid, switch, pages) = lines()
    assert first == [pid, None, ["--gin.NAME=a b", ""]]
    assert second == [pid, huge_pages.VALUE, ["--gin.NAME=a b", ""]]
    assert switch is None  # the processes that it starts do not have it
    assert pages > 32 << 10  # kB, of a block of 64 MB


def test_a_setting_of_the_user_stays():
    for value in ("", "glibc.malloc.arena_max=1"):
        first, (pid, switch, _) = lines(GLIBC_TUNABLES=value)
        assert first[0] == pid and switch == value


def test_only_verbs_that_compute_start_again(monkeypatch):
    started = []
    monkeypatch.setattr(dispatch, "start_again_with_huge_pages", lambda: started.append(sys.argv))
    monkeypatch.setattr(dispatch, "main", lambda: 0)
    for verb in ("train", "report", "--help", "generate"):
        monkeypatch.setattr(sys, "argv", ["flan-jax", verb])
        with pytest.raises(SystemExit):
            dispatch.program()
    assert [argv[1] for argv in started] == ["train", "generate"]
