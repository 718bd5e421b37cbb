"""Tiny random models of both families, and random inputs and options for them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.models.decoder import DecoderConfig, DecoderLM
from flan_jax.models.t5 import T5, T5Config

VOCABULARY = ByteVocabulary()


@functools.cache
def make_model(architecture):
    """Returns the model `t5` or `decoder`, and its parameters in memory."""
    if architecture == "t5":
        model = T5(
            T5Config(
                vocab_size=384,
                emb_dim=16,
                num_heads=2,
                head_dim=8,
                mlp_dim=32,
                num_encoder_layers=1,
                num_decoder_layers=2,
                dtype="float32",
            )
        )
    else:
        model = DecoderLM(
            DecoderConfig(
                vocab_size=384,
                emb_dim=16,
                num_heads=4,
                num_kv_heads=2,
                head_dim=8,
                mlp_dim=32,
                num_layers=2,
                positions="rotary",
                prefix="bidirectional",
                dtype="float32",
            )
        )
    ones = jnp.ones((1, 8), jnp.int32)
    batch = dict.fromkeys(
        [
            "encoder_input_tokens",
            "encoder_segment_ids",
            "decoder_input_tokens",
            "decoder_segment_ids",
            "decoder_positions",
            "decoder_causal_attention",
        ],
        ones,
    )
    return model, nn.unbox(jax.jit(model.init)(jax.random.key(0), batch)["params"])


def tokens(text):
    return np.array([*VOCABULARY.encode(text), 1], np.int32)


def rows(count, seed=0):
    """Inputs of 9 or 50 tokens, each with 1 to 4 options of 3 or 8 tokens."""
    generator = np.random.default_rng(seed)

    def text(*lengths):
        return np.array([*generator.integers(3, 259, generator.choice(lengths) - 1), 1], np.int32)

    return (
        [text(9, 50) for _ in range(count)],
        [[text(3, 8) for _ in range(generator.integers(1, 5))] for _ in range(count)],
    )
