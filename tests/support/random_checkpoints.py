"""Directories of Hugging Face with small random models, written without `transformers`."""

import json

import numpy as np

from flan_jax.checkpoints.formats import huggingface_decoder, huggingface_t5, safetensors_files
from flan_jax.models.shapes import parameter_shapes

T5 = {
    "model_type": "t5",
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 1,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def random_model(directory, config):
    """A Hugging Face directory of random numbers, large enough that answers differ.

    Written without `transformers`.
    """
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    is_t5 = config["model_type"] == "t5"
    if is_t5:
        parameters = parameter_shapes(huggingface_t5.read_config(config, True, directory))
        names = huggingface_t5.tensor_names(parameters)
    else:
        parameters = parameter_shapes(huggingface_decoder.read_config(config, directory))
        names = huggingface_decoder.tensor_names(config["model_type"], parameters)
    family = huggingface_t5 if is_t5 else huggingface_decoder
    rng, arrays = np.random.default_rng(0), {}
    for name, shape in parameters.items():
        theirs = shape[::-1] if family.is_transposed(name) else shape
        arrays[names[name]] = (0.7 * rng.standard_normal(theirs)).astype(np.float32)
    arrays["lm_head.weight"][2] = 0.0  # <unk>, which is written differently
    safetensors_files.write_directory(
        directory, {n: (a.shape, a.dtype) for n, a in arrays.items()}, arrays.get
    )
    return directory
