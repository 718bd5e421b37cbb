"""Chat templates as untrusted programs: jinja2's sandbox as `transformers` sets it up, metered.

A template comes with a model from anywhere. It sees texts, numbers, lists and dictionaries, no
attribute that begins with an underscore, no other template, and `metering` bounds its work.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
import jinja2.visitor
from jinja2 import nodes

from flan_jax.data.chat import metering
from flan_jax.data.chat.metering import TemplateStopped, meter

# Filters and methods whose numbers are widths.
_WIDENING = ("center", "indent", "wordwrap", "batch", "slice", "round", "tojson", "truncate")
_WIDENING_METHODS = ("center", "ljust", "rjust", "zfill", "expandtabs")
# What would read another file.
_OTHER_FILES = (nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends)
# Filters that make no text of a list or dictionary.
_STRUCTURAL = (
    *("attr", "batch", "count", "d", "default", "dictsort", "first", "groupby", "items", "last"),
    *("length", "list", "map", "max", "min", "reject", "rejectattr", "reverse", "select"),
    *("selectattr", "slice", "sort", "sum", "unique"),
)
# What is not the same each time, or writes HTML.
_UNUSED_FILTERS, _UNUSED_GLOBALS = ("random", "urlize", "xmlattr"), ("lipsum",)
_MOST_CHARACTERS = 1_000_000


class TemplateRefusal(Exception):
    """A template cannot render these messages: it says why, or fails."""


class UnsafeTemplate(Exception):
    """A template is no template, or does what a template may not."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` around what an assistant writes, which some templates mark so."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        """Returns the node of a block: its contents."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Namespace(jinja2.utils.Namespace):
    """A namespace without names that begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace may not have the name {name!r}")
        super().__setitem__(name, value)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, whose operators, calls, filters and formats are metered."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Returns the result of an operator."""
        if operator != "+":
            metering.check_operation(operator, left, right)
        return _metered(super().call_binop(context, operator, left, right))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Returns the result of a call."""
        method = getattr(function, "__wrapped__", function)  # the sandbox wraps `format`
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        meter().charge(sum(map(metering.size_of, (owner, *args))))
        if isinstance(owner, bytes | int | float) or name == "translate":
            raise jinja2.exceptions.SecurityError(f"the method {name!r} may not be called")
        if isinstance(owner, str):
            args = _checked_method(owner, name, args, kwargs)
        return _metered(super().call(context, function, *args, **kwargs))


class _Metering(jinja2.visitor.NodeTransformer):
    """Meters what is neither a call nor an operator: loops, joined texts, output, `in`."""

    def __init__(self, environment: _Environment):
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = self._filtered(node.iter, "metered_items")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [self._filtered(part, "metered_text") for part in node.nodes]
        return self._filtered(node, "metered")

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            part if isinstance(part, nodes.TemplateData) else self._filtered(part, "metered_text")
            for part in node.nodes
        ]
        return node

    def visit_Operand(self, node: nodes.Operand) -> nodes.Node:
        self.generic_visit(node)
        if node.op in ("in", "notin"):
            node.expr = self._filtered(node.expr, "metered")
        return node

    def _filtered(self, node: nodes.Expr, name: str) -> nodes.Filter:
        filtered = nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
        filtered.set_environment(self._environment)
        return filtered


class CompiledTemplate:
    """A chat template that can be rendered.

    Args:
      text: of the template.
      now: what time `strftime_now` shows.

    Raises:
      UnsafeTemplate: if it is not a template, or reads other files.
    """

    def __init__(self, text: str, now: datetime.datetime):
        environment = _environment(now)
        if len(text) > _MOST_CHARACTERS:
            raise UnsafeTemplate(f"it has {len(text):,} characters")
        try:
            tree = environment.parse(text)
            other = next(tree.find_all(_OTHER_FILES), None)
            if other is not None:
                raise UnsafeTemplate(f"line {other.lineno} reads another template")
            tree = _Metering(environment).visit(tree)
            self._template = environment.from_string(tree)
        except jinja2.TemplateSyntaxError as error:
            raise UnsafeTemplate(f"line {error.lineno}: {error.message}") from error
        except (RecursionError, MemoryError, SyntaxError) as error:
            raise UnsafeTemplate("it is nested too deeply") from error

    def render(self, characters: int, variables: Mapping[str, Any]) -> str:
        """Returns the text of a dialogue.

        Args:
          characters: of the variables, for which a template may take more steps.
          variables: 'messages', 'add_generation_prompt', 'tools', 'bos_token', ...; copies, as
            plain JSON has them.

        Raises:
          TemplateRefusal: if the template cannot render these messages.
          UnsafeTemplate: if it does what a template may not.
          TemplateStopped: if it works too long, or makes too much.
        """
        token = metering.started(characters)
        try:
            return self._template.render(variables)
        except TemplateStopped:
            raise
        except jinja2.exceptions.SecurityError as error:
            raise UnsafeTemplate(str(error)) from error
        except (RecursionError, MemoryError, OverflowError) as error:
            reason = str(error) or "it is nested too deeply"
            raise TemplateStopped(reason) from error
        except Exception as error:
            raise TemplateRefusal(str(error) or type(error).__name__) from error
        finally:
            metering.stopped(token)


def _environment(now: datetime.datetime) -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    for name in _UNUSED_FILTERS:
        del environment.filters[name]
    for name in _UNUSED_GLOBALS:
        del environment.globals[name]
    environment.filters = {
        name: _metered_filter(name, function) for name, function in environment.filters.items()
    }
    environment.filters["metered"] = jinja2.pass_context(lambda _, value: _metered(value))
    environment.filters["metered_text"] = jinja2.pass_context(lambda _, value: _metered_text(value))
    environment.filters["metered_items"] = jinja2.pass_context(
        lambda _, values: meter().items(values)
    )
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": now.strftime,
        "dict": _make_dict,
        "namespace": _Namespace,
    }
    return environment


def _metered(value: Any) -> Any:
    meter().charge(metering.size_of(value))
    return value


def _metered_text(value: Any) -> Any:
    """A value that is written as text."""
    if not isinstance(value, str):
        metering.check_text(value)
    return _metered(value)


def _metered_filter(name: str, function: Callable) -> Callable:
    """The filter, with its value and its result metered."""
    place = int(hasattr(function, "jinja_pass_arg"))  # of the value, after a context

    @functools.wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        value, given = args[place], args[place + 1 :]
        meter().charge(metering.size_of(value))
        if name not in _STRUCTURAL and not isinstance(value, str):
            metering.check_text(value)
        if name in _WIDENING:
            metering.check_widths([*given, *kwargs.values()])
        elif name == "format":
            metering.check_format(str(value))
            metering.check_text([*given, *kwargs.values()])
        elif name == "sum" and not isinstance([*given[1:], kwargs.get("start", 0)][0], int | float):
            raise TemplateStopped("it adds up what are no numbers")
        elif name == "replace" and len(given) >= 2:
            metering.check_replace(str(value), str(given[0]), str(given[1]))
        elif name == "join" and given:
            value = list(value)
            meter().check(len(value) * len(str(given[0])))
            args = (*args[:place], value, *given)
        return _metered(function(*args, **kwargs))

    return metered


def _checked_method(text: str, name: str, args: tuple, kwargs: dict[str, Any]) -> tuple:
    """The arguments of a method of a text, after a check of what it makes."""
    if name in ("format", "format_map"):
        metering.check_format(text)
        metering.check_text([*args, *kwargs.values()])
    elif name in _WIDENING_METHODS:
        metering.check_widths([*args, *kwargs.values()])
    elif name == "replace" and len(args) >= 2:
        metering.check_replace(text, *args[:2])
    elif name == "join" and args:
        args = (list(args[0]),)
        metering.check_text(args[0])
        meter().check(len(args[0]) * len(text))
    return args


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as `transformers` has it: jinja2's own filter escapes HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _make_dict(*args: Any, **kwargs: Any) -> dict:
    return dict(*args, **kwargs)
