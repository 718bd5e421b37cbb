"""The TFDS source on a prepared dataset, made here in the form that TFDS writes."""

import json
import os
import subprocess
import sys

from support.processes import output_tail

# TensorFlow is imported in a process of its own: no other test may depend on it being loaded.
PROGRAM = """
import json, pathlib, sys
import tensorflow_datasets as tfds
from flan_jax.catalogue import CATALOGUE
from flan_jax.data.config import DataConfig
from flan_jax.data.run_data import open_data
from flan_jax.data.sources.kinds import open_source
from flan_jax.errors import UserError
from flan_jax.prepare import prepare
from flan_jax.storage.places import place
import tensorflow as tf

directory, cache = sys.argv[1:]
features = tfds.features.FeaturesDict(
    {
        "premise": tfds.features.Text(),
        "hypothesis": tfds.features.Text(),
        "idx": tf.int32,
        "label": tfds.features.ClassLabel(names=["entailment", "not_entailment"]),
    }
)
rows = [
    {
        "premise": f"Zürich has {i} bridges.",
        "hypothesis": f"There are {i} of them.",
        "idx": i,
        "label": i % 2,
    }
    for i in range(230)
]


def split(rows):
    return tf.data.Dataset.from_generator(
        lambda: iter(rows),
        output_signature={
            "premise": tf.TensorSpec([], tf.string),
            "hypothesis": tf.TensorSpec([], tf.string),
            "idx": tf.TensorSpec([], tf.int32),
            "label": tf.TensorSpec([], tf.int64),
        },
    )


tfds.dataset_builders.store_as_tfds_dataset(
    name="super_glue",
    config="rte",
    version="1.0.2",
    features=features,
    data_dir=directory,
    split_datasets={"train": split(rows), "validation": split(rows[:7])},
)

import flan_jax.tasks

rte, source = CATALOGUE["rte"], open_source("tfds", directory)
found = {
    "available": source.available(rte),
    "missing": source.available(CATALOGUE["cb"]),
    "manual": source.available(CATALOGUE["story_cloze"]),
}
found["indices"] = [i for i, _ in source.rows(rte, "train[:-200]")]

found["tail"] = [i for i, _ in source.rows(rte, "train[-2:]")]
found["row"] = dict(list(source.rows(rte, "validation"))[3][1])
data = prepare(
    DataConfig(
        source="tfds",
        data_dir=directory,
        mixture_or_task_name="rte",
        held_out="none",
        vocabulary="bytes",
        cache_dir=cache,
        batch_size=2,
        train_steps=3,
        task_feature_lengths={"inputs": 1024, "targets": 64},
    )
)
found["members"] = [(m.name, m.rows) for m in data.train.members()]

bucket = place("gs://bucket1/tfds", "DATA_DIR")
for path in pathlib.Path(directory).rglob("*"):
    if path.is_file():
        (bucket / path.relative_to(directory).as_posix()).write_bytes(path.read_bytes())
there = open_source("tfds", str(bucket))
found["in a bucket"] = {
    "same rows": list(there.rows(rte, "validation")) == list(source.rows(rte, "validation")),
    "same fingerprint": there.fingerprint(rte, "train") == source.fingerprint(rte, "train"),
    "missing": there.available(CATALOGUE["cb"]),
    "download": there.download(CATALOGUE["cb"]),
}

record = next(pathlib.Path(directory).rglob("*validation*.tfrecord*"))
record.write_bytes(record.read_bytes()[:-20])
try:
    list(source.rows(rte, "validation"))
except UserError as error:
    found["damaged"] = str(error)
print("FOUND " + json.dumps(found))
"""


def test_rows_of_tensorflow_datasets(tmp_path, buckets):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "tfds"), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    line = next((line for line in result.stdout.splitlines() if line.startswith("FOUND ")), None)
    assert line, output_tail(result)
    found = json.loads(line.removeprefix("FOUND "))
    assert found["available"] is None and "is not prepared" in found["missing"]
    assert "manual download" in found["manual"]
    assert found["indices"] == list(range(30)) and found["tail"] == [228, 229]
    number = found["row"]["idx"]  # TFDS writes rows in an order of its own
    assert found["row"] == {
        "premise": f"Zürich has {number} bridges.",
        "hypothesis": f"There are {number} of them.",
        "idx": number,
        "label": number % 2,
    }
    assert found["in a bucket"] == {
        "same rows": True,
        "same fingerprint": True,
        "missing": "super_glue/cb:1.0.2 is not prepared in gs://bucket1/tfds",
        "download": "not prepared in a bucket: prepare it on a disk and copy it to gs://bucket1/tfds",
    }
    assert found["members"] == [["rte", 30]]
    assert (
        "super_glue/rte:1.0.2 in " in found["damaged"]
        and "prepare it again with TFDS" in found["damaged"]
    )
