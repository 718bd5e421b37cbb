"""The bucket server of the tests, seen by TensorStore: what our storage relies on."""

import time

import pytest
import tensorstore as ts

RETRIES = {"max_retries": 3, "initial_delay": "10ms", "max_delay": "20ms"}


@pytest.fixture(params=["gs", "s3"])
def store(request, buckets):
    """A KvStore of `bucket1/run/`; TensorStore's s3 driver takes its endpoint from the spec."""
    return open_store(request.param, buckets)


def open_store(scheme: str, buckets, bucket: str = "bucket1") -> ts.KvStore:
    driver, where = "gcs", {}
    if scheme == "s3":
        driver, where = "s3", {"endpoint": buckets.url, "aws_region": "us-east-1"}
    spec = {"driver": driver, "bucket": bucket, "path": "run/", **where}
    context = ts.Context({f"{driver}_request_retries": RETRIES})
    return ts.KvStore.open(spec, context=context).result(timeout=10)


def test_objects_are_written_read_by_ranges_listed_and_deleted(store, buckets):
    for name in ("a", "dir/b c&d", "dir/é"):
        store[name] = name.encode()
    assert store["dir/b c&d"] == b"dir/b c&d"
    assert buckets.get("run/dir/é") == "dir/é".encode()
    assert sorted(store.list().result()) == [b"a", b"dir/b c&d", "dir/é".encode()]
    inside = store.list(ts.KvStore.KeyRange("dir/", "dir0"), strip_prefix_length=4).result()
    assert sorted(inside) == [b"b c&d", "é".encode()]
    store["a"] = b"0123456789"
    assert store.read("a", byte_range=slice(2, 5)).result().value == b"234"
    assert store.read("none").result().state == "missing"
    del store["a"]
    assert buckets.names("run/") == ["run/dir/b c&d", "run/dir/é"]


def test_a_list_of_many_pages_is_whole(store, buckets):
    names = [f"run/{number:04}" for number in range(2100)]
    for name in names:
        buckets.put(name, b"")
    assert len(store.list().result()) == 2100


def test_a_write_with_the_generation_that_was_read_does_not_undo_another(store, buckets):
    missing = store.read("a").result().stamp.generation
    first = store.write("a", b"one", if_equal=missing).result()
    assert first.generation
    assert not store.write("a", b"two", if_equal=missing).result().generation
    assert store.write("a", b"three", if_equal=first.generation).result().generation
    assert not store.write("a", b"four", if_equal=first.generation).result().generation
    assert buckets.get("run/a") == b"three" and buckets.objects.counts["412"] >= 1


@pytest.mark.parametrize("status", [0, 429, 503])
def test_what_fails_for_a_moment_is_tried_again(store, buckets, status):
    buckets.put("run/a", b"one")
    buckets.fail("GET .*a$", status, times=2)
    assert store["a"] == b"one"
    assert sum("GET" in logged.what for logged in buckets.log) == 3


def test_what_is_refused_or_fails_for_long_is_an_error(store, buckets):
    buckets.fail("GET", 503)
    with pytest.raises(ValueError, match="503|retry attempts failed"):
        store.read("a").result(timeout=10)
    buckets.recover()
    buckets.fail("GET", 403)
    with pytest.raises(ValueError, match="PERMISSION_DENIED"):
        store.read("a").result(timeout=10)
    buckets.recover()
    assert store.read("a").result().state == "missing"


def test_a_bucket_that_does_not_exist_is_an_error_of_a_write(buckets):
    for scheme in ("gs", "s3"):
        store = open_store(scheme, buckets, "bucket2")
        assert store.read("a").result().state == "missing"
        with pytest.raises(ValueError, match="NOT_FOUND"):
            store.write("a", b"").result(timeout=10)


def test_gcs_allows_one_change_of_an_object_a_second(buckets):
    buckets.objects.one_change_a_second = True
    store = open_store("gs", buckets)
    store.write("a", b"one").result()
    with pytest.raises(ValueError, match="429"):
        store.write("a", b"two").result()
    assert buckets.objects.counts["429"] == 4


def test_requests_are_counted_and_may_be_slow(buckets):
    buckets.latency = 0.05
    store = open_store("gs", buckets)
    begin = time.monotonic()
    store.write("a", b"one").result()
    store.read("a").result()
    assert time.monotonic() - begin > 0.1
    assert buckets.counts == {"gs POST upload": 1, "gs GET media": 1}
