"""A large model in a bucket: its arrays are read by ranges, one at a time."""

import json
import subprocess
import sys

import numpy as np
import pytest

from flan_jax.checkpoints.formats import safetensors_files
from flan_jax.checkpoints.formats.huggingface_decoder import read_config, tensor_names
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.models.shapes import parameter_shapes
from support.converting import LLAMA
from support.processes import ended_well, simulating

MB = 2**20
WIDE = {
    **LLAMA,
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
}
PEAK = r"""
import re, sys
import jax, tensorstore
from flan_jax import convert

def peak():  # of this program alone: that of getrusage is also of what started it
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) * 1024

before = peak()
status = convert.main(sys.argv[1:])
print("PEAK", peak() - before)
sys.exit(status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("to", ["hf", "flan"])
def test_a_model_of_a_gigabyte_is_converted_from_a_bucket_array_by_array(buckets, tmp_path, to):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(WIDE))
    parameters = parameter_shapes(read_config(WIDE, "here"))
    names = tensor_names("llama", parameters)
    rng, shapes = np.random.default_rng(0), {}
    for name, shape in parameters.items():
        is_matrix = name.endswith("kernel")
        shapes[names[name]] = (shape[::-1] if is_matrix else shape, np.dtype(np.float32))
    safetensors_files.write_directory(
        tmp_path / "model", shapes, lambda name: rng.random(shapes[name][0], np.float32)
    )
    file = tmp_path / "model/model.safetensors"
    size, largest = file.stat().st_size, max(4 * int(np.prod(s)) for s, _ in shapes.values())
    assert size > 900 * MB
    buckets.upload(tmp_path / "model", "models/wide")
    output = tmp_path / "out"
    arguments = [f"--to={to}", "--input=gs://bucket1/models/wide", f"--output={output}"]
    result = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, env=simulating(1)
    )
    ended_well(result)
    peak = int(result.stdout.rpartition("PEAK ")[2])
    print(f"{size / MB:.0f} MB of weights, largest array {largest / MB:.0f} MB: {peak / MB:.0f} MB")
    assert peak < largest + 300 * MB
    # a range is at most 16 MB, and every byte is read once
    reads = [logged for logged in buckets.log if logged.what.endswith("model.safetensors")]
    media = sum("alt=media" in logged.query for logged in reads)
    assert size / (16 * MB) <= media < size / (16 * MB) + 3 * len(shapes)
    stored = open_checkpoint(file.parent).tensors
    written = open_checkpoint(output).tensors
    assert stored.keys() == written.keys()
    for name in stored:
        np.testing.assert_array_equal(written[name].read(), stored[name].read(), err_msg=name)
