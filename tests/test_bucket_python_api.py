"""`flan_jax.train` and `resume` with a directory in a bucket: the same run as on the disk."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from test_python_api import LENGTHS, OPTIONS, TINY_T5

import flan_jax
from flan_jax.storage import working_copy
from support.bucket_runs import forget_clients
from support.processes import ended_well, simulating

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gcsfs") is None,
    reason="gcsfs is not installed: no run in a bucket is tested",
)
URL = "gs://bucket1/runs/rte"


@pytest.fixture(autouse=True)
def nothing_is_remembered(buckets, monkeypatch):
    monkeypatch.setattr(working_copy, "_COPIES", {})
    if "gcsfs" in sys.modules:
        forget_clients()


@pytest.fixture
def model(tmp_path) -> flan_jax.Model:
    cache = str(tmp_path / "cache")
    size = "gin/size/t5_tiny.gin"
    return flan_jax.load(size, task_feature_lengths=LENGTHS, cache_dir=cache, **TINY_T5)


@pytest.fixture
def data(model) -> flan_jax.Mixture:
    return flan_jax.mixture("cb", held_out="none", templates=1, model=model)


SETTINGS = {"batch_size": 2, "checkpoint_every": 2, "Data.validation_batches": 1}
EVALUATED = {"eval_rows": 4, "eval_templates": 1}


@pytest.mark.slow
def test_a_run_in_a_bucket_is_that_on_the_disk_and_goes_on_where_others_left_it(
    buckets, model, data, tmp_path
):
    expected = flan_jax.train(model, data, 6, tmp_path / "runs/rte", **SETTINGS)
    run = flan_jax.train(model, data, 2, URL, **SETTINGS)
    assert repr(run) == f"<Run {URL}, finished>" and str(run.directory) == URL
    # another program goes on, and then this one
    train = [sys.executable, "-m", "flan_jax.train", f"--gin_file={URL}/config.gin"]
    command = [*train, "--gin.TRAIN_STEPS=4"]
    ended_well(subprocess.run(command, capture_output=True, text=True, env=simulating(1)))
    run = flan_jax.resume(URL, steps=6)
    assert run.metrics() == expected.metrics()
    scores = [each.model().score("Is it wet?", OPTIONS) for each in (run, expected)]
    np.testing.assert_array_equal(*scores)
    values = [
        [row["value"] for row in flan_jax.evaluate(each, ["rte"], **EVALUATED).rows()]
        for each in (run, expected)
    ]
    assert values[0] == values[1] != [] and buckets.get("runs/rte/results.csv")
    assert "runs/rte/.train.lock" not in buckets.names()
    assert flan_jax.train(model, data, 6, URL, **SETTINGS).finished  # nothing is left to do


def test_what_cannot_be_written_is_one_message(model, data):
    for name, message in [
        ("s3://bucket1/run", "checkpoints cannot be written to s3://"),
        ("gs://no_such/run", "no bucket gs://no_such"),
        ("az://b/run", "model_dir az://b/run is a URL"),
    ]:
        with pytest.raises(flan_jax.UserError, match=message):
            flan_jax.train(model, data, 2, name, **SETTINGS)
