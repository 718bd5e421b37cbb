"""The harness itself: each end is recognised."""

import sys
import time

import harness
import numpy as np
import pytest
from hypothesis import strategies as st
from mutations import damaged_bytes, damaged_values

from flan_jax.errors import UserError
from flan_jax.storage.files import readable


def _raise(error):
    raise error


def _allocate():
    with readable("a file"):
        return bool(np.zeros(2**32, np.uint8).any())


@pytest.mark.parametrize(
    "check, end",
    [
        (lambda: True, harness.RIGHT),
        (lambda: False, harness.SILENT),
        (lambda: _raise(UserError("a.json is damaged; copy it again.")), harness.MESSAGE),
        (lambda: _raise(UserError("x" * 10_000)), harness.TRACEBACK),
        (lambda: _raise(UserError("\x1b")), harness.TRACEBACK),
        (lambda: _raise(KeyError("a")), harness.TRACEBACK),
        (lambda: _raise(SystemExit(1)), harness.TRACEBACK),
        (lambda: sys.exit(0), harness.RIGHT),
    ],
)
def test_the_end_of_an_input_is_recognised(check, end):
    assert harness.end_of(check)[0] == end


def test_a_hang_and_an_allocation_are_stopped(monkeypatch):
    monkeypatch.setattr(harness, "SECONDS", 0.2)
    assert harness.end_of(lambda: time.sleep(30))[0] == harness.HANG
    assert harness.end_of(lambda: all(True for _ in iter(int, 1)))[0] == harness.HANG
    if sys.platform == "linux":
        assert harness.end_of(_allocate)[0] == harness.TOO_LARGE


def test_inputs_are_the_same_each_time_and_what_ends_badly_fails(fuzz):
    seen = [[], []]
    for inputs in seen:
        fuzz(
            "harness",
            st.one_of(damaged_bytes(b"0123456789"), damaged_values({"a": [1, {"b": "c"}]})),
            lambda case, inputs=inputs: inputs.append(case.what) is None,
            20,
        )
    assert seen[0] == seen[1] and len(set(seen[0])) > 10
    with pytest.raises(pytest.fail.Exception, match="1 of 1 inputs end badly"):
        fuzz("harness", st.just(1), lambda case: False, 1)
