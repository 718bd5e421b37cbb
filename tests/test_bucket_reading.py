"""What a user names in gs:// and s3:// is read as it is from the disk."""

import gzip
import json
import pathlib

import gin
import numpy as np
import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.checkpoints import located
from flan_jax.checkpoints.formats.ranged_array import RangedArray
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.checkpoints.tuned import open_whole
from flan_jax.config import gin_files
from flan_jax.data.config import DataConfig
from flan_jax.data.own_data import open_named
from flan_jax.data.sources.kinds import open_source
from flan_jax.data.vocabulary import load_vocabulary
from flan_jax.errors import UserError
from flan_jax.storage import copies
from flan_jax.storage.places import place
from flan_jax.training.config import TrainConfig
from support.adapters import lora_arrays, random_llama, save_adapter
from support.converting import convert
from support.tokenizer_files import byte_bpe, save

ROWS = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(30)]


@pytest.fixture(params=["gs", "s3"])
def bucket(request, buckets, tmp_path, monkeypatch) -> str:
    """The URL of a bucket; the working directory is empty, and stays so."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield f"{request.param}://bucket1"
    assert not any(here.iterdir())


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def rows_of(name: str) -> list[dict]:
    (own,) = open_named([name])
    return [row for _, row in own.source.rows(own.dataset, "train")]


# --- Rows


def test_own_files_of_each_kind_are_read(bucket, buckets):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    buckets.put("rows/a.jsonl", jsonl(ROWS))
    buckets.put("rows/b.json", json.dumps(ROWS))
    lines = ["prompt,completion", *(f"{row['prompt']},{row['completion']}" for row in ROWS)]
    buckets.put("rows/c.csv", "\n".join(lines))
    buckets.put("rows/d.tsv", "\n".join(lines).replace(",", "\t"))
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(ROWS), sink)
    buckets.put("rows/e.parquet", sink.getvalue().to_pybytes())
    buckets.put("rows/f.jsonl.gz", gzip.compress(jsonl(ROWS).encode()))
    for name in ("a.jsonl", "b.json", "c.csv", "d.tsv", "e.parquet", "f.jsonl.gz"):
        assert rows_of(f"{bucket}/rows/{name}") == ROWS, name
    (own,) = open_named([f"{bucket}/rows/a.jsonl"])
    assert own.dataset.name == "a.jsonl"
    assert own.source.description == f"{bucket}/rows/a.jsonl"


def test_directories_and_patterns_are_read(bucket, buckets):
    buckets.put("rows/train.jsonl", jsonl(ROWS[:20]))
    buckets.put("rows/validation.jsonl", jsonl(ROWS[20:]))
    buckets.put("rows/weights.bin", "not rows")
    (own,) = open_named([f"{bucket}/rows"])
    assert own.source.counts == {"train": 20, "validation": 10}
    assert own.source.unread == ["weights.bin"]
    assert not any("weights" in logged.what for logged in buckets.log)
    names = [own.dataset.name for own in open_named([f"{bucket}/rows/*.jsonl"])]
    assert names == ["train.jsonl", "validation.jsonl"]


def test_a_file_that_changes_is_read_again_and_one_that_does_not_is_not(bucket, buckets):
    name = f"{bucket}/rows/a.jsonl"
    buckets.put("rows/a.jsonl", jsonl(ROWS))
    (before,) = open_named([name])
    fingerprint = before.source.fingerprint(before.dataset, "train")
    buckets.counts.clear()
    assert rows_of(name) == ROWS
    assert (
        sum(buckets.counts.values()) == 3
    )  # is it a directory, may that be listed, its generation
    buckets.put("rows/a.jsonl", jsonl(ROWS[::-1]))
    (after,) = open_named([name])
    assert rows_of(name) == ROWS[::-1]
    assert after.source.fingerprint(after.dataset, "train") != fingerprint
    del buckets.objects.stored["bucket1", "rows/a.jsonl"]
    with pytest.raises(UserError, match=f"no file '{name}' in the bucket"):
        open_named([name])


def test_data_dir_is_read_split_by_split(bucket, buckets):
    rows = [{"sentence": f"s {i}", "label": i % 2, "idx": i} for i in range(5)]
    buckets.put("rows/sst2/train.jsonl", jsonl(rows))
    buckets.put("rows/cola/train.jsonl", jsonl(rows))
    source, dataset = open_source("jsonl", f"{bucket}/rows"), CATALOGUE["sst2"]
    assert source.data_dir == f"{bucket}/rows"
    assert source.available(dataset, "train") is None or "empty" in source.available(dataset)
    assert [row for _, row in source.rows(dataset, "train")] == rows
    assert not any("cola" in logged.what for logged in buckets.log)
    fingerprint = source.fingerprint(dataset, "train")
    buckets.put("rows/sst2/train.jsonl", jsonl(rows[:4]))
    assert open_source("jsonl", f"{bucket}/rows").fingerprint(dataset, "train") != fingerprint
    with pytest.raises(UserError, match="is not a directory"):
        open_source("jsonl", f"{bucket}/nothing")


def test_a_mirror_of_the_hub_is_read(bucket, buckets):
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("datasets", reason="NOT CHECKED: the hub's files need the extra [hf]")
    from pyarrow import parquet

    dataset = CATALOGUE["sst2"]
    rows = [{"sentence": f"s {i}", "label": i % 2, "idx": i} for i in range(5)]
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    hub = f"hub/{dataset.hub.id}/{dataset.hub.config}"
    buckets.put(f"{hub}/train/0000.parquet", sink.getvalue().to_pybytes())
    source = open_source("hf", f"{bucket}/hub")
    assert source.data_dir == f"{bucket}/hub"
    assert [row["sentence"] for _, row in source.rows(dataset, "train")] == [
        row["sentence"] for row in rows
    ]


# --- Settings, vocabularies


def test_gin_files_and_what_they_include_are_read(bucket, buckets):
    buckets.put("gin/run.gin", "include 'gin/flan.gin'\ninclude 'size.gin'\nSEED = 7\n")
    buckets.put("gin/size.gin", "include 'more/wide.gin'\n")
    buckets.put("paths/more/wide.gin", "T5Config.emb_dim = 48\n")
    flags = gin_files.parse_command_line(
        [f"--gin_file={bucket}/gin/run.gin", f"--gin_search_paths={bucket}/paths"],
        gin_files.CONFIGURED,
    )
    assert gin.query_parameter("T5Config.emb_dim") == 48 and DataConfig().seed == 7
    assert flags.gin_arguments[0] == f"--gin_file={bucket}/gin/run.gin"
    with pytest.raises(UserError, match=f"'{bucket}/gin/other.gin' is not in the bucket"):
        gin_files.configure([f"{bucket}/gin/other.gin"], [])


def test_names_in_a_bucket_stay_as_they_are_in_the_config_of_a_run(bucket, buckets):
    buckets.put("rows/a.jsonl", jsonl(ROWS))
    mixture = f"flan+{bucket}/rows/a.jsonl:100"
    bindings = [("MIXTURE_OR_TASK_NAME", mixture), ("INITIAL_CHECKPOINT_PATH", f"{bucket}/t5")]
    gin_files.configure(["gin/flan.gin"], bindings)
    text = gin_files.config_text()
    assert mixture in text and f"'{bucket}/t5'" in text


def test_a_vocabulary_is_read_with_the_files_beside_it(bucket, buckets, tmp_path):
    pytest.importorskip("tokenizers", reason="NOT CHECKED: tokenizer.json needs the extra [hf]")
    directory = save(byte_bpe(), tmp_path / "tokenizer", eos_token="</s>", bos_token="<s>")
    buckets.upload(directory, "llama")
    buckets.put("llama/model.safetensors", b"weights")
    here = load_vocabulary(str(directory / "tokenizer.json"), "decoder")
    for name in (f"{bucket}/llama/tokenizer.json", f"{bucket}/llama"):
        vocabulary = load_vocabulary(name, "decoder")
        assert vocabulary.fingerprint == here.fingerprint
        assert vocabulary.encode("Rain fell") == here.encode("Rain fell")
    assert not any("safetensors" in logged.what for logged in buckets.log)
    with pytest.raises(UserError, match="is neither 'bytes' nor a file"):
        load_vocabulary(f"{bucket}/nothing.model")


# --- Checkpoints


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("models") / "llama"
    random_llama(path)
    return save(byte_bpe(), path, eos_token="</s>")


@pytest.mark.parametrize("form", ["hf", "flan", "t5x"])
def test_checkpoints_are_read_array_by_array(bucket, buckets, llama, tmp_path, form):
    path = llama
    if form != "hf":
        path = tmp_path / form
        convert("hf", form, llama, path)
    buckets.upload(path, "models/small")
    here, there = open_checkpoint(path), open_checkpoint(f"{bucket}/models/small")
    assert there.config == here.config and there.step == here.step
    assert there.tensors.keys() == here.tensors.keys()
    for name, tensor in here.tensors.items():
        stored = there.tensors[name]
        assert (stored.shape, stored.dtype) == (tensor.shape, tensor.dtype)
        np.testing.assert_array_equal(stored.read(), tensor.read(), err_msg=name)
    copied = copies.path_of(place(f"{bucket}/models/small", "MODEL"))
    arrays = [file for file in copied.rglob("*") if file.is_file() and file.stat().st_size > 40_000]
    assert all(file.name == "tokenizer.json" for file in arrays)


def test_adapters_are_read_with_their_base(bucket, buckets, llama, tmp_path):
    arrays = lora_arrays(["q_proj", "down_proj"])
    targets = {"target_modules": ["q_proj", "down_proj"]}
    save_adapter(tmp_path / "on_disk", arrays, base=str(llama), **targets)
    save_adapter(tmp_path / "there", arrays, base=f"{bucket}/models/base", **targets)
    buckets.upload(llama, "models/base")
    buckets.upload(tmp_path / "there", "models/adapter")
    here, there = open_whole(tmp_path / "on_disk"), open_whole(f"{bucket}/models/adapter")
    for name, tensor in here.tensors.items():
        np.testing.assert_array_equal(there.tensors[name].read(), tensor.read(), err_msg=name)
    convert("peft", "flan", f"{bucket}/models/adapter", tmp_path / "unmerged", "--unmerged")
    record = json.loads((tmp_path / "unmerged/base.json").read_text())
    assert record["path"] == f"{bucket}/models/base"
    again = open_whole(tmp_path / "unmerged")
    for name, tensor in here.tensors.items():
        np.testing.assert_array_equal(again.tensors[name].read(), tensor.read(), err_msg=name)


def test_the_base_of_an_adapter_may_be_named_relative_to_it(
    bucket, buckets, llama, tmp_path, monkeypatch
):
    monkeypatch.setattr(located, "_FRESH_S", 0.0)
    arrays = lora_arrays(["q_proj"])
    local = tmp_path / "local"  # not beside the working directory
    local.mkdir()
    save_adapter(local / "adapter", arrays, base="../base", target_modules=["q_proj"])
    (local / "base").symlink_to(llama)
    buckets.upload(local / "adapter", "models/adapter")
    with pytest.raises(UserError, match=r"'\.\./base', is neither a directory nor a GGUF file"):
        open_whole(f"{bucket}/models/adapter")
    buckets.upload(llama, "models/base")
    here, there = open_whole(local / "adapter"), open_whole(f"{bucket}/models/adapter")
    for name, tensor in here.tensors.items():
        np.testing.assert_array_equal(there.tensors[name].read(), tensor.read(), err_msg=name)
    save_adapter(local / "out", arrays, base="../../../../base", target_modules=["q_proj"])
    buckets.upload(local / "out", "models/out")
    with pytest.raises(UserError, match="is neither a directory nor a GGUF file"):
        open_whole(f"{bucket}/models/out")


def test_model_sets_what_a_run_needs_by_names_in_the_bucket(bucket, buckets, llama):
    buckets.upload(llama, "models/small-llama")
    name = f"{bucket}/models/small-llama"
    gin_files.configure(["gin/flan.gin"], [("MODEL", name), ("HELD_OUT", "none")])
    config = TrainConfig()
    assert config.initial_checkpoint_path == name and config.size == "small-llama"
    assert DataConfig().vocabulary == f"{name}/tokenizer.json"


def test_parts_of_an_array_are_read_by_ranges(bucket, buckets):
    array = np.arange(24, dtype=np.float32).reshape(6, 4)
    buckets.put("a", b"head" + array.tobytes())
    file = place(f"{bucket}/a", "MODEL")
    stored = RangedArray(file, 4, (6, 4), array.dtype, file.generation())
    parts = [..., slice(2, 4), (slice(2, 4), slice(1, 3)), (slice(None), slice(1, None)), 3]
    parts += [slice(0, 0), (slice(None, None, 2),), (..., 1)]
    for part in parts:
        np.testing.assert_array_equal(stored[part], array[part], err_msg=str(part))
        np.testing.assert_array_equal(stored.T[part], array.T[part], err_msg=str(part))
    np.testing.assert_array_equal(stored.T.T[1:2], array[1:2])
    buckets.put("a", b"head" + array.tobytes()[::-1])
    with pytest.raises(UserError, match="changed while it was read"):
        stored[...]


def test_damaged_weights_are_refused_as_on_the_disk(bucket, buckets, llama, tmp_path):
    buckets.upload(llama, "models/cut")
    contents = buckets.get("models/cut/model.safetensors")
    cases = {
        "cut short": contents[:-4],
        "bytes after its last tensor": contents + b"x",
        "not a safetensors file": b"1234",
    }
    for message, damaged in cases.items():
        buckets.put("models/cut/model.safetensors", damaged)
        with pytest.raises(UserError, match=message):
            open_checkpoint(f"{bucket}/models/cut")


def test_what_is_not_in_the_bucket_is_said(bucket, buckets):
    with pytest.raises(UserError, match="no checkpoint found at"):
        open_whole(f"{bucket}/models/none")
