"""The declared settings that gin can bind, with the names under which users set them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flan_jax.config import gin_registry
from flan_jax.config.settings import REQUIRED, Setting, hints_of, settings_of


@dataclasses.dataclass(frozen=True)
class Declared:
    """A declared setting, with what its place adds.

    Attributes:
      setting: the declaration.
      owner: gin's name of the dataclass or function, such as 'Data'.
      selector: its full name, such as 'flan_jax.data.config.Data'.
      field: the field or parameter.
      default: its default, REQUIRED where it has none.
      target: the dataclass or function.
    """

    setting: Setting
    owner: str
    selector: str
    field: str
    default: Any
    target: Callable

    @property
    def parameter(self) -> str:
        """Its name as gin has it, 'Data.held_out'."""
        return f"{self.owner}.{self.field}"

    @property
    def name(self) -> str:
        """Its name as users set it: the macro, else the parameter."""
        return self.setting.macro or self.parameter

    @property
    def type(self) -> Any:
        """Its annotated type."""
        return hints_of(self.target)[self.field]

    @property
    def module(self) -> str:
        """The module that declares and uses it."""
        return self.target.__module__


def declared_settings(modules: Iterable[str] | None = None) -> list[Declared]:
    """Returns the settings that gin can bind, in the order of their declaration.

    Args:
      modules: imported modules; the settings of their packages are returned, in this order; None
        for all settings.
    """
    items = [
        item
        for item in gin_registry.configurables().values()
        if item.module.startswith("flan_jax.")
    ]
    if modules is not None:
        packages = dict.fromkeys(_package(module) for module in modules)
        items = [item for package in packages for item in items if _package(item.module) == package]
    return [declared for item in items for declared in _declared_by(item)]


def current_values(modules: Iterable[str]) -> dict[str, Any]:
    """Returns the value of each declared setting by its name, as gin has it now, else its default.

    Of a field that is bound to another value than the macro's first field, also 'OWNER.FIELD'.

    Args:
      modules: see `declared_settings`.
    """
    values: dict[str, Any] = {}
    for declared in declared_settings(modules):
        value = None if declared.default is REQUIRED else declared.default
        if gin_registry.is_bound(declared.owner, declared.field):
            value = gin_registry.bound_value(*gin_registry.place_of_value(declared.parameter))
        if value != values.setdefault(declared.name, value) and declared.setting.macro:
            values[declared.parameter] = value
    return values


def _package(module: str) -> str:
    return module.rpartition(".")[0]


def _declared_by(item: Any) -> list[Declared]:
    settable = gin_registry.parameters(item) or ()
    return [
        Declared(
            declaration,
            item.name,
            item.selector,
            field,
            _default(item.wrapped, field),
            item.wrapped,
        )
        for field, declaration in settings_of(item.wrapped).items()
        if field in settable
    ]


def _default(target: Callable, name: str) -> Any:
    if dataclasses.is_dataclass(target):
        fields: Mapping[str, dataclasses.Field] = target.__dataclass_fields__
        return fields[name].metadata["default"]
    default = inspect.signature(target).parameters[name].default
    return REQUIRED if default is inspect.Parameter.empty else default
