"""Checkpoints in a bucket: what Orbax does there, and what becomes of its errors."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.checkpoints import bucket_clients, bucket_saving
from flan_jax.checkpoints.manager import Checkpoints
from flan_jax.checkpoints.open import open_tensors
from flan_jax.errors import UserError
from flan_jax.storage import outage
from flan_jax.storage import remote as remote_module
from flan_jax.storage.bucket_errors import NoPermission, Unreachable
from flan_jax.storage.places import place
from support.bucket_runs import forget_clients

# not imported here: what flan_jax sets up comes first
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gcsfs") is None,
    reason="gcsfs is not installed: no checkpoint in a bucket is tested",
)


@pytest.fixture
def directory(buckets, monkeypatch):
    """A directory of checkpoints, with short retries of all clients."""
    remote = place("gs://bucket1/run/checkpoints", "MODEL_DIR")
    retries = {"max_retries": 2, "initial_delay": "1ms", "max_delay": "2ms"}
    monkeypatch.setattr(bucket_clients, "RETRIES", retries)
    monkeypatch.setattr(remote_module, "RETRIES", retries)
    monkeypatch.setattr(bucket_saving, "_PAUSE_S", 0.2)
    bucket_clients.set_up(remote, "MODEL_DIR")
    import gcsfs

    monkeypatch.setattr(gcsfs.retry.asyncio, "sleep", _no_pause(gcsfs.retry.asyncio.sleep))
    forget_clients()
    return remote


def _no_pause(sleep):
    async def soon(seconds, *arguments):
        await sleep(min(seconds, 0.01), *arguments)

    return soon


def tree(value: float) -> dict:
    return {"params": {"kernel": jnp.full((4, 4), value)}, "step": jnp.array(int(value))}


def restored(checkpoints: Checkpoints) -> float:
    return float(checkpoints.restore(jax.eval_shape(lambda: tree(0.0)))["params"]["kernel"][0, 0])


def test_a_damaged_checkpoint_gives_way_to_the_one_before(directory, buckets):
    checkpoints = Checkpoints(directory)
    for step in (1, 2):
        checkpoints.save(step, tree(step), surely=True)
    checkpoints.close()
    names = [name for name in buckets.names("run/checkpoints/2/params") if "/d/" in name]
    for name in names:
        buckets.put(name, b"")
    again = Checkpoints(directory)
    assert restored(again) == 1 and again.latest_step() == 1
    assert buckets.names("run/checkpoints/damaged-2/")
    again.save(2, tree(2.0), surely=True)
    again.close()
    assert restored(Checkpoints(directory)) == 2


def test_a_checkpoint_that_fails_is_reported_and_the_next_one_is_saved(directory, buckets, caplog):
    checkpoints = Checkpoints(directory)
    checkpoints.save(1, tree(1.0), surely=True)
    buckets.fail("upload", 503)
    checkpoints.save(2, tree(2.0))
    checkpoints.save(3, tree(3.0))
    assert "the checkpoints in gs://bucket1/run/checkpoints: gs://bucket1" in caplog.text
    buckets.recover()
    checkpoints.save(4, tree(4.0), surely=True)
    checkpoints.close()
    again = Checkpoints(directory)
    assert again.latest_step() == 4 and restored(again) == 4


def test_the_last_checkpoint_is_tried_until_it_is_saved_or_for_a_quarter_of_an_hour(
    directory, buckets, monkeypatch
):
    checkpoints = Checkpoints(directory)
    buckets.fail("upload", 503, times=60)
    checkpoints.save(1, tree(1.0), surely=True)
    assert checkpoints.latest_step() == 1
    buckets.fail("upload", 503)
    monkeypatch.setattr(outage, "PATIENCE_S", 1.0)
    with pytest.raises(Unreachable, match="gs://bucket1 cannot be written now"):
        checkpoints.save(2, tree(2.0), surely=True)
    buckets.recover()
    buckets.fail("upload", 403)
    with pytest.raises(NoPermission, match="roles/storage.objectUser"):
        checkpoints.save(3, tree(3.0), surely=True)


def test_a_checkpoint_does_not_precede_its_metrics(directory):
    checkpoints = Checkpoints(directory, may_save=lambda: False)
    checkpoints.save(1, tree(1.0))
    assert checkpoints.latest_step() is None
    checkpoints.close()


def test_names_of_the_state_are_read_from_the_bucket(directory):
    checkpoints = Checkpoints(directory)
    checkpoints.save(1, tree(1.0), surely=True)
    assert checkpoints.state_names() == ["step"]
    checkpoints.close()


def test_a_missing_package_and_s3_are_clear_messages(monkeypatch):
    with pytest.raises(UserError, match="checkpoints cannot be written to s3://"):
        bucket_clients.set_up(place("s3://bucket1/run", "MODEL_DIR"), "MODEL_DIR")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'flan_jax.gcs.'"):
        bucket_clients.set_up(place("gs://bucket1/run", "MODEL_DIR"), "MODEL_DIR")


def test_values_are_those_that_were_saved(directory):
    checkpoints = Checkpoints(directory)
    value = {"params": {"kernel": jax.random.normal(jax.random.key(0), (64, 8))}, "step": 7}
    checkpoints.save(7, value, surely=True)
    checkpoints.close()
    back = Checkpoints(directory).restore(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, value)))
    assert np.array_equal(back["params"]["kernel"], value["params"]["kernel"])


def test_a_checkpoint_is_opened_with_less_than_a_request_for_each_array(directory, buckets):
    """One after the other, 98 arrays took 865 requests: 42 s at 50 ms each."""
    wide = {f"layer_{i}": jnp.full((8, 8), float(i)) for i in range(60)}
    checkpoints = Checkpoints(directory)
    checkpoints.save(1, {"params": wide, "step": jnp.array(1)}, surely=True)
    checkpoints.close()
    buckets.log.clear()
    tensors = open_tensors("gs://bucket1/run").tensors
    assert len(tensors) == 60 and len(buckets.log) < 60
    assert np.array_equal(tensors["layer_7"].read(), np.asarray(wide["layer_7"]))


def test_the_index_of_an_item_is_written_once(directory, buckets):
    """GCS refuses to change an object twice a second: each refusal is a second of retries."""
    wide = {f"layer_{i}": jnp.full((64, 64), float(i)) for i in range(40)}
    checkpoints = Checkpoints(directory)
    checkpoints.save(1, {"params": wide, "more": dict(wide)}, surely=True)
    texts = [f"{line.what} {line.query}" for line in buckets.log]
    for item in ("params", "state"):
        written = [text for text in texts if text.startswith("POST") and f"F{item}%2F" in text]
        indexes = [text for text in written if "manifest.ocdbt" in text]
        assert len(indexes) == 2, written  # of the process, and of all processes
    checkpoints.close()


def test_the_clients_of_orbax_are_those_that_were_set_up(directory):
    import fsspec
    from etils.epath import backend
    from orbax.checkpoint._src.futures import future

    files = backend.fsspec_backend.fs(str(directory))
    assert files is fsspec.filesystem("gcs", finalize_on_close=True)
    assert type(files).__name__ == "PacedFiles"
    assert future._SignalingThread.start is bucket_clients._start_daemon
