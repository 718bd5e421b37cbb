"""GGUF files of decoders: weights dequantized by the `gguf` package, one tensor at a time.

Where the rows of query and key kernels are interleaved (rotary positions rotate neighbors there),
they are put back into halves, as the decoder here has them.
"""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from flan_jax.checkpoints.check import check_tensors
from flan_jax.checkpoints.formats.config_reader import ConfigReader
from flan_jax.checkpoints.formats.gguf_file import MAGIC, GgufFile, GgufTensor, open_file
from flan_jax.checkpoints.model_config import make_config
from flan_jax.checkpoints.reader import CheckpointReader, Tensor
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.models.decoder_config import LOCAL
from flan_jax.models.families import FAMILIES, DecoderFamily
from flan_jax.models.shapes import parameter_shapes

# The families by `general.architecture`.
_FAMILIES = {family.gguf_name or family.name: family for family in FAMILIES.values() if family.gguf}
_FREQUENCIES = "rope_freqs.weight"
# dtypes of weights that are not quantized; others are dequantized to float32.
_DTYPES = {"F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
# Llama 3.1 to 3.3: what the factors on the frequencies follow from.
_LLAMA3_FACTORS = (8.0, 32.0, 16.0, 4.0)
_LLAMA3_CONTEXTS = (8192,)


def is_gguf(path: pathlib.Path) -> bool:
    """Returns whether `path` is a GGUF file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def open_gguf(path: pathlib.Path) -> CheckpointReader:
    """Returns the opened model; its `notes` say how the weights are stored.

    Raises:
      UserError: without the `gguf` package, or for a model that the decoder here cannot compute.
    """
    file = open_file(path)
    settings = ConfigReader(file.metadata, path)
    family = _FAMILIES[settings.choice("general.architecture", _FAMILIES)]
    stored = dict(file.tensors)
    frequencies = stored.pop(_FREQUENCIES, None) if family.name == "llama" else None
    fields = _fields(settings, family, stored)
    if frequencies is not None:
        fields["rope_scaling"] = _llama3_scaling(file.read(frequencies).reshape(-1), fields, path)
    config = make_config("decoder", fields, path)
    shapes = parameter_shapes(config)
    names = family.gguf.names.of_parameters(shapes)
    check_tensors(
        {name: tensor.shape for name, tensor in stored.items()},
        {names[name]: _their_shape(name, shape) for name, shape in shapes.items()},
        path,
        "the shapes of the config follow from the file's metadata:",
        list_all=True,
    )
    heads = {}
    if family.gguf.interleaves_heads:
        heads = {"query": config.num_heads, "key": config.kv_heads}
    tensors = {name: _tensor(file, stored[theirs], name, heads) for name, theirs in names.items()}
    if config.norm_offset:
        tensors = {name: _without_offset(name, tensor) for name, tensor in tensors.items()}
    kinds = ", ".join(sorted({tensor.kind.name for tensor in stored.values()}))
    notes = [f"its weights are stored as {kinds}"]
    return CheckpointReader(path, 0, tensors, config, notes=notes)


def _fields(
    settings: ConfigReader, family: DecoderFamily, stored: dict[str, GgufTensor]
) -> dict[str, Any]:
    """The fields of `DecoderConfig` that the file's metadata and tensors show."""
    table, path = "token_embd.weight", shown(settings.path)
    if settings.whole("split.count", 0, least=0) > 1:
        raise UserError(
            f"{path} is one of the {settings.values['split.count']} parts of a model; join "
            "them with `llama-gguf-split --merge`, and give the result."
        )
    if table not in stored:
        raise UserError(
            f"{path} has no {table}, so it is not a complete model (one part of several?)."
        )
    name = family.gguf_name or family.name
    layers = settings.whole(f"{name}.block_count", most=len(stored))
    key = _LayerSettings(settings, name, layers)
    width, heads = key.whole("embedding_length"), key.whole("attention.head_count")
    head_dim = key.whole("attention.key_length", width // heads)
    rotated = key.whole("rope.dimension_count", head_dim)
    is_causal = key.settings.flag("attention.causal", True)
    if rotated != head_dim or not is_causal:
        raise UserError(
            f"{path} has rotary positions over {rotated} of {head_dim} dimensions and "
            f"attention.causal {is_causal}, but a decoder here has them over whole heads, and is "
            "causal; convert another model."
        )
    return {
        **family.fields,
        **_kinds_of_layers(key.settings, family),
        **_numbers(key.settings, family, layers, width / heads),
        "vocab_size": stored[table].shape[0],
        "emb_dim": width,
        "num_heads": heads,
        "head_dim": head_dim,
        "mlp_dim": key.whole("feed_forward_length"),
        "num_layers": layers,
        "num_kv_heads": key.whole("attention.head_count_kv", heads),
        "rope_theta": key.settings.number("rope.freq_base", 10000.0),
        "rope_scaling": _linear_scaling(key.settings),
        "mlp_activations": (family.gguf.activation, "linear"),
        "logits_via_embedding": "output.weight" not in stored,
        "qkv_bias": "blk.0.attn_q.bias" in stored,
        "norm_epsilon": _decimal(key.settings.number("attention.layer_norm_rms_epsilon")),
    }


def _kinds_of_layers(settings: ConfigReader, family: DecoderFamily) -> dict[str, Any]:
    """The kinds of layers, and their window, by the rules of llama.cpp (src/llama-model.cpp)."""
    rules = family.gguf
    if LOCAL not in rules.layer_pattern:
        window = settings.whole("attention.sliding_window", None)
        # llama.cpp reads a Llama's without using it.
        if window is not None and family.name != "llama":
            raise UserError(
                f"{shown(settings.path)} has attention.sliding_window {window}, but the decoder "
                f"here has no windows in GGUF files of {family.name}; convert another model."
            )
        return {"layer_pattern": rules.layer_pattern}
    return {
        "layer_pattern": rules.layer_pattern,
        "window": settings.whole("attention.sliding_window"),
        "local_rope_theta": rules.local_rope_theta,
    }


def _numbers(
    settings: ConfigReader, family: DecoderFamily, layers: int, shared_scalar: float
) -> dict[str, Any]:
    """The numbers that only some families have."""
    fields: dict[str, Any] = {}
    if "query_scalar" in family.numbers and layers == family.gguf.shared_scalar_at:
        fields["query_scalar"] = shared_scalar
    for field in family.numbers.keys() - {"query_scalar"}:
        name, default = family.numbers[field]
        value = settings.number(name, default)
        fields[field] = None if value is None else _decimal(value)
    return fields


class _LayerSettings:
    """The settings of a family: a number for all layers, or an array with one for each."""

    def __init__(self, settings: ConfigReader, family: str, layers: int):
        prefix = f"{family}."
        values = {
            name.removeprefix(prefix): value
            for name, value in settings.values.items()
            if name.startswith(prefix)
        }
        self.settings = ConfigReader(values, f"{settings.path} ({family}.*)")
        self._layers = layers

    def whole(self, name: str, default: Any = None) -> int:
        value = self.settings.values.get(name)
        if isinstance(value, list):
            if len(value) != self._layers or any(number != value[0] for number in value):
                raise UserError(
                    f"{shown(self.settings.path)} has {name} {shown(value)}, but a decoder here "
                    f"has the same in each of its {self._layers} layers; convert another model."
                )
            return ConfigReader({name: value[0]}, self.settings.path).whole(name)
        return self.settings.whole(name, *([] if default is None else [default]))


def _linear_scaling(settings: ConfigReader) -> dict[str, Any] | None:
    """Returns the scaling of rotary positions, by the rules of llama.cpp.

    They are in `load_hparams` of its src/llama-model.cpp. A file that names no type is of type
    'linear'; `rope.scale_linear` is the older name of the factor, and 0 means none; of type 'none'
    the factor has no effect. YaRN and LongRoPE, which also read the original context length,
    `rope.scaling.yarn_*` and the tensors `rope_factors_*`, are refused, and so is a factor on the
    attention.
    """
    kind = settings.choice("rope.scaling.type", ("none", "linear", "yarn", "longrope"), "linear")
    attention = settings.values.get("rope.scaling.attn_factor", 1.0)
    if kind in ("yarn", "longrope") or attention != 1.0:
        raise UserError(
            f"{shown(settings.path)} has rope.scaling.type {kind!r} and rope.scaling.attn_factor "
            f"{shown(attention)}, but a decoder here has 'none' or 'linear', and Llama 3's; "
            "convert another model."
        )
    name = "rope.scaling.factor" if settings.has("rope.scaling.factor") else "rope.scale_linear"
    if kind == "none" or settings.values.get(name) == 0:
        return None
    factor = settings.number(name, 1.0)
    return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}


def _decimal(value: float) -> float:
    """The short decimal that a float32 was: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _llama3_scaling(
    factors: np.ndarray, fields: dict[str, Any], path: pathlib.Path
) -> dict[str, Any] | None:
    """Returns Llama 3's scaling; the file has only the factors that follow from it.

    Args:
      factors: one per frequency, float32 [C / 2].
      fields: of the configuration.
      path: the file, for messages.

    Raises:
      UserError: for factors that do not follow from it.
    """
    is_whole = factors.size == fields["head_dim"] // 2
    if is_whole and np.all(factors == 1.0):
        return fields["rope_scaling"]
    if is_whole and fields["rope_scaling"] is None:
        half = np.arange(0, fields["head_dim"], 2, dtype=np.float32)
        wavelengths = 2 * np.pi * fields["rope_theta"] ** (half / fields["head_dim"])
        for factor, context in itertools.product(_LLAMA3_FACTORS, _LLAMA3_CONTEXTS):
            smooth = np.clip((context / wavelengths - 1.0) / (4.0 - 1.0), 0.0, 1.0)
            if np.allclose(factors, 1.0 / ((1.0 - smooth) / factor + smooth), rtol=1e-4):
                return {
                    "factor": factor,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": context,
                }
    raise UserError(
        f"{shown(path)} scales its rotary positions ({_FREQUENCIES}) in another way than Llama 3.1 "
        "to 3.3 do; convert the model from its Hugging Face form."
    )


def _without_offset(name: str, tensor: Tensor) -> Tensor:
    """The scale of a norm that multiplies by 1 + scale; llama.cpp keeps the sum."""
    if not name.endswith("scale"):
        return tensor
    return tensor._replace(open=lambda: tensor.open() - np.ones((), tensor.dtype))


def _their_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1] if name.endswith("kernel") else shape


def _tensor(file: GgufFile, stored: GgufTensor, name: str, heads: dict[str, int]) -> Tensor:
    """A tensor of the file under our `name`.

    `heads` has the number of heads by part ('query', 'key') where their rows are interleaved.
    """
    dtype = _DTYPES.get(stored.kind.name, np.dtype(np.float32))
    part = name.split("/")[-2]

    def read() -> np.ndarray:
        array = file.read(stored).astype(dtype, copy=False)
        if part in heads:
            array = _to_halves(array, heads[part])
        return array.T if name.endswith("kernel") else array

    shape = _their_shape(name, stored.shape)
    return Tensor(shape, dtype, read, f"{file.path} ({stored.name})")


def _to_halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows [H * C, ...] whose neighbors rotate together, in the order in which halves do."""
    rows = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)
