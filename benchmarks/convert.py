"""Time and memory of `flan-jax convert`, memory beyond the size of its output.

  python benchmarks/convert.py [--parameters=3e9] [--to=flan] [--dtype=bfloat16] [--directory=DIR]
  [--json=FILE]

Makes a Llama-like safetensors checkpoint of random bfloat16 numbers in shards (it needs room for it
twice over in --directory), converts it in a process of its own, and reports that process's peak
resident memory.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import ml_dtypes
import numpy as np

from flan_jax.checkpoints.formats import huggingface_decoder
from flan_jax.checkpoints.formats.safetensors_files import write_directory
from flan_jax.models.shapes import parameter_shapes

VOCABULARY = 128256
_BLOCK = np.random.default_rng(0).standard_normal(1 << 20).astype(ml_dtypes.bfloat16)


def size_for(parameters: float) -> dict:
    """Returns the `config.json` of a Llama 3.2-like model of about so many parameters."""
    layers = 28 if parameters > 1e9 else 8
    width = 64
    while _count(width + 64, layers) <= parameters:
        width += 64
    return {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": width * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
    }


def _count(width: int, layers: int) -> int:
    return VOCABULARY * width + layers * (4 * width * width + 3 * width * (width * 8 // 3))


def make_checkpoint(directory: pathlib.Path, config: dict) -> int:
    """Writes the checkpoint; returns the number of its parameters."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    ours = parameter_shapes(huggingface_decoder.read_config(config, directory))
    names = huggingface_decoder.tensor_names("llama", ours)
    shapes = {}
    for name, shape in ours.items():
        shape = shape[::-1] if huggingface_decoder.is_transposed(name) else shape
        shapes[names[name]] = (shape, _BLOCK.dtype)
    write_directory(directory, shapes, lambda name: np.resize(_BLOCK, shapes[name][0]))
    return sum(int(np.prod(shape)) for shape, _ in shapes.values())


def measure(root: pathlib.Path, flags: argparse.Namespace) -> dict[str, float]:
    """Makes and converts the checkpoint; returns the measurements by name."""
    parameters = make_checkpoint(root / "in", size_for(flags.parameters))
    start = time.perf_counter()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "flan_jax.convert",
            "--from=hf",
            f"--to={flags.to}",
            f"--input={root / 'in'}",
            f"--output={root / 'out'}",
            f"--dtype={flags.dtype}",
        ],
        check=True,
    )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    written = parameters * (2 if flags.dtype == "bfloat16" else 4)
    return {
        "parameters": parameters,
        "written_gb": written / 1e9,
        "seconds": seconds,
        "peak_rss_gb": peak / 1e9,
        "beyond_written_gb": max(0.0, peak - written) / 1e9,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=float, default=3e9)
    parser.add_argument("--to", choices=["flan", "t5x", "hf"], default="flan")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument(
        "--directory", help="where the two checkpoints lie for a while (default: the system's)"
    )
    parser.add_argument("--json")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=flags.directory) as directory:
        results = measure(pathlib.Path(directory), flags)
    for name, value in results.items():
        print(f"{name}: {value:,.2f}")
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
