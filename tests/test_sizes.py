"""Every size file resolves to a model with the number of parameters that its header names."""

import math
import pathlib
import re

import gin
import pytest

from flan_jax.models.architectures import ARCHITECTURES
from flan_jax.models.shapes import parameter_shapes

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
    shapes = parameter_shapes(ARCHITECTURES[architecture].config(vocab_size=vocab_size))
    assert sum(math.prod(shape) for shape in shapes.values()) == expected
