"""Every TFDS builder that the catalogue names, built offline.

Through the TFDS source, the row functions and the templates, down to tokens.

TensorFlow Datasets' own `mock_data` stands in for the download. Each dataset is read twice: first
the bundled rows, encoded, serialised and read back by the builder's own feature specification (so
the field names and types that the row functions read are those of the builder), then random rows
that the builder's specification makes up.
"""

import json
import os
import subprocess
import sys

import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE
from support.processes import output_tail

# `prepare` cannot download these; their builders still give the specification that their rows are
# checked against.
MANUAL = {
    "story_cloze",
    "wmt16_translate_csen",
    "wmt16_translate_ruen",
    "newsroom",
    "samsum",
    "xsum",
}

# Where random values cannot make a usable row, and what the row function says of them.
NO_RANDOM_ROW = {
    "arc_challenge": "not four choices",
    "arc_easy": "not four choices",
    "copa": "neither cause nor effect",
    "hellaswag": "no gold label",
    "sentiment140": "no gold label",
    "e2e_nlg": "empty input",
    "record": "no placeholder in the query",
    "wsc": "the pronoun is not in the text",
    "winogrande": "no blank in the sentence",
    "wsc273": "no gold label",
    "math_dataset": "not an equation to solve",
    "true_case": "no capital letter",
    "fix_punct": "no punctuation",
}

# TensorFlow is imported in a process of its own: no other test may depend on it being loaded.
PROGRAM = """
import collections, contextlib, json, sys
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import flan_jax.tasks
from flan_jax.catalogue import CATALOGUE
from flan_jax.catalogue import Drop
from flan_jax.data.encode import Encoder, Rendering
from flan_jax.catalogue.row_fields import read_row
from flan_jax.data.sources.slices import parse_spec
from flan_jax.data.sources.bundled import BundledSource
from flan_jax.data.sources.tfds import TfdsSource
from flan_jax.data.rows import row_id
from flan_jax.data.vocabulary import ByteVocabulary

RANDOM_ROWS = 3
source, bundled = TfdsSource("nowhere"), BundledSource()
encoder = Encoder(ByteVocabulary(), Rendering(input_length=512, target_length=64))
rows_now = []


def as_dataset(self, split, **_):
    features = self.info.features
    records = [
        features.serialize_example(features.encode_example(whole(features, row)))
        for row in rows_now
    ]
    return tf.data.Dataset.from_tensor_slices(records).map(features.deserialize_example)


def whole(feature, value):
    # Fields that bundled rows leave out are empty: no row function may need them.
    if isinstance(feature, tfds.features.Sequence):
        if isinstance(feature.feature, tfds.features.FeaturesDict):
            columns = value or {}
            return (
                {name: columns.get(name, []) for name in feature.feature}
                if isinstance(columns, dict)
                else columns
            )
        return value or []
    if isinstance(feature, tfds.features.FeaturesDict):
        return {name: whole(inner, (value or {}).get(name)) for name, inner in feature.items()}
    if value is None:
        return "" if feature.np_dtype == np.object_ else 0
    return value


def give_sizes(count):
    # What the builder would have written to disk beside the rows; offline it knows no sizes.
    real = TfdsSource.__dict__["_builder"]

    def builder(self, dataset):
        found = real(self, dataset)
        names = {parse_spec(spec)[0] for spec in dataset.splits.values()}
        found.info.set_splits(
            tfds.core.splits.SplitDict(
                [
                    tfds.core.splits.SplitInfo(name=name, shard_lengths=[count], num_bytes=1)
                    for name in sorted(names)
                ]
            )
        )
        return found

    source._builder = builder.__get__(source)


def usable(dataset, split, found):
    for index, raw in source.rows(dataset, parse_spec(dataset.splits[split])[0]):
        found["rows"] += 1
        row = read_row(dataset, raw)
        if isinstance(row, Drop):
            found["dropped"][row.reason] = found["dropped"].get(row.reason, 0) + 1
            continue
        for template in dataset.templates:
            example = encoder.encode(
                dataset, template, row, row_id(dataset, split, index), with_options=True
            )
            assert len(example.inputs) > 1 and len(example.targets) > 1, (dataset.name, template.id)
        yield row


def rounded(row):
    # TFDS holds the grade of STS-B as a 32-bit number.
    return {**row, "value": round(row["value"], 4)} if "value" in row else row


def check(dataset):
    report = {"bundled": {"rows": 0, "dropped": {}}, "random": {"rows": 0, "dropped": {}}}
    split = next(iter(dataset.splits))
    ours = [raw for _, raw in bundled.rows(dataset, split)]
    rows_now[:] = ours
    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        give_sizes(len(ours))
        report["unknown"] = sorted(set().union(*ours) - set(source._builder(dataset).info.features))
        read = [rounded(row) for row in usable(dataset, split, report["bundled"])]
        report["same"] = read == [rounded(read_row(dataset, raw)) for raw in ours]
    with tfds.testing.mock_data(num_examples=RANDOM_ROWS):
        give_sizes(RANDOM_ROWS)
        report["usable"] = len(list(usable(dataset, split, report["random"])))
    return report


reports = {}
for dataset in CATALOGUE:
    try:
        reports[dataset.name] = check(dataset)
    except Exception as error:
        reports[dataset.name] = {"error": f"{type(error).__name__}: {error}"[:600]}
print("FOUND " + json.dumps(reports))
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, dict]:
    """What the program found out about each dataset."""
    # each builder leaves a directory
    environment = {**os.environ, "TMPDIR": str(tmp_path_factory.mktemp("builders"))}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    line = next((line for line in result.stdout.splitlines() if line.startswith("FOUND ")), None)
    assert line, output_tail(result)
    return json.loads(line.removeprefix("FOUND "))


def test_every_builder_that_the_catalogue_names_is_built_and_read(reports):
    assert list(reports) == [d.name for d in CATALOGUE]
    assert {name: r["error"] for name, r in reports.items() if "error" in r} == {}


def test_bundled_rows_pass_through_the_builders_own_features_unchanged(reports):
    # fields that the builder lacks
    assert {name: r["unknown"] for name, r in reports.items() if r["unknown"]} == {}
    assert {
        name: r["bundled"]
        for name, r in reports.items()
        if r["bundled"]["dropped"] or not r["same"]
    } == {}
    assert all(r["bundled"]["rows"] >= 12 for r in reports.values())


def test_random_rows_of_the_builders_are_read_or_dropped_with_the_expected_reason(reports):
    assert all(r["random"]["rows"] == 3 for r in reports.values())
    assert {
        name: ", ".join(r["random"]["dropped"]) for name, r in reports.items() if not r["usable"]
    } == NO_RANDOM_ROW


def test_builders_that_cannot_download_say_what_to_do():
    manual = {d.name: d.manual for d in CATALOGUE if d.manual}
    assert set(manual) == MANUAL
    assert all("http" in steps and len(steps.split()) > 5 for steps in manual.values())
