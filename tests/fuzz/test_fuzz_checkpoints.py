"""Damaged checkpoints of other programs: Hugging Face directories, GGUF, T5X, Orbax.

None of these formats has a checksum over its numbers (zarr chunks in gzip do): where only such
numbers are damaged, any result is right. Whatever else is accepted must hold the tensors of the
undamaged file.
"""

import json

import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkpoint_files import (
    LLAMA,
    T5,
    arrays_of,
    huggingface_directory,
    random_arrays,
    same,
    t5x_directory,
    with_file,
)
from flax import serialization
from harness import shares
from hypothesis import strategies as st
from mutations import Damaged, as_json, damaged_bytes, damaged_values
from safetensors import SafetensorError
from safetensors.numpy import load_file

from flan_jax.checkpoints.formats import (
    gguf_file,
    huggingface_decoder,
    orbax_files,
    safetensors_files,
)

WEIGHTS = "model.safetensors"


@pytest.mark.parametrize("config", [LLAMA, T5], ids=["llama", "t5"])
@shares(25, 1000)
def test_settings_of_hugging_face(fuzz, tmp_path, examples, config):
    original = huggingface_directory(tmp_path / "hf", config)
    expected = arrays_of(original)

    def check(case):
        (original / "config.json").write_text(as_json(case.value))
        return same(arrays_of(original), expected)

    fuzz(f"config.json of {config['model_type']}", damaged_values(config), check, examples)


@shares(20, 500)
def test_bytes_of_config_json(fuzz, tmp_path, examples):
    original = huggingface_directory(tmp_path / "hf", LLAMA)
    expected = arrays_of(original)

    def check(case):
        (original / "config.json").write_bytes(case.value)
        return same(arrays_of(original), expected)

    fuzz("bytes of config.json", damaged_bytes(json.dumps(LLAMA).encode()), check, examples)


def _as_the_package(path) -> bool:
    """Whether our reader finds what the safetensors package finds.

    It must refuse what the package refuses.
    """
    found = {name: tensor.read() for name, tensor in safetensors_files.open_directory(path).items()}
    try:
        return same(found, load_file(path / WEIGHTS))
    except (SafetensorError, UnicodeDecodeError):
        return False


@shares(30, 1000)
def test_bytes_of_safetensors(fuzz, tmp_path, examples):
    original = huggingface_directory(tmp_path / "hf", LLAMA)
    data = (original / WEIGHTS).read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")

    def check(case):
        (original / WEIGHTS).write_bytes(case.value)
        return _as_the_package(original)

    inputs = st.one_of(
        damaged_bytes(data),
        damaged_bytes(data[:header]).map(
            lambda case: case._replace(value=case.value + data[header:])
        ),
    )
    fuzz("bytes of safetensors", inputs, check, examples)


@shares(30, 1000)
def test_header_of_safetensors(fuzz, tmp_path, examples):
    original = huggingface_directory(tmp_path / "hf", LLAMA)
    data = (original / WEIGHTS).read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")

    def check(case):
        text = as_json(case.value).encode()
        (original / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + data[header:])
        return _as_the_package(original)

    fuzz("header of safetensors", damaged_values(json.loads(data[8:header])), check, examples)


@shares(25, 700)
def test_index_of_safetensors(fuzz, tmp_path, examples):
    original = huggingface_directory(tmp_path / "hf", LLAMA, shard_bytes=900)
    expected = arrays_of(original)
    file = original / safetensors_files.INDEX
    index = json.loads(file.read_text())

    def check(case):
        file.write_bytes(
            case.value if isinstance(case.value, bytes) else as_json(case.value).encode()
        )
        return same(arrays_of(original), expected)

    fuzz(
        "index of safetensors",
        st.one_of(damaged_values(index), damaged_bytes(file.read_bytes())),
        check,
        examples,
    )


def _write_gguf(path):
    gguf = pytest.importorskip("gguf", reason="NOT CHECKED: reading GGUF needs the extra [hf]")
    config = huggingface_decoder.read_config(LLAMA, path)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length([6, 6])
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_scaling_factor(2.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["a", "b", "ab", "<s>", "</s>", "c", "d", "e"])
    writer.add_token_types([1, 1, 1, 3, 3, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(4)
    top = {
        "decoder/token_embedder/embedding": "token_embd.weight",
        "decoder/decoder_norm/scale": "output_norm.weight",
        "decoder/logits_dense/kernel": "output.weight",
    }
    parts = {
        "pre_self_attention_layer_norm/scale": "attn_norm",
        "pre_mlp_layer_norm/scale": "ffn_norm",
        "self_attention/query/kernel": "attn_q",
        "self_attention/key/kernel": "attn_k",
        "self_attention/value/kernel": "attn_v",
        "self_attention/out/kernel": "attn_output",
        "mlp/wi_0/kernel": "ffn_gate",
        "mlp/wi_1/kernel": "ffn_up",
        "mlp/wo/kernel": "ffn_down",
    }
    for name, array in random_arrays(config).items():
        layer, _, rest = name.removeprefix("decoder/layers_").partition("/")
        theirs = top.get(name) or f"blk.{layer}.{parts[rest]}.weight"
        writer.add_tensor(
            theirs, np.ascontiguousarray(array.T if name.endswith("kernel") else array)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@shares(60, 2500)
def test_bytes_of_gguf(fuzz, tmp_path, examples):
    """The numbers of the header have no checksum.

    What is accepted is what the package's own reader finds.
    """
    from gguf import GGUFReader

    from flan_jax.checkpoints.formats import gguf_tokenizer

    path = _write_gguf(tmp_path / "model.gguf")
    data = path.read_bytes()
    opened = gguf_file.open_file(path)
    header = min(tensor.begin for tensor in opened.tensors.values())
    expected = arrays_of(path, "gguf")

    def check(case):
        path.write_bytes(case.value)
        found = arrays_of(path, "gguf")
        gguf_tokenizer.tokenizer_of(path)
        if case.value[:header] == data[:header]:
            return len(case.value) == len(data) or same(found, expected)
        try:
            theirs = GGUFReader(path)
            metadata = {name: field.contents() for name, field in theirs.fields.items()}
        except (UnicodeDecodeError, KeyError):  # its reader is stricter on texts
            return True
        ours = gguf_file.open_file(path)
        return all(_equal(metadata[name], value) for name, value in ours.metadata.items()) and [
            str(tensor.name) for tensor in theirs.tensors
        ] == list(ours.tensors)

    inputs = st.one_of(
        damaged_bytes(data),
        damaged_bytes(data[:header]).map(
            lambda case: case._replace(value=case.value + data[header:])
        ),
    )
    fuzz("bytes of GGUF", inputs, check, examples)


def _equal(one, other) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=isinstance(one, float))


def _only_known(found: dict, expected: dict) -> bool:
    """Whether each tensor is one of the undamaged checkpoint.

    Names may be exchanged, numbers not made up.
    """
    known = {array.tobytes() for array in expected.values()}
    return all(array.tobytes() in known for array in found.values())


@shares(20, 1200)
def test_index_of_t5x(fuzz, tmp_path, examples):
    place = t5x_directory(tmp_path / "t5x")
    expected, file = arrays_of(place, "t5x"), place / "checkpoint"
    data = file.read_bytes()

    def check(case):
        value = case.value
        if not isinstance(value, bytes):
            try:
                value = serialization.msgpack_serialize(value)
            except (
                OverflowError,
                ValueError,
                TypeError,
                RecursionError,
                SystemError,
                AttributeError,
            ):
                return True  # nothing that msgpack can hold
        file.write_bytes(value)
        return _only_known(arrays_of(place, "t5x"), expected)

    tree = serialization.msgpack_restore(data)
    tree["optimizer"]["state"]["step"] = int(tree["optimizer"]["state"]["step"])
    fuzz("index of T5X", st.one_of(damaged_values(tree), damaged_bytes(data)), check, examples)


@st.composite
def damaged_files(draw, directory, names):
    """A file of a directory, damaged, emptied or removed; JSON also in its values."""
    name = draw(st.sampled_from(names))
    data = (directory / name).read_bytes()
    kinds = ["bytes", "bytes", "removed", "empty"]
    if data.startswith(b"{"):
        kinds += ["values", "values"]
    kind = draw(st.sampled_from(kinds))
    if kind == "bytes":
        case = draw(damaged_bytes(data))
    elif kind == "values":
        case = draw(damaged_values(json.loads(data)))
        case = case._replace(value=as_json(case.value).encode())
    else:
        case = Damaged(kind, None if kind == "removed" else b"")
    return case._replace(what=f"{name}: {case.what}", value=(name, case.value))


def files_of(directory):
    return sorted(
        str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file()
    )


@shares(6, 500)
def test_arrays_of_t5x(fuzz, tmp_path, examples):
    """A gzip file has a checksum, and the shapes stand in the index, too.

    Every other number is noticed.
    """
    place = t5x_directory(tmp_path / "t5x")
    expected = arrays_of(place, "t5x")

    def check(case):
        name, contents = case.value
        return same(
            arrays_of(with_file(place, tmp_path / "copy/checkpoint_3", name, contents), "t5x"),
            expected,
        )

    names = [name for name in files_of(place) if name != "checkpoint"]
    fuzz("arrays of T5X", damaged_files(place, names), check, examples)


@pytest.mark.parametrize(
    "in_one_database, zarr3",
    [(True, False), (False, False), (False, True)],
    ids=["ocdbt", "zarr", "zarr3"],
)
@shares(8, 800)
def test_trees_of_orbax(fuzz, tmp_path, examples, in_one_database, zarr3):
    """Chunks are compressed by zstd without a checksum.

    Damaged ones may hold other numbers, as many as before.
    """
    rng = np.random.default_rng(0)
    arrays = {
        "params": {
            "a": rng.standard_normal((4, 6)).astype(np.float32),
            "b": np.arange(5, dtype=np.float32),
        }
    }
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=in_one_database, use_zarr3=zarr3)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "tree", arrays)
    expected = {"params/a": arrays["params"]["a"], "params/b": arrays["params"]["b"]}

    def check(case):
        name, contents = case.value
        copy = with_file(tmp_path / "tree", tmp_path / "copy", name, contents)
        found = {name: tensor.read() for name, tensor in orbax_files.open_tree(copy).items()}
        if contents and (
            "/d/" in f"/{name}"
            or not name.endswith((".zarray", "zarr.json", "_METADATA", ".ocdbt"))
        ):
            return True
        return _only_known(found, expected)

    inputs = damaged_files(tmp_path / "tree", files_of(tmp_path / "tree"))
    fuzz(
        f"trees of Orbax ({'ocdbt' if in_one_database else 'zarr3' if zarr3 else 'zarr'})",
        inputs,
        check,
        examples,
    )
