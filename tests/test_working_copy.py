"""Runs in a bucket, without training: order of uploads, what others changed, outages, locks."""

import functools
import json
import os
import subprocess
import sys

import pytest

from flan_jax.errors import UserError
from flan_jax.evaluation.concurrent_results import MERGES
from flan_jax.evaluation.result_rows import ResultRow, parse_results, results_text
from flan_jax.storage import bucket_lock, copies, outage, working_copy
from flan_jax.storage import remote as remote_module
from flan_jax.storage.bucket_errors import NoBucket, Unreachable
from flan_jax.storage.bucket_lock import BucketLock
from flan_jax.storage.places import place


@pytest.fixture
def run(buckets, tmp_path, monkeypatch):
    """The directory `run` of a bucket; retries, and the home directory, are those of the test."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    retries = {"max_retries": 2, "initial_delay": "1ms", "max_delay": "2ms"}
    monkeypatch.setattr(remote_module, "RETRIES", retries)
    monkeypatch.setattr(working_copy, "_COPIES", {})
    return place("gs://bucket1/run", "MODEL_DIR")


def another_copy(run) -> working_copy.WorkingCopy:
    """A copy that another host would have."""
    copy = working_copy.WorkingCopy(run, MERGES)
    copy.fetch()
    return copy


def uploads(buckets) -> list[str]:
    queries = [line.query for line in buckets.log if line.what.startswith("POST")]
    return [query.partition("name=run%2F")[2].partition("&")[0] for query in queries]


def row(model: str, dataset: str, value: float) -> ResultRow:
    names = ["run", "model", "step", "size", "shots", "instruction_mode"]
    setting = dict(zip(names, ["run", model, 1, "tiny", 0, "template"]))
    rest = dict(dataset=dataset, cluster="nli", split="test", template="0", kind="forward")
    return ResultRow(
        **setting, **rest, scoring="sum", metric="accuracy", value=value, stderr=None, n=2
    )


def test_no_file_is_uploaded_before_what_it_names(run, buckets):
    copy = another_copy(run)
    names = [
        "run.json",
        "report.md",
        "evaluated.json",
        "results.csv",
        "predictions/tuned/a.jsonl",
        "figures/a.png",
        "metrics.jsonl",
        "config.gin",
        ".lock",
        "tensorboard/events",
    ]
    for name in names:
        (copy.local / name).parent.mkdir(parents=True, exist_ok=True)
        (copy.local / name).write_text(name)
    copy.flush()
    assert [name.replace("%2F", "/") for name in uploads(buckets)] == [
        "config.gin",
        "metrics.jsonl",
        "predictions/tuned/a.jsonl",
        "results.csv",
        "evaluated.json",
        "figures/a.png",
        "report.md",
        "run.json",
    ]
    buckets.log.clear()
    (copy.local / "config.gin").write_text("config.gin")  # the same contents again
    with (copy.local / "metrics.jsonl").open("a") as file:
        file.write("more")
    copy.flush()
    assert uploads(buckets) == ["metrics.jsonl"]
    copy.flush(at_the_end=True)
    assert uploads(buckets) == ["metrics.jsonl", "tensorboard%2Fevents"]


def test_a_start_has_what_the_bucket_has(run, buckets):
    for name in ("metrics.jsonl", "report.md", "predictions/tuned/a.jsonl", "checkpoints/3/params"):
        buckets.put(f"run/{name}", name)
    copy = another_copy(run)
    files = [path.name for path in copy.local.rglob("*") if path.is_file()]
    assert sorted(files) == ["metrics.jsonl", "report.md"]
    copy.fetch_for_report()
    assert (copy.local / "predictions/tuned/a.jsonl").read_text() == "predictions/tuned/a.jsonl"
    copy.flush()
    assert not uploads(buckets)


def test_results_of_two_programs_are_all_kept(run, buckets):
    old = row("tuned", "cb", 1.0)
    buckets.put("run/results.csv", results_text([old]))
    buckets.put("run/evaluated.json", json.dumps({"cb": "1"}))
    copies = [another_copy(run), another_copy(run)]
    for copy, dataset in zip(copies, ("rte", "copa")):
        contents = results_text([old, row("tuned", dataset, 2.0)])
        (copy.local / "results.csv").write_text(contents)
        (copy.local / "evaluated.json").write_text(json.dumps({"cb": "1", dataset: "2"}))
        copy.flush()
    lines = buckets.get("run/results.csv").decode().splitlines()
    assert [r.dataset for r in parse_results(lines, "results.csv")] == ["cb", "rte", "copa"]
    assert json.loads(buckets.get("run/evaluated.json")) == {"cb": "1", "rte": "2", "copa": "2"}
    # the second has them on its disk, too, and what it removes is removed
    second = copies[1].local / "results.csv"
    assert second.read_bytes() == buckets.get("run/results.csv")
    second.write_text(results_text([row("tuned", "copa", 3.0)]))
    copies[1].flush()
    lines = buckets.get("run/results.csv").decode().splitlines()
    assert [(r.dataset, r.value) for r in parse_results(lines, "")] == [("copa", 3.0)]


def test_an_outage_is_a_warning_and_after_a_quarter_of_an_hour_the_end(
    run, buckets, caplog, monkeypatch
):
    copy = another_copy(run)
    (copy.local / "metrics.jsonl").write_text("1")
    buckets.fail("POST", 503)
    assert not copy.try_flush() and not copy.try_flush()
    warnings = [r.message for r in caplog.records if "tries again" in r.message]
    assert len(warnings) == 1 and "gs://bucket1 cannot be written now (503)" in warnings[0]
    buckets.recover()
    assert copy.try_flush() and buckets.get("run/metrics.jsonl") == b"1"
    (copy.local / "metrics.jsonl").write_text("2")
    buckets.fail("POST", 503)
    assert not copy.try_flush()
    monkeypatch.setattr(outage, "PATIENCE_S", -1.0)
    with pytest.raises(Unreachable):
        copy.try_flush()


def test_a_lock_keeps_others_out_while_its_holder_works(run, monkeypatch):
    monkeypatch.setattr(bucket_lock, "RENEWED_S", 0.05)
    monkeypatch.setattr(bucket_lock, "_POLL_S", 0.2)
    monkeypatch.setattr(bucket_lock, "_is_of_dead_process", lambda contents: False)
    lock = BucketLock(run / ".train.lock", "flan-jax train")
    with pytest.raises(UserError, match=r"gs://bucket1/run is in use by flan-jax train \(process"):
        BucketLock(run / ".train.lock", "flan-jax train")
    lock.release()
    BucketLock(run / ".train.lock", "flan-jax train").release()
    assert not (run / ".train.lock").exists()


def test_the_lock_of_a_killed_process_is_taken_over_at_once(run):
    program = (
        "from flan_jax.storage.bucket_lock import BucketLock; import os, sys\n"
        "from flan_jax.storage.places import place\n"
        "BucketLock(place('gs://bucket1/run', '') / '.train.lock', 'train'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    assert (run / ".train.lock").exists()
    lock = BucketLock(run / ".train.lock", "flan-jax train")
    assert json.loads((run / ".train.lock").read_bytes())["process"] == os.getpid()
    lock.release()


def test_a_holder_that_was_taken_for_dead_writes_nothing_more(run, buckets, monkeypatch):
    monkeypatch.setattr(bucket_lock, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(bucket_lock, "_FRESH_S", 0.0)
    monkeypatch.setattr(bucket_lock, "_POLL_S", 0.05)
    copy = another_copy(run)
    with copy.locked(".train.lock", "flan-jax train"):
        monkeypatch.setattr(bucket_lock, "_is_of_dead_process", lambda contents: False)
        other = BucketLock(run / ".train.lock", "flan-jax train")
        (copy.local / "metrics.jsonl").write_text("1")
        for attempt in (copy.before_checkpoint, copy.flush):
            with pytest.raises(UserError, match="ends without writing more"):
                attempt()
        assert "run/metrics.jsonl" not in buckets.names()
    other.renew()
    other.release()


def test_a_lock_in_a_bucket_that_does_not_exist_is_an_error(buckets):
    with pytest.raises(NoBucket):
        BucketLock(place("gs://bucket2/run/.train.lock", "MODEL_DIR"), "flan-jax train")


def test_a_run_directly_below_the_bucket_is_named_by_its_copy(run):
    path = copies.path_of(run)
    assert copies.origin(path) == run and copies.origin(path.parent) == run.parent
    assert copies.origin(path.parent.parent) is None


def test_messages_name_the_bucket_and_not_the_copy(run):
    copy = working_copy.open_copy(run)
    assert working_copy.open_copy(run) is copy and copy.local.name == "run"
    assert working_copy.address(copy.local / "results.csv") == "gs://bucket1/run/results.csv"
    assert working_copy.original(copy.local / "checkpoints") == run / "checkpoints"
    from flan_jax.messages import renamed

    assert renamed(f"{copy.local}/results.csv is damaged") == (
        "gs://bucket1/run/results.csv is damaged"
    )


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_cache_in_a_bucket_serves_another_host(buckets, tmp_path, monkeypatch, scheme):
    from flan_jax.data.config import DataConfig
    from flan_jax.data.run_data import open_data
    from flan_jax.prepare import prepare

    config = functools.partial(
        DataConfig,
        cache_dir=f"{scheme}://bucket1/cache",
        mixture_or_task_name="rte",
        held_out="none",
        train_steps=2,
    )
    monkeypatch.setenv("HOME", str(tmp_path / "one"))
    data = prepare(config(), workers=1)
    assert not data.missing() and data.directory.is_relative_to(tmp_path / "one")
    names = buckets.names("cache/")
    assert names and all(name.endswith((".pack", ".keys.json")) for name in names)
    changes = [f"{line.what} {line.query}" for line in buckets.log]
    changes = [line for line in changes if line.startswith(("POST", "PUT"))]
    assert "keys.json" in changes[-1] and ".pack" in changes[-2]
    monkeypatch.setenv("HOME", str(tmp_path / "two"))
    buckets.log.clear()
    assert not open_data(config()).missing()
    assert not [line for line in buckets.log if line.what.startswith(("POST", "PUT"))]
    # a pack whose upload was cut short is not found, and made again
    buckets.objects.stored.pop(("bucket1", next(n for n in names if n.endswith(".keys.json"))))
    monkeypatch.setenv("HOME", str(tmp_path / "three"))
    assert open_data(config()).missing()
