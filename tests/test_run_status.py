"""`run.json`: the state that a run leaves, however it ends."""

import json

import pytest

from flan_jax.config import run_status
from flan_jax.errors import Diverged, UserError


def read(directory) -> tuple:
    record = json.loads((directory / "run.json").read_text())
    return record["status"], record.get("exit_status"), record.get("message")


@pytest.mark.parametrize(
    "error, expected",
    [
        (UserError("give another"), ("failed", 2, "give another")),
        (Diverged("step 3 has loss nan"), ("failed", 1, "step 3 has loss nan")),
        (KeyboardInterrupt("SIGTERM"), ("saved", 143, "SIGTERM")),
    ],
)
def test_an_error_is_recorded_and_raised(tmp_path, error, expected):
    with pytest.raises(type(error)), run_status.recorded(tmp_path, True) as status:
        status.update(step=3)
        assert read(tmp_path)[0] == "running"
        raise error
    assert read(tmp_path) == expected


@pytest.mark.parametrize("code, expected", [(0, "finished"), (143, "saved")])
def test_a_run_that_ends_is_finished_or_saved(tmp_path, code, expected):
    with run_status.recorded(tmp_path, True) as status:
        status.update(step=1, steps=2)
        status.exit_status = code
    assert read(tmp_path) == (expected, code, None)
    assert run_status.read_status(tmp_path)["steps"] == 2


def test_a_start_that_is_refused_leaves_the_record_of_the_run_as_it_was(tmp_path):
    with run_status.recorded(tmp_path, True) as status:
        status.update(step=2)
    before = (tmp_path / "run.json").read_text()
    with pytest.raises(UserError), run_status.recorded(tmp_path, True):
        raise UserError("another optimizer")
    assert (tmp_path / "run.json").read_text() == before


def test_other_processes_write_nothing(tmp_path):
    with run_status.recorded(tmp_path, False) as status:
        status.update(step=2)
    assert not (tmp_path / "run.json").exists()


def test_the_seconds_of_all_starts_add_up(tmp_path):
    (tmp_path / "run.json").write_text('{"status": "saved", "seconds": 100}')
    with run_status.recorded(tmp_path, True) as status:
        status.update(step=1)
    assert 100 <= run_status.read_status(tmp_path)["seconds"] < 160
    (tmp_path / "run.json").write_text("damaged")
    with run_status.recorded(tmp_path, True) as status:
        status.update(step=1)
    assert run_status.read_status(tmp_path)["seconds"] < 60
