"""The list of settings that `--help` prints, from their declarations."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from flan_jax.config.checks import allowed_values
from flan_jax.config.declared_settings import Declared, declared_settings
from flan_jax.config.gin_search import DEFAULT_GIN_FILE
from flan_jax.config.settings import REQUIRED

_INDENT = " " * 8


def settings_help(modules: Iterable[str]) -> str:
    """Returns what `--help` prints: the settings that have a macro, then those without.

    Args:
      modules: the imported modules that declare them.
    """
    named = by_name(modules)
    macros = [fields for fields in named.values() if fields[0].setting.macro]
    others = [fields for fields in named.values() if not fields[0].setting.macro]
    lines = [f"settings, which --gin.NAME=VALUE changes; {DEFAULT_GIN_FILE} lists the first ones:"]
    for fields in macros:
        lines += _entry(fields)
    lines += ["", "settings without a short name:"]
    for fields in others:
        lines += _entry(fields)
    return "\n".join(
        [
            *lines,
            "",
            "Sizes and meshes are files: --gin_file=gin/flan.gin --gin_file=gin/size/t5_small.gin",
        ]
    )


def by_name(modules: Iterable[str]) -> dict[str, list[Declared]]:
    """Returns name -> the fields that it sets; a macro may set several."""
    named: dict[str, list[Declared]] = {}
    for declared in declared_settings(modules):
        named.setdefault(declared.name, []).append(declared)
    return named


def meaning(fields: Iterable[Declared]) -> str:
    """Returns what a setting means, from each of its fields that says something."""
    meanings = dict.fromkeys(declared.setting.meaning for declared in fields)
    return "; ".join(filter(None, meanings))


def default_text(declared: Declared) -> str:
    """Returns a default as gin writes it, or 'required'."""
    return "required" if declared.default is REQUIRED else repr(declared.default)


def _entry(fields: list[Declared]) -> list[str]:
    first = fields[0]
    about = meaning(fields)
    allowed = allowed_values(first.type, first.setting)
    if allowed and not allowed.endswith("text"):
        about += f" ({allowed})"
    if first.setting.macro:
        about += f"; sets {', '.join(declared.parameter for declared in fields)}"
    head = f"  {first.name} = {default_text(first)}"
    return [head, *textwrap.wrap(about, 110, initial_indent=_INDENT, subsequent_indent=_INDENT)]
