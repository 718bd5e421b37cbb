"""Runs are configured with gin, as in T5X, and a misspelt name is an error instead of a run with
other settings.

A run is `--gin_file=F` (any number, later ones win) and then `--gin.NAME=value`, where NAME is a
macro such as `HELD_OUT` or a parameter such as `T5Config.emb_dim`. gin-config parses the statements
and holds the values; this module finds the files, reads bare words as strings, and turns every
mistake into a clear message with its place.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib
import inspect
import io
import os
import pathlib
import re
import textwrap
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gin
from gin import config as gin_config
from gin import config_parser

from flan_jax.config import run_directory
from flan_jax.config.checks import quoted
from flan_jax.config.flags import ArgumentParser
from flan_jax.errors import NotHere, UserError
from flan_jax.messages import did_you_mean, nearest, shown

DEFAULT_GIN_FILE = "gin/flan.gin"

# The modules whose parameters a run's gin files may set; training ones too, since the same files
# configure every verb.
CONFIGURED = (
    "flan_jax.data.run_data",
    "flan_jax.training.loop",
    "flan_jax.optim.adafactor",
    "flan_jax.models.t5",
    "flan_jax.models.decoder",
)

_NAME = re.compile(r"[A-Za-z_][\w./]*")


@dataclasses.dataclass
class _Reading:
    """What has been seen of a configuration so far.

    Attributes:
      search_paths: the directories of --gin_search_paths.
      set_at: macro -> the place that set it last.
      set_in_files: the macros that a gin file sets.
      read_at: macro -> the first place that reads it.
      including: the files being read, the outermost first.
    """

    search_paths: Sequence[str]
    set_at: dict[str, str] = dataclasses.field(default_factory=dict)
    set_in_files: set[str] = dataclasses.field(default_factory=set)
    read_at: dict[str, str] = dataclasses.field(default_factory=dict)
    including: list[pathlib.Path] = dataclasses.field(default_factory=list)


def parse_command_line(
    argv: Sequence[str],
    modules: Iterable[str],
    parser: argparse.ArgumentParser | None = None,
    may_be_unread: Iterable[str] = (),
) -> argparse.Namespace:
    """Configures the process from a command line, replacing what was configured before.

    Args:
      argv: the arguments, e.g. `['--gin_file=gin/flan.gin', '--gin.HELD_OUT=nli']`; `--x y` is
        `--x=y`.
      modules: names of the modules whose configurables gin files may name; imported once the files
        are found.
      parser: takes the verb's own flags; `--gin_file` and `--gin_search_paths` are added to it.
      may_be_unread: macros that no gin file has to read, e.g. because the program reads them with
        `macro`.

    Returns:
      The parsed flags: `gin_file` (list of str), `gin_search_paths` (list of str) and those of
      `parser`; and `gin_arguments`, the arguments that configure another process in the same way.

    Raises:
      UserError: a file that is not there, a syntax error, a value that cannot be read, or a name
        that nothing reads, that nothing sets, or that no configurable has.
    """
    bindings, rest = _split_bindings(argv)
    parser = _add_flags(parser or ArgumentParser())
    if {"-h", "--help"} & set(rest):
        parser.epilog, parser.formatter_class = (
            settings_help(modules),
            argparse.RawDescriptionHelpFormatter,
        )
    flags = parser.parse_intermixed_args(rest)
    run_directory.take_from(flags)
    if not flags.gin_file:
        raise UserError(f"no --gin_file given; --gin_file={DEFAULT_GIN_FILE} is the default run.")
    for name in flags.gin_search_paths:
        if not pathlib.Path(name).is_dir():
            raise UserError(
                f"--gin_search_paths: {quoted(name)} is not a directory; give directories, with "
                "commas between."
            )
    paths = [find_gin_file(name, flags.gin_search_paths) for name in flags.gin_file]
    for module in modules:
        importlib.import_module(module)
    gin.clear_config()
    reading = _Reading(flags.gin_search_paths)
    for path in paths:
        _read_file(path, reading)
        if home := run_directory.home_of(path):
            gin.bind_parameter(_place_of_value("Train.model_dir"), home)
    for name, text in bindings:
        place = f"--gin.{name}"
        _bind(reading, *config_parser.parse_binding_key(name), _argument_value(place, text), place)
    may_be_unread = frozenset(may_be_unread)
    _check_macros(reading, may_be_unread)
    _check_values()
    _forget_overridden(may_be_unread)
    flags.gin_arguments = [
        *(f"--gin_file={path}" for path in paths),
        *(
            [f"--gin_search_paths={','.join(flags.gin_search_paths)}"]
            if flags.gin_search_paths
            else []
        ),
        *(f"--gin.{name}={text}" for name, text in bindings),
    ]
    return flags


def _place_of_value(parameter: str) -> tuple[str, str, str]:
    """Where gin keeps the value of a parameter such as 'Train.model_dir': with the last macro that
    it leads to.
    """
    selector, _, name = parameter.partition(".")
    item = gin_config._REGISTRY.get_match(selector)
    place = ("", item.selector if item else selector, name)  # its module may not be imported
    passed = set()
    while (
        macros := _macros_read(gin_config._CONFIG.get(place[:2], {}).get(place[2]))
    ) and place not in passed:
        passed.add(place)  # macros that read one another in a circle have no last one
        place = (macros[0], "gin.macro", "value")
    return place


def macro(name: str) -> Any:
    """The value of a macro, e.g. `macro('MODEL_DIR')`, with the macros inside it filled in."""
    try:
        return copy.deepcopy(gin.query_parameter(f"%{name}"))
    except ValueError:
        raise UserError(f"{name} is not set; add --gin.{name}=VALUE.") from None


def config_text() -> str:
    """The configuration as one gin file without includes: given as --gin_file, it repeats the run.

    Macros stay macros, so that `--gin.SEED=2` still works on it; those that an override left unread
    are left out. Paths are absolute, so that it means the same from anywhere.
    """
    for name in run_directory.PATHS:
        scope, selector, parameter = place = _place_of_value(name)
        value = gin_config._CONFIG.get((scope, selector), {}).get(parameter)
        if isinstance(value, str):
            gin.bind_parameter(place, run_directory.absolute(name, value))
    return gin.config_str(max_line_length=116)


def find_gin_file(
    name: str, search_paths: Sequence[str] = (), beside: pathlib.Path | None = None
) -> pathlib.Path:
    """Where a gin file is: as given, in a search path, beside the file that includes it, or among
    the shipped ones.

    Raises:
      UserError: it is in none of these places.
    """
    shipped, name = _shipped(), os.path.expanduser(name)
    places = [
        pathlib.Path(),
        *map(pathlib.Path, search_paths),
        *([beside] if beside else []),
        shipped,
    ]
    for path in (*(place / name for place in places), shipped / name.removeprefix("gin/")):
        if path.is_file():
            return path
    names = ["gin/" + str(p.relative_to(shipped)) for p in sorted(shipped.rglob("*.gin"))]
    near = nearest(name, [*names, *(n.removeprefix("gin/") for n in names)])
    raise NotHere(
        f"gin file {quoted(name)} is not in {', '.join(str(place.absolute()) for place in places)}"
        f"{did_you_mean(near)}"
    )


def _shipped() -> pathlib.Path:
    """The directory of the gin files that come with flan_jax: in the installed package or in the
    checkout.
    """
    package = pathlib.Path(__file__).parents[1]
    installed = package / "gin"
    return installed if installed.is_dir() else package.parent / "gin"


def _add_flags(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.allow_abbrev = False
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="a gin file: a path, or one of the shipped ones such as gin/flan.gin; may be repeated",
    )
    parser.add_argument(
        "--gin_search_paths",
        default=[],
        type=lambda text: [os.path.expanduser(path) for path in text.split(",") if path],
        metavar="DIR,DIR",
        help="directories in which gin files and their includes are looked up",
    )
    return parser


def settings_help(modules: Iterable[str]) -> str:
    """Returns the list of settings that `--help` prints: those of the default run, then those
    without such a name.

    Args:
      modules: names of the modules whose configurables gin files may name.
    """
    text = (_shipped() / "flan.gin").read_text(encoding="utf-8")
    lines = [f"settings of {DEFAULT_GIN_FILE}, which --gin.NAME=VALUE changes:"]
    for name, default, meaning in default_settings(text):
        lines += [
            f"  {name} = {default}",
            *textwrap.wrap(meaning, 110, initial_indent=" " * 8, subsequent_indent=" " * 8),
        ]
    for module in modules:
        importlib.import_module(module)
    others = [
        f"{item.name}.{parameter.name}={parameter.default!r}"
        for item in _configurables().values()
        if item.module.startswith("flan_jax.")
        for parameter in inspect.signature(item.wrapped).parameters.values()
        if parameter.name in (_parameters(item) or ())
        and parameter.default is not parameter.empty
        and f"\n{item.name}.{parameter.name} = " not in text
    ]
    lines += ["", "settings without a name there, with their defaults:"]
    lines += textwrap.wrap(
        ", ".join(others),
        116,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines += [
        "",
        "Sizes and meshes are files: --gin_file=gin/flan.gin --gin_file=gin/size/t5_small.gin",
    ]
    return "\n".join(lines)


def default_settings(text: str) -> list[tuple[str, str, str]]:
    """Returns (name, default, meaning) of each macro that a gin file sets with a comment behind
    it.
    """
    found = re.findall(r"^([A-Z_]+) = (.*?) +# (.*(?:\n +# .*)*)", text, re.M)
    return [(name, default, re.sub(r"\n +# ", " ", meaning)) for name, default, meaning in found]


def _split_bindings(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The (name, text of the value) pairs of `--gin.NAME=value` and `--gin.NAME value`, and the
    other arguments.
    """
    bindings, rest, arguments = [], [], iter(argv)
    for argument in arguments:
        if not argument.startswith("--gin."):
            rest.append(argument)
            continue
        name, equals, text = argument.removeprefix("--gin.").partition("=")
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{quoted(argument)} does not name a setting; write it as --gin.HELD_OUT=nli."
            )
        if not equals:
            text = next(arguments, "")
        if not text.strip() or (not equals and text.startswith("--")):
            raise UserError(
                f"--gin.{name} has no value; write --gin.{name}=VALUE (\"''\" is an empty text)."
            )
        bindings.append((name, text.strip()))
    return bindings, rest


class _Delegate(gin_config.ParserDelegate):
    """Makes gin's references, and refuses an unknown name with a suggestion."""

    def configurable_reference(self, scoped_selector: str, evaluate: bool):
        problem = _unknown_configurable(scoped_selector.rsplit("/", 1)[-1])
        if problem:
            raise SyntaxError(problem)  # The one exception that gin's parser passes on as it is.
        return super().configurable_reference(scoped_selector, evaluate)


def _read_file(path: pathlib.Path, reading: _Reading) -> None:
    """Applies the statements of a file and of those that it includes."""
    if path in reading.including:
        raise UserError(
            f"{path} includes itself, by way of {' and '.join(map(str, reading.including))}; "
            "take one include out."
        )
    reading.including.append(path)
    for line, statement in _statements(path):
        place = f"{path}:{line}"
        if isinstance(statement, config_parser.BindingStatement):
            _bind(
                reading,
                statement.scope,
                statement.selector,
                statement.arg_name,
                statement.value,
                place,
            )
            if not statement.arg_name:
                reading.set_in_files.add(_macro_name(statement.scope, statement.selector))
        elif isinstance(statement, config_parser.IncludeStatement):
            try:
                included = find_gin_file(statement.filename, reading.search_paths, path.parent)
            except UserError as error:
                raise type(error)(f"{place}: {error}") from None
            _read_file(included, reading)
        elif isinstance(statement, config_parser.ImportStatement):
            _import(statement, place)
    reading.including.pop()


def _statements(path: pathlib.Path) -> Iterator[tuple[int, Any]]:
    """Gin's statements of a file, each with its line."""
    line = 1
    try:
        parser = config_parser.ConfigParser(
            io.StringIO(path.read_text(encoding="utf-8")), _Delegate()
        )
        for statement in parser:
            line = statement.location.line_num
            yield line, statement
            line = parser.current_token.start[0]
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno or line}: {_explain(error)}") from None
    except tokenize.TokenError as error:
        raise UserError(f"{path}:{error.args[1][0]}: a bracket or a quote is not closed.") from None
    except (RecursionError, MemoryError):  # of Python's own parser
        raise UserError(f"{path}:{line}: a value from here on is nested too deeply.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; is it a gin file?") from None


def _explain(error: SyntaxError) -> str:
    """Gin's message on one line."""
    token = re.search(r"Failed to parse token '(.*)'", error.msg)
    if token and _NAME.fullmatch(token.group(1)):
        return (
            f"{shown(token.group(1))} is not a value; text stands in quotes: "
            f"'{shown(token.group(1))}'."
        )
    return shown((error.msg.splitlines() or ["not a value"])[-1].strip().rstrip(".")) + "."


def _import(statement: config_parser.ImportStatement, place: str) -> None:
    if statement.module.startswith("__gin__"):
        raise UserError(
            f"{place}: flan_jax does not use gin's dynamic registration; write `import "
            "your.module` and mark the function with @gin.configurable."
        )
    try:
        gin.parse_config(statement.format())
    except ImportError as error:
        raise UserError(
            f"{place}: cannot import {statement.module} ({str(error).splitlines()[0]})."
        ) from None


def _argument_value(place: str, text: str) -> Any:
    """The value of a `--gin.NAME=text`: what gin reads as a literal is that, other bare text is a
    string.
    """
    try:
        parser = config_parser.ConfigParser(text, _Delegate())
        value = parser.parse_value()
        whole = parser.current_token.type in (tokenize.NEWLINE, tokenize.ENDMARKER)
        problem = "there is something after the value"
    except SyntaxError as error:
        whole, problem = False, _explain(error).rstrip(".")
    except tokenize.TokenError:
        whole, problem = False, "a bracket or quote is not closed"
    except (RecursionError, MemoryError, ValueError):  # of Python's own parser
        whole, problem = False, "it is nested too deeply, or has a null character"
    if whole:
        return value
    if text[0] in "'\"[({@%":
        raise UserError(f"cannot read the value of {place}, {shown(text)}: {problem}.")
    if text in ("true", "false"):
        raise UserError(f"{place}={text}: write {place}={text.title()}.")
    return text


def _bind(
    reading: _Reading, scope: str, selector: str, parameter: str, value: Any, place: str
) -> None:
    """Sets a macro (`parameter` is empty) or a parameter of a configurable, and notes which macros
    its value reads.
    """
    for name in _macros_read(value):
        reading.read_at.setdefault(name, place)
    if not parameter:
        name = _macro_name(scope, selector)
        reading.set_at[name] = place
        gin.bind_parameter((name, "gin.macro", "value"), value)
        return
    problem = _unknown_configurable(selector) or _unknown_parameter(selector, parameter)
    if problem:
        raise UserError(f"{place}: {problem}")
    gin.bind_parameter((scope, selector, parameter), value)


def _macro_name(scope: str, selector: str) -> str:
    return f"{scope}/{selector}" if scope else selector


def _configurables() -> dict[str, gin_config.Configurable]:
    """Everything that gin can configure, by full selector; gin has no public listing."""
    return {name: item for name, item in gin_config._REGISTRY.items() if item.module != "gin"}


def _unknown_configurable(selector: str) -> str | None:
    """Why `selector` does not name one configurable, or None."""
    matches = gin_config._REGISTRY.matching_selectors(selector)
    if len(matches) == 1:
        return None
    if matches:
        return f"{quoted(selector)} could be {' or '.join(sorted(matches))}; write one of these."
    near = nearest(selector, {item.name for item in _configurables().values()})
    return f"nothing configurable is called {quoted(selector)}{did_you_mean(near)}"


def _unknown_parameter(selector: str, parameter: str) -> str | None:
    """Why `parameter` cannot be set on the configurable, or None."""
    item = gin_config._REGISTRY.get_match(selector)
    names = _parameters(item)
    if names is None or parameter in names:
        return None
    near = nearest(parameter, names)
    return (
        f"{selector} has no parameter {quoted(parameter)}{did_you_mean(near)} It has "
        f"{', '.join(names)}."
    )


def _parameters(item: gin_config.Configurable) -> list[str] | None:
    """The parameters that gin may set on a configurable; None if it takes any keyword."""
    parameters = inspect.signature(item.wrapped).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    names = [p.name for p in parameters]
    return [
        name
        for name in names
        if name in (item.allowlist or names) and name not in (item.denylist or ())
    ]


def _check_macros(reading: _Reading, may_be_unread: frozenset[str]) -> None:
    """Raises a UserError for a macro that is set but never read, read but never set, or required
    and not given.
    """
    known = {*reading.set_in_files, *reading.read_at, *may_be_unread}
    for name, place in reading.set_at.items():
        if name in reading.read_at or name in may_be_unread:
            continue
        if name in reading.set_in_files:
            otherwise = (
                f"; give --gin_file={DEFAULT_GIN_FILE} before it."
                if _default_reads(name)
                else "; delete it."
            )
            hint = did_you_mean(nearest(name, known - {name}), otherwise)
            raise UserError(f"{place}: {name} is set but nothing reads it{hint}")
        parameters = [
            f"{item.name}.{p}"
            for item in _configurables().values()
            for p in _parameters(item) or ()
        ]
        near = nearest(name, known) or next((p for p in parameters if p.endswith(f".{name}")), None)
        raise UserError(
            f"{place}: no setting is called {quoted(name)}{did_you_mean(near and f'--gin.{near}')}"
        )
    for name, place in reading.read_at.items():
        if name not in reading.set_at:
            near = nearest(name, reading.set_at)
            hint = f"; did you mean %{near}? If not," if near else ";"
            raise UserError(
                f"{place}: {name} is read here but set nowhere{hint} add --gin.{name}=VALUE."
            )
    for (scope, selector), parameters in gin_config._CONFIG.items():
        for parameter, value in parameters.items():
            if repr(value) == "%gin.REQUIRED":
                name = (
                    scope
                    if selector == "gin.macro"
                    else f"{selector.rsplit('.', 1)[-1]}.{parameter}"
                )
                raise UserError(f"{name} is required; add --gin.{name}=VALUE.")


def _check_values() -> None:
    """Raises a UserError for macros that read one another in a circle, and for what no setting of
    this project can be.

    A function or a class is never a value of these settings, and they are read outside any scope.
    """
    for (scope, selector), parameters in gin_config._CONFIG.items():
        is_macro = selector == "gin.macro"
        is_ours = selector.startswith("flan_jax.")
        for parameter, value in parameters.items():
            name = scope if is_macro else f"{selector.rsplit('.', 1)[-1]}.{parameter}"
            references = _references(name, value)
            if is_ours and scope:
                raise UserError(
                    f"{scope}/{name} is set in a scope, and nothing reads it there; set {name}."
                )
            if is_ours and references:
                raise UserError(f"{name} must be a plain value, not {references[0]!r}.")


def _references(name: str, value: Any, macros: tuple[str, ...] = ()) -> list[Any]:
    """The references to functions and classes in a value, those in the macros that it reads
    included.
    """
    found = []
    for reference in gin_config.iterate_references([value]):
        if reference.selector != "gin.macro":
            found.append(reference)
            continue
        macro_name = "/".join(reference.scopes)
        if macro_name in macros or macro_name == name:
            raise UserError(
                f"{macro_name} is set to itself, by way of "
                f"{', '.join(map('%{}'.format, macros)) or name}; give it a value."
            )
        bound = gin_config._CONFIG.get((macro_name, "gin.macro"), {})
        found += _references(name, bound.get("value"), (*macros, macro_name))
    return found


def _default_reads(name: str) -> bool:
    """Whether the default run reads a macro: files of a size or a mesh set what it reads."""
    return (
        re.search(rf"%{re.escape(name)}\b", (_shipped() / "flan.gin").read_text(encoding="utf-8"))
        is not None
    )


def _forget_overridden(may_be_unread: frozenset[str]) -> None:
    """Drops the macros that no setting reads any more since another value took the place of
    `%NAME`.
    """
    config = gin_config._CONFIG
    macros = {scope for scope, selector in config if selector == "gin.macro"}
    todo = [
        *may_be_unread,
        *_macros_read({key: value for key, value in config.items() if key[1] != "gin.macro"}),
    ]
    live: set[str] = set()
    while todo:
        name = todo.pop()
        if name in macros and name not in live:
            live.add(name)
            todo.extend(_macros_read(config[name, "gin.macro"]))
    for name in macros - live:
        del config[name, "gin.macro"]


def _macros_read(value: Any) -> list[str]:
    """The names of the `%NAME` in a value, or in the values of a whole configuration."""
    references = gin_config.iterate_references([value])
    return [
        "/".join(reference.scopes) for reference in references if reference.selector == "gin.macro"
    ]
