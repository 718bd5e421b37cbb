"""Sweeps in a bucket: their states, what is refused, and the same sweep.csv as on the disk."""

import csv
import datetime
import importlib.util
import io
import json
import os
import re
import socket
import sys
import time

import pytest
from test_sweep import EVALUATED, SETTINGS, sweep

from flan_jax.config import run_status
from flan_jax.errors import UserError
from flan_jax.evaluation import shared_baselines
from flan_jax.storage import bucket_lock, working_copy
from flan_jax.storage.copies import path_of
from flan_jax.storage.places import place
from flan_jax.sweeps import grid, plan
from support.bucket_runs import forget_clients, kill_when, start
from support.processes import ended_well
from support.runs import run, run_here
from support.two_processes import TRAIN, finish, free_port

# not imported here: what flan_jax sets up comes first
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gcsfs") is None,
    reason="gcsfs is not installed: no sweep in a bucket is tested",
)
URL = "gs://bucket1/seeds"
REMOTE = place(URL, "DIR")


@pytest.fixture(autouse=True)
def home(buckets, tmp_path, monkeypatch):
    """The working directory of a test; the copies of earlier ones are forgotten."""
    monkeypatch.setattr(working_copy, "_COPIES", {})
    if "gcsfs" in sys.modules:
        forget_clients()
    return tmp_path


def kept(count: int) -> plan.Sweep:
    """A sweep in the bucket of which nothing has run."""
    points = grid.points({"SEED": list(range(count))}, {})
    return plan.keep(plan.Sweep(path_of(REMOTE), SETTINGS, points))


def statuses() -> dict[str, str]:
    """The states of the points, by name; before them the address of the server is printed."""
    output = run_here(sweep(URL, "--status", "--json")).stdout
    states = json.loads(output[output.index("{") :])
    return {name: state["status"] for name, state in states.items()}


def lock(host: str, process: int, age_s: float) -> str:
    """A lock that a process of a host has renewed some seconds ago."""
    renewed = datetime.datetime.now().astimezone() - datetime.timedelta(seconds=age_s)
    record = {"host": host, "boot": bucket_lock._boot(), "process": process, "id": "1"}
    return json.dumps({**record, "renewed": renewed.isoformat()})


def test_the_states_of_points_that_run_anywhere(buckets):
    kept(6)
    runs = {
        1: ("running", lock("elsewhere", 1, age_s=20)),
        2: ("running", lock("elsewhere", 1, age_s=200)),
        3: ("running", lock(socket.gethostname(), 1 << 22, age_s=1)),  # no such process
        4: ("finished", None),
        5: ("running", lock(socket.gethostname(), os.getppid(), age_s=1)),
    }
    for number, (status, contents) in runs.items():
        record = {"status": status, "step": 2, "steps": 2}
        buckets.put(f"seeds/seed_{number}/run.json", json.dumps(record))
        if contents:
            buckets.put(f"seeds/seed_{number}/{run_status.LOCK}", contents)
    states = ["not started", "running", "killed", "killed", "finished", "running"]
    assert list(statuses().values()) == states
    # a lock that is released, and a run that has begun elsewhere meanwhile
    buckets.objects.stored.pop(("bucket1", f"seeds/seed_1/{run_status.LOCK}"))
    buckets.put("seeds/seed_0/run.json", '{"status": "saved"}')
    assert list(statuses().values())[:2] == ["saved", "killed"]
    lines = run_here(sweep(URL, "--backend=print")).stdout.splitlines()
    todo = [line for line in lines if line.startswith("flan-jax")]
    assert todo == [f"flan-jax sweep {URL} --point=seed_{number}" for number in (0, 1, 2, 3)]
    assert any("seed_5 is running already" in line for line in lines)


def test_an_array_of_slurm_has_its_logs_on_the_disk(monkeypatch, home):
    kept(2)
    monkeypatch.chdir(home)
    script = run_here(sweep(URL, "--backend=slurm")).stdout
    assert f"sweep {URL} --point=${{names[$SLURM_ARRAY_TASK_ID]}}" in script
    assert f"exec >> {home}/seeds_logs/${{names[" in script and "job-name=seeds\n" in script
    assert (home / "seeds_logs").is_dir()


def test_a_run_waits_for_a_baseline_until_its_maker_ends(buckets):
    directory = working_copy.open_copy(REMOTE / "baselines/1").local
    name = f"seeds/baselines/1/{shared_baselines._LOCK}"
    buckets.put(name, lock("elsewhere", 1, age_s=20))
    with shared_baselines._alone(directory, lambda: True) as is_held:
        assert not is_held  # the run is to stop

    def end() -> bool:
        buckets.objects.stored.pop(("bucket1", name))
        return False

    with shared_baselines._alone(directory, end) as is_held:
        assert is_held and json.loads(buckets.get(name))["process"] == os.getpid()
    assert not buckets.names()


def test_of_two_sweeps_in_one_place_the_first_stays(buckets):
    first = kept(2)
    assert [point.name for point in first.points] == ["seed_0", "seed_1"]
    written = buckets.get("seeds/sweep.json")
    with pytest.raises(UserError, match=f"^{URL} holds another sweep .with seed_2"):
        kept(3)
    assert buckets.get("seeds/sweep.json") == written
    command = first.command(first.points[0])
    assert f"--gin.MODEL_DIR={URL}/seed_0" in command
    assert f"--gin.Train.baselines_dir={URL}/baselines" in command


ONE_POINT = [*SETTINGS, "--sweep.SEED=0"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["s3://bucket1/seeds", *ONE_POINT], "checkpoints cannot be written to s3://"),
        (["gs://no_such/seeds", *ONE_POINT], "no bucket gs://no_such"),
        ([URL], f"{URL} holds no sweep; give --gin_file"),
        (["gs://user:secret@bucket1/seeds"], "with a password or parameters"),
        (
            [URL, "--backend=gcluster", "--tpu=v5e", "--topology=4x4", "--image=i", "--claim=c"],
            "is for sweeps on the storage of --claim",
        ),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    buckets, home, monkeypatch, arguments, message
):
    monkeypatch.chdir(home)
    done = run_here(sweep(*arguments))
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "secret" not in done.stderr
    assert not buckets.names() and not any(home.glob("*:*"))


def test_baselines_are_not_in_s3(buckets):
    evaluate = [sys.executable, "-m", "flan_jax.eval", "--gin_file=gin/flan.gin"]
    done = run_here([*evaluate, "--gin.Train.baselines_dir=s3://bucket1/baselines"])
    assert done.returncode == 2 and "must be a path, or in gs://" in done.stderr


# What differs between two runs of the same settings.
_OF_TIME = ("run.seconds",)


def rows_of(contents: bytes) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(contents.decode(), newline="")))
    return [{name: row[name] for name in row if name not in _OF_TIME} for row in rows]


@pytest.mark.slow
def test_a_sweep_in_a_bucket_has_the_sweep_csv_of_one_on_the_disk(buckets, home):
    settings = [
        *EVALUATED,
        "--gin.TRAIN_STEPS=4",
        "--gin.CHECKPOINT_EVERY=2",
        "--sweep.LEARNING_RATE=0.01,0.02",
        "--evaluate.INSTRUCTIONS=none",
    ]
    names = ["learning_rate_0.01", "learning_rate_0.02"]
    on_disk = [*settings, f"--gin.CACHE_DIR={home / 'cache'}"]
    ended_well(run(sweep(home / "seeds", *on_disk)))
    expected = rows_of((home / "seeds/sweep.csv").read_bytes())
    assert {row["evaluation"] for row in expected} == {"", "instructions_none"}

    # 1. The second point is killed with -9 in its last checkpoint, and is started again.
    command = sweep(URL, *settings, "--gin.CACHE_DIR=gs://bucket1/cache", "--retries=1", "--jobs=2")
    process = start(command, home / "work")
    saves = "learning_rate_0.02%2Fcheckpoints%2F4"
    while process.poll() is None and not any(saves in line.query for line in list(buckets.log)):
        time.sleep(0.01)
    record = json.loads(buckets.get(f"seeds/{names[1]}/{run_status.LOCK}"))
    os.kill(record["process"], 9)
    output = process.communicate(timeout=900)[0]
    assert process.returncode == 0, output[-4000:]
    assert f"{names[1]} ended with status -9, it is started again" in output
    assert str(home) not in output
    assert rows_of(buckets.get("seeds/sweep.csv")) == expected
    assert statuses() == dict.fromkeys(names, "finished")
    assert json.loads(buckets.get(f"seeds/{names[1]}/run.json"))["crashes"] == 1
    log = buckets.get(f"seeds/logs/{names[1]}.log").decode()
    assert log.count("ready to train") == 2 and re.search("resuming from step [24]", log)

    # 2. What both share was evaluated once, and nothing is locked any more.
    stored = buckets.names("seeds/")
    assert len({name.split("/")[2] for name in stored if "/baselines/" in name}) == 1
    assert "copied from gs://bucket1/seeds/baselines/" in log
    assert not [name for name in stored if name.endswith(".lock")]
    assert {"seeds/report.md", "seeds/report.html", "seeds/logs/prepare.log"} <= set(stored)

    # 3. A second call starts nothing and writes nothing, on a machine that has seen nothing, too.
    before = {name: buckets.objects.stored["bucket1", name] for name in stored}
    again = start(sweep(URL), home / "elsewhere")
    output = again.communicate(timeout=900)[0]
    assert again.returncode == 0 and "starts" not in output, output[-4000:]
    assert f"all 2 points are finished; flan-jax report {URL}" in output
    assert {name: buckets.objects.stored["bucket1", name] for name in stored} == before
    assert buckets.names("seeds/") == stored


@pytest.mark.slow
def test_two_processes_that_share_the_bucket_alone_share_baselines_with_other_runs(buckets, home):
    def train(name: str, *more: str) -> None:
        directories = [f"--gin.MODEL_DIR=gs://bucket1/{name}/run", "--gin.CACHE_DIR=gs://bucket1/c"]
        settings = [*EVALUATED, "--gin.TRAIN_STEPS=1", "--gin.MESH={'data': 2}"]
        coordinator = [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
        command = [*TRAIN, *settings, *directories, *coordinator, *more]
        hosts = [(home / name / f"host{index}", f"--process_id={index}") for index in (0, 1)]
        finish([start([*command, which], directory) for directory, which in hosts])

    shared = "--gin.Train.baselines_dir=gs://bucket1/baselines"
    train("alone")
    train("first", shared)
    assert len({name.split("/")[1] for name in buckets.names("baselines/")}) == 1
    before = {name: buckets.objects.stored["bucket1", name] for name in buckets.names("baselines/")}
    train("second", shared)
    after = {name: buckets.objects.stored["bucket1", name] for name in buckets.names("baselines/")}
    assert before == after
    expected = buckets.get("alone/run/results.csv")
    assert b"untuned" in expected
    assert buckets.get("first/run/results.csv") == expected
    assert buckets.get("second/run/results.csv") == expected


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_only_retry_runs_what_has_failed(buckets, home):
    good, bad = "learning_rate_0.01", "learning_rate_1e+30"
    settings = [*SETTINGS, "--gin.TRAIN_STEPS=40", "--gin.CHECKPOINT_EVERY=2"]
    axis, cache = "--sweep.LEARNING_RATE=0.01,1e30", f"--gin.CACHE_DIR={home / 'cache'}"
    process = start(sweep(URL, *settings, axis, cache), home / "work")
    saves = f"{good}%2Fcheckpoints%2F4"
    assert kill_when(process, lambda: any(saves in line.query for line in list(buckets.log)))
    deadline = time.time() + 120  # the run receives SIGTERM, and saves
    while f"seeds/{good}/{run_status.LOCK}" in buckets.names() and time.time() < deadline:
        time.sleep(0.1)
    assert statuses() == {good: "saved", bad: "not started"}

    def rerun(*more: str) -> str:
        process = start(sweep(URL, *more), home / "work")
        output = process.communicate(timeout=900)[0]
        assert process.returncode == 2 and f"1 of 2 points failed: {bad}" in output, output[-4000:]
        assert f"see {URL}/logs, then flan-jax sweep {URL} --retry." in output
        return output

    rerun()
    assert statuses() == {good: "finished", bad: "failed"}
    assert "resuming from step" in buckets.get(f"seeds/logs/{good}.log").decode()
    lines = buckets.get(f"seeds/{good}/metrics.jsonl").decode().splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "loss" in line]
    assert steps == list(range(1, 41))
    assert "has loss" in buckets.get(f"seeds/logs/{bad}.log").decode()
    assert "starts" not in rerun()
    assert re.findall(r"(\S+) starts", rerun("--retry")) == ["prepare", bad]
