"""The kinds of a decoder's layers, windows and rotary positions in `config.json`, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flan_jax.checkpoints.formats.config_reader import ConfigReader
from flan_jax.config.checks import quoted
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.models.decoder_config import GLOBAL, LOCAL, NO_POSITIONS, DecoderConfig
from flan_jax.models.families import DecoderFamily
from flan_jax.models.rope_scaling import CONTEXT

_KINDS = {"full_attention": GLOBAL, "sliding_attention": LOCAL}
_UNREAD_WINDOW = 4096
_YARN = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")


def read_layers(settings: ConfigReader, family: DecoderFamily, layers: int) -> dict[str, Any]:
    """Returns `layer_pattern` and `window` of a model, by the rules of transformers 5.

    Args:
      settings: of the model.
      family: of the model.
      layers: how many there are.

    Raises:
      UserError: for a kind of layer that the family does not have here.
    """
    window = settings.whole("sliding_window", None)
    switch = settings.flag("use_sliding_window")
    if family.window_switch and not switch:
        window = None
    if NO_POSITIONS in family.kinds:
        if switch:
            raise UserError(
                f"{shown(settings.path)} has use_sliding_window, but the decoder here has no "
                f"windows in {family.name}; convert a model without it."
            )
        return {"layer_pattern": _shortest(_without_positions(settings, family, layers))}
    kinds = _kinds(settings, family, layers, window)
    unknown = set(kinds) - set(family.kinds) - {GLOBAL}
    if unknown or (LOCAL in kinds and window is None):
        raise UserError(
            f"{shown(settings.path)} has layer_types {shown(settings.values.get('layer_types'))} "
            f"and sliding_window {window}, which {family.name} cannot have here; convert another "
            "model."
        )
    return {
        "layer_pattern": _shortest(kinds),
        "window": window if LOCAL in kinds else None,
    }


def _kinds(
    settings: ConfigReader, family: DecoderFamily, layers: int, window: int | None
) -> list[str]:
    listed = settings.values.get("layer_types")
    if listed is not None:
        if not isinstance(listed, list) or len(listed) != layers or set(listed) - set(_KINDS):
            raise UserError(
                f"{shown(settings.path)} has layer_types {shown(listed)}, but a decoder here has "
                f"{' or '.join(_KINDS)} in each of its {layers} layers; convert another model."
            )
        return [_KINDS[kind] for kind in listed]
    if window is None:
        return [GLOBAL] * layers
    if family.window_switch:
        first = settings.whole("max_window_layers", 28, least=0)
        return [LOCAL if i >= first else GLOBAL for i in range(layers)]
    pattern = family.layer_pattern
    if family.pattern_setting:
        every = settings.whole(family.pattern_setting, len(pattern))
        pattern = (*[LOCAL] * (every - 1), GLOBAL)
    return [pattern[i % len(pattern)] for i in range(layers)]


def _without_positions(settings: ConfigReader, family: DecoderFamily, layers: int) -> list[str]:
    """The kinds of layers where some have no positions; `no_rope_layers` has 0 for these."""
    listed = settings.values.get("no_rope_layers")
    if listed is None:
        every = settings.whole("no_rope_layer_interval", len(family.layer_pattern))
        listed = [int((i + 1) % every != 0) for i in range(layers)]
    if not isinstance(listed, list) or len(listed) < layers or set(listed) - {0, 1}:
        raise UserError(
            f"{shown(settings.path)} has no_rope_layers {shown(listed)}, but it must have 0 or 1 "
            f"for each of the {layers} layers."
        )
    return [GLOBAL if has_rope else NO_POSITIONS for has_rope in listed[:layers]]


def _shortest(kinds: Sequence[str]) -> tuple[str, ...]:
    """The shortest pattern that gives these kinds when it is repeated."""
    for length in range(1, len(kinds) + 1):
        if all(kind == kinds[i % length] for i, kind in enumerate(kinds)):
            return tuple(kinds[:length])
    raise ValueError("a decoder has at least one layer")


def write_layers(config: DecoderConfig, family: DecoderFamily) -> dict[str, Any]:
    """Returns what `read_layers` reads of a model."""
    theirs = {kind: name for name, kind in _KINDS.items()}
    kinds = [config.kinds[index] for index in config.kind_of_layer]
    if NO_POSITIONS in family.kinds:
        return {"no_rope_layers": [int(kind != NO_POSITIONS) for kind in kinds]}
    contents: dict[str, Any] = {}
    if LOCAL in family.kinds:
        # With a list of layers transformers needs a number, also where none of them reads it.
        unread = _UNREAD_WINDOW if family.lists_layers else None
        contents["sliding_window"] = config.window or unread
    if family.lists_layers:
        contents["layer_types"] = [theirs[kind] for kind in kinds]
    if family.window_switch:
        # A list goes before it; older programs read only this.
        first = kinds.index(LOCAL) if LOCAL in kinds else len(kinds)
        contents |= {"use_sliding_window": config.window is not None, "max_window_layers": first}
    return contents


def read_rope(settings: ConfigReader, family: DecoderFamily) -> dict[str, Any]:
    """Returns `rope_theta`, `rope_scaling` and `local_rope_theta`, by the rules of transformers 5.

    Its `RotaryEmbeddingConfigMixin`: `rope_scaling`, the older setting, replaces `rope_parameters`
    where it is not empty; a theta inside the one in use goes before the theta beside it;
    `original_max_position_embeddings` beside it goes before that inside. A family whose local
    layers have a base of their own has a table for each kind of layer in `rope_parameters`.
    """
    older = settings.table("rope_scaling")
    rope = older if older.values else settings.table("rope_parameters")
    theta = settings.number("rope_theta", family.default_rope_theta)
    if family.local_rope_theta is None:
        return _read_rope(settings, rope, theta)
    local = settings.number("rope_local_base_freq", family.local_rope_theta)
    nested = settings.table("rope_parameters")
    local_rope = nested.table("sliding_attention")
    fields = _read_rope(settings, older if older.values else nested.table("full_attention"), theta)
    of_local = _read_rope(settings, local_rope, local)
    if of_local["rope_scaling"] is not None:
        raise UserError(
            f"{shown(local_rope.path)} scales the rotary positions of local layers, which the "
            "decoder here does not; convert another model."
        )
    return {**fields, "local_rope_theta": of_local["rope_theta"]}


def _read_rope(settings: ConfigReader, rope: ConfigReader, theta: float) -> dict[str, Any]:
    theta = rope.number("rope_theta", theta)
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    partial = rope.values.get("partial_rotary_factor", settings.values.get("partial_rotary_factor"))
    # A table of tables has settings for each kind of layer.
    is_nested = any(isinstance(value, dict) for value in rope.values.values())
    if kind not in _SCALINGS or partial not in (None, 1) or is_nested:
        raise UserError(
            f"{shown(rope.path)} has rotary positions of type {quoted(kind)} "
            f"(partial_rotary_factor {shown(partial)}), but a decoder here has "
            f"{', '.join(map(repr, _SCALINGS))}, over whole heads and alike in all layers; convert "
            "another model."
        )
    return {"rope_theta": theta, "rope_scaling": _SCALINGS[kind](settings, rope)}


def _linear(_: ConfigReader, rope: ConfigReader) -> dict[str, Any]:
    return {"rope_type": "linear", "factor": rope.number("factor")}


def _llama3(settings: ConfigReader, rope: ConfigReader) -> dict[str, Any]:
    names = ("factor", "low_freq_factor", "high_freq_factor")
    return {**{name: rope.number(name) for name in names}, CONTEXT: _context(settings, rope)}


def _dynamic(settings: ConfigReader, rope: ConfigReader) -> dict[str, Any]:
    # Its context is the length of the model, whatever other settings there are.
    context = settings.whole("max_position_embeddings")
    return {"rope_type": "dynamic", "factor": rope.number("factor"), CONTEXT: context}


def _yarn(settings: ConfigReader, rope: ConfigReader) -> dict[str, Any]:
    scaling = {"rope_type": "yarn", **_extension(settings, rope)}
    scaling |= {name: rope.number(name) for name in _YARN if rope.has(name)}
    return scaling | ({} if rope.flag("truncate", True) else {"truncate": False})


def _longrope(settings: ConfigReader, rope: ConfigReader) -> dict[str, Any]:
    lists = {name: rope.numbers(name) for name in ("short_factor", "long_factor")}
    attention = "attention_factor"
    optional = {attention: rope.number(attention)} if rope.has(attention) else {}
    return {"rope_type": "longrope", **_extension(settings, rope), **lists, **optional}


def _extension(settings: ConfigReader, rope: ConfigReader) -> dict[str, float]:
    """The original context, and how many times longer the model's is."""
    context = _context(settings, rope)
    factor = rope.number("factor", None)
    if factor is None:
        factor = settings.number("max_position_embeddings") / context
    return {"factor": factor, CONTEXT: context}


_SCALINGS = {
    "linear": _linear,
    "llama3": _llama3,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "default": lambda *_: None,
}


def _context(settings: ConfigReader, rope: ConfigReader) -> float:
    """The number of positions that a model was first trained with."""
    inside = rope.number(CONTEXT, settings.number("max_position_embeddings", None))
    context = settings.number(CONTEXT, inside)
    if context is None:
        raise UserError(
            f"{shown(rope.path)} is not readable (it lacks {CONTEXT!r}); download or copy it again."
        )
    return int(context) if context == int(context) else context


def write_rope(config: DecoderConfig, family: DecoderFamily) -> dict[str, Any]:
    """Returns what `read_rope` reads of a model, in the form that older programs read too."""
    scaling, context = dict(config.rope_scaling or {}), 4096
    if scaling.get("rope_type") == "dynamic":
        context = int(scaling.pop(CONTEXT))
    elif scaling:
        context = int(scaling["factor"] * scaling.get(CONTEXT, 4096))
    contents = {
        "rope_theta": config.rope_theta,
        # A rope_type in `scaling`, such as 'linear', replaces Llama 3's.
        "rope_scaling": {"rope_type": "llama3", **scaling} if scaling else None,
        "max_position_embeddings": context,
    }
    if family.local_rope_theta is not None:
        local = config.local_rope_theta
        contents["rope_local_base_freq"] = config.rope_theta if local is None else local
    return contents
