"""Every size file resolves to a model with the number of parameters that its header names."""

import pathlib
import re

import gin
import jax
import jax.numpy as jnp
import pytest

from flan_jax.models import t5

SIZES = sorted((pathlib.Path(__file__).parents[1] / "gin/size").glob("t5_*.gin"))


@pytest.mark.parametrize("path", SIZES, ids=lambda path: path.stem)
def test_the_header_names_the_parameters(path):
    gin.parse_config_file(str(path))
    config = t5.T5Config(vocab_size=32128)
    names = ("encoder_input_tokens", "encoder_segment_ids", "decoder_input_tokens", "decoder_segment_ids")
    batch = {name: jax.ShapeDtypeStruct((1, 8), jnp.int32) for name in names}
    params = jax.eval_shape(t5.T5(config).init, jax.random.key(0), batch)
    header = re.search(r"([\d,]+) parameters with a vocabulary of 32,128", path.read_text())[1]
    assert sum(x.size for x in jax.tree.leaves(params)) == int(header.replace(",", ""))
