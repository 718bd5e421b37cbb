"""Hugging Face's `adapter_config.json`, both ways: which modules have an adapter, and of what kind.

Modules are named there as in `transformers`: `decoder.block.0.layer.0.SelfAttention.q`.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Collection, Iterable
from typing import Any

from flan_jax.checkpoints.formats.config_reader import ConfigReader
from flan_jax.checkpoints.formats.safetensors_files import INDEX, SINGLE
from flan_jax.config.checks import quoted
from flan_jax.errors import UserError
from flan_jax.messages import shown
from flan_jax.storage.files import read_json
from flan_jax.storage.paths import inside

FILE = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ALL_LINEAR = "all-linear"
Names = list[str] | str | None  # the ends of modules' names, a regular expression, or not given

PROMPT_TUNING = "PROMPT_TUNING"
_METHODS = {"LORA": "lora", "IA3": "ia3", PROMPT_TUNING: "prompt"}
_READ = {
    *("peft_type", "base_model_name_or_path", "target_modules", "exclude_modules"),
    *("modules_to_save", "fan_in_fan_out"),
}
_READ_BY_METHOD = {
    "lora": {"r", "lora_alpha", "use_rslora", "lora_dropout", "bias", "init_lora_weights"},
    "ia3": {"feedforward_modules"},
    "prompt": {"num_virtual_tokens", "num_transformer_submodules"},
}
# What has no effect on the numbers of a trained adapter, or only with a setting that is refused.
_WITHOUT_EFFECT = {
    *("auto_mapping", "inference_mode", "peft_version", "revision", "task_type"),
    *("init_ia3_weights", "megatron_core", "qalora_group_size", "runtime_config"),
    *("eva_config", "corda_config", "loftq_config", "lora_ga_config"),
    *("token_dim", "num_attention_heads", "num_layers", "tokenizer_name_or_path"),
    *("tokenizer_kwargs", "prompt_tuning_init", "prompt_tuning_init_text"),
}
# Of these the base stays as it is; others, such as PiSSA, change its matrices before training.
_INITS = (None, True, False, "gaussian", "orthogonal", "eva")
_UNUSED = (None, False, "", [], {})  # values of a setting that is not used
TASKS = {"t5": "SEQ_2_SEQ_LM", "decoder": "CAUSAL_LM"}


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """What an `adapter_config.json` says.

    Attributes:
      path: the file, for messages.
      method: 'lora', 'ia3' or 'prompt'.
      base: the name or the path of the model that was tuned; '' if it has none.
      rank: of LoRA; 0 for other methods.
      alpha: of LoRA.
      scale: the factor of LoRA's product.
      targets: the modules with adapters.
      excluded: those of them without.
      feedforward: those of which IA3 scales the input.
      saved: modules that were trained as a whole.
      notes: facts for the user, one sentence each.
      prompt_length: vectors of a prompt; 0 for other methods.
      prompt_rows: of the table with the prompt, which may have as many again for a T5's decoder.
    """

    path: pathlib.Path
    method: str
    base: str
    rank: int
    alpha: float
    scale: float
    targets: Names
    excluded: Names
    feedforward: Names
    saved: list[str]
    notes: list[str]
    prompt_length: int = 0
    prompt_rows: int = 0

    def is_target(self, module: str, is_linear: bool = True) -> bool:
        """Returns whether a module has an adapter, by the rules of peft.

        Args:
          module: its name.
          is_linear: whether it is a dense map, and not the one of the logits.
        """
        if matches(self.excluded, module) or any(
            re.match(rf"(^|.*\.){re.escape(saved)}($|\..*)", module) for saved in self.saved
        ):
            return False
        if isinstance(self.targets, str) and self.targets.lower() == ALL_LINEAR:
            return is_linear
        return matches(self.targets, module)


def is_adapter(path: pathlib.Path) -> bool:
    """Returns whether a path is the directory of an adapter, without the weights of a model."""
    has_model = any((path / name).is_file() for name in (SINGLE, INDEX))
    return (path / FILE).is_file() and not has_model


def matches(names: Names, module: str) -> bool:
    """Returns whether names, as a setting has them, are of a module: by its end or as a whole."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names or ())


def read_config(directory: pathlib.Path) -> AdapterConfig:
    """Returns the settings of an adapter.

    Args:
      directory: with the file.

    Raises:
      UserError: for a setting of a wrong type, and by name for a kind of adapter that is not
        supported.
    """
    path = directory / FILE
    contents = read_json(inside(directory, FILE, path))
    settings = ConfigReader(contents, path)
    method = _method(settings)
    _check_supported(settings, method)
    rank, alpha, scale, length, rows, notes = 0, 0.0, 1.0, 0, 0, []
    if method == "lora":
        rank, alpha = settings.whole("r", 8), settings.number("lora_alpha", 8)
        scale = alpha / (math.sqrt(rank) if settings.flag("use_rslora") else rank)
        if contents.get("lora_dropout"):
            notes.append(f"its lora_dropout {shown(contents['lora_dropout'])} is not applied")
    elif method == "prompt":
        length, rows = _prompt_size(settings)
    base = contents.get("base_model_name_or_path")
    saved = _names(settings, "modules_to_save") or []
    return AdapterConfig(
        path=path,
        method=method,
        base=base if isinstance(base, str) else "",
        rank=rank,
        alpha=alpha,
        scale=scale,
        targets=_names(settings, "target_modules"),
        excluded=_names(settings, "exclude_modules"),
        feedforward=_names(settings, "feedforward_modules"),
        saved=[saved] if isinstance(saved, str) else saved,
        notes=notes,
        prompt_length=length,
        prompt_rows=rows,
    )


def _prompt_size(settings: ConfigReader) -> tuple[int, int]:
    """(vectors of a prompt, rows of its table), as peft allocates it for a task."""
    length = settings.whole("num_virtual_tokens")
    parts = 2 if settings.values.get("task_type") == TASKS["t5"] else 1
    return length, length * settings.whole("num_transformer_submodules", parts)


def _method(settings: ConfigReader) -> str:
    kind = settings.values.get("peft_type")
    if kind not in _METHODS:
        raise UserError(
            f"{shown(settings.path)} has peft_type {quoted(kind)}, which is not supported; "
            f"give an adapter of {' or '.join(_METHODS)}, or merge it into its model with peft "
            "(merge_and_unload)."
        )
    return _METHODS[kind]


def _check_supported(settings: ConfigReader, method: str) -> None:
    """Raises a UserError that names each setting that changes what an adapter computes."""
    values, known = settings.values, _READ | _READ_BY_METHOD[method] | _WITHOUT_EFFECT
    wrong = [name for name, value in values.items() if name not in known and value not in _UNUSED]
    if settings.flag("fan_in_fan_out"):
        wrong.append("fan_in_fan_out")
    if method == "prompt" and values.get("modules_to_save"):
        wrong.append("modules_to_save")
    if method == "lora":
        if settings.values.get("bias") not in (None, "none"):
            wrong.append("bias")
        if settings.values.get("init_lora_weights") not in _INITS:
            wrong.append("init_lora_weights")
    if wrong:
        merge = "merge the adapter into its model with peft (merge_and_unload), or "
        raise UserError(
            f"{shown(settings.path)} has "
            f"{', '.join(f'{name} {quoted(values[name], 60)}' for name in sorted(wrong))}, "
            f"which is not supported; {'' if method == 'prompt' else merge}train one without."
        )


def _names(settings: ConfigReader, name: str) -> Names:
    """A list of names or a regular expression; None where the setting is absent."""
    value = settings.values.get(name)
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise UserError(
                f"{shown(settings.path)} has {name} {shown(value)}, which is not a regular "
                f"expression ({error}); correct it."
            ) from None
    elif value is not None and not (
        isinstance(value, list) and all(isinstance(item, str) for item in value)
    ):
        raise UserError(
            f"{shown(settings.path)} has {name} {quoted(value)}, which must be a list of "
            "names or a regular expression; correct it."
        )
    return value


def write_config(
    config: AdapterConfig, architecture: str, modules: Collection[str]
) -> dict[str, Any]:
    """Returns the contents of an `adapter_config.json`.

    Args:
      config: the settings; `targets`, `feedforward` and `saved` are lists of whole names.
      architecture: 't5' or 'decoder'.
      modules: all modules of the model.
    """
    contents = {
        "base_model_name_or_path": config.base,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": sorted(config.saved) or None,
        "peft_type": {ours: theirs for theirs, ours in _METHODS.items()}[config.method],
        "revision": None,
        "task_type": TASKS[architecture],
        **_written_targets(config, modules),
    }
    if config.method == "lora":
        is_root = not math.isclose(config.scale, config.alpha / config.rank)
        contents |= {
            "bias": "none",
            "init_lora_weights": True,
            "lora_alpha": int(config.alpha) if config.alpha.is_integer() else config.alpha,
            "lora_dropout": 0.0,
            "r": config.rank,
            "use_dora": False,
            "use_rslora": is_root,
        }
    return contents


def _written_targets(config: AdapterConfig, modules: Collection[str]) -> dict[str, Any]:
    """The settings that name modules, such that peft finds these and no others."""
    targets = shortest_names(config.targets, modules)
    if config.method != "ia3":
        return {"target_modules": targets}
    inputs = config.feedforward
    # peft compares their ends without a dot in front, and takes two lists or two expressions.
    ends = sorted({_last(module) for module in inputs})
    is_list = isinstance(targets, list) and all(
        (module in inputs) == module.endswith(tuple(ends)) for module in config.targets
    )
    return {
        "target_modules": targets if is_list else _expression(config.targets, modules),
        "feedforward_modules": ends if is_list else _expression(inputs, modules),
        "init_ia3_weights": True,
    }


def shortest_names(targets: Collection[str], modules: Collection[str]) -> list[str] | str:
    """Returns sorted ends of names that match some modules of a model and no others.

    Where there are no such ends, it is a regular expression.

    Args:
      targets: names of the modules.
      modules: all modules of the model.
    """
    ends = sorted({_last(module) for module in targets})
    if all(matches(ends, module) == (module in targets) for module in modules):
        return ends
    return _expression(targets, modules)


def _last(module: str) -> str:
    return module.rpartition(".")[2]


def _expression(targets: Collection[str], modules: Collection[str]) -> str:
    """A regular expression that matches these modules alone."""
    chosen, present = _by_pattern(targets), _by_pattern(modules)
    parts = []
    for pattern, layers in sorted(chosen.items()):
        is_all = layers == present[pattern]
        numbers = r"\d+" if is_all else f"({'|'.join(sorted(layers, key=int))})"
        parts.append(pattern.replace(_NUMBER, numbers))
    return "|".join(parts)


_NUMBER = "<number>"


def _by_pattern(modules: Iterable[str]) -> dict[str, set[str]]:
    """The numbers of layers of modules, by an expression of the name with a gap for the number."""
    result: dict[str, set[str]] = {}
    for module in modules:
        before, dot, rest = module.partition(".layers." if ".layers." in module else ".block.")
        number, _, after = rest.partition(".")
        pattern = re.escape(before + dot)
        if dot:
            pattern += _NUMBER + re.escape(f".{after}")
        result.setdefault(pattern, set()).update({number} if dot else ())
    return result
