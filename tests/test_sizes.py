"""Every size file resolves to a model with the number of parameters that its header names."""

import math
import pathlib
import re

import gin
import pytest

from flan_jax.models.architectures import ARCHITECTURES, model_of
from flan_jax.models.decoder_config import DecoderConfig
from flan_jax.models.shapes import parameter_shapes
from flan_jax.optim.adamw import adamw
from flan_jax.parallel.hardware import CHIPS
from flan_jax.peft.config import PeftConfig
from flan_jax.planning import mesh_search
from flan_jax.planning.compiled import Choice, Job
from flan_jax.training.config import TrainConfig

SIZES = sorted((pathlib.Path(__file__).parents[1] / "gin/size").glob("*.gin"))


# Chips of the slices that headers name, a row of 8,192 tokens on each.
LONG_ROWS = {"v5e:4x4": ("v5e", 16), "v5p:2x2x2": ("v5p", 8)}


def parameters_and_vocabulary(text):
    """The two numbers that a header names."""
    header = re.search(r"([\d,]+) parameters with (?:a|its) vocabulary of ([\d,]+)", text)
    return [int(number.replace(",", "")) for number in header.groups()]


def remat_on(kind, chips, config, peft):
    """What remat='auto' is, fully sharded and with AdamW; LoRA with bfloat16 parameters."""
    dtype = "bfloat16" if peft.method else "float32"
    job = Job(
        model_of(config),
        adamw(1e-4),
        TrainConfig(param_dtype=dtype),
        "decoder",
        chips,
        (7168, 1024),
        peft,
    )
    mesh = {"data": 1, "fsdp": chips, "model": 1}
    remat, _ = mesh_search.remat_of(job, mesh, CHIPS[kind])
    choice = Choice(mesh, remat, loss_chunks=job.loss_chunks)
    is_too_large = mesh_search.estimate(job, CHIPS[kind], choice).total > CHIPS[kind].device_memory
    return "too large" if is_too_large else remat


def remat_line(text):
    """The line of the header about long rows."""
    gin.parse_config(text)
    config = DecoderConfig(parameters_and_vocabulary(text)[1], dtype="bfloat16")
    methods = {
        "LoRA": PeftConfig(method="lora", lora_targets="all"),
        "full tuning": PeftConfig(method=None),
    }
    slices = [
        f"{name} "
        + ", ".join(f"{what} {remat_on(*slice_, config, peft)}" for what, peft in methods.items())
        for name, slice_ in LONG_ROWS.items()
    ]
    return f"# Remat:      'auto'; 8,192 tokens a row and chip, by estimate: {'; '.join(slices)}"


@pytest.mark.parametrize(
    "path", [path for path in SIZES if "'rotary'" in path.read_text()], ids=lambda path: path.stem
)
def test_the_header_of_a_decoder_with_rotary_positions_says_what_long_rows_need(path):
    text = path.read_text()
    assert remat_line(text) in text.splitlines()[:6]


@pytest.mark.parametrize("path", SIZES, ids=lambda path: path.stem)
def test_the_header_names_the_parameters(path):
    text = path.read_text()
    expected, vocab_size = parameters_and_vocabulary(text)
    gin.parse_config(text)
    architecture = "t5" if path.stem.startswith("t5_") else "decoder"
    assert (
        gin.query_parameter("%ARCHITECTURE") == architecture
        and gin.query_parameter("%SIZE") == path.stem
    )
    shapes = parameter_shapes(ARCHITECTURES[architecture].config(vocab_size=vocab_size))
    assert sum(math.prod(shape) for shape in shapes.values()) == expected
