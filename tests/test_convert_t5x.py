"""T5X's checkpoints: what is written is what T5X writes, to the byte.

What is read comes from each of its forms.
"""

import dataclasses
import fcntl
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization, traverse_util

from flan_jax.checkpoints import manager, model_config
from flan_jax.checkpoints.formats import orbax_files, ours, t5x, zarr_files
from flan_jax.checkpoints.load import load_parameters
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.checkpoints.reader import CheckpointReader, Tensor
from flan_jax.cli import dispatch
from flan_jax.errors import UserError
from flan_jax.models import decoder, stacking, t5
from flan_jax.models.architectures import architecture_of, model_fields
from flan_jax.models.shapes import parameter_shapes
from flan_jax.optim import adafactor as optimizer
from flan_jax.optim.adamw import adamw
from flan_jax.optim.lion import lion
from flan_jax.parallel import partitioning
from support import golden
from support.converting import convert, our_logits

DECODER_V512 = golden.ROOT / "decoder_only_tiny_v512"
LEGACY = [
    golden.T5_V512 / "legacy/checkpoint_3",
    DECODER_V512 / "legacy/checkpoint_3",
    golden.T5_BF16 / "legacy_bf16/checkpoint_100",
]
SMALL = t5.T5Config(128, 16, 2, 8, 32, 3, 2, dtype="float32")


def checkpoint_of(arrays, step=7, slots=None):
    """An opened checkpoint of arrays in memory."""
    tensors = {name: Tensor(x.shape, x.dtype, lambda x=x: x) for name, x in arrays.items()}
    return CheckpointReader(pathlib.Path("memory"), step, tensors, slots=slots)


def small_arrays(config=SMALL):
    """Random parameters of a small T5, unstacked, by name."""
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@golden.needs_golden
@pytest.mark.parametrize("path", LEGACY, ids=lambda path: path.parts[-3])
def test_what_is_written_is_what_t5x_wrote_to_the_byte(tmp_path, path):
    convert(
        "t5x",
        "t5x",
        path,
        tmp_path / "out",
        *(["--with_optimizer"] if "bf16" not in str(path) else []),
    )
    written = tmp_path / "out" / path.name
    files = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
    assert files == sorted(
        file.relative_to(written) for file in written.rglob("*") if file.is_file()
    )
    for file in files:
        assert (written / file).read_bytes() == (path / file).read_bytes(), file


@golden.needs_golden
@pytest.mark.parametrize("root", [golden.T5_V512, DECODER_V512], ids=lambda path: path.name)
def test_the_orbax_form_of_t5x_holds_the_same(tmp_path, root):
    convert("t5x", "t5x", root / "orbax/checkpoint_3", tmp_path / "out", "--with_optimizer")
    index = root / "legacy/checkpoint_3/checkpoint"
    assert (tmp_path / "out/checkpoint_3/checkpoint").read_bytes() == index.read_bytes()
    arrays = [file for file in index.parent.rglob("*") if file.is_file() and file != index]
    for file in arrays:
        assert (
            tmp_path / "out/checkpoint_3" / file.relative_to(index.parent)
        ).read_bytes() == file.read_bytes()


@golden.needs_golden
def test_scores_survive_the_way_through_our_form_and_back(tmp_path):
    numbers = np.load(golden.T5_V512 / "golden.npz")
    batch = golden.batch(numbers, "score")
    convert(
        "t5x", "flan", golden.T5_V512 / "legacy/checkpoint_3", tmp_path / "ours", "--with_optimizer"
    )
    np.testing.assert_allclose(
        our_logits(tmp_path / "ours", batch), numbers["score/logits"], atol=1e-5
    )
    convert("flan", "t5x", tmp_path / "ours", tmp_path / "back", "--with_optimizer")
    index = golden.T5_V512 / "legacy/checkpoint_3/checkpoint"
    assert (tmp_path / "back/checkpoint_3/checkpoint").read_bytes() == index.read_bytes()


def test_a_run_resumes_from_a_converted_checkpoint_with_its_optimizer(tmp_path):
    params = traverse_util.unflatten_dict(small_arrays(), sep="/")
    state = jax.jit(optimizer.adafactor().init)(params)
    state = state._replace(count=np.int32(5), v=jax.tree.map(lambda x: x + 0.5, state.v))
    tree = {"params": params, "opt_state": state, "step": np.int32(5)}
    run = manager.Checkpoints(tmp_path / "run/checkpoints")
    run.save(5, tree)
    run.close()
    convert("flan", "t5x", tmp_path / "run", tmp_path / "t5x", "--with_optimizer")
    convert("t5x", "flan", tmp_path / "t5x", tmp_path / "again", "--with_optimizer")

    again = manager.Checkpoints(tmp_path / "again/checkpoints")
    assert again.latest_step() == 5
    restored = again.restore(jax.eval_shape(lambda: tree))
    again.close()
    for name, value in golden.named(tree).items():
        np.testing.assert_array_equal(golden.named(restored)[name], value, err_msg=name)


@pytest.mark.parametrize("make", [adamw, lion])
def test_the_state_of_other_optimizers_stays_in_our_form(tmp_path, capsys, make):
    params = traverse_util.unflatten_dict(small_arrays(), sep="/")
    adam = make(1e-3, moment_dtype="bfloat16")
    state = adam.init(params)
    _, state = jax.jit(adam.update)(jax.tree.map(np.cos, params), state, params)
    tree = {"params": params, "opt_state": state, "step": np.int32(1)}
    run = manager.Checkpoints(tmp_path / "run/checkpoints")
    run.save(1, tree)
    run.close()
    arguments = ["convert", "--from=flan", f"--input={tmp_path}/run", f"--output={tmp_path}/t5x"]
    assert dispatch.main([*arguments, "--to=t5x", "--with_optimizer"]) == 2
    said = capsys.readouterr().err
    assert "the state of another optimizer than Adafactor" in said and "give --to=flan" in said
    convert("flan", "t5x", tmp_path / "run", tmp_path / "t5x")
    assert t5x.open_t5x(tmp_path / "t5x/checkpoint_1").slots is None

    convert("flan", "flan", tmp_path / "run", tmp_path / "again", "--with_optimizer")
    again = manager.Checkpoints(tmp_path / "again/checkpoints")
    restored = again.restore(jax.eval_shape(lambda: tree))
    again.close()
    for name, value in golden.named(tree).items():
        np.testing.assert_array_equal(golden.named(restored)[name], value, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_are_stored_in_the_dtype_asked_for_and_read_into_the_models(tmp_path, dtype):
    arrays = small_arrays()
    t5x.write_t5x(tmp_path / "in", checkpoint_of(arrays), None, lambda name: None)
    convert("t5x", "flan", tmp_path / "in", tmp_path / "out", f"--dtype={dtype}")
    rounded = {
        name: x.astype(ml_dtypes.bfloat16) if dtype == "bfloat16" else x
        for name, x in arrays.items()
    }
    for name, tensor in open_checkpoint(tmp_path / "out").tensors.items():
        assert tensor.dtype.name == dtype
        np.testing.assert_array_equal(tensor.read(), rounded[name], err_msg=name)
    abstract = traverse_util.unflatten_dict(
        {name: jax.ShapeDtypeStruct(x.shape, np.float32) for name, x in arrays.items()}, sep="/"
    )
    restored = golden.named(load_parameters(tmp_path / "out", abstract)[1])
    for name, x in rounded.items():
        assert restored[name].dtype == np.float32
        np.testing.assert_array_equal(restored[name], x.astype(np.float32), err_msg=name)


def scanned_as_scalable_t5(arrays, same_bias=True):
    """The arrays as T5X's `scalable_t5` keeps them: layers on axis 1, a position table in each."""
    result = {
        name: x
        for name, x in arrays.items()
        if "/layers_" not in name and "relpos_bias" not in name
    }
    for stack, layers in (("encoder", 3), ("decoder", 2)):
        for name in [n for n in arrays if n.startswith(f"{stack}/layers_0/")]:
            each = [arrays[name.replace("layers_0", f"layers_{i}")] for i in range(layers)]
            result[name.replace(f"{stack}/layers_0", f"{stack}/{stack}")] = np.stack(each, axis=1)
        table = arrays[f"{stack}/relpos_bias/rel_embedding"]
        tables = [table + (0 if same_bias else i) for i in range(layers)]
        result[f"{stack}/{stack}/relpos_bias/rel_embedding"] = np.stack(tables, axis=1)
    return result


def test_scanned_layers_come_apart(tmp_path):
    arrays = small_arrays()
    t5x.write_t5x(
        tmp_path / "in", checkpoint_of(scanned_as_scalable_t5(arrays)), None, lambda name: None
    )
    convert("t5x", "t5x", tmp_path / "in", tmp_path / "out")
    tensors = open_checkpoint(tmp_path / "out").tensors
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.read(), arrays[name], err_msg=name)
    assert tensors.keys() == arrays.keys()
    stacked = golden.named(stacking.stack(traverse_util.unflatten_dict(arrays, sep="/")))
    t5x.write_t5x(tmp_path / "stacked", checkpoint_of(stacked), None, lambda name: None)
    assert open_checkpoint(tmp_path / "stacked").tensors.keys() == arrays.keys()


def test_scanned_layers_with_tables_of_their_own_are_refused(tmp_path, capsys):
    arrays = scanned_as_scalable_t5(small_arrays(), same_bias=False)
    t5x.write_t5x(tmp_path / "in", checkpoint_of(arrays), None, lambda name: None)
    assert (
        dispatch.main(
            [
                "convert",
                "--from=t5x",
                "--to=flan",
                f"--input={tmp_path}/in",
                f"--output={tmp_path}/out",
            ]
        )
        == 2
    )
    assert "another position table in each layer" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize(
    "shape, itemsize, expected",
    [
        ((32128, 8), 4, [32128, 8]),
        ((32128, 4096), 4, [4016, 4096]),
        ((4096, 10240), 4, [4096, 2560]),
        ((64, 1024, 1024), 2, [64, 512, 1024]),
        ((), 4, []),
    ],
)
def test_chunks_are_those_of_t5x(shape, itemsize, expected):
    """The expected chunks are T5X's own function's (`_choose_chunk_shape`, 64 MiB)."""
    assert zarr_files.chunk_shape(shape, itemsize) == expected


CONFIGS = [
    (t5.T5Config(128, 16, 2, 8, 32, 3, 2), "t5"),
    (
        t5.T5Config(128, 16, 2, 8, 32, 1, 2, mlp_activations=("relu",), logits_via_embedding=True),
        "t5",
    ),
    (decoder.DecoderConfig(128, 16, 4, 8, 32, 3), "decoder"),
    (
        decoder.DecoderConfig(
            128,
            16,
            4,
            8,
            32,
            3,
            num_kv_heads=2,
            positions="rotary",
            qkv_bias=True,
            mlp_activations=("silu", "linear"),
            logits_via_embedding=False,
        ),
        "decoder",
    ),
]


@pytest.mark.parametrize("config, name", CONFIGS)
def test_the_table_of_parameters_is_that_of_the_networks(config, name):
    ones = np.ones((1, 4), np.int32)
    batch = {
        f"{side}_{what}": ones
        for side in ("encoder", "decoder")
        for what in ("input_tokens", "segment_ids", "positions", "causal_attention")
    }
    model = t5.T5(config) if name == "t5" else decoder.DecoderLM(config)
    shapes = jax.eval_shape(
        lambda: partitioning.unbox(model.init(jax.random.key(0), batch)["params"])
    )
    found = {key: leaf.shape for key, leaf in golden.named(stacking.unstack(shapes)).items()}
    assert parameter_shapes(config) == found
    known = {field: getattr(config, field) for field in model_fields(name)}
    known = known if name == "decoder" else {}
    inferred = model_config.infer_config(found, {name: known, "other": {"num_heads": 99}}, "here")
    assert architecture_of(inferred) == name
    rate = inferred.dropout_rate
    assert inferred == dataclasses.replace(config, dtype="float32", dropout_rate=rate)


def test_a_checkpoint_of_another_model_is_refused_with_what_differs(tmp_path):
    arrays = small_arrays()
    del arrays["decoder/decoder_norm/scale"]
    arrays["encoder/extra"] = np.zeros(3, np.float32)
    arrays["decoder/logits_dense/kernel"] = np.zeros((16, 64), np.float32)
    t5x.write_t5x(tmp_path, checkpoint_of(arrays), None, lambda name: None)
    abstract = traverse_util.unflatten_dict(
        {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in small_arrays().items()},
        sep="/",
    )
    with pytest.raises(UserError) as error:
        load_parameters(tmp_path, abstract)
    assert (
        "missing: decoder/decoder_norm/scale; unexpected: encoder/extra; "
        "decoder/logits_dense/kernel: (16, 64) in the checkpoint, (16, 128) in the config"
    ) in str(error.value)


@pytest.mark.parametrize(
    "changes, says",
    [
        (
            {"emb_dim": 24, "mlp_dim": 48},
            "emb_dim is 16 in the checkpoint, 24 in the config; mlp_dim is 32 in the checkpoint, "
            "48 in the config; decoder/decoder_norm/scale: (16,) in the checkpoint, (24,) in the ",
        ),
        (
            {"mlp_activations": ("relu",)},
            "does not match the model: missing: decoder/layers_0/mlp/wi/kernel; ",
        ),
        (
            {"num_decoder_layers": 1},
            "num_decoder_layers is 2 in the checkpoint, 1 in the config; unexpected: ",
        ),
    ],
)
def test_a_checkpoint_of_another_size_is_one_short_sentence(tmp_path, changes, says):
    t5x.write_t5x(tmp_path, checkpoint_of(small_arrays()), None, lambda name: None)
    shapes = {
        name: x.shape for name, x in small_arrays(dataclasses.replace(SMALL, **changes)).items()
    }
    abstract = traverse_util.unflatten_dict(
        {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}, sep="/"
    )
    with pytest.raises(
        UserError, match=r"; and \d+ more; give the gin files it was trained with"
    ) as error:
        load_parameters(tmp_path, abstract)
    assert says in str(error.value) and len(str(error.value)) < 600


def test_a_checkpoint_of_the_other_architecture_says_so(tmp_path):
    t5x.write_t5x(tmp_path, checkpoint_of(small_arrays()), None, lambda name: None)
    shapes = parameter_shapes(decoder.DecoderConfig(128, 16, 2, 8, 32, 3))
    abstract = traverse_util.unflatten_dict(
        {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}, sep="/"
    )
    with pytest.raises(
        UserError,
        match="ARCHITECTURE is 't5' in the checkpoint, 'decoder' in the config; missing: ",
    ):
        load_parameters(tmp_path, abstract)


def test_convert_lists_every_difference_one_a_line(tmp_path, capsys):
    t5x.write_t5x(tmp_path / "in", checkpoint_of(small_arrays()), None, lambda name: None)
    (tmp_path / "in/model.gin").write_text(
        "T5Config.mlp_dim = 48\nT5Config.num_decoder_layers = 3\n"
    )
    assert (
        dispatch.main(
            [
                "convert",
                "--from=t5x",
                "--to=flan",
                f"--input={tmp_path}/in",
                f"--output={tmp_path}/out",
            ]
        )
        == 2
    )
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.endswith("put the right config.gin or model.gin beside it:")
    added = {
        name
        for name in parameter_shapes(dataclasses.replace(SMALL, num_decoder_layers=3))
        if "decoder/layers_2/" in name
    }
    assert {line for line in lines if "missing" in line} == {f"  missing: {name}" for name in added}
    assert len(lines) == len(added) + 5 * 3  # wi_0, wi_1 and wo of five layers
    assert (
        "  encoder/layers_0/mlp/wi_0/kernel: (16, 32) in the checkpoint, (16, 48) in the config"
        in lines
    )


def test_what_cannot_be_converted_says_why(tmp_path, capsys):
    t5x.write_t5x(tmp_path / "in", checkpoint_of(small_arrays()), None, lambda name: None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    for arguments, message in {
        ("--from=t5x", "--to=hf", f"--output={tmp_path}/full"): "already exists",
        (
            "--from=t5x",
            "--to=flan",
            f"--output={tmp_path}/o",
            "--with_optimizer",
        ): "no optimizer state",
        (
            "--from=t5x",
            "--to=hf",
            f"--output={tmp_path}/o",
            "--with_optimizer",
        ): "leave --with_optimizer out",
        ("--from=t5x", "--to=flan", f"--output={tmp_path}/o", "--step=8"): "no step 8",
        ("--from=hf", "--to=flan", f"--output={tmp_path}/o"): "no config.json",
        ("--from=gguf", "--to=flan", f"--output={tmp_path}/o"): "not a GGUF file",
        (
            "--from=t5x",
            "--to=flan",
            f"--output={tmp_path}/o",
            "--tokenizer=nowhere",
        ): "neither a tokenizer's file",
    }.items():
        assert dispatch.main(["convert", *arguments, f"--input={tmp_path}/in"]) == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "in"]


@pytest.mark.parametrize(
    "form, damage",
    [
        ("t5x", lambda root: _cut(root / "checkpoint_7/checkpoint")),
        (
            "t5x",
            lambda root: (root / "checkpoint_7/target.encoder.encoder_norm.scale/.zarray").unlink(),
        ),
        ("flan", lambda root: _cut(root / "checkpoints/7/params/_METADATA")),
        (
            "flan",
            lambda root: shutil.rmtree(root / "checkpoints/7/params/encoder.encoder_norm.scale"),
        ),
    ],
    ids=["index cut", "array without metadata", "_METADATA cut", "array missing"],
)
def test_a_checkpoint_that_is_damaged_is_one_sentence(tmp_path, capsys, form, damage):
    t5x.write_t5x(tmp_path / "in", checkpoint_of(small_arrays()), None, lambda name: None)
    if form == "flan":
        convert("t5x", "flan", tmp_path / "in", tmp_path / "ours")
    root = tmp_path / ("in" if form == "t5x" else "ours")
    damage(root)
    assert (
        dispatch.main(
            ["convert", f"--from={form}", "--to=hf", f"--input={root}", f"--output={tmp_path}/out"]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert f"{root}" in said and ("is not readable (" in said or "cannot be read (" in said), said
    assert said.endswith("; download or copy it again.\n"), said
    assert "tensorstore_spec" not in said


def _cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def orbax_tree(path, in_one_database, zarr3):
    """A directory of Orbax with one array in four chunks, a scalar and zeros; gives it as numpy."""
    arrays = {
        "params": {
            "a": np.arange(64, dtype=np.float32).reshape(8, 8),
            "b": np.zeros((3,), np.float32),
            "c": np.int32(0),
        }
    }
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=in_one_database, use_zarr3=zarr3)
    save = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=64 if not zarr3 else None), arrays)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(arrays, save_args=save))
    return traverse_util.flatten_dict(arrays, sep="/")


@pytest.mark.parametrize(
    "in_one_database, zarr3", [(True, False), (False, False), (True, True), (False, True)]
)
def test_every_file_of_arrays_that_is_lost_is_noticed(tmp_path, in_one_database, zarr3):
    """TensorStore reads chunks that are not there as zeros."""
    arrays = orbax_tree(tmp_path / "tree", in_one_database, zarr3)
    opened = orbax_files.open_tree(tmp_path / "tree")
    for name, array in arrays.items():
        np.testing.assert_array_equal(opened[name].read(), array)
    kept = {"commit_success.txt", "_CHECKPOINT_METADATA"}
    files = [
        file for file in (tmp_path / "tree").rglob("*") if file.is_file() and file.name not in kept
    ]
    files = [
        file
        for file in files
        if "ocdbt.process_0" not in file.parts and "array_metadatas" not in file.parts
    ]
    assert len(files) >= (3 if in_one_database else 7)
    for file in files:
        contents = file.read_bytes()
        file.unlink()
        with pytest.raises(UserError, match="tree"):
            [tensor.read() for tensor in orbax_files.open_tree(tmp_path / "tree").values()]
        file.write_bytes(contents)


def test_chunks_that_are_missing_are_listed(tmp_path, capsys):
    arrays = small_arrays()
    t5x.write_t5x(tmp_path / "in", checkpoint_of(arrays), None, lambda name: None)
    convert("t5x", "flan", tmp_path / "in", tmp_path / "ours")
    place = tmp_path / "in/checkpoint_7/target.token_embedder.embedding"
    (place / "0.0").unlink()
    with pytest.raises(
        UserError, match=rf"{place} lacks 1 chunks of its arrays \(0.0\); download or copy it again"
    ):
        open_checkpoint(tmp_path / "in")
    (tmp_path / "ours/checkpoints/7/params/token_embedder.embedding/0.0").unlink()
    with pytest.raises(
        UserError, match=r"params lacks 1 chunks of its arrays \(token_embedder.embedding/0.0\)"
    ):
        open_checkpoint(tmp_path / "ours")


def test_a_run_does_not_resume_from_zeros_in_place_of_a_lost_chunk(tmp_path):
    arrays = small_arrays()
    tree = {"params": traverse_util.unflatten_dict(arrays, sep="/"), "step": np.int32(7)}
    slots = {
        f"{slot}/{name}": Tensor((1,), np.dtype(np.float32), lambda: np.zeros(1, np.float32))
        for name in arrays
        for slot in ("v", "v_row", "v_col")
    }
    ours.write_ours(tmp_path / "run", checkpoint_of(arrays, slots=slots), None, lambda name: None)
    (tmp_path / "run/checkpoints/7/params/token_embedder.embedding/0.0").unlink()
    run = manager.Checkpoints(tmp_path / "run/checkpoints")
    with pytest.raises(UserError, match="lacks 1 chunks"):
        run.restore(jax.eval_shape(lambda: tree))
    run.close()


def test_two_dots_in_the_path_of_a_checkpoint_are_resolved(tmp_path, monkeypatch):
    t5x.write_t5x(tmp_path / "in", checkpoint_of(small_arrays()), None, lambda name: None)
    convert("t5x", "flan", tmp_path / "in", tmp_path / "ours")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for path in (
        "../in",
        "../ours",
        f"{tmp_path}/work/../in/checkpoint_7",
        f"{tmp_path}/work/../ours/checkpoints/7",
    ):
        tensor = open_checkpoint(path).tensors["encoder/encoder_norm/scale"]
        np.testing.assert_array_equal(tensor.read(), small_arrays()["encoder/encoder_norm/scale"])
    convert("t5x", "flan", "../in", "../work/../again")
    assert open_checkpoint(tmp_path / "again").step == 7


def _edit_index(file, change):
    index = serialization.msgpack_restore(file.read_bytes())
    change(index["optimizer"])
    file.write_bytes(serialization.msgpack_serialize(index))


def _scale(optimizer):
    return optimizer["target"]["encoder"]["encoder_norm"]["scale"]


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda tree: _scale(tree)["kvstore"].update(path="../../elsewhere/"), "outside of"),
        (lambda tree: _scale(tree)["kvstore"].update(path="/etc/"), "outside of"),
        (lambda tree: _scale(tree)["kvstore"].update(path=5), "not a valid name"),
        (lambda tree: _scale(tree).update(driver="n5"), "has the driver 'n5'"),
        (lambda tree: _scale(tree)["metadata"].update(shape=[2**40]), "the index has"),
        (lambda tree: _scale(tree).update(dtype="float64"), "the index has"),
        (lambda tree: _scale(tree).update(kvstore=None), "is not readable"),
        (lambda tree: tree["state"].update(step=np.asarray(-1)), "its step is -1"),
        (lambda tree: tree["state"].update(step="seven"), "state/step is 'seven'"),
        (lambda tree: tree["state"].pop("step"), "it lacks"),
        (lambda tree: tree.update(target=[1]), "checkpoint_7"),
    ],
    ids=range(11),
)
def test_an_index_of_wrong_names_types_and_sizes_is_refused(tmp_path, change, says):
    t5x.write_t5x(tmp_path / "in", checkpoint_of(small_arrays()), None, lambda name: None)
    shutil.copytree(
        tmp_path / "in/checkpoint_7/target.encoder.encoder_norm.scale", tmp_path / "elsewhere"
    )
    _edit_index(tmp_path / "in/checkpoint_7/checkpoint", change)
    with pytest.raises(UserError, match=says):
        open_checkpoint(tmp_path / "in")


def test_sizes_that_the_files_cannot_fill_are_refused_before_they_are_read(tmp_path):
    t5x.write_t5x(tmp_path / "in", checkpoint_of(small_arrays()), None, lambda name: None)
    array = tmp_path / "in/checkpoint_7/target.token_embedder.embedding/.zarray"
    metadata = json.loads(array.read_text())
    large = {**metadata, "shape": [2**40, 16], "chunks": [2**40, 16]}
    array.write_text(json.dumps(large))
    chunk = array.parent / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-4] + bytes(4))  # as many bytes, modulo 2^32

    def change(tree):
        tree["target"]["token_embedder"]["embedding"]["metadata"].update(
            shape=large["shape"], chunks=large["chunks"]
        )

    _edit_index(tmp_path / "in/checkpoint_7/checkpoint", change)
    with pytest.raises(UserError, match="claims arrays of .* bytes"):
        open_checkpoint(tmp_path / "in")
    for change, says in (
        ({"shape": [2**40, 16]}, "lacks 1,000 chunks"),
        ({"dtype": ">f4"}, "numbers of type >f4"),
        ({"order": "F"}, "in order F"),
        ({"chunks": [64, 0]}, "chunks of"),
    ):
        array.write_text(json.dumps({**metadata, **change}))
        with pytest.raises(UserError, match=says):
            open_checkpoint(tmp_path / "in")


@pytest.mark.parametrize(
    "gin",
    [
        "T5Config.num_heads = 'two'\n",
        "T5Config.num_decoder_layers = 3000000000\n",
        "T5Config.mlp_activations = 5\n",
        "T5Config.emb_dim = True\n",
        "T5Config.emb_dim = (\n",
        b"\xff\xfe",
        "T5Config.relpos_buckets = 10**9\n",
    ],
    ids=str,
)
def test_a_gin_file_beside_a_checkpoint_is_checked(tmp_path, gin):
    t5x.write_t5x(tmp_path / "in", checkpoint_of(small_arrays()), None, lambda name: None)
    (tmp_path / "in/model.gin").write_bytes(gin if isinstance(gin, bytes) else gin.encode())
    with pytest.raises(UserError, match=str(tmp_path / "in")):
        open_checkpoint(tmp_path / "in")


def test_the_size_of_a_converted_model_is_a_gin_file(tmp_path, capsys):
    from flan_jax.config import gin_files
    from flan_jax.models.t5 import T5Config

    config = t5.T5Config(
        128, 16, 2, 8, 32, 3, 2, mlp_activations=("silu", "linear"), logits_via_embedding=True
    )
    t5x.write_t5x(tmp_path / "in", checkpoint_of(small_arrays(config)), None, lambda name: None)
    (tmp_path / "in/config.gin").write_text(
        "WIDE = ('silu', 'linear')\nnetwork.T5Config.mlp_activations = %WIDE\n"
    )
    (tmp_path / "in/spiece.model").write_text("a tokenizer")
    convert("t5x", "flan", tmp_path / "in", tmp_path / "out")
    gin_files.parse_command_line(
        [
            "--gin_file=gin/flan.gin",
            f"--gin_file={tmp_path}/out/model.gin",
            "--gin.T5Config.dtype=float32",
        ],
        gin_files.CONFIGURED,
    )
    found = T5Config(vocab_size=128)
    assert all(getattr(found, field) == getattr(config, field) for field in model_fields("t5"))
    assert gin_files.macro("VOCABULARY") == str(tmp_path / "out/spiece.model")
    assert (tmp_path / "out/spiece.model").read_text() == "a tokenizer"


@pytest.mark.parametrize(
    "gin, rate",
    [
        ("", 0.1),
        ("DROPOUT_RATE = 0.0\nT5Config.dropout_rate = %DROPOUT_RATE\n", 0.0),
        ("T5Config.dropout_rate = 0.05\n", 0.05),
    ],
)
def test_an_export_says_the_dropout_rate_of_the_run(tmp_path, gin, rate):
    t5x.write_t5x(tmp_path / "in", checkpoint_of(small_arrays()), None, lambda name: None)
    if gin:
        (tmp_path / "in/config.gin").write_text(gin)
    convert("t5x", "hf", tmp_path / "in", tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["dropout_rate"] == rate


def test_what_is_cut_off_does_not_look_complete(tmp_path, monkeypatch, capsys):
    """Cut off half-way, what is there does not look like a checkpoint.

    Neither the directory's name nor its files.
    """
    from flan_jax.storage import atomic_directory

    seen = {}
    monkeypatch.setattr(
        atomic_directory.shutil, "rmtree", lambda path, ignore_errors: seen.update(left=path)
    )
    arrays = small_arrays()
    t5x.write_t5x(tmp_path / "in", checkpoint_of(arrays), None, lambda name: None)
    part = tmp_path / "in/checkpoint_7/target.encoder.encoder_norm.scale/0"
    part.write_bytes(b"broken" + part.read_bytes()[-4:])  # opening it checks the end
    for to in ("flan", "t5x", "hf"):
        arguments = [
            "convert",
            "--from=t5x",
            f"--to={to}",
            f"--input={tmp_path}/in",
            f"--output={tmp_path}/{to}",
        ]
        assert dispatch.main(arguments) == 2
        said = capsys.readouterr().err
        assert f"{part.parent} is not readable (" in said and "download or copy it again" in said
        assert "tensorstore_spec" not in said
        assert not (tmp_path / to).exists()
        left = [file.name for file in seen["left"].rglob("*")]
        assert not {"_METADATA", "checkpoint", "config.json", "model.gin"} & set(left), left


@pytest.fixture
def full_disk():
    """Files may have 200 bytes at most, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_checkpoint(tmp_path):
    t5x.write_t5x(tmp_path / "in", checkpoint_of(small_arrays()), None, lambda name: None)
    return tmp_path / "in"


@pytest.mark.parametrize("to", ["t5x", "flan", "hf"])
def test_a_full_disk_is_one_message_with_the_place(
    tmp_path, capsys, small_checkpoint, full_disk, to
):
    arguments = [
        "convert",
        "--from=t5x",
        f"--to={to}",
        f"--input={small_checkpoint}",
        f"--output={tmp_path}/out",
    ]
    assert dispatch.main(arguments) == 2
    said = capsys.readouterr().err
    assert f"--output={tmp_path}/out cannot be written (File too large); make room there" in said
    assert len(said.splitlines()) == 1 and sorted(path.name for path in tmp_path.iterdir()) == [
        "in"
    ]


@pytest.mark.parametrize("to", ["t5x", "flan", "hf"])
def test_sigterm_leaves_nothing_behind(tmp_path, monkeypatch, small_checkpoint, to):
    read, seen = Tensor.read, []

    def read_and_end(self, index=...):
        if any(tmp_path.glob(".out.incomplete-*")):
            seen.append(self)
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, index)

    monkeypatch.setattr(Tensor, "read", read_and_end)
    arguments = [
        "convert",
        "--from=t5x",
        f"--to={to}",
        f"--input={small_checkpoint}",
        f"--output={tmp_path}/out",
    ]
    assert dispatch.main(arguments) == 143 and len(seen) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_what_killed_processes_left_is_removed_and_what_others_write_stays(
    tmp_path, small_checkpoint
):
    ended = subprocess.Popen(["true"])
    ended.wait()
    on_another_host = subprocess.Popen(["true"])
    on_another_host.wait()
    names = {
        number: f".model.incomplete-{number}"
        for number in (ended.pid, os.getpid(), on_another_host.pid, 1)
    }
    for name in (*names.values(), ".mine.incomplete-notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    held = os.open(tmp_path / names[on_another_host.pid], os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    convert("t5x", "flan", small_checkpoint, tmp_path / "out")
    os.close(held)
    kept = {".mine.incomplete-notes", names[on_another_host.pid], names[1], "in", "out"}
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize(
    "flag, url",
    [
        ("input", "az://bucket/model"),
        ("output", "hf://bucket/model"),
        ("tokenizer", "https://example.com/tokenizer.json"),
    ],
)
def test_convert_refuses_urls_and_makes_no_directory(
    tmp_path, capsys, monkeypatch, small_checkpoint, flag, url
):
    monkeypatch.chdir(tmp_path)
    paths = {"input": small_checkpoint, "output": tmp_path / "out", flag: url}
    assert (
        dispatch.main(
            ["convert", "--to=flan", *(f"--{name}={path}" for name, path in paths.items())]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert (
        f"--{flag} {url} is a URL" in said
        and "not supported" in said
        and len(said.splitlines()) == 1
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
