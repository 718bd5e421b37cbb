"""Trackers: every step once, equal to metrics.jsonl; what fails does not end the run."""

import json
import logging
import sqlite3
import time

import jax.numpy as jnp
import pytest

from flan_jax.errors import UserError
from flan_jax.training.metrics_log import MetricsLog, Work
from flan_jax.training.trackers import registry
from flan_jax.training.trackers.tracking import Tracking
from support.runs import command, losses, run_here

MODULE = """
import json, pathlib

OUT = pathlib.Path(__file__).parent / "calls.jsonl"

def note(*call):
    with open(OUT, "a") as file:
        file.write(json.dumps(call) + "\\n")

def init(**about):
    note("init", about)

def log(values, step):
    note("log", step, values)

def finish():
    note("finish")
"""
# What needs a package; they are skipped, and say so, where it is not installed.
needs_trackio = pytest.mark.skipif(
    registry.importlib.util.find_spec("trackio") is None,
    reason="NOT CHECKED WITH TRACKIO: it is not installed (pip install trackio)",
)
needs_wandb = pytest.mark.skipif(
    registry.importlib.util.find_spec("wandb") is None,
    reason="NOT CHECKED WITH WANDB: it is not installed (pip install wandb)",
)


@pytest.fixture
def module(tmp_path):
    """The path of a module that notes its calls, and a function that returns and forgets them."""
    file = tmp_path / "mine.py"
    file.write_text(MODULE)
    calls_file = tmp_path / "calls.jsonl"

    def calls():
        lines = calls_file.read_text().splitlines() if calls_file.exists() else []
        calls_file.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    return str(file), calls


def start(tracker, directory, begin=0, **more):
    """The log of a run that starts at a step, with a tracker."""
    directory.mkdir(exist_ok=True)
    config = {"SEED": 1, "Train.mesh": {"fsdp": -1}, **more}
    tracking = Tracking(tracker, directory, "sizes", config, begin)
    work = Work(1e9, None)
    return MetricsLog(
        directory, begin, total=9, every=2, enabled=True, work=work, tracking=tracking
    )


def take(log, *steps):
    for step in steps:
        metrics = {"loss": 1 / step, "accuracy": 0.5, "grad_norm": 1.0}
        arrays = {name: jnp.float32(value) for name, value in metrics.items()}
        log.add(step, arrays, tokens=7, waited=0.0)


def written(directory):
    """Step -> numbers of `metrics.jsonl`, those of the validation included."""
    numbers = {}
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        numbers.setdefault(values.pop("step"), {}).update(values)
    return numbers


def test_a_module_gets_what_the_run_is_and_every_step_with_its_validation(tmp_path, module):
    name, calls = module
    log = start(name, tmp_path / "run")
    take(log, 1, 2, 3, 4)
    log.flush()
    log.write(4, {"validation_loss": 2.5})
    take(log, 5)
    log.flush()
    log.close()
    init, *logged, finish = calls()
    about = init[1]
    assert (about["name"], about["group"], about["project"]) == ("run", "sizes", "flan_jax")
    assert about["config"] == {"SEED": 1, "Train.mesh": {"fsdp": -1}}
    assert about["directory"] == str(tmp_path / "run") and finish == ["finish"]
    assert {step: values for _, step, values in logged} == written(tmp_path / "run")
    assert [step for _, step, _ in logged] == [1, 2, 3, 4, 5]
    assert logged[3][2]["validation_loss"] == 2.5


def test_a_crashed_run_that_goes_on_is_one_run_and_no_step_is_sent_twice(tmp_path, module):
    name, calls = module
    first = start(name, tmp_path / "run")
    take(first, 1, 2, 3, 4, 5, 6)  # killed here: the checkpoint is that of step 4
    before = calls()
    assert [call[1] for call in before[1:]] == [1, 2, 3, 4, 5]  # step 6 may get a validation yet
    again = start(name, tmp_path / "run", begin=4)
    take(again, 5, 6, 7, 8)
    again.close()
    after = calls()
    assert after[0][1]["id"] == before[0][1]["id"]
    assert [call[1] for call in after[1:-1]] == [6, 7, 8]
    logged = {step: values for name, step, values in before[1:] + after[1:-1]}
    assert logged == written(tmp_path / "run")


def test_a_tracker_that_is_set_later_gets_the_steps_before(tmp_path, module):
    name, calls = module
    (tmp_path / "run").mkdir()
    plain = MetricsLog(tmp_path / "run", 0, total=9, every=2, enabled=True, work=Work(1e9, None))
    take(plain, 1, 2)
    log = start(name, tmp_path / "run", begin=2)
    take(log, 3, 4)
    log.close()
    assert [call[1] for call in calls()[1:-1]] == [1, 2, 3, 4]


def test_a_new_run_where_an_earlier_one_was_removed_has_another_id(tmp_path, module):
    name, calls = module
    ids = []
    for _ in range(2):
        start(name, tmp_path / "run").close()
        ids.append(calls()[0][1]["id"])
        (tmp_path / "run/tracker.json").unlink()
    assert ids[0] != ids[1]


@pytest.mark.parametrize("function", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_one_warning(tmp_path, module, caplog, function):
    name, calls = module
    with open(name, "a") as file:
        file.write(f"\ndef {function}(*_, **__):\n    raise RuntimeError('no network')\n")
    with caplog.at_level(logging.WARNING):
        log = start(name, tmp_path / "run")
        take(log, 1, 2, 3, 4)
        log.close()
    (record,) = caplog.records
    assert (
        f"failed to {'start' if function == 'init' else function} (RuntimeError: no network)"
        in (record.getMessage())
    )
    assert sorted(written(tmp_path / "run")) == [1, 2, 3, 4]
    assert len([call for call in calls() if call[0] == "log"]) == {"finish": 4}.get(function, 0)


def test_what_cannot_track_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    find_spec = registry.importlib.util.find_spec
    monkeypatch.setattr(
        registry.importlib.util,
        "find_spec",
        lambda name, *_: None if name == "wandb" else find_spec(name),
    )
    with pytest.raises(UserError, match=r"needs wandb.*: pip install 'flan_jax\[wandb\]'"):
        registry.check("wandb")
    with pytest.raises(UserError, match=r"'trackio'; did you mean wandb\? As a module:"):
        registry.check("wandbb")
    (tmp_path / "half.py").write_text("def init(**_): pass")
    with pytest.raises(UserError, match="a module without log and finish"):
        registry.check(str(tmp_path / "half.py"))
    with pytest.raises(UserError, match="no module found"):
        registry.check(str(tmp_path / "none.py"))
    refused = run_here(
        command("train", tmp_path / "cache", tmp_path / "run", "--gin.TRACKER=wandb")
    )
    assert refused.returncode == 2 and "pip install 'flan_jax[wandb]'" in refused.stderr
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache/tokens").exists()


def test_tensorboard_gets_the_same_numbers_and_forgets_steps_that_are_taken_again(tmp_path):
    first = start("tensorboard", tmp_path / "run")
    take(first, 1, 2, 3, 4)  # killed here: the checkpoint is that of step 2
    second = start("tensorboard", tmp_path / "run", begin=2)
    take(second, 3, 4, 5)
    second.close()
    assert events(tmp_path / "run/tensorboard") == {
        step: pytest.approx(values) for step, values in written(tmp_path / "run").items()
    }


def events(directory):
    """Step -> numbers of event files, read as TensorBoard does: a restart purges from its step."""
    from tensorboardX import proto

    numbers = {}
    for path in sorted(directory.glob("events.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            length = int.from_bytes(data[place : place + 8], "little")
            event = proto.event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            if event.session_log.status == proto.event_pb2.SessionLog.START:
                numbers = {step: numbers[step] for step in numbers if step < event.step}
            for value in event.summary.value:
                numbers.setdefault(event.step, {})[value.tag] = value.simple_value
    return numbers


@needs_trackio
def test_trackio_read_back_equals_metrics_jsonl_and_a_resumed_run_is_one(tmp_path, monkeypatch):
    import trackio.sqlite_storage as storage

    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "trackio")
    first = start("trackio", tmp_path / "run")
    take(first, 1, 2, 3, 4)
    first.close()
    second = start("trackio", tmp_path / "run", begin=2)
    take(second, 3, 4, 5, 6)
    second.close()
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select run_name, step, metrics from metrics").fetchall()
    assert len({name for name, *_ in rows}) == 1 and len(rows) == 6
    assert {step: json.loads(text) for _, step, text in rows} == written(tmp_path / "run")


@needs_wandb
def test_wandb_offline_writes_every_step_once(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    first = start("wandb", tmp_path / "run")
    take(first, 1, 2, 3, 4)
    first.close()
    second = start("wandb", tmp_path / "run", begin=2)
    take(second, 3, 4, 5, 6)
    second.close()
    files = list((tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1
    files = sorted(files, key=lambda file: file.parent.name)
    deadline, steps = time.monotonic() + 20, []
    while len(steps) < 6 and time.monotonic() < deadline:  # another process writes them
        time.sleep(0.2)
        steps = [step for file in files for step in history(file)]
    assert steps == [1, 2, 3, 4, 5, 6]


def history(file):
    """Yields the steps of an offline file: blocks of 32 KiB, as in LevelDB's log."""
    from wandb.proto import wandb_internal_pb2

    data, place, record = file.read_bytes(), 7, b""
    while place < len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            parsed = wandb_internal_pb2.Record.FromString(record)
            if parsed.WhichOneof("record_type") == "history":
                yield parsed.history.step.num
            record = b""


@pytest.mark.slow
def test_a_run_is_tracked_from_its_first_step_to_its_last(tmp_path, module):
    name, calls = module
    arguments = ["--gin.HELD_OUT=none", "--gin.MIXTURE_OR_TASK_NAME=rte", f"--gin.TRACKER={name}"]
    for steps in (2, 4):
        more = [f"--gin.TRAIN_STEPS={steps}", "--gin.CHECKPOINT_EVERY=2"]
        done = run_here(command("train", tmp_path / "cache", tmp_path / "run", *arguments, *more))
        assert done.returncode == 0, done.stderr
    made = calls()
    assert [call[0] for call in made].count("init") == 2
    logged = {call[1]: call[2]["loss"] for call in made if call[0] == "log"}
    assert logged == losses(tmp_path / "run")
    inits = [call[1] for call in made if call[0] == "init"]
    assert inits[0]["id"] == inits[1]["id"] and inits[1]["config"]["TRAIN_STEPS"] == 4
    run_here(command("train", tmp_path / "cache", tmp_path / "run", *arguments, *more))
    assert calls() == []  # nothing is left to do, and nothing to track
