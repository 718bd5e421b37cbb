"""Runs whose MODEL_DIR and CACHE_DIR are in a bucket: bit for bit the numbers of a run on the disk.

They need gcsfs, which is in the extra [test].
"""

import collections
import importlib.util
import random
import re
import subprocess
import sys
import time
import urllib.parse

import pytest

from flan_jax.storage import working_copy
from support.bucket_runs import forget_clients, kill_when, numbers_in, numbers_on_disk, start, train
from support.processes import ended_well, simulating
from support.runs import run_here
from support.two_processes import finish, free_port

# not imported here: what flan_jax sets up comes first
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gcsfs") is None,
    reason="gcsfs is not installed: no run in a bucket is tested",
)

BUCKET_RUN = ("gs://bucket1/cache", "gs://bucket1/run")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(cache, tmp_path_factory):
    """The numbers of a run on the disk."""
    model_dir = tmp_path_factory.mktemp("runs") / "run"
    ended_well(run_here(train(cache, model_dir)))
    return numbers_on_disk(model_dir)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The home directory of a test; the copies of earlier ones are forgotten."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(working_copy, "_COPIES", {})
    if "gcsfs" in sys.modules:
        forget_clients()
    return tmp_path


def in_time(command: list[str], home, status: int = 0, **variables: str) -> str:
    """What a command prints, which ends with a status."""
    process = start(command, home, **variables)
    output = process.communicate(timeout=900)[0]
    assert process.returncode == status, output[-4000:]
    assert "Traceback" not in output, output[-4000:]
    return output


@pytest.mark.slow
def test_a_run_in_a_bucket_has_the_numbers_of_one_on_the_disk(buckets, undisturbed, home):
    result = ended_well(run_here(train(*BUCKET_RUN)))
    assert numbers_in(buckets, "run") == undisturbed
    assert "report: gs://bucket1/run/report.html" in result.stdout
    assert str(home) not in result.stdout + result.stderr
    names = buckets.names("run/")
    small = {name.removeprefix("run/").split("/")[0] for name in names}
    assert small >= {"config.gin", "mixture.json", "model-info.txt", "report.html", "figures"}
    assert "run/.train.lock" not in names
    assert {name.split("/")[2] for name in names if "/checkpoints/" in name} == {"2", "4", "6"}


@pytest.mark.slow
def test_an_idle_rerun_needs_few_requests(buckets, home):
    in_time(train(*BUCKET_RUN), home)
    before = {name: buckets.get(name) for name in buckets.names("run/")}
    buckets.counts.clear()
    in_time(train(*BUCKET_RUN), home)
    print(f"an idle rerun: {buckets.counts.total()} requests, {dict(buckets.counts)}")
    # TensorStore reads the same two files of the checkpoint in a varying number of parts
    assert buckets.counts.total() <= 72
    changed = [name for name in buckets.names("run/") if buckets.get(name) != before.get(name)]
    assert changed == ["run/run.json"]


@pytest.mark.slow
def test_requests_of_a_checkpoint_and_of_an_evaluation_are_few(buckets, home):
    buckets.objects.one_change_a_second = True
    more = ["--gin.EVAL_EVERY=None", "--gin.EVAL_TEMPLATES=10"]
    in_time(train(*BUCKET_RUN, *more), home)  # 10 templates, tuned and untuned
    texts = [urllib.parse.unquote(f"{line.what} {line.query}") for line in buckets.log]
    of_checkpoints = ["/checkpoints" in text for text in texts]
    changed: dict[str, float] = {}
    too_soon = collections.Counter()
    for line, text, is_of_checkpoint in zip(buckets.log, texts, of_checkpoints):
        name = re.search(r"name=([^&]*)|/o/(.*)", text)
        is_probe = ".writable." in text  # at the start, written and deleted
        is_change = line.what.startswith(("POST", "DELETE"))
        if is_change and name and not is_of_checkpoint and not is_probe:
            too_soon[name[0]] += line.time - changed.get(name[0], 0.0) < 1
            changed[name[0]] = line.time
    counts = collections.Counter(of_checkpoints)
    print(f"requests: {counts[True] / 3:.0f} a checkpoint, {counts[False]} for everything else")
    print(f"answers 429: {buckets.objects.counts['429']}; outside of checkpoints: {+too_soon}")
    assert counts[True] / 3 < 200 and counts[False] / 20 < 10
    assert too_soon.total() <= 2 and buckets.objects.counts["429"] <= 2


@pytest.mark.slow
def test_six_kills_leave_the_numbers_of_an_undisturbed_run(buckets, undisturbed, home):
    buckets.latency = 0.05
    chance = random.Random(20)
    in_checkpoints = ["upload", "manifest", "commit_success", "metrics.jsonl"]
    for moment in [*in_checkpoints, "results.csv", "DELETE"]:
        process, seen = start(train(*BUCKET_RUN), home), len(buckets.log)
        # the last two come once in what is left to do
        skip = chance.randrange(1, 4) if moment in in_checkpoints else 1

        def is_time(seen=seen, moment=moment, skip=skip) -> bool:
            lines = [f"{line.what} {line.query}" for line in buckets.log[seen:]]
            begun = any("%2Fcheckpoints" in line and "POST" in line for line in lines)
            is_due = sum(moment in line for line in lines) >= skip
            return is_due and (begun or moment not in in_checkpoints)

        assert kill_when(process, is_time), f"{moment} number {skip} did not come"
    in_time(train(*BUCKET_RUN), home)
    assert numbers_in(buckets, "run") == undisturbed


@pytest.mark.slow
def test_sigterm_saves_and_uploads(buckets, undisturbed, home):
    process = start(train(*BUCKET_RUN), home)
    assert kill_when(process, lambda: "run/checkpoints/2" in str(buckets.names("run/")), 15)
    assert process.returncode == 143
    assert b'"saved"' in buckets.get("run/run.json") and "run/.train.lock" not in buckets.names()
    in_time(train(*BUCKET_RUN), home / "elsewhere")
    assert numbers_in(buckets, "run") == undisturbed


@pytest.mark.slow
def test_two_processes_that_share_the_bucket_alone_resume_after_a_kill(
    buckets, home, tmp_path_factory, cache
):
    mesh = "--gin.MESH={'data': 2}"

    def start_both(directories) -> list[subprocess.Popen]:
        address = f"localhost:{free_port()}"
        return [
            start(
                [
                    *train(*directories, mesh),
                    f"--coordinator={address}",
                    "--num_processes=2",
                    f"--process_id={index}",
                ],
                home / f"host{index}",
                GOOGLE_AUTH_TOKEN_FOR_TESTING=f"host{index}",
            )
            for index in (0, 1)
        ]

    local = tmp_path_factory.mktemp("two") / "run"
    finish(start_both((cache, local)))
    both = start_both(BUCKET_RUN)
    saving = "run%2Fcheckpoints%2F4"
    assert kill_when(both[0], lambda: any(saving in line.query for line in buckets.log))
    print(
        "process 0 killed while it saved step 4; process 1:",
        both[1].communicate(timeout=400)[0][-300:],
    )
    assert both[1].returncode not in (0, None)
    outputs = finish(start_both(BUCKET_RUN))
    assert re.search(r"resuming from step [24] in gs://bucket1/run/checkpoints", outputs[0])
    assert numbers_in(buckets, "run") == numbers_on_disk(local)
    # both write their arrays; all other changes, such as of metrics and results, are of process 0
    changes = [line for line in buckets.log if line.what.startswith(("POST", "DELETE", "PUT"))]
    arrays = [line for line in changes if "checkpoints" in line.query + line.what]
    # Orbax deletes checkpoints by gcsfs, in batches
    small = [line for line in changes if line not in arrays and "gcsfs" not in line.agent]
    assert {"host0", "host1"} <= {line.login for line in arrays}
    assert any("results.csv" in line.query for line in small)
    assert {line.login for line in small} == {"host0"}
    assert not list((home / "host1").glob("gs:*"))
    assert list((home / "host1/.cache/flan_jax/buckets/gs/bucket1/cache/tokens").glob("*.pack"))


FAULTS = {
    "403 at the start": ("POST", 403, 1 << 30, "", 2),
    "404 at the start": ("POST", 404, 1 << 30, "", 2),
    "403 in a checkpoint": ("checkpoints", 403, 1 << 30, "checkpoints%2F4", 2),
    "resets in a checkpoint": ("checkpoints", 0, 3, "checkpoints%2F4", 0),
    "12 answers 503 in a checkpoint": (".", 503, 12, "checkpoints%2F4", 0),
    # 9 of them are the first request and its retries
    "12 answers 503 at the start": (".", 503, 12, "", 2),
    "12 answers 503 after the checkpoint": (".", 503, 12, "results.csv", 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_after_a_fault_the_same_command_gives_the_same_numbers(buckets, undisturbed, home, name):
    pattern, code, times, moment, status = FAULTS[name]
    if not moment:
        buckets.fail(pattern, code, times)
    process = start(train(*BUCKET_RUN), home)
    while moment and process.poll() is None:
        if any(moment in f"{line.what} {line.query}" for line in list(buckets.log)):
            buckets.fail(pattern, code, times)
            break
        time.sleep(0.002)
    output = process.communicate(timeout=900)[0]
    errors = [line for line in output.splitlines() if "error:" in line]
    print(name, process.returncode, *errors)
    assert process.returncode == status and "Traceback" not in output, output[-3000:]
    assert len(errors) == (status == 2)
    buckets.recover()
    in_time(train(*BUCKET_RUN), home)
    assert numbers_in(buckets, "run") == undisturbed


@pytest.mark.slow
def test_an_outage_of_a_minute_stops_nothing(buckets, undisturbed, home):
    process = start(train(*BUCKET_RUN), home)
    while not any("checkpoints%2F2" in line.query for line in list(buckets.log)):
        time.sleep(0.01)
    buckets.fail(".", 503)
    time.sleep(60)
    buckets.recover()
    output = process.communicate(timeout=300)[0]  # threads of a failed save would wait 600 s
    assert process.returncode == 0 and "Traceback" not in output, output[-3000:]
    assert numbers_in(buckets, "run") == undisturbed


@pytest.mark.slow
def test_training_and_evaluation_do_not_import_tensorflow(buckets, home):
    for verb, arguments in (("train", train(*BUCKET_RUN)[3:]), ("eval", ["gs://bucket1/run"])):
        program = (
            "import sys; from flan_jax.cli.dispatch import main\n"
            f"status = main({[verb, *arguments]!r})\n"
            "assert 'tensorflow' not in sys.modules; sys.exit(status)"
        )
        command = [sys.executable, "-c", program]
        result = subprocess.run(
            command, capture_output=True, text=True, env=simulating(1), cwd=home
        )
        ended_well(result)


def test_s3_is_refused_for_checkpoints(buckets):
    result = run_here(train("gs://bucket1/cache", "s3://bucket1/run"))
    assert result.returncode == 2 and "checkpoints cannot be written to s3://" in result.stderr
    assert not buckets.names("run/")
