"""What the tests of `flan-jax convert` share.

Batches, random tensors, our logits of a checkpoint of any form, the verb.
"""

import dataclasses

import jax
import numpy as np

from flan_jax.checkpoints.formats import huggingface_decoder, huggingface_t5, safetensors_files
from flan_jax.checkpoints.load import load_parameters
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.cli import dispatch
from flan_jax.models.architectures import model_of
from flan_jax.models.shapes import parameter_shapes
from flan_jax.parallel import partitioning


def t5_batch(vocab_size):
    """Random tokens for a T5, one row of the source padded."""
    rng = np.random.default_rng(0)
    source, target = rng.integers(2, vocab_size, (3, 40)), rng.integers(2, vocab_size, (3, 11))
    source[1, 30:], target[:, 0] = 0, 0
    return {
        "encoder_input_tokens": source.astype(np.int32),
        "encoder_segment_ids": (source > 0).astype(np.int32),
        "decoder_input_tokens": target.astype(np.int32),
        "decoder_segment_ids": np.ones_like(target, np.int32),
    }


def decoder_batch(vocab_size):
    """Random tokens for a decoder-only model."""
    tokens = np.random.default_rng(0).integers(0, vocab_size, (3, 50)).astype(np.int32)
    positions = np.tile(np.arange(50, dtype=np.int32), (3, 1))
    return {
        "decoder_input_tokens": tokens,
        "decoder_segment_ids": np.ones_like(tokens),
        "decoder_positions": positions,
        "decoder_causal_attention": np.zeros_like(tokens),
    }


LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def random_tensors(config, drawn=lambda name, array: array):
    """Random tensors of the model of a config.json, by the names and with the axes it has there.

    `drawn` makes them, by our name, of normal numbers.
    """
    if config["model_type"] == "t5":
        form, has_head = huggingface_t5, not config["tie_word_embeddings"]
        shapes = parameter_shapes(form.read_config(config, has_head, "here"))
        names = form.tensor_names(shapes)
    else:
        form = huggingface_decoder
        shapes = parameter_shapes(form.read_config(config, "here"))
        names = form.tensor_names(config["model_type"], shapes)
    rng, arrays = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        theirs = shape[::-1] if form.is_transposed(name) else shape
        arrays[names[name]] = drawn(name, rng.standard_normal(theirs)).astype(np.float32)
    return arrays


def our_logits(path, batch):
    """Logits of the checkpoint of any form at `path`, loaded as training loads it.

    Stacked, in float32.
    """
    checkpoint = open_checkpoint(path)
    model = model_of(dataclasses.replace(checkpoint.config, dropout_rate=0.0))
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
    _, params = load_parameters(path, partitioning.unbox(boxed))
    return np.asarray(jax.jit(model.apply)({"params": params}, batch))


def convert(form, to, path, output, *more):
    """`flan-jax convert`, which has to succeed."""
    assert (
        dispatch.main(
            [
                "convert",
                f"--from={form}",
                f"--to={to}",
                f"--input={path}",
                f"--output={output}",
                *more,
            ]
        )
        == 0
    )


def same_tensors(one, other):
    """Asserts that two directories of safetensors hold the same names, dtypes and bytes."""
    first, second = safetensors_files.open_directory(one), safetensors_files.open_directory(other)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype, name
        np.testing.assert_array_equal(first[name].read(), second[name].read(), err_msg=name)
