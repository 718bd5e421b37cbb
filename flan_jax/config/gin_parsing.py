"""gin's text: the statements of a file and the values of arguments, each mistake a message."""

from __future__ import annotations

import io
import pathlib
import re
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any

from gin import config as gin_config
from gin import config_parser

from flan_jax.config import gin_registry
from flan_jax.config.checks import quoted
from flan_jax.errors import UserError
from flan_jax.messages import shown

_NAME = re.compile(r"[A-Za-z_][\w./]*")


class Delegate(gin_config.ParserDelegate):
    """Makes gin's references, and refuses an unknown name with a suggestion."""

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> Any:
        """As gin's; a SyntaxError is the one exception that gin's parser passes on as it is."""
        problem = gin_registry.unknown_configurable(scoped_selector.rsplit("/", 1)[-1])
        if problem:
            raise SyntaxError(problem)
        return super().configurable_reference(scoped_selector, evaluate)


def statements(path: pathlib.Path) -> Iterator[tuple[int, Any]]:
    """Yields gin's statements of a file, each with its line.

    Raises:
      UserError: for text that gin cannot read.
    """
    line = 1
    try:
        text = path.read_text(encoding="utf-8")
        parser = config_parser.ConfigParser(io.StringIO(text), Delegate())
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


def argument_value(place: str, text: str) -> Any:
    """Returns the value of a `--gin.NAME=text`: a literal where gin reads one, else the text.

    Args:
      place: `--gin.NAME`, for messages.
      text: what stands behind the equals sign.

    Raises:
      UserError: for a bracket, quote or reference that cannot be read.
    """
    try:
        parser = config_parser.ConfigParser(text, Delegate())
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


def split_bindings(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Returns the (name, text) of each `--gin.NAME=text` or `--gin.NAME text`, and the rest.

    Raises:
      UserError: for a binding without a name or a value.
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


def _explain(error: SyntaxError) -> str:
    """Returns gin's message on one line."""
    token = re.search(r"Failed to parse token '(.*)'", error.msg)
    if token and _NAME.fullmatch(token.group(1)):
        name = shown(token.group(1))
        return f"{name} is not a value; text stands in quotes: '{name}'."
    return shown((error.msg.splitlines() or ["not a value"])[-1].strip().rstrip(".")) + "."
