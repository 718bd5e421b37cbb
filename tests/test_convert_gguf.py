"""GGUF files, written here by the `gguf` package.

The same logits as the same weights in Hugging Face's form.
"""

import json

import numpy as np
import pytest

from flan_jax.checkpoints.formats import huggingface_decoder, safetensors_files
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.checkpoints.tuned import open_whole
from flan_jax.cli import dispatch
from flan_jax.data.vocabulary import load_vocabulary
from flan_jax.errors import UserError
from flan_jax.models.shapes import parameter_shapes
from support.adapters import save_adapter
from support.converting import convert, decoder_batch, our_logits

gguf = pytest.importorskip("gguf", reason="NOT CHECKED: reading GGUF needs the extra [hf]")

WIDTH, HEADS, KV_HEADS, HIDDEN, LAYERS, VOCABULARY = 32, 4, 2, 64, 2, 96
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def random_model(path, kind="llama", tied=True, rope=None):
    """A Hugging Face directory with random weights; gives them by their names there."""
    path.mkdir()
    config = {
        "model_type": kind,
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e5,
        "rope_scaling": rope,
        "tie_word_embeddings": tied,
    }
    (path / "config.json").write_text(json.dumps(config))
    parameters = parameter_shapes(huggingface_decoder.read_config(config, path))
    rng = np.random.default_rng(0)
    names, arrays = huggingface_decoder.tensor_names("llama", parameters), {}
    for name, shape in parameters.items():
        center = 1.0 if name.endswith("scale") else 0.0
        theirs = shape[::-1] if huggingface_decoder.is_transposed(name) else shape
        arrays[names[name]] = (center + 0.2 * rng.standard_normal(theirs)).astype(np.float32)
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    safetensors_files.write_directory(path, shapes, arrays.__getitem__)
    return arrays


def rope_scaling(path):
    scaling = open_checkpoint(path).config.rope_scaling
    return scaling and dict(scaling)


def neighbours(array, heads):
    """Rows as llama.cpp's rotary positions want them.

    The two of a pair, half a head apart, side by side.
    """
    pairs = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(array.shape)


def write_gguf(
    path,
    arrays,
    kind="llama",
    quantise=None,
    frequencies=None,
    leave_out=(),
    tokenizer=None,
    per_layer=None,
    more=lambda writer: None,
):
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    numbers = {
        "add_feed_forward_length": HIDDEN,
        "add_head_count": HEADS,
        "add_head_count_kv": KV_HEADS,
    }
    for name, number in numbers.items():
        getattr(writer, name)(
            number if per_layer is None else [number] * (LAYERS - 1) + [number * per_layer]
        )
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    more(writer)
    writer.add_tokenizer_model("gpt2")
    tokens, merges = tokenizer or ([f"token{i}" for i in range(VOCABULARY)], [])
    writer.add_token_list(tokens)
    writer.add_eos_token_id(2)
    if tokenizer:
        writer.add_tokenizer_pre("smollm")
        writer.add_token_merges(merges)
        writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
        writer.add_bos_token_id(1)
        writer.add_chat_template("{{ messages }}")
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, array in arrays.items():
        stem, _, end = name.rpartition(".")
        if stem.startswith("model.layers."):
            i, _, rest = stem.removeprefix("model.layers.").partition(".")
            theirs = f"blk.{i}.{IN_LAYER[rest]}.{end}"
        else:
            theirs = f"{top[stem]}.{end}"
        if kind == "llama" and (".q_proj" in name or ".k_proj" in name):
            array = neighbours(array, HEADS if ".q_proj" in name else KV_HEADS)
        if theirs in leave_out:
            continue
        if quantise and array.ndim == 2:
            writer.add_tensor(theirs, gguf.quantize(array, quantise), raw_dtype=quantise)
        else:
            writer.add_tensor(theirs, array)
    if frequencies is not None:
        writer.add_tensor("rope_freqs.weight", frequencies)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind, tied", [("llama", True), ("llama", False), ("qwen2", True)])
def test_a_gguf_file_is_the_model_it_was_made_from(tmp_path, capsys, kind, tied):
    arrays = random_model(tmp_path / "hf", kind, tied)
    write_gguf(tmp_path / "model.gguf", arrays, kind)
    batch = decoder_batch(VOCABULARY)
    expected = our_logits(tmp_path / "hf", batch)
    np.testing.assert_allclose(our_logits(tmp_path / "model.gguf", batch), expected, atol=1e-5)

    convert("gguf", "hf", tmp_path / "model.gguf", tmp_path / "back")
    back = safetensors_files.open_directory(tmp_path / "back")
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name].read(), array, err_msg=name)
    said = capsys.readouterr().out
    assert (
        "stored as F32" in said
        and "type 'gpt2', splits text like None and has 96 tokens; it cannot" in said
    )


def test_quantised_weights_come_out_near_what_they_were(tmp_path):
    arrays = random_model(tmp_path / "hf")
    write_gguf(tmp_path / "model.gguf", arrays, quantise=gguf.GGMLQuantizationType.Q8_0)
    convert("gguf", "flan", tmp_path / "model.gguf", tmp_path / "ours", "--dtype=bfloat16")
    checkpoint, original = open_checkpoint(tmp_path / "ours"), open_checkpoint(tmp_path / "hf")
    assert checkpoint.tensors.keys() == original.tensors.keys()
    for name, tensor in checkpoint.tensors.items():
        assert tensor.dtype.name == "bfloat16", name
        np.testing.assert_allclose(
            tensor.read().astype(np.float32), original.tensors[name].read(), atol=0.02
        )


def test_a_gguf_file_may_be_the_base_of_an_adapter(tmp_path):
    write_gguf(tmp_path / "base.gguf", random_model(tmp_path / "hf"))
    rng, added = np.random.default_rng(0), {}
    for i in range(LAYERS):
        key = f"base_model.model.model.layers.{i}.self_attn.q_proj"
        added[f"{key}.lora_A.weight"] = rng.standard_normal((2, WIDTH)).astype(np.float32)
        added[f"{key}.lora_B.weight"] = rng.standard_normal((WIDTH, 2)).astype(np.float32)
    for name, base in (("on_gguf", "../base.gguf"), ("on_hf", "../hf")):
        save_adapter(tmp_path / name, added, base=base, target_modules=["q_proj"])
        convert("peft", "flan", tmp_path / name, tmp_path / f"{name}_run", "--unmerged")
    record = json.loads((tmp_path / "on_gguf_run/base.json").read_text())
    assert record["path"] == str(tmp_path / "base.gguf")
    found, expected = (open_whole(tmp_path / name).tensors for name in ("on_gguf_run", "on_hf_run"))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name].read(), tensor.read(), atol=1e-6, err_msg=name)


def test_the_rotary_scaling_of_llama_3_is_recognised(tmp_path, capsys):
    arrays = random_model(tmp_path / "hf", rope=LLAMA3)
    half = np.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS)
    wavelengths = 2 * np.pi * 1e5**half
    smooth = (8192 / wavelengths - 1) / 3
    middle = 1 / ((1 - smooth) / 8 + smooth)
    factors = np.where(
        wavelengths < 8192 / 4, 1.0, np.where(wavelengths > 8192, 8.0, middle)
    ).astype(np.float32)
    assert factors.max() > 1.0 and factors.min() == 1.0
    write_gguf(tmp_path / "model.gguf", arrays, frequencies=factors)
    found = open_checkpoint(tmp_path / "model.gguf").config
    assert found == open_checkpoint(tmp_path / "hf").config

    write_gguf(tmp_path / "other.gguf", arrays, frequencies=factors * 1.1)
    assert (
        dispatch.main(
            [
                "convert",
                "--from=gguf",
                "--to=hf",
                f"--input={tmp_path / 'other.gguf'}",
                f"--output={tmp_path / 'no'}",
            ]
        )
        == 2
    )
    assert "another way than Llama 3" in capsys.readouterr().err


def test_a_file_that_lacks_tensors_is_refused_with_all_their_names(tmp_path, capsys):
    arrays = random_model(tmp_path / "hf")
    write_gguf(
        tmp_path / "cut.gguf", arrays, leave_out=("blk.1.ffn_up.weight", "output_norm.weight")
    )
    assert (
        dispatch.main(
            [
                "convert",
                "--from=gguf",
                "--to=flan",
                f"--input={tmp_path / 'cut.gguf'}",
                f"--output={tmp_path / 'no'}",
            ]
        )
        == 2
    )
    said = capsys.readouterr().err.splitlines()
    assert sorted(said[1:]) == ["  missing: blk.1.ffn_up.weight", "  missing: output_norm.weight"]
    assert not (tmp_path / "no").exists()


def test_a_byte_level_tokenizer_comes_out_of_the_file(tmp_path):
    tokenizers = pytest.importorskip(
        "tokenizers", reason="NOT CHECKED: tokenizer.json needs the extra [hf]"
    )
    words = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        *"abcdehlmnorstw0123456789",
        "Ġ",
        "he",
        "ll",
        "hell",
        "hello",
        "Ġw",
        "or",
        "Ġwor",
    ]
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or"]
    tokenizer = words + [f"unused{i}" for i in range(VOCABULARY - len(words))], merges
    write_gguf(tmp_path / "model.gguf", random_model(tmp_path / "hf"), tokenizer=tokenizer)
    convert("gguf", "hf", tmp_path / "model.gguf", tmp_path / "out")
    found = tokenizers.Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    encoded = found.encode("hello world 12<|im_end|>")
    assert encoded.tokens == ["hello", "Ġwor", "l", "d", "Ġ", "1", "2", "<|im_end|>"]
    assert found.decode(encoded.ids) == "hello world 12"
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, None)
    said = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert (said["eos_token"], said["chat_template"]) == ("<|im_end|>", "{{ messages }}")

    def more(writer):
        writer.add_eot_token_id(0)
        writer.add_license("apache-2.0")
        writer.add_base_model_count(1)
        writer.add_base_model_repo_url(0, "https://huggingface.co/owner/small")

    write_gguf(
        tmp_path / "chat.gguf", random_model(tmp_path / "hf2"), tokenizer=tokenizer, more=more
    )
    convert("gguf", "flan", tmp_path / "chat.gguf", tmp_path / "ours")
    assert load_vocabulary(str(tmp_path / "ours")).eos_ids == (2, 0)
    convert("flan", "hf", tmp_path / "ours", tmp_path / "chat")
    assert json.loads((tmp_path / "chat/config.json").read_text())["eos_token_id"] == [2, 0]
    header = (tmp_path / "chat/README.md").read_text().split("---")[1]
    assert "\nbase_model: owner/small\nlicense: apache-2.0\n" in header


def linear(key, value):
    """Adds llama.<key>, as older converters of llama.cpp wrote it."""
    return lambda writer: writer.add_float32(f"llama.{key}", value)


@pytest.mark.parametrize(
    "more, factor",
    [
        (linear("rope.scaling.factor", 4.0), 4.0),
        (linear("rope.scale_linear", 4.0), 4.0),
        (
            lambda writer: (
                linear("rope.scaling.factor", 2.0)(writer),
                linear("rope.scale_linear", 4.0)(writer),
            ),
            2.0,
        ),
        (
            lambda writer: (
                linear("rope.scaling.factor", 4.0)(writer),
                writer.add_string("llama.rope.scaling.type", "none"),
            ),
            None,
        ),
        (linear("rope.scaling.factor", 0.0), None),
        (linear("rope.scaling.factor", 1.0), None),
        (lambda writer: writer.add_rope_scaling_finetuned(True), None),
        (linear("rope.scaling.attn_factor", 1.0), None),
    ],
    ids=range(8),
)
def test_linear_rotary_scaling_is_that_of_llama_cpp(tmp_path, more, factor):
    """The factors that llama.cpp's `load_hparams` gives, by its source."""
    arrays = random_model(
        tmp_path / "hf", rope=factor and {"rope_type": "linear", "factor": factor}
    )
    write_gguf(tmp_path / "model.gguf", arrays, more=more)
    expected = factor and {"rope_type": "linear", "factor": factor}
    assert rope_scaling(tmp_path / "model.gguf") == expected
    assert rope_scaling(tmp_path / "hf") == expected


@pytest.mark.parametrize(
    "more, reason",
    [
        (lambda writer: writer.add_string("llama.rope.scaling.type", "yarn"), "type 'yarn'"),
        (
            lambda writer: writer.add_string("llama.rope.scaling.type", "longrope"),
            "type 'longrope'",
        ),
        (
            lambda writer: writer.add_string("llama.rope.scaling.type", "new"),
            "must be one of linear, longrope, none, yarn",
        ),
        (linear("rope.scaling.attn_factor", 1.2), "attn_factor 1.2"),
        (linear("rope.scaling.factor", -1.0), "above 0"),
        (lambda writer: writer.add_uint16("split.count", 3), "one of the 3 parts of a model"),
        (lambda writer: writer.add_bool("llama.attention.causal", False), "attention.causal False"),
        (
            lambda writer: writer.add_array("llama.attention.key_length", [8, 4]),
            "the same in each of its 2 layers",
        ),
        (
            lambda writer: writer.add_array("llama.attention.key_length", ["8", "8"]),
            "must be a whole number",
        ),
    ],
)
def test_what_llama_cpp_reads_and_a_decoder_here_has_not_is_refused(tmp_path, more, reason):
    write_gguf(tmp_path / "model.gguf", random_model(tmp_path / "hf"), more=more)
    with pytest.raises(UserError, match=reason):
        open_checkpoint(tmp_path / "model.gguf")


def test_settings_given_for_each_layer_are_read_where_they_agree(tmp_path):
    arrays = random_model(tmp_path / "hf")
    write_gguf(tmp_path / "model.gguf", arrays, per_layer=1)
    assert (
        open_checkpoint(tmp_path / "model.gguf").config == open_checkpoint(tmp_path / "hf").config
    )
    write_gguf(tmp_path / "other.gguf", arrays, per_layer=2)
    with pytest.raises(
        UserError, match="has attention.head_count .* the same in each of its 2 layers"
    ):
        open_checkpoint(tmp_path / "other.gguf")


def test_numbers_in_a_gguf_file_are_bounded_by_its_size(tmp_path):
    write_gguf(tmp_path / "model.gguf", random_model(tmp_path / "hf"))
    data = bytearray((tmp_path / "model.gguf").read_bytes())
    layers = data.index(b"llama.block_count") + len("llama.block_count") + 4
    for at, number in ((8, 2**60), (16, 2**60), (layers, 3_000_000_000)):  # tensors, keys, layers
        size = 4 if at == layers else 8
        (tmp_path / "large.gguf").write_bytes(
            data[:at] + number.to_bytes(size, "little") + data[at + size :]
        )
        with pytest.raises(UserError, match="large.gguf"):
            open_checkpoint(tmp_path / "large.gguf")
    for damaged in (data[:-40], data[: len(data) // 9], data[:2]):
        (tmp_path / "cut.gguf").write_bytes(damaged)
        with pytest.raises(UserError, match="cut.gguf"):
            open_checkpoint(tmp_path / "cut.gguf", "gguf")


def test_a_file_in_a_bucket_is_read_as_on_the_disk(buckets, tmp_path):
    write_gguf(tmp_path / "model.gguf", random_model(tmp_path / "hf"))
    buckets.upload(tmp_path / "model.gguf", "models/model.gguf")
    here = open_checkpoint(tmp_path / "model.gguf")
    there = open_checkpoint("gs://bucket1/models/model.gguf")
    for name, tensor in here.tensors.items():
        np.testing.assert_array_equal(there.tensors[name].read(), tensor.read(), err_msg=name)
