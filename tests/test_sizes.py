"""Every size file resolves to a model with the number of parameters that its header names."""

import pathlib
import re

import gin
import jax
import jax.numpy as jnp
import pytest

from flan_jax.models import decoder, t5

MODELS = {"t5": (t5.T5, t5.T5Config), "decoder": (decoder.DecoderLM, decoder.DecoderConfig)}
SIZES = sorted((pathlib.Path(__file__).parents[1] / "gin/size").glob("*.gin"))


@pytest.mark.parametrize("path", SIZES, ids=lambda path: path.stem)
def test_the_header_names_the_parameters(path):
    text = path.read_text()
    header = re.search(r"([\d,]+) parameters with (?:a|its) vocabulary of ([\d,]+)", text)
    expected, vocab_size = (int(number.replace(",", "")) for number in header.groups())
    gin.parse_config(text)
    architecture = "t5" if path.stem.startswith("t5_") else "decoder"
    assert (
        gin.query_parameter("%ARCHITECTURE") == architecture
        and gin.query_parameter("%SIZE") == path.stem
    )
    batch = {
        f"{side}_{what}": jax.ShapeDtypeStruct((1, 8), jnp.int32)
        for side in ("encoder", "decoder")
        for what in ("input_tokens", "segment_ids", "positions", "causal_attention")
    }
    network, config = MODELS[architecture]
    params = jax.eval_shape(network(config(vocab_size=vocab_size)).init, jax.random.key(0), batch)
    assert sum(x.size for x in jax.tree.leaves(params)) == expected
