"""Places on the disk and in buckets: what is read and written, and what is said when it fails."""

import concurrent.futures
import json
import os
import pathlib
import time

import pytest

from flan_jax.errors import UserError
from flan_jax.storage import pace
from flan_jax.storage import remote as remote_module
from flan_jax.storage.bucket_errors import NoBucket, NoPermission, Unreachable
from flan_jax.storage.copies import copy_of, fetched, read_path
from flan_jax.storage.mirror import Mirror
from flan_jax.storage.pace import paced
from flan_jax.storage.places import place
from flan_jax.storage.remote import Remote
from flan_jax.storage.update import update


@pytest.fixture(params=["gs", "s3"])
def run(request, buckets, monkeypatch) -> Remote:
    """The directory `run` of a bucket, with short retries."""
    monkeypatch.setattr(
        remote_module, "RETRIES", {"max_retries": 2, "initial_delay": "1ms", "max_delay": "2ms"}
    )
    return place(f"{request.param}://bucket1/run", "MODEL_DIR")


def test_a_name_is_a_path_or_an_object_of_a_bucket(tmp_path):
    assert place(str(tmp_path), "MODEL_DIR") == tmp_path
    run = place("gs://bucket/runs/nli/", "MODEL_DIR")
    assert (run.scheme, run.bucket, run.key, run.name) == ("gs", "bucket", "runs/nli", "nli")
    assert str(run / "checkpoints" / "3") == "gs://bucket/runs/nli/checkpoints/3"
    assert str(run.parent) == "gs://bucket/runs" and str(run.parent.parent) == "gs://bucket"
    assert str((run.parent.parent / "a").parent) == "gs://bucket"


@pytest.mark.parametrize(
    "name",
    [
        "gs://user:secret@bucket/run",
        "s3://bucket/run?X-Amz-Signature=secret",
        "gs:///run",
        "gs://bucket/a/../b",
        "gs:/bucket/secret-run",
        "az://bucket/run",
        "GS://bucket/run",
    ],
)
def test_other_urls_and_urls_with_credentials_are_refused(name):
    with pytest.raises(UserError, match="MODEL_DIR") as error:
        place(name, "MODEL_DIR")
    assert "\n" not in str(error.value)
    assert "@" not in str(error.value) and "Signature" not in str(error.value)


def test_a_remote_is_no_path_of_the_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = place("gs://bucket1/run", "MODEL_DIR")
    for use in (open, os.fspath, pathlib.Path, os.listdir):
        with pytest.raises(TypeError):
            use(run)
    assert not os.listdir(tmp_path)


def test_objects_are_read_by_ranges_listed_and_deleted(run):
    (run / "a.txt").write_bytes("0123456789")
    (run / "rows" / "b.txt").write_bytes(b"")
    assert (run / "a.txt").read_text() == "0123456789"
    assert (run / "a.txt").read_bytes(2, 5) == b"234"
    assert (run / "a.txt").read_bytes(7) == b"789"
    assert (run / "rows" / "b.txt").read_bytes() == b""
    assert run.children() == [run / "a.txt", run / "rows"]
    assert run.names() == ["a.txt", "rows/b.txt"]
    assert run.exists() and (run / "rows").exists() and (run / "a.txt").exists()
    (run / "a.txt").delete()
    assert not (run / "a.txt").exists()
    with pytest.raises(FileNotFoundError):
        (run / "a.txt").read_bytes()


def test_a_conditional_write_loses_against_the_first(run):
    contents, missing = (run / "a").read_version()
    assert contents is None
    assert (run / "a").write_bytes(b"1", missing)
    assert not (run / "a").write_bytes(b"2", missing)
    contents, generation = (run / "a").read_version()
    assert contents == b"1" and (run / "a").write_bytes(b"3", generation)
    assert (run / "a").read_bytes() == b"3"


@pytest.mark.parametrize("on_disk", [True, False])
def test_no_update_of_several_processes_is_lost(run, tmp_path, on_disk):
    counts = (tmp_path if on_disk else run) / "counts.json"

    def add(number: int) -> None:
        update(counts, lambda old: json.dumps([*json.loads(old or b"[]"), number]).encode())

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(8)))
    assert sorted(json.loads(counts.read_bytes())) == list(range(8))


def test_errors_say_what_to_do_in_one_message(run, buckets):
    scheme = run.scheme
    with pytest.raises(NoBucket, match=f"there is no bucket {scheme}://bucket2 .404."):
        place(f"{scheme}://bucket2/run", "MODEL_DIR").check_writable()
    run.check_writable()
    assert not buckets.names()
    buckets.fail(".", 403)
    for action in (run.read_bytes, run.names, lambda: run.write_bytes(b"")):
        with pytest.raises(NoPermission, match=f"{scheme}://bucket1 cannot be .*403") as error:
            action()
        assert "tester" not in str(error.value) and "\n" not in str(error.value)
    buckets.recover()
    buckets.fail(".", 503)
    with pytest.raises(Unreachable, match=f"{scheme}://bucket1 cannot be read now .503."):
        run.read_bytes()
    buckets.recover()
    buckets.fail(".", 0)
    with pytest.raises(Unreachable, match="cannot be written now"):
        run.write_bytes(b"")


def test_short_failures_are_retried(run, buckets):
    buckets.put("run/a", b"1")
    buckets.fail("GET .*a$", 503, times=1)
    assert (run / "a").read_bytes() == b"1"


def test_another_server_is_named_once(buckets, caplog):
    for name in ("a", "b"):
        place(f"gs://bucket1/{name}", "MODEL_DIR").exists()
    lines = [record.message for record in caplog.records if "served by" in record.message]
    assert len(lines) == 1 and buckets.url.removeprefix("http://") in lines[0]


def test_no_client_reports_that_there_is_no_login_file(buckets, capfd):
    for scheme in ("gs", "s3"):
        place = Remote(scheme, "bucket1", "a")
        place.write_bytes(b"text")
        assert place.read_bytes() == b"text"
    printed = capfd.readouterr()
    assert "credentials" not in printed.err and ".aws" not in printed.err


def test_an_object_in_gs_is_changed_once_a_second(buckets):
    buckets.objects.one_change_a_second = True
    place = Remote("gs", "bucket1", "a")
    for number in range(3):
        place.write_bytes(str(number))
    assert place.read_text() == "2" and not buckets.objects.counts["429"]


def test_threads_that_change_one_object_take_turns():
    times = []

    def change(seconds: float) -> None:
        with paced("bucket/one"):
            begin = time.monotonic()
            time.sleep(seconds)
            times.append((begin, time.monotonic()))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(change, (1.2, 0, 0)))
    first, second, third = sorted(times)
    assert second[0] - first[1] >= 0.99 and third[0] - second[1] >= 0.99
    with paced("bucket/other"), paced("bucket/other"):  # as by the garbage collector
        pass
    time.sleep(1.01)
    with paced("bucket/third"):
        pass
    assert list(pace._objects) == ["bucket/third"]


def test_a_copy_on_the_disk_follows_the_object(run, buckets, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("flan_jax.storage.mirror._CHUNK", 4)
    for contents in (b"", b"0123", b"0123456789", b"x"):
        buckets.put("run/model.gguf", contents)
        path = copy_of(run / "model.gguf")
        assert path.name == "model.gguf" and path.read_bytes() == contents
    before = buckets.counts.total()
    assert fetched(path) == path and buckets.counts.total() == before + 1
    assert read_path(path, "--file") == path
    assert not copy_of(run / "none").exists()


def test_a_mirror_copies_what_is_missing_and_writes_one_file_last(run, buckets, tmp_path):
    one, two = Mirror(run, tmp_path / "one"), Mirror(run, tmp_path / "two")
    for name in ("tokens/a.pack", "tokens/b.pack", "meta.json"):
        (one.local / name).parent.mkdir(parents=True, exist_ok=True)
        (one.local / name).write_text(name)
    one.push(["meta.json", "tokens/a.pack", "tokens/b.pack"], last="meta.json")
    written = [logged for logged in buckets.log if logged.what.split()[0] in ("PUT", "POST")]
    assert "meta.json" in f"{written[-1].what} {written[-1].query}"
    assert two.fetch() == ["meta.json", "tokens/a.pack", "tokens/b.pack"]
    assert (two.local / "tokens" / "a.pack").read_text() == "tokens/a.pack"
    before = buckets.counts.total()
    assert two.fetch() == [] and buckets.counts.total() == before + 1
