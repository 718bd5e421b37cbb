"""What gin has registered: the configurables, their parameters, and the macros that values read."""

from __future__ import annotations

import inspect
from typing import Any

from gin import config as gin_config

from flan_jax.config.checks import quoted
from flan_jax.messages import did_you_mean, nearest


def configurables() -> dict[str, gin_config.Configurable]:
    """Returns everything that gin can configure, by full selector; gin has no public listing."""
    return {name: item for name, item in gin_config._REGISTRY.items() if item.module != "gin"}


def parameters(item: gin_config.Configurable) -> list[str] | None:
    """Returns the parameters that gin may set on a configurable; None if it takes any keyword."""
    accepted = inspect.signature(item.wrapped).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted):
        return None
    names = [parameter.name for parameter in accepted]
    allowed, denied = item.allowlist or names, item.denylist or ()
    return [name for name in names if name in allowed and name not in denied]


def unknown_configurable(selector: str) -> str | None:
    """Returns why `selector` does not name one configurable, or None where it does."""
    matches = gin_config._REGISTRY.matching_selectors(selector)
    if len(matches) == 1:
        return None
    if matches:
        return f"{quoted(selector)} could be {' or '.join(sorted(matches))}; write one of these."
    near = nearest(selector, {item.name for item in configurables().values()})
    return f"nothing configurable is called {quoted(selector)}{did_you_mean(near)}"


def unknown_parameter(selector: str, parameter: str) -> str | None:
    """Returns why `parameter` cannot be set on the configurable, or None where it can."""
    names = parameters(gin_config._REGISTRY.get_match(selector))
    if names is None or parameter in names:
        return None
    near = nearest(parameter, names)
    return (
        f"{selector} has no parameter {quoted(parameter)}{did_you_mean(near)} It has "
        f"{', '.join(names)}."
    )


def macros_read(value: Any) -> list[str]:
    """Returns the names of the `%NAME` in a value, or in the values of a whole configuration."""
    references = gin_config.iterate_references([value])
    return [
        "/".join(reference.scopes) for reference in references if reference.selector == "gin.macro"
    ]


def place_of_value(parameter: str) -> tuple[str, str, str]:
    """Returns the (scope, selector, parameter) under which gin keeps the value of a parameter.

    That is its last macro where the parameter, such as 'Train.model_dir', reads macros.
    """
    selector, _, name = parameter.partition(".")
    item = gin_config._REGISTRY.get_match(selector)
    place = ("", item.selector if item else selector, name)  # its module may not be imported
    passed = set()
    while (macros := macros_read(bound_value(*place))) and place not in passed:
        passed.add(place)  # macros that read one another in a circle have no last one
        place = (macros[0], "gin.macro", "value")
    return place


def bound_value(scope: str, selector: str, parameter: str) -> Any:
    """Returns the value that gin keeps in a place, None where there is none."""
    return gin_config._CONFIG.get((scope, selector), {}).get(parameter)


def is_bound(selector: str, parameter: str) -> bool:
    """Returns whether a parameter of a configurable has a value outside any scope."""
    item = gin_config._REGISTRY.get_match(selector)
    return item is not None and parameter in gin_config._CONFIG.get(("", item.selector), {})
