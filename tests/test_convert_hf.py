"""Conversion from and to Hugging Face against `transformers` itself.

Names, shapes, logits, and bytes back again.

Needs torch and transformers, which flan_jax does not: without them the parity tests are skipped,
  and say so.
"""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from flan_jax.checkpoints import model_gin
from flan_jax.checkpoints.formats import huggingface_decoder, huggingface_t5, safetensors_files
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.cli import dispatch
from flan_jax.config import gin_files
from flan_jax.config.gin_files import CONFIGURED
from flan_jax.errors import UserError
from flan_jax.evaluation import unit_scores
from flan_jax.evaluation.known_runs import remember_run
from flan_jax.evaluation.result_rows import ResultRow
from flan_jax.metrics.measures import Measure
from flan_jax.models import positions
from support.converting import (
    LLAMA,
    convert,
    decoder_batch,
    our_logits,
    random_tensors,
    same_tensors,
    t5_batch,
)
from support.processes import ended_well, simulating

NOT_CHECKED = "NOT CHECKED AGAINST HUGGING FACE: torch and transformers are not installed here"
T5_ODD = {
    "vocab_size": 120,
    "d_model": 24,
    "d_kv": 5,
    "d_ff": 37,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
}
LLAMA_ODD = {
    "vocab_size": 101,
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.fixture
def transformers():
    pytest.importorskip("torch", reason=NOT_CHECKED)
    return pytest.importorskip("transformers", reason=NOT_CHECKED)


def save_t5(transformers, path, tied, **sizes):
    """A random T5, spread enough that a wrong detail shows; untied as Flan-T5 is on the hub."""
    import torch

    torch.manual_seed(0)
    config = transformers.T5Config(**{**T5_ODD, **sizes}, tie_word_embeddings=tied)
    model = transformers.T5ForConditionalGeneration(config).eval()
    _spread(model)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    model.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    # as T5 1.1 on the hub has it; transformers 5 writes another setting
    config["tie_word_embeddings"] = tied
    config.pop("scale_decoder_outputs", None)
    (path / "config.json").write_text(json.dumps(config))
    if not tied:
        with_head = {
            name: value.detach().numpy()
            for name, value in model.state_dict().items()
            if not name.endswith("embed_tokens.weight")
        }
        _save(path, with_head)
    return transformers.T5ForConditionalGeneration.from_pretrained(path).eval()


def _save(path, arrays):
    safetensors_files.write_directory(
        path, {n: (a.shape, a.dtype) for n, a in arrays.items()}, arrays.__getitem__
    )


def _spread(model):
    import torch

    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.copy_(1.0 + 0.3 * torch.randn_like(value))
            elif value.ndim == 1:
                value.copy_(0.5 * torch.randn_like(value))
            else:
                value.copy_(0.2 * torch.randn_like(value))


def their_t5_logits(model, batch):
    import torch

    with torch.no_grad():
        return model(
            input_ids=torch.tensor(batch["encoder_input_tokens"]).long(),
            attention_mask=torch.tensor(batch["encoder_segment_ids"]).long(),
            decoder_input_ids=torch.tensor(batch["decoder_input_tokens"]).long(),
        ).logits.numpy()


def loaded_without_remark(cls, path):
    """The model that `transformers` loads; every name has to be there, and no other."""
    model, said = cls.from_pretrained(path, output_loading_info=True)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), (
        said
    )
    return model.eval()


@pytest.mark.parametrize(
    "kind, tied", [("gated-gelu", False), ("relu", True), ("gated-silu", False)]
)
def test_a_t5_gives_the_logits_of_transformers_there_and_back(transformers, tmp_path, kind, tied):
    theirs = save_t5(transformers, tmp_path / "hf", tied, feed_forward_proj=kind)
    batch = t5_batch(120)
    expected = their_t5_logits(theirs, batch)
    assert expected.std() > 0.1
    np.testing.assert_allclose(our_logits(tmp_path / "hf", batch), expected, atol=1e-4)

    convert("hf", "flan", tmp_path / "hf", tmp_path / "ours")
    np.testing.assert_allclose(our_logits(tmp_path / "ours", batch), expected, atol=1e-4)
    convert("flan", "t5x", tmp_path / "ours", tmp_path / "t5x")
    convert("t5x", "hf", tmp_path / "t5x", tmp_path / "back")
    same_tensors(tmp_path / "hf", tmp_path / "back")
    again = loaded_without_remark(transformers.T5ForConditionalGeneration, tmp_path / "back")
    np.testing.assert_allclose(their_t5_logits(again, batch), expected, atol=1e-6)
    assert json.loads((tmp_path / "back/config.json").read_text())["tie_word_embeddings"] is tied


def test_mt5_and_tied_logits_without_scale(transformers, tmp_path):
    import torch

    torch.manual_seed(1)
    model = transformers.MT5ForConditionalGeneration(transformers.MT5Config(**T5_ODD)).eval()
    _spread(model)
    model.save_pretrained(tmp_path / "hf")
    batch = t5_batch(120)
    expected = their_t5_logits(model, batch)
    np.testing.assert_allclose(our_logits(tmp_path / "hf", batch), expected, atol=1e-4)
    convert("hf", "hf", tmp_path / "hf", tmp_path / "back")
    again = loaded_without_remark(transformers.T5ForConditionalGeneration, tmp_path / "back")
    np.testing.assert_allclose(their_t5_logits(again, batch), expected, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        {"tie_word_embeddings": False},
        {"tie_word_embeddings": True, "rms_norm_eps": 1e-5},
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 10,
            "rope_parameters": LLAMA3_ROPE,
        },
        {
            "num_key_value_heads": 1,
            "head_dim": 2,
            "hidden_act": "gelu_pytorch_tanh",
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        },
        {
            "qwen2": True,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        {"qwen2": True, "tie_word_embeddings": False, "num_key_value_heads": 3},
    ],
    ids=str,
)
def test_a_decoder_gives_the_logits_of_transformers_there_and_back(transformers, tmp_path, config):
    import torch

    config = {**LLAMA_ODD, **config}
    kind = "Qwen2" if config.pop("qwen2", False) else "Llama"
    torch.manual_seed(0)
    cls = getattr(transformers, f"{kind}ForCausalLM")
    model = cls(getattr(transformers, f"{kind}Config")(**config)).eval()
    _spread(model)
    model.save_pretrained(tmp_path / "hf")
    batch = decoder_batch(101)

    def theirs(model):
        with torch.no_grad():
            return model(torch.tensor(batch["decoder_input_tokens"]).long()).logits.numpy()

    expected = theirs(model)
    assert expected.std() > 0.1
    np.testing.assert_allclose(our_logits(tmp_path / "hf", batch), expected, atol=1e-4)
    convert("hf", "t5x", tmp_path / "hf", tmp_path / "t5x")
    convert("t5x", "flan", tmp_path / "t5x", tmp_path / "ours")
    np.testing.assert_allclose(our_logits(tmp_path / "ours", batch), expected, atol=1e-4)
    convert("flan", "hf", tmp_path / "ours", tmp_path / "back")
    same_tensors(tmp_path / "hf", tmp_path / "back")
    again = loaded_without_remark(cls, tmp_path / "back")
    np.testing.assert_allclose(theirs(again), expected, atol=1e-6)


def random_llama(path, dtype=np.float32, shard_bytes=10**9, **changes):
    """A Hugging Face directory of random numbers, written without `transformers`.

    Gives its config.json.
    """
    path.mkdir()
    config = {**LLAMA, **changes}
    (path / "config.json").write_text(json.dumps(config))
    arrays = {name: array.astype(dtype) for name, array in random_tensors(config).items()}
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    safetensors_files.write_directory(path, shapes, arrays.__getitem__, shard_bytes)
    return config


def test_shards_with_an_index_in_bfloat16_are_those_of_the_safetensors_package(tmp_path):
    random_llama(tmp_path / "hf", ml_dtypes.bfloat16, shard_bytes=3000)
    shards = sorted(path.name for path in (tmp_path / "hf").glob("*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / "hf/model.safetensors.index.json").read_text())
    opened = safetensors_files.open_directory(tmp_path / "hf")
    for shard in shards:
        theirs = load_file(tmp_path / "hf" / shard)
        assert set(theirs) == {name for name, file in index["weight_map"].items() if file == shard}
        for name, array in theirs.items():
            np.testing.assert_array_equal(opened[name].read(), array)
    assert index["metadata"]["total_size"] == sum(
        tensor.read().nbytes for tensor in opened.values()
    )

    convert("hf", "flan", tmp_path / "hf", tmp_path / "ours")
    convert("flan", "hf", tmp_path / "ours", tmp_path / "back")
    same_tensors(tmp_path / "hf", tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_t5_under_the_names_of_old_exports_is_the_same_t5(tmp_path):
    """Both stacks carry the embedding, and a table that nothing reads.

    The shared name may be missing.
    """
    config = {
        "model_type": "t5",
        "vocab_size": 64,
        "d_model": 16,
        "d_kv": 4,
        "d_ff": 24,
        "num_layers": 1,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }
    arrays = random_tensors(config)
    table = arrays["shared.weight"]
    old = {name: array for name, array in arrays.items() if name != "shared.weight"}
    old |= dict.fromkeys(huggingface_t5.EMBEDDING_ALIASES, table)
    old["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = np.zeros(
        (32, 2), np.float32
    )
    for directory, tensors in (("new", arrays), ("old", old)):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "config.json").write_text(json.dumps(config))
        _save(tmp_path / directory, tensors)
        convert("hf", "hf", tmp_path / directory, tmp_path / f"{directory}_out")
    same_tensors(tmp_path / "new_out", tmp_path / "old_out")

    _save(tmp_path / "old", {**old, huggingface_t5.EMBEDDING_ALIASES[1]: table + 1})
    with pytest.raises(UserError, match="differs from shared.weight"):
        open_checkpoint(tmp_path / "old")


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"model_type": "gpt2"},
            "has model_type 'gpt2', but it must be one of gemma2, gemma3_text, llama, ministral, "
            "mistral, mt5, olmo2, qwen2, qwen3, smollm3, t5",
        ),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"rope_type": "proportional", "factor": 2.0}}, "type 'proportional'"),
        ({"num_hidden_layers": 3}, r"\n  missing: model.layers.2.input_layernorm.weight\n"),
        ({"num_hidden_layers": 1}, r"\n  unexpected: model.layers.1.input_layernorm.weight\n"),
        ({"vocab_size": 65}, r"lm_head.weight: \(64, 16\) in the checkpoint, \(65, 16\) in"),
        ({"tie_word_embeddings": True}, "unexpected: lm_head.weight"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_the_reason(tmp_path, changes, message):
    config = random_llama(tmp_path / "hf")
    (tmp_path / "hf/config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match=message):
        open_checkpoint(tmp_path / "hf")


def test_files_that_are_cut_short_or_missing_are_refused(tmp_path):
    random_llama(tmp_path / "hf", shard_bytes=6000)
    shard = sorted((tmp_path / "hf").glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match="cut short at"):
        open_checkpoint(tmp_path / "hf")
    shard.unlink()
    with pytest.raises(UserError, match="is missing"):
        open_checkpoint(tmp_path / "hf")
    shard.write_bytes(b"<html>")
    with pytest.raises(UserError, match="is not a safetensors file"):
        open_checkpoint(tmp_path / "hf")
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(UserError, match="is not a file"):
        open_checkpoint(tmp_path / "hf")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_act": None}, "config.json is not readable (it lacks 'hidden_act'); download"),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "original_max_position_embeddings": 8,
                }
            },
            "config.json (rope_scaling) is not readable (it lacks 'low_freq_factor'); download",
        ),
    ],
)
def test_a_config_that_lacks_a_setting_is_one_sentence(tmp_path, changes, message):
    config = random_llama(tmp_path / "hf") | changes
    kept = {name: value for name, value in config.items() if value is not None}
    (tmp_path / "hf/config.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/hf/{message}")):
        open_checkpoint(tmp_path / "hf")


@pytest.mark.parametrize("name", ["config.json", safetensors_files.INDEX])
def test_json_that_is_cut_short_is_one_sentence(tmp_path, name):
    random_llama(tmp_path / "hf", shard_bytes=6000)
    text = (tmp_path / "hf" / name).read_text()
    (tmp_path / "hf" / name).write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/hf/{name} is not readable (")):
        open_checkpoint(tmp_path / "hf")


LINEAR = {"rope_type": "linear", "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 500.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}
DYNAMIC_2048 = {**DYNAMIC, "original_max_position_embeddings": 2048}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.0, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 2.5],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0],
    "original_max_position_embeddings": 512,
}
LONGROPE_4 = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in LONGROPE.items()
    if name != "rope_theta"
}
SCALING3 = {
    name: value for name, value in LLAMA3_ROPE.items() if name not in ("rope_type", "rope_theta")
}


@pytest.mark.parametrize(
    "rope, expected",
    [
        ({"rope_parameters": PLAIN}, (500.0, None)),
        ({"rope_parameters": PLAIN, "rope_theta": 700.0}, (500.0, None)),
        ({"rope_theta": 700.0}, (700.0, None)),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 700.0}, (700.0, LINEAR)),
        # The older setting counts, and the theta inside the newer one is lost with it.
        ({"rope_parameters": PLAIN, "rope_scaling": LINEAR}, (10000.0, LINEAR)),
        (
            {
                "rope_parameters": PLAIN,
                "rope_scaling": {**LINEAR, "rope_theta": 50.0},
                "rope_theta": 700.0,
            },
            (50.0, LINEAR),
        ),
        ({"rope_parameters": LINEAR, "rope_scaling": {}}, (10000.0, LINEAR)),
        ({"rope_parameters": LINEAR, "rope_scaling": None}, (10000.0, LINEAR)),
        ({"rope_parameters": LLAMA3_ROPE}, (5000.0, SCALING3)),
        ({"rope_parameters": PLAIN, "rope_scaling": LLAMA3_ROPE}, (5000.0, SCALING3)),
        (
            {"rope_parameters": LLAMA3_ROPE, "original_max_position_embeddings": 16},
            (5000.0, {**SCALING3, "original_max_position_embeddings": 16}),
        ),
        (
            {"rope_parameters": LLAMA3_ROPE, "rope_scaling": {"rope_type": "default"}},
            (10000.0, None),
        ),
        *(
            ({"rope_parameters": PLAIN, "rope_scaling": {"rope_type": kind, "factor": 4.0}}, None)
            for kind in ("longrope", "proportional", "new")
        ),
        ({"rope_parameters": PLAIN, "rope_scaling": DYNAMIC}, (10000.0, DYNAMIC_2048)),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, (10000.0, DYNAMIC_2048)),
        (
            {"rope_parameters": {**DYNAMIC, "original_max_position_embeddings": 16}},
            (10000.0, DYNAMIC_2048),
        ),
        ({"rope_parameters": LONGROPE}, (500.0, {**LONGROPE_4, "factor": 4.0})),
        (
            {"rope_scaling": {**LONGROPE, "factor": 3.0, "attention_factor": 1.5}},
            (500.0, {**LONGROPE_4, "factor": 3.0, "attention_factor": 1.5}),
        ),
        ({"rope_parameters": {**LONGROPE, "long_factor": [1.0] * 7}}, None),
        ({"rope_parameters": {**LONGROPE, "long_factor": ["1"] * 8}}, None),
        ({"rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}}, None),
        ({"rope_parameters": PLAIN, "partial_rotary_factor": 0.5}, None),
        ({"rope_parameters": {"full_attention": PLAIN}}, None),
        ({"rope_scaling": {**LINEAR, "factor": "4"}}, None),
        ({"rope_scaling": "linear"}, None),
        ({"rope_theta": True}, None),
        ({"rope_theta": 10**400}, None),
        ({"rope_scaling": {**LINEAR, "factor": 0}}, None),
    ],
    ids=str,
)
def test_rotary_positions_are_those_of_transformers(rope, expected):
    """Of two settings that one counts which does in transformers.

    Where it is installed, so are the frequencies.
    """
    config = {
        "model_type": "llama",
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 24,
        "hidden_act": "silu",
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 2048,
        **rope,
    }
    if expected is None:
        with pytest.raises(UserError, match="config.json"):
            huggingface_decoder.read_config(config, "hf/config.json")
        return
    ours = huggingface_decoder.read_config(config, "hf/config.json")
    scaling = ours.rope_scaling and dict(ours.rope_scaling)
    assert (ours.rope_theta, scaling) == expected
    transformers = pytest.importorskip("transformers", reason=NOT_CHECKED)
    pytest.importorskip("torch", reason=NOT_CHECKED)
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    theirs = LlamaRotaryEmbedding(
        transformers.LlamaConfig.from_dict(json.loads(json.dumps(config)))
    )
    cos, _ = positions.rotary_angles(
        np.ones((1, 1), np.int32), ours.head_dim, ours.rope_theta, ours.rope_scaling
    )
    expected = np.cos(theirs.inv_freq.numpy()) * theirs.attention_scaling
    np.testing.assert_allclose(np.asarray(cos)[0, 0], expected, rtol=1e-6)


def test_one_file_of_weights_goes_before_an_index_as_in_transformers(tmp_path, capsys):
    random_llama(tmp_path / "hf")
    expected = {
        name: tensor.read() for name, tensor in open_checkpoint(tmp_path / "hf").tensors.items()
    }
    old = {
        name: np.zeros_like(value)
        for name, value in load_file(tmp_path / "hf/model.safetensors").items()
    }
    save_file(old, tmp_path / "hf/model-00001-of-00001.safetensors")
    index = tmp_path / "hf/model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": dict.fromkeys(old, "model-00001-of-00001.safetensors")})
    )
    (tmp_path / "hf/pytorch_model.bin").write_bytes(b"of another save")
    for _ in ("with the shards of an earlier save", "without"):
        convert("hf", "flan", tmp_path / "hf", tmp_path / "ours")
        assert (
            "note: the weights are those of model.safetensors, as in transformers"
            in capsys.readouterr().out
        )
        for name, tensor in open_checkpoint(tmp_path / "ours").tensors.items():
            np.testing.assert_array_equal(tensor.read(), expected[name], err_msg=name)
        shutil.rmtree(tmp_path / "ours")
        (tmp_path / "hf/model-00001-of-00001.safetensors").unlink(missing_ok=True)

    (tmp_path / "hf/model.safetensors").rename(tmp_path / "hf/model.fp16.safetensors")
    index.unlink()
    with pytest.raises(
        UserError,
        match=r"no model.safetensors .*\(it has model.fp16.safetensors, pytorch_model.bin\)",
    ):
        open_checkpoint(tmp_path / "hf")


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
)
def test_an_adapter_beside_the_weights_of_a_model_is_named_and_refused(tmp_path, name):
    random_llama(tmp_path / "hf")
    (tmp_path / "hf" / name).write_text("{}")
    with pytest.raises(UserError, match=f"hf has an adapter \\({name}\\) and the weights of a"):
        open_checkpoint(tmp_path / "hf")


def write_safetensors(path, header, body=bytes(24)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def entry(begin, end, shape=None, dtype="F32"):
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


@pytest.mark.parametrize(
    "header, body",
    [
        ({"a": entry(0, 8), "b": entry(16, 24)}, 24),
        ({"a": entry(0, 16), "b": entry(8, 24)}, 24),
        ({"a": entry(0, 24), "b": entry(0, 24)}, 24),
        ({"a": entry(0, 16)}, 24),
        ({"a": entry(0, 24)}, 16),
        ({"a": entry(4, 24)}, 24),
        ({"a": entry(0, 24, [5])}, 24),
        ({"a": entry(0, 24, [2**62, 2**62])}, 24),
        ({"a": entry(0, 24, [-6])}, 24),
        ({"a": entry(0, 24, [6.0])}, 24),
        ({"a": entry(0, 24, dtype="U9")}, 24),
        ({"a": {"dtype": "F32", "shape": [6]}}, 24),
        ({"a": [1]}, 24),
        ({"__metadata__": {"a": 1}, "b": entry(0, 24)}, 24),
        (
            b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}, '
            b'"a": {"dtype": "F32", "shape": [3], "data_offsets": [12, 24]}}',
            24,
        ),
        (b"[]", 0),
        (b"{" * 5_000, 24),
        (b"\xff", 0),
    ],
    ids=range(18),
)
def test_the_rules_of_safetensors_are_those_of_its_package(tmp_path, header, body):
    write_safetensors(tmp_path / "model.safetensors", header, bytes(body))
    with pytest.raises(SafetensorError):
        load_file(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="model.safetensors"):
        safetensors_files.open_directory(tmp_path)


def test_a_header_that_is_longer_than_the_file_is_not_read(tmp_path):
    for length in (2**63, 100_000_001, 10_000, 1):
        (tmp_path / "model.safetensors").write_bytes(
            length.to_bytes(8, "little") + b"{}" + bytes(100)
        )
        with pytest.raises(UserError, match="is not a safetensors file, or cut short"):
            safetensors_files.open_directory(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../elsewhere/model-1.safetensors",
        "/etc/passwd",
        "sub/../../elsewhere/model-1.safetensors",
        7,
        "",
        "a\0b",
        "x" * 5_000,
    ],
)
def test_names_of_shards_stay_in_the_directory(tmp_path, name):
    random_llama(tmp_path / "hf")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "hf/model.safetensors").rename(tmp_path / "elsewhere/model-1.safetensors")
    (tmp_path / "hf" / safetensors_files.INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match="hf"):
        open_checkpoint(tmp_path / "hf")


def test_links_are_followed_inside_a_cache_of_hugging_face_and_nowhere_else(tmp_path):
    random_llama(tmp_path / "hf", shard_bytes=6000)
    hub = tmp_path / "hub/models--a--b"
    snapshot = hub / "snapshots/0123"
    snapshot.mkdir(parents=True)
    shutil.move(tmp_path / "hf", hub / "blobs")
    for file in (hub / "blobs").iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    (tmp_path / "link").symlink_to(snapshot)
    assert (
        len(open_checkpoint(snapshot).tensors)
        == len(open_checkpoint(tmp_path / "link").tensors)
        > 10
    )

    shutil.copytree(hub / "blobs", tmp_path / "copy")
    shard = sorted((tmp_path / "copy").glob("*.safetensors"))[0]
    shard.unlink()
    # as `huggingface-cli download --local-dir` once did
    shard.symlink_to(hub / "blobs" / shard.name)
    assert len(open_checkpoint(tmp_path / "copy").tensors) > 10
    shutil.copytree(hub / "blobs", tmp_path / "blobs")
    shard.unlink()
    shard.symlink_to(tmp_path / "blobs" / shard.name)
    with pytest.raises(
        UserError,
        match=f"leads to {tmp_path}/blobs/{shard.name}, which is outside of {tmp_path}/copy",
    ):
        open_checkpoint(tmp_path / "copy")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 3_000_000_000},
        {"num_hidden_layers": 10**30},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": True},
        {"num_hidden_layers": "2"},
        {"num_hidden_layers": 2.0},
        {"num_attention_heads": 0},
        {"vocab_size": None},
        {"hidden_size": [16]},
        {"rms_norm_eps": "1e-5"},
        {"rms_norm_eps": 0},
        {"hidden_act": [1]},
        {"tie_word_embeddings": "no"},
        {"attention_bias": 1},
        {"model_type": {}},
        {"rope_scaling": [1]},
        {"head_dim": 0.5},
        {"layer_types": ["sliding_attention"]},
        {"layer_types": 5},
        {"transformers_weights": "../x.safetensors"},
    ],
    ids=str,
)
def test_settings_of_wrong_types_and_sizes_are_refused_with_the_file(tmp_path, changes):
    config = random_llama(tmp_path / "hf")
    (tmp_path / "hf/config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match="config.json") as raised:
        open_checkpoint(tmp_path / "hf")
    assert len(str(raised.value)) < 1_000


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 3_000_000_000},
        {"num_decoder_layers": 10**9},
        {"d_model": "16"},
        {"feed_forward_proj": 5},
        {"layer_norm_epsilon": None, "num_heads": True},
        {"tie_word_embeddings": 1},
        {"scale_decoder_outputs": "yes"},
    ],
    ids=str,
)
def test_settings_of_a_t5_are_checked_alike(tmp_path, changes):
    config = {
        "model_type": "t5",
        "vocab_size": 64,
        "d_model": 16,
        "d_kv": 4,
        "d_ff": 24,
        "num_layers": 1,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    _save(tmp_path, {"shared.weight": np.zeros((64, 16), np.float32)})
    with pytest.raises(UserError, match="config.json has "):
        open_checkpoint(tmp_path)


def test_a_long_list_of_differing_tensors_is_cut(tmp_path):
    config = random_llama(tmp_path / "hf", num_hidden_layers=40)
    (tmp_path / "hf/config.json").write_text(
        json.dumps({**config, "intermediate_size": 25, "num_hidden_layers": 1})
    )
    with pytest.raises(UserError, match=r"\n  and 294 more$") as raised:
        open_checkpoint(tmp_path / "hf")
    assert len(str(raised.value)) < 8_000


def test_a_decoder_run_is_exported_in_its_own_sizes(tmp_path):
    """A run's config.gin also has the sizes of T5 tiny, which gin/flan.gin includes."""
    random_llama(tmp_path / "hf", num_attention_heads=8, rms_norm_eps=1e-6)
    convert("hf", "flan", tmp_path / "hf", tmp_path / "run")
    gin_files.parse_command_line(
        ["--gin_file=gin/flan.gin", f"--gin_file={tmp_path}/run/model.gin"], CONFIGURED
    )
    (tmp_path / "run/config.gin").write_text(gin_files.config_text())
    (tmp_path / "run/model.gin").unlink()
    assert model_gin.read_fields(tmp_path / "run/config.gin")["t5"]["num_heads"] == 4
    convert("flan", "hf", tmp_path / "run", tmp_path / "back")
    same_tensors(tmp_path / "hf", tmp_path / "back")
    config = json.loads((tmp_path / "back/config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (
        8,
        2,
        2,
    )


def test_what_hugging_face_cannot_hold_is_refused(tmp_path, capsys):
    random_llama(tmp_path / "hf")
    convert("hf", "flan", tmp_path / "hf", tmp_path / "ours")
    with (tmp_path / "ours/model.gin").open("a") as file:
        file.write("DecoderConfig.prefix = 'bidirectional'\nDecoderConfig.scale_queries = False\n")
    assert (
        dispatch.main(
            [
                "convert",
                "--from=flan",
                "--to=hf",
                f"--input={tmp_path}/ours",
                f"--output={tmp_path}/no",
            ]
        )
        == 2
    )
    assert "which have scaled queries, a causal prefix" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_tokenizer_goes_along_and_names_the_special_tokens(tmp_path):
    random_llama(tmp_path / "hf")
    (tmp_path / "hf/tokenizer.json").write_text("{}")
    (tmp_path / "hf/tokenizer_config.json").write_text(
        json.dumps(
            {
                "eos_token": {"content": "<end>"},
                "bos_token": "<start>",
                "added_tokens_decoder": {"5": {"content": "<start>"}, "6": {"content": "<end>"}},
            }
        )
    )
    (tmp_path / "hf/generation_config.json").write_text('{"eos_token_id": [6, 7]}')
    convert("hf", "flan", tmp_path / "hf", tmp_path / "ours")
    convert("flan", "hf", tmp_path / "ours", tmp_path / "back")
    config = json.loads((tmp_path / "back/config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (
        5,
        [6, 7],
        None,
    )
    assert json.loads((tmp_path / "back/generation_config.json").read_text())["eos_token_id"] == [
        6,
        7,
    ]
    assert (tmp_path / "back/tokenizer.json").read_text() == "{}"
    assert (
        f"VOCABULARY = '{tmp_path}/ours/tokenizer.json'"
        in (tmp_path / "ours/model.gin").read_text()
    )


@pytest.mark.parametrize(
    "others", [["tokenizer.json", "generation_config.json"], ["generation_config.json"], []]
)
def test_the_tokenizer_of_an_export_is_that_which_the_run_names(tmp_path, others):
    random_llama(tmp_path / "hf")
    convert("hf", "flan", tmp_path / "hf", tmp_path / "run")
    (tmp_path / "vocabularies").mkdir()
    for name in others:
        (tmp_path / "vocabularies" / name).write_text("{}")
    (tmp_path / "vocabularies/mine.model").write_text("the run's")
    (tmp_path / "run/model.gin").rename(tmp_path / "run/config.gin")
    with (tmp_path / "run/config.gin").open("a") as file:
        file.write(f"VOCABULARY = '{tmp_path}/vocabularies/mine.model'\n")
    convert("flan", "hf", tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out/spiece.model").read_text() == "the run's"
    assert not (tmp_path / "out/tokenizer.json").exists()


@pytest.mark.parametrize(
    "name, theirs",
    [
        ("tokenizer.json", "tokenizer.json"),
        ("spiece.model", "spiece.model"),
        ("sentencepiece.model", "spiece.model"),
        ("tokenizer.model", "tokenizer.model"),
    ],
)
def test_every_vocabulary_that_a_directory_may_hold_goes_along(tmp_path, name, theirs):
    random_llama(tmp_path / "hf")
    convert("hf", "flan", tmp_path / "hf", tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("the run's")
    (tmp_path / "run/model.gin").rename(tmp_path / "run/config.gin")
    with (tmp_path / "run/config.gin").open("a") as file:
        file.write(f"VOCABULARY = '{tmp_path}/mine'\n")
    convert("flan", "flan", tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out" / theirs).read_text() == "the run's"
    assert f"VOCABULARY = '{tmp_path}/out/{theirs}'" in (tmp_path / "out/model.gin").read_text()
    convert("hf", "hf", tmp_path / "hf", tmp_path / "given", f"--tokenizer={tmp_path}/mine")
    assert (tmp_path / "given" / theirs).read_text() == "the run's"


def test_the_model_card_says_what_the_run_did(tmp_path):
    random_llama(tmp_path / "hf")
    convert("hf", "flan", tmp_path / "hf", tmp_path / "run")
    (tmp_path / "run/checkpoints/0").rename(tmp_path / "run/checkpoints/250")
    (tmp_path / "run/config.gin").write_text(
        (tmp_path / "run/model.gin").read_text() + "TRAIN_STEPS = 250\n"
    )
    (tmp_path / "run/model.gin").unlink()
    card = [
        {
            "dataset": "piqa",
            "cluster": "commonsense",
            "rows": 12,
            "rate": 12,
            "share": 0.25,
            "templates": 10,
        },
        {
            "dataset": "of_their_own",
            "cluster": "misc",
            "rows": 36,
            "rate": 36,
            "share": 0.75,
            "templates": 2,
        },
    ]
    (tmp_path / "run/mixture.json").write_text(
        json.dumps({"held_out": "nli", "eval": ["rte"], "dropped": ["stsb"], "card": card})
    )
    row = {
        "run": "run",
        "step": 250,
        "model": "tuned",
        "size": "tiny",
        "cluster": "nli",
        "dataset": "rte",
        "split": "validation",
        "kind": "forward",
        "shots": 0,
        "instruction_mode": "template",
        "scoring": "sum",
        "metric": "accuracy",
        "value": 61.5,
        "stderr": 1.0,
        "n": 277,
        "template": "plain",
    }
    later, untuned = (
        {**row, "step": 500, "value": 77.5},
        {**row, "step": 0, "model": "untuned", "value": 44.5},
    )
    text = _card_with_results(tmp_path / "run", [row, later, untuned], tmp_path / "out")
    for said in (
        "Held out: nli (rte).",
        "Dropped with it: stsb.",
        "TRAIN_STEPS: `250`",
        "| piqa | commonsense | 12 | ",
        "| accuracy | 277 | 1 | 61.5 |",
        "| 44.5 |",
        "- AFL-3.0: piqa",
        "- unknown: of_their_own",
    ):
        assert said in text, said
    assert "77.5" not in text and "\n## Results\n" in text and "zero-shot" not in text
    text = _card_with_results(tmp_path / "run", [later, untuned], tmp_path / "unknown")
    assert "Step 250 was not evaluated." in text and "77.5" not in text
    # what each half of the rows contributes
    for of, right in ((row, (123.0, 47.355)), (untuned, (80.0, 43.265))):
        parts = np.array([[right[0], 200], [right[1], 77]])
        unit_scores.write(
            tmp_path / f"run/predictions/{of['model']}/rte.validation.plain.units.json",
            ResultRow(**of),
            Measure("ratio", (0, 1), parts),
            ["r0", "r1"],
        )
    text = _card_with_results(tmp_path / "run", [row, untuned], tmp_path / "paired")
    assert "| +17.0 (" in text
    seen = {**row, "cluster": "commonsense", "dataset": "piqa"}
    text = _card_with_results(tmp_path / "run", [row, seen], tmp_path / "seen")
    assert "hence not zero-shot for the model that trained on it: piqa.\n" in text
    remember_run(tmp_path / "run", tmp_path / "run", ["rte"])
    text = _card_with_results(tmp_path / "run", [row, seen], tmp_path / "both")
    assert "hence not zero-shot for the model that trained on it: piqa, rte.\n" in text


def _card_with_results(run, rows, output):
    columns = [field.name for field in dataclasses.fields(ResultRow)]
    lines = [",".join(columns), *(",".join(str(row[column]) for column in columns) for row in rows)]
    (run / "results.csv").write_text("\n".join(lines) + "\n")
    convert("flan", "hf", run, output)
    return (output / "README.md").read_text()


ONTO_A_MESH = """
import json, sys, jax, numpy as np
from flan_jax.checkpoints.load import load_parameters
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.models import decoder, stacking
from flan_jax.parallel import partitioning

checkpoint = open_checkpoint(sys.argv[1])
model = decoder.DecoderLM(checkpoint.config)
ones = np.ones((1, 4), np.int32)
batch = {
    f"decoder_{name}": ones
    for name in ("input_tokens", "segment_ids", "positions", "causal_attention")
}
mesh = partitioning.make_mesh({"fsdp": 2, "model": 2})
with partitioning.use_mesh(mesh):
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
    shardings = partitioning.state_shardings(abstract, mesh)
_, params = load_parameters(sys.argv[1], partitioning.with_shardings(abstract, shardings))
assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding == s, params, shardings)))
split = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(params))
for name, leaf in stacking.named(stacking.unstack(params)).items():
    np.testing.assert_array_equal(leaf, checkpoint.tensors[name].read(), err_msg=name)
print(split)
"""


def test_parameters_come_onto_a_mesh_with_the_shardings_asked_for(tmp_path):
    random_llama(tmp_path / "hf")
    result = subprocess.run(
        [sys.executable, "-c", ONTO_A_MESH, str(tmp_path / "hf")],
        capture_output=True,
        text=True,
        env=simulating(4),
        timeout=300,
    )
    ended_well(result)
    # all matrices: two tables, four of attention, three of the feed-forward layer
    assert int(result.stdout) == 9


@pytest.mark.parametrize("to", ["flan", "t5x", "hf"])
def test_killed_half_way_it_leaves_nothing_that_looks_complete(tmp_path, to):
    random_llama(tmp_path / "hf", hidden_size=128, intermediate_size=256, num_hidden_layers=60)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "flan_jax.convert",
            "--from=hf",
            f"--to={to}",
            f"--input={tmp_path}/hf",
            f"--output={tmp_path}/out",
        ],
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and not any(
        path.is_file() for path in tmp_path.glob(".out.incomplete-*/**/*")
    ):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f".out.incomplete-{process.pid}",
        "hf",
    ]
    left = {path.name for path in tmp_path.glob(".out.incomplete-*/**/*")}
    assert left and not left & {"_METADATA", "checkpoint", "config.json", "model.gin"}
    convert("hf", to, tmp_path / "hf", tmp_path / "out")
    assert len(open_checkpoint(tmp_path / "out").tensors) == 60 * 9 + 3
    # the next one removes what it left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]
